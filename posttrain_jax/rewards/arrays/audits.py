"""Rewards of features whose weights an audit moves."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array
from posttrain_jax.rewards.arrays.common import Facts, Rewards, namespace

__all__ = ['audit', 'audited']

LEAST = 1e-6  # of a spread that is one


def audited(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: Sequence[str] = (),
  weights: Sequence[float] = (),
  unfinished: float = -1.0,
) -> Rewards:
  """A rubric: features by weights that may change between stages of training.

  reward = sum weights[i] of[i] / sum |weights[i]|, and `unfinished` more where
  the answer has no end; the sum is 0 where all weights are

  A run's weights stand still; `lab.rounds` gives its stages those of the last
  `audit` as inputs of the program (`rewards.audited.weights.0`, and so on). An
  item that does not apply to an answer earns 0.

  Args:
    of: the entries that are features.
    weights: theirs.
    unfinished: what an answer without an end earns besides.

  Reference: Kim et al. (2025), MPO, https://arxiv.org/abs/2504.20157, whose
  items a model scores and another one rewrites; its sum is over the items, so
  that it grows with their number, and is 1 lower without an end
  """
  values = [parts[name] for name in of]
  xp = namespace(values[0])
  found = xp.nan_to_num(xp.stack(values))
  shares = xp.asarray(weights, found.dtype)
  size = xp.sum(xp.abs(shares))
  total = xp.sum(found * shares[:, None, None], axis=0)
  total = total / xp.where(size > 0, size, 1.0)
  silent = xp.all(xp.isnan(xp.stack(values)), axis=0)
  ended = xp.where(facts.finished > 0, 0.0, unfinished)
  return xp.where(silent, xp.nan, total + ended), {}


def audit(
  features: Array, gold: Array, before: Array, *, rate: float = 1.0
) -> Array:
  """Weights [F] of the features, by how far they go with what is really wanted.

  weights = (1 - rate) before + rate correlation(feature, gold)

  What is alike in all answers says nothing: a feature, or gold, without spread
  leaves the weights as they were. A feature that pays while gold falls gets a
  negative weight.

  Args:
    features: [n, F] of the answers that are looked at.
    gold: [n] what they are really worth, which the policy is never paid.
    before: [F] the weights until now.
    rate: share of the new ones.

  The rule stands for the model that rewrites a rubric in MPO, Kim et al.
  (2025), https://arxiv.org/abs/2504.20157; it is ours.
  """
  apart = features - jnp.mean(features, axis=0, keepdims=True)
  wanted = gold - jnp.mean(gold)
  spread = jnp.sqrt(jnp.mean(apart**2, axis=0) * jnp.mean(wanted**2))
  together = jnp.mean(apart * wanted[:, None], axis=0)
  known = spread > LEAST
  found = together / jnp.where(known, spread, 1.0)
  moved = (1.0 - rate) * before + rate * found
  return jax.lax.stop_gradient(jnp.where(known, moved, before))
