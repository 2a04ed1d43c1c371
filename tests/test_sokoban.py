"""Sokoban: extreme knobs, long random walks, held-out levels.

Literal levels and the oracle's number of pushes are in test_puzzles.py.
"""

import random

import jax
import numpy as np
import pytest
from reference_puzzles import read_grid, sokoban_play, sokoban_right
from test_puzzles import draw, judge
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.tasks import split, vocab


@pytest.mark.parametrize(
  'knobs',
  [
    # One push and no walk; a crowd; little but walls around two boxes.
    {'size': 4, 'num_pushes': 1, 'max_moves': 1},
    {'size': 4, 'num_boxes': 4, 'num_pushes': 8, 'max_moves': 30},
    {
      'size': 10,
      'num_boxes': 2,
      'wall_density': 0.9,
      'num_pushes': 8,
      'max_moves': 9,
    },
  ],
)
def test_extreme_levels(knobs):
  task = tasks.make('sokoban', **knobs)
  examples, pairs = draw(task)
  rng = random.Random(0)
  walk = lambda: ''.join(rng.choices('udlr', k=rng.randint(1, 70)))
  texts = [[oracle, *(walk() for _ in range(6))] for _, oracle in pairs]
  verdicts = judge(task, examples, texts)
  on_goal = np.zeros(verdicts['reward'].shape)
  pushes = np.zeros(verdicts['reward'].shape, int)
  for i, (prompt, oracle) in enumerate(pairs):
    assert not sokoban_right(task, prompt, '')
    assert len(oracle) <= task.max_moves
    for j, text in enumerate(texts[i]):
      boxes, goals, pushes[i, j] = sokoban_play(prompt, text)
      on_goal[i, j] = len(boxes & goals) / task.num_boxes
  np.testing.assert_allclose(verdicts['on_goal'], on_goal)
  np.testing.assert_array_equal(verdicts['reward'], on_goal == 1)
  assert (on_goal[:, 0] == 1).all() and (on_goal[:, 1:] < 1).any()
  # The walks do push, and the oracle no more than was asked for, at least once.
  assert pushes[:, 1:].sum() > len(pairs)
  assert pushes[:, 0].min() >= 1 and pushes[:, 0].max() <= task.num_pushes
  lengths = [[len(text) for text in row] for row in texts]
  np.testing.assert_array_equal(verdicts['steps'], lengths)
  assert verdicts['format'].all()


def test_heldout_levels_are_other_levels():
  task = tasks.make('sokoban')

  def prompts(heldout):
    batch = quick_jit(
      lambda key: split.sample_batch(
        task, key, 256, heldout=heldout, fraction=0.2
      )
    )(jax.random.key(0))
    return {vocab.decode(prompt) for prompt in batch.prompt}

  train, heldout = prompts(False), prompts(True)
  assert len(train) > 200 and len(heldout) > 200
  assert not train & heldout
  # The prompt is the whole problem: every cell is in it.
  for prompt in train:
    cells = ''.join(read_grid(prompt).values())
    assert len(cells) == 25 and set(cells) <= set('_#b.*p+')


@pytest.mark.parametrize(
  'knobs, message',
  [
    ({'size': 11}, 'sokoban: size=11 is not in 4..10'),
    ({'num_boxes': 0}, 'num_boxes=0 is not in 1..size=5'),
    ({'wall_density': 1.5}, 'wall_density=1.5 is not in 0..1'),
    ({'num_pushes': 0}, 'num_pushes=0 is not in 1..max_moves=16'),
    ({'num_box': 2}, 'no knob "num_box".*mean "num_boxes"'),
  ],
)
def test_bad_knobs_are_named(knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make('sokoban', **knobs)
