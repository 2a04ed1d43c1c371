"""Objectives that push some tokens down, and one that scores experts."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals
from posttrain_jax.losses import numerics
from posttrain_jax.losses.supervised.common import (
  TokenLoss,
  log_ratio,
  require,
)

__all__ = [
  'forgetting',
  'irl_discriminator',
  'nft',
  'unlikelihood',
  'unlikelihood_negative',
]


def unlikelihood(
  signals: TokenSignals,
  mask: Array,
  *,
  tokens: Array,
  coef: float = 1.0,
) -> TokenLoss:
  """NLL, and each earlier token of the row is made less likely as a repeat.

  loss_t = -log p(y_t) - coef * sum over c in C_t of log(1 - p(c)),
  C_t = {y_s : s < t} without y_t

  `tokens` [B, T] is the whole row, prompt included; rows hold one example each
  (no packing), with padding at the end. Reads `logps` and `logits`. Takes
  O(B T T) memory besides the logits. Nothing is detached.

  Reference: Welleck et al. (2019), token-level objective,
  https://arxiv.org/abs/1908.04319

  Raises:
    ValueError: `signals.logits` is None.
  """
  logits = masked.select(require(signals, 'logits'), mask[..., None])
  size = tokens.shape[1]
  index = jnp.broadcast_to(tokens[:, None, :], (*tokens.shape, size))
  candidates = jnp.take_along_axis(
    jax.nn.log_softmax(logits), index, axis=-1
  )  # [B, t, s]: log p of token s at position t
  same = tokens[:, :, None] == tokens[:, None, :]
  earlier = jnp.tril(jnp.ones((size, size), bool), -1)[None]
  # C_t is a set: only the first occurrence of a token stands for it.
  is_first = ~jnp.any(same & earlier, axis=-1)
  chosen = earlier & ~same & is_first[:, None, :] & (mask != 0)[:, :, None]
  penalty = -numerics.log1mexp(jnp.where(chosen, candidates, -1.0))
  penalty = jnp.sum(jnp.where(chosen, penalty, 0.0), axis=-1)
  loss = -masked.select(signals.logps, mask) + coef * penalty
  return loss, {'unlikelihood': penalty}


def unlikelihood_negative(
  signals: TokenSignals,
  mask: Array,
  *,
  negative: Array,
  coef: float = 1.0,
) -> TokenLoss:
  """NLL on good tokens, unlikelihood on the tokens marked as negative.

  loss = -log p where negative is 0, -coef * log(1 - p) where it is 1

  The push down fades as p falls, unlike gradient ascent on the NLL. `negative`
  is [B, T], 0 or 1. Reads `logps`. Nothing is detached; log p counts as at most
  -1e-6 in log(1 - p).

  Reference: Welleck et al. (2019), the sequence-level objective with
  C_t = {y_t}, https://arxiv.org/abs/1908.04319
  """
  logps = masked.select(signals.logps, mask)
  is_negative = masked.select(negative, mask) != 0
  down = -numerics.log1mexp(jnp.where(is_negative, logps, -1.0))
  loss = jnp.where(is_negative, coef * down, -logps)
  return loss, {'negative': masked.select(negative, mask)}


def forgetting(
  signals: TokenSignals,
  mask: Array,
  *,
  negative: Array,
  ascent: float = 0.1,
) -> TokenLoss:
  """Learns the positive tokens and unlearns the negative ones by ascent.

  mean loss = mean over positive of l - ascent * mean over negative of l,
  l = -log p

  Both means have their own denominators (over the batch), so positive tokens
  are scaled by N / positives and negative ones by N / negatives: a mean over
  all N counted tokens is the paper's loss. `negative` [B, T] marks the tokens
  of lowest influence, base loss - reference loss. The paper lets `ascent` grow
  linearly from 0 to 0.25 over the run: unbounded ascent is stable only while it
  is small. Reads `logps`. Nothing is detached.

  Reference: Taheri et al. (2025), https://arxiv.org/abs/2508.04329
  """
  loss = -masked.select(signals.logps, mask)
  is_negative = jnp.where(masked.select(negative, mask) != 0, mask, 0.0)
  positive = mask - is_negative
  total = jnp.sum(mask)
  up = total / jnp.maximum(jnp.sum(positive), 1.0)
  down = ascent * total / jnp.maximum(jnp.sum(is_negative), 1.0)
  weight = up * positive - down * is_negative
  return weight * loss, {'weight': weight}


def nft(
  signals: TokenSignals,
  mask: Array,
  *,
  correct: Array,
  correct_rate: Array,
  negative_weight: float = 1.0,
  floor: float = 1.0,
  prompt_weight: str = 'linear',
) -> TokenLoss:
  """Negative-aware fine-tuning: supervised learning on own wrong answers too.

  R = p / p_old, r the share of correct answers in the group
  correct: -w log R
  wrong:   -w negative_weight log max_st((1 - r R) / (1 - r), floor)

  max_st is a straight-through maximum: the value is clamped from below, the
  gradient is that of the unclamped argument. `correct` [B] is 0 or 1,
  `correct_rate` [B] is r, clamped to [0.02, 0.98]; log R is clamped at 10.
  `prompt_weight` w: 'linear' 1 - r, 'sqrt' sqrt((1 - r) / r) (on-policy this is
  GRPO's gradient), 'none' 1. Reads `logps`, and `old_logps`, which are
  detached.

  Reference: Chen et al. (2025), https://arxiv.org/abs/2505.18116

  Raises:
    ValueError: `signals.old_logps` is None, or an unknown `prompt_weight`.
  """
  old_logps = jax.lax.stop_gradient(require(signals, 'old_logps'))
  rate = jnp.clip(correct_rate, 0.02, 0.98)
  weights = {
    'linear': 1.0 - rate,
    'sqrt': jnp.sqrt((1.0 - rate) / rate),
    'none': jnp.ones_like(rate),
  }
  if prompt_weight not in weights:
    raise ValueError(
      f'unknown prompt_weight "{prompt_weight}". Valid: {", ".join(weights)}'
    )
  ratio_log = log_ratio(signals.logps, old_logps, mask)
  ratio_log = jnp.where(ratio_log > 10.0, 10.0, ratio_log)
  ratio = jnp.exp(ratio_log)
  implicit = (1.0 - rate[:, None] * ratio) / (1.0 - rate[:, None])
  implicit = numerics.straight_through(implicit, jnp.maximum(implicit, floor))
  wrong = -negative_weight * jnp.log(implicit)
  loss = jnp.where(correct[:, None] != 0, -ratio_log, wrong)
  loss = weights[prompt_weight][:, None] * loss
  return masked.select(loss, mask), {'ratio': masked.select(ratio, mask)}


def irl_discriminator(
  signals: TokenSignals,
  mask: Array,
  *,
  expert: Array,
  smoothing: float = 0.1,
) -> TokenLoss:
  """The adversary of SFT as inverse RL: expert tokens against own samples.

  loss = -y log D - (1 - y) log(1 - D),  D = sigmoid(values),
  y = 1 - smoothing on expert rows, smoothing on the policy's own

  `expert` [B] is 1 on demonstrations, 0 on rollouts. Reads `values_after`
  [B, T], the discriminator's logit from a scalar head: D(s_t, a_t) has seen the
  token, as a reward of the whole answer is read after its last one. The
  policy's reward is that logit, log D - log(1 - D), for reverse KL, or
  -log(1 - D) for Jensen-Shannon.

  References: Sun (2024), https://arxiv.org/abs/2403.12017; Ho and Ermon (2016),
  https://arxiv.org/abs/1606.03476

  Raises:
    ValueError: `signals.values_after` is None.
  """
  logit = masked.select(require(signals, 'values_after'), mask)
  target = jnp.where(expert[:, None] != 0, 1.0 - smoothing, smoothing)
  loss = -target * jax.nn.log_sigmoid(logit)
  loss = loss - (1.0 - target) * jax.nn.log_sigmoid(-logit)
  is_right = (logit > 0) == (expert[:, None] != 0)
  accuracy = masked.select(is_right.astype(loss.dtype), mask)
  return masked.select(loss, mask), {'accuracy': accuracy}
