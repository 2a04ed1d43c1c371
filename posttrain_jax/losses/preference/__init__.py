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
gradient are 0. Three take more or other arrays, as their docstrings say: `copg`
(scalar rewards, keyword arguments without a default), `kto` (unpaired answers)
and `bradley_terry` (a reward model's scores).

Notation: S = sum_t log p_t, rho = S - S_ref, D = rho_w - rho_l, with w the
chosen and l the rejected side.
"""

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
  kto,
  nca_pair,
  sppo_hard,
)
from posttrain_jax.losses.preference.reference_free import (
  aligned_sft,
  alphapo,
  bradley_terry,
  cpo,
  orpo,
  rrhf,
  simpo,
  slic,
)

__all__ = [
  'aligned_sft',
  'alphapo',
  'aot',
  'aot_unpaired',
  'apo_down',
  'apo_zero',
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
  'sigmoid',
  'sigmoid_norm',
  'simpo',
  'slic',
  'spin',
  'sppo_hard',
  'wpo',
]
