"""Whole runs by each curriculum: held-out answers get better where the start
answers some of the problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe_runs

from configs import sft
from posttrain_jax import curricula
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

STEPS = 16
# Of the second task nothing is known at the start.
PARTS = dict(
  known=dict(task='addition', num_digits=1),
  new=dict(task='modular', operations='+'),
)
SIZES = [
  ('model.preset', 'depth-2'), ('optimizer.lr', '1e-3'),
  ('prompts_per_step', '32'), ('num_steps', str(STEPS)),
  ('eval.num_problems', '64'), ('eval.samples', '8'), ('eval.batch', '64'),
]  # fmt: skip


def load(name: str, limited: bool):
  config = config_lib.load('configs/rl.py:recipe=grpo', SIZES)
  items = [('curriculum.name', name)]
  if limited:
    items += [('task.num_digits', '1'), ('problems.count', '40')]
  else:
    config.task = sft.mixture(PARTS)
  config_lib.override(config, items)
  return config


def cases():
  for name in curricula.__all__:
    yield name, False
    if name not in curricula.ORDERED:
      yield name, True


@pytest.mark.slow
@pytest.mark.parametrize('name, limited', list(cases()))
def test_answers_get_better(name, limited):
  run = build.build(load(name, limited))
  evaluate = run.evaluators['' if limited else 'known']
  start = run.init(recipe_runs.start_of(run))
  keys = jax.random.split(jax.random.key(7), STEPS)

  @jax.jit
  def judged(state):
    found = evaluate(state.params, jax.random.key(8))
    return found['eval/accuracy_sampled']

  state, seen = jax.jit(lambda x: jax.lax.scan(run.step, x, keys))(start)
  before, after = float(judged(start)), float(judged(state))
  assert np.all(np.isfinite(seen['loss']))
  assert before > 0.05 and after > before + 0.05, (before, after)
  # What it knows of the parts has moved, and is of these.
  own, first = state.control['curriculum'], start.control['curriculum']
  count = 40 if limited else len(PARTS)
  assert all(x.shape == (count,) for x in own.values())
  if name != 'fixed':
    assert any(jnp.any(own[key] != first[key]) for key in own)
