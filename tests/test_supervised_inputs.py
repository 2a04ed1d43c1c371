"""Supervised losses: banned tokens, traced hyperparameters, clear errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core import resolve
from posttrain_jax.core.types import TokenSignals
from posttrain_jax.losses import supervised


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


BATCH, TIME, VOCAB = 3, 4, 5
# The arrays that a loss asks for beside the signals: their names here.
EXTRA = {
  'ref_logits': 'ref_z',
  'tokens': 'tokens',
  'ref_scores': 'scores',
  'scores': 'scores',
  'negative': 'negative',
  'correct': 'correct',
  'correct_rate': 'rate',
  'expert': 'correct',
}


def extras(name, data):
  arrays = resolve.arrays_of(getattr(supervised, name))
  return {
    array: jax.random.key(1)
    if array == 'key'
    else jnp.asarray(data[EXTRA[array]])
    for array in arrays
  }


def make_data():
  """Three rows of float64: full, with a hole and padding, fully masked."""
  rng = np.random.default_rng(3)
  shape = (BATCH, TIME, VOCAB)
  return {
    'z': rng.normal(size=shape),
    'ref_z': rng.normal(size=shape),
    'old_z': rng.normal(size=shape),
    # The first row repeats a token: a candidate set holds it once.
    'tokens': np.array([[1, 3, 1, 2], [0, 4, 4, 2], [3, 0, 2, 1]]),
    'mask': np.array([[1.0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]),
    'negative': np.array([[1.0, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]]),
    'scores': np.array([0.8, 0.3, 0.5]),
    'correct': np.array([1.0, 0.0, 0.0]),
    'rate': np.array([0.4, 0.3, 0.5]),
  }


def make_arrays():
  """The float32 signals of `make_data`, as a TokenSignals."""
  data = make_data()
  pick = lambda x: np.take_along_axis(
    x - np.log(np.exp(x).sum(-1, keepdims=True)), data['tokens'][..., None], -1
  )[..., 0].astype(np.float32)
  return data, TokenSignals(
    logps=pick(data['z']),
    logits=data['z'].astype(np.float32),
    ref_logps=pick(data['ref_z']),
    old_logps=pick(data['old_z']),
    values=data['z'][..., 0].astype(np.float32),
  )


def run(name, record, data, **hparams):
  """(loss, metrics) on the float32 signals."""
  mask = jnp.asarray(data['mask'], jnp.float32)
  hparams = hparams | extras(name, data)
  return getattr(supervised, name)(record, mask, **hparams)


def run_with_gradient(name, record, data):
  """The gradient of the summed loss by the signals, and (loss, metrics)."""

  def total(record):
    out = run(name, record, data)
    return out[0].sum(), out

  return jax.grad(total, has_aux=True)(record)


@functools.cache
def compiled(name):
  """One compilation per loss, on three variants at once, for all tests below.

  Every argument has a leading axis of three.
  """
  return jax.jit(jax.vmap(functools.partial(run_with_gradient, name)))


def stack(*trees):
  return jax.tree.map(lambda *x: np.stack(x).astype(x[0].dtype), *trees)


@pytest.mark.parametrize('name', ['asft', 'otr', 'otr_exact', 'unlikelihood'])
def test_tokens_that_cannot_be_said_cost_nothing(name):
  # A grammar gives -inf to the ids that no target of a row uses.
  data, record = make_arrays()
  used = np.zeros((BATCH, TIME, VOCAB), bool)
  np.put_along_axis(used, data['tokens'][..., None], True, axis=-1)
  logits = np.where(used, record.logits, -np.inf).astype(np.float32)
  two = np.arange(VOCAB) == (data['tokens'][..., None] + 1) % VOCAB
  logits = np.where(two, record.logits, logits)
  record = record.replace(
    logits=logits,
    logps=np.asarray(
      jnp.take_along_axis(
        jax.nn.log_softmax(logits), data['tokens'][..., None], axis=-1
      )[..., 0]
    ),
  )
  data = data | {'ref_z': np.where(two | used, data['ref_z'], -np.inf)}
  gradient, (loss, metrics) = compiled(name)(
    stack(record, record, record), stack(data, data, data)
  )
  for array in (loss, *metrics.values(), gradient.logps, gradient.logits):
    assert np.isfinite(array).all()


@pytest.mark.parametrize(
  'name, key, values',
  [
    ('prob_alpha', 'alpha', [0.0, 1.0]),
    ('prob_threshold', 'low', [0.0, 0.3]),
    ('ift', 'gamma', [0.0, 0.9]),
    ('psft', 'clip_high', [0.1, 0.5]),
    ('iw_sft', 'high', [0.5, 9.0]),
    ('f_sft', 'floor', [-0.5, 0.5]),
    ('nft', 'floor', [1.0, 2.0]),
    ('otr_exact', 'temperature', [1.0, 2.0]),
    ('asft', 'alpha', [0.0, 1.0]),
  ],
)
def test_hyperparameters_may_be_traced(name, key, values):
  data, record = make_arrays()
  traced = jax.jit(jax.vmap(lambda x: run(name, record, data, **{key: x})[0]))(
    jnp.array(values)
  )
  for row, value in zip(traced, values):
    once = jax.jit(lambda v=value: run(name, record, data, **{key: v})[0])
    close(row, once())
  assert np.abs(traced[0] - traced[1]).max() > 1e-3


# Errors

MASK = jnp.ones((BATCH, TIME))
LOGPS = -MASK


@pytest.mark.parametrize(
  'name, missing',
  [
    ('label_smoothing', 'logits'),
    ('asft', 'logits'),
    ('otr_exact', 'logits'),
    ('otr', 'logits'),
    ('unlikelihood', 'logits'),
    ('psft', 'old_logps'),
    ('nft', 'old_logps'),
    ('iw_sft', 'ref_logps'),
    ('f_sft', 'ref_logps'),
    ('una', 'ref_logps'),
    ('irl_discriminator', 'values_after'),
  ],
)
def test_a_missing_signal_is_named(name, missing):
  more = extras(name, make_data())
  with pytest.raises(ValueError, match=f'signals.{missing}'):
    getattr(supervised, name)(TokenSignals(logps=LOGPS), MASK, **more)


@pytest.mark.parametrize(
  'name, hparams, valid',
  [
    ('asft', {'direction': 'back'}, 'reverse'),
    ('iw_sft', {'level': 'word'}, 'sequence'),
    ('f_sft', {'divergence': 'kl'}, 'hellinger'),
    ('una', {'link': 'mae'}, 'mse'),
    ('nft', {'prompt_weight': 'x'}, 'sqrt'),
  ],
)
def test_an_unknown_choice_lists_the_valid_ones(name, hparams, valid):
  data, record = make_arrays()
  with pytest.raises(ValueError, match=valid):
    run(name, record, data, **hparams)
