"""Figures of the study of lengths."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.lengths.settings import Scale
from posttrain_jax import lab

PASSES = ('few', 'middle', 'long')


def figures(arms: Mapping[str, lab.Arm], scale: Scale) -> list[dict[str, Any]]:
  """What the page shows; the passes where several are run."""
  found: list[dict[str, Any]] = [
    {'kind': 'frontier', 'name': 'tradeoff', 'title': 'Right and short',
     'x': 'length', 'y': 'accuracy',
     'caption': 'Greedy answers to held-out problems, each stage at its own '
     'rate.'},
    {'kind': 'bars', 'name': 'where', 'title': 'Tokens on easy and hard '
     'problems', 'measures': ['easy', 'hard'],
     'caption': 'Easy: those that the base of a seed has right.'},
    {'kind': 'bars', 'name': 'noise', 'title': 'What noise costs',
     'measures': ['lost'],
     'caption': 'Accuracy lost against the same method on clean rows.'},
  ]  # fmt: skip
  there = [x for x in PASSES if {x, f'{x}_cut'} <= arms.keys()]
  if len(there) > 1:
    at = [scale.passes[PASSES.index(x)] for x in there]
    lines = lambda what, end: {
      'x': at,
      'y': [np.asarray(arms[x + end].values[what]).tolist() for x in there],
    }
    for what, label in (('accuracy', 'accuracy, %'), ('length', 'tokens')):
      found.append(
        {'kind': 'lines', 'name': f'passes_{what}',
         'title': f'Passes of SFT, and GRPO for length: {label}',
         'xlabel': 'passes', 'ylabel': label, 'logx': True,
         'caption': 'Mean and 95% interval over seeds.',
         'series': {'SFT': lines(what, ''),
                    'GRPO for length after it': lines(what, '_cut')}}
      )  # fmt: skip
  return found
