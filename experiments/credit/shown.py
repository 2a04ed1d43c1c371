"""Figures of the study of credit for steps."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.credit.design import BUDGETS, WAYS
from posttrain_jax import lab

# {name of a figure: arms}: those that share an estimator.
FAMILIES = {
  'segments': ('total', 'segments'),
  'progress': ('grpo', 'short', 'mrt'),
  'annotations': ('ppo', 'carft', 'carft_other'),
}
TITLES = {
  'segments': 'rewards of segments',
  'progress': 'rewards of progress',
  'annotations': 'annotations',
}
WINDOW = 5  # steps that a curve is averaged over


def smooth(curve: np.ndarray) -> np.ndarray:
  """[S, steps] the mean of each step and those up to WINDOW - 1 before it."""
  total = np.cumsum(np.pad(curve, ((0, 0), (1, 0))), axis=1)
  steps = np.arange(1, curve.shape[1] + 1)
  first = np.maximum(steps - WINDOW, 0)
  return (total[:, steps] - total[:, first]) / (steps - first)


def figures(
  arms: Mapping[str, lab.Arm],
  cuts: Mapping[str, np.ndarray],
  curves: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
  """cuts    {arm: [S, budgets]} accuracy in % where thoughts are cut
  curves  {arm: [S, steps]} accuracy in % of its own answers
  """
  found: list[dict[str, Any]] = [
    {'kind': 'bars', 'name': 'accuracy', 'title': 'Accuracy',
     'measures': ['accuracy'],
     'caption': 'Of samples on held-out problems, each arm at its own rate.'},
    {'kind': 'bars', 'name': 'regret', 'title': 'Regret over budgets',
     'measures': ['regret'],
     'caption': 'Wrong answers, averaged over budgets of '
     f'{", ".join(map(str, BUDGETS))} tokens of thought.'},
  ]  # fmt: skip
  found.append(
    {'kind': 'lines', 'name': 'budgets', 'title': 'Accuracy under a budget',
     'xlabel': 'tokens that a thought may have', 'ylabel': 'accuracy, %',
     'caption': 'A longer thought is cut, and the answer asked for.',
     'series': {
       arms[name].label: {'x': list(BUDGETS), 'y': x.T.round(3).tolist()}
       for name, x in cuts.items()
       if name in ('base', 'sft', *FAMILIES['progress'])
     }},
  )  # fmt: skip
  for name, members in FAMILIES.items():
    there = [arm for arm in members if arm in curves]
    if there:
      found.append(
        {'kind': 'lines', 'name': f'steps_{name}',
         'title': f'Learning with {TITLES[name]}', 'xlabel': 'steps',
         'ylabel': 'accuracy of own answers, %',
         'caption': f'Mean of {WINDOW} steps, over seeds, on new problems.',
         'series': {
           WAYS[arm].label: {
             'x': list(range(1, curves[arm].shape[1] + 1)),
             'y': smooth(curves[arm]).T.round(3).tolist(),
           }
           for arm in there
         }},
      )  # fmt: skip
  return found
