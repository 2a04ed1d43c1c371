"""Rewards of tokens: hand-made completions, and forced answers one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import tasks, token_rewards
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.tasks import conditioned, vocab
from posttrain_jax.tasks.mixture import Mixture
from posttrain_jax.types import Example, Rollout

SORTING = tasks.make('sorting', length=3, max_value=12)
THOUGHT = tasks.make('sorting', length=3, max_value=12, chain_of_thought=True)
COUNTDOWN = tasks.make('countdown')
MODEL = make_config('depth-1')
KEY = jax.random.key(0)


def tokens_of(text):
  """Ids of a text in which '$' is the EOS."""
  parts = [list(vocab.encode(part)) for part in text.split('$')]
  out = parts[0]
  for part in parts[1:]:
    out += [vocab.EOS, *part]
  return out


def padded(texts, size, fill=0):
  """(tokens, mask), both [len(texts), size]."""
  tokens = np.full((len(texts), size), fill, np.int32)
  mask = np.zeros((len(texts), size), np.float32)
  for row, text in enumerate(texts):
    ids = tokens_of(text)
    tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1.0
  return jnp.asarray(tokens), jnp.asarray(mask)


def samples_of(groups, size, fill=0):
  """A Rollout of groups of texts."""
  tokens, mask = padded(
    [text for group in groups for text in group], size, fill
  )
  shape = (len(groups), -1, size)
  tokens, mask = tokens.reshape(shape), mask.reshape(shape)
  zeros = jnp.zeros_like(mask)
  return Rollout(tokens, mask, zeros, zeros[..., 0])


def problems(task, prompts, **answer):
  tokens, mask = padded(prompts, task.prompt_length)
  ids = jnp.arange(len(prompts), dtype=jnp.uint32)
  return Example(
    tokens, mask, ids, {name: jnp.asarray(x) for name, x in answer.items()}
  )


def three_numbers(task):
  """'1,2,3' twice, from prompts of different lengths: the second has a 12."""
  values = [[3, 1, 2], [12, 1, 3]]
  return problems(task, ['<3,1,2=', '<12,1,3='], values=values)


def twelve(task):
  """'(3*5)+7', or another expression of 3, 5 and 7 that makes 22."""
  return problems(
    task,
    ['3,5,7>22:'],
    numbers=[[3, 5, 7]],
    target=[22],
    steps=[[[2, 0, 1], [0, 0, 1]]],
  )


def segments(task, examples, groups, size, fill=0, **hparams):
  """For each problem {text: rewards of its tokens}, and metrics."""
  world = token_rewards.World(task, MODEL)
  samples = samples_of(groups, size, fill)

  @quick_jit
  def run(examples, samples, hparams):
    return token_rewards.fine_grained(
      world, None, examples, samples, KEY, separators=separators, **hparams
    )

  separators = hparams.pop('separators', ',')
  rewards, metrics = run(examples, samples, hparams)
  assert rewards.shape == samples.mask.shape
  np.testing.assert_array_equal(rewards[samples.mask == 0], 0.0)
  found = [dict(zip(*pair)) for pair in zip(groups, np.asarray(rewards))]
  return found, metrics


def row(size, **at):
  """Zeros but for columns given as c3=0.5."""
  out = np.zeros(size, np.float32)
  for column, value in at.items():
    out[int(column[1:])] = value
  return out


# ---- Segments


PLAIN = {
  '1,2,3$': row(9, c1=0.5, c3=0.5, c5=0.5),
  '1,3,2$': row(9, c1=0.5, c3=-0.5, c5=-0.5),
  '1,2$': row(9, c1=0.5, c3=-0.5 - 0.2),  # ended where '2,' was to come
  '1,2,3,3$': row(9, c1=0.5, c3=0.5, c5=-0.5, c7=-0.5),
  '1,2,$': row(9, c1=0.5, c3=0.5, c4=-0.5),  # an empty last number
  '1,,2,3$': row(9, c1=0.5, c2=-0.5, c4=-0.5, c6=-0.5),
  '12,2,3$': row(9, c2=-0.5, c4=0.5, c6=0.5),  # later ones keep their index
  '2,1$': row(9, c1=-0.5, c3=-0.5 - 0.2),
  '$': row(9, c0=-0.5 - 0.4),
  '1,2,3': row(9, c1=0.5, c3=0.5, c4=0.5),  # cut off, and yet accepted
  '1,2,': row(9, c1=0.5, c3=0.5 - 0.2),
  '1,2,1': row(9, c1=0.5, c3=0.5, c4=-0.5),
  '': row(9),
  '>>1,2$': row(9, c3=0.5, c5=-0.5 - 0.2),
}


@pytest.mark.parametrize('fill', [0, vocab.token(','), vocab.EOS])
def test_segments_of_an_answer(fill):
  # Two problems share the batch: the same texts, another oracle.
  groups = [list(PLAIN), list(PLAIN)]
  found, metrics = segments(
    SORTING, three_numbers(SORTING), groups, 9, fill, weight=0.5, missing=0.2
  )
  for text, expected in PLAIN.items():
    np.testing.assert_allclose(
      found[0][text], expected, atol=1e-6, err_msg=text
    )
  # The second problem's oracle writes 1,3,12.
  np.testing.assert_allclose(
    found[1]['1,3,2$'], row(9, c1=0.5, c3=0.5, c5=-0.5), atol=1e-6
  )
  assert 0 < metrics['segments_right'] < 1


def test_segment_metrics_are_means_over_completions():
  texts = ['1,2,3$', '1,3,2$', '1$', '']
  one = jax.tree.map(lambda x: x[:1], three_numbers(SORTING))
  _, metrics = segments(SORTING, one, [texts], 8)
  np.testing.assert_allclose(metrics['segments'], (3 + 3 + 1 + 0) / 4)
  np.testing.assert_allclose(metrics['segments_right'], 4 / 7, rtol=1e-6)
  np.testing.assert_allclose(metrics['segments_missing'], (2 + 3) / 4)


def test_thoughts_have_no_segments():
  thought = '1:3,2;2:3;'
  expected = {
    thought + '>1,2,3$': row(20, c12=0.5, c14=0.5, c16=0.5),
    thought + '>1,3,2$': row(20, c12=0.5, c14=-0.5, c16=-0.5),
    '9,>1,2,>1,2$': row(20, c9=0.5, c11=-0.5 - 0.2),  # the last marker
    thought: row(20, c9=-0.6),  # no answer: three are missing
    '1,2$': row(20, c3=-0.6),
    '1,2,3$': row(20, c1=0.5, c3=0.5, c5=0.5),  # accepted without a thought
    thought + '>': row(20, c10=-0.6),
  }
  one = jax.tree.map(lambda x: x[:1], three_numbers(THOUGHT))
  (found,), _ = segments(
    THOUGHT, one, [list(expected)], 20, weight=0.5, missing=0.2
  )
  for text, rewards in expected.items():
    np.testing.assert_allclose(found[text], rewards, atol=1e-6, err_msg=text)


def test_every_token_is_a_segment_without_separators():
  one = jax.tree.map(lambda x: x[:1], three_numbers(SORTING))
  (found,), _ = segments(
    SORTING, one, [['1,3,3$', '1;2']], 7, separators='', weight=1.0, missing=0.1
  )
  np.testing.assert_allclose(found['1,3,3$'], [1, 1, -1, 1, 1, 1, 0], atol=1e-6)
  np.testing.assert_allclose(
    found['1;2'], [1, -1, 1 - 0.3, 0, 0, 0, 0], atol=1e-6
  )


def test_other_right_answers_earn_what_the_oracle_would():
  texts = ['(3*5)+7$', '7+5*3$', '((3*5))+7$', '(3*5)+5$']
  (found,), _ = segments(
    COUNTDOWN, twelve(COUNTDOWN), [texts], 12, separators='+*', weight=0.5
  )
  # '(3*', '5)+', '7$'
  np.testing.assert_allclose(found['(3*5)+7$'], row(12, c2=0.5, c5=0.5, c7=0.5))
  np.testing.assert_allclose(found['7+5*3$'], row(12, c1=0.5, c3=0.5, c5=0.5))
  np.testing.assert_allclose(
    found['(3*5)+5$'], row(12, c2=0.5, c5=0.5, c7=-0.5)
  )
  (each,), _ = segments(
    COUNTDOWN, twelve(COUNTDOWN), [texts], 12, separators='', weight=0.5
  )
  longer = each['((3*5))+7$']  # ten tokens share what eight of the oracle earn
  np.testing.assert_allclose(longer[:10], 0.5 * 8 / 10, rtol=1e-6)
  np.testing.assert_allclose(each['7+5*3$'].sum(), 0.5 * 8, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Judged:
  """A task with a judge of its own: a '7' is good, a '0' is bad."""

  def segments(self, example, completion, mask):
    seven = (completion == vocab.token('7')) & (mask != 0)
    zero = (completion == vocab.token('0')) & (mask != 0)
    columns = jnp.arange(completion.shape[0])
    return seven - 1.0 * zero, jnp.where(seven | zero, columns, -1)


def test_a_task_may_judge_its_segments():
  blank = problems(SORTING, ['<'])
  (found,), metrics = segments(
    Judged(), blank, [['7,70$', '1$']], 6, weight=0.25
  )
  np.testing.assert_allclose(found['7,70$'], row(6, c0=0.25, c2=0.25, c3=-0.25))
  np.testing.assert_allclose(found['1$'], row(6))
  np.testing.assert_allclose(metrics['segments_right'], 2 / 3, rtol=1e-6)


def test_the_oracles_own_answers_are_right_throughout():
  # Behind a condition, and in a mixture of thinking and not.
  task = Mixture(tasks=(THOUGHT, COUNTDOWN), weights=(1.0, 1.0))
  task = conditioned.wrap(task, 'direction')
  examples = jax.jit(jax.vmap(task.sample))(jax.random.split(KEY, 6))
  solutions = jax.jit(jax.vmap(task.solve, (0, None)))(examples, KEY)
  zeros = jnp.zeros((6, 1))
  mask = solutions.mask[:, None]
  samples = Rollout(
    solutions.tokens[:, None], mask, jnp.zeros_like(mask), zeros
  )
  rewards, metrics = jax.jit(
    lambda e, s: token_rewards.fine_grained(
      token_rewards.World(task, MODEL), None, e, s, KEY
    )
  )(examples, samples)
  np.testing.assert_allclose(metrics['segments_right'], 1.0)
  np.testing.assert_allclose(
    rewards.sum(), 0.3 * 6 * metrics['segments'], rtol=1e-5
  )
  assert metrics['segments_missing'] == 0


# ---- Episodes


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
    assert token_rewards.answer_length(task) == task.completion_length
    if hasattr(task, 'chain_of_thought'):
      thinking = dataclasses.replace(task, chain_of_thought=True)
      most = token_rewards.answer_length(thinking)
      assert most == task.completion_length < thinking.completion_length
  both = Mixture((SORTING, conditioned.wrap(THOUGHT, 'feedback')), (0.5, 0.5))
  assert token_rewards.answer_length(both) == SORTING.completion_length


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
  assert length.max() <= token_rewards.answer_length(task)
  assert np.all(marked)


# ---- Use


def test_group_advantages_are_what_is_to_come_less_the_groups_mean():
  rewards = jnp.array([[[0.0, 1.0, 2.0], [0.0, -1.0, 9.0]]])
  mask = jnp.array([[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]])
  # To come: 3, 3, 2 and -1, -1, 0; means 1, 1, 1.
  run = quick_jit(token_rewards.group_advantages)
  np.testing.assert_allclose(
    run(rewards, mask),
    [[[2.0, 2.0, 1.0], [-2.0, -2.0, 0.0]]],
  )
  halved = run(rewards, mask, gamma=0.5)
  # To come: 1, 2, 2 and -0.5, -1, 0.
  np.testing.assert_allclose(halved, [[[0.75, 1.5, 1.0], [-0.75, -1.5, 0.0]]])


@pytest.mark.parametrize(
  'part, task, message',
  [
    ({'name': 'fine_graned'}, SORTING, 'Did you mean "fine_grained"'),
    ({'name': 'progress', 'aplha': 1.0}, THOUGHT, 'Did you mean "alpha"'),
    ({'name': 'progress'}, SORTING, 'chain_of_thought=True'),
    ({'name': 'progress', 'episodes': 0}, THOUGHT, 'episodes=0 is below 1'),
    ({'name': 'progress', 'boundaries': '!'}, THOUGHT, "boundaries: .*'!'"),
    ({'name': 'fine_grained', 'separators': 'A'}, SORTING, "separators: .*'A'"),
  ],
)
def test_what_cannot_work_is_refused(part, task, message):
  with pytest.raises(ValueError, match=message):
    token_rewards.check(part, task)


@pytest.mark.parametrize(
  'part, task',
  [
    ({'name': 'none'}, SORTING),
    ({'name': 'fine_grained'}, SORTING),
    ({'name': 'progress'}, THOUGHT),
    ({'name': 'progress'}, conditioned.wrap(THOUGHT, 'feedback')),
    ({'name': 'progress'}, Mixture((SORTING, THOUGHT), (0.5, 0.5))),
  ],
)
def test_what_works_is_not_refused(part, task):
  assert token_rewards.check(part, task) is None
