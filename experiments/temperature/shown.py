"""Figures of the study of entropy that is held."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.temperature.design import (
  AEPO,
  AS_PUBLISHED,
  BONUS,
  FIXED,
  HELD,
  JUDGED_AT,
  WAYS,
)
from posttrain_jax import lab


def _line(names: list[str], arms: Mapping[str, lab.Arm]) -> dict[str, Any]:
  """Accuracies of arms by the entropy of their second half."""
  held = lambda name: float(np.mean(arms[name].values['held']))
  names = sorted(names, key=held)
  return {
    'x': [held(name) for name in names],
    'y': [list(arms[name].values['accuracy']) for name in names],
  }


def figures(
  arms: Mapping[str, lab.Arm], entropy: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
  """entropy  {arm: [S, steps]} of what it samples"""
  by_way: dict[str, list[str]] = {}
  for name in entropy:
    by_way.setdefault(WAYS[name].line, []).append(name)

  def curves(name: str, title: str, lines: tuple[str, ...]) -> dict[str, Any]:
    return {
      'kind': 'lines', 'name': name, 'title': title, 'xlabel': 'steps',
      'ylabel': 'entropy, nats', 'caption': 'Of the distribution that tokens '
      'are drawn from; mean and 95% interval over seeds.',
      'series': {
        WAYS[arm].label: {
          'x': list(range(1, entropy[arm].shape[1] + 1)),
          'y': np.round(entropy[arm].T, 4).tolist(),
        }
        for line in lines
        for arm in by_way.get(line, ())
      },
    }  # fmt: skip

  return [
    {'kind': 'bars', 'name': 'accuracy', 'title': 'Accuracy',
     'measures': ['accuracy'],
     'caption': f'Of samples at temperature {JUDGED_AT:g}, on held-out '
     'problems, each arm at its own rate.'},
    {'kind': 'lines', 'name': 'held', 'title': 'Entropy and accuracy',
     'xlabel': 'entropy of the second half of training, nats',
     'ylabel': 'accuracy, %',
     'caption': 'Each line is one way at several strengths; entropy is that of '
     'the distribution that tokens are drawn from.',
     'series': {line: _line(x, arms) for line, x in by_way.items() if line}},
    curves('temperatures', 'Entropy under temperatures', (FIXED, HELD)),
    curves('targets', 'Entropy under AEPO and a bonus',
           (AEPO, AS_PUBLISHED, BONUS)),
  ]  # fmt: skip
