r"""A budget of examples, divided between demonstrations and preferences.

  python -m experiments.budget.run             # full
  python -m experiments.budget.run --reduced   # two minutes

README.md has the question and the reading, design.py the settings, claims.py
the claims, bench.py the stages.
"""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments.budget.bench import BETA, RATE, Bench
from experiments.budget.claims import READING, STUDY
from experiments.budget.design import (
  ABOUT,
  LABELS,
  LEVEL_ARMS,
  PLOTS,
  SCALES,
  SETTINGS,
  SHARES,
  TUNINGS,
  Scale,
  Setting,
)
from posttrain_jax import lab

Curves = dict[str, dict[str, Any]]


class Chosen:
  """What was tuned, on seeds and problems of its own.

  sft  {(task, preset): {count: lab.Tuned}}
  dpo  {(tuning, 'mixed' or 'cold'): lab.Together}
  """

  def __init__(self, bench: Bench):
    self._bench, self.sft, self.dpo = bench, {}, {}
    for name in bench.scale.tunings:
      self._tune(name)

  def _score(self, own: Setting):
    return lambda _, stage: self._bench.measure(
      own.task, own.preset, stage, 'validation'
    )['accuracy']

  def _tune(self, name: str) -> None:
    own, scale = TUNINGS[name], self._bench.scale
    counts = [x for x in scale.counts if x <= own.budget]
    rates = lab.tune(
      {
        str(count): lambda rate, count=count: self._bench.sft(own, count, rate)
        for count in counts
      },
      scale.sft_rates,
      self._score(own),
    )
    known = self.sft.setdefault((own.task, own.preset), {})
    known.update({count: rates[str(count)] for count in counts})

    def maker(share: float):
      demonstrations, pairs = own.counts(share)
      start = self._bench.base(own.preset)
      if demonstrations:
        start = self._bench.sft(
          own, demonstrations, self.sft_rate(own, demonstrations)
        )
      return lambda values: self._bench.dpo(own, start, pairs, values)

    found = lab.tune_together(
      {'mixed': maker(0.25), 'cold': maker(0.0)},
      {BETA: scale.betas, RATE: scale.dpo_rates},
      self._score(own),
      extend=1,
    )
    for kind, together in found.items():
      self.dpo[name, kind] = together

  def sft_entry(self, own: Setting, count: int) -> dict[str, Any]:
    """What was tried and taken for about so many demonstrations."""
    known = self.sft[own.task, own.preset]
    return known[min(known, key=lambda x: abs(np.log(x / count)))].entry

  def sft_rate(self, own: Setting, count: int) -> float:
    return self.sft_entry(own, count)['chosen']


def curve(bench: Bench, own: Setting, chosen: Chosen) -> dict[str, Any]:
  """{share: its stages, what was tuned, and its measures} of a setting."""
  found = {}
  for name in own.shares:
    demonstrations, pairs = own.counts(SHARES[name])
    stages, tuned = [], {}
    start = bench.base(own.preset)
    after_sft = None
    if demonstrations:
      entry = chosen.sft_entry(own, demonstrations)
      tuned['sft'] = entry
      start = bench.sft(own, demonstrations, entry['chosen'])
      stages.append(start)
    after_sft = bench.measure(own.task, own.preset, start)
    if pairs:
      together = chosen.dpo[own.tuned, 'mixed' if demonstrations else 'cold']
      tuned |= {'dpo': together.entry(RATE), 'beta': together.entry(BETA)}
      sampler = bench.strong(own) if own.given else None
      start = bench.dpo(own, start, pairs, dict(together.chosen), sampler)
      stages.append(start)
    found[name] = {
      'stages': stages,
      'tuned': tuned,
      'after_sft': after_sft['accuracy'],
      **bench.measure(own.task, own.preset, start),
    }
  return found
