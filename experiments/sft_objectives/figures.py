"""The figures of the study: objectives by data, and what they keep."""

from typing import Any

import numpy as np

from experiments.sft_objectives.design import (
  DATA,
  OBJECTIVES,
  Scale,
  arm_of,
)
from posttrain_jax import lab


def grid(
  arms: dict[str, lab.Arm], scale: Scale, measure: str, title: str
) -> dict[str, Any]:
  """A measure of every objective on all demonstrations that it met."""
  objectives = [x for x in OBJECTIVES if any(x == y for y, _ in scale.arms)]
  data = [x for x in DATA if any(x == y for _, y in scale.arms)]

  def value(objective: str, own: str) -> float | None:
    arm = arms.get(arm_of(objective, own))
    return arm and round(float(np.mean(arm.values[measure])), 1)

  return {
    'kind': 'heatmap', 'name': f'grid_{measure}', 'title': title,
    'rows': [OBJECTIVES[x].label for x in objectives],
    'columns': [DATA[x].label for x in data],
    'values': [[value(x, own) for own in data] for x in objectives],
    'unit': '%', 'xlabel': 'demonstrations', 'ylabel': 'objective',
    'caption': 'Mean over seeds, each at its own best learning rate.',
  }  # fmt: skip


def make(arms: dict[str, lab.Arm], scale: Scale) -> list[dict[str, Any]]:
  """The figures of a run."""
  return [
    grid(arms, scale, 'new', 'The new task, greedy'),
    grid(arms, scale, 'sampled', 'The new task, at temperature 1'),
    grid(arms, scale, 'kept', "What is kept of the base's tasks"),
  ]
