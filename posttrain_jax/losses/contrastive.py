"""Contrastive losses on embeddings of whole answers: one loss per row.

Every function in `__all__` is called the same way and averages nothing:

  row_loss, metrics = loss(anchors, positives, mask, **hparams)

  anchors    [B, D]  one embedding of each row
  positives  [B, D]  another of the same row; those of the other rows are the
                     negatives
  mask       [B]     1.0 on rows that exist; the others are no negatives either
  row_loss   [B]     minimised, 0 where masked
  metrics    [B], detached: 'counted', 1.0 where a row has a loss; 'similarity',
             the cosine of its two embeddings; 'accuracy', 1.0 where no other
             positive is as near

The paper's loss is the sum over rows divided by the sum of 'counted'. Every
row of a call is a negative of every other: a batch must not be split. A
keyword argument without a default is a further array to supply.

`HELPERS` names how a row of tokens becomes one embedding.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, shapes
from posttrain_jax.core.types import Array

__all__ = ['carft', 'simcse', 'simcse_diff']

HELPERS = ['value_pooled']

WHOLE_BATCH = tuple(__all__)

# Without another row there is no negative, and nothing is learnt.
LEAST = dict.fromkeys(__all__, 2)

RowLoss = tuple[Array, dict[str, Array]]


def _unit(x: Array, mask: Array) -> Array:
  """[B, D] of length 1; 0 where masked or 0 itself."""
  x = masked.select(x, jnp.broadcast_to(mask[:, None], x.shape))
  # Large numbers are scaled before they are squared.
  top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=1, keepdims=True))
  x = x / jnp.where(top > 0, top, 1.0)
  square = jnp.sum(jnp.square(x), axis=1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def _info_nce(
  anchors: Array,
  positives: Array,
  mask: Array,
  counted: Array,
  temperature: Array | float,
  ceiling: Array | float,
) -> RowLoss:
  """-log(exp(min(c_ii, ceiling) / t) / sum_j exp(c_ij / t)), c the cosines."""
  unit, other = _unit(anchors, mask), _unit(positives, mask)
  cosine = jnp.einsum('id,jd->ij', unit, other)
  own = jnp.einsum('id,id->i', unit, other)
  exists = mask != 0
  logits = jnp.where(exists[None, :], cosine / temperature, -jnp.inf)
  # A call without any row has no largest entry.
  logits = jnp.where(jnp.any(exists), logits, 0.0)
  loss = jax.nn.logsumexp(logits, axis=1)
  loss = loss - jnp.minimum(own, ceiling) / temperature

  rivals = exists[None, :] & ~jnp.eye(own.size, dtype=bool)
  nearest = jnp.max(jnp.where(rivals, cosine, -jnp.inf), axis=1)
  keep = exists & (counted != 0)
  metrics = {
    'counted': jnp.ones_like(own),
    'similarity': jax.lax.stop_gradient(own),
    'accuracy': (own > nearest).astype(own.dtype),
  }
  return (
    jnp.where(keep, loss, 0.0),
    {name: jnp.where(keep, x, 0.0) for name, x in metrics.items()},
  )


def carft(
  anchors: Array,
  positives: Array,
  mask: Array,
  *,
  correct: Array,
  temperature: float = 0.2,
  ceiling: float = 0.9,
) -> RowLoss:
  """CARFT: a correct rollout is drawn to its question's annotated solution.

  -correct_i log( exp(min(c_ii, ceiling) / t) / sum_j exp(c_ij / t) )

  `anchors` embed the annotations and are detached; `positives` embed the
  rollouts. Wrong rollouts have no loss but are negatives. Once c_ii is above
  the ceiling only the denominator still learns.

  Args:
    correct: [B] a row counts if this is above 0.5.
    temperature: t.
    ceiling: of the cosine in the numerator.

  Reference: Zhu et al. (2025), https://arxiv.org/abs/2508.15868
  """
  counted = (correct > 0.5).astype(positives.dtype)
  anchors = jax.lax.stop_gradient(anchors)
  return _info_nce(anchors, positives, mask, counted, temperature, ceiling)


def simcse(
  anchors: Array, positives: Array, mask: Array, *, temperature: float = 0.05
) -> RowLoss:
  """SimCSE: two passes with different dropout over the same answer agree.

  -log( exp(c_ii / t) / sum_j exp(c_ij / t) )

  As a second term of a reward model, rows are the chosen and the rejected
  answers. Gradient flows through both embeddings.

  Reference: Gao et al. (2021), https://arxiv.org/abs/2104.08821 eq. 4
  """
  # A cosine is never above 1: no ceiling.
  return _info_nce(anchors, positives, mask, mask, temperature, 2.0)


def simcse_diff(
  anchors: Array,
  positives: Array,
  mask: Array,
  *,
  rejected_anchors: Array,
  rejected_positives: Array,
  temperature: float = 0.05,
) -> RowLoss:
  """`simcse` on how the chosen answer of a pair differs from the rejected one.

  `anchors` and `positives` embed the chosen answers, `rejected_...` [B, D] the
  rejected ones, each in the same pass as its counterpart.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2401.06080
  """
  return simcse(
    anchors - rejected_anchors,
    positives - rejected_positives,
    mask,
    temperature=temperature,
  )


def value_pooled(hidden: Array, values: Array, mask: Array) -> Array:
  """[B, D] mean of token embeddings, weighted by softmax of their values.

  Args:
    hidden: [B, T, D] embedding of each token.
    values: [B, T] value head.
    mask: [B, T] 1.0 on counted tokens. A row with none gets 0.

  Reference: Zhu et al. (2025), https://arxiv.org/abs/2508.15868
  """
  counted = mask != 0
  live = jnp.any(counted, axis=1, keepdims=True)
  scores = jnp.where(counted, values, -jnp.inf)
  weights = jax.nn.softmax(jnp.where(live, scores, 0.0), axis=1)
  weights = jnp.where(counted, weights, 0.0)
  hidden = jnp.where(counted[:, :, None], hidden, 0.0)
  return jnp.einsum('bt,btd->bd', weights, hidden)


shapes.checked(
  globals(),
  [*__all__, *HELPERS],
  mask='B',
  rejected_positives='BD',
  value_pooled__hidden='BTD',
  value_pooled__mask='BT',
)
