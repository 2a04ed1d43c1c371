"""The rates of all arms, chosen with seeds and problems of their own."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experiments.lengths.bench import Bench
from experiments.lengths.settings import RATE, STEPS, WAYS, Scale
from posttrain_jax import lab

__all__ = ['Chosen', 'chain', 'rounds_of', 'tune']


def chain(name: str) -> list[str]:
  """The arms whose own rates an arm rests on, the last stage's at the end."""
  own = STEPS[name]
  before = chain(own.after) if own.after else []
  last = chain(own.rate_of) if own.rate_of else [name]
  return list(dict.fromkeys((*before, *last)))


def rounds_of(arms: Iterable[str]) -> tuple[list[str], list[str]]:
  """Arms that have a rate of their own: of SFT, and of RL, which goes on from
  these.

  Raises:
    ValueError: an arm that rests on one which is not of `arms`.
  """
  arms = list(arms)
  own = [x for x in arms if not STEPS[x].rate_of]
  for name in arms:
    lacking = [x for x in chain(name) if x not in own]
    if lacking:
      raise ValueError(f'arm {name} needs {lacking}, which are not run')
  rl = [x for x in own if WAYS[STEPS[x].way].rl]
  return [x for x in own if x not in rl], rl


@dataclasses.dataclass(frozen=True)
class Chosen:
  """What was tried and taken.

  rounds  of tuning: {arm: its rates}
  scores  {arm: {rate: [seeds]}}, share of validation problems that are right;
          of RL, right within the budget
  """

  rounds: list[dict[str, lab.Tuned]]
  scores: Mapping[str, Mapping[float, np.ndarray]]

  @property
  def rates(self) -> dict[str, float]:
    """{arm: the rate that was chosen}, of those that have one."""
    return {
      name: x.chosen for found in self.rounds for name, x in found.items()
    }

  def entries(self, name: str) -> dict[str, Any]:
    """`Arm.tuned` of an arm: the rates of all its stages."""
    kinds = ('SFT', 'GRPO')
    return {
      f'rate of {kind}': tuned[x].entry
      for x in chain(name)
      for kind, tuned in zip(kinds, self.rounds)
      if x in tuned
    }


def tune(runs: lab.Lab, scale: Scale) -> Chosen:
  """The rates of all arms, several of them side by side in the programs of the
  runs."""
  bench = Bench(runs.beside(scale.tune_seeds * scale.places), scale)
  found: list[dict[str, lab.Tuned]] = []
  scores: dict[str, dict[float, np.ndarray]] = {}
  rates: dict[str, float] = {}

  def cells_of(arm: str, what: str) -> lab.Cells:
    known = dict(rates)
    return lab.Cells(
      lambda values: bench.stage(arm, values[RATE], known),
      lambda stage: bench.answers(stage, 'validation')[what].mean(1),
      scale.places,
      len(scale.tune_seeds),
    )

  for arms, grid, what in zip(
    rounds_of(scale.arms), (scale.sft_grid, scale.rl_grid), ('right', 'tight')
  ):
    cells = {arm: cells_of(arm, what) for arm in arms}
    tuned = lab.tune_cells(cells, RATE, grid, scale.extend)
    found.append(tuned)
    rates |= {arm: x.chosen for arm, x in tuned.items()}
    scores |= {
      arm: {rate: cells[arm].score(x) for rate, x in tuned[arm].tried.items()}
      for arm in arms
    }
  return Chosen(found, scores)
