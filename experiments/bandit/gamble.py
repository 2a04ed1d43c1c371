"""What the bandit says of every method, each at its own learning rate."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.bandit import bandit, design
from posttrain_jax import lab


class Gamble:
  """The bandit's numbers: every method at the rate that is best for a place and
  its knobs, by the mean reward over training with other seeds."""

  def __init__(self, runs: lab.Lab, scale: design.Scale):
    self._steps = scale.steps
    self._refresh, self._reuse = scale.refresh, scale.reuse
    self._spots = tuple(bandit.spots_of(scale.refresh, scale.reuse))
    self._probe = bandit.Bandit(self._spots, scale.steps)
    self._own = runs.beside(scale.tuning_seeds)
    arms = [(m, *spot) for m in bandit.METHODS for spot in self._spots]
    # A stage is all arms at one rate: they are one program.
    self.tuned = lab.tune(
      dict.fromkeys(arms, self._at), scale.rates, self._score, scale.extend,
      design.CLOSE,
    )  # fmt: skip
    chosen = [
      [self.tuned[m, *spot].chosen for spot in self._spots]
      for m in bandit.METHODS
    ]
    self._test = lab.look(runs, 'bandit', self._probe, chosen)
    self.start = lab.look(runs, 'start', bandit.Start(scale.steps))

  def _at(self, rate: float) -> dict[str, list[float]]:
    rates = [[rate for _ in self._spots] for _ in bandit.METHODS]
    return lab.look(self._own, 'tuning', self._probe, rates, 'validation')

  @staticmethod
  def _score(arm: tuple, found: dict[str, list[float]]) -> list[float]:
    return found[bandit.name_of(*arm, 'mean')]

  def get(
    self, method: str, place: str, refresh: int, reuse: int, what: str
  ) -> list[float]:
    name = bandit.name_of(method, place, refresh, reuse, what)
    return self._test[name]

  def values(self, method: str, refresh: int) -> dict[str, list[float]]:
    """The study's measures of an arm."""
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
    for method, label in design.METHODS.items():
      pairs = [(x, 1 if knob == 'refresh' else x) for x in values]
      series[label] = {
        # All offline samples come before the first of as many steps.
        'x': [min(x, self._steps) for x in values],
        'y': [self.get(method, 'far', *pair, 'end') for pair in pairs],
      }
    return series

  def counts(self, runs: lab.Lab) -> dict[str, int]:
    """How many different states there are, as `lab.counts` says it."""
    drawn = {
      'test': self._states(runs.split_keys('test')),
      'validation': self._states(self._own.split_keys('validation')),
    }
    test, other = set(drawn['test']), set(drawn['validation'])
    return {
      'drawn': len(drawn['test']),
      'test': len(test),
      'validation': len(other),
      'shared': len(test & other),
    }

  def _states(self, keys: Sequence) -> list[bytes]:
    found = []
    for key in keys:
      run_key = jax.random.split(key, 3)[1]  # as `Bandit` does
      states = np.asarray(bandit.states_of(run_key, self._steps))
      found += [state.tobytes() for state in states]
    return found
