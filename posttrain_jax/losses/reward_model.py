"""Reward-model losses: one loss per pair of scored answers.

Every function in `__all__` is called the same way and does no averaging:

  pair_loss, metrics = loss(chosen_rewards, rejected_rewards, **hparams)

  chosen_rewards    [B]  the model's score of the better answer of a pair
  rejected_rewards  [B]  of the worse one
  pair_loss         [B]  minimised; the paper's loss is its mean
  metrics           rewards/chosen, rewards/rejected, rewards/margins,
                    rewards/accuracies, each [B] and detached

Two of them take a `margin` by which the chosen side is known to be better as a
third argument. A keyword argument without a default is an array [B] that the
caller supplies, detached here. A score says nothing about padding: leave out
pairs that do not exist when averaging.

`HELPERS` names what is made from several models' scores, from the policy's own
samples or for several attributes, each with its own signature.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, shapes
from posttrain_jax.core.types import Array, PyTree

__all__ = ['adaptive_margin', 'bradley_terry', 'soft_label', 'soft_margin']

HELPERS = [
  'attribute_regression',
  'flip',
  'meta_difference',
  'preference_strength',
]

# Which pairs are swapped depends on the strength of all.
WHOLE_BATCH = ('flip',)


PairLoss = tuple[Array, dict[str, Array]]


def smoothed(logit: Array, label_smoothing: Array | float) -> Array:
  """-(1 - e) log sigmoid(logit) - e log sigmoid(-logit)."""
  right = -jax.nn.log_sigmoid(logit)
  wrong = -jax.nn.log_sigmoid(-logit)
  return (1.0 - label_smoothing) * right + label_smoothing * wrong


def pair_metrics(chosen: Array, rejected: Array) -> dict[str, Array]:
  """TRL's metrics of the rewards of both sides, detached, each [B]."""
  chosen = jax.lax.stop_gradient(chosen)
  rejected = jax.lax.stop_gradient(rejected)
  return {
    'rewards/chosen': chosen,
    'rewards/rejected': rejected,
    'rewards/margins': chosen - rejected,
    'rewards/accuracies': (chosen > rejected).astype(chosen.dtype),
  }


def _finish(
  loss: Array, chosen: Array, rejected: Array, center_coef: Array | float
) -> PairLoss:
  loss = loss + center_coef * jnp.square(chosen + rejected)
  return loss, pair_metrics(chosen, rejected)


def bradley_terry(
  chosen_rewards: Array,
  rejected_rewards: Array,
  margin: Array | float = 0.0,
  *,
  center_coef: float = 0.0,
  label_smoothing: float = 0.0,
) -> PairLoss:
  """Logistic regression on the difference of two scores.

  loss = -log sigmoid(r_w - r_l - margin) + center_coef * (r_w + r_l)^2

  `margin` ([B] or a scalar, detached) is how much better the chosen side is
  known to be. `center_coef` (0.01 is usual) keeps rewards near 0, since only
  their differences are identified. `label_smoothing` e counts the label as
  wrong with probability e.

  References: Touvron et al. (2023), eq. 2, https://arxiv.org/abs/2307.09288
  (margin); Eisenstein et al. (2023), https://arxiv.org/abs/2312.09244
  (centering)
  """
  gap = chosen_rewards - rejected_rewards - jax.lax.stop_gradient(margin)
  loss = smoothed(gap, label_smoothing)
  return _finish(loss, chosen_rewards, rejected_rewards, center_coef)


def soft_label(
  chosen_rewards: Array,
  rejected_rewards: Array,
  margin: Array | float = 0.0,
  *,
  label_prob: Array,
  center_coef: float = 0.0,
) -> PairLoss:
  """Bradley-Terry on labels that are probabilities, one per pair.

  loss = -p log sigmoid(d) - (1 - p) log sigmoid(-d),  d = r_w - r_l - margin

  `label_prob` p [B] is the probability that the chosen answer is the better
  one: sigmoid of the mean of `preference_strength`, or a rater's confidence.
  p = 1 on every pair is `bradley_terry`.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2401.06080
  """
  label_prob = jax.lax.stop_gradient(label_prob)
  gap = chosen_rewards - rejected_rewards - jax.lax.stop_gradient(margin)
  loss = smoothed(gap, 1.0 - label_prob)
  return _finish(loss, chosen_rewards, rejected_rewards, center_coef)


def adaptive_margin(
  chosen_rewards: Array,
  rejected_rewards: Array,
  *,
  strength: Array,
  center_coef: float = 0.0,
  label_smoothing: float = 0.0,
) -> PairLoss:
  """Bradley-Terry with each pair's own strength as its margin.

  loss = -log sigmoid(r_w - r_l - strength)

  `strength` [B] is the mean of `preference_strength`, negative where an
  ensemble prefers the rejected answer. A flipped pair takes minus it.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2401.06080
  """
  return bradley_terry(
    chosen_rewards,
    rejected_rewards,
    strength,
    center_coef=center_coef,
    label_smoothing=label_smoothing,
  )


def soft_margin(
  chosen_rewards: Array,
  rejected_rewards: Array,
  *,
  strength: Array,
  center_coef: float = 0.0,
) -> PairLoss:
  """Soft labels where an ensemble doubts the label, and margins everywhere.

  loss = -p log sigmoid(d) - (1 - p) log sigmoid(-d),  d = r_w - r_l - strength
  p = sigmoid(strength) where strength < 0, else 1

  `strength` as in `adaptive_margin`, which this is where nothing is doubted.
  The other side of a doubted pair has minus its margin, as a flipped pair.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2401.06080
  """
  strength = jax.lax.stop_gradient(strength)
  prob = jnp.where(strength < 0, jax.nn.sigmoid(strength), 1.0)
  return soft_label(
    chosen_rewards,
    rejected_rewards,
    strength,
    label_prob=prob,
    center_coef=center_coef,
  )


def preference_strength(gaps: Array) -> tuple[Array, Array]:
  """How strongly an ensemble prefers the chosen answers: mean and std, [B].

  Args:
    gaps: [M, B] r_w - r_l under each of M reward models, which must not have
      memorised these pairs (one epoch, or cross-fitting). The std is the
      population's. Both are detached.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2401.06080
  """
  gaps = jax.lax.stop_gradient(gaps)
  mean = jnp.mean(gaps, axis=0)
  variance = jnp.mean(jnp.square(gaps - mean[None, :]), axis=0)
  return mean, jnp.sqrt(variance)


def flip(
  chosen: PyTree,
  rejected: PyTree,
  strength: Array,
  fraction: Array | float = 0.1,
) -> tuple[PyTree, PyTree, Array]:
  """Swaps the two answers of the pairs of lowest strength.

  Args:
    chosen, rejected: trees of the same arrays, rows leading: tokens and masks,
      or SequenceSignals.
    strength: [B] as in `adaptive_margin`. NaN sorts last, so a pair without a
      strength is kept.
    fraction: of the B pairs that are swapped, rounded down. Of equal
      strengths the first come first.

  Returns:
    chosen, rejected and [B] True where they were swapped.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2401.06080
  """
  size = strength.shape[0]
  rank = jnp.argsort(jnp.argsort(strength))
  # A fraction such as 0.3 of 10 may come out a rounding below 3.
  count = jnp.floor(fraction * size + 1e-4)
  swapped = rank < count

  def pick(first, second):
    where = swapped.reshape(-1, *[1] * (first.ndim - 1))
    return jnp.where(where, second, first)

  return (
    jax.tree.map(pick, chosen, rejected),
    jax.tree.map(pick, rejected, chosen),
    swapped,
  )


def meta_difference(rewards: Array) -> Array:
  """MetaRM: how far apart a reward model holds answers to one prompt. [B]

  J = 2 / K^2 * sum over i < j of sigmoid(|r_i - r_j|)

  `rewards` [B, K] scores K answers of the current policy to each prompt. J is
  maximised: take one ascent step on its mean, then the gradient of the pairs'
  loss at the moved parameters, and apply that to the original ones.

  Reference: Dou et al. (2024), https://arxiv.org/abs/2405.00438
  """
  answers = rewards.shape[1]
  gap = rewards[:, :, None] - rewards[:, None, :]
  # |gap|, with no push either way on answers that tie.
  gap = gap * jax.lax.stop_gradient(jnp.sign(gap))
  first = jnp.arange(answers)[:, None] < jnp.arange(answers)[None, :]
  terms = jnp.where(first[None], jax.nn.sigmoid(gap), 0.0)
  return 2.0 / answers**2 * jnp.sum(terms, axis=(1, 2))


def attribute_regression(
  scores: Array, targets: Array, mask: Array
) -> PairLoss:
  """A reward model of several attributes: mean squared error of an answer. [B]

  Args:
    scores: [B, S] the model's score of each attribute.
    targets: [B, S] the rating, all attributes on one scale; detached.
    mask: [B, S] 1.0 where the attribute was rated; data sets with different
      attributes share one model that way. A row with none has loss 0.

  The metric 'error' [B] is the mean absolute error. With a direction v of
  length 1 the score of an answer is `scores @ v`.

  Reference: Wang et al. (2024), https://arxiv.org/abs/2402.18571
  """
  error = masked.select(scores - jax.lax.stop_gradient(targets), mask)
  absolute = masked.mean(jnp.abs(jax.lax.stop_gradient(error)), mask, axis=1)
  return masked.mean(jnp.square(error), mask, axis=1), {'error': absolute}


shapes.checked(
  globals(),
  [*__all__, *HELPERS],
  flip__fraction='',
  preference_strength__gaps='MB',
  meta_difference__rewards='BG',
  attribute_regression__scores='BS',
  attribute_regression__targets='BS',
  attribute_regression__mask='BS',
)
