"""The figures of the study: shares by arm, and on the way there."""

from typing import Any

import numpy as np

from experiments.amplification.design import NAMES, RARE, SAMPLES
from posttrain_jax import lab

# {step: [formats, seeds]}
Path = dict[int, np.ndarray]


def table(arms: dict[str, lab.Arm]) -> dict[str, Any]:
  """Shares of formats, an arm a row."""
  rows = [
    [round(float(np.mean(arm.values[f'share_{x}'])), 1) for x in NAMES]
    for arm in arms.values()
  ]
  return {
    'kind': 'heatmap', 'name': 'shares', 'title': 'What is answered in',
    'rows': [arm.label for arm in arms.values()], 'columns': list(NAMES),
    'values': rows, 'low': 0, 'high': 100, 'unit': '%', 'xlabel': 'format',
    'ylabel': 'arm',
    'caption': 'Share of the answers to held-out problems (temperature 1), '
               'mean over seeds. "Its right answers" is what the base itself '
               'gets right: no training, only a filter.',
  }  # fmt: skip


def precisions(arms: dict[str, lab.Arm]) -> dict[str, Any]:
  """How often a base is right in each format."""
  bases = {
    key: arm for key, arm in arms.items() if 'precision_direct' in arm.values
  }
  rows = [
    [round(float(np.nanmean(arm.values[f'precision_{x}'])), 1) for x in NAMES]
    for arm in bases.values()
  ]
  return {
    'kind': 'heatmap', 'name': 'precision',
    'title': 'How often the bases are right',
    'rows': [arm.label for arm in bases.values()], 'columns': list(NAMES),
    'values': rows, 'low': 0, 'high': 100, 'unit': '%', 'xlabel': 'format',
    'ylabel': 'base',
    'caption': 'Accuracy of the answers that are given in each format, mean '
               'over seeds.',
  }  # fmt: skip


def path(key: str, label: str, shares: Path) -> dict[str, Any]:
  """Shares of all formats over the steps of an arm."""
  return {
    'kind': 'lines', 'name': f'path_{key}',
    'title': f'{label}: formats while it trains',
    'xlabel': 'steps', 'ylabel': 'share of answers (%)', 'logx': False,
    'series': {
      name: {'x': list(shares), 'y': [x[i].tolist() for x in shares.values()]}
      for i, name in enumerate(NAMES)
    },
    'caption': 'Mean and 95% interval over seeds, at the chosen learning rate.',
  }  # fmt: skip


def speed(arms: dict[str, lab.Arm], paths: dict[str, Path]) -> dict[str, Any]:
  """Share of the most common format against steps, an arm a line."""
  return {
    'kind': 'lines', 'name': 'speed', 'title': 'How soon one format dominates',
    'xlabel': 'steps', 'ylabel': 'share of the most common format (%)',
    'logx': False,
    'series': {
      arms[key].label: {
        'x': list(shares),
        'y': [x.max(axis=0).tolist() for x in shares.values()],
      }
      for key, shares in paths.items()
      if key.startswith('even')
    },
    'caption': 'From the first base, each arm at its chosen learning rate; the '
               'most common format of each seed at each step.',
  }  # fmt: skip


def by_seed(base: lab.Arm, after: lab.Arm) -> dict[str, Any]:
  """Of each seed: how right a base is in each format, what is left of it."""
  rows, values = [], []
  for seed in range(len(base.values['top'])):
    rows += [f'Seed {seed}: right before', f'Seed {seed}: share after']
    for arm, what in ((base, 'precision'), (after, 'share')):
      own = [arm.values[f'{what}_{x}'][seed] for x in NAMES]
      values.append([round(float(x), 1) for x in own])
  return {
    'kind': 'heatmap', 'name': 'rare_seeds',
    'title': f'{after.label}, seed by seed', 'rows': rows,
    'columns': list(NAMES), 'values': values, 'low': 0, 'high': 100,
    'unit': '%', 'xlabel': 'format', 'ylabel': 'seed',
    'caption': 'How often the base is right in each format, and the shares of '
               f'formats after GRPO. Before it, {RARE} is in a few of 100 '
               'answers; a mean over seeds can hide that they part.',
  }  # fmt: skip


def by_rate(tried: dict[str, dict], what: str) -> dict[str, Any]:
  """Accuracy or the largest share against the learning rate."""
  shown = {
    'top': ('share of the most common format', 'converges'),
    'accuracy': ('pass@1', 'learns'),
  }
  label, verb = shown[what]
  return {
    'kind': 'lines', 'name': f'rates_{what}',
    'title': f'How far an arm {verb}, by its learning rate',
    'xlabel': 'learning rate', 'ylabel': f'{label} (%)', 'logx': True,
    'series': {
      arm: {
        'x': list(found),
        'y': [x[what].tolist() for x in found.values()],
      }
      for arm, found in tried.items()
    },
    'caption': 'From the first base after all steps, on the validation '
               'problems that choose the rate.',
  }  # fmt: skip


def make(
  arms: dict[str, lab.Arm], paths: dict[str, Path], tried: dict[str, dict]
) -> list[dict[str, Any]]:
  """All figures, as `lab.main` asks for them.

  tried  {label of an arm: {learning rate: {'top', 'accuracy': [seeds]}}}
  """
  found = [table(arms), precisions(arms), speed(arms, paths)]
  found += [by_rate(tried, what) for what in ('top', 'accuracy')]
  if 'rare_grpo' in arms:
    found.append(by_seed(arms['rare'], arms['rare_grpo']))
  found += [
    path(key, arms[key].label, shares)
    for key, shares in paths.items()
    if key.endswith('_grpo')
  ]
  found += [
    {
      'kind': 'frontier', 'name': 'diversity', 'x': 'accuracy', 'y': 'distinct',
      'title': 'Accuracy and diversity',
      'caption': f'Different answers among {SAMPLES} samples of a problem, '
                 'against how many are right.',
    },
    {
      'kind': 'bars', 'name': 'pass', 'measures': ['accuracy', 'passk'],
      'title': 'One try and many',
      'caption': f'Left: samples that are right. Right: problems with a right '
                 f'one among {SAMPLES}.',
    },
  ]  # fmt: skip
  return found
