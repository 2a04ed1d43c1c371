"""Choosing among the completions of a group, after they are drawn.

Everything here sees groups of G completions of B prompts and is jit-able:

  scores, weights, rewards  [B, G]
  answers                   [B, G, A] token ids of each completion's answer,
                            from the first slot on
  mask                      [B, G, A], non-zero on them; an empty answer gets no
                            vote
  index                     [B] of the completion that is chosen

Equal completions and equal votes: the earliest one is chosen.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array, Rollout

__all__ = [
  'best_of_k_expected',
  'best_of_n',
  'majority',
  'majority_at_k',
  'weighted_majority',
]


def best_of_n(rollout: Rollout, scores: Array) -> Rollout:
  """The completion of each group with the highest score, [B, 1, C].

  Reference: Stiennon et al. (2020), https://arxiv.org/abs/2009.01325
  """
  index = jnp.argmax(scores, axis=1)[:, None]
  return jax.tree.map(lambda x: jax.vmap(lambda x, i: x[i])(x, index), rollout)


def weighted_majority(answers: Array, mask: Array, weights: Array) -> Array:
  """Index [B] of the first completion with the answer of the largest weight.

  An answer weighs what the completions that give it weigh together. With a
  reward model's scores as weights this is weighted best-of-n.

  Reference: Li et al. (2022), https://arxiv.org/abs/2206.02336
  """
  real = mask != 0
  tokens = jnp.where(real, answers, -1)
  same = jnp.all(tokens[:, :, None] == tokens[:, None], axis=-1)
  total = jnp.sum(jnp.where(same, weights[:, None], 0), axis=-1)
  total = jnp.where(jnp.any(real, axis=-1), total, -jnp.inf)
  winner = jnp.argmax(total, axis=1)
  return jnp.argmax(jax.vmap(lambda x, i: x[i])(same, winner), axis=1)


def majority(answers: Array, mask: Array) -> Array:
  """Index [B] of the first completion with the most frequent answer.

  Self-consistency. Where all answers are empty it is 0.

  Reference: Wang et al. (2022), https://arxiv.org/abs/2203.11171
  """
  return weighted_majority(answers, mask, jnp.ones(answers.shape[:2]))


def majority_at_k(answers: Array, mask: Array, rewards: Array, k: int) -> Array:
  """Reward [B] of the majority's answer among k completions.

  The mean over the G // k disjoint blocks of k in the order of the group; the
  completions after the last whole block are not used.

  Raises:
    ValueError: k is not in 1..G.
  """
  b, g = rewards.shape
  _check(k, g)
  count = g // k
  blocks = lambda x: x[:, : count * k].reshape(b * count, k, *x.shape[2:])
  index = majority(blocks(answers), blocks(mask))
  chosen = jnp.take_along_axis(blocks(rewards), index[:, None], axis=1)
  return jnp.mean(chosen.reshape(b, count), axis=1)


def best_of_k_expected(scores: Array, rewards: Array, k: int) -> Array:
  """Expected reward [B] of the best-scored of k of the group's completions.

  The mean over all subsets of k, exactly: the completion of rank r (from 0) is
  the best of C(G - 1 - r, k - 1) of the C(G, k) subsets. It is the unbiased
  estimate of what best-of-k earns.

  Reference: Nakano et al. (2021), https://arxiv.org/abs/2112.09332, appendix I

  Raises:
    ValueError: k is not in 1..G.
  """
  g = scores.shape[1]
  _check(k, g)
  shares = np.array(
    [math.comb(g - 1 - rank, k - 1) / math.comb(g, k) for rank in range(g)]
  )
  order = jnp.argsort(-scores, axis=1, stable=True)
  ranked = jnp.take_along_axis(rewards, order, axis=1)
  return jnp.sum(ranked * jnp.asarray(shares, ranked.dtype)[None], axis=1)


def _check(k: int, g: int) -> None:
  if not 1 <= k <= g:
    raise ValueError(
      f'k={k} is not in 1..{g}, the completions of a group; nearest valid: '
      f'{min(max(k, 1), g)}'
    )
