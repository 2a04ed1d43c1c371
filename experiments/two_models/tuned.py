"""The rates of all arms, and a temperature of SFT, by seeds of their own."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from experiments.two_models.bench import Bench
from experiments.two_models.settings import CLOSE, HEATS, RATE, Scale
from posttrain_jax import lab

__all__ = ['Chosen', 'tune']


@dataclasses.dataclass(frozen=True)
class Chosen:
  """What was tried and taken.

  rates  {arm: its rates}
  found  {arm: {rate: {measure: [seeds, HEATS]}}}
  start  {measure: [seeds, HEATS]} of the bases
  heat   of HEATS, at which SFT spreads over names as reverse KL does
  """

  rates: Mapping[str, lab.Tuned]
  found: Mapping[str, Mapping[float, Mapping[str, np.ndarray]]]
  start: Mapping[str, np.ndarray]
  heat: float

  def best(self, arm: str) -> Mapping[str, np.ndarray]:
    """An arm at its rate, with the tuning seeds."""
    return self.found[arm][self.rates[arm].chosen]


def tune(runs: lab.Lab, scale: Scale) -> Chosen:
  """The rates of all arms, several of them side by side in the programs of the
  runs: the lowest that is right as often as the best, up to CLOSE."""
  count = len(scale.tune_seeds)
  bench = Bench(runs.beside(scale.tune_seeds * scale.places), scale)
  found: dict[str, dict[float, dict[str, np.ndarray]]] = {}

  def cells_of(arm: str) -> lab.Cells:
    found[arm] = {}

    def scored(stage: lab.Trained) -> np.ndarray:
      seen = bench.measured(stage)
      tried = np.asarray(stage.hparams[RATE])[::count]
      for place, rate in enumerate(tried.tolist()):
        rows = slice(place * count, (place + 1) * count)
        found[arm][rate] = {name: x[rows] for name, x in seen.items()}
      return seen['right'][:, 0]

    train = lambda values: bench.stages(arm, values[RATE])[-1]
    return lab.Cells(train, scored, scale.places, count)

  rates = lab.tune_cells(
    {arm: cells_of(arm) for arm in scale.arms}, RATE, scale.grid, scale.extend,
    CLOSE,
  )  # fmt: skip
  base = bench.measured(bench.base())
  start = {name: x[:count] for name, x in base.items()}
  mean = lambda arm, measure: np.mean(
    found[arm][rates[arm].chosen][measure], axis=0
  )
  away = np.abs(mean('sft', 'even') - mean('reverse', 'even')[0])
  return Chosen(rates, found, start, HEATS[int(np.argmin(away))])
