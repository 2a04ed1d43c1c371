"""The study of backtracking: its configs' sizes, and what counts as undone."""

import numpy as np

from experiments.backtracking import design, run, undone
from posttrain_jax.run import build
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.parts.search_cells import Sudoku

# 1234 / 3412 / 2143 / 4321, with cells a, b and f empty.
GRID = np.array([int(x) - 1 for x in '1234341221434321'])
HOLES = np.isin(np.arange(16), [0, 1, 5])


def counted(trace):
  tokens = np.array([vocab.token(x) for x in trace])
  clashes = np.asarray(Sudoku(3, 1).clashes({}))
  return undone.count(tokens, GRID, HOLES, clashes).tolist()


def test_values_taken_back_by_hand():
  # [[others kept, taken back], [clashing kept, taken back]]
  assert counted('a1b2f4') == [[3, 0], [0, 0]]
  assert counted('a3#a1b2f4') == [[3, 0], [0, 1]]  # 3 stands in its row
  assert counted('a3b2f4') == [[2, 0], [1, 0]]
  assert counted('a1b4f#b2f4') == [[3, 0], [0, 1]]  # taken back late
  assert counted('a1b2#b2f4') == [[3, 1], [0, 0]]  # and for no reason


def test_what_follows_a_kept_error_is_judged_by_it():
  # With a 2 in cell a, the 2 of cell b clashes.
  assert counted('a2b2f4')[1] == [2, 0]


def test_rows_are_as_long_as_their_traces():
  scale = design.SCALES['reduced']
  lengths = []
  for kind in design.COUNTS:
    config = run.warm_up_config('sudoku', kind, scale)
    task = build.build(config).task
    lengths.append(task.completion_length)
    assert task.backtracks == design.KINDS[kind].backtracks
  assert lengths == sorted(set(lengths))


def test_answers_have_room_for_more_than_was_shown():
  for kind in design.KINDS.values():
    assert kind.room > kind.backtracks


def test_the_base_has_smaller_problems_and_no_backtracks():
  scale = design.SCALES['reduced']
  for setting, own in design.SETTINGS.items():
    config = run.base_config(setting, scale)
    parts = config.task.parts.to_dict().values()
    assert [x['size'] for x in parts] == list(own.smaller)
    assert max(own.smaller) < own.size
    assert all(x['backtracks'] == 0 for x in parts)
    build.build(config)
