"""Weights that need another model's opinion of the tokens, or marks on them."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals
from posttrain_jax.token_weights.common import (
  detach,
  kept,
  quantile,
  require,
  top,
  unit,
)

__all__ = [
  'critical_tokens',
  'easy_rows',
  'fait',
  'key_tokens',
  'rho1',
  'shad',
  'ss_token',
  'token_cleaning',
]


def rho1(
  signals: TokenSignals,
  mask: Array,
  *,
  fraction: float = 0.6,
  scope: str = 'batch',
  normalize: bool = True,
) -> Array:
  """Keeps the tokens of highest excess loss over a reference model's.

  score = l(policy) - l(reference), the reference trained on good data

  Reads `logps` and `ref_logps`.

  Reference: Lin et al. (2024), https://arxiv.org/abs/2404.07965

  Raises:
    ValueError: `signals.ref_logps` is None, or an unknown `scope`.
  """
  score = require(signals, 'ref_logps') - signals.logps
  return kept(top(score, mask, fraction, scope), mask, normalize)


def token_cleaning(
  signals: TokenSignals,
  mask: Array,
  *,
  base_logps: Array,
  fraction: float = 0.6,
  scope: str = 'batch',
  normalize: bool = True,
) -> Array:
  """Keeps the tokens of highest influence: those that clean data made likelier.

  score = l(base) - l(reference), the reference being the base model after
  fine-tuning on a small clean subset

  `base_logps` [B, T] are of the untouched base model, `ref_logps` of the
  reference. The paper ranks over the whole data set: with scope 'batch' the
  batch stands for it. The tokens left out are the negative ones of
  `supervised.forgetting`, with fraction 0.7 there.

  References: Pang et al. (2025), https://arxiv.org/abs/2502.01968; Taheri et
  al. (2025), https://arxiv.org/abs/2508.04329

  Raises:
    ValueError: `signals.ref_logps` is None, or an unknown `scope`.
  """
  score = require(signals, 'ref_logps') - base_logps
  return kept(top(score, mask, fraction, scope), mask, normalize)


def ss_token(
  signals: TokenSignals,
  mask: Array,
  prompt_attention: Array | None = None,
  *,
  history_logps: Array,
  fraction: float = 0.6,
  gamma: float = 0.5,
  normalize: bool = True,
) -> Array:
  """Keeps what a past version of the policy found harder and what reads the
  prompt.

  score = gamma * unit(l(history) - l(policy)) + (1 - gamma) * attention,
  unit: min-max to [0, 1] within the row

  `history_logps` [B, T] are of the base model or an older checkpoint.
  `prompt_attention` [B, T] is the share of a token's attention that falls on
  the prompt, last layer, averaged over heads; None leaves the loss signal
  alone. ceil(fraction * T) tokens of each row are kept. Reads `logps`.

  Reference: Qin et al. (2025), https://arxiv.org/abs/2510.18250
  """
  counted = mask != 0
  score = unit(signals.logps - history_logps, counted, axis=1)
  if prompt_attention is not None:
    attention = masked.select(prompt_attention, mask)
    score = gamma * score + (1.0 - gamma) * attention
  return kept(top(score, mask, fraction, 'sequence'), mask, normalize)


def easy_rows(
  signals: TokenSignals,
  mask: Array,
  *,
  tau: float = 0.0,
  min_tau: float = 1e-3,
) -> Array:
  """FLOW: rows that the start finds easy count more, which holds it near.

  w = exp(-l / tau) on all tokens of a row, l its mean token loss under the
  reference, which is the model before training

  tau 0, the default, is the paper's rule: the median of l over the data set,
  for which the rows of the batch stand here. tau counts as at least `min_tau`.
  Reads `ref_logps`.

  Reference: Sanyal et al. (2025), https://arxiv.org/abs/2502.02797

  Raises:
    ValueError: `signals.ref_logps` is None.
  """
  loss = masked.mean(-require(signals, 'ref_logps'), mask, axis=1)
  median = quantile(loss, jnp.sum(mask, axis=1) > 0, 0.5)
  scale = jnp.maximum(jnp.where(tau == 0, median, tau), min_tau)
  return detach(
    jnp.broadcast_to(jnp.exp(-loss / scale)[:, None], mask.shape), mask
  )


def critical_tokens(
  signals: TokenSignals,
  mask: Array,
  *,
  critical: Array,
  normalize: bool = True,
) -> Array:
  """Keeps tokens whose replacement makes the final answer wrong.

  `critical` [B, T] is 1 where forcing the second-ranked token, and separately
  the third, and continuing greedily, both end in a wrong answer. It is computed
  once, by decoding from the initial model.

  Reference: Ruan et al. (2025), https://arxiv.org/abs/2510.10974
  """
  del signals
  return kept(critical != 0, mask, normalize)


def shad(
  signals: TokenSignals,
  mask: Array,
  *,
  shuffled_logps: Array,
  base_logps: Array,
  tau: float = 3.0,
) -> Array:
  """Balances reasoning tokens against boilerplate, row by row.

  boilerplate: l(shuffled) - l(base) <= 0, tokens that a model fine-tuned on
  shuffled (prompt, answer) pairs finds no harder; the others are reasoning
  row loss = w_r L_r + w_b L_b, mean losses of the two kinds,
  w_r = sigmoid((L_r - L_b) / tau), w_b = 1 - w_r

  Weights are w_r T / |reasoning| and w_b T / |boilerplate|: average per
  sequence, then over sequences. A row with one kind only is plain NLL. 1 / tau
  of 0.2 to 0.5 is robust in the paper. Reads `logps`.

  Reference: Ye et al. (2024), https://arxiv.org/abs/2412.14780
  """
  loss = -masked.select(signals.logps, mask)
  harder = masked.select(base_logps - shuffled_logps, mask) > 0
  reasoning = jnp.where(harder, mask, 0.0)
  boilerplate = mask - reasoning
  num_reasoning = jnp.sum(reasoning, axis=1, keepdims=True)
  num_boilerplate = jnp.sum(boilerplate, axis=1, keepdims=True)
  mean = lambda kind: masked.mean(loss, kind, axis=1, keepdims=True)
  share = jax.nn.sigmoid((mean(reasoning) - mean(boilerplate)) / tau)
  share = jnp.where(num_boilerplate == 0, 1.0, share)
  share = jnp.where(num_reasoning == 0, 0.0, share)
  weights = share * reasoning / jnp.maximum(num_reasoning, 1.0)
  other = (1.0 - share) * boilerplate / jnp.maximum(num_boilerplate, 1.0)
  length = jnp.sum(mask, axis=1, keepdims=True)
  return detach((weights + other) * length, mask)


def fait(
  signals: TokenSignals,
  mask: Array,
  *,
  changed: Array,
  wrong_logps: Array,
  wrong_changed: Array,
  boost: float = 2.0,
  tau: float = 1.0,
) -> Array:
  """Boosts the tokens in which a correct program differs from a wrong one.

  w = 1 + boost * sigmoid((s_wrong - s_right) / tau) on changed tokens, else 1;
  s the mean log-probability of the changed tokens of each program

  `changed` [B, T] marks them in the correct program, `wrong_changed` [B, U] in
  the wrong one, whose log-probabilities are `wrong_logps` [B, U] under the same
  policy. The boost fades as the policy learns to tell the two apart. The paper
  adapts the weight to that margin; this formula for it is ours. Divide by the
  token count, not by the sum of weights. Reads `logps`.

  Reference: Fan et al. (2025), https://arxiv.org/abs/2503.16913
  """
  inside = jnp.where((changed != 0) & (mask != 0), 1.0, 0.0)
  right = masked.mean(signals.logps, inside, axis=1, keepdims=True)
  is_wrong = (wrong_changed != 0).astype(inside.dtype)
  wrong = masked.mean(wrong_logps, is_wrong, axis=1, keepdims=True)
  extra = boost * jax.nn.sigmoid((wrong - right) / tau)
  return detach(1.0 + inside * extra, mask)


def key_tokens(
  signals: TokenSignals,
  mask: Array,
  *,
  keys: Array,
  max_weight: float = 9.0,
) -> Array:
  """Gives the few tokens that choose a tool the weight of all the others.

  w = min(|others| / |keys|, max_weight) on keys where they are fewer, else 1;
  scaled so that a row's weights sum to its token count

  `keys` [B, T] marks the first token of a tool's name and each token that
  follows a prefix shared with another tool. Average per sequence.

  Reference: Ye et al. (2024), TL-Training, https://arxiv.org/abs/2412.15495
  """
  del signals
  is_key = jnp.where(keys != 0, mask, 0.0)
  num_keys = jnp.sum(is_key, axis=1, keepdims=True)
  length = jnp.sum(mask, axis=1, keepdims=True)
  ratio = (length - num_keys) / jnp.maximum(num_keys, 1.0)
  boost = jnp.where(ratio > 1.0, jnp.minimum(ratio, max_weight), 1.0)
  weights = jnp.where(is_key != 0, boost, mask)
  total = jnp.sum(weights, axis=1, keepdims=True)
  return detach(weights * length / jnp.maximum(total, 1.0), mask)
