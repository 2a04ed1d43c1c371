"""Figures of the study of second models."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.two_models.settings import TRIES, WAYS
from experiments.two_models.tuned import Chosen
from posttrain_jax import lab


def _rates(chosen: Chosen) -> dict[str, Any]:
  """{label: a line of different right answers by the share that is right}, a
  point for each rate."""
  lines = {}
  for arm, tried in chosen.found.items():
    found = [{k: v[:, 0] for k, v in x.items()} for x in tried.values()]
    found.sort(key=lambda x: float(np.mean(x['right'])))
    lines[WAYS[arm].label] = {
      'x': [round(100.0 * float(np.mean(x['right'])), 2) for x in found],
      'y': [np.round(x['distinct'], 3).tolist() for x in found],
    }
  return lines


def _colder(heated: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """SFT by temperature, as a line of the same kind."""
  right, found = heated['right'], heated['distinct']
  order = np.argsort(right.mean(0))
  return {
    'x': np.round(100.0 * right.mean(0)[order], 2).tolist(),
    'y': [np.round(found[:, i], 3).tolist() for i in order],
  }


def figures(
  arms: Mapping[str, lab.Arm], chosen: Chosen, heated: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
  """heated  {measure: [S, HEATS]} of SFT"""
  label = f'different, of {TRIES} tries'
  trained = [x for x in arms if x in WAYS]
  return [
    {'kind': 'frontier', 'name': 'modes', 'title': 'Right, and different',
     'x': 'right', 'y': 'distinct',
     'caption': 'Each arm at its own rate; the exact arms are optima of '
     'another problem.'},
    {'kind': 'lines', 'name': 'rates', 'title': 'At every rate',
     'xlabel': 'right, %', 'ylabel': label,
     'caption': 'A point for each rate that was tried, mean and 95% interval '
     'over the tuning seeds.',
     'series': _rates(chosen)},
    {'kind': 'lines', 'name': 'cold', 'title': 'SFT, drawn colder',
     'xlabel': 'right, %', 'ylabel': label,
     'caption': 'A point for each temperature from 1 down, mean and 95% '
     'interval over seeds; the other arms are single points.',
     'series': {
       'SFT by temperature': _colder(heated),
       **{
         arms[x].label: {
           'x': [round(float(np.mean(arms[x].values['right'])), 2)],
           'y': [np.round(arms[x].values['distinct'], 3).tolist()],
         }
         for x in trained if x != 'sft'
       },
     }},
  ]  # fmt: skip
