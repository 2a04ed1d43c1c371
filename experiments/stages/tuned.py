"""The rates of all arms, chosen with seeds and problems of their own."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experiments.stages import contrast
from experiments.stages.bench import Bench
from experiments.stages.settings import BEST, RATE, STEPS, Scale
from posttrain_jax import lab

# Regrets that are so close are as good: the lowest of their rates is taken.
CLOSE = 0.001

__all__ = ['Chosen', 'Gamble', 'chain', 'rounds_of', 'tune']


def chain(name: str) -> list[str]:
  """The arms whose own rates an arm rests on, the last stage's at the end."""
  own = STEPS[name]
  before = chain(own.after) if own.after else []
  writer = chain(own.writer) if own.writer else []
  last = chain(own.rate_of) if own.rate_of else [name]
  return list(dict.fromkeys((*writer, *before, *last)))


def rounds_of(arms: Iterable[str]) -> list[list[str]]:
  """Arms that have a rate of their own, by when it can be chosen: after those
  of all models that they start from or learn of.

  Raises:
    ValueError: an arm whose start, writer or rate is of none of `arms`.
  """
  left = {x: set(chain(x)) - {x} for x in arms if not STEPS[x].rate_of}
  known: set[str] = set()
  found: list[list[str]] = []
  while left:
    ready = [x for x, needs in left.items() if needs <= known]
    if not ready:
      lacking = sorted(set().union(*left.values()) - known - left.keys())
      raise ValueError(f'arms {sorted(left)} need {lacking}, which are not run')
    found.append(ready)
    known |= set(ready)
    for x in ready:
      del left[x]
  return found


@dataclasses.dataclass(frozen=True)
class Chosen:
  """What was tried and taken.

  rounds  of tuning: {arm: its rates}
  scores  {arm: {rate: [seeds] share of validation problems that are right}}
  """

  rounds: list[dict[str, lab.Tuned]]
  scores: Mapping[str, Mapping[float, np.ndarray]]

  @property
  def rates(self) -> dict[str, float]:
    """{arm: the rate that was chosen}, of those that have one."""
    return {
      name: x.chosen for found in self.rounds for name, x in found.items()
    }

  def entries(self, name: str) -> dict[str, Any]:
    """`Arm.tuned` of an arm: the rates of all its stages."""
    return {
      f'rate of {STEPS[x].way}, round {number}': tuned[x].entry
      for x in chain(name)
      for number, tuned in enumerate(self.rounds, 1)
      if x in tuned
    }

  def best(self, name: str) -> str:
    """Which of the arms of BEST[name] it is: by the scores of the last stage
    that follows them."""
    of = BEST['best_f_dpo'][1]
    score = lambda arm: float(np.mean(self.scores[arm][self.rates[arm]]))
    place = max(range(len(of)), key=lambda i: score(of[i]))
    return BEST[name][1][place]


def tune(runs: lab.Lab, scale: Scale) -> Chosen:
  """The rates of all arms, several of them side by side in the programs of the
  runs."""
  bench = Bench(runs.beside(scale.tune_seeds * scale.places), scale)
  found: list[dict[str, lab.Tuned]] = []
  scores: dict[str, dict[float, np.ndarray]] = {}
  rates: dict[str, float] = {}

  def cells_of(arm: str) -> lab.Cells:
    known = dict(rates)
    return lab.Cells(
      lambda values: bench.stage(arm, values[RATE], known),
      lambda stage: bench.right(stage, 'validation').mean(1),
      scale.places,
      len(scale.tune_seeds),
    )

  for arms in rounds_of(scale.arms):
    cells = {arm: cells_of(arm) for arm in arms}
    tuned = lab.tune(
      {
        arm: lambda rate, part=part: part.add({RATE: rate})
        for arm, part in cells.items()
      },
      scale.grid,
      lambda arm, cell, cells=cells: cells[arm].score(cell),
      scale.extend,
    )
    found.append(tuned)
    rates |= {arm: x.chosen for arm, x in tuned.items()}
    scores |= {
      arm: {rate: cells[arm].score(x) for rate, x in tuned[arm].tried.items()}
      for arm in arms
    }
  return Chosen(found, scores)


class Gamble:
  """The bandit's numbers: every method at the rate that leaves least regret
  with the tuning seeds.

  tuned  {method: its rates}
  found  as of `contrast.Contrast`
  """

  def __init__(self, runs: lab.Lab, scale: Scale):
    probe = contrast.Contrast(scale.bandits, scale.bandit_steps)
    own = runs.beside(scale.tune_seeds)
    at = lambda rate: lab.look(
      own, 'bandit', probe, [rate] * len(contrast.METHODS), 'validation'
    )
    self.tuned = lab.tune(
      dict.fromkeys(contrast.METHODS, at),
      scale.bandit_grid,
      lambda name, found: -np.asarray(found[f'{name}/regret']),
      2,
      CLOSE,
    )
    chosen = [self.tuned[name].chosen for name in contrast.METHODS]
    self.found = lab.look(runs, 'bandit', probe, chosen)
    self._probe, self._runs, self._own = probe, runs, own

  def get(self, name: str, what: str) -> np.ndarray:
    """[S, ...] of a method, or of 'start'."""
    return np.asarray(self.found[f'{name}/{what}'])

  def counts(self) -> dict[str, int]:
    """How many different bandits there are, as `lab.counts` says it."""
    drawn = {
      part: [
        row.tobytes()
        for key in of.split_keys(part)
        for row in np.asarray(self._probe.problems_of(key)[0])
      ]
      for part, of in (('test', self._runs), ('validation', self._own))
    }
    test, other = set(drawn['test']), set(drawn['validation'])
    return {
      'drawn': len(drawn['test']),
      'test': len(test),
      'validation': len(other),
      'shared': len(test & other),
    }
