"""The figures of the study: shares by arm, and on the way there."""

from typing import Any

import numpy as np

from experiments.amplification.design import NAMES, SAMPLES
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
      if key.startswith('small')
    },
    'caption': 'The small model, each arm at its chosen learning rate; the '
               'most common format of each seed at each step.',
  }  # fmt: skip


def make(
  arms: dict[str, lab.Arm], paths: dict[str, Path]
) -> list[dict[str, Any]]:
  """All figures, as `lab.main` asks for them."""
  found = [table(arms), precisions(arms), speed(arms, paths)]
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
