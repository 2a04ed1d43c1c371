"""Averages and value losses by hand; signatures of these rooms, jit, vmap."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.resolve import hparams_of
from posttrain_jax.losses import reduce, regularizers, value

# Averages.

LOSS = np.array([[1.0, 2.0, 3.0], [5.0, 0.0, 0.0], [7.0, 9.0, 0.0], [0, 0, 0]])
MASK = np.array([[1.0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
  'name, hparams, total, count',
  [
    ('token_mean', {}, 27.0, 6.0),
    ('sequence_mean', {}, 2.0 + 5.0 + 8.0, 3.0),
    ('sequence_sum', {}, 27.0, 3.0),
    ('fixed_length', {}, 9.0, 3.0),
    ('fixed_length', {'length': 4.0}, 6.75, 3.0),
    ('prompt_mean', {}, 15.0, 3.0),
    # Groups of two: 11 over 4 tokens and 16 over 2.
    ('prompt_mean', {'group_size': 2}, 2.75 + 8.0, 2.0),
    ('prompt_mean', {'group_size': 4}, 4.5, 1.0),
  ],
)
def test_reduce_hand_computed(name, hparams, total, count):
  dirty = jnp.asarray(np.where(MASK > 0, LOSS, np.nan), jnp.float32)
  ours = getattr(reduce, name)(dirty, jnp.asarray(MASK), **hparams)
  np.testing.assert_allclose(ours, (total, count), rtol=1e-6)
  assert ours[0].shape == ours[1].shape == ()


@pytest.mark.parametrize('name', reduce.__all__)
def test_reduce_adds_up_over_micro_batches(name):
  rng = np.random.default_rng(0)
  loss = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
  mask = jnp.asarray(rng.random((8, 5)) < 0.5, jnp.float32)
  mask = mask.at[3].set(0.0).at[6:].set(0.0)
  f = jax.jit(getattr(reduce, name))
  hparams = {'group_size': 2} if name == 'prompt_mean' else {}
  whole = f(loss, mask, **hparams)
  for pieces in (2, 4):
    parts = [
      f(l, m, **hparams)
      for l, m in zip(jnp.split(loss, pieces), jnp.split(mask, pieces))
    ]
    np.testing.assert_allclose(
      np.sum(parts, axis=0), np.stack(whole), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('name', reduce.__all__)
def test_reduce_of_nothing_is_zero(name):
  ours = getattr(reduce, name)(jnp.full((2, 3), jnp.inf), jnp.zeros((2, 3)))
  np.testing.assert_array_equal(ours, (0.0, 0.0))


def test_prompt_mean_rejects_a_broken_group():
  with pytest.raises(ValueError, match='group_size=3 does not divide the 4'):
    reduce.prompt_mean(jnp.ones((4, 2)), jnp.ones((4, 2)), group_size=3)


@pytest.mark.parametrize('name', reduce.__all__)
def test_reduce_gradient_is_what_each_token_weighs(name):
  def average(loss):
    total, count = getattr(reduce, name)(loss, jnp.asarray(MASK))
    return total / count

  length = MASK.sum(1, keepdims=True).clip(1)
  expected = {
    'token_mean': MASK / 6,
    'sequence_mean': MASK / length / 3,
    'sequence_sum': MASK / 3,
    'fixed_length': MASK / 9,
    'prompt_mean': MASK / length / 3,
  }[name]
  slope = jax.grad(average)(jnp.asarray(LOSS, jnp.float32))
  np.testing.assert_allclose(slope, expected, rtol=1e-6)


# Value losses.


@pytest.mark.parametrize(
  'name, expected, slope',
  [
    ('unclipped', [2.0, 0.125, 0.125, 0], [-2.0, 0.5, 0.5, 0]),
    # Moves of +1, +0.5 and -0.5 are held to 0.2. The first and the last went
    # towards their returns, 0.5 * 2.8^2 and 0.5 * 0.8^2; the second away.
    ('clipped_value', [3.92, 0.125, 0.32, 0], [0.0, 0.5, 0.0, 0]),
    ('huber', [1.5, 0.125, 0.125, 0], [-1.0, 0.5, 0.5, 0]),
  ],
)
def test_value_hand_computed(name, expected, slope):
  values = jnp.array([[1.0, 0.5, -0.5, jnp.nan]])
  returns = jnp.array([[3.0, 0.0, -1.0, jnp.nan]])
  old_values = jnp.array([[0.0, 0.0, 0.0, jnp.inf]])
  mask = jnp.array([[1.0, 1.0, 1.0, 0.0]])
  f = getattr(value, name)
  loss, metrics = f(values, returns, old_values, mask)
  np.testing.assert_allclose(loss[0], expected, rtol=1e-6)
  np.testing.assert_allclose(metrics['value_error'], [[2, 0.5, 0.5, 0]])
  ours = jax.grad(lambda v: f(v, returns, old_values, mask)[0].sum())(values)
  np.testing.assert_allclose(ours[0], slope, rtol=1e-6)
  if name == 'clipped_value':
    np.testing.assert_array_equal(metrics['clip_value'], [[1, 0, 1, 0]])


@pytest.mark.parametrize('name', value.__all__)
def test_value_matches_float64_form(name):
  rng = np.random.default_rng(1)
  values, returns, old = rng.normal(size=(3, 4, 5))
  mask = (rng.random((4, 5)) < 0.6).astype(float)

  def second(v):
    if name == 'unclipped':
      loss = (v - returns) ** 2 / 2
    elif name == 'huber':
      e = abs(v - returns)
      loss = np.where(e < 0.7, e**2 / 2, 0.7 * e - 0.245)
    else:
      held = np.minimum(np.maximum(v, old - 0.3), old + 0.3)
      loss = np.maximum((v - returns) ** 2, (held - returns) ** 2) / 2
    return loss * mask

  hparams = {'huber': {'delta': 0.7}, 'clipped_value': {'clip_value': 0.3}}
  with jax.enable_x64(True):
    f = jax.jit(getattr(value, name))

    def run(v):
      return f(v, returns, old, mask, **hparams.get(name, {}))[0]

    loss = run(jnp.asarray(values))
    slope = jax.grad(lambda v: run(v).sum())(jnp.asarray(values))
  np.testing.assert_allclose(loss, second(values), rtol=1e-10, atol=1e-10)
  numeric = (second(values + 1e-6) - second(values - 1e-6)) / 2e-6
  np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-7)


# Every room: one signature, and the same numbers under jit and vmap.

ROOMS = [
  (value, value.__all__, ['values', 'returns', 'old_values', 'mask'], 3),
  (regularizers, regularizers.__all__, ['logps', 'ref_logps', 'mask'], 2),
  (regularizers, regularizers.LOGITS, ['logits', 'ref_logits', 'mask'], 2),
  (regularizers, regularizers.ENTROPY, ['entropy', 'mask'], 1),
  (reduce, reduce.__all__, ['token_loss', 'mask'], 1),
]


@pytest.mark.parametrize(
  'room, name, signature, arrays',
  [(room, n, sig, k) for room, names, sig, k in ROOMS for n in names],
)
def test_signature_jit_and_vmap(room, name, signature, arrays):
  f = getattr(room, name)
  parameters = inspect.signature(f).parameters.values()
  assert signature == [
    p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
  ]
  required = {
    p.name
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and p.default is p.empty
  }
  rng = np.random.default_rng(6)
  shape = (2, 3, 4, 5) if 'logits' in signature else (2, 3, 4)
  inputs = [
    jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(arrays)
  ]
  mask = jnp.asarray(rng.random((2, 3, 4)) < 0.7, jnp.float32)
  extra = {n: inputs[0] - 0.1 for n in required}

  def run(args, extra, hparams):
    return f(*args, **extra, **hparams)

  hparams = hparams_of(f)
  args = (*inputs, mask)
  together = jax.jit(jax.vmap(run, in_axes=(0, 0, None)))(args, extra, hparams)
  for i in range(2):
    alone = run(*jax.tree.map(lambda x, i=i: x[i], (args, extra)), hparams)
    for ours, both in zip(jax.tree.leaves(alone), jax.tree.leaves(together)):
      np.testing.assert_allclose(ours, both[i], rtol=1e-5, atol=1e-6)
  if room is not reduce:
    assert alone[0].shape == (3, 4)
  assert 'Reference: ' in f.__doc__ or room is reduce
