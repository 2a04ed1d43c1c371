"""A condition in front of the prompt changes the prompt and nothing else."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.tasks import conditioned, split, vocab
from posttrain_jax.tasks.mixture import Mixture

ROWS = 256
ADDITION = tasks.make('addition', num_digits=2)
# A task without an identity of its own: its prompt is what is held out.
LAKE = tasks.make('frozen_lake', size=2)
INNER = {'addition': ADDITION, 'frozen_lake': LAKE}
WRAPPED = {
  f'{condition}-{name}': (conditioned.wrap(task, condition), task)
  for name, task in INNER.items()
  for condition in ('feedback', 'direction')
}


@functools.cache
def drawn(task):
  """(examples, oracle's answers, verdicts on right and wrong, identities)."""

  def run(key):
    example = task.sample(key)
    answer = task.solve(example, key)
    wrong = answer.tokens.at[0].set(vocab.token('&'))
    both = jnp.stack([answer.tokens, wrong])
    verify = lambda tokens: task.verify(example, tokens, answer.mask)
    verdicts = jax.vmap(verify)(both)
    return example, answer, verdicts, split.identity(task, example)

  keys = jax.random.split(jax.random.key(0), ROWS)
  return jax.device_get(quick_jit(jax.vmap(run))(keys))


def prompt(example, i):
  return vocab.decode(example.prompt[i], example.prompt_mask[i])


@pytest.mark.parametrize('name', WRAPPED)
def test_the_inner_problem_is_untouched(name):
  task, inner = WRAPPED[name]
  example, answer, verdicts, identity = drawn(task)
  assert example.prompt.shape == (ROWS, task.prompt_length)
  assert task.prompt_length == inner.prompt_length + 2
  assert answer.tokens.shape == (ROWS, task.completion_length)
  assert task.completion_length == inner.completion_length
  assert example.prompt_mask.dtype == np.float32
  # Right-padded, with the condition and <sep> first.
  assert (np.diff(example.prompt_mask) <= 0).all()
  np.testing.assert_array_equal(example.prompt[:, 1], vocab.SEP)
  # The rest is a problem of the inner task, which judges alike.
  bare = example.replace(
    prompt=example.prompt[:, 2:], prompt_mask=example.prompt_mask[:, 2:],
  )  # fmt: skip
  if name.startswith('direction'):
    bare = bare.replace(answer=example.answer['inner'])
  expected = jax.vmap(lambda e: split.identity(inner, e))(bare)
  np.testing.assert_array_equal(identity, expected)
  rewards = verdicts.get('task_reward', verdicts['reward'])
  np.testing.assert_array_equal(rewards, [[1, 0]] * ROWS)
  if name.endswith('addition'):
    for i in range(16):
      a, b = prompt(bare, i).rstrip('=').split('+')
      text = vocab.decode(answer.tokens[i], answer.mask[i])
      assert text == f'{int(a) + int(b)}<eos>'


@pytest.mark.parametrize('name', WRAPPED)
def test_heldout_here_is_heldout_there(name):
  task, inner = WRAPPED[name]
  batch = quick_jit(
    lambda key: split.sample_batch(task, key, 64, heldout=True, fraction=0.3)
  )(jax.random.key(1))
  bare = jax.vmap(task._inner)(batch)
  heldout = jax.vmap(lambda e: split.is_heldout(inner, e, 0.3))(bare)
  assert heldout.all()
  np.testing.assert_array_equal(batch.prompt_id, np.arange(64))


def test_feedback_asks_for_good_answers_and_is_relabelled():
  task = conditioned.Feedback(ADDITION)
  example = drawn(task)[0]
  assert {prompt(example, i)[0] for i in range(ROWS)} == {'+'}
  rows = jnp.asarray(example.prompt[:3])
  marked = task.relabel(rows, jnp.array([1.0, 0.0, 1.0]))
  assert [vocab.decode(row[:2]) for row in marked] == [
    '+<sep>', '-<sep>', '+<sep>'
  ]  # fmt: skip
  np.testing.assert_array_equal(marked[:, 1:], rows[:, 1:])
  # Relabelled prompts are the same problems.
  again = example.replace(prompt=example.prompt.copy())
  again.prompt[:, 0] = vocab.token('-')
  identity = jax.vmap(task.identity)
  np.testing.assert_array_equal(identity(example), identity(again))


def test_directions_are_an_arc_in_even_buckets():
  task = conditioned.Direction(ADDITION, buckets=4)
  example = drawn(task)[0]
  degrees = np.degrees(example.answer['angle'])
  assert -45 <= degrees.min() < -40 and 40 < degrees.max() <= 45
  buckets = example.prompt[:, 0] - vocab.ZERO
  np.testing.assert_array_equal(buckets, np.digitize(degrees, [-22.5, 0, 22.5]))
  counts = np.bincount(buckets)
  assert len(counts) == 4 and counts.min() > ROWS / 8


@pytest.mark.parametrize('degrees', [-45.0, -30.0, 0.0, 45.0])
def test_the_reward_is_along_the_direction(degrees):
  task = conditioned.Direction(ADDITION, degrees=degrees)
  key = jax.random.key(3)
  example = task.sample(key)
  v = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  size = ADDITION.completion_length  # 'ddd<eos>': texts of 0 to 3 tokens
  assert size == 4
  answer = task.solve(example, key)
  text = vocab.decode(answer.tokens, answer.mask).removesuffix('<eos>')
  for said, right in ((text, 1), ('', 0), ('&', 0), ('&&&', 0), ('&' * 9, 0)):
    tokens = np.zeros(12, np.int32)
    tokens[: len(said) + 1] = [*vocab.encode(said), vocab.EOS]
    mask = (np.arange(12) <= len(said)).astype(np.float32)
    verdict = task.verify(example, jnp.asarray(tokens), jnp.asarray(mask))
    brevity = max(0, 1 - len(said) / 3)
    np.testing.assert_allclose(verdict['brevity'], brevity, atol=1e-6)
    assert verdict['task_reward'] == right
    expected = v[0] * right + v[1] * brevity
    np.testing.assert_allclose(verdict['reward'], expected, atol=1e-6)
    if degrees == 0.0:  # to the bit: evaluation compares with 1
      assert verdict['reward'] == right
  bucket = min(int((degrees + 45) / 90 * 16), 15)
  assert example.prompt[0] == vocab.ZERO + bucket


def test_evaluation_asks_at_zero_degrees_for_the_same_problems():
  task = conditioned.Direction(ADDITION, buckets=8)
  fixed = conditioned.evaluated(task)
  assert fixed == conditioned.Direction(ADDITION, 8, degrees=0.0)
  one, other = drawn(task)[0], drawn(fixed)[0]
  np.testing.assert_array_equal(one.prompt[:, 1:], other.prompt[:, 1:])
  np.testing.assert_array_equal(other.prompt[:, 0], vocab.ZERO + 4)
  np.testing.assert_array_equal(other.answer['angle'], 0.0)
  # A chosen direction stays, and so do other tasks.
  for kept in (
    conditioned.Direction(ADDITION, degrees=30.0),
    conditioned.Feedback(ADDITION),
    ADDITION,
  ):
    assert conditioned.evaluated(kept) is kept


def test_a_mixture_can_be_conditioned():
  mixture = Mixture(tasks=(ADDITION, LAKE), weights=(1, 1))
  task = conditioned.Feedback(mixture)
  example, _, verdicts, _ = drawn(task)
  assert task.prompt_length == LAKE.prompt_length + 2
  np.testing.assert_array_equal(verdicts['reward'], [[1, 0]] * ROWS)
  np.testing.assert_array_equal(example.prompt[:, 0], vocab.token('+'))


def test_wrap_names_what_it_does_not_know():
  assert conditioned.wrap(ADDITION) is ADDITION
  task = conditioned.wrap(ADDITION, 'direction', buckets=5)
  assert task == conditioned.Direction(ADDITION, buckets=5)
  for args, knobs, message in (
    (('feedbak',), {}, 'mean "feedback"'),
    (('direction',), {'bucket': 3}, 'no knob "bucket".*mean "buckets"'),
    (('feedback',), {'buckets': 3}, 'no knob "buckets"'),
    (('none',), {'buckets': 3}, '"none" has no knob "buckets"'),
    (('direction',), {'buckets': 61}, 'buckets=61 is not in 2..60'),
    (('direction',), {'degrees': 46}, 'degrees=46 is not in -45..45'),
  ):
    with pytest.raises(ValueError, match=message):
      conditioned.wrap(ADDITION, *args, **knobs)
