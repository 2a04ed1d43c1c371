"""Figures of the study of stages."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.stages import contrast
from experiments.stages.settings import Scale
from posttrain_jax import lab


def figures(arms: Mapping[str, lab.Arm], scale: Scale) -> list[dict[str, Any]]:
  """What the page shows; lines before and after DPO where several are run."""
  found: list[dict[str, Any]] = [
    {'kind': 'bars', 'name': 'accuracy', 'title': 'Accuracy by arm',
     'measures': ['accuracy'],
     'caption': 'Sampled answers to held-out problems, each stage at its own '
     'rate.'},
    {'kind': 'bars', 'name': 'kept', 'title': 'What is kept of old tasks',
     'measures': ['kept'],
     'caption': 'Greedy answers to list functions, which no stage is about.'},
  ]  # fmt: skip
  if 'sft_aligned' in arms:
    found.append(
      {'kind': 'bars', 'name': 'likelihood',
       'title': 'What became of right and wrong answers',
       'measures': ['chosen', 'rejected'],
       'caption': 'Change of the log-probability of whole answers of the model '
       'after SFT to held-out problems.'}
    )  # fmt: skip
  before = {'sft': 'dpo', 'low': 'low_dpo', 'chi2': 'chi2_dpo',
            'hellinger': 'hellinger_dpo'}  # fmt: skip
  there = {a: b for a, b in before.items() if {a, b} <= arms.keys()}
  if len(there) > 1:
    found.append(
      {'kind': 'lines', 'name': 'before_after',
       'title': 'The first stage, before and after DPO',
       'xlabel': 'problems that DPO read', 'ylabel': 'accuracy, %',
       'caption': 'Mean and 95% interval over seeds.',
       'series': {
         arms[a].label: {
           'x': [0, scale.pairs],
           'y': [np.asarray(arms[x].values['accuracy']).tolist()
                 for x in (a, b)],
         }
         for a, b in there.items()
       }}
    )  # fmt: skip
  return [
    *found,
    {'kind': 'curves', 'name': 'bandits', 'measure': 'regret',
     'title': 'Regret in bandits on pairs that others drew',
     'caption': f'Mean of random bandits over {scale.bandit_steps} steps of '
     f'Adam, each method at its own rate; penalty {contrast.BETA:g}.'},
  ]  # fmt: skip
