"""Losses on demonstrations: one loss per token of a given response.

Every function here is called the same way and does no averaging:

  token_loss, metrics = loss(signals, mask, **hparams)

  signals     TokenSignals; each docstring says which of its arrays it reads
  mask        [B, T]  1.0 on the tokens that count
  token_loss  [B, T]  minimised, exactly 0 under the mask; `metrics` holds
              more [B, T] arrays

Methods that need data beyond the signals take it as keyword arguments without
a default: tokens, key, ref_logits, ref_scores, scores, negative, correct,
correct_rate, expert. Where a loss counts over the batch, that is the batch of
this call. Averaging over tokens is a separate choice
(`reduce.py`), and so are detached token weights (`token_weights`), of which
many published objectives are made.
"""

from posttrain_jax.core import shapes
from posttrain_jax.losses.supervised.anchored import (
  asft,
  f_sft,
  iw_sft,
  poft,
  psft,
  uft_implicit,
  una,
)
from posttrain_jax.losses.supervised.likelihood import (
  dft,
  ift,
  label_smoothing,
  nll,
  prob_alpha,
  prob_threshold,
)
from posttrain_jax.losses.supervised.negative import (
  forgetting,
  irl_discriminator,
  nft,
  unlikelihood,
  unlikelihood_negative,
)
from posttrain_jax.losses.supervised.one_token import otr, otr_exact

__all__ = [
  'asft',
  'dft',
  'f_sft',
  'forgetting',
  'ift',
  'irl_discriminator',
  'iw_sft',
  'label_smoothing',
  'nft',
  'nll',
  'otr',
  'otr_exact',
  'poft',
  'prob_alpha',
  'prob_threshold',
  'psft',
  'uft_implicit',
  'una',
  'unlikelihood',
  'unlikelihood_negative',
]

# (role, other role, what the other one is): models that must differ.
APART = {'poft': ('policy', 'teacher', 'an aligned model, to be surpassed')}

# A token's loss depends on the other rows of the call (micro-batches change
# it), or on the rest of its row (packed examples would mix).
WHOLE_BATCH = ('forgetting', 'prob_threshold')

WHOLE_ROWS = (
  'f_sft',
  'ift',
  'iw_sft',
  'poft',
  'uft_implicit',
  'una',
  'unlikelihood',
)

shapes.checked(globals(), __all__)
