"""What `recipe_harness_rows` finds of a recipe, against its form."""

import numpy as np
from recipe_answers_rows import Answers, Model

__all__ = ['compare']

STEP = 1e-5  # of the central differences


def _slopes(form, data: Answers, mask) -> dict[str, np.ndarray]:
  """The form's gradient by central differences, at the places that count."""
  frozen = data.models['live']
  slopes = {
    'logits': np.zeros(frozen.logits.shape),
    'values': np.zeros(frozen.values.shape),
  }
  arrays = {'logits': frozen.logits.copy(), 'values': frozen.values.copy()}
  for name, x in arrays.items():
    places = np.argwhere(mask > 0)
    if name == 'logits':
      last = np.arange(x.shape[-1])
      places = [(*place, v) for place in places for v in last]
    for place in map(tuple, places):
      at, sides = x[place], []
      for step in (STEP, -STEP):
        x[place] = at + step
        sides.append(form.value(Model(**arrays), frozen, data))
      x[place] = at
      slopes[name][place] = (sides[0] - sides[1]) / (2 * STEP)
  return slopes


def compare(found: dict, form) -> dict[str, float]:
  """How far what `evaluate` found is from a form.

  Of the value relative to it, of the gradient to its largest number.
  """
  data = found['data']
  live = data.models['live']
  value = form.value(live, live, data)
  slopes = _slopes(form, data, found['mask'])
  largest = max(np.abs(x).max() for x in slopes.values())
  assert np.isfinite(value) and largest > 0, 'the form has no gradient'
  gap = max(
    np.abs(found['gradient'][k] - slopes[k]).max() for k in ('logits', 'values')
  )
  return {
    'value': abs(found['value'] - value) / abs(value),
    'gradient': float(gap / largest),
  }
