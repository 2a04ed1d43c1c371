"""Preference losses: one loss per pair of a chosen and a rejected answer.

Every function here is called the same way and does no averaging:

  pair_loss, metrics = loss(chosen, rejected, ref_chosen, ref_rejected,
                            **hparams)

  chosen, rejected          SequenceSignals under the trained policy
  ref_chosen, ref_rejected  the same answers under the frozen reference;
                            detached here. Reference-free losses take None
  pair_loss                 [B], minimised; the paper's loss is its mean
  metrics                   rewards/chosen, rewards/rejected, rewards/margins,
                            rewards/accuracies, each [B] and detached

A pair in which either side has length 0 is padding: its loss, metrics and
gradient are 0. `copg` also takes scalar rewards, and `bradley_terry`, which is
`reward_model.bradley_terry`, takes a reward model's scores instead.

`UNPAIRED` names those on B single answers, called alike among themselves:

  loss, metrics = loss(answers, ref_answers, mismatched, ref_mismatched,
                       desirable, **hparams)

  mismatched  answers of other prompts (the batch's completions moved on by one
              row), for those of `MISMATCHED`; the others take None
  desirable   [B] 1 or 0
  metrics     'reward' [B]; 'rewards/chosen' and 'rewards/rejected', the same
              on a row's own side and 0 on the other; 'is_chosen', the side

`WHOLE_BATCH` names those whose loss of one row depends on the other rows of
the call, so that splitting a batch changes it; `LEAST` says how many rows (two
a pair) some of them need at a time. Of the unpaired ones `RUNNING` names
those that take a running mean of the implicit rewards as `delta`, `MISMATCHED`
those that read answers to other prompts. `OWN_NLL` names those that have
cross-entropy on the chosen side in them already.

TRL's names of losses are names here. Its CPO forms of `hinge` and `ipo` are
these with references of 0 and an NLL term.

Notation: S = sum_t log p_t, rho = S - S_ref, D = rho_w - rho_l, with w the
chosen and l the rejected side.
"""

from posttrain_jax.core import shapes
from posttrain_jax.losses.preference.pairwise import (
  aot,
  discopop,
  dpo,
  exo_pair,
  f_dpo,
  hinge,
  ipo,
  ld_dpo,
  robust,
  sigmoid,
  sigmoid_norm,
  spin,
  wpo,
)
from posttrain_jax.losses.preference.pointwise import (
  aot_unpaired,
  apo_down,
  apo_zero,
  bco_pair,
  copg,
  nca_pair,
  sppo_hard,
)
from posttrain_jax.losses.preference.reference_free import (
  aligned_sft,
  alphapo,
  cpo,
  orpo,
  rrhf,
  sft,
  simpo,
  slic,
)
from posttrain_jax.losses.preference.unpaired import (
  apo_zero_unpaired,
  bco,
  kto,
)
from posttrain_jax.losses.reward_model import bradley_terry

__all__ = [
  'aligned_sft',
  'alphapo',
  'aot',
  'aot_unpaired',
  'apo_down',
  'apo_zero',
  'apo_zero_unpaired',
  'bco',
  'bco_pair',
  'bradley_terry',
  'copg',
  'cpo',
  'discopop',
  'dpo',
  'exo_pair',
  'f_dpo',
  'hinge',
  'ipo',
  'kto',
  'ld_dpo',
  'nca_pair',
  'orpo',
  'robust',
  'rrhf',
  'sft',
  'sigmoid',
  'sigmoid_norm',
  'simpo',
  'slic',
  'spin',
  'sppo_hard',
  'wpo',
]

UNPAIRED = ('apo_zero_unpaired', 'bco', 'kto')

RUNNING = ('bco',)

MISMATCHED = ('kto',)

OWN_NLL = ('aligned_sft', 'cpo', 'orpo', 'rrhf', 'sft', 'slic')

WHOLE_BATCH = ('aot', 'aot_unpaired', 'kto', 'sft')

# A sample of one answer or pair has no distribution, and no other prompt.
LEAST = {'aot': 4, 'aot_unpaired': 4, 'kto': 2}

shapes.checked(globals(), __all__)
