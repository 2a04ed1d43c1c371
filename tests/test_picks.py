"""Picks: any right answer counts, all of them are drawn, and slips."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.core.types import Example
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.split import fingerprint


def by_hand(prompt: str = '3<qdkam:') -> Example:
  """Three of q, d, k, a and m."""
  shown = np.zeros(26, bool)
  shown[[ord(x) - ord('a') for x in prompt[2:-1]]] = True
  answer = {'count': jnp.int32(prompt[0]), 'shown': jnp.asarray(shown)}
  tokens = jnp.asarray(vocab.encode(prompt))
  return Example(tokens, jnp.ones(len(prompt)), jnp.uint32(0), answer)


@pytest.mark.parametrize(
  'text, reward, formed',
  [
    ('adk', 1, 1),
    ('kmq', 1, 1),
    ('adz', 0, 1),  # z is not shown
    ('akd', 0, 0),  # d comes before k
    ('add', 0, 0),
    ('ad', 0, 0),
    ('adkm', 0, 0),
    ('a1d', 0, 0),
    ('', 0, 0),
  ],
)
def test_any_right_answer_counts(text, reward, formed):
  tokens = np.full(6, vocab.PAD)
  tokens[: len(text)] = vocab.encode(text) if text else []
  tokens[len(text)] = vocab.EOS
  mask = jnp.arange(6) <= len(text)
  verdict = tasks.make('picks').verify(
    by_hand(), jnp.asarray(tokens), mask.astype(jnp.float32)
  )
  assert verdict['reward'] == reward and verdict['format'] == formed


def test_prompts_say_what_is_asked():
  task = tasks.make(
    'picks', min_count=2, max_count=3, shown=4, letters='acegikmo'
  )
  keys = jax.random.split(jax.random.key(0), 64)
  example = quick_jit(jax.vmap(task.sample))(keys)
  for i in range(64):
    prompt = vocab.decode(example.prompt[i], example.prompt_mask[i])
    assert int(prompt[0]) == example.answer['count'][i] in (2, 3)
    letters = prompt[2:-1]
    assert prompt[1] == '<' and prompt[-1] == ':' and len(set(letters)) == 4
    assert set(letters) <= set('acegikmo')
    found = np.flatnonzero(example.answer['shown'][i])
    assert [chr(ord('a') + x) for x in found] == sorted(letters)


def test_every_right_answer_is_as_likely():
  task = tasks.make('picks', min_count=3, max_count=3)
  solve = lambda key: task.solve(by_hand(), key)
  text = quick_jit(jax.vmap(solve))(jax.random.split(jax.random.key(1), 2000))
  said = [vocab.decode(x, m) for x, m in zip(text.tokens, text.mask)]
  counts = {x: said.count(x) for x in set(said)}
  every = {''.join(x) + '<eos>' for x in itertools.combinations('adkmq', 3)}
  assert set(counts) == every
  # 200 of each on average: six standard deviations.
  assert all(120 < count < 280 for count in counts.values())


def test_a_slip_is_one_letter_that_is_not_shown():
  task = tasks.make('picks', letters='abcdefghijkl', slips=0.5)

  def one(key):
    example = task.sample(key)
    text = task.solve(example, key)
    code = jnp.clip(text.tokens - vocab.token('a'), 0, 25)
    real = jnp.arange(code.shape[0]) < example.answer['count']
    odd = jnp.sum(real & ~example.answer['shown'][code])
    of_task = jnp.all(~real | (code < 12))
    verdict = task.verify(example, text.tokens, text.mask)
    return odd, of_task, verdict['reward']

  odd, of_task, reward = quick_jit(jax.vmap(one))(
    jax.random.split(jax.random.key(0), 256)
  )
  assert of_task.all()
  np.testing.assert_array_equal(odd, 1 - reward)
  assert 0.4 < odd.mean() < 0.6


def test_a_problem_is_its_number_and_its_set():
  task = tasks.make('picks')
  word = lambda prompt: int(fingerprint(task.identity(by_hand(prompt))))
  assert word('3<qdkam:') == word('3<makdq:')
  others = {word(x) for x in ('2<qdkam:', '3<qdkal:', '3<rdkam:')}
  assert len(others | {word('3<qdkam:')}) == 4


@pytest.mark.parametrize(
  'knobs',
  [
    {'max_count': 10, 'shown': 12},
    {'max_count': 6, 'shown': 5},
    {'letters': 'ba'},
    {'letters': 'ab1'},
    {'letters': 'abcdefgh'},  # no letter is left for a slip
    {'slips': 1.5},
  ],
)
def test_knobs(knobs):
  with pytest.raises(ValueError, match=f'picks: .*{next(iter(knobs))}'):
    tasks.make('picks', **knobs)
