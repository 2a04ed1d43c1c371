"""Runs of every recipe for a few steps, from a start that is sometimes right.

A step's key stays the same, so that a run sees the same problems again: what
it is told to lower then falls, and what it is told to raise rises, in a few
steps and without noise that a threshold would have to allow for.
"""

import functools
import json

import jax
import numpy as np

from posttrain_jax.run import build, roles
from posttrain_jax.run import config as config_lib

TINY = [
  ('task.num_digits', '1'),
  ('model.preset', 'depth-2'),
  ('eval.num_problems', '0'),
  ('optimizer.schedule', 'constant'),
  ('optimizer.warmup_updates', '0'),
]


def load(paradigm: str, recipe: str, *items: tuple[str, str]):
  """The config of a recipe at the tiny size."""
  spec = f'configs/{paradigm}.py:recipe={recipe}'
  return config_lib.load(spec, [*TINY, *items])


@functools.cache
def warm_start(steps: int = 60):
  """Parameters that answer some problems, after a little SFT."""
  c = load('sft', 'sft', ('optimizer.lr', '5e-3'), ('prompts_per_step', '64'))
  run = build.build(c)
  start = {'policy': build.transformer.init(jax.random.key(1), run.model)}

  def train(state, keys):
    return jax.lax.scan(run.step, state, keys)

  keys = jax.random.split(jax.random.key(2), steps)
  state, metrics = jax.jit(train)(run.init(start), keys)
  return state.params, np.asarray(metrics['nll'])


@functools.cache
def _rows(paradigm: str, recipe: str, parts: str):
  """The rows of a source, made once for all recipes that make them alike."""
  del parts  # the key of the cache, beside the first recipe that has them
  c = load(paradigm, recipe, *SIZES)
  run = build.build(c)
  return jax.jit(run.collect)(run.init(start_of(run)), KEY)


KEY = jax.random.key(4)
SIZES = [('prompts_per_step', '16'), ('minibatch_rows', '0')]


def start_of(run):
  """The warm parameters; a head starts fresh, and a model that has to be
  another one (a teacher, a reference on clean rows) has learnt more."""
  fresh = build.transformer.init(jax.random.key(3), run.model)
  start = {'policy': {**fresh, **warm_start()[0]}}
  for pair in roles.apart(run.config):
    start[pair.other] = {**fresh, **warm_start(120)[0]}
  return start


def learn_on_one_batch(
  paradigm: str, recipe: str, steps: int = 8
) -> dict[str, np.ndarray]:
  """A recipe's own update, `steps` times on the rows of its own source.

  Returns the metrics, [steps] each.
  """
  c = load(paradigm, recipe, *SIZES)
  run = build.build(c)
  parts = {'collect': c.collect.to_dict(), 'group_size': c.group_size}
  parts['beside'] = c.meta.to_dict() if 'meta' in c else {}
  parts = json.dumps(parts, sort_keys=True)
  first = _FIRST.setdefault((paradigm, parts), recipe)
  batch, _ = _rows(paradigm, first, parts)

  def step(state, _):
    return run.learn(state, batch, KEY)

  train = jax.jit(lambda state: jax.lax.scan(step, state, None, steps))
  _, metrics = train(run.init(start_of(run)))
  numbers = {name: np.asarray(x) for name, x in metrics.items()}
  for name, x in numbers.items():
    assert np.all(np.isfinite(x)), f'{recipe}: {name} is {x}'
  return numbers


_FIRST: dict[tuple[str, str], str] = {}


def repeat_step(
  paradigm: str, recipe: str, *items: tuple[str, str], steps: int = 8
) -> dict[str, np.ndarray]:
  """A recipe's whole step, `steps` times on the same problems and keys.

  Returns the metrics, [steps] each.
  """
  run = build.build(load(paradigm, recipe, *SIZES, *items))
  train = jax.jit(
    lambda state: jax.lax.scan(
      lambda state, _: run.step(state, KEY), state, None, steps
    )
  )
  _, metrics = train(run.init(start_of(run)))
  numbers = {name: np.asarray(x) for name, x in metrics.items()}
  for name, x in numbers.items():
    assert np.all(np.isfinite(x)), f'{recipe}: {name} is {x}'
  return numbers
