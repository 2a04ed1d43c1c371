"""Published methods as rows: which loss, which advantage, which average.

Hyperparameters are the paper's defaults; what a row does not name keeps the
function's own default. `configs/rl.py:recipe=NAME` and
`configs/sft.py:recipe=NAME` take a row by its name.
"""

from posttrain_jax import advantages
from posttrain_jax.losses import (
  policy_gradient,
  reduce,
  regularizers,
  supervised,
  value,
)
from posttrain_jax.resolve import part

SFT = {
  # Cross-entropy on the completion.
  'sft': dict(
    loss=part(supervised, 'nll'),
    reduce=part(reduce, 'token_mean'),
  ),
  # Szegedy et al. (2016), https://arxiv.org/abs/1512.00567
  'label_smoothing': dict(
    loss=part(supervised, 'label_smoothing'),
    reduce=part(reduce, 'token_mean'),
  ),
  # Wu et al. (2025), https://arxiv.org/abs/2508.05629
  'dft': dict(
    loss=part(supervised, 'dft'),
    reduce=part(reduce, 'token_mean'),
  ),
  # Li et al. (2025), https://arxiv.org/abs/2510.00526: (1 - p^alpha) / alpha
  'prob_alpha': dict(
    loss=part(supervised, 'prob_alpha'),
    reduce=part(reduce, 'token_mean'),
  ),
}

RL = {
  # Williams (1992), https://doi.org/10.1007/BF00992696
  'reinforce': dict(
    advantage=part(advantages, 'group_centered'),
    loss=part(policy_gradient, 'reinforce'),
    reduce=part(reduce, 'sequence_sum'),
  ),
  # Ahmadian et al. (2024), https://arxiv.org/abs/2402.14740
  'rloo': dict(
    advantage=part(advantages, 'leave_one_out'),
    loss=part(policy_gradient, 'reinforce'),
    reduce=part(reduce, 'sequence_sum'),
  ),
  # Shao et al. (2024), https://arxiv.org/abs/2402.03300
  'grpo': dict(
    advantage=part(advantages, 'group_normalized'),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, 'sequence_mean'),
  ),
  # Liu et al. (2025), https://arxiv.org/abs/2503.20783
  'dr_grpo': dict(
    advantage=part(advantages, 'group_centered'),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, 'fixed_length'),
  ),
  # Yu et al. (2025), https://arxiv.org/abs/2503.14476: clip-higher and the
  # token mean (its dynamic sampling is a selector, not part of the loss).
  'dapo': dict(
    advantage=part(advantages, 'group_normalized'),
    loss=part(policy_gradient, 'ppo_clip', clip_high=0.28),
    reduce=part(reduce, 'token_mean'),
  ),
  # Zheng et al. (2025), https://arxiv.org/abs/2507.18071
  'gspo': dict(
    advantage=part(advantages, 'group_normalized'),
    loss=part(policy_gradient, 'gspo'),
    reduce=part(reduce, 'sequence_mean'),
  ),
  # MiniMax (2025), https://arxiv.org/abs/2506.13585
  'cispo': dict(
    advantage=part(advantages, 'group_normalized'),
    loss=part(policy_gradient, 'cispo'),
    reduce=part(reduce, 'token_mean'),
  ),
  # Hu et al. (2025), https://arxiv.org/abs/2501.03262: no group, one baseline
  # for the whole batch.
  'reinforce_plus_plus': dict(
    advantage=part(advantages, 'batch_whitened'),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, 'token_mean'),
  ),
  # Schulman et al. (2017), https://arxiv.org/abs/1707.06347
  'ppo': dict(
    advantage=dict(name='gae', gamma=1.0, lam=0.95, whiten=True),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, 'token_mean'),
    value_loss=dict(part(value, 'clipped_value'), coef=0.1),
  ),
}

# What a row that names no critic or reference has.
KL = dict(part(regularizers, 'kl_k3'), coef=0.0)
VALUE_LOSS = dict(part(value, 'clipped_value'), coef=0.1)
