"""Recipes with verifiable rewards: `configs/rl.py:recipe=NAME`.

TRL's `loss_type` strings are rows of that name.
"""

from posttrain_jax import advantages, token_weights
from posttrain_jax.losses import (
  policy_gradient,
  reduce,
  regularizers,
  value,
)
from posttrain_jax.resolve import part

# What a row that names no critic or reference has.
KL = dict(part(regularizers, 'kl_k3'), coef=0.0)
VALUE_LOSS = dict(part(value, 'clipped_value'), coef=0.1)


def _row(
  reference: str, loss: str, advantage: str, average: str, **keys
) -> dict:
  """Names of the three parts; `keys` may hold hyperparameters of `loss`."""
  hparams = keys.pop('loss_hparams', {})
  advantage_hparams = keys.pop('advantage_hparams', {})
  return dict(
    reference=reference,
    advantage=part(advantages, advantage, **advantage_hparams),
    loss=part(policy_gradient, loss, **hparams),
    reduce=part(reduce, average),
    **keys,
  )


_GRPO = 'https://arxiv.org/abs/2402.03300'
_NORMALIZED = 'group_normalized'

RL = {
  'reinforce': _row(
    'https://doi.org/10.1007/BF00992696',
    'reinforce', 'group_centered', 'sequence_sum',
  ),
  'rloo': _row(
    'https://arxiv.org/abs/2402.14740',
    'reinforce', 'leave_one_out', 'sequence_sum',
  ),
  # The greedy answer's reward is the baseline.
  'remax': _row(
    'https://arxiv.org/abs/2310.10505', 'reinforce', 'remax', 'sequence_sum'
  ),
  # Groups, clipped ratios of tokens.
  'grpo': _row(_GRPO, 'ppo_clip', _NORMALIZED, 'sequence_mean'),
  'dr_grpo': _row(
    'https://arxiv.org/abs/2503.20783',
    'ppo_clip', 'group_centered', 'fixed_length',
  ),
  # Clip-higher and the token mean (its dynamic sampling is a selector, not
  # part of the loss).
  'dapo': _row(
    'https://arxiv.org/abs/2503.14476', 'ppo_clip', _NORMALIZED, 'token_mean',
    loss_hparams=dict(clip_high=0.28),
  ),
  # TRL's name for GRPO with the token mean.
  'bnpo': _row(_GRPO, 'ppo_clip', _NORMALIZED, 'token_mean'),
  'two_sided': _row(
    'https://arxiv.org/abs/2505.07291', 'ppo_clip', _NORMALIZED,
    'token_mean', loss_hparams=dict(delta=4.0),
  ),
  'dual_clip': _row(
    'https://arxiv.org/abs/1912.09729', 'ppo_clip', _NORMALIZED,
    'token_mean', loss_hparams=dict(dual_clip=3.0),
  ),
  'sequence_masked': _row(
    'https://arxiv.org/abs/2512.02556', 'ppo_clip_sequence_mask',
    _NORMALIZED, 'sequence_mean',
  ),
  # Clipped weights in place of clipped ratios, soft gates.
  'cispo': _row(
    'https://arxiv.org/abs/2506.13585', 'cispo', _NORMALIZED, 'token_mean'
  ),
  'sapo': _row(
    'https://arxiv.org/abs/2511.20347', 'sapo', _NORMALIZED, 'sequence_mean'
  ),
  # Ratios of sequences.
  'gspo': _row(
    'https://arxiv.org/abs/2507.18071', 'gspo', _NORMALIZED, 'sequence_mean'
  ),
  'gspo_token': _row(
    'https://arxiv.org/abs/2507.18071',
    'gspo_token', _NORMALIZED, 'sequence_mean',
  ),
  'gmpo': _row(
    'https://arxiv.org/abs/2507.20673', 'gmpo', _NORMALIZED, 'sequence_mean'
  ),
  'luspo': _row(
    'https://arxiv.org/abs/2602.05261', 'luspo', _NORMALIZED, 'sequence_mean'
  ),
  'vespo': _row(
    'https://arxiv.org/abs/2602.10693', 'vespo', _NORMALIZED, 'token_mean'
  ),
  # Tokens that drive the entropy down are held back.
  'clip_cov': _row(
    'https://arxiv.org/abs/2505.22617', 'clip_cov', _NORMALIZED, 'token_mean'
  ),
  'kl_cov': _row(
    'https://arxiv.org/abs/2505.22617', 'kl_cov', _NORMALIZED, 'token_mean'
  ),
  # The fifth of the tokens with the highest entropy.
  'high_entropy_tokens': _row(
    'https://arxiv.org/abs/2506.01939', 'ppo_clip', _NORMALIZED, 'token_mean',
    loss_hparams=dict(clip_high=0.28),
    weights=part(token_weights, 'high_entropy'),
  ),
  # A sampler that is not the learner.
  'truncated_is': _row(
    'https://arxiv.org/abs/1802.01561', 'truncated_is', _NORMALIZED,
    'token_mean',
  ),
  'sequence_truncated_is': _row(
    'https://doi.org/10.1198/106186008X320456', 'sequence_truncated_is',
    _NORMALIZED, 'token_mean',
  ),
  'masked_is': _row(
    'https://arxiv.org/abs/2510.18855', 'masked_is', _NORMALIZED, 'token_mean'
  ),
  'decoupled_ppo': _row(
    'https://arxiv.org/abs/2110.00641', 'decoupled_ppo_clip', _NORMALIZED,
    'token_mean',
  ),
  'topr': _row(
    'https://arxiv.org/abs/2503.14286', 'topr', 'raw', 'sequence_sum'
  ),
  # One baseline for the whole batch, and its form with groups.
  'reinforce_plus_plus': _row(
    'https://arxiv.org/abs/2501.03262', 'ppo_clip', 'batch_whitened',
    'token_mean',
  ),
  'reinforce_plus_plus_baseline': _row(
    'https://arxiv.org/abs/2501.03262', 'ppo_clip',
    'group_centered_batch_whitened', 'token_mean',
    kl=dict(part(regularizers, 'kl_k2'), coef=0.001),
  ),
  'lite_ppo': _row(
    'https://arxiv.org/abs/2508.08221', 'ppo_clip',
    'group_centered_batch_scaled', 'token_mean',
  ),
  'pass_at_k': _row(
    'https://arxiv.org/abs/2508.10751', 'ppo_clip', 'pass_at_k', 'token_mean'
  ),
  # A critic.
  'ppo': dict(
    reference='https://arxiv.org/abs/1707.06347',
    advantage=dict(name='gae', gamma=1.0, lam=0.95, whiten=True),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, 'token_mean'),
    value_loss=VALUE_LOSS,
  ),
  # Held near the start: by an estimator, or over the whole vocabulary.
  'grpo_kl': _row(
    _GRPO, 'ppo_clip', _NORMALIZED, 'sequence_mean',
    kl=dict(part(regularizers, 'kl_k3'), coef=0.04),
  ),
  'grpo_full_kl': _row(
    _GRPO, 'ppo_clip', _NORMALIZED, 'sequence_mean',
    kl=dict(part(regularizers, 'full_kl_reverse'), coef=0.04),
  ),
}  # fmt: skip
