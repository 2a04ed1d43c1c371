"""The rates of all arms, chosen with seeds and problems of their own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.reward_models.bench import Bench
from experiments.reward_models.settings import CLOSE, RATE, WAYS, Scale
from posttrain_jax import lab

__all__ = ['Tuning', 'tune']


@dataclasses.dataclass(frozen=True)
class Tuning:
  """What was tried and taken.

  bench   of the tuning seeds, as often as there are rates
  tuned   {arm: its rates}
  scores  {arm: {rate: [seeds] share of validation problems that are right}}
  stages  {arm: {rate: (stage, rows of its seeds)}}
  """

  bench: Bench
  tuned: Mapping[str, lab.Tuned]
  scores: Mapping[str, Mapping[float, np.ndarray]]
  stages: Mapping[str, Mapping[float, tuple[lab.Trained, slice]]]

  def rate(self, arm: str) -> float:
    """The rate of an arm: its own, or of whose it takes."""
    return self.tuned[WAYS[arm].rate_of or arm].chosen

  def entry(self, arm: str) -> dict[str, Any]:
    """For `Arm.tuned`."""
    return {RATE: self.tuned[WAYS[arm].rate_of or arm].entry}


def tune(runs: lab.Lab, scale: Scale) -> Tuning:
  """The rates of all arms, several of them side by side in the programs of the
  runs. An arm that another goes on from comes before it."""
  count = len(scale.tuning_seeds)
  own = runs.beside(scale.tuning_seeds * scale.places)
  bench = Bench(own, scale, {})
  tuned: dict[str, lab.Tuned] = {}
  scores: dict[str, dict[float, np.ndarray]] = {}
  stages: dict[str, dict[float, Any]] = {}

  def cells_of(arm: str, bench: Bench) -> lab.Cells:
    def train(values: Mapping[str, list[float]]) -> lab.Trained:
      rates = values[RATE]
      stage = bench.train(arm, rates)[-1]
      for place, rate in enumerate(rates[::count]):
        rows = slice(place * count, (place + 1) * count)
        stages.setdefault(arm, {}).setdefault(rate, (stage, rows))
      return stage

    score = lambda stage: bench.right(stage, 'validation')['right']
    return lab.Cells(train, score, scale.places, count)

  for arm in (x for x, way in WAYS.items() if not way.rate_of):
    cells = cells_of(arm, bench)
    tuned |= lab.tune_cells({arm: cells}, RATE, scale.grid, scale.extend, CLOSE)
    scores[arm] = {
      rate: cells.score(cell) for rate, cell in tuned[arm].tried.items()
    }
    bench = Bench(own, scale, {name: x.chosen for name, x in tuned.items()})
  return Tuning(bench, tuned, scores, stages)
