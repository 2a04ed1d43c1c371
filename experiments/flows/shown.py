"""Figures of the study of flows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.flows.settings import FLAT, FLOWERS, HEAT, TOP, TRIES, WAYS
from experiments.flows.tuned import Chosen, heated
from posttrain_jax import lab


def _rates(chosen: Chosen, part: str) -> dict[str, Any]:
  """What arms of a part come to at each of their rates: {label: a line of
  different right answers by the share that is right}."""
  lines = {}
  for arm, tried in chosen.found.items():
    if WAYS[arm].part == part:
      found = sorted(tried.values(), key=lambda x: float(np.mean(x['right'])))
      lines[WAYS[arm].label] = {
        'x': [round(100.0 * float(np.mean(x['right'])), 2) for x in found],
        'y': [np.round(x['distinct'], 3).tolist() for x in found],
      }
  return lines


def figures(
  arms: Mapping[str, lab.Arm],
  seen: Mapping[str, Mapping[str, np.ndarray]],
  chosen: Chosen,
) -> list[dict[str, Any]]:
  """seen  {arm: what its stage measured}"""
  lines = [
    x for x in ('names_base', 'names_sft', 'names_flat', *FLOWERS) if x in seen
  ]
  label = lambda x: WAYS[x].label if x in WAYS else arms[x].label
  return [
    {'kind': 'frontier', 'name': 'found', 'title': 'Right, and different',
     'x': 'right', 'y': 'distinct',
     'caption': 'Picks: different right answers to be expected in '
     f'{TRIES["picks"]} tries, on held-out problems, each arm at its own '
     'rate.'},
    {'kind': 'frontier', 'name': 'alike', 'title': 'Names, any as good',
     'x': 'listed', 'y': 'names',
     'caption': f'Different names to be expected in {TRIES["alike"]} tries.'},
    {'kind': 'bars', 'name': 'distinct', 'title': 'Different right answers',
     'measures': ['distinct', 'right'],
     'caption': f'Picks, in {TRIES["picks"]} tries; 56 are right.'},
    *(
      {'kind': 'lines', 'name': f'{part}_rates', 'title': title,
       'xlabel': 'right, %', 'ylabel': f'different, of {TRIES[part]} tries',
       'caption': 'A point for each rate that was tried: mean and 95% interval '
       'over the two tuning seeds, on validation problems.',
       'series': _rates(chosen, part)}
      for part, title in (
        ('picks', 'Picks at every rate'), ('alike', 'Alike at every rate')
      )
    ),
    {'kind': 'bars', 'name': 'fit', 'title': 'Fit to the flattened popularity',
     'measures': ['kl', 'hit'],
     'caption': f'Popularity to the power of {FLAT:g}; users whose item is '
     f'among the {TOP} likeliest names.'},
    {'kind': 'lines', 'name': 'heat', 'title': 'Fit by temperature',
     'xlabel': 'temperature',
     'ylabel': 'KL to the flattened popularity, nats',
     'caption': 'By the temperature that names are drawn at; mean and 95% '
     'interval over seeds.',
     'series': {
       label(x): {
         'x': list(HEAT),
         'y': [np.round(seen[x][heated('kl', t)], 4).tolist() for t in HEAT],
       }
       for x in lines
     }},
  ]  # fmt: skip
