"""Digit sums: any right answer counts, and slips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.core.types import Example
from posttrain_jax.tasks import vocab


def by_hand():
  """'314>8:': three digits from 1 to 4 that add up to 8."""
  answer = {'count': 3, 'low': 1, 'high': 4, 'target': 8}
  answer = jax.tree.map(jnp.int32, answer)
  answer['digits'] = jnp.array([1, 4, 3])
  prompt = jnp.asarray(vocab.encode('314>8:'))
  return Example(prompt, jnp.ones(6), jnp.uint32(0), answer)


@pytest.mark.parametrize(
  'text, reward, fair',
  [
    ('143', 1, 1),
    ('224', 1, 1),
    ('341', 1, 1),
    ('144', 0, 1),  # 9
    ('44', 0, 0),  # two digits
    ('1133', 0, 0),
    ('053', 0, 0),  # 0 and 5 are out of bounds
    ('1+3', 0, 0),
    ('', 0, 0),
  ],
)
def test_any_right_answer_counts(text, reward, fair):
  tokens = np.full(6, vocab.PAD)
  tokens[: len(text)] = vocab.encode(text) if text else []
  tokens[len(text)] = vocab.EOS
  mask = jnp.arange(6) <= len(text)
  verdict = tasks.make('digit_sums').verify(
    by_hand(), jnp.asarray(tokens), mask.astype(jnp.float32)
  )
  assert verdict['reward'] == reward and verdict['format'] == fair


def test_problems_and_oracle():
  task = tasks.make('digit_sums', min_count=2, max_count=4, min_digit=3)

  def one(key):
    example = task.sample(key)
    text = task.solve(example, key)
    verdict = task.verify(example, text.tokens, text.mask)
    return example, text, verdict['reward']

  keys = jax.random.split(jax.random.key(0), 64)
  example, text, reward = quick_jit(jax.vmap(one))(keys)
  assert (reward == 1).all()
  for i in range(64):
    prompt = vocab.decode(example.prompt[i], example.prompt_mask[i])
    count, low, high = (int(x) for x in prompt[:3])
    said = vocab.decode(text.tokens[i], text.mask[i])[:count]
    assert prompt[3:] == f'>{sum(int(x) for x in said)}:'
    assert 2 <= count <= 4 and 3 <= low < high <= 9
    assert all(low <= int(x) <= high for x in said)
  assert set(np.asarray(example.answer['count'])) == {2, 3, 4}


def test_a_slip_is_one_wrong_digit_in_bounds():
  task = tasks.make('digit_sums', max_digit=4, slips=0.5)

  def one(key):
    example = task.sample(key)
    text = task.solve(example, key)
    off = text.tokens[:5] - vocab.ZERO != example.answer['digits']
    off = jnp.sum(off & (jnp.arange(5) < example.answer['count']))
    return off, task.verify(example, text.tokens, text.mask)

  off, verdict = quick_jit(jax.vmap(one))(
    jax.random.split(jax.random.key(0), 256)
  )
  assert (verdict['format'] == 1).all()
  np.testing.assert_array_equal(off, 1 - verdict['reward'])
  assert 0.4 < off.mean() < 0.6


@pytest.mark.parametrize(
  'knobs', [{'max_count': 10}, {'min_digit': 9}, {'slips': 1.5}]
)
def test_knobs(knobs):
  with pytest.raises(ValueError, match=next(iter(knobs))):
    tasks.make('digit_sums', **knobs)
