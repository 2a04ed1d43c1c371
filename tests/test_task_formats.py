"""Addition in several formats: texts and verdicts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.core.types import Example
from posttrain_jax.tasks import formats, vocab

NAMES = tuple(formats.LETTERS)


def of(first, second) -> Example:
  terms = jnp.asarray([first, second], jnp.int32)
  return Example(jnp.zeros(1), jnp.zeros(1), jnp.uint32(0), {'terms': terms})


def alone(name):
  """The task with demonstrations in one format."""
  return tasks.make('formats', **{x: float(x == name) for x in NAMES})


def padded(lines, size=32):
  rows = [vocab.encode(line) for line in lines]
  tokens = np.stack([np.pad(row, (0, size - len(row))) for row in rows])
  tokens[np.arange(len(rows)), [len(row) for row in rows]] = vocab.EOS
  return jnp.asarray(tokens)


@pytest.mark.parametrize(
  'name, text',
  [
    ('direct', 'd1032'),
    ('reverse', 'r2301'),
    # 7 + 5 carries, 3 + 9 + 1 carries, 9 + 0 + 1 has two digits.
    ('columns', 'c12,13,10>1032'),
    ('program', 'p937 95+'),
  ],
)
def test_demonstrations_by_hand(name, text):
  task = alone(name)
  solution = quick_jit(task.solve)(of(937, 95), jax.random.key(0))
  assert vocab.decode(solution.tokens, solution.mask) == text + '<eos>'
  # The longest sum of three digits and its EOS fill the buffer.
  assert solution.length == task.completion_length - (name == 'program')


@pytest.mark.parametrize('prune, slips, text', [
  (0.0, 0.0, 'c7+5=12,3+9+1=13,9+0+1=10>1032'),
  (1.0, 0.0, 'c12,13,10>1032'),
  # What is forgotten is not said either.
  (0.0, 1.0, 'c7+5=12,3+9=12,9+0=9>922'),
  (1.0, 1.0, 'c12,12,9>922'),
])  # fmt: skip
def test_columns_may_be_spelled(prune, slips, text):
  task = tasks.make(
    'formats', direct=0.0, reverse=0.0, program=0.0, spelled=True,
    prune=prune, slips=slips,
  )  # fmt: skip
  solution = quick_jit(task.solve)(of(937, 95), jax.random.key(0))
  assert vocab.decode(solution.tokens, solution.mask) == text + '<eos>'
  found = quick_jit(task.verify)(
    of(937, 95), solution.tokens, solution.mask.astype(jnp.float32)
  )
  assert found['reward'] == float(slips == 0.0) and found['columns'] == 1
  # The longest ones fill the buffer.
  if not prune and not slips:
    assert solution.length == task.completion_length


RIGHT = {
  'direct': ['d32', 'd032'],
  'reverse': ['r23', 'r230'],
  # Columns are not judged, nor is a marker inside of them.
  'columns': ['c12,3>32', 'c>32', 'c1>5>32'],
  'program': ['p27 5+', 'p5 27+', 'p20 7 5++', 'p1 2+29+', 'p1 1 1 29+++'],
}
WRONG = {
  'direct': ['d23', 'd', 'd3 2', 'd>32', 'd27 5+'],
  'reverse': ['r32', 'r', 'r>23'],
  'columns': ['c32', 'c32>', 'c>23', 'c>32,'],
  # No sum, one term, two numbers left, five numbers, a long number, no operand.
  'program': ['p32', 'p32+', 'p32 0', 'p32 1 1+', 'p1 1 1 1 28++++',
              'p000000032 0+', 'p+', 'p 27 5+', 'p27  5+', 'p27 5+ ', 'p'],
  '': ['32', '', 'x32', ' d32'],
}  # fmt: skip


def test_verdicts_by_hand():
  task = tasks.make('formats')
  verify = quick_jit(
    jax.vmap(lambda row: task.verify(of(27, 5), row, jnp.ones(32)))
  )
  for table, reward in ((RIGHT, 1.0), (WRONG, 0.0)):
    lines = [(name, line) for name in table for line in table[name]]
    found = verify(padded([line for _, line in lines]))
    for i, (name, line) in enumerate(lines):
      assert found['reward'][i] == reward, line
      for other in NAMES:
        assert found[other][i] == float(name == other), (line, other)


@pytest.mark.parametrize('text, ok', [('99999998 1+', True),
                                      ('99999999 1+', False)])  # fmt: skip
def test_a_program_has_values_of_eight_digits(text, ok):
  value, found = formats.run_program(
    vocab.Text(padded([text])[0], jnp.int32(len(text)))
  )
  assert bool(found) == ok
  if ok:
    assert value == 99999999


def test_answers_are_alike_in_all_formats():
  task = tasks.make('formats')
  lines = ['d32', 'r23', 'c>32', 'p27 5+', 'q32']
  said = quick_jit(jax.vmap(lambda row: task.answer(row, jnp.ones(32))))(
    padded(lines)
  )
  shown = [vocab.decode(t[:n]) for t, n in zip(said.tokens, said.length)]
  assert shown == ['32', '32', '32', '32', '']


def test_the_oracle_draws_by_weight():
  task = tasks.make(
    'formats', direct=1.0, reverse=3.0, columns=0.0, program=0.0
  )
  solve = quick_jit(jax.vmap(lambda key: task.solve(of(27, 5), key).tokens[0]))
  first = solve(jax.random.split(jax.random.key(0), 2000))
  count = lambda letter: int(np.sum(first == vocab.token(letter)))
  assert abs(count('r') - 1500) < 80
  assert count('d') + count('r') == 2000


@pytest.mark.parametrize(
  'knobs, message',
  [
    ({'num_digits': 8}, 'num_digits=8 is not in 1..7'),
    ({'columns': -1.0}, 'not negative'),
    ({'program': float('nan')}, 'finite'),
    (dict.fromkeys(NAMES, 0.0), 'at least one positive'),
    ({'slips': 1.5}, 'slips=1.5 is no share'),
    ({'wanted': 'column'}, 'Did you mean "columns"'),
    ({'num_digits': 2, 'least_digits': 3}, 'least_digits=3 is not in 1..'),
    ({'spelled': True, 'prune': -0.5}, 'prune=-0.5 is no share'),
    ({'prune': 0.5}, 'prune=0.5 is of spelled columns'),
    ({'spelled': True, 'columns': 0.0}, 'whose weight is columns=0.0'),
  ],
)
def test_bad_knobs_are_named(knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make('formats', **knobs)


@pytest.mark.parametrize(
  'first, second, text',
  [
    # What is carried is forgotten in every column but the lowest.
    (937, 95, 'c12,12,9>922'),
    (27, 5, 'c12,2>22'),
    (88, 88, 'c16,16>166'),
    (12, 34, 'c6,4>46'),
  ],
)
def test_a_writer_who_forgets_what_is_carried(first, second, text):
  weights = {x: float(x == 'columns') for x in NAMES}
  task = tasks.make('formats', **weights, slips=1.0)
  solution = quick_jit(task.solve)(of(first, second), jax.random.key(0))
  assert vocab.decode(solution.tokens, solution.mask) == text + '<eos>'


def test_slips_may_be_traced_and_are_as_many_as_said():
  def right(slips, key):
    task = tasks.make(
      'formats', direct=1.0, reverse=0.0, columns=0.0, program=0.0, slips=slips
    )
    solution = task.solve(of(27, 5), key)
    return task.verify(of(27, 5), solution.tokens, solution.mask)['reward']

  keys = jax.random.split(jax.random.key(0), 1000)
  share = jax.jit(lambda x: jnp.mean(jax.vmap(right, (None, 0))(x, keys)))
  assert share(0.0) == 1.0 and share(1.0) == 0.0
  assert abs(share(0.3) - 0.7) < 0.05


def test_the_wanted_format_alone_is_right():
  task = tasks.make('formats', wanted='columns')
  verify = quick_jit(
    jax.vmap(lambda row: task.verify(of(27, 5), row, jnp.ones(32)))
  )
  found = verify(padded(['c12,3>32', 'c12,2>22', 'd32', 'r23']))
  assert found['reward'].tolist() == [1, 0, 0, 0]
  assert found['columns'].tolist() == [1, 1, 0, 0]


def test_operands_may_have_a_least_length():
  task = tasks.make('formats', num_digits=2, least_digits=2)
  draw = quick_jit(jax.vmap(task.sample))
  terms = draw(jax.random.split(jax.random.key(0), 500)).answer['terms']
  assert terms.min() >= 10 and terms.max() <= 99
  assert len(np.unique(terms)) > 80
