"""What the preference losses share: log-ratios of live pairs, metrics."""

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, SequenceSignals
from posttrain_jax.losses.reward_model import PairLoss, pair_metrics, smoothed


def alive(chosen: SequenceSignals, rejected: SequenceSignals) -> Array:
  """[B] True on pairs in which both sides have a token; others are padding."""
  return (chosen.length > 0) & (rejected.length > 0)


def score(signals: SequenceSignals, live: Array) -> Array:
  """[B] summed log-probability, 0 with no gradient on padding pairs."""
  return jnp.where(live, signals.logps, 0.0)


def average(signals: SequenceSignals, live: Array) -> Array:
  """[B] log-probability per token, 0 with no gradient on padding pairs."""
  return score(signals, live) / jnp.maximum(signals.length, 1)


def ratio(signals: SequenceSignals, ref: SequenceSignals, live: Array) -> Array:
  """[B] log pi / ref, 0 on padding pairs; the reference is detached."""
  fixed = jax.lax.stop_gradient(ref.logps)
  return score(signals, live) - jnp.where(live, fixed, 0.0)


def ratios(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
) -> tuple[Array, Array, Array]:
  """Log-ratios of both sides and which pairs are alive, each [B]."""
  live = alive(chosen, rejected)
  return (
    ratio(chosen, ref_chosen, live),
    ratio(rejected, ref_rejected, live),
    live,
  )


def quantile_loss(
  high: Array,
  low: Array,
  live: Array,
  beta: Array | float,
  label_smoothing: Array | float,
) -> Array:
  """Logistic loss of sorted `high` over sorted `low`; padding pairs come last.

  [B] entry i compares the i-th smallest of each.
  """
  big = jnp.finfo(high.dtype).max
  high = jnp.sort(jnp.where(live, high, big))
  low = jnp.sort(jnp.where(live, low, big))
  is_real = jnp.arange(high.size) < jnp.sum(live)
  gap = jnp.where(is_real, high, 0.0) - jnp.where(is_real, low, 0.0)
  return jnp.where(is_real, smoothed(beta * gap, label_smoothing), 0.0)


def finish(
  loss: Array, chosen_reward: Array, rejected_reward: Array, live: Array
) -> PairLoss:
  """0 on padding pairs; TRL's reward metrics, detached, each [B]."""
  metrics = pair_metrics(chosen_reward, rejected_reward)
  keep = lambda x: jnp.where(live, x, jnp.zeros_like(x))
  return keep(loss), {name: keep(array) for name, array in metrics.items()}
