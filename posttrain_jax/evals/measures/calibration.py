"""Whether a model is right as often as it is sure.

  f(confidence, correct)

  confidence  [...] between 0 and 1, of each completion
  correct     [...] non-zero where it is right

The confidence is the caller's choice: `likelihood` (how probable its own tokens
were to the model) or `consistency` (how many samples of the same problem say
the same).
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked

__all__ = [
  'adaptive_ece',
  'brier',
  'consistency',
  'ece',
  'likelihood',
  'reliability',
]

Array = jax.Array


def likelihood(logps: Array, mask: Array) -> Array:
  """exp of the mean log-probability of the counted tokens, [...].

  The geometric mean of their probabilities; 1 where no token counts.

  Args:
    logps: [..., C].
    mask: [..., C].
  """
  return jnp.exp(masked.mean(logps, mask, axis=-1))


def consistency(answers: Array, mask: Array) -> Array:
  """Share [N, S] of a problem's S samples that give the same answer.

  The sample itself is one of them. Equal answers are equal tokens; an empty
  answer is an answer.

  Reference: Wang et al. (2022), https://arxiv.org/abs/2203.11171

  Args:
    answers: [N, S, A] token ids, from the first slot on.
    mask: [N, S, A].
  """
  tokens = jnp.where(mask != 0, answers, -1)
  same = jnp.all(tokens[:, :, None] == tokens[:, None], axis=-1)
  return jnp.mean(same.astype(jnp.float32), axis=-1)


def reliability(
  confidence: Array, correct: Array, bins: int = 15
) -> dict[str, Array]:
  """The reliability diagram: what is in each of `bins` equal steps, [bins].

  Bin i holds confidences in (i / bins, (i + 1) / bins]; 0 is in the first.

  Returns:
    confidence (mean), accuracy, share (of all completions); the first two are
    0 where a bin is empty.

  Raises:
    ValueError: bins < 1.
  """
  confidence, correct = _flat(confidence, correct, bins)
  # Rounded: 0.2 * 15 is a little above 3 in float32.
  step = jnp.ceil(jnp.round(confidence * bins, 4)).astype(jnp.int32) - 1
  return _table(confidence, correct, jnp.clip(step, 0, bins - 1), bins)


def ece(confidence: Array, correct: Array, bins: int = 15) -> Array:
  """Expected calibration error over bins of equal width.

  The gap between confidence and accuracy of a bin, averaged by what is in it.

  Reference: Guo et al. (2017), https://arxiv.org/abs/1706.04599, eq. 3

  Raises:
    ValueError: bins < 1.
  """
  return _gap(reliability(confidence, correct, bins))


def adaptive_ece(confidence: Array, correct: Array, bins: int = 15) -> Array:
  """Expected calibration error over bins of equally many completions.

  Completions of one confidence share what they got right, so that it does not
  matter which of them falls into which bin.

  Reference: Nixon et al. (2019), https://arxiv.org/abs/1904.01685, section 3

  Raises:
    ValueError: bins < 1.
  """
  confidence, correct = _flat(confidence, correct, bins)
  order = jnp.argsort(confidence)
  confidence, correct = confidence[order], correct[order]
  first = jnp.searchsorted(confidence, confidence, side='left')
  last = jnp.searchsorted(confidence, confidence, side='right')
  total = jnp.pad(jnp.cumsum(correct), (1, 0))
  shared = (total[last] - total[first]) / (last - first)
  count = confidence.size
  step = jnp.arange(count) * bins // count
  return _gap(_table(confidence, shared, step, bins))


def brier(confidence: Array, correct: Array) -> Array:
  """Mean squared distance of confidence from 1 where right, 0 where wrong.

  Reference: Brier (1950), Verification of forecasts expressed in terms of
  probability
  """
  confidence, correct = _flat(confidence, correct, 1)
  return jnp.mean(jnp.square(confidence - correct))


def _flat(confidence: Array, correct: Array, bins: int) -> tuple[Array, Array]:
  if bins < 1:
    raise ValueError(f'bins={bins} is no number of bins; nearest valid: 1')
  correct = (correct != 0).astype(jnp.float32)
  return confidence.astype(jnp.float32).ravel(), correct.ravel()


def _table(
  confidence: Array, correct: Array, step: Array, bins: int
) -> dict[str, Array]:
  total = lambda x: jnp.zeros(bins, jnp.float32).at[step].add(x)
  count = total(jnp.ones_like(confidence))
  filled = jnp.maximum(count, 1.0)
  return {
    'confidence': total(confidence) / filled,
    'accuracy': total(correct) / filled,
    'share': count / confidence.size,
  }


def _gap(table: dict[str, Array]) -> Array:
  return jnp.sum(
    table['share'] * jnp.abs(table['confidence'] - table['accuracy'])
  )
