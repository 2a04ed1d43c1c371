"""What is tuned: rates of SFT by the number of demonstrations, and for DPO the
rate and beta, on seeds and problems of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.budget.bench import BETA, RATE, Bench
from experiments.budget.settings import SETTINGS, TUNINGS, Scale, Setting
from posttrain_jax import lab

__all__ = ['Chosen']


class Chosen:
  """The values that stages take.

  sft  {(task, preset): {demonstrations: what was tried and taken}}
  dpo  {tuning: {'mixed' or 'cold': what was tried and taken}}

  Raises:
    ValueError: a setting whose tuning was not done.
  """

  def __init__(self, runs: lab.Lab, scale: Scale):
    self._scale = scale
    seeds = scale.tune_seeds * scale.places
    self._bench = Bench(runs.beside(seeds), scale)
    self.sft: dict[tuple[str, str], dict[int, lab.Tuned]] = {}
    self.dpo: dict[str, dict[str, lab.Together]] = {}
    for name in scale.tunings:
      self._tune(name, TUNINGS[name])

  def _cells(self, own: Setting, train: Any) -> lab.Cells:
    def score(stage: lab.Trained) -> np.ndarray:
      return self._bench.measure(own, stage, 'validation')['accuracy']

    seeds = len(self._scale.tune_seeds)
    return lab.Cells(train, score, self._scale.places, seeds)

  def _tune(self, name: str, own: Setting) -> None:
    bench, scale = self._bench, self._scale
    rates = self.sft.setdefault((own.task, own.preset), {})
    if not rates:
      most = max(
        SETTINGS[x].budget
        for x in scale.settings
        if (SETTINGS[x].task, SETTINGS[x].preset) == (own.task, own.preset)
      )
      counts = [x for x in scale.counts if x <= most]
      cells = {
        str(count): self._cells(
          own,
          lambda values, count=count: bench.sft(own, count, values[RATE]),
        )
        for count in counts
      }
      found = lab.tune_cells(cells, RATE, scale.sft_rates, scale.extend)
      rates |= {count: found[str(count)] for count in counts}

    def cells_of(share: float) -> lab.Cells:
      demonstrations, pairs = own.counts(share)
      start = bench.base(own)
      if demonstrations:
        start = bench.sft(own, demonstrations, self.rate(own, demonstrations))
      return self._cells(own, lambda v: bench.dpo(own, start, pairs, v))

    betas, rates_of_dpo = scale.begun.get(name, (scale.betas, scale.dpo_rates))
    parts = {'mixed': cells_of(0.25), 'cold': cells_of(0.0)}
    self.dpo[name] = lab.tune_together(
      {kind: part.add for kind, part in parts.items()},
      {BETA: betas, RATE: rates_of_dpo},
      lambda kind, cell: parts[kind].score(cell),
      extend=scale.extend,
    )

  def _count(self, own: Setting, demonstrations: int) -> int:
    """The nearest number of demonstrations that a rate was chosen for."""
    known = self.sft[own.task, own.preset]
    return min(known, key=lambda x: abs(np.log(x / demonstrations)))

  def rate(self, own: Setting, demonstrations: int) -> float:
    """Of SFT on so many demonstrations."""
    count = self._count(own, demonstrations)
    return self.sft[own.task, own.preset][count].chosen

  def values(self, own: Setting, demonstrations: int) -> Mapping[str, float]:
    """{BETA, RATE} of DPO after so many demonstrations."""
    return self._together(own, demonstrations).chosen

  def _together(self, own: Setting, demonstrations: int) -> lab.Together:
    if own.tuned not in self.dpo:
      raise ValueError(
        f'setting of {own.budget}: nothing was tuned for "{own.tuned}"'
      )
    return self.dpo[own.tuned]['mixed' if demonstrations else 'cold']

  def entries(
    self,
    taken: Sequence[tuple[str, Setting, float]],
    names: Mapping[str, Sequence[str]],
  ) -> dict[str, dict[str, Any]]:
    """`Arm.tuned` of an arm that is in settings (name, setting, share).

    names  {setting: measures that are of it}; else the one of its name
    """
    found: dict[str, dict[str, Any]] = {}

    def note(key: str, entry: Mapping[str, Any], name: str) -> None:
      own = found.setdefault(key, {'grid': entry['grid'], 'chosen': {}})
      own['chosen'] |= dict.fromkeys(names.get(name, (name,)), entry['chosen'])

    for name, own, share in taken:
      demonstrations, pairs = own.counts(share)
      if demonstrations:
        count = self._count(own, demonstrations)
        note(
          f'rate of SFT ({own.task}, {own.preset}, {count} demonstrations)',
          self.sft[own.task, own.preset][count].entry,
          name,
        )
      if pairs:
        together = self._together(own, demonstrations)
        note(f'rate of DPO ({own.tuned})', together.entry(RATE), name)
        note(f'beta of DPO ({own.tuned})', together.entry(BETA), name)
    return found
