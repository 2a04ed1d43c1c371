"""Guides: what may be drawn, what must come, and what ends a completion."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import rollout
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.rollout import decoders, guide, guides
from posttrain_jax.trainers.objective import score
from posttrain_jax.trainers.shared import Shared

V, EOS, SIZE, G = 16, 1, 10, 3
PROMPTS = jax.random.randint(jax.random.key(1), (4, 5), 2, V)
MASK = jnp.ones((4, 5)).at[1, 2:].set(0)
CONFIG = make_config('pico', vocab_size=V, num_layers=1, scan_layers=False)
PARAMS = transformer.init(jax.random.key(0), CONFIG)
make = functools.partial(guides.make, eos_id=EOS, vocab_size=V)


def _generate(steering, state=None, slots=0, decoder=decoders.sample, rows=4):
  run = functools.partial(
    rollout.generate,
    config=CONFIG,
    group_size=G,
    max_new_tokens=SIZE,
    decoder=decoder,
    eos_id=EOS,
    guide=steering,
    slots=slots,
  )
  take = lambda tree: jax.tree.map(lambda x: x[:rows], tree)
  return jax.jit(
    lambda params, state: run(
      params,
      prompts=PROMPTS[:rows],
      prompt_mask=MASK[:rows],
      key=jax.random.key(5),
      guide_state=take(state),
    )
  )(PARAMS, state)


def _texts(samples):
  """Lists of tokens, B * G of them."""
  tokens = np.asarray(samples.completion).reshape(-1, SIZE)
  mask = np.asarray(samples.mask).reshape(-1, SIZE)
  return [row[m > 0].tolist() for row, m in zip(tokens, mask)]


def test_allowed_and_banned_tokens():
  allowed = make([{'name': 'allowed_tokens', 'tokens': [EOS, 4, 5]}])
  found = {t for text in _texts(_generate(allowed)) for t in text}
  assert found == {EOS, 4, 5}
  banned = make([{'name': 'banned_tokens', 'tokens': [EOS, 4, 5]}])
  texts = _texts(_generate(banned))
  found = {t for text in texts for t in text}
  assert not found & {EOS, 4, 5} and len(found) > 8
  assert {len(text) for text in texts} == {SIZE}


def test_the_end_waits_for_min_tokens():
  free = _texts(_generate(make([{'name': 'banned_tokens', 'tokens': [0]}])))
  assert min(map(len, free)) <= 4
  waiting = make([{'name': 'min_tokens', 'count': 4}])
  texts = _texts(_generate(waiting))
  assert min(map(len, texts)) >= 5
  assert any(text[-1] == EOS for text in texts)


def test_a_repetition_penalty_by_hand():
  steering = make([{'name': 'repetition_penalty', 'penalty': 2.0}])
  state = steering.start(jnp.array([3, 3, 7]), jnp.array([1, 1, 0]))
  logits = (
    jnp.zeros(V).at[jnp.array([3, 5, 7])].set(jnp.array([4.0, -6.0, 8.0]))
  )
  expected = np.asarray(logits).copy()
  expected[3] = 2.0  # of the prompt; 7 is its padding
  np.testing.assert_allclose(steering.adjust(state, logits), expected)
  state = steering.read(state, jnp.int32(5))
  expected[5] = -12.0
  np.testing.assert_allclose(steering.adjust(state, logits), expected)


def test_stop_sequences_end_a_completion_and_are_kept():
  stops = [[5], [7, 8], [8, 8]]
  steering = make([{'name': 'stop_sequences', 'sequences': stops}])
  samples = _generate(steering)
  ends = lambda text: any(text[-len(s) :] == s for s in stops)
  for text, finished in zip(_texts(samples), samples.finished.reshape(-1)):
    for size in range(1, len(text)):
      assert not ends(text[:size]) and text[size - 1] != EOS
    assert (ends(text) or text[-1] == EOS) == bool(finished)
    assert finished or len(text) == SIZE
  assert any(ends(text) for text in _texts(samples))


def test_an_automaton_writes_its_language():
  # (4 5)* 6 <eos>
  table = np.full((3, V), -1)
  table[0, 4], table[1, 5], table[0, 6], table[2, EOS] = 1, 0, 2, 2
  steering = make([{'name': 'automaton', 'table': table.tolist()}])
  texts = _texts(_generate(steering))
  words = {(4, 5) * n + (6, EOS) for n in range(SIZE)}
  cut = {tuple(w[:SIZE]) for w in words}
  assert {tuple(text) for text in texts} <= cut
  assert len({len(text) for text in texts}) > 1


def test_probabilities_of_an_automaton_sum_to_one():
  table = np.full((3, V), -1)
  table[0, 4], table[0, 5], table[1, 6], table[1, 7], table[2, EOS] = (
    1,
    2,
    2,
    2,
    2,
  )
  steering = make([{'name': 'automaton', 'table': table.tolist()}])
  words = [[4, 6, EOS], [4, 7, EOS], [5, EOS, 0]]
  tokens = jnp.array(words)[None]
  mask = jnp.ones((1, 3, 3)).at[0, 2, 2].set(0)
  samples = rollout.Rollout(tokens, mask, jnp.zeros(mask.shape), mask[..., 0])
  batch = rollout.assemble_groups(PROMPTS[:1], MASK[:1], samples)
  states = guide.start_rows(steering, PROMPTS[:1], MASK[:1], 3)
  states = guide.context(steering, states, samples, batch.starts, 8)
  view = decoders.view({'name': 'sample', 'temperature': 1.0}, steering)
  logps = score(PARAMS, CONFIG, batch.replace(guide=states), view).logps
  np.testing.assert_allclose(jnp.exp(logps.sum(-1)).sum(), 1.0, atol=1e-6)


MANY = [
  {'name': 'repetition_penalty', 'penalty': 3.0},
  {'name': 'stop_sequences', 'sequences': [[5], [7, 8]]},
  {'name': 'banned_tokens', 'tokens': [9]},
  {'name': 'min_tokens', 'count': 4},
]
PARTS = [
  {'name': 'sample', 'temperature': 0.7},
  {'name': 'top_p', 'p': 0.8, 'temperature': 1.3},
]


@pytest.mark.parametrize('part', PARTS, ids=lambda part: part['name'])
@pytest.mark.parametrize(
  'shared', [None, Shared(5, G), Shared(5, G, 2)], ids=str
)
def test_the_learner_replays_what_was_drawn_from(part, shared):
  steering = make(MANY)
  hparams = {k: v for k, v in part.items() if k != 'name'}
  decoder = functools.partial(getattr(decoders, part['name']), **hparams)
  samples = _generate(steering, decoder=decoder)
  batch = rollout.assemble_groups(PROMPTS, MASK, samples)
  states = guide.start_rows(steering, PROMPTS, MASK, G)
  total = batch.tokens.shape[1]
  states = guide.context(steering, states, samples, batch.starts, total)
  steered = batch.replace(guide=states)
  size = None if shared is None else shared.sizes(batch)[-1]
  gap = lambda batch, view: jnp.abs(
    (score(PARAMS, CONFIG, batch, view, shared=shared, size=size).logps
     - batch.old_logps) * batch.mask
  ).max()  # fmt: skip
  assert gap(steered, decoders.view(part, steering)) < 3e-6
  assert gap(batch, decoders.view(part)) > 1e-2


def test_a_prefix_is_forced_and_does_not_count():
  tokens = jnp.arange(4 * G * 2).reshape(4, G, 2) % (V - 4) + 2
  lengths = jnp.arange(4 * G).reshape(4, G) % 3
  state = guides.prefix_state(tokens, lengths)
  samples = _generate(guides.forced_prefix(), state)
  for b, g in itertools.product(range(4), range(G)):
    size = int(lengths[b, g])
    np.testing.assert_array_equal(
      samples.completion[b, g, :size], tokens[b, g, :size]
    )
    np.testing.assert_array_equal(samples.given[b, g], jnp.arange(SIZE) < size)
    assert not samples.logps[b, g, :size].any()
  batch = rollout.assemble_groups(PROMPTS, MASK, samples)
  own = samples.mask.sum() - samples.given.sum()
  assert float(batch.mask.sum()) == float(own)
  # What is forced is read by the model, and by the learner, like all else.
  scored = score(PARAMS, CONFIG, batch, shared=Shared(5, G)).logps
  np.testing.assert_allclose(scored, batch.old_logps * batch.mask, atol=3e-6)


@pytest.mark.parametrize('slots', [1, 5])
def test_slots_and_rows_change_nothing(slots):
  steering = guide.chain(guides.forced_prefix(), make(MANY))
  tokens = jnp.arange(4 * G * 2).reshape(4, G, 2) % (V - 4) + 2
  prefix = guides.prefix_state(tokens, jnp.arange(4 * G).reshape(4, G) % 3)
  state = prefix, guide.start_rows(steering.parts[1], PROMPTS, MASK, G)
  expected = _generate(steering, state)
  found = _generate(steering, state, slots=slots)
  alone = _generate(steering, state, rows=2)
  for name in ('completion', 'mask', 'given', 'finished'):
    want = getattr(expected, name)
    keep = 1 if name != 'completion' else expected.mask
    np.testing.assert_array_equal(getattr(found, name) * keep, want * keep)
    np.testing.assert_array_equal(getattr(alone, name), want[:2])


def test_an_end_token_that_is_forced_does_not_end():
  state = guides.prefix_state(jnp.full((4, G, 2), EOS), jnp.full((4, G), 2))
  samples = _generate(guides.forced_prefix(), state)
  assert float(samples.mask.sum(-1).min()) >= 3


@pytest.mark.parametrize(
  'part, message',
  [
    ({'name': 'alowed_tokens'}, 'Did you mean "allowed_tokens"'),
    ({'name': 'min_tokens', 'cuont': 2}, 'Did you mean "count"'),
    ({'count': 2}, 'has no "name"'),
    ('min_token', 'Did you mean "min_tokens"'),
    ({'name': 'banned_tokens', 'tokens': [3, V]}, 'no token 16, only 0..15'),
    ({'name': 'stop_sequences', 'sequences': [[99]]}, 'no token 99'),
    ({'name': 'automaton', 'table': [[0, 0]]}, '2 entries, the model has 16'),
    ({'name': 'allowed_tokens'}, 'leaves nothing to draw'),
    ({'name': 'stop_sequences', 'sequences': [[]]}, 'at least one token'),
    ({'name': 'repetition_penalty', 'penalty': 0}, 'not positive'),
    ({'name': 'banned_tokens', 'tokens': [-2]}, '-2 is no token id'),
    ({'name': 'automaton', 'table': [[0, 1]]}, 'are no states of 0..0'),
    ({'name': 'automaton', 'table': [[-1, -1]]}, 'follow in state 0'),
    ({'name': 'automaton', 'table': [[0], [0, 0]]}, 'not of one length'),
  ],
)
def test_bad_guides_are_named(part, message):
  with pytest.raises(ValueError, match=message):
    make([part])
