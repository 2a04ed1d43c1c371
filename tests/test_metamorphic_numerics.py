"""Extremes, precision, and the ways of running a function, for all of them.

Log-probabilities down to -1e4, ratios up to e^80 and beyond, logits of +-1e4;
bfloat16 inputs; no compilation, jit of vmap, jit of scan.
"""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import metamorphic as mm
import numpy as np
import objective_cases
import pytest
from hypothesis import given

from posttrain_jax.core.types import TokenSignals
from posttrain_jax.losses import supervised

CASES = objective_cases.first_cases()
SEED = st.integers(0, 10_000)


def cases(keep=lambda case: True):
  return pytest.mark.parametrize(
    'case', [case for case in CASES if keep(case)], ids=lambda case: case.id
  )


def extreme(case, x, rng):
  """Log-probabilities, logits and marks of the advantages at their limits."""
  out = dict(x)
  for name, array in x.items():
    axes = case.axes[name]
    if name in case.masks.values() or array.dtype != np.float32:
      continue
    if 'V' in axes:
      choices = [array, 1e4, -1e4, 0.0, 40.0, -40.0]
    elif axes in ('BT', 'BU') and (array < 0).all():
      # e^80 is the ratio of 0 and -80.
      choices = [array, -1e4, -80.0, -1e-8, 0.0]
    elif name in ('advantages', 'token_rewards', 'rewards', 'entropy'):
      choices = [array, 0.0, abs(array)]
    else:
      continue
    pick = rng.integers(0, len(choices), array.shape)
    out[name] = np.choose(pick, choices).astype(np.float32)
  return out


@cases()
@mm.few
@given(seed=SEED)
def test_extreme_inputs_give_finite_numbers(case, seed):
  rng = np.random.default_rng(seed)
  plain = mm.draw(case, seed)
  variants = [extreme(case, plain, rng) for _ in range(mm.STACK)]
  for x, (outputs, gradient) in zip(variants, mm.together(case, *variants)):
    for name, array in [*outputs.items(), *gradient.items()]:
      assert np.isfinite(array).all(), f'{name}\n{array}\nof\n{x}'


# Smoothing puts mass on every token: it cannot have banned ones.
READS_LOGITS = [
  pytest.param(case, id=case.id)
  for case in CASES
  if case.has('reads_logits') and case.name != 'label_smoothing'
]


@pytest.mark.parametrize('case', READS_LOGITS)
@mm.few
@given(seed=SEED)
def test_banned_tokens_give_finite_numbers(case, seed):
  """-inf on tokens that a row does not take, in one set of logits or all."""
  rng = np.random.default_rng(seed)
  plain = mm.draw(case, seed)
  variants = []
  for _ in range(mm.STACK):
    x = dict(plain)
    for name in plain:
      if 'V' in case.axes[name] and rng.random() < 0.7:
        banned = rng.random(x[name].shape) < 0.5
        taken = x.get('tokens', np.zeros(x['mask'].shape, int))
        np.put_along_axis(banned, taken[..., None], False, axis=-1)
        x[name] = np.where(banned, np.float32(-np.inf), x[name])
    variants.append(x)
  for outputs, gradient in mm.together(case, *variants):
    for name, array in [*outputs.items(), *gradient.items()]:
      assert np.isfinite(array).all(), f'{name}\n{array}'


@cases()
def test_no_compilation_gives_the_same(case):
  x = mm.draw(case, 5)
  (compiled, _), *_ = mm.together(case, x)
  outputs = mm.eagerly(case, x)
  mm.same(outputs, compiled, 'without jit')
  for name, array in outputs.items():
    assert array.dtype == np.float32, f'{name} is {array.dtype}'


@cases(lambda case: not {'discontinuous', 'random'} & case.traits)
def test_bfloat16_inputs_give_nearly_the_same(case):
  x = mm.draw(case, 7)
  outputs, gradient = mm.in_bfloat16(case, x)
  (expected, slope), *_ = mm.together(case, x)
  near = lambda mine, theirs, what, tolerance: mm.same(
    {name: np.float32(mine[name]) for name in theirs}, theirs, what, tolerance
  )
  # The main output only: an indicator of a clip is 0 or 1.
  near(outputs, {'out': expected['out']}, 'in bfloat16', 0.05)
  slope = {name: slope[name] for name in case.gradient}
  near(gradient, slope, 'gradient in bfloat16', 0.1)


def test_samples_reach_every_id_whatever_the_precision():
  # 4096 draws from 1024 equal ids miss one of them with probability e^-4.
  tokens = jnp.arange(5, 1024, 64)[None]
  for dtype in (jnp.float32, jnp.bfloat16):
    logits = jnp.zeros((1, 16, 1024), dtype)
    _, metrics = supervised.otr(
      TokenSignals(logps=logits[..., 0], logits=logits),
      jnp.ones((1, 16)),
      tokens=tokens,
      key=jax.random.key(0),
      num_samples=4096,
    )
    assert (metrics['hit_rate'] > 0).mean() > 0.9, dtype
