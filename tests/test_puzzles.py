"""Puzzles: literal problems, then oracles and verdicts against plain Python."""

import functools
import itertools
import random
from collections import deque
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_puzzles import (
  RIGHT,
  STEP,
  ahead,
  make24_value,
  read_grid,
  sokoban_play,
  sokoban_right,
)
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.core.types import Example
from posttrain_jax.tasks import sudoku, vocab
from posttrain_jax.tasks.parts import card_hands, grids

NUM_PROBLEMS = 256


@functools.cache
def draw(task):
  """(examples, [(prompt, text)]) of many problems and their oracle."""
  keys = jax.random.split(jax.random.key(1), NUM_PROBLEMS)
  run = lambda key: (e := task.sample(key), task.solve(e, key))
  example, solution = jax.device_get(quick_jit(jax.vmap(run))(keys))
  pairs = []
  for i in range(NUM_PROBLEMS):
    text = vocab.decode(solution.tokens[i], solution.mask[i])
    assert text.endswith('<eos>')
    prompt = vocab.decode(example.prompt[i], example.prompt_mask[i])
    pairs.append((prompt, text.removesuffix('<eos>')))
  return example, pairs


@functools.cache
def verifier(task):
  rows = jax.vmap(task.verify, (None, 0, 0))
  return quick_jit(jax.vmap(rows))


def judge(task, examples, texts):
  """Verdicts {component: [N, K]} of texts [N][K], in buffers of 72."""
  tokens = np.zeros((len(texts), len(texts[0]), 72), np.int32)
  mask = np.zeros(tokens.shape, np.float32)
  for i, j in np.ndindex(tokens.shape[:2]):
    row = [*vocab.encode(texts[i][j]), vocab.EOS]
    tokens[i, j, : len(row)] = row
    mask[i, j, : len(row)] = 1.0
  return jax.device_get(verifier(task)(examples, tokens, mask))


def variants(text, alphabet, count):
  """The answer, and random edits of it."""
  rng = random.Random(text)
  answer = text.split('>')[-1]
  out = [text, answer]
  while len(out) < count:
    letters = list(answer)
    for _ in range(rng.randint(1, 2)):
      i = rng.randrange(len(letters))
      edit = rng.randrange(4)
      if edit == 0:
        letters[i] = rng.choice(alphabet)
      elif edit == 1:
        letters.insert(i, rng.choice(alphabet))
      elif edit == 2 and len(letters) > 1:
        del letters[i]
      else:
        j = rng.randrange(len(letters))
        letters[i], letters[j] = letters[j], letters[i]
    out.append(''.join(letters))
  rng.shuffle(letters)
  return [*out, ''.join(letters)]


SETTINGS = [
  ('make24', {'chain_of_thought': True}, '0123456789+-*/()'),
  ('make24', {'num_cards': 3, 'face_cards': 'rank', 'target': 30}, '12+-*/()j'),
  ('sudoku', {'num_empty': 10, 'chain_of_thought': True}, '01234_'),
  ('sudoku', {'num_empty': 13, 'unique': False, 'answer': 'holes'}, '12345'),
  ('frozen_lake', {}, 'udlrx'),
  ('frozen_lake', {'size': 6, 'hole_density': 0.6, 'corners': True}, 'udlr'),
  ('sokoban', {}, 'udlrx'),
  ('sokoban', {'num_boxes': 2, 'num_pushes': 6, 'max_moves': 24}, 'udlr'),
]


@pytest.mark.parametrize('name, knobs, alphabet', SETTINGS)
def test_verdicts_agree_with_python(name, knobs, alphabet):
  task = tasks.make(name, **knobs)
  examples, pairs = draw(task)
  assert len({prompt for prompt, _ in pairs}) > NUM_PROBLEMS // 4
  texts = [variants(text, alphabet, 8) for _, text in pairs]
  rewards = judge(task, examples, texts)['reward']
  expected = np.array(
    [
      [RIGHT[name](task, prompt, text.split('>')[-1]) for text in row]
      for (prompt, _), row in zip(pairs, texts)
    ]
  )
  np.testing.assert_array_equal(rewards, expected)
  # The oracle is right, with and without its thought; most edits are not.
  assert expected[:, :2].all()
  assert 0 < expected[:, 2:].mean() < 0.7


def test_make24_solves_every_solvable_hand():
  # 1362 and 566 of the hands of ranks 1..13 and 1..10 reach 24.
  for values, count in ((range(1, 14), 1362), (range(1, 11), 566)):
    hands, *_ = card_hands.hands(4, tuple(values), 24, False)
    assert len(hands) == count
  # Three cards, by trying everything.
  hands, *_ = card_hands.hands(3, tuple(range(1, 14)), 24, False)
  found = set(map(tuple, hands.tolist()))
  shapes = ['({}{}{}){}{}', '{}{}({}{}{})']
  everything = itertools.combinations_with_replacement(range(1, 14), 3)
  for hand in itertools.islice(everything, 0, None, 5):
    tries = (
      make24_value(shape.format(a, o, b, p, c))
      for shape in shapes
      for a, b, c in itertools.permutations(hand)
      for o, p in itertools.product('+-*/', repeat=2)
    )
    assert (hand in found) == any(t and t[0] == 24 for t in tries), hand


def test_make24_thoughts_are_true():
  task = tasks.make('make24', chain_of_thought=True)
  _, pairs = draw(task)
  seen_fraction = False
  for _, text in pairs:
    thought, answer = text.split('>')
    lines = [line.split('=') for line in thought.split(',')]
    assert len(lines) == 3 and lines[-1][1] == '24'
    for left, right in lines:
      assert make24_value(left)[0] == Fraction(right)
      seen_fraction |= '/' in right
  hands = card_hands.hands(4, (1, 2, 3, 4, 5, 6, 7, 8), 24, True)
  shown = dict(zip(map(tuple, hands[0].tolist()), zip(*hands[1:])))
  tokens, length = shown[3, 3, 8, 8]
  text = vocab.decode(tokens[:length])
  assert text == '8/3=8/3,3-(8/3)=1/3,8/(1/3)=24>8/(3-8/3)'


def test_make24_five_cards_with_a_zero_inside():
  # (3 - 3) * ..., as 7 and 11 cannot make 0.
  tree = card_hands.solve((3, 3, 7, 11), 0, True)
  assert make24_value(card_hands.write(tree)) == (0, [3, 3, 7, 11])
  hands, tokens, lengths = card_hands.hands(5, (1, 2, 3), 20, False)
  for hand, row, length in zip(hands, tokens, lengths):
    value = make24_value(vocab.decode(row[:length]))
    assert value == (20, sorted(hand.tolist()))


def by_hand(answer) -> Example:
  answer = {k: jnp.asarray(v)[None] for k, v in answer.items()}
  blank = jnp.zeros((1, 1))
  return Example(blank, blank, jnp.zeros(1, jnp.uint32), answer)


def check(task, example, right, wrong):
  verdicts = judge(task, example, [right + wrong])
  expected = [1.0] * len(right) + [0.0] * len(wrong)
  np.testing.assert_array_equal(verdicts['reward'][0], expected)
  return verdicts


def test_make24_by_hand():
  # '[q,4,j,6]24:', where j and q count 10
  task = tasks.make('make24')
  right = ['6*4*10/10', '(4+10-10)*6', '6/(10/10/4)']
  right += ['6+4+10+10>10/10*(6*4)', '((((((6))))))*4+(10-10)']
  wrong = [
    '6*4*j/q',
    '6*4',
    '4+10+10',
    '6*4+10-10+0',
    '6*4+10*10',
    '6*4/(10-10)',
  ]
  wrong += ['6*4+10-10>', '(6*4+10-10', '6*4*10/10=24', '6*4*1010', '', '24']
  check(task, by_hand({'numbers': [10, 4, 10, 6]}), right, wrong)


def test_make24_prompts():
  task = tasks.make('make24', face_cards='9,10,11', show_rule=True)
  example, pairs = draw(task)
  faces = {'j': 9, 'q': 10, 'k': 11}
  assert any('q' in prompt[11:] for prompt, _ in pairs)
  for i, (prompt, _) in enumerate(pairs):
    assert prompt.startswith('[j9q10k11;') and prompt.endswith(']24:')
    cards = prompt[10:-4].split(',')
    values = [faces.get(card) or int(card) for card in cards]
    np.testing.assert_array_equal(example.answer['numbers'][i], values)


def test_sudoku_by_hand():
  grid = '1234341221434321'
  holes = np.array([c == '_' for c in '1__434__2143432_'])
  answer = {'grid': [int(c) for c in grid], 'holes': holes}
  wrong = [grid[:-1], grid + '1', '1324341221434321', '1' * 16, '4' + grid[1:]]
  right = [grid, '12=2>' + grid, '>>' + grid]
  check(tasks.make('sudoku'), by_hand(answer), right, wrong + ['', '23121'])
  task = tasks.make('sudoku', num_empty=5, answer='holes')
  wrong = ['2312', '231211', '23122', '32121', grid, '23_21']
  check(task, by_hand(answer), ['23121', 'x>23121'], wrong)
  empty = {'grid': answer['grid'], 'holes': np.ones(16, bool)}
  task = tasks.make('sudoku', num_empty=16, unique=False)
  right = [grid, '2143341243211234', '1342421324313124']
  check(task, by_hand(empty), right, ['1234123434122143', '0' * 16])


def test_sudoku_thought_by_hand():
  # Cell 11 has one value left, so has 22 after it; the rest are forced too.
  answer = {
    'grid': [int(c) for c in '1234341221434321'],
    'holes': np.array([c == '_' for c in '_234_412_1434321']),
  }
  task = tasks.make('sudoku', num_empty=3, chain_of_thought=True)
  example = jax.tree.map(lambda x: x[0], by_hand(answer))
  text = quick_jit(task.solve)(example, jax.random.key(0))
  written = vocab.decode(text.tokens, text.mask)
  assert written == '11=1,21=3,31=2>1234341221434321<eos>'


@pytest.mark.parametrize('num_empty', [1, 10])
def test_sudoku_is_unique(num_empty):
  grids_ = sudoku.grids()
  assert len({tuple(grid) for grid in grids_.tolist()}) == 288
  _, pairs = draw(tasks.make('sudoku', num_empty=num_empty))
  for prompt, _ in pairs:
    assert prompt.count('_') == num_empty
    clues = [(i, int(c)) for i, c in enumerate(prompt[1:17]) if c != '_']
    fits = np.all([grids_[:, i] == value for i, value in clues], axis=0)
    assert fits.sum() == 1, prompt


def test_sudoku_can_be_ambiguous():
  _, pairs = draw(tasks.make('sudoku', num_empty=10, unique=False))
  counts = []
  for prompt, _ in pairs:
    assert prompt.count('_') == 10
    clues = [(i, int(c)) for i, c in enumerate(prompt[1:17]) if c != '_']
    fits = [sudoku.grids()[:, i] == value for i, value in clues]
    counts.append(np.all(fits, axis=0).sum())
  assert min(counts) == 1 and max(counts) > 1


def batched(example):
  return jax.tree.map(lambda x: jnp.asarray(x)[None], example)


def test_frozen_lake_by_hand():
  task = tasks.make('frozen_lake', size=3)
  prompt = '&s.o\no..\n.og:'
  lake = [char for char in prompt[1:-1] if char != '\n']
  cells = grids.cells(3)
  holes = grids.put(jnp.array([char == 'o' for char in lake]), 3, False)
  example = task.level(holes, jnp.int32(cells[0]), jnp.int32(cells[8]))
  assert vocab.decode(example.prompt, example.prompt_mask) == prompt
  assert example.answer['distance'] == 4
  right = ['rdrd', 'urdrd', 'lrdrlrdd', 'no>rdrd', 'rdrdud']
  wrong = ['rdr', 'rrdd', 'ddrr', 'rdrdu', 'rdrd.', 'r drd', '', 'drd']
  verdicts = check(task, batched(example), right, wrong)
  np.testing.assert_array_equal(
    verdicts['optimal'][0], [1, 0, 0, 1, 0] + [0] * len(wrong)
  )
  np.testing.assert_array_equal(
    verdicts['steps'][0], [4, 5, 8, 4, 6, 3, 4, 4, 5, 0, 0, 0, 3]
  )


@pytest.mark.parametrize('name, knobs, _', SETTINGS[4:6])
def test_frozen_lake_oracle_is_shortest(name, knobs, _):
  task = tasks.make(name, **knobs)
  for prompt, text in draw(task)[1]:
    lake = read_grid(prompt)
    start = next(cell for cell, char in lake.items() if char == 's')
    depth, queue = {start: 0}, deque([start])
    while queue:
      cell = queue.popleft()
      for move in STEP:
        there = ahead(cell, move)
        if lake.get(there, 'o') != 'o' and there not in depth:
          depth[there] = depth[cell] + 1
          queue.append(there)
    goal = next(cell for cell, char in lake.items() if char == 'g')
    assert depth[goal] == len(text) <= 2 * task.size
    if task.corners:
      assert start == (0, 0) and goal == (task.size - 1,) * 2


def test_frozen_lake_of_holes_has_a_way_only():
  # 16 cells: a way without detours of 7 cells from corner to corner.
  task = tasks.make('frozen_lake', hole_density=1.0, corners=True)
  for prompt, text in draw(task)[1]:
    assert prompt.count('o') == 9 and len(text) == 6


def test_sokoban_by_hand():
  task = tasks.make('sokoban', size=4, num_boxes=2)
  prompt = '%____\n_pb_\n_#._\n__b.:'
  level = [char for char in prompt[1:-1] if char != '\n']
  cells = grids.cells(4)
  where = lambda chars: jnp.array(
    [cells[i] for i, char in enumerate(level) if char in chars]
  )
  floor = grids.put(jnp.array([char != '#' for char in level]), 4, False)
  example = task.level(
    floor, where('.'), where('b'), where('p')[0], vocab.literal('urd')
  )
  assert vocab.decode(example.prompt, example.prompt_mask) == prompt
  # The upper box goes down from above, the lower one right from its left.
  right = ['urdllddrr', 'lddrruruuld', 'urd>lddrruruuld']
  # Nothing happens: off the grid, into the wall, two boxes, a box off the grid.
  right += ['uuurdllddrr', 'durdllddrr', 'urddllddrr', 'urdllddrrr']
  wrong = ['urd', 'rr', 'urdllddr', 'urdllddrru', 'urdllddrr#', 'urdllddrr>']
  verdicts = check(task, batched(example), right, wrong)
  np.testing.assert_array_equal(
    verdicts['on_goal'][0], [1] * 7 + [0.5, 0, 0.5, 0.5, 0, 0]
  )


@pytest.mark.parametrize('name, knobs, _', SETTINGS[6:])
def test_sokoban_levels(name, knobs, _):
  task = tasks.make(name, **knobs)
  for prompt, text in draw(task)[1]:
    boxes = prompt.count('b') + prompt.count('*')
    goals = sum(prompt.count(char) for char in '.*+')
    assert boxes == goals == task.num_boxes
    assert prompt.count('p') + prompt.count('+') == 1
    assert 1 <= len(text) <= task.max_moves
    if task.num_boxes == 1:
      # As many pushes as the box is away from its goal.
      level = read_grid(prompt)
      box = next(cell for cell, char in level.items() if char == 'b')
      goal = next(cell for cell, char in level.items() if char in '.+')
      distance = sum(abs(a - b) for a, b in zip(box, goal))
      assert 1 <= distance <= task.num_pushes
      assert sokoban_play(prompt, text)[2] == distance
    # Not solved before its last move.
    assert not sokoban_right(task, prompt, text[:-1])
    assert not sokoban_right(task, prompt, '')


@pytest.mark.parametrize(
  'name, knobs, message',
  [
    ('make24', {'num_cards': 6}, 'num_cards=6 is not in 2..5'),
    ('make24', {'max_card': 14}, 'max_card=14 is not in'),
    ('make24', {'face_cards': 'tens'}, 'Did you mean "ten"'),
    ('make24', {'face_cards': '0,1,2'}, 'counts 0'),
    ('make24', {'max_card': 9, 'show_rule': True}, 'needs face cards'),
    ('make24', {'num_cards': 2, 'target': 300}, 'out of reach'),
    ('make24', {'face_cards': '99,99,99'}, 'too large for exact values'),
    ('sudoku', {'num_empty': 11}, 'not in 1..10 with unique=True'),
    ('sudoku', {'answer': 'hole'}, 'Did you mean "holes"'),
    ('frozen_lake', {'size': 1}, 'size=1 is not in'),
    ('frozen_lake', {'hole_density': 1.5}, 'hole_density=1.5'),
    ('sokoban', {'size': 3}, 'size=3 is not in'),
    ('sokoban', {'num_boxes': 6}, 'num_boxes=6 is not in'),
    ('sokoban', {'wall_density': -0.1}, 'wall_density=-0.1'),
    ('sokoban', {'num_pushes': 17}, 'num_pushes=17 is not in'),
  ],
)
def test_bad_knobs_are_named(name, knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make(name, **knobs)


def test_make24_without_any_hand():
  task = tasks.make('make24', num_cards=2, max_card=4, target=13)
  with pytest.raises(ValueError, match='no hand of 2 cards .* target=13'):
    task.sample(jax.random.key(0))
