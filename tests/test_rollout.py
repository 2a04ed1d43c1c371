"""Rollouts: identities key the randomness, the learner sees what was drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain_jax import rollout, tasks
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.rollout import decoders
from posttrain_jax.rollout.assemble import place
from posttrain_jax.tasks import split, vocab

MODEL = make_config('depth-1', num_layers=2)
TASK = tasks.make('countdown')
LENGTH = 12
# As users compile: how far two programs round apart is what is tested here.
USUAL = {'compiler_options': {'xla_backend_optimization_level': 3}}


@pytest.fixture(scope='module')
def params():
  # Sharper than at initialisation, so that a different draw would show.
  fresh = transformer.init(jax.random.key(0), MODEL)
  return jax.tree.map(lambda x: 2.0 * x, fresh)


@pytest.fixture(scope='module')
def examples():
  return split.sample_batch(
    TASK, jax.random.key(1), 6, heldout=False, fraction=0.125
  )


def run(params, examples, group_size=4, decoder=decoders.sample, eos=vocab.EOS):
  def generate(params, e):
    return rollout.generate(
      params, MODEL, e.prompt, e.prompt_mask, jax.random.key(7),
      group_size=group_size, max_new_tokens=LENGTH, decoder=decoder,
      eos_id=eos, prompt_ids=e.prompt_id,
    )  # fmt: skip

  return jax.jit(generate, **USUAL)(params, examples)


def test_learner_scores_what_the_sampler_recorded(params, examples):
  samples = run(params, examples)
  batch = rollout.assemble_groups(
    examples.prompt, examples.prompt_mask, samples
  )
  signals = jax.jit(
    lambda params, batch: transformer.token_logps(
      params, MODEL, batch.tokens, batch.mask,
      positions=batch.positions, segment_ids=batch.segment_ids,
    ),
    **USUAL,
  )(params, batch)  # fmt: skip
  assert batch.mask.sum() == samples.mask.sum() > 50
  # Sharpened weights have large logits, so what rounds is a share of them.
  np.testing.assert_allclose(
    signals.logps, batch.old_logps, atol=1e-5, rtol=1e-5
  )


@pytest.mark.parametrize('rows', [[3], [5, 0, 3], [2, 3, 4, 5, 0, 1]])
def test_a_completion_depends_on_its_identity_alone(params, examples, rows):
  whole = run(params, examples)
  picked = jax.tree.map(lambda x: x[jnp.array(rows)], examples)
  part = run(params, picked, group_size=2)
  for name in ('completion', 'mask', 'finished'):
    np.testing.assert_array_equal(
      getattr(part, name), getattr(whole, name)[jnp.array(rows), :2]
    )
  np.testing.assert_allclose(
    part.logps, whole.logps[jnp.array(rows), :2], atol=1e-5
  )


def test_other_steps_prompts_and_samples_differ(params, examples):
  same = examples.replace(
    prompt=jnp.broadcast_to(examples.prompt[:1], examples.prompt.shape),
    prompt_mask=jnp.broadcast_to(
      examples.prompt_mask[:1], examples.prompt_mask.shape
    ),
  )
  words = np.asarray(run(params, same).completion).reshape(24, LENGTH)
  assert len({tuple(word) for word in words}) > 20
  keys = rollout.row_keys(jax.random.key(1), jnp.arange(3, dtype=jnp.uint32), 2)
  assert len({tuple(k) for k in jax.random.key_data(keys).tolist()}) == 6


def test_rows_end_with_their_stop_token(params, examples):
  # The most common first token as the stop token: some rows end at once.
  first = int(np.bincount(run(params, examples).completion[:, :, 0].ravel())
              .argmax())  # fmt: skip
  samples = run(params, examples, eos=first)
  completion, mask = np.asarray(samples.completion), np.asarray(samples.mask)
  ends = 0
  for row, kept in zip(
    completion.reshape(-1, LENGTH), mask.reshape(-1, LENGTH)
  ):
    length = int(kept.sum())
    assert kept[:length].all() and not kept[length:].any()
    assert not row[length:].any()
    hits = np.flatnonzero(row[:length] == first)
    assert hits.tolist() in ([], [length - 1])
    ends += len(hits)
  assert ends == samples.finished.sum() > 0
  np.testing.assert_array_equal(samples.logps[samples.mask == 0], 0.0)


def test_greedy_is_the_argmax_of_the_full_forward(params, examples):
  samples = run(params, examples, 1, decoders.greedy, eos=-1)
  batch = rollout.assemble_groups(
    examples.prompt, examples.prompt_mask, samples
  )
  logits = transformer.token_logps(
    params, MODEL, batch.tokens, batch.mask,
    positions=batch.positions, segment_ids=batch.segment_ids, logits=True,
  ).logits  # fmt: skip
  picked = np.argmax(logits, -1)
  on = np.asarray(batch.mask) > 0
  np.testing.assert_array_equal(picked[on], np.asarray(batch.tokens)[on])


def test_assemble_by_hand():
  batch = rollout.assemble(
    jnp.array([[5, 6, 0], [7, 8, 9]]),
    jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]),
    jnp.array([[1, 2], [3, 0]]),
    jnp.array([[1.0, 1.0], [1.0, 0.0]]),
  )
  assert batch.tokens.tolist() == [[5, 6, 1, 2, 0], [7, 8, 9, 3, 0]]
  assert batch.mask.tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]
  assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
  values = place(jnp.array([[1.5, 2.5], [3.5, 9.0]]), jnp.array([2, 3]), 5)
  assert values[0].tolist() == [0, 0, 1.5, 2.5, 0]


LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))


@pytest.mark.parametrize(
  'decoder, hparams, support',
  [
    (decoders.sample, {}, [0.5, 0.3, 0.15, 0.05]),
    (decoders.top_k, {'k': 2}, [0.625, 0.375, 0, 0]),
    (decoders.top_p, {'p': 0.7}, [0.625, 0.375, 0, 0]),
    (decoders.top_p, {'p': 0.4}, [1, 0, 0, 0]),
    (decoders.min_p, {'p': 0.25}, [10 / 19, 6 / 19, 3 / 19, 0]),
    (decoders.greedy, {}, [1, 0, 0, 0]),
    # -log p: 0.69, 1.20, 1.90, 3.00; entropy 1.14: the second is nearest.
    (decoders.typical, {'p': 0.25}, [0, 1, 0, 0]),
    (decoders.typical, {'p': 0.7}, [0.625, 0.375, 0, 0]),
    # At and beyond the ends.
    (decoders.top_k, {'k': -1}, [0.5, 0.3, 0.15, 0.05]),
    (decoders.top_k, {'k': 0}, [0.5, 0.3, 0.15, 0.05]),
    (decoders.top_k, {'k': 99}, [0.5, 0.3, 0.15, 0.05]),
    (decoders.top_p, {'p': 0.0}, [1, 0, 0, 0]),
    (decoders.top_p, {'p': 1.0}, [0.5, 0.3, 0.15, 0.05]),
    (decoders.min_p, {'p': 0.0}, [0.5, 0.3, 0.15, 0.05]),
    (decoders.min_p, {'p': 1.5}, [1, 0, 0, 0]),
    (decoders.typical, {'p': 0.0}, [0, 1, 0, 0]),
  ],
)
def test_decoders_draw_from_what_they_report(decoder, hparams, support):
  count = 4000
  keys = jax.random.split(jax.random.key(0), count)
  logits = jnp.broadcast_to(LOGITS, (count, 4))
  tokens, logps = jax.jit(lambda l, k: decoder(l, k, **hparams))(logits, keys)
  frequency = np.bincount(tokens, minlength=4) / count
  np.testing.assert_allclose(frequency, support, atol=0.03)
  expected = np.log(np.maximum(np.array(support), 1e-30))[np.asarray(tokens)]
  np.testing.assert_allclose(logps, expected, atol=1e-5)


@pytest.mark.parametrize('name', [n for n in decoders.__all__ if n != 'greedy'])
@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
def test_decoders_refuse_temperatures_that_divide_by_nothing(name, temperature):
  keys = jax.random.split(jax.random.key(0), 1)
  with pytest.raises(ValueError, match='is decoder "greedy"'):
    getattr(decoders, name)(LOGITS, keys, temperature=temperature)


def test_temperature_flattens():
  keys = jax.random.split(jax.random.key(0), 4)
  logits = jnp.broadcast_to(LOGITS, (4, 4))
  tokens, logps = decoders.sample(logits, keys, temperature=2.0)
  flat = np.sqrt(np.array([0.5, 0.3, 0.15, 0.05]))
  np.testing.assert_allclose(
    np.exp(logps), (flat / flat.sum())[np.asarray(tokens)], rtol=1e-5
  )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 63), min_size=3, max_size=3))
def test_fingerprints_depend_on_every_token(word):
  word = jnp.array(word)
  others = word[None] + jnp.eye(3, dtype=int)
  words = jax.jit(jax.vmap(split.fingerprint))(others)
  assert int(jax.jit(split.fingerprint)(word)) not in words.tolist()
  wider = jnp.pad(word, (0, 4), constant_values=-1)
  assert split.fingerprint(wider) == split.fingerprint(word)


def test_splits_are_disjoint_and_of_the_right_share():
  task = tasks.make('countdown', num_numbers=2, max_number=9)
  draw = lambda heldout, fraction: split.sample_batch(
    task, jax.random.key(0), 512, heldout=heldout, fraction=fraction
  )
  names = lambda e: {tuple(x) for x in jax.vmap(task.identity)(e).tolist()}
  train, test = (jax.jit(lambda h=h: draw(h, 0.2))() for h in (False, True))
  assert names(train) and names(test)
  assert not names(train) & names(test)
  everything = names(draw(False, 0))
  inside = names(test) & everything
  assert 0.08 < len(inside) / len(everything) < 0.35


@pytest.mark.long
def test_a_completion_ends_at_any_of_several_tokens(params, examples):
  @jax.jit  # one program: the tokens are traced
  def generate(params, e, ends):
    return rollout.generate(
      params, MODEL, e.prompt, e.prompt_mask, jax.random.key(7),
      group_size=2, max_new_tokens=LENGTH, decoder=decoders.sample,
      eos_id=ends, prompt_ids=e.prompt_id,
    )  # fmt: skip

  free = np.asarray(generate(params, examples, (-1, -1)).completion)
  ends = (int(free[0, 0, 6]), int(free[3, 1, 3]))
  found = jax.device_get(generate(params, examples, ends))
  early = set()
  for row, said, mask, finished in zip(
    free.reshape(-1, LENGTH),
    found.completion.reshape(-1, LENGTH),
    found.mask.reshape(-1, LENGTH),
    found.finished.ravel(),
  ):
    size = next((i + 1 for i, t in enumerate(row) if t in ends), LENGTH)
    np.testing.assert_array_equal(said[:size], row[:size])
    assert mask.sum() == size and finished == (row[size - 1] in ends)
    early |= {int(row[size - 1])} & set(ends)
  assert early == set(ends)
