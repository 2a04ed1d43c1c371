"""One grid for all arms: how it grows, and what is chosen."""

import pytest

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim


def test_arms_are_tuned_alike():
  made = []

  def of(best):
    def make(value):
      made.append(value)
      return -abs(value - best)

    return make

  found = lab.tune(
    {'inside': of(1e-3), 'high': of(3e-2)},
    [3e-4, 1e-3, 3e-3],
    lambda arm, stage: [stage, stage],
  )
  # The grid grew for both, by its own ratio, until the best lay inside.
  grid = [3e-4, 1e-3, 3e-3, 9e-3, 2.7e-2]
  for arm in found.values():
    assert sorted(arm.tried) == pytest.approx(grid)
  assert found['inside'].chosen == 1e-3 and not found['inside'].edge
  assert found['high'].chosen == 2.7e-2 and found['high'].edge
  assert len(made) == 10
  # Where scores level off, the first that is as good: no edge by chance.
  level = {1e-3: 0.2, 1e-2: 0.9, 1e-1: 0.904, 1.0: 0.906}
  for close, chosen in ((0.0, 1.0), (0.003, 1e-1), (0.01, 1e-2)):
    found = lab.tune(
      {'a': level.get}, list(level), lambda arm, x: [x], 0, close
    )
    assert found['a'].chosen == chosen and found['a'].edge == (chosen == 1.0)
  with pytest.raises(ValueError, match='close=-1'):
    lab.tune({'a': of(1)}, [1e-4, 1e-3], lambda arm, stage: [stage], close=-1)
  with pytest.raises(ValueError, match='at least two positive values'):
    lab.tune({'a': of(1)}, [1e-3, 1e-4], lambda arm, stage: [stage])


def test_grids_are_tuned_together():
  """Every cell of two grids, which grow where an arm asks, for all arms."""
  of = lambda a, b: lambda v: -abs(v['a'] - a) - abs(v['b'] - b)
  grids = {'a': [1.0, 2.0, 4.0], 'b': [1.0, 3.0, 9.0]}
  score = lambda arm, stage: [stage]
  found = lab.tune_together(
    {'inside': of(2.0, 3.0), 'high': of(8.0, 3.0)}, grids, score
  )
  for own in found.values():
    assert own.entry('a')['grid'] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert own.entry('b')['grid'] == [1.0, 3.0, 9.0]
    assert len(own.tried) == 15 and own.edges == ()
  assert found['high'].chosen == {'a': 8.0, 'b': 3.0}
  assert found['high'].stage == 0.0
  (low,) = lab.tune_together(
    {'low': of(2.0, 0.01)}, grids, score, extend=1
  ).values()
  assert low.edges == ('b',) and low.entry('b')['chosen'] == 0.33
  for bad, why in (({}, 'no grids'), ({'a': [2.0, 1.0]}, 'grid .* of "a"')):
    with pytest.raises(ValueError, match=why):
      lab.tune_together({'x': of(1, 1)}, bad, score)
  with pytest.raises(ValueError, match='no arms'):
    lab.tune_together({}, grids, score)


def test_what_a_pilot_says_of_claims():
  claims = (
    Claim('up', '1', 'a is above b', 'new', 'a', 'b', 'greater', 1.0),
    Claim('other', '1', 'c is above b', 'new', 'c', 'b', 'greater', 1.0),
    Claim('kept', '1', 'a keeps more', 'kept', 'a', 'b', 'greater', 1.0),
  )
  found = {
    'a': {'new': [3.0, 5.0, 10.0], 'kept': 2.0}, 'b': {'new': [1.0, 1.0, 1.0]}
  }  # fmt: skip
  # 2, 4, 9: mean 5, spread sqrt(26 / 2); of the others an arm or a measure is
  # not there.
  (line,) = lab.gaps(claims, found)
  assert line.split() == ['up', '5', '|', 'spread', '3.61', '|', '2.0', '4.0',
                          '9.0']  # fmt: skip
  found['b'] = {'new': 1.0, 'kept': 1.5}
  up = lab.gaps(claims, found)
  assert [x.split()[0] for x in up] == ['up', 'kept']
  assert 'one seed' in up[1]
