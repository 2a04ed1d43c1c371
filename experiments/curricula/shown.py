"""Figures of the study of curricula."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.curricula.design import EVEN, LEVELS, WAYS, measure_of, name_of
from posttrain_jax import lab

DRAWN = tuple(x for x, weight in zip(LEVELS, EVEN, strict=True) if weight)


def chances_of(stage: lab.Trained) -> dict[int, np.ndarray]:
  """{level: [S, steps]} how likely it was in each step, in %."""
  return {x: 100.0 * stage.curves[f'curriculum/{name_of(x)}'] for x in DRAWN}


def figures(
  arms: Mapping[str, lab.Arm],
  chances: Mapping[str, Mapping[int, np.ndarray]],
) -> list[dict[str, Any]]:
  """chances  {arm: {level: [S, steps]}} in %"""
  found: list[dict[str, Any]] = [
    {'kind': 'bars', 'name': name, 'title': title, 'measures': [measure],
     'caption': 'Of samples on held-out problems, each arm at its own rate.'}
    for name, title, measure in (
      ('accuracy', 'Mean of all levels', 'accuracy'),
      ('hardest', 'The hardest level that is drawn', measure_of(DRAWN[-1])),
      ('unseen', 'A level that is never drawn', measure_of(LEVELS[-1])),
    )
  ]  # fmt: skip
  found.append(
    {'kind': 'lines', 'name': 'levels', 'title': 'Accuracy by level',
     'xlabel': 'digits to be summed', 'ylabel': 'accuracy, %',
     'caption': f'Sums of {LEVELS[-1]} digits are never drawn.',
     'series': {
       arm.label: {
         'x': list(LEVELS),
         'y': [
           np.round(arm.values[measure_of(x)], 3).tolist() for x in LEVELS
         ],
       }
       for name, arm in arms.items()
       if name in ('base', 'sft', 'uniform', 'bandit_sharp', 'easy_to_hard',
                   'hardest')
     }},
  )  # fmt: skip
  found += [
    {'kind': 'lines', 'name': f'chances_{name}',
     'title': f'What is drawn: {WAYS[name].label}', 'xlabel': 'steps',
     'ylabel': 'chance of a level, %', 'caption': 'Mean over seeds.',
     'series': {
       f'{level} digits': {
         'x': list(range(1, curve.shape[1] + 1)),
         'y': curve.T.round(3).tolist(),
       }
       for level, curve in own.items()
     }}
    for name, own in chances.items()
    if name != 'uniform'
  ]  # fmt: skip
  return found
