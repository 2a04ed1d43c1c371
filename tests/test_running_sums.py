"""Running sums: what writers write, and what each step is worth."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit
from test_token_rewards import padded

from posttrain_jax import tasks
from posttrain_jax.core.types import Example, Rollout
from posttrain_jax.models.config import make_config
from posttrain_jax.rewards import tokens as token_rewards
from posttrain_jax.tasks import vocab

SIZE, END = 14, '<eos>'


def of_digits(*digits: int) -> Example:
  task = tasks.make('running_sums', count=len(digits))
  return task.level(jnp.array(digits, jnp.int32))


def written(task, digits: tuple[int, ...], count: int = 1) -> list[str]:
  """What the writer says of a problem, `count` times, without the end."""
  keys = jax.random.split(jax.random.key(1), count)
  found = quick_jit(jax.vmap(task.solve, (None, 0)))(of_digits(*digits), keys)
  texts = [vocab.decode(*row) for row in zip(found.tokens, found.mask)]
  assert all(text.endswith(END) for text in texts)
  return [text.removesuffix(END) for text in texts]


def test_prompts_say_the_digits():
  example = of_digits(7, 5, 8)
  prompt = vocab.decode(example.prompt, example.prompt_mask)
  assert prompt == '7+5+8='


@pytest.mark.parametrize(
  'digits, said',
  [
    ((7, 5, 8), '2,0,>0'),
    ((0, 0, 1), '0,1,>1'),
    ((4, 5), '9,>9'),
    ((9, 9, 9, 9), '8,7,6,>6'),
  ],
)
def test_totals_and_the_sum(digits, said):
  make = lambda **knobs: tasks.make('running_sums', count=len(digits), **knobs)
  assert written(make(), digits) == [said]
  assert written(make(chain_of_thought=False), digits) == [said[-1]]


def test_digits_are_drawn_up_to_the_largest():
  task = tasks.make('running_sums', most=2)
  keys = jax.random.split(jax.random.key(0), 64)
  drawn = quick_jit(jax.vmap(task.sample))(keys).answer['digits']
  assert set(np.asarray(drawn).ravel().tolist()) == {0, 1, 2}


def test_a_writer_who_counts_one_too_many():
  task = tasks.make('running_sums', slips=1.0)
  assert written(task, (7, 5, 8, 1)) == ['3,2,4,>4']
  task = tasks.make('running_sums', slips=0.5)
  wanted = set()
  for slips in itertools.product((0, 1), repeat=3):
    a, b, c = (12, 20, 21) + np.cumsum(slips)
    wanted.add(f'{a % 10},{b % 10},{c % 10},>{c % 10}')
  assert set(written(task, (7, 5, 8, 1), 128)) == wanted


def test_thoughts_that_end_early():
  said = written(tasks.make('running_sums', cut=1.0), (7, 5, 8, 1), 64)
  assert set(said) == {'>1', '2,>1', '2,0,>1'}
  half = written(tasks.make('running_sums', cut=0.5), (7, 5, 8, 1), 256)
  assert 0.4 < np.mean([x != '2,0,1,>1' for x in half]) < 0.6


SEGMENTS = {
  '2,0,1,>1$': {1: 1, 3: 1, 5: 1, 8: 1},
  '2,9,0,>0$': {1: 1, 3: -1, 5: 1, 8: -1},  # goes on from what it wrote
  '2,9,1,>1$': {1: 1, 3: -1, 5: -1, 8: 1},
  '2,>1$': {1: 1, 4: 1},
  '2,0>1$': {1: 1, 2: -1, 5: 1},  # a step without its end
  '2,0,1,3,>1$': {1: 1, 3: 1, 7: -1, 10: 1},  # runs on
  '2,,0,>1$': {1: 1, 3: -1, 4: -1, 7: 1},  # all after it are wrong
  '>1$': {2: 1},
  '>>1$': {0: -1, 3: 1},
  '1$': {1: 1},  # all of it is the answer
  '7$': {0: -1},
  '2,0,': {1: 1, 3: 1},
  '2,0,1,>1': {1: 1, 3: 1, 5: 1, 7: 1},
  '$': {},
  '': {},
}


@pytest.mark.parametrize('fill', [0, vocab.token(','), vocab.token('>')])
def test_every_step_is_judged(fill):
  task = tasks.make('running_sums')
  tokens, mask = padded(list(SEGMENTS), SIZE, fill)
  found = quick_jit(jax.vmap(task.segments, (None, 0, 0)))(
    of_digits(7, 5, 8, 1), tokens, mask
  )
  for text, graded, ends in zip(SEGMENTS, *map(np.asarray, found)):
    got = {int(c): float(x) for c, x in zip(ends, graded) if c >= 0}
    assert got == SEGMENTS[text], text
    np.testing.assert_array_equal(graded[ends < 0], 0.0)


@pytest.mark.parametrize('at_end', [0.0, 0.25, 1.0])
def test_rewards_of_steps_may_wait_for_the_end(at_end):
  task = tasks.make('running_sums')
  tokens, mask = padded(['2,9,0,>1$', '2,0,'], SIZE)
  example = jax.tree.map(lambda x: x[None], of_digits(7, 5, 8, 1))
  world = token_rewards.World(task, make_config('depth-1'))
  drawn = Rollout(tokens[None], mask[None], 0.0 * mask[None], mask[None, :, 0])
  found, _ = quick_jit(
    lambda share: token_rewards.fine_grained(
      world, None, example, drawn, jax.random.key(0), weight=0.3,
      at_end=share,
    )
  )(at_end)  # fmt: skip
  wanted = np.zeros((2, SIZE))
  wanted[0, [1, 3, 5, 8]] = 0.3, -0.3, 0.3, 0.3
  wanted[1, [1, 3]] = 0.3
  wanted *= 1.0 - at_end
  wanted[0, 8] += at_end * 0.6
  wanted[1, 3] += at_end * 0.6
  np.testing.assert_allclose(found[0], wanted, atol=1e-6)


@pytest.mark.parametrize(
  'knobs, told',
  [
    ({'slips': 1.5}, 'slips=1.5 is no share'),
    ({'cut': -0.1}, 'cut=-0.1 is no share'),
    ({'cut': 0.5, 'chain_of_thought': False}, 'cut=0.5 is of the steps'),
    ({'count': 65}, 'count=65 is not in 2..64'),
    ({'most': 0}, 'most=0 is not in 1..9'),
  ],
)
def test_knobs_that_cannot_be(knobs, told):
  with pytest.raises(ValueError, match=told):
    tasks.make('running_sums', **knobs)
