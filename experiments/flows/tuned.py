"""The rates of all arms, and the best of several, by seeds of their own."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from experiments.flows.bench import Bench
from experiments.flows.settings import (
  BEST,
  CLOSE,
  FLOWERS,
  HEAT,
  HOT,
  LOST,
  MOST,
  RATE,
  SCORES,
  WAYS,
  Scale,
)
from posttrain_jax import lab

__all__ = ['Chosen', 'heated', 'tune']

# {measure: [seeds]} of a cell.
Found = Mapping[str, np.ndarray]


def heated(name: str, heat: float) -> str:
  """What `probes.Names` calls a measure at a temperature."""
  return name if heat == 1.0 else f'{name}@{heat:g}'


@dataclasses.dataclass(frozen=True)
class Chosen:
  """What was tried and taken.

  rates  {arm: its rates}
  found  {arm: {rate: measures on validation problems}}
  hot    {temperature: the same of PPO at its rate}
  """

  rates: Mapping[str, lab.Tuned]
  found: Mapping[str, Mapping[float, Found]]
  hot: Mapping[float, Found]

  def mean(self, arm: str, measure: str) -> float:
    """Of an arm at its rate."""
    return float(np.mean(self.found[arm][self.rates[arm].chosen][measure]))

  def best(self, name: str) -> str:
    """Which of the arms of BEST[name] it is, of those that were tuned."""
    there = [arm for arm in BEST[name][1] if arm in self.rates]
    least = max(self.mean(arm, 'right') for arm in there) - CLOSE
    keep = [arm for arm in there if self.mean(arm, 'right') >= least]
    return max(keep, key=lambda arm: self.mean(arm, 'distinct'))

  def most(self, name: str) -> tuple[str, lab.Tuned]:
    """Which of the arms of MOST[name] finds most, at its best rate for that."""
    cells = [
      (float(np.mean(found['distinct'])), arm, rate)
      for arm in MOST[name][1]
      for rate, found in self.found.get(arm, {}).items()
    ]
    _, arm, rate = max(cells)
    tried = self.rates[arm].tried
    return arm, lab.Tuned(tried, rate, rate in (min(tried), max(tried)))

  def best_flower(self) -> str:
    """The one that is nearest to what is wanted, of those that lose no more
    than LOST points of users to SFT; of all, where each loses more."""
    there = [arm for arm in FLOWERS if arm in self.rates]
    least = self.mean('names_sft', 'hit') - LOST / 100.0
    keep = [arm for arm in there if self.mean(arm, 'hit') >= least]
    return min(keep or there, key=lambda arm: self.mean(arm, 'kl'))

  def heat(self, arm: str) -> float:
    """The temperature of HEAT at which an arm is nearest to what is wanted."""
    return min(HEAT, key=lambda x: self.mean(arm, heated('kl', x)))

  def hot_ppo(self) -> float:
    """The temperature of HOT at which PPO finds most."""
    return max(self.hot, key=lambda x: float(np.mean(self.hot[x]['distinct'])))


def tune(runs: lab.Lab, scale: Scale) -> Chosen:
  """The rates of all arms of all parts, several of them side by side in the
  programs of the runs."""
  rates: dict[str, lab.Tuned] = {}
  found: dict[str, dict[float, Found]] = {}
  hot: dict[float, Found] = {}
  count = len(scale.tune_seeds)
  own = runs.beside(scale.tune_seeds * scale.places)
  for part, (score, close) in SCORES.items():
    bench = Bench(own, scale, part)

    def cells_of(arm: str, bench: Bench = bench, score: str = score):
      found[arm] = {}

      def scored(stage: lab.Trained) -> np.ndarray:
        seen = bench.measured(stage, 'validation')
        tried = np.asarray(stage.hparams[RATE])[::count]
        for place, rate in enumerate(tried.tolist()):
          rows = slice(place * count, (place + 1) * count)
          found[arm][rate] = {name: x[rows] for name, x in seen.items()}
        return seen[score]

      train = lambda values: bench.stage(arm, values[RATE])
      return lab.Cells(train, scored, scale.places, count)

    arms = [arm for arm in scale.arms if WAYS[arm].part == part]
    rates |= lab.tune_cells(
      {arm: cells_of(arm) for arm in arms}, RATE, scale.grids[part],
      scale.extend, close,
    )  # fmt: skip
    if part == 'picks':
      best = bench.stage('ppo', rates['ppo'].chosen)
      for heat in HOT:
        seen = bench.measured(best, 'validation', heat)
        hot[heat] = {name: x[:count] for name, x in seen.items()}
  return Chosen(rates, found, hot)
