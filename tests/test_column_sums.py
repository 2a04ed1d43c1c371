"""Sums by columns: what writers write, and what each step is worth."""

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

SIZE, END = 16, '<eos>'


def of_terms(first: int, second: int) -> Example:
  tokens = jnp.asarray(vocab.encode(f'{first}+{second}='))
  terms = {'terms': jnp.array([first, second], jnp.int32)}
  return Example(tokens, jnp.ones(len(tokens)), jnp.uint32(0), terms)


def written(task, first: int, second: int, count: int = 1) -> list[str]:
  """What the writer says of a problem, `count` times, without the end."""
  keys = jax.random.split(jax.random.key(1), count)
  found = quick_jit(jax.vmap(task.solve, (None, 0)))(
    of_terms(first, second), keys
  )
  texts = [vocab.decode(*row) for row in zip(found.tokens, found.mask)]
  assert all(text.endswith(END) for text in texts)
  return [text.removesuffix(END) for text in texts]


@pytest.mark.parametrize(
  'first, second, said',
  [
    (257, 68, '15,12,3,>325'),
    (5, 8, '13,>13'),
    (99, 1, '10,10,>100'),  # what the last column carries stays
    (0, 0, '0,>0'),
  ],
)
def test_columns_and_their_sum(first, second, said):
  task = tasks.make('column_sums')
  assert written(task, first, second) == [said]
  plain = tasks.make('column_sums', chain_of_thought=False)
  assert written(plain, first, second) == [said.split('>')[1]]


def test_a_writer_who_forgets_what_is_carried():
  task = tasks.make('column_sums', slips=1.0)
  assert written(task, 257, 68) == ['15,11,2,>215']
  assert written(task, 99, 1) == ['10,9,>90']
  said = set(written(tasks.make('column_sums', slips=0.5), 257, 68, 64))
  assert said == {
    '15,12,3,>325', '15,12,2,>225', '15,11,3,>315', '15,11,2,>215',
  }  # fmt: skip


def test_thoughts_that_end_early():
  said = written(tasks.make('column_sums', cut=1.0), 257, 68, 64)
  assert set(said) == {'>325', '15,>325', '15,12,>325'}
  half = written(tasks.make('column_sums', cut=0.5), 257, 68, 256)
  assert 0.4 < np.mean([x != '15,12,3,>325' for x in half]) < 0.6


SEGMENTS = {
  '15,12,3,>325$': {2: 1, 5: 1, 7: 1, 12: 1},
  '15,11,3,>315$': {2: 1, 5: -1, 7: 1, 12: -1},
  '15,>325$': {2: 1, 7: 1},
  '15,15,>325$': {2: 1, 5: -1, 10: 1},
  '15,12>325$': {2: 1, 4: -1, 9: 1},  # a step without its end
  '15,12,3,0,>325$': {2: 1, 5: 1, 7: 1, 9: -1, 14: 1},  # one too many
  '1,5,12,>325$': {1: -1, 3: -1, 6: -1, 11: 1},  # steps keep their places
  '>325$': {4: 1},
  '>>325$': {0: -1, 5: 1},
  '325$': {3: 1},  # all of it is the answer
  '7$': {0: -1},
  '15,12,': {2: 1, 5: 1},
  '15,12,3,>325': {2: 1, 5: 1, 7: 1, 11: 1},
  '$': {},
  '': {},
}


@pytest.mark.parametrize('fill', [0, vocab.token(','), vocab.token('>')])
def test_every_step_is_judged(fill):
  task = tasks.make('column_sums')
  tokens, mask = padded(list(SEGMENTS), SIZE, fill)
  found = quick_jit(jax.vmap(task.segments, (None, 0, 0)))(
    of_terms(257, 68), tokens, mask
  )
  for text, graded, ends in zip(SEGMENTS, *map(np.asarray, found)):
    got = {int(c): float(x) for c, x in zip(ends, graded) if c >= 0}
    assert got == SEGMENTS[text], text
    np.testing.assert_array_equal(graded[ends < 0], 0.0)


@pytest.mark.parametrize('at_end', [0.0, 0.25, 1.0])
def test_rewards_of_steps_may_wait_for_the_end(at_end):
  task = tasks.make('column_sums')
  tokens, mask = padded(['15,11,3,>325$', '15,12,'], SIZE)
  example = jax.tree.map(lambda x: x[None], of_terms(257, 68))
  world = token_rewards.World(task, make_config('depth-1'))
  drawn = Rollout(tokens[None], mask[None], 0.0 * mask[None], mask[None, :, 0])
  found, _ = quick_jit(
    lambda share: token_rewards.fine_grained(
      world, None, example, drawn, jax.random.key(0), weight=0.3,
      at_end=share,
    )
  )(at_end)  # fmt: skip
  wanted = np.zeros((2, SIZE))
  wanted[0, [2, 5, 7, 12]] = 0.3, -0.3, 0.3, 0.3
  wanted[1, [2, 5]] = 0.3
  wanted *= 1.0 - at_end
  wanted[0, 12] += at_end * 0.6
  wanted[1, 5] += at_end * 0.6
  np.testing.assert_allclose(found[0], wanted, atol=1e-6)


@pytest.mark.parametrize(
  'knobs, told',
  [
    ({'slips': 1.5}, 'slips=1.5 is no share'),
    ({'cut': -0.1}, 'cut=-0.1 is no share'),
    ({'cut': 0.5, 'chain_of_thought': False}, 'cut=0.5 is of the columns'),
    ({'num_digits': 9}, 'num_digits=9 is not in 1..8'),
    ({'least_digits': 4}, 'least_digits=4 is not in 1..num_digits=3'),
  ],
)
def test_knobs_that_cannot_be(knobs, told):
  with pytest.raises(ValueError, match=told):
    tasks.make('column_sums', **knobs)
