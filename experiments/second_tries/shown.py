"""Figures of the study of second tries."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from posttrain_jax import lab


def figures(
  arms: Mapping[str, lab.Arm], found: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
  """found  {arm: what `Turns` says of it, by seed}"""
  return [
    {'kind': 'bars', 'name': 'first', 'title': 'At the first turn',
     'measures': ['first'],
     'caption': 'Samples on held-out problems that are right, each arm at its '
     'own rate.'},
    {'kind': 'bars', 'name': 'fifth', 'title': 'With five answers',
     'measures': ['fifth'],
     'caption': 'In turns, each told that the last one was wrong, or apart.'},
    {'kind': 'lines', 'name': 'turns', 'title': 'Right by each turn',
     'xlabel': 'turn', 'ylabel': 'accuracy, %',
     'caption': 'An answer that is right stays right.',
     'series': {
       arms[name].label: {
         'x': list(range(1, seen['turns'].shape[1] + 1)),
         'y': (100.0 * seen['turns']).T.round(3).tolist(),
       }
       for name, seen in found.items()
     }},
  ]  # fmt: skip
