"""Traces with a set number of wrong turns, and reasoning-gym's own verdicts."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_puzzles import judge
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.tasks import backtracking, vocab
from posttrain_jax.tasks.parts import search_cells

COUNT = 48
SIZES = {'sudoku': 6, 'countdown': 4, 'queens': 5, 'coloring': 5}
DEPTHS = {'sudoku': 2, 'countdown': 1, 'queens': 2, 'coloring': 2}


@functools.cache
def program(puzzle):
  """(key, backtracks, direct, incorrect, shuffled) -> example, text, verdict;
  one program for all kinds of traces."""

  def run(key, backtracks, direct, incorrect, shuffled):
    task = backtracking.Task(
      puzzle=puzzle, size=SIZES[puzzle], depth=DEPTHS[puzzle],
      backtracks=backtracks, direct=direct, incorrect=incorrect,
      shuffled=shuffled, partial=0.1,
    )  # fmt: skip
    sample_key, solve_key = jax.random.split(key)
    example = task.sample(sample_key)
    text = task.solve(example, solve_key)
    return example, text, task.verify(example, text.tokens, text.mask)

  return quick_jit(jax.vmap(run, (0, None, None, None, None)))


@functools.cache
def draw(puzzle, backtracks=0.0, direct=0.0, incorrect=0.0, shuffled=0.0):
  """(examples, prompts, texts, rewards)."""
  keys = jax.random.split(jax.random.key(2), COUNT)
  kinds = (backtracks, direct, incorrect, shuffled)
  example, text, verdict = jax.device_get(program(puzzle)(keys, *kinds))
  prompts = [
    vocab.decode(example.prompt[i], example.prompt_mask[i])
    for i in range(COUNT)
  ]
  said = [
    vocab.decode(text.tokens[i], text.mask[i]).removesuffix('<eos>')
    for i in range(COUNT)
  ]
  return example, prompts, said, verdict['reward']


def pieces(text):
  """Steps and detours of a Countdown trace, which they fill without a rest."""
  trace = text.split('>')[0]
  found = re.findall(r'\w[-+*/]\w\w#?', trace)
  assert ''.join(found) == trace, text
  return found


@pytest.mark.parametrize('puzzle', SIZES)
def test_a_trace_has_as_many_detours_as_asked(puzzle):
  for asked in (0, 1, 5):
    _, _, texts, rewards = draw(puzzle, float(asked))
    np.testing.assert_array_equal(rewards, 1.0)
    counts = [text.count('#') for text in texts]
    assert max(counts) == asked
    if puzzle in ('sudoku', 'queens') or asked < 2:
      assert min(counts) == asked
  most = [text.count('#') for text in draw(puzzle, 10.0)[2]]
  assert np.mean(most) > 5 or puzzle == 'coloring'


@pytest.mark.parametrize('puzzle', SIZES)
def test_kinds_of_traces(puzzle):
  *_, plain, _ = draw(puzzle, 0.0)
  *_, right, _ = draw(puzzle, 5.0)
  *_, mixed, rewards = draw(puzzle, 5.0, 0.0, 0.0, 1.0)
  np.testing.assert_array_equal(rewards, 1.0)
  # The keys are the same, so it is the same trace in another order.
  for one, other in zip(right, mixed):
    assert sorted(one) == sorted(other)
    assert one.split('>')[1] == other.split('>')[1]
  moved = [one != other for one, other in zip(right, mixed)]
  assert np.mean(moved) > 0.8
  *_, direct, rewards = draw(puzzle, 5.0, 1.0)
  np.testing.assert_array_equal(rewards, 1.0)
  assert direct == [text.split('>')[1] for text in plain]
  *_, wrong, rewards = draw(puzzle, 5.0, 0.0, 1.0)
  np.testing.assert_allclose(rewards, 0.1)
  assert np.mean([text.count('#') for text in wrong]) > 2
  for one, other in zip(right, wrong):
    assert len(other.split('>')) == 2
    assert len(other.split('>')[1]) == len(one.split('>')[1])


def test_detours_of_a_sudoku_by_hand():
  """Row 1 lacks 2 and 4: a 4 first leaves c with no value but 2."""
  task = tasks.make('backtracking', size=2, backtracks=6.0)
  grid = np.array([1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1]) - 1
  holes = np.zeros(16, bool)
  holes[[1, 3]] = True
  answer = {'values': jnp.asarray(grid), 'holes': jnp.asarray(holes)}
  found = quick_jit(task._puzzle.branches)(
    answer, jax.random.key(0), jnp.bool_(False)
  )
  texts = [
    vocab.decode(found.detours.tokens[i], found.detours.mask[i])
    for i in np.flatnonzero(found.ok)
  ]
  # 1 and 3 are in the row, 4 in the column of b; 3 1 2 clash in d.
  assert texts == ['b1#', 'b3#', 'b4#', 'd1#', 'd2#', 'd3#']
  steps = vocab.decode(np.asarray(found.steps.tokens).reshape(-1))
  assert steps == 'b2d4'


def test_detours_of_countdown_are_dead():
  _, prompts, texts, _ = draw('countdown', 10.0)
  values = '0123456789abcdefghijklmnopqrstuvwxyz'

  def ends(a, b):
    """What two numbers can make."""
    high, low = max(a, b), min(a, b)
    exact = [high // low] if high % low == 0 else []
    return {high + low, high - low, high * low, *exact}

  for prompt, text in zip(prompts, texts):
    target = values.index(prompt[4])
    rest = [values.index(x) for x in prompt[:3]]
    seen = set()
    for piece in pieces(text):
      turn = (piece, *sorted(rest))
      assert turn not in seen
      seen.add(turn)
      a, b, made = (values.index(piece[i]) for i in (0, 2, 3))
      assert made in ends(a, b)
      after = list(rest)
      after.remove(a)
      after.remove(b)
      after.append(made)
      if not piece.endswith('#'):
        rest = after
      elif len(after) == 2:
        assert target not in ends(*after)
      else:
        assert made != target
    assert rest == [target]


def board_of(columns):
  rows = [['_'] * 8 for _ in range(8)]
  for row, column in enumerate(columns):
    if column is not None:
      rows[row][column - 1] = 'Q'
  return '\n'.join(' '.join(row) for row in rows)


def changes(text, alphabet):
  """An answer and all that differ from it in one place."""
  answer = text.split('>')[-1]
  out = [answer]
  for i, kept in enumerate(answer):
    out += [answer[:i] + x + answer[i + 1 :] for x in alphabet if x != kept]
  return out


def test_queens_as_reasoning_gym_has_them():
  gym = pytest.importorskip('reasoning_gym')
  size = SIZES['queens']
  task = tasks.make('backtracking', puzzle='queens', size=size)
  data = gym.create_dataset(
    'n_queens', n=8, min_remove=size, max_remove=size, size=COUNT, seed=1
  )
  boards = {tuple(row.index('Q') for row in board) for board in data._solutions}
  assert boards == {tuple(row) for row in search_cells._queens().tolist()}
  examples, prompts, texts, _ = draw('queens')
  answers = [changes(text, '12345678') for text in texts]
  rewards = judge(task, examples, answers)['reward']
  for i, prompt in enumerate(prompts):
    clues = [None if x == '_' else int(x) for x in prompt[:8]]
    assert clues.count(None) == size
    puzzle = [line.split() for line in board_of(clues).split('\n')]
    keeps = functools.partial(data._is_tractable_solution, puzzle)
    valid = [data._board_to_string(x) for x in data._solutions if keeps(x)]
    entry = {'metadata': {'valid_answers': valid}}
    for j, answer in enumerate(answers[i]):
      given = iter(answer)
      whole = [int(next(given)) if x is None else x for x in clues]
      said = data.score_answer(board_of(whole), entry)
      assert rewards[i, j] == said, (prompt, answer)


def test_colorings_as_reasoning_gym_has_them():
  pytest.importorskip('reasoning_gym')
  from reasoning_gym.algorithmic import graph_color

  data = graph_color.GraphColorDataset(
    graph_color.GraphColorConfig(seed=1, edge_probability=search_cells.EDGE)
  )
  size = SIZES['coloring']
  task = tasks.make('backtracking', puzzle='coloring', size=size)
  examples, prompts, texts, _ = draw('coloring')
  answers = [changes(text, '123') for text in texts]
  rewards = judge(task, examples, answers)['reward']
  pairs = [(i, j) for j in range(size) for i in range(j)]
  for i, prompt in enumerate(prompts):
    edges = [pair for pair, bit in zip(pairs, prompt) if bit == '1']
    puzzle = {
      'vertices': list(range(size)), 'edges': edges, 'num_colors': 3,
      'color_options': [1, 2, 3],
    }  # fmt: skip
    # The oracle's answer is the package's.
    greedy = graph_color.greedy_graph_coloring(puzzle)
    assert answers[i][0] == ''.join(str(greedy[v]) for v in range(size))
    for j, answer in enumerate(answers[i]):
      said = json.dumps({v: int(x) for v, x in enumerate(answer)})
      score = data.score_answer(said, {'metadata': {'puzzle': puzzle}})
      assert (rewards[i, j] == 1.0) == (score == 1.0), (prompt, answer)


def test_form():
  """What is wrong but well-formed, and what is neither."""
  task = tasks.make('backtracking', puzzle='queens', size=5, partial=0.1)
  examples, _, texts, _ = draw('queens')
  good = texts[0].split('>')[1]
  texts = [good, f'a1#>{good}', f'>>{good}', '11111', '1111', '11119', '']
  first = jax.tree.map(lambda x: x[:1], examples)
  verdict = judge(task, first, [texts])
  np.testing.assert_allclose(
    verdict['reward'][0], [1.0, 1.0, 0.0, 0.1, 0.0, 0.0, 0.0], rtol=1e-6
  )


@pytest.mark.parametrize(
  'knobs, message',
  [
    ({'puzzle': 'queen'}, 'Did you mean "queens"'),
    ({'puzzle': 'queens', 'size': 8}, 'size=8 is not in 1..7'),
    ({'backtracks': 11.0}, 'backtracks=11.0 is not in 0..10'),
    ({'shuffled': 1.5}, 'shuffled=1.5 is not in 0..1'),
    ({'max_backtracks': -1}, 'max_backtracks=-1 is not in 0..99'),
    ({'depth': 0}, 'depth=0 is not in 1..64'),
  ],
)
def test_bad_knobs_are_named(knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make('backtracking', **knobs)
