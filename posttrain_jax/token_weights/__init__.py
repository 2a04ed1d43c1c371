"""Token weights: how much each token counts in the loss.

Every function here is called the same way:

  weights = weight(signals, mask, **hparams)

  signals  TokenSignals; each docstring says which of its arrays it reads
  mask     [B, T]  1.0 on the tokens that count
  weights  [B, T]  detached, 0 under the mask; multiplied into the token loss

Methods that need more than the signals take it as keyword arguments without a
default; `whole` and `prompt_attention` are arrays that may be left out. The
reduction divides by the count of the mask, not by the sum of weights. Where a
published method averages over the tokens it keeps, `normalize` scales them by
N / kept, counted over the batch of this call.
"""

from posttrain_jax.core import shapes
from posttrain_jax.token_weights.informed import (
  critical_tokens,
  easy_rows,
  fait,
  key_tokens,
  rho1,
  shad,
  ss_token,
  token_cleaning,
)
from posttrain_jax.token_weights.own import (
  chord_phi,
  high_entropy,
  prefix_only,
  prob_power,
  reward_weighted,
  srft_entropy,
  srft_rollouts,
  talr,
  talr_floor,
  threshold,
  uniform,
)
from posttrain_jax.token_weights.q_tuning import q_tuning

__all__ = [
  'chord_phi',
  'critical_tokens',
  'easy_rows',
  'fait',
  'high_entropy',
  'key_tokens',
  'prefix_only',
  'prob_power',
  'q_tuning',
  'reward_weighted',
  'rho1',
  'shad',
  'srft_entropy',
  'srft_rollouts',
  'ss_token',
  'talr',
  'talr_floor',
  'threshold',
  'token_cleaning',
  'uniform',
]

# Quantiles over rows say nothing of a lone one.
LEAST = {'q_tuning': 2}

# (role, other role, what the other one is): models that must differ, or all
# tokens tie and the weights say nothing.
APART = {
  'rho1': ('policy', 'ref', 'a model trained on good data'),
  'shad': (
    'base',
    'shuffled',
    'the start after tuning with collect.shuffled=true',
  ),
  'token_cleaning': ('base', 'ref', 'the start after tuning on clean rows'),
}

# A token's weight depends on the other rows of the call (micro-batches change
# it), or on the rest of its row (packed examples would mix), with any of its
# hyperparameters.
WHOLE_BATCH = (
  'critical_tokens',
  'easy_rows',
  'high_entropy',
  'prefix_only',
  'q_tuning',
  'rho1',
  'ss_token',
  'talr',
  'talr_floor',
  'threshold',
  'token_cleaning',
)

WHOLE_ROWS = (
  'easy_rows',
  'fait',
  'high_entropy',
  'key_tokens',
  'prefix_only',
  'q_tuning',
  'rho1',
  'shad',
  'srft_entropy',
  'srft_rollouts',
  'ss_token',
  'talr',
  'talr_floor',
  'token_cleaning',
)

shapes.checked(
  globals(), __all__, fait__wrong_logps='BU', fait__wrong_changed='BU'
)
