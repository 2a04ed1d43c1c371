"""Sizes and claims of the study of hybrids within the bases' reach: arms, task
and measures are those of `experiments/hybrids`, the bases are others.
"""

import dataclasses

from experiments.hybrids import design as beyond
from posttrain_jax.evals.statistics import Check, Claim

SCALES = {
  'full': dataclasses.replace(beyond.SCALES['full'], seen=0.3),
  'reduced': dataclasses.replace(beyond.SCALES['reduced'], seen=0.3),
}
_BASE = Check('the base can do some of it', 'new', ('base',), 20.0, 60.0)


def _within(claim: Claim) -> Claim:
  """A claim of `hybrids`, of bases that can do some of the task."""
  others = tuple(x for x in claim.checks if x.arms != ('base',))
  return dataclasses.replace(claim, checks=(_BASE, *others))


STUDY = dataclasses.replace(
  beyond.STUDY,
  name='hybrids_within',
  title="Demonstrations and verified samples, within the base's reach",
  question=(
    'At equal steps, problems and tries, on a task that the base solves now '
    'and then: is any way of joining SFT and RL in one step better than SFT, '
    'and than SFT and then RL?'
  ),
  setup=(
    'Bases: SFT on addition, sorting, Countdown (plus and minus) with two '
    'numbers to 15 and, at '
    f'{SCALES["full"].seen:g} of the weight of that, with three: 600 steps of '
    '128 rows, pico (0.2M parameters). There are four, which seeds take turns '
    'to start from; rates are chosen on two others. This alone differs from '
    'the study of hybrids, whose bases have seen a fiftieth.',
    *beyond.STUDY.setup[1:],
  ),
  claims=tuple(_within(x) for x in beyond.STUDY.claims),
)  # fmt: skip

READING: tuple[str, ...] = ()
