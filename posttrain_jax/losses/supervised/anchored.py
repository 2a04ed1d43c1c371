"""Objectives that hold the policy near another one: reference, old, rivals."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals
from posttrain_jax.losses import numerics
from posttrain_jax.losses.supervised.common import (
  TokenLoss,
  log_ratio,
  require,
  spread,
)

__all__ = [
  'asft',
  'f_sft',
  'iw_sft',
  'poft',
  'psft',
  'uft_implicit',
  'una',
]


def asft(
  signals: TokenSignals,
  mask: Array,
  *,
  ref_logits: Array,
  kl_coef: float = 0.05,
  direction: str = 'forward',
  alpha: float = 1.0,
) -> TokenLoss:
  """Anchored SFT: the DFT loss, tied to the reference by a full KL.

  loss = -sg[p^alpha] log p + kl_coef * KL

  KL is KL(ref || policy) over the vocabulary for direction 'forward' (the
  paper's), KL(policy || ref) for 'reverse' (its ablation). alpha 1 is the
  paper; alpha 0 is its SFT + KL arm. `ref_logits` [B, T, V] are those of the
  frozen base model. Reads `logps` and `logits`. Detached: the weight and
  `ref_logits`.

  Reference: Zhu et al. (2025), https://arxiv.org/abs/2509.23753

  Raises:
    ValueError: `signals.logits` is None, or an unknown `direction`.
  """
  logits = require(signals, 'logits')
  if direction not in ('forward', 'reverse'):
    raise ValueError(
      f'unknown direction "{direction}". Valid: forward, reverse'
    )
  logps = masked.select(signals.logps, mask)
  weight = numerics.exp(alpha * jax.lax.stop_gradient(logps))
  log_probs = lambda x: jax.nn.log_softmax(masked.select(x, mask[..., None]))
  own, base = log_probs(logits), log_probs(ref_logits)
  base = jax.lax.stop_gradient(base)
  pair = (base, own) if direction == 'forward' else (own, base)
  kl = masked.select(numerics.kl(*pair), mask)
  metrics = {'weight': masked.select(weight, mask), 'kl': kl}
  return masked.select(-weight * logps, mask) + kl_coef * kl, metrics


def psft(
  signals: TokenSignals, mask: Array, *, clip_high: float = 0.28
) -> TokenLoss:
  """Proximal SFT: PPO's clipped surrogate with advantage 1 on demonstrations.

  loss = -min(R, 1 + clip_high),  R = p / sg[p_old]

  With a positive advantage only the upper clip can bind: a token stops learning
  once R exceeds it. p_old is the policy at the start of the outer batch; on the
  first minibatch the gradient is that of `nll`. Reads `logps`, and `old_logps`,
  which are detached.

  Reference: Zhu et al. (2025), https://arxiv.org/abs/2508.17784

  Raises:
    ValueError: `signals.old_logps` is None.
  """
  old_logps = jax.lax.stop_gradient(require(signals, 'old_logps'))
  ratio_log = log_ratio(signals.logps, old_logps, mask)
  # The clip is applied to log R, so that exp never sees a large argument.
  limit = jnp.log1p(clip_high)
  is_clipped = ratio_log > limit
  ratio = jnp.exp(jnp.where(is_clipped, limit, ratio_log))
  metrics = {
    'ratio': masked.select(ratio, mask),
    'clip_ratio/high_mean': masked.select(is_clipped.astype(ratio.dtype), mask),
  }
  return masked.select(-ratio, mask), metrics


def iw_sft(
  signals: TokenSignals,
  mask: Array,
  *,
  level: str = 'sequence',
  scale: float = 1.0,
  low: float = 0.0,
  high: float = 16.0,
) -> TokenLoss:
  """Importance-weighted SFT: a tighter bound on the sparse-reward objective.

  loss_t = -sg[w] log p_t
  level 'sequence': w = clip(exp(scale * mean_t d_t), low, high), one per row
  level 'token':    w_t = clip(exp(scale * d_t), low, high)
  d_t = log p_t - log ref_t

  The authors' per-step form is level 'token', a token being one step of the
  decision process, with low 0.2 and high 1.8. Divide by the token count, not by
  the sum of weights. Reads `logps` and `ref_logps`; the weight is detached.

  Reference: Qin and Springenberg (2025), https://arxiv.org/abs/2507.12856

  Raises:
    ValueError: `signals.ref_logps` is None, or an unknown `level`.
  """
  distance = log_ratio(signals.logps, require(signals, 'ref_logps'), mask)
  if level == 'sequence':
    distance = masked.mean(distance, mask, axis=1, keepdims=True)
  elif level != 'token':
    raise ValueError(f'unknown level "{level}". Valid: sequence, token')
  weight = jnp.clip(numerics.exp(scale * distance), low, high)
  weight = jax.lax.stop_gradient(jnp.broadcast_to(weight, mask.shape))
  weight = masked.select(weight, mask)
  return -weight * masked.select(signals.logps, mask), {'weight': weight}


def _phi(divergence: str, u: Array) -> Array:
  """phi(u) = -f*(-u) of a named divergence, f* the convex conjugate of f."""
  members = {
    'total_variation': lambda x: x,
    'chi2': lambda x: x - jnp.square(x) / 4.0,
    'hellinger': lambda x: x / (1.0 + x),
    'js': lambda x: jnp.log(2.0 - jnp.exp(-x)),
    'reverse_kl': lambda x: -jnp.exp(-(x + 1.0)),
  }
  if divergence not in members:
    raise ValueError(
      f'unknown divergence "{divergence}". Valid: {", ".join(members)}'
    )
  return members[divergence](u)


def f_sft(
  signals: TokenSignals,
  mask: Array,
  *,
  divergence: str = 'chi2',
  beta: float = 0.1,
  floor: float = -0.5,
) -> TokenLoss:
  """SFT as distribution matching through the implicit reward of the policy.

  sequence loss = -phi(u) / beta,  u = beta * sum_t (log p_t - log ref_t)

  phi(u): total_variation u (then the gradient is that of `nll`); chi2
  u - u^2 / 4; hellinger u / (1 + u); js log(2 - exp(-u)); reverse_kl
  -exp(-(u + 1)). Every member weighs a row's NLL by phi'(u), which falls as the
  policy comes to prefer the demonstration over the reference; chi2 unlearns
  beyond u = 2. phi goes on as a straight line below `floor`, so that the poles
  (hellinger -1, js -log 2) are never met. The division by beta is ours: it
  keeps the gradient on the scale of `nll`.
  A row's loss is spread over its tokens: sum it per sequence, then average.
  Reads `logps`, and `ref_logps`, which are detached.

  References: Wang et al. (2025), https://arxiv.org/abs/2507.00018; phi from
  Garg et al. (2021), table of divergences, https://arxiv.org/abs/2106.12142

  Raises:
    ValueError: `signals.ref_logps` is None, or an unknown `divergence`.
  """
  ref_logps = jax.lax.stop_gradient(require(signals, 'ref_logps'))
  ratio = log_ratio(signals.logps, ref_logps, mask)
  reward = beta * jnp.sum(ratio, axis=1)
  edge = jnp.asarray(floor, reward.dtype)
  at_edge, slope = jax.value_and_grad(lambda u: _phi(divergence, u))(edge)
  inside = _phi(divergence, jnp.where(reward > edge, reward, edge))
  line = at_edge + slope * (reward - edge)
  loss = -jnp.where(reward > edge, inside, line) / beta
  return spread(loss, mask), {'implicit_reward': spread(reward, mask)}


def poft(
  signals: TokenSignals,
  mask: Array,
  *,
  ref_scores: Array,
  beta: float = 1.0,
  gamma: float = 0.0,
) -> TokenLoss:
  """Preference-oriented SFT: like the demonstration more than aligned LLMs do.

  sequence loss = -log sigmoid(beta * (s - s_ref) + gamma),
  s = mean_t log p_t

  `ref_scores` [B] is s_ref: the mean over the aligned LLMs of their own mean
  token log-probability of the response, each with its own tokenizer.
  A row's loss is spread over its tokens: sum it per sequence, then average.
  Reads `logps`; `ref_scores` are detached.

  Reference: Fan et al. (2024), https://arxiv.org/abs/2412.12865
  """
  score = masked.mean(signals.logps, mask, axis=1)
  margin = beta * (score - jax.lax.stop_gradient(ref_scores)) + gamma
  # A row without tokens may hold anything in `ref_scores`.
  margin = jnp.where(jnp.sum(mask, axis=1) > 0, margin, 0.0)
  loss = spread(-jax.nn.log_sigmoid(margin), mask)
  return loss, {'margin': spread(margin, mask)}


def una(
  signals: TokenSignals,
  mask: Array,
  *,
  scores: Array,
  beta: float = 0.03,
  link: str = 'mse',
) -> TokenLoss:
  """Unified alignment: regress the implicit reward on an explicit score.

  q = sigmoid(beta * sum_t (log p_t - log ref_t))
  link 'mse': sequence loss = (q - s)^2
  link 'bce': sequence loss = -s log q - (1 - s) log(1 - q)

  `scores` [B] is s in [0, 1]: a normalised grade, or 0 and 1 for bad and good.
  A row's loss is spread over its tokens: sum it per sequence, then average.
  Reads `logps`, and `ref_logps`, which are detached.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2408.15339

  Raises:
    ValueError: `signals.ref_logps` is None, or an unknown `link`.
  """
  ref_logps = jax.lax.stop_gradient(require(signals, 'ref_logps'))
  ratio = log_ratio(signals.logps, ref_logps, mask)
  reward = beta * jnp.sum(ratio, axis=1)
  scores = jnp.where(jnp.sum(mask, axis=1) > 0, scores, 0.0)
  if link == 'mse':
    loss = jnp.square(jax.nn.sigmoid(reward) - scores)
  elif link == 'bce':
    loss = -scores * jax.nn.log_sigmoid(reward)
    loss = loss - (1.0 - scores) * jax.nn.log_sigmoid(-reward)
  else:
    raise ValueError(f'unknown link "{link}". Valid: bce, mse')
  return spread(loss, mask), {'implicit_reward': spread(reward, mask)}


def uft_implicit(
  signals: TokenSignals,
  mask: Array,
  *,
  beta: float = 0.03,
  link: str = 'mse',
) -> TokenLoss:
  """Unified fine-tuning: `una` on demonstrations, whose score is 1.

  sequence loss = (sigmoid(beta * sum_t (log p_t - log ref_t)) - 1)^2

  It saturates, so the likelihood is never driven to 1. At the start its
  gradient is that of beta / 4 times the summed NLL: with a small beta it needs
  a learning rate about ten times larger.
  A row's loss is spread over its tokens: sum it per sequence, then average.
  Reads `logps`, and `ref_logps` of the pretrained base, which are detached.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2410.21438

  Raises:
    ValueError: `signals.ref_logps` is None, or an unknown `link`.
  """
  ones = jnp.ones_like(mask[:, 0])
  return una(signals, mask, scores=ones, beta=beta, link=link)
