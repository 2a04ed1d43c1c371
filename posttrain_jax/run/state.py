"""The state of a run, laid out over its mesh."""

import warnings
from typing import Any

import jax

from posttrain_jax.core import keys, sharding, trees
from posttrain_jax.core.types import TrainState
from posttrain_jax.models import transformer
from posttrain_jax.run import roles
from posttrain_jax.run.build import Run

__all__ = ['abstract_state', 'initial_state', 'state_shardings']


def initial_state(run: Run, mesh, config: Any) -> TrainState:
  """The state before step 0, laid out over the mesh.

  What is loaded is never whole on one device of several, and becomes the state
  without a copy; what is not is made in place.
  """
  key = jax.random.fold_in(keys.seed_key(config.seed), keys.START)
  loaded = roles.read(config, run.models, mesh)
  scorers, needed = roles.scorers(config), roles.apart(config)

  def start(loaded, key):
    return run.init(roles.complete(loaded, run.models, key, scorers, needed))

  place = state_shardings(run, mesh)
  with warnings.catch_warnings():
    # Roles that the run copies cannot be taken over.
    warnings.filterwarnings('ignore', 'Some donated buffers were not usable')
    return jax.jit(start, donate_argnums=0, out_shardings=place)(loaded, key)


def abstract_state(run: Run) -> TrainState:
  """Shapes and dtypes of the state."""

  def fresh(key):
    return run.init(
      {k: transformer.init(key, m) for k, m in run.models.items()}
    )

  return jax.eval_shape(fresh, jax.random.key(0))


def state_shardings(run: Run, mesh) -> TrainState:
  """Sharding of every leaf of the state."""
  # Other models may have more layers, so more paths; shapes decide the rest.
  specs = {}
  for model in run.models.values():
    specs = trees.merged(specs, transformer.param_specs(model))
  return sharding.state_shardings(abstract_state(run), specs, mesh)
