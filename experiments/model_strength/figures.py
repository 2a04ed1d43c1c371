"""The figures of the study: gains by alpha, the grid, where they cross."""

from typing import Any

import numpy as np

from experiments.model_strength.design import (
  ALPHAS,
  BASES,
  OBJECTIVES,
  Scale,
)
from posttrain_jax import lab

TITLES = {'sampled': 'sampled at temperature 1', 'greedy': 'greedy'}


def by_alpha(
  arms: dict[str, lab.Arm], scale: Scale, measure: str
) -> dict[str, Any]:
  """Gain against alpha, a line for each base."""
  there = [name for name in ALPHAS if name in scale.objectives]
  alphas = [dict(OBJECTIVES[name].hparams)['loss.alpha'] for name in there]
  return {
    'kind': 'lines', 'name': f'gain_by_alpha_{measure}',
    'title': f'Gain over the base by alpha, {TITLES[measure]}',
    'xlabel': 'alpha / (alpha + 1), for alpha = 0, 0.5, 1, 2, 10',
    'ylabel': 'gain (points)', 'logx': False,
    'series': {
      BASES[base]: {
        'x': [alpha / (alpha + 1) for alpha in alphas],
        'y': [
          list(arms[f'{base}-{name}'].values[f'gain_{measure}'])
          for name in there
        ],
      }
      for base in BASES
    },
    'caption': 'Left is -log p, the middle -p, right -p^10: a token of '
               'probability alpha / (alpha + 1) pulls hardest on its logit. '
               'Mean and 95% interval over seeds.',
  }  # fmt: skip


def grid(
  arms: dict[str, lab.Arm], scale: Scale, measure: str
) -> dict[str, Any]:
  """Gain of every objective on every base."""
  values = [
    [
      round(float(np.mean(arms[f'{base}-{x}'].values[f'gain_{measure}'])), 1)
      for x in scale.objectives
    ]
    for base in BASES
  ]
  return {
    'kind': 'heatmap', 'name': f'grid_{measure}',
    'title': f'Gain over the base, {TITLES[measure]}',
    'rows': list(BASES.values()),
    'columns': [OBJECTIVES[name].label for name in scale.objectives],
    'values': values, 'unit': 'points', 'xlabel': 'objective',
    'ylabel': 'what the base has seen of the task',
    'caption': 'Mean over seeds, each at its own best learning rate.',
  }  # fmt: skip


def crossover(arms: dict[str, lab.Arm]) -> dict[str, Any]:
  """-p minus -log p against the strength of the base."""
  strength = [float(np.mean(arms[base].values['base_p'])) for base in BASES]

  def gap(measure: str) -> list[list[float]]:
    return [
      [
        float(a - b)
        for a, b in zip(
          arms[f'{base}-p'].values[measure], arms[f'{base}-nll'].values[measure]
        )
      ]
      for base in BASES
    ]

  return {
    'kind': 'lines', 'name': 'crossover',
    'title': 'Where -p overtakes -log p',
    'xlabel': 'mean probability of the demonstration tokens under the base',
    'ylabel': '-p minus -log p (points)', 'logx': False,
    'series': {
      TITLES[measure]: {'x': strength, 'y': gap(measure)}
      for measure in TITLES
    },
    'caption': 'Above 0 the objective that trusts the prior wins. From left to '
               f'right: {", ".join(BASES.values()).lower()}. Paired by seed, '
               'mean and 95% interval.',
  }  # fmt: skip


def longer(arms: dict[str, lab.Arm], scale: Scale) -> dict[str, Any]:
  """The weakest base, by steps."""
  steps = [0, scale.steps, scale.longer * scale.steps]

  def path(objective: str, part: str) -> list[list[float]]:
    ends = [f'unseen-{objective}{part}', f'unseen-{objective}{part}-longer']
    return [list(arms[x].values['sampled']) for x in ('unseen', *ends)]

  return {
    'kind': 'lines', 'name': 'longer',
    'title': 'The base that never saw the task, with more steps',
    'xlabel': 'optimizer steps', 'ylabel': 'accuracy, temperature 1 (%)',
    'logx': False,
    'series': {
      OBJECTIVES[objective].label + said: {
        'x': steps, 'y': path(objective, part)
      }
      for objective in ('nll', 'p')
      for part, said in (('', ''), ('-clean', ', no noise'))
    },
    'caption': f'Runs of {steps[1]} and of {steps[2]} steps, each at its own '
               'best learning rate. Mean and 95% interval over seeds.',
  }  # fmt: skip


def make(arms: dict[str, lab.Arm], scale: Scale) -> list[dict[str, Any]]:
  """All figures, as `lab.main` asks for them."""
  found = [crossover(arms)]
  for measure in TITLES:
    found += [by_alpha(arms, scale, measure), grid(arms, scale, measure)]
  if scale.longer:
    found.insert(1, longer(arms, scale))
  return found
