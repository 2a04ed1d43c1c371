"""Many runs of one config: seeds and hyperparameters, compared at once.

  train = sweep.make_train(config)            # key, hparams -> state, metrics
  jax.jit(jax.vmap(train))(keys, {'optimizer.lr': rates})

  python -m posttrain_jax.sweep --config configs/sft.py:task=addition \\
      --sweep config.optimizer.lr=1e-4,3e-4 --seeds 8 --workdir runs/lr
"""

from posttrain_jax.sweep.core import (
  Program,
  make_train,
  seed_mesh,
  spread,
  traceable,
)
from posttrain_jax.sweep.runner import Group, folder, groups, run_group
from posttrain_jax.sweep.settings import (
  Member,
  grid,
  listed,
  members,
  sampled,
)

__all__ = [
  'Group',
  'Member',
  'Program',
  'folder',
  'grid',
  'groups',
  'listed',
  'make_train',
  'members',
  'run_group',
  'sampled',
  'seed_mesh',
  'spread',
  'traceable',
]
