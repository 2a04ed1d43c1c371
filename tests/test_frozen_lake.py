"""Frozen lake: extreme knobs, long random walks, ties, held-out lakes.

Literal lakes and the shortness of the oracle are in test_puzzles.py.
"""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_puzzles import lake_right, read_grid
from test_puzzles import draw, judge
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.tasks import split, vocab
from posttrain_jax.tasks.parts import grids


@pytest.mark.parametrize(
  'knobs',
  [
    {'size': 2, 'hole_density': 0.5},
    {'size': 5, 'hole_density': 0.0},
    {'size': 12, 'hole_density': 1.0},
  ],
)
def test_extreme_lakes(knobs):
  task = tasks.make('frozen_lake', **knobs)
  examples, pairs = draw(task)
  rng = random.Random(0)
  walk = lambda: ''.join(rng.choices('udlr', k=rng.randint(1, 70)))
  # Once back and forth at the goal is as right, but not as short.
  back = lambda move: 'udlr'['durl'.index(move)]
  texts = [
    [oracle, oracle + back(oracle[-1]) + oracle[-1]]
    + [walk() for _ in range(6)]
    for _, oracle in pairs
  ]
  verdicts = judge(task, examples, texts)
  expected = np.array(
    [
      [lake_right(task, prompt, text) for text in row]
      for (prompt, _), row in zip(pairs, texts)
    ]
  )
  np.testing.assert_array_equal(verdicts['reward'], expected)
  assert expected[:, :2].all() and not expected[:, 2:].all()
  lengths = [[len(text) for text in row] for row in texts]
  np.testing.assert_array_equal(verdicts['steps'], lengths)
  np.testing.assert_array_equal(verdicts['optimal'][:, 0], 1.0)
  np.testing.assert_array_equal(verdicts['optimal'][:, 1], 0.0)
  assert verdicts['format'].all()


def test_holes_stay_where_there_is_a_way():
  # A walk without detours is closed of holes only where no way is left: then
  # some shortest ways of ten steps' distance still take twelve.
  task = tasks.make('frozen_lake', size=6, hole_density=0.3, corners=True)
  lengths = {len(oracle) for _, oracle in draw(task)[1]}
  assert lengths == {10, 12}


def test_every_shortest_way_is_an_oracle():
  # From corner to corner of an open 3 x 3 lake: 4! / (2! * 2!) ways.
  task = tasks.make('frozen_lake', size=3, corners=True)
  cells = grids.cells(3)
  lake = task.level(
    jnp.zeros(25, bool), jnp.int32(cells[0]), jnp.int32(cells[8])
  )
  keys = jax.random.split(jax.random.key(0), 128)
  solutions = quick_jit(jax.vmap(task.solve, (None, 0)))(lake, keys)
  texts = {vocab.decode(row[:4]) for row in solutions.tokens}
  assert texts == {'ddrr', 'drdr', 'drrd', 'rddr', 'rdrd', 'rrdd'}


def test_heldout_lakes_are_other_lakes():
  task = tasks.make('frozen_lake')

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
  # The prompt is the whole problem: every cell is in it, start and goal too.
  for prompt in train:
    cells = ''.join(read_grid(prompt).values())
    assert len(cells) == 16 and set(cells) <= set('sg.o')
    assert cells.count('s') == cells.count('g') == 1


@pytest.mark.parametrize(
  'knobs, message',
  [
    ({'size': 13}, 'frozen_lake: size=13 is not in 2..12'),
    ({'hole_density': -0.5}, 'hole_density=-0.5 is not in 0..1'),
    ({'hole_densty': 0.2}, 'no knob "hole_densty".*mean "hole_density"'),
  ],
)
def test_bad_knobs_are_named(knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make('frozen_lake', **knobs)
