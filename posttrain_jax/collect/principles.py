"""Pairs that one of several principles decides."""

import jax
import jax.numpy as jnp

from posttrain_jax.collect.pairs import Rows, pairs_of
from posttrain_jax.collect.setting import (
  Setting,
  chances,
  reward_metrics,
  rows_of,
)
from posttrain_jax.collect.single import _pick
from posttrain_jax.core.types import Array, TrainState

__all__ = ['decisive', 'principle_pairs']


def decisive(gaps: Array, wanted: Array) -> tuple[Array, Array]:
  """([B] how much better the first answer is by the principle that tells them
  apart best, [B] which one).

  score = wanted gap / mean square of the principle's gaps

  and the score that counts is the one of largest size.

  Args:
    gaps: [B, K] what the first answer has of each property above the second.
    wanted: [B, K] 1, -1 (the principle is negated) or 0 (it is not named).
  """
  sizes = jnp.mean(gaps**2, axis=0, keepdims=True)
  scores = wanted * gaps / jnp.where(sizes > 0, sizes, 1.0)
  which = jnp.argmax(jnp.abs(scores), axis=1)
  return jnp.take_along_axis(scores, which[:, None], axis=1)[:, 0], which


def principle_pairs(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'ref',
  noise: float = 0.1,
) -> Rows:
  """SALMON: two self-made answers, compared by the principles in the prompt.

  A problem names some principles, each of them as it is or negated; the one
  that tells the answers apart best decides alone which is chosen. Pairs that no
  named principle tells apart are left out. A reward model that is trained on
  them reads what is asked for, and follows principles that are put together
  anew.

  noise  share of pairs that are turned round

  Extras: `scores` [R], what each answer has of the property that decided, with
  the sign of its principle.

  Reference: Sun et al. (2023), SALMON, https://arxiv.org/abs/2310.05910 and
  https://github.com/IBM/SALMON, aggregate_synthetic_preference.py, where a
  model scores every principle in both orders and its score is divided by the
  variance of all of that principle's; here the task counts

  Raises:
    ValueError: a task without principles, or an unknown `sampler`.
  """
  if not hasattr(setting.task, 'degrees'):
    raise ValueError(
      'collect "principle_pairs" compares by principles, and this task has '
      'none: take task=attributes'
    )
  attempt_key, noise_key = jax.random.split(key)
  examples, samples, rewards = setting.attempts(state, sampler, attempt_key, 2)
  over_group = jax.vmap(setting.task.degrees, (None, 0, 0))
  shares, wanted = jax.vmap(over_group)(
    examples, samples.completion, samples.mask
  )
  wanted = wanted[:, 0]
  score, which = decisive(shares[:, 0] - shares[:, 1], wanted)
  turned = chances(noise_key, examples) < noise
  first = (score > 0) != turned
  take = lambda x: jnp.take_along_axis(x, which[:, None], axis=1)[:, 0]
  own = [take(wanted * shares[:, i]) for i in (0, 1)]
  index = jnp.where(first, 0, 1)
  batch = pairs_of(
    rows_of(examples, _pick(samples, index)),
    rows_of(examples, _pick(samples, 1 - index)),
    (jnp.where(first, own[0], own[1]), jnp.where(first, own[1], own[0])),
    score != 0,
  )
  return batch, reward_metrics(rewards, score != 0)
