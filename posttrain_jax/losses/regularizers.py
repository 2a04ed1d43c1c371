"""Terms that hold a policy near a reference, or keep it from collapsing.

Functions in `__all__` see the taken tokens only:

  token_loss, metrics = f(logps, ref_logps, mask, **hparams)

  logps      [B, T]  log-probability of each taken token, trained policy
  ref_logps  [B, T]  the same under the frozen reference (no gradient)
  mask       [B, T]  1.0 on tokens that count; elsewhere nothing has an effect
  metrics    {'kl': [B, T]}, detached

With d = logps - ref_logps and tokens drawn from the trained policy, k1 = d and
k3 = exp(-d) - 1 + d have the mean KL(policy || ref), and k2 = d^2 / 2 does not.
Their gradients, as terms of a loss, are another matter: that of k1 has mean 0,
that of k2 is the gradient of KL(policy || ref), that of k3 is the gradient of
KL(ref || policy). `kl_k3_plus` has the value of k3 and the gradient of k2. The
`..._corrected` forms take tokens of an older policy and its `old_logps`
[B, T], a keyword argument without a default.

Functions in `LOGITS` see the whole vocabulary:

  token_loss, metrics = f(logits, ref_logits, mask, **hparams)

  logits      [B, T, V]  of the trained policy; -inf bans a token
  ref_logits  [B, T, V]  of the frozen reference (no gradient)

Functions in `ENTROPY` see each token's entropy, which a chunked forward pass
yields without keeping logits:

  token_loss, metrics = f(entropy, mask, **hparams)

`l2_to_start(params, start_params)` is a scalar on parameters.

Coefficients are applied by the caller.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, shapes
from posttrain_jax.core.types import Array, PyTree

__all__ = [
  'kl_k1',
  'kl_k1_corrected',
  'kl_k2',
  'kl_k2_corrected',
  'kl_k3',
  'kl_k3_corrected',
  'kl_k3_plus',
]

LOGITS = ['full_entropy', 'full_js', 'full_kl_forward', 'full_kl_reverse']

ENTROPY = ['entropy_bonus', 'entropy_floor']

# A token's loss depends on the other rows of the call.
WHOLE_BATCH = ('entropy_floor',)

# Names that may stand as the KL term of a config.
SELECTABLE = (*__all__, 'full_js', 'full_kl_forward', 'full_kl_reverse')

TokenLoss = tuple[Array, dict[str, Array]]

# exp(20) = 4.9e8: the penalty stays finite where the reference finds the token
# vastly more likely.
_MAX_LOG_RATIO = 20.0

# A token with less probability than this is one with none: exp(-1e5) is 0 even
# in float64, so the floor never shows in a sum weighted by probabilities.
_MIN_LOG_PROB = -1e5


def _log_ratio(logps: Array, other: Array, mask: Array) -> Array:
  """logps - other within +-20, 0 where masked; no gradient to `other`."""
  difference = masked.select(logps, mask) - jax.lax.stop_gradient(
    masked.select(other, mask)
  )
  return jnp.clip(difference, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _finish(token_loss: Array, mask: Array) -> TokenLoss:
  token_loss = masked.select(token_loss, mask)
  return token_loss, {'kl': jax.lax.stop_gradient(token_loss)}


def _k3(d: Array) -> Array:
  """exp(-d) - 1 + d, never negative.

  Near 0 the terms cancel to less than one rounding of d, so a series stands in.
  """
  series = jnp.square(d) * (0.5 - d / 6.0 + jnp.square(d) / 24.0)
  return jnp.where(jnp.abs(d) < 0.01, series, jnp.expm1(-d) + d)


def kl_k1(logps: Array, ref_logps: Array, mask: Array) -> TokenLoss:
  """d: unbiased value, and a gradient with mean 0. For rewards and metrics.

  Reference: Schulman (2020), http://joschu.net/blog/kl-approx.html
  """
  return _finish(_log_ratio(logps, ref_logps, mask), mask)


def kl_k2(logps: Array, ref_logps: Array, mask: Array) -> TokenLoss:
  """d^2 / 2: biased value, the gradient of KL(policy || ref) on-policy.

  Reference: Schulman (2020), http://joschu.net/blog/kl-approx.html
  """
  return _finish(0.5 * jnp.square(_log_ratio(logps, ref_logps, mask)), mask)


def kl_k3(logps: Array, ref_logps: Array, mask: Array) -> TokenLoss:
  """exp(-d) - 1 + d: unbiased and never negative; GRPO's penalty.

  Reference: Schulman (2020), http://joschu.net/blog/kl-approx.html;
  Shao et al. (2024), https://arxiv.org/abs/2402.03300 eq. 4
  """
  return _finish(_k3(_log_ratio(logps, ref_logps, mask)), mask)


def kl_k3_plus(logps: Array, ref_logps: Array, mask: Array) -> TokenLoss:
  """Value of k3 with the gradient of k2, which is that of KL(policy || ref).

  Reference: the identities above; verl's `kl_penalty='k3+'`
  """
  d = _log_ratio(logps, ref_logps, mask)
  k2 = 0.5 * jnp.square(d)
  value = jax.lax.stop_gradient(_k3(d) - k2)
  return _finish(value + k2, mask)


def kl_k1_corrected(
  logps: Array, ref_logps: Array, mask: Array, *, old_logps: Array
) -> TokenLoss:
  """ratio * d on an older policy's tokens: value and gradient both unbiased.

  ratio = exp(logps - old_logps), and the gradient passes through it; without
  that k1 would have no gradient on average.

  Reference: DeepSeek-AI (2025), https://arxiv.org/abs/2512.02556 section 3.1
  (the same correction of k3)
  """
  ratio = jnp.exp(_log_ratio(logps, old_logps, mask))
  return _finish(ratio * _log_ratio(logps, ref_logps, mask), mask)


def kl_k2_corrected(
  logps: Array, ref_logps: Array, mask: Array, *, old_logps: Array
) -> TokenLoss:
  """sg(ratio) * d^2 / 2: the gradient of KL(policy || ref), off-policy.

  Reference: `kl_k2` under importance sampling with a detached weight
  """
  ratio = jax.lax.stop_gradient(jnp.exp(_log_ratio(logps, old_logps, mask)))
  k2 = 0.5 * jnp.square(_log_ratio(logps, ref_logps, mask))
  return _finish(ratio * k2, mask)


def kl_k3_corrected(
  logps: Array, ref_logps: Array, mask: Array, *, old_logps: Array
) -> TokenLoss:
  """ratio * k3, the gradient also through the ratio: unbiased in both.

  TRL's `use_bias_correction_kl`.

  Reference: DeepSeek-AI (2025), https://arxiv.org/abs/2512.02556 section 3.1
  """
  ratio = jnp.exp(_log_ratio(logps, old_logps, mask))
  return _finish(ratio * _k3(_log_ratio(logps, ref_logps, mask)), mask)


def _log_probs(
  logits: Array, ref_logits: Array, mask: Array
) -> tuple[Array, Array]:
  """Both log-distributions [B, T, V], floored, and uniform where masked."""
  counted = mask[:, :, None]
  log_p = jax.nn.log_softmax(masked.select(logits, counted))
  ref = jax.lax.stop_gradient(masked.select(ref_logits, counted))
  log_q = jax.nn.log_softmax(ref)
  return jnp.maximum(log_p, _MIN_LOG_PROB), jnp.maximum(log_q, _MIN_LOG_PROB)


def _divergence(log_p: Array, log_q: Array) -> Array:
  """[B, T] KL(p || q)."""
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def full_kl_reverse(logits: Array, ref_logits: Array, mask: Array) -> TokenLoss:
  """KL(policy || ref) at each position: what k1, k2 and k3 estimate.

  Reference: Kullback and Leibler (1951),
  https://doi.org/10.1214/aoms/1177729694
  """
  log_p, log_q = _log_probs(logits, ref_logits, mask)
  return _finish(_divergence(log_p, log_q), mask)


def full_kl_forward(logits: Array, ref_logits: Array, mask: Array) -> TokenLoss:
  """KL(ref || policy) at each position: keeps all of the reference's modes.

  Reference: Kullback and Leibler (1951),
  https://doi.org/10.1214/aoms/1177729694
  """
  log_p, log_q = _log_probs(logits, ref_logits, mask)
  return _finish(_divergence(log_q, log_p), mask)


def full_js(logits: Array, ref_logits: Array, mask: Array) -> TokenLoss:
  """Jensen-Shannon divergence: the mean KL to the midpoint, at most log 2.

  Reference: Lin (1991), https://doi.org/10.1109/18.61115
  """
  log_p, log_q = _log_probs(logits, ref_logits, mask)
  middle = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
  total = _divergence(log_p, middle) + _divergence(log_q, middle)
  return _finish(0.5 * total, mask)


def full_entropy(logits: Array, ref_logits: Array, mask: Array) -> TokenLoss:
  """Minus the entropy at each position. `ref_logits` has no effect.

  Metrics: `entropy`.

  Reference: Mnih et al. (2016), https://arxiv.org/abs/1602.01783 section 4
  """
  log_p, _ = _log_probs(logits, ref_logits, mask)
  return entropy_bonus(-jnp.sum(jnp.exp(log_p) * log_p, axis=-1), mask)


def entropy_bonus(entropy: Array, mask: Array) -> TokenLoss:
  """Minus the entropy [B, T] of each position's distribution.

  Its gradient is exact, unlike that of -logps of the sampled token, whose mean
  on-policy is 0. Metrics: `entropy`.

  Reference: Mnih et al. (2016), https://arxiv.org/abs/1602.01783 section 4
  """
  entropy = masked.select(entropy, mask)
  return -entropy, {'entropy': jax.lax.stop_gradient(entropy)}


def entropy_floor(
  entropy: Array, mask: Array, *, target: float = 0.2
) -> TokenLoss:
  """`entropy_bonus` while the batch's mean entropy is at or below `target`.

  Args:
    target: nats per token. A vocabulary of V tokens has at most log V.

  Reference: He et al. (2025), https://arxiv.org/abs/2505.22312 (Skywork-OR1)
  """
  token_loss, metrics = entropy_bonus(entropy, mask)
  is_low = masked.mean(metrics['entropy'], mask) <= target
  return jnp.where(is_low, token_loss, 0.0), metrics


def l2_to_start(params: PyTree, start_params: PyTree) -> Array:
  """Half the squared distance to the starting parameters, in float32.

  Reference: Li et al. (2018), https://arxiv.org/abs/1802.01483 eq. 2 (L2-SP)
  """
  squares = jax.tree.map(
    lambda now, start: jnp.sum(
      jnp.square(
        now.astype(jnp.float32)
        - jax.lax.stop_gradient(start).astype(jnp.float32)
      )
    ),
    params,
    start_params,
  )
  return 0.5 * jnp.asarray(sum(jax.tree.leaves(squares)))


shapes.checked(globals(), [*__all__, *LOGITS, *ENTROPY])
