r"""Does a balance of flows beside SFT come nearer to a flatter popularity?

python -m experiments.flower.run             # full
python -m experiments.flower.run --reduced   # into runs/

README.md has the question and the reading, settings.py the arms and sizes,
design.py the claims, bench.py the stages.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.flower.bench import Bench
from experiments.flower.design import READING, STUDY
from experiments.flower.settings import (
  CLOSE,
  FLAT,
  FLOWERS,
  HEAT,
  LOST,
  RATE,
  SCALES,
  TOP,
  WAYS,
  Scale,
)
from experiments.flows.tuned import heated
from posttrain_jax import lab

Found = Mapping[str, np.ndarray]
_HELD = ('kl', 'kl_back', 'entropy', 'hit', 'taken')
_SHARES = ('hit', 'taken', 'right')


def values_of(found: Found, heat: float = 1.0) -> dict[str, np.ndarray]:
  """{measure: [S]} in the units of the study, of names drawn at `heat`."""
  own = {name: found[heated(name, heat)] for name in _HELD}
  if heat == 1.0:  # of free answers only this is known
    own['right'] = found['right']
  return {k: 100.0 * x if k in _SHARES else x for k, x in own.items()}


@dataclasses.dataclass(frozen=True)
class Chosen:
  """What was tried and taken.

  rates  {arm: its rates}
  found  {arm: {rate: measures}}
  start  measures of the bases
  """

  rates: Mapping[str, lab.Tuned]
  found: Mapping[str, Mapping[float, Found]]
  start: Found

  def best(self, arm: str) -> Found:
    """Of an arm at its rate."""
    return self.found[arm][self.rates[arm].chosen]

  def mean(self, arm: str, measure: str) -> float:
    return float(np.mean(self.best(arm)[measure]))

  def flower(self) -> str:
    """The one that is nearest to what is wanted, of those that lose no more
    than LOST points of hits to SFT; of all, where each loses more."""
    there = [arm for arm in FLOWERS if arm in self.rates]
    least = self.mean('sft', 'hit') - LOST / 100.0
    keep = [arm for arm in there if self.mean(arm, 'hit') >= least]
    return min(keep or there, key=lambda arm: self.mean(arm, 'kl'))

  def heat(self) -> float:
    """The temperature of HEAT at which SFT is nearest to what is wanted."""
    return min(HEAT, key=lambda x: self.mean('sft', heated('kl', x)))


def tune(runs: lab.Lab, scale: Scale) -> Chosen:
  """The rates of all arms, several side by side in the programs of the runs."""
  count = len(scale.tune_seeds)
  bench = Bench(runs.beside(scale.tune_seeds * scale.places), scale)
  found: dict[str, dict[float, Found]] = {arm: {} for arm in scale.arms}

  def cells_of(arm: str) -> lab.Cells:
    def scored(stage: lab.Trained) -> np.ndarray:
      seen = bench.measured(stage)
      tried = np.asarray(stage.hparams[RATE])[::count]
      for place, rate in enumerate(tried.tolist()):
        rows = slice(place * count, (place + 1) * count)
        found[arm][rate] = {name: x[rows] for name, x in seen.items()}
      return seen['hit']

    train = lambda values: bench.stage(arm, values[RATE])
    return lab.Cells(train, scored, scale.places, count)

  arms = {arm: cells_of(arm) for arm in scale.arms}
  rates = lab.tune_cells(arms, RATE, scale.grid, scale.extend, CLOSE)
  start = bench.measured(bench.base())
  return Chosen(rates, found, {k: x[:count] for k, x in start.items()})


def figures(chosen: Chosen, seen: Mapping[str, Found]) -> list[dict[str, Any]]:
  """seen  {arm: what its stage measured}"""
  label = lambda arm: WAYS[arm].label if arm in WAYS else 'Base'
  curves = {}
  for arm, tried in chosen.found.items():
    cells = sorted(tried.values(), key=lambda x: float(np.mean(x['hit'])))
    curves[label(arm)] = {
      'x': [round(100.0 * float(np.mean(x['hit'])), 2) for x in cells],
      'y': [np.round(x['kl'], 4).tolist() for x in cells],
    }
  return [
    {'kind': 'frontier', 'name': 'fit', 'title': 'Hits, and what is wanted',
     'x': 'hit', 'y': 'kl',
     'caption': f'Popularity to the power of {FLAT:g}; users whose item is '
     f'among the {TOP} likeliest names. Each arm at its own rate.'},
    {'kind': 'lines', 'name': 'rates', 'title': 'Fit by hits, at every rate',
     'xlabel': 'hit, %', 'ylabel': 'KL to the flattened popularity, nats',
     'caption': 'A point for each rate that was tried: mean and 95% interval '
     'over the two tuning seeds.', 'series': curves},
    {'kind': 'lines', 'name': 'heat', 'title': 'Fit by temperature',
     'xlabel': 'temperature',
     'ylabel': 'KL to the flattened popularity, nats',
     'caption': 'By the temperature that names are drawn at; mean and 95% '
     'interval over seeds.',
     'series': {
       label(x): {
         'x': list(HEAT),
         'y': [np.round(seen[x][heated('kl', t)], 4).tolist() for t in HEAT],
       }
       for x in ('base', 'sft', 'flat', *FLOWERS) if x in seen
     }},
  ]  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  chosen = tune(runs, scale)
  bench = Bench(runs, scale)
  base = bench.base()
  seen: dict[str, Found] = {'base': bench.measured(base)}
  arms = {
    'base': lab.Arm(
      'Base', 'base', 'configs/sft.py:recipe=sft', {}, values_of(seen['base']),
      base.account,
    )
  }  # fmt: skip
  for name in scale.arms:
    way = WAYS[name]
    stage = bench.stage(name, chosen.rates[name].chosen)
    seen[name] = bench.measured(stage)
    arms[name] = lab.Arm(
      label=way.label,
      family=way.family,
      config=way.spec,
      overrides=dict(way.items) | dict(way.task),
      values=values_of(seen[name]),
      account=lab.total_account([stage]),
      tuned={RATE: chosen.rates[name].entry},
    )
  heat, best = chosen.heat(), chosen.flower()
  arms['heat'] = dataclasses.replace(
    arms['sft'], label=f'SFT, drawn at {heat:g}',
    overrides={'temperature': heat}, values=values_of(seen['sft'], heat),
  )  # fmt: skip
  arms['flower'] = dataclasses.replace(
    arms[best], label=f'Best Flower: {arms[best].label}'
  )
  reading = READING if scale is SCALES['full'] else ()
  return STUDY, arms, figures(chosen, seen), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
