"""Rewards of tokens: segments of hand-made completions; what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.core.types import Example, Rollout
from posttrain_jax.models.config import make_config
from posttrain_jax.rewards import tokens as token_rewards
from posttrain_jax.tasks import conditioned, vocab
from posttrain_jax.tasks.mixture import Mixture

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


@functools.cache
def compiled(task, separators):
  world = token_rewards.World(task, MODEL)
  return quick_jit(
    lambda examples, samples, hparams: token_rewards.fine_grained(
      world, None, examples, samples, KEY, separators=separators, **hparams
    )
  )


def segments(task, examples, groups, size, fill=0, separators=',', **hparams):
  """For each problem {text: rewards of its tokens}, and metrics."""
  samples = samples_of(groups, size, fill)
  rewards, metrics = compiled(task, separators)(examples, samples, hparams)
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
  '1,3,1': row(9, c1=0.5, c3=-0.5, c4=-0.5),
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
  # A number that was cut off is wrong, whatever would have come.
  np.testing.assert_allclose(
    found[1]['1,3,1'], row(9, c1=0.5, c3=0.5, c4=-0.5), atol=1e-6
  )
  assert 0 < metrics['segments_right'] < 1


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
  texts = ['1,3,3$', '1;2', '']
  (found,), metrics = segments(
    SORTING, one, [texts], 7, separators='', weight=1.0, missing=0.1
  )
  np.testing.assert_allclose(found['1,3,3$'], [1, 1, -1, 1, 1, 1, 0], atol=1e-6)
  np.testing.assert_allclose(
    found['1;2'], [1, -1, 1 - 0.3, 0, 0, 0, 0], atol=1e-6
  )
  # Means over completions; the share is of all segments.
  np.testing.assert_allclose(metrics['segments'], (6 + 3 + 0) / 3)
  np.testing.assert_allclose(metrics['segments_right'], 7 / 9, rtol=1e-6)
  np.testing.assert_allclose(metrics['segments_missing'], (0 + 3 + 6) / 3)


def test_other_right_answers_earn_what_the_oracle_would():
  texts = ['(3*5)+7$', '7+5*3$', '((3*5))+7$', '(3*5)+5$']
  (found,), _ = segments(
    COUNTDOWN, twelve(COUNTDOWN), [texts], 12, separators='', weight=0.5
  )
  # The oracle's eight tokens earn 4, however many others share them.
  for text in texts[:3]:
    rewards, length = found[text], len(text)
    np.testing.assert_allclose(rewards[:length], 4.0 / length, rtol=1e-6)
  wrong = np.full(12, 0.5)
  wrong[6], wrong[8:] = -0.5, 0.0
  np.testing.assert_allclose(found['(3*5)+5$'], wrong)


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


def test_a_condition_does_not_change_what_is_right():
  # Brevity earns a wrong answer a reward above 0.5 here.
  task = conditioned.wrap(SORTING, 'direction', degrees=45.0)
  inner = three_numbers(SORTING)
  examples = inner.replace(
    prompt=jnp.pad(inner.prompt, ((0, 0), (2, 0))),
    prompt_mask=jnp.pad(inner.prompt_mask, ((0, 0), (2, 0))),
    answer={'inner': inner.answer, 'angle': jnp.full((2,), jnp.pi / 4)},
  )
  groups = [['1,2,3$', '7$'], ['1,3,12$', '7$']]
  found, _ = segments(task, examples, groups, 8, weight=0.5, missing=0.2)
  np.testing.assert_allclose(found[0]['1,2,3$'], row(8, c1=0.5, c3=0.5, c5=0.5))
  np.testing.assert_allclose(
    found[1]['1,3,12$'], row(8, c1=0.5, c3=0.5, c6=0.5)
  )
  for problem in found:
    np.testing.assert_allclose(problem['7$'], row(8, c1=-0.5 - 0.4), rtol=1e-6)


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
