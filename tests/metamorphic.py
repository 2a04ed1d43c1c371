"""Runs the cases of `objective_cases` on related inputs, several at once.

Two programs are compiled per case: `together` maps over four batches of 6 rows
and 6 tokens, `in_turn` scans over two of 3 rows and 14 tokens. Every property
is a statement about the numbers they return.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import settings
from objective_cases import Case, to_jax

# 3 x 14 holds two rows of 6 side by side, and is no rearrangement of 6 x 6.
ROWS, TOKENS, WIDE = 6, 6, 14
STACK = 4
# A program runs a few times: compiling it is most of the time.
QUICK = {'compiler_options': {'xla_backend_optimization_level': 0}}

few = settings(derandomize=True, deadline=None, max_examples=6, database=None)


def draw(case: Case, seed: int) -> dict:
  """A random ragged batch, 6 x 6, in float32."""
  inputs = case.make(np.random.default_rng(seed), ROWS, TOKENS)
  return {
    name: x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
    for name, x in inputs.items()
  }


def run(case: Case, x: dict) -> tuple[dict, dict]:
  """Outputs, and the gradient of the summed main output by float inputs."""
  names = (*case.gradient, *case.detached)
  still = {name: array for name, array in x.items() if name not in names}

  def total(moving):
    outputs = case.call(still | moving)
    return jnp.sum(outputs['out']), outputs

  gradient, outputs = jax.grad(total, has_aux=True)(
    {name: x[name] for name in names}
  )
  return outputs, gradient


@functools.cache
def _mapped(case):
  return jax.jit(jax.vmap(functools.partial(run, case)), **QUICK)


@functools.cache
def _scanned(case):
  step = lambda carry, x: (carry, run(case, x))
  return jax.jit(lambda xs: jax.lax.scan(step, 0, xs)[1], **QUICK)


def _run_all(program, variants):
  stacked = jax.tree.map(lambda *x: np.stack(x), *variants)
  results = jax.tree.map(np.asarray, program(stacked))
  return [jax.tree.map(lambda x, i=i: x[i], results) for i in range(STACK)
          if i < len(variants)]  # fmt: skip


def together(case: Case, *variants: dict) -> list[tuple[dict, dict]]:
  """Results of at most four 6 x 6 batches, under jit of vmap."""
  padded = (*variants, *[variants[0]] * (STACK - len(variants)))
  return _run_all(_mapped(case), padded)[: len(variants)]


def in_turn(case: Case, first: dict, second: dict) -> list[tuple[dict, dict]]:
  """Results of two 3 x 14 batches, under jit of scan."""
  return _run_all(_scanned(case), (first, second))


def eagerly(case: Case, x: dict) -> dict:
  """The outputs with no compilation."""
  return jax.tree.map(np.asarray, case.call(to_jax(x)))


def in_bfloat16(case: Case, x: dict) -> tuple[dict, dict]:
  """Results with floats but the masks cast to bfloat16."""
  masks = {name: x[name] for name in case.masks.values()}
  arrays = to_jax(x, jnp.bfloat16) | to_jax(masks)
  program = jax.jit(functools.partial(run, case), **QUICK)
  return jax.tree.map(np.asarray, program(arrays))


# Related inputs


def has_rows(case: Case) -> bool:
  return any(axes.startswith('B') for axes in case.axes.values())


def take_rows(case: Case, x: dict, index) -> dict:
  return {
    name: array[index] if case.axes[name].startswith('B') else array
    for name, array in x.items()
  }


def with_masks(case: Case, x: dict, change) -> dict:
  """`x` with every mask replaced by `change(mask)`."""
  return x | {name: change(x[name].copy()) for name in case.masks.values()}


def without_rows(case: Case, x: dict, rows) -> dict:
  def drop(mask):
    mask[rows] = 0.0
    return mask

  return with_masks(case, x, drop)


def padded(case: Case, x: dict) -> dict:
  """Eight more columns on every axis of tokens, nothing counted in them."""
  out = {}
  for name, array in x.items():
    widths = [
      (0, WIDE - TOKENS if axis in 'TU' else 0) for axis in case.axes[name]
    ]
    out[name] = np.pad(array, widths)
  return out


def packed(case: Case, x: dict) -> dict:
  """Pairs of rows side by side, then padding: 6 x 6 becomes 3 x 14."""
  out = {}
  for name, array in x.items():
    rest = array.shape[2:]
    array = array.reshape(ROWS // 2, 2 * TOKENS, *rest)
    out[name] = np.pad(array, [(0, 0), (0, 2), *[(0, 0)] * len(rest)])
  return out


def hidden(case: Case, x: dict, name: str) -> np.ndarray | None:
  """True on entries of an input that nothing counts, in its own shape."""
  axes, masks = case.axes[name], case.masks
  if name in masks.values() or not masks or not axes.startswith('B'):
    return None
  is_empty = ~x[masks['T']].any(1)
  if {'chosen', 'rejected'} <= set(case.gradient):
    # Half a pair is none.
    is_empty |= ~x[masks['U']].any(1)
  if axes == 'B':
    return is_empty
  if axes[1] not in masks:
    return None
  here = (x[masks[axes[1]]] == 0) | is_empty[:, None]
  here = here.reshape(here.shape + (1,) * (len(axes) - 2))
  return np.broadcast_to(here, x[name].shape)


def spoiled(case: Case, x: dict, poison: float) -> dict:
  """`poison` wherever nothing counts, in floating inputs."""
  out = dict(x)
  for name, array in x.items():
    here = hidden(case, x, name)
    if here is not None and np.issubdtype(array.dtype, np.floating):
      out[name] = np.where(here, np.float32(poison), array)
  return out


# Comparisons


def same(actual, expected, what: str, tolerance: float = 2e-5):
  """Every array of two dicts agrees, relative to the largest entry or 1."""
  assert actual.keys() == expected.keys()
  for name, array in expected.items():
    mine, array = np.asarray(actual[name]), np.asarray(array)
    assert mine.shape == array.shape, (what, name, mine.shape, array.shape)
    assert np.isfinite(mine).all(), f'{what}: {name} is not finite\n{mine}'
    scale = max(np.abs(array).max(initial=0.0), 1.0)
    np.testing.assert_allclose(
      mine / scale,
      array / scale,
      rtol=0,
      atol=tolerance,
      err_msg=f'{what}: {name}',
    )


def rows_of(results: dict, index) -> dict:
  """The given rows of every array."""
  return {name: array[index] for name, array in results.items()}
