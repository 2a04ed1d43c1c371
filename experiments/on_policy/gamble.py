"""What the bandit says of every method, as a lab keeps and measures it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.on_policy import bandit, design
from posttrain_jax import lab

# Their names in figures.
METHODS = {
  'best_of_n': 'best of 10',
  'rwr': 'RWR',
  'reinforce': 'REINFORCE',
  'ppo': 'PPO',
  'positive': 'REINFORCE, positive only',
  'dpo': 'DPO',
  'ipo': 'IPO',
  'dpo_all': 'DPO, all pairs',
}


class Gamble:
  """The bandit's numbers: every method at the learning rate that is best for a
  place and its knobs, by the mean reward over training with other seeds.

  tuning         the lab whose seeds rates are chosen with
  rates, extend  as `lab.tune` takes them: one grid for all
  """

  def __init__(
    self,
    runs: lab.Lab,
    base: lab.Trained,
    tuning: tuple[lab.Lab, lab.Trained],
    scale: design.Scale,
  ):
    self._steps = scale.bandit_steps
    self._refresh, self._reuse = scale.refresh, scale.reuse
    self._spots = tuple(bandit.spots_of(scale.refresh, scale.reuse))
    self._tuning, self._kept = tuning, {}
    self._look(scale.bandit_rates)
    arms = [(m, *spot) for m in bandit.METHODS for spot in self._spots]
    # A stage is its rate: all arms of a rate are one program.
    self.tuned = lab.tune(
      dict.fromkeys(arms, float), scale.bandit_rates, self._score, scale.extend
    )
    chosen = tuple(
      tuple(self.tuned[m, *spot].chosen for spot in self._spots)
      for m in bandit.METHODS
    )
    # Neither probe reads the stage, which says where numbers are kept.
    self._test = runs.measure(base, self._probe(self._spots, chosen))
    self.start = runs.measure(base, bandit.Start())

  def _probe(self, spots: Sequence, rates: Sequence) -> bandit.Bandit:
    return bandit.Bandit(
      tuple(bandit.METHODS), tuple(spots), tuple(rates), self._steps
    )

  def _look(self, rates: Sequence[float]) -> None:
    """Runs all arms at some rates with the seeds of choices."""
    each = tuple(rate for rate in rates for _ in self._spots)
    probe = self._probe(
      self._spots * len(rates), [each for _ in bandit.METHODS]
    )
    runs, base = self._tuning
    self._kept |= runs.measure(base, probe, split='validation')

  def _score(self, arm: tuple, rate: float) -> list[float]:
    name = bandit.name_of(*arm, rate, 'mean')
    if name not in self._kept:
      self._look([rate])
    return self._kept[name]

  def get(
    self, method: str, place: str, refresh: int, reuse: int, what: str
  ) -> list[float]:
    arm = (method, place, refresh, reuse)
    return self._test[bandit.name_of(*arm, self.tuned[arm].chosen, what)]

  def values(self, method: str, refresh: int) -> dict[str, list[float]]:
    """The study's measures of an arm's part in the bandit."""
    get = lambda place, what: self.get(method, place, refresh, 1, what)
    return {
      'bandit_far': get('far', 'end'),
      'bandit_speed': get('far', 'mean'),
      'bandit_near': get('near', 'end'),
      'bandit_winner': get('far', 'winner'),
      'bandit_kl': get('far', 'kl'),
    }

  def curve(self, method: str, refresh: int) -> dict[str, Any]:
    """Reward by step, far, from the start on."""
    points = [self.start['far']] + [
      self.get(method, 'far', refresh, 1, str(i)) for i in range(bandit.POINTS)
    ]
    every = self._steps // bandit.POINTS
    return {
      'x': [every * i for i in range(len(points))],
      'xlabel': 'Adam steps',
      'y': np.transpose(points).tolist(),
    }

  def lines(self, knob: str) -> dict[str, Any]:
    """Series of a figure: the reward at the end by the knob, far."""
    values = self._refresh if knob == 'refresh' else self._reuse
    series = {}
    for method, label in METHODS.items():
      pairs = [(x, 1 if knob == 'refresh' else x) for x in values]
      series[label] = {
        # All offline samples come before the first of as many steps.
        'x': [min(x, self._steps) for x in values],
        'y': [self.get(method, 'far', *pair, 'end') for pair in pairs],
      }
    return series


def counts(runs: lab.Lab, tuning: lab.Lab, steps: int) -> dict[str, int]:
  """How many different states the bandit is measured on, as `lab.counts`."""
  found = {}
  for split, own in (('test', runs), ('validation', tuning)):
    rows = []
    for key in own.split_keys(split):
      run_key = jax.random.split(key, 3)[1]  # as `Bandit` does
      rows += [
        x.tobytes() for x in np.asarray(bandit.states_of(run_key, steps))
      ]
    found[split] = rows
  test, other = set(found['test']), set(found['validation'])
  return {
    'drawn': len(found['test']),
    'test': len(test),
    'validation': len(other),
    'shared': len(test & other),
  }
