"""Protocol over every room: imports, names, docstrings, masks, jit."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import recipes
from posttrain_jax.core import rooms
from posttrain_jax.core.resolve import arrays_of, lookup, resolve

ROOT = Path(__file__).parent.parent / 'posttrain_jax'
ROOMS = rooms.PURE
ALLOWED = {
  'jax', 'optax', 'math', 'functools', 'typing', 'collections', 'dataclasses',
  'posttrain_jax.core.types', 'posttrain_jax.core.masked',
  'posttrain_jax.core.trees', 'posttrain_jax.core.shapes',
}  # fmt: skip


def room(name):
  return rooms.load(name)


def files(name):
  path = ROOT / name.replace('.', '/')
  return (
    sorted(path.glob('*.py')) if path.is_dir() else [path.with_suffix('.py')]
  )


def imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield f'{node.module}.{alias.name}'


@pytest.mark.parametrize('name', ROOMS)
def test_rooms_import_nothing_forbidden(name):
  # A room may use another room's pure functions, never what is above them.
  allowed = ALLOWED | {f'posttrain_jax.{name}', 'posttrain_jax.losses'}
  if name in ('rollout.decoders', 'losses.distillation'):
    # Arrays in, arrays out, split or not.
    allowed |= {'posttrain_jax.core.vocabulary'}
  if name == 'rewards.arrays':  # of answers that Python judges too
    allowed |= {'numpy', 'types'}
  for path in files(name):
    for found in imports(path):
      parts = found.split('.')
      prefixes = {'.'.join(parts[:i]) for i in range(1, len(parts) + 1)}
      assert prefixes & allowed, f'{path.name} imports {found}'


EVERY = [(name, item) for name in ROOMS for item in room(name).__all__]


@pytest.mark.parametrize('name, item', EVERY, ids=lambda x: x)
def test_public_functions_are_documented_and_resolvable(name, item):
  function = lookup(room(name), item)
  assert function.__doc__ and len(function.__doc__.strip()) > 20
  assert resolve(room(name), item).func is function
  signature = function.__annotations__
  assert 'return' in signature, f'{item} has no return annotation'


def test_recipes_resolve():
  for paradigm in ('sft', 'preference', 'rl', 'distill'):
    for name, row in recipes.rows(paradigm).items():
      assert row['reference'].startswith('https://'), name
      assert 'loss' in row and ('reduce' in row or paradigm == 'preference')


PG = [
  item
  for item in room('losses.policy_gradient').__all__
  if not arrays_of(lookup(room('losses.policy_gradient'), item))
]


@pytest.mark.parametrize('item', PG)
def test_policy_gradient_losses_ignore_what_is_masked(item, key):
  loss = lookup(room('losses.policy_gradient'), item)
  keys = jax.random.split(key, 3)
  logps = -jnp.abs(jax.random.normal(keys[0], (3, 5)))
  old = logps + 0.05 * jax.random.normal(keys[1], (3, 5))
  advantages = jax.random.normal(keys[2], (3, 5))
  mask = jnp.ones((3, 5)).at[0, 3:].set(0.0).at[2].set(0.0)
  total = jax.jit(
    jax.value_and_grad(lambda x, old, a: loss(x, old, a, mask)[0].sum())
  )
  value, grads = total(logps, old, advantages)
  poison = lambda x, bad: jnp.where(mask > 0, x, bad)
  again, grads_again = total(
    poison(logps, -jnp.inf), poison(old, jnp.nan), poison(advantages, 1e30)
  )
  np.testing.assert_allclose(value, again, rtol=1e-6)
  np.testing.assert_allclose(grads, grads_again, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(grads_again[mask == 0], 0.0)
  assert np.isfinite(value) and np.all(np.isfinite(grads))


REDUCE = room('losses.reduce').__all__


@pytest.mark.parametrize('item', REDUCE)
def test_counts_depend_on_the_mask_alone(item, key):
  reduce = lookup(room('losses.reduce'), item)
  mask = jnp.ones((4, 3)).at[1, 1:].set(0.0).at[3].set(0.0)
  _, count = reduce(jax.random.normal(key, (4, 3)) * mask, mask)
  _, other = reduce(jnp.zeros((4, 3)), mask)
  assert count == other > 0


def test_no_file_is_over_400_lines_and_no_function_over_80():
  folders = ('posttrain_jax', 'configs', 'tests', 'experiments')
  files = [x for name in folders for x in (ROOT.parent / name).rglob('*.py')]
  assert len(files) > 100
  too_long = []
  for path in files:
    text = path.read_text(encoding='utf-8')
    if (length := len(text.splitlines())) > 400:
      too_long.append(f'{path} has {length} lines')
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        length = node.end_lineno - node.lineno + 1
        if length > 80:
          too_long.append(f'{path}: {node.name} has {length} lines')
  assert not too_long, '\n'.join(too_long)
