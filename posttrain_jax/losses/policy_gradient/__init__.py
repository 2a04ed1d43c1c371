"""Policy-gradient losses: one loss per completion token.

Every function is called the same way and averages nothing:

  token_loss, metrics = loss(logps, old_logps, advantages, mask, **hparams)

  logps       [B, T]  log-probability of each taken token, trained policy
  old_logps   [B, T]  the same under the policy that sampled (no gradient)
  advantages  [B, T]  advantage of each token (no gradient)
  mask        [B, T]  1.0 on tokens that count; what the other arrays hold
                      elsewhere, inf and NaN included, has no effect
  token_loss  [B, T]  minimised, 0 where masked
  metrics     dict of detached [B, T] arrays, 0 where masked; where they apply:
    ratio      importance ratio, of the token or of its whole sequence
    clip_low   1.0 where the lower bound limits the token
    clip_high  1.0 where the upper one does
    weight     detached factor of the token's gradient

A keyword argument without a default is a further array to supply
(`proximal_logps` of `decoupled_ppo_clip`). Log-ratios are held within +-20
before exp. Averaging is a separate choice (`reduce`); so are KL and entropy
terms (`regularizers`) and how advantages are formed (`advantages`).
Sequence-level losses repeat one value on every token of a row, so that
`reduce.sequence_mean` gives the paper's objective.
"""

from posttrain_jax.core import shapes
from posttrain_jax.losses.policy_gradient.covariance import clip_cov, kl_cov
from posttrain_jax.losses.policy_gradient.off_policy import (
  cispo,
  decoupled_ppo_clip,
  masked_is,
  sequence_truncated_is,
  topr,
  truncated_is,
)
from posttrain_jax.losses.policy_gradient.sequence_level import (
  gmpo,
  gspo,
  gspo_token,
  luspo,
  vespo,
)
from posttrain_jax.losses.policy_gradient.token_level import (
  luffy_shaped,
  ppo_clip,
  ppo_clip_sequence_mask,
  reinforce,
  sapo,
)

__all__ = [
  'cispo',
  'clip_cov',
  'decoupled_ppo_clip',
  'gmpo',
  'gspo',
  'gspo_token',
  'kl_cov',
  'luffy_shaped',
  'luspo',
  'masked_is',
  'ppo_clip',
  'ppo_clip_sequence_mask',
  'reinforce',
  'sapo',
  'sequence_truncated_is',
  'topr',
  'truncated_is',
  'vespo',
]

# A token's loss depends on the other rows of the call (micro-batches change
# it), or on the rest of its row (packed examples would mix).
WHOLE_BATCH = ('clip_cov', 'kl_cov')

WHOLE_ROWS = (
  'gmpo',
  'gspo',
  'gspo_token',
  'luspo',
  'ppo_clip_sequence_mask',
  'sequence_truncated_is',
  'topr',
  'vespo',
)

shapes.checked(globals(), __all__)
