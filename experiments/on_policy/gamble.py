"""What the bandit says of every method, as a lab keeps and measures it."""

from typing import Any

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
  place and its knobs on other random numbers."""

  rates = (1e-3, 3e-3, 1e-2)

  def __init__(
    self,
    runs: lab.Lab,
    base: lab.Trained,
    refresh: tuple[int, ...],
    reuse: tuple[int, ...],
    steps: int,
  ):
    probe = bandit.Bandit(
      tuple(bandit.METHODS), self.rates, refresh, reuse, steps
    )
    # Its own seeds are all it reads; the stage says where it is kept.
    self._test = runs.measure(base, probe)
    self._tuning = runs.measure(base, probe, split='validation')
    self.start = runs.measure(base, bandit.Start())
    self._refresh, self._reuse, self._steps = refresh, reuse, steps

  def rate(self, method: str, place: str, refresh: int, reuse: int) -> float:
    score = lambda rate: np.mean(
      self._tuning[bandit.name_of(method, place, rate, refresh, reuse, 'mean')]
    )
    return max(self.rates, key=score)

  def get(
    self, method: str, place: str, refresh: int, reuse: int, what: str
  ) -> list[float]:
    rate = self.rate(method, place, refresh, reuse)
    return self._test[bandit.name_of(method, place, rate, refresh, reuse, what)]

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
