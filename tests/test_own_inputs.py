"""Inputs that are mixed with a model's own predictions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.types import Batch
from posttrain_jax.models import layers, transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers import kind, sft

MODEL = make_config('pico', num_layers=1)


@pytest.fixture(scope='module')
def params():
  fresh = transformer.init(jax.random.key(0), MODEL)
  return jax.tree.map(lambda x: 3.0 * x, fresh)


def rows():
  tokens = jnp.array([[5, 9, 30, 31, 1, 0], [7, 8, 9, 12, 40, 1]], jnp.int32)
  mask = jnp.array([[0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 1, 1]], jnp.float32)
  places = jnp.broadcast_to(jnp.arange(6), tokens.shape)
  real = (tokens > 0).astype(jnp.int32)
  return Batch(tokens, mask, real, places)


def test_embeddings_are_mixed_without_a_gradient(params):
  tokens, other = jnp.array([[3, 4]]), jnp.array([[3, 9]])
  places = jnp.array([[0, 1]])
  embed = lambda p, mixed=None: layers.embed(p, MODEL, tokens, places, mixed)
  table = np.asarray(embed(params))
  theirs = np.asarray(layers.embed(params, MODEL, other, places))
  found = embed(params, (other, 0.25))
  np.testing.assert_allclose(found, 0.75 * table + 0.25 * theirs, rtol=1e-6)
  np.testing.assert_array_equal(found[0, 0], table[0, 0])
  total = lambda p, *mixed: jnp.sum(embed(p, *mixed) ** 2)
  plain = jax.grad(total)(params)['embed']['tokens']
  mixed = jax.grad(lambda p: total(p, (other, 0.0)))(params)['embed']['tokens']
  assert np.abs(plain).max() > 0 and np.abs(mixed).max() == 0


def test_what_a_model_would_have_said(params):
  """The likeliest token at each counted place, by rows of their own; the first
  token of a row is never predicted."""
  batch = rows()
  said = np.asarray(jax.jit(lambda p: sft._own(p, MODEL, batch))(params))
  logits, _ = transformer.apply(
    params, MODEL, batch.tokens, segment_ids=batch.segment_ids
  )
  expected = np.array(batch.tokens)
  for b, t in np.argwhere(np.asarray(batch.mask) > 0):
    expected[b, t] = np.argmax(logits[b, t - 1])
  np.testing.assert_array_equal(said, expected)
  assert np.any(said != batch.tokens)
  counted = batch.replace(mask=batch.mask.at[:, 0].set(1.0))
  again = jax.jit(lambda p: sft._own(p, MODEL, counted))(params)
  np.testing.assert_array_equal(again[:, 0], batch.tokens[:, 0])


def test_scores_are_of_what_is_read(params):
  """Of a share of 1 they are those behind the other tokens."""
  batch = rows()
  other = batch.tokens.at[0, 2].set(17)
  say = jax.jit(
    lambda read, share: transformer.token_logps(
      params, MODEL, batch.tokens, batch.mask, positions=batch.positions,
      segment_ids=batch.segment_ids, mixed=(read, share),
    ).logps
  )  # fmt: skip
  plain = transformer.token_logps(
    params, MODEL, batch.tokens, batch.mask, positions=batch.positions,
    segment_ids=batch.segment_ids,
  ).logps  # fmt: skip
  np.testing.assert_allclose(say(other, 0.0), plain, atol=1e-5)
  logits, _ = transformer.apply(
    params, MODEL, other, segment_ids=batch.segment_ids
  )
  logps = jax.nn.log_softmax(logits)
  found = say(other, 1.0)
  for t in (2, 3, 4):  # what comes after the token, too
    expected = logps[0, t - 1, batch.tokens[0, t]]
    np.testing.assert_allclose(found[0, t], expected, atol=1e-4)
  assert abs(found[0, 3] - plain[0, 3]) > 1e-3
  np.testing.assert_allclose(found[1], plain[1], atol=1e-5)


@pytest.mark.parametrize('share, passes', [('0.0', 0), ('0.2', 1)])
def test_a_second_pass_is_counted(share, passes):
  config = config_lib.load('configs/sft.py', [('own_inputs', share)])
  sizes = dataclasses.make_dataclass('Sizes', ['rows', 'row_tokens'])(8, 9)
  sizes.prompts_per_step, sizes.max_new_tokens = 8, 4
  found = kind('sft').forwards(config, sizes, ['policy'])
  assert found.count((1.0, 'policy', 8, 9)) == passes
