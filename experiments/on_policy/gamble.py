"""What the bandit says of every method, as a lab keeps and measures it."""

import functools
from typing import Any

import jax
import numpy as np

from experiments.on_policy import bandit
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
  place and its knobs on other random numbers, by the mean reward over training.

  rates, extend  as `lab.tune` takes them: one grid for all
  """

  def __init__(
    self,
    runs: lab.Lab,
    base: lab.Trained,
    refresh: tuple[int, ...],
    reuse: tuple[int, ...],
    steps: int,
    rates: tuple[float, ...],
    extend: int,
  ):
    probe = lambda rate: bandit.Bandit(
      tuple(bandit.METHODS), (rate,), refresh, reuse, steps
    )
    # Its own seeds are all it reads; the stage says where it is kept.
    self._found = functools.cache(
      lambda rate, split: runs.measure(base, probe(rate), split=split)
    )
    self.start = runs.measure(base, bandit.Start())
    self._refresh, self._reuse, self._steps = refresh, reuse, steps
    self.tuned = lab.tune(
      {
        (method, *place): float
        for method in bandit.METHODS
        for place in probe(rates[0]).places()
      },
      rates,
      self._score,
      extend,
    )

  def _score(self, arm: tuple, rate: float) -> list[float]:
    method, place, *knobs = arm
    name = bandit.name_of(method, place, rate, *knobs, 'mean')
    return self._found(rate, 'validation')[name]

  def get(
    self, method: str, place: str, refresh: int, reuse: int, what: str
  ) -> list[float]:
    rate = self.tuned[method, place, refresh, reuse].chosen
    name = bandit.name_of(method, place, rate, refresh, reuse, what)
    return self._found(rate, 'test')[name]

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


def counts(runs: lab.Lab, steps: int) -> dict[str, int]:
  """How many different states the bandit is measured on, as `lab.counts`."""
  found = {}
  for split in ('test', 'validation'):
    rows = []
    for key in runs.split_keys(split):
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
