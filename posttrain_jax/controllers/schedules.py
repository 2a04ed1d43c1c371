"""Controllers that go by the fraction of the run that is done."""

import jax.numpy as jnp

from posttrain_jax.controllers.common import Controller, scheduled


def fixed(*, value: float = 0.0) -> Controller:
  """The same value at every step."""
  return scheduled(lambda fraction: value + 0.0 * fraction)


def linear(*, start: float = 0.0, end: float = 1.0) -> Controller:
  """From `start` before the first step to `end` after the last, in a line."""
  return scheduled(lambda fraction: start + (end - start) * fraction)


def warmup_cosine(
  *,
  peak: float = 0.9,
  valley: float = 0.05,
  warmup: float = 0.0,
  decay: float = 1.0,
) -> Controller:
  """CHORD's mu: a line from 0 up to `peak`, then half a cosine to `valley`.

  Args:
    peak, valley: largest and last value.
    warmup: fraction of the run's steps until the peak; 0 starts there.
    decay: fraction of the run's steps from the peak to the valley.

  Reference: Zhang et al. (2025), https://arxiv.org/abs/2508.11408 (its
  schedule is in steps: no warm-up, 200 of decay)
  """

  def schedule(fraction):
    rising = peak * fraction / jnp.where(warmup > 0, warmup, 1.0)
    after = (fraction - warmup) / jnp.where(decay > 0, decay, 1.0)
    after = jnp.where(decay > 0, jnp.clip(after, 0.0, 1.0), 1.0)
    falling = valley + (peak - valley) * 0.5 * (1.0 + jnp.cos(jnp.pi * after))
    return jnp.where(fraction < warmup, rising, falling)

  return scheduled(schedule)


def dynamic_kl(
  *, low: float = 0.04, high: float = 0.1, turn: float = 0.3
) -> Controller:
  """GRPO-D: a KL coefficient that falls at first and then rises, a V.

  f <= turn:  mid - (mid - low) f / turn,  mid = (low + high) / 2
  f > turn:   low + (high - low) (f - turn) / (1 - turn)

  f is the fraction of the run's steps done.

  Args:
    low, high: smallest and last coefficient.
    turn: fraction at which it is smallest; 0 only rises, 1 only falls.

  Reference: Liu et al. (2025), https://arxiv.org/abs/2503.16081
  """

  def schedule(fraction):
    middle = 0.5 * (low + high)
    before = fraction / jnp.where(turn > 0, turn, 1.0)
    after = (fraction - turn) / jnp.where(turn < 1, 1.0 - turn, 1.0)
    falling = middle - (middle - low) * before
    rising = low + (high - low) * after
    return jnp.where((fraction <= turn) & (turn > 0), falling, rising)

  return scheduled(schedule)


def cosine_then_none(
  *, high: float = 0.95, low: float = 0.05, until: float = 0.6
) -> Controller:
  """UFT's chance of a chunk of the hint: half a cosine, then nothing.

  f < until:   low + (high - low) (1 + cos(pi f / until)) / 2
  f >= until:  0

  f is the fraction of the run's steps done.

  Args:
    high, low: the first chance, and the one that the cosine ends with.
    until: fraction after which there is none; 0: never any.

  Reference: Liu et al. (2025), https://arxiv.org/abs/2505.16984 (its code has
  300 steps of 500, and counts from 1)
  """

  def schedule(fraction):
    done = fraction / jnp.where(until > 0, until, 1.0)
    cosine = low + (high - low) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    return jnp.where(fraction < until, cosine, 0.0)

  return scheduled(schedule)
