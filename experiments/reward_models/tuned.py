"""The rates of all arms, chosen with seeds and problems of their own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.reward_models.bench import Bench
from experiments.reward_models.settings import CLOSE, RATE, TUNED, WAYS, Scale
from posttrain_jax import lab

__all__ = ['Tuning', 'tune']


@dataclasses.dataclass(frozen=True)
class Tuning:
  """What was tried and taken.

  bench   of the tuning seeds, as often as there are rates
  tuned   {arm: its rates}
  scores  {arm: {rate: [seeds] what it was chosen by, a share}}
  stages  {arm: {rate: (stage, rows of its seeds)}}
  """

  bench: Bench
  tuned: Mapping[str, lab.Tuned]
  scores: Mapping[str, Mapping[float, np.ndarray]]
  stages: Mapping[str, Mapping[float, tuple[lab.Trained, slice]]]

  @property
  def rates(self) -> dict[str, float]:
    """{arm: the rate that was chosen}."""
    return {arm: x.chosen for arm, x in self.tuned.items()}

  def entry(self, arm: str) -> dict[str, Any]:
    """For `Arm.tuned`: of the arm itself, or of whose rate it takes."""
    return {RATE: self.tuned[WAYS[arm].rate_of or arm].entry}


def tune(runs: lab.Lab, scale: Scale) -> Tuning:
  """The rates of all arms, several of them side by side in the programs of the
  runs. An arm that others rest on comes before them."""
  count = len(scale.tuning_seeds)
  own = runs.beside(scale.tuning_seeds * scale.places)
  bench = Bench(own, scale, {})
  tuned: dict[str, lab.Tuned] = {}
  scores: dict[str, dict[float, np.ndarray]] = {}
  stages: dict[str, dict[float, Any]] = {}

  def cells_of(arm: str, bench: Bench) -> lab.Cells:
    def train(values: Mapping[str, list[float]]) -> lab.Trained:
      rates = values[RATE]
      if arm == 'gold':
        stage = bench.rubric(arm, rates)[-1].models['policy']
      else:
        stage = bench.train(arm, rates)
      for place, rate in enumerate(rates[::count]):
        rows = slice(place * count, (place + 1) * count)
        stages.setdefault(arm, {}).setdefault(rate, (stage, rows))
      return stage

    score = lambda stage: bench.score(arm, stage, TUNED[arm])
    return lab.Cells(train, score, scale.places, count)

  for arm, by in TUNED.items():
    cells = cells_of(arm, bench)
    tuned |= lab.tune_cells(
      {arm: cells}, RATE, scale.grid, scale.extend, CLOSE[by]
    )
    scores[arm] = {
      rate: cells.score(cell) for rate, cell in tuned[arm].tried.items()
    }
    rates = {name: x.chosen for name, x in tuned.items()}
    bench = Bench(own, scale, rates)
  return Tuning(bench, tuned, scores, stages)
