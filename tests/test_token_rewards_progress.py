"""Progress of thoughts: forced answers, scored one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit
from test_token_rewards import (
  KEY,
  MODEL,
  SORTING,
  THOUGHT,
  row,
  samples_of,
  three_numbers,
  tokens_of,
  twelve,
)

from posttrain_jax import tasks
from posttrain_jax.models import transformer
from posttrain_jax.rewards import tokens as token_rewards
from posttrain_jax.rewards.tokens.common import answer_length
from posttrain_jax.tasks import conditioned, vocab
from posttrain_jax.tasks.mixture import Mixture


@pytest.fixture(scope='module')
def params():
  """A model that is sure of something: its weights are large."""
  made = quick_jit(lambda key: transformer.init(key, MODEL))(KEY)
  return jax.tree.map(lambda x: 2.0 * x, made)


logits_of = quick_jit(
  lambda params, tokens: transformer.apply(params, MODEL, tokens)[0]
)


def chance(params, prompt, prefix, answer, temperature):
  """Probability of the answer after prompt and prefix, token by token."""
  context, target = tokens_of(prompt + prefix), tokens_of(answer)
  tokens = np.zeros((1, 64), np.int32)
  tokens[0, : len(context) + len(target)] = context + target
  scores = np.asarray(logits_of(params, tokens), np.float64)[0] / temperature
  scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
  start = len(context) - 1
  return np.exp(sum(scores[start + i, t] for i, t in enumerate(target)))


def episode_ends(text, boundary, most):
  """Columns of the ends of episodes, by string operations."""
  thought, marker, _ = text.split('$')[0].rpartition('>')
  if not marker:
    thought = text.split('$')[0]
  ends = [i for i, x in enumerate(thought) if x == boundary]
  if marker and thought and thought[-1] != boundary:
    ends.append(len(thought))
  if len(ends) > most:
    picks = [-(-i * len(ends) // most) for i in range(1, most + 1)]
    ends = [ends[i - 1] for i in picks]
  return ends


def slow_progress(params, prompt, text, answer, boundary, most, temperature):
  """(rises {column: J_j - J_{j-1}}, J_0, J_last)."""
  force = lambda prefix: chance(
    params, prompt, prefix.removesuffix('>') + '>', answer, temperature
  )
  start = before = force('')
  rises = {}
  for end in episode_ends(text, boundary, most):
    after = force(text[: end + 1])
    rises[end] = after - before
    before = after
  return rises, start, before


PROMPTS = ['<3,1,2=', '<12,1,3=']
ANSWERS = ['1,2,3$', '1,3,12$']
GROUPS = [
  [
    '1:3,2;2:3;>1,2,3$',
    '1:3,2;2:3>3,2$',  # the marker ends the second step
    '1:3,2;2:',  # cut off: one step
    '>1,2,3$',  # no thought
    '1;2;3;4;5;6;7>1$',  # seven steps, joined to four
    '',
  ],
  [
    '1:12,3;3:12;>1,3,12$',
    '1,2,3$',
    '1;>2;>3$',  # the first marker is a part of the thought
    ';;$',  # steps of one token, no marker
    '1:12,3$',
    '$',
  ],
]


def test_progress_agrees_with_forcing_answers_one_by_one(params):
  size, alpha, temperature = 21, 0.5, 0.7
  world = token_rewards.World(THOUGHT, MODEL, temperature)

  @quick_jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def run(params, samples, alpha):
    out = token_rewards.progress(
      world, params, three_numbers(THOUGHT), samples, KEY, alpha=alpha
    )
    return jnp.sum(out[0]), out

  (_, (rewards, metrics)), grads = run(params, samples_of(GROUPS, size), alpha)
  assert all(not np.any(x) for x in jax.tree.leaves(grads))
  starts, lasts, counts = [], [], []
  for b, group in enumerate(GROUPS):
    for g, text in enumerate(group):
      rises, start, last = slow_progress(
        params, PROMPTS[b], text, ANSWERS[b], ';', 4, temperature
      )
      expected = np.zeros(size)
      for column, rise in rises.items():
        expected[column] = alpha * rise
      # Chances are small here: what counts is how they compare with J_0.
      np.testing.assert_allclose(
        rewards[b, g] / start, expected / start, atol=1e-3, err_msg=text
      )
      # They telescope.
      np.testing.assert_allclose(
        rewards[b, g].sum() / start, alpha * (last / start - 1), atol=1e-3
      )
      starts.append(start)
      lasts.append(last)
      counts.append(len(rises))
  assert counts == [2, 2, 1, 0, 4, 0, 2, 0, 2, 2, 0, 0]
  np.testing.assert_allclose(metrics['success_before'], np.mean(starts), 1e-3)
  np.testing.assert_allclose(metrics['success_after'], np.mean(lasts), 1e-3)
  np.testing.assert_allclose(metrics['episodes'], np.mean(counts))
  assert np.ptp(np.divide(lasts, starts)) > 0.5

  # What lies beyond the mask is never read.
  filled = samples_of(GROUPS, size, vocab.token(';'))
  (_, (again, _)), _ = run(params, filled, alpha)
  np.testing.assert_array_equal(rewards, again)


def test_steps_end_in_commas_where_the_oracle_writes_no_semicolon(params):
  task = tasks.make('countdown', chain_of_thought=True)
  text = '3*5=15,15+7=22>(3*5)+7$'
  run = quick_jit(
    lambda params, samples: token_rewards.progress(
      token_rewards.World(task, MODEL),
      params, twelve(task), samples, KEY, alpha=1.0,
    )
  )  # fmt: skip
  rewards, _ = run(params, samples_of([[text]], 25))
  rises, start, _ = slow_progress(
    params, '3,5,7>22:', text, '(3*5)+7$', ',', 4, 1.0
  )
  assert list(rises) == [6, 14]
  expected = row(25)
  expected[list(rises)] = np.divide(list(rises.values()), start)
  np.testing.assert_allclose(rewards[0, 0] / start, expected, atol=1e-3)
  assert np.abs(expected).max() > 0.1


def test_answers_without_a_thought_bound_those_after_one():
  for name in tasks.__all__:
    task = tasks.make(name)
    thinks = hasattr(task, 'chain_of_thought')
    if thinks:
      task = dataclasses.replace(task, chain_of_thought=False)
    assert answer_length(task) == task.completion_length
    if thinks:
      thinking = dataclasses.replace(task, chain_of_thought=True)
      most = answer_length(thinking)
      assert most == task.completion_length < thinking.completion_length
  both = Mixture((SORTING, conditioned.wrap(THOUGHT, 'feedback')), (0.5, 0.5))
  assert answer_length(both) == SORTING.completion_length


@pytest.mark.parametrize('name', ['make24', 'entity_tracking', 'sudoku'])
def test_forced_answers_fit_their_buffer(name):
  task = tasks.make(name, chain_of_thought=True)

  @quick_jit
  @jax.vmap
  def lengths(key):
    """(tokens of the answer, whether there is a marker)."""
    text = task.solve(task.sample(key), key)
    answer = vocab.after_last(text.tokens, text.mask, vocab.token('>'))
    return answer.sum(), jnp.any(text.tokens == vocab.token('>'))

  length, marked = lengths(jax.random.split(KEY, 64))
  assert length.max() <= answer_length(task)
  assert np.all(marked)
