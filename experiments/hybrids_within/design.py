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

READING: tuple[str, ...] = (
  'Where the base solves 31% of the task, what tries by itself is ahead: '
  'CHORD 47%, GRPO 46, LUFFY 45, ViSurf and ReLIFT 44, Prefix-RFT, UFT and '
  'SFT then GRPO 42 to 43. SFT comes to 36 on as many demonstrations and to '
  '40 on eight times as many, and then keeps 22% of the base tasks, where all '
  'others keep 73 to 82. Beyond the reach it was the other way round.',
  'No claim is reproduced at a margin of 5 points. CHORD is above SFT and then '
  'GRPO by 4.9 (-0.2 to 10.0, undecided), Prefix-RFT by 1.2 (-7 to 10, '
  'undecided), ViSurf by 2.1 (not seen); SRFT is 5.9 below it (-12 to 0.5, not '
  'seen). PPO after SFT is 1.8 above SFT (0.4 to 3.1, not seen).',
  'Nothing that reads demonstrations is above GRPO, which reads none: ReLIFT '
  'is 2.6 below it (0.4 to 4.9), ViSurf 2.1 and UFT 3.1 (all three not seen '
  'above); CHORD 0.8 above (seen afterwards, no claim). SFT and then GRPO has '
  'half of the steps of GRPO alone and ends 4 points lower.',
  'What decides the share of imitation decides little: the switch by gradients '
  'is 2.8 below an even coin (0.8 to 4.9, not seen), the meta-gradient adds '
  '0.3 points (not seen), held demonstrations of unsolved problems 0.5 to '
  'those of any (undecided). SRFT, SASR and AMFT stay near SFT (36 to 38%).',
  'A label that is always pushed raises the entropy (+0.084 nats, '
  'contradicted), and costs 5 points of accuracy (seen afterwards). Its rate '
  "is a third of ViSurf's; with the pilot's two seeds it is higher at equal "
  'rates too (0.42 nats against 0.37 at 1e-4, 0.40 against 0.35 at 3e-4).',
)
