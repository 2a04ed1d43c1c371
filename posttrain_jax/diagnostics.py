"""Numbers about a run: named arrays in, {name: scalar} out.

  metrics = diagnostic(array, ...)      jit-able, every value a scalar

Metric names and definitions are TRL's where TRL has one, so that curves of the
two can be laid over each other. The functions that end in `_interval` run on
the host: they say how far a reported number can be trusted.

  B prompts   G completions of one prompt   C completion tokens
  N problems  S samples of each problem
"""

import statistics
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core import masked, shapes

# What a config may name; the estimators below return plain numbers.
__all__ = ['rollout_metrics', 'logp_gap']

Array = jax.Array


def rollout_metrics(
  rewards: Array, mask: Array, finished: Array
) -> dict[str, Array]:
  """What TRL's GRPO trainer logs of each rollout.

  `reward_std` is the sample standard deviation (Bessel-corrected) within a
  group, averaged over groups; `frac_reward_zero_std` is the fraction of groups
  whose rewards are all equal, which teach a group-relative method nothing.
  Lengths count tokens up to and including the stop token; the terminated ones
  are of completions that have one, and 0 where none has.

  Reference: huggingface/trl, trl/trainer/grpo_trainer.py. Its later versions
  log `reward_std` over the whole batch; this is the earlier, per-group one.

  Args:
    rewards: [B, G].
    mask: [B, G, C], 1.0 up to and including the stop token.
    finished: [B, G], 1.0 where a stop token ended the completion.

  Returns:
    reward, reward_std, frac_reward_zero_std, completions/clipped_ratio, and
    completions/{mean,min,max}_length and .../{mean,min,max}_terminated_length.
  """
  group_size = rewards.shape[1]
  lengths = jnp.sum(mask, axis=-1)
  everyone = jnp.ones_like(lengths)
  ended = (finished != 0).astype(lengths.dtype)
  if group_size > 1:
    group_std = jnp.std(rewards, axis=1, ddof=1)
  else:
    group_std = jnp.zeros(rewards.shape[0], rewards.dtype)
  # The range of equal rewards is exactly 0; their standard deviation is not,
  # because the mean is rounded.
  spread = jnp.max(rewards, axis=1) - jnp.min(rewards, axis=1)
  metrics = {
    'reward': jnp.mean(rewards),
    'reward_std': jnp.mean(group_std),
    'frac_reward_zero_std': jnp.mean(spread <= 1e-8),
    'completions/clipped_ratio': 1.0 - jnp.mean(ended),
  }
  for name, counted in (('length', everyone), ('terminated_length', ended)):
    metrics |= {
      f'completions/mean_{name}': masked.mean(lengths, counted),
      f'completions/min_{name}': masked.minimum(lengths, counted),
      f'completions/max_{name}': masked.maximum(lengths, counted),
    }
  return metrics


def logp_gap(
  sampler_logps: Array, learner_logps: Array, mask: Array
) -> dict[str, Array]:
  """How far the sampler's log-probabilities are from the learner's.

  Above rounding error, the two run different models: importance ratios are
  wrong and an on-policy method is not. TRL's sampling_logp_difference.

  Args:
    sampler_logps: [..., T] of each token when it was drawn.
    learner_logps: [..., T] of the same tokens under the same weights, from
      the forward pass that is trained through.
    mask: [..., T].

  Returns:
    rollout/logp_gap_max and rollout/logp_gap_mean, in nats, over counted
    tokens.
  """
  gap = jnp.abs(sampler_logps - learner_logps)
  return {
    # A NaN must show: `masked.maximum` would report it as 0.
    'rollout/logp_gap_max': jnp.max(masked.select(gap, mask)),
    'rollout/logp_gap_mean': masked.mean(gap, mask),
  }


def pass_at_k(correct: Array, k: int) -> Array:
  """Unbiased estimate of the chance that one of k samples is correct.

  1 - C(S - c, k) / C(S, k), averaged over problems, where c of the S samples
  are correct.

  Reference: Chen et al. (2021), https://arxiv.org/abs/2107.03374, eq. 1

  Args:
    correct: [N, S], non-zero where a sample is correct.
    k: at least 1, at most S.

  Returns:
    A scalar between 0 and 1.

  Raises:
    ValueError: k is out of range.
  """
  num_samples = correct.shape[1]
  if not 1 <= k <= num_samples:
    raise ValueError(
      f'pass@{k} needs at least {max(k, 1)} samples of each problem and k >= 1;'
      f' there are {num_samples} samples'
    )
  num_wrong = num_samples - jnp.sum(correct != 0, axis=1)
  # C(wrong, k) / C(S, k) as a product of k ratios: no large factorials.
  drawn = jnp.arange(k)
  ratios = (num_wrong[:, None] - drawn[None, :]) / (num_samples - drawn)[None]
  all_wrong = jnp.prod(jnp.maximum(ratios, 0.0), axis=1)
  return 1.0 - jnp.mean(all_wrong)


def wilson_interval(
  successes: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
  """Interval for a proportion, good also near 0 and 1 and for small n.

  Reference: Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953

  Args:
    successes: how many of n; need not be whole.
    n: number of independent trials, at least 1.
    confidence: between 0 and 1.

  Returns:
    (low, high), within [0, 1].

  Raises:
    ValueError: successes is not between 0 and n, or n < 1.
  """
  if n < 1 or not 0 <= successes <= n:
    raise ValueError(f'{successes} successes of {n} trials')
  z = _normal_quantile(confidence)
  rate = successes / n
  scale = 1.0 + z**2 / n
  center = (rate + z**2 / (2 * n)) / scale
  half = z / scale * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
  return max(0.0, float(center - half)), min(1.0, float(center + half))


def difference_interval(
  first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float]:
  """Interval for the difference of two proportions, first minus second.

  Made from their Wilson intervals, for independent samples. Where both were
  measured on the same problems it is usually too wide, so a difference that
  it calls clear is clear.

  Reference: Newcombe (1998), Interval estimation for the difference between
  independent proportions, method 10

  Args:
    first: (proportion, low, high).
    second: the same at the same confidence.

  Returns:
    (low, high).
  """
  rate, low, high = first
  other_rate, other_low, other_high = second
  difference = rate - other_rate
  return (
    difference - float(np.hypot(rate - low, other_high - other_rate)),
    difference + float(np.hypot(high - rate, other_rate - other_low)),
  )


def bootstrap_interval(
  values: Sequence[float] | np.ndarray,
  confidence: float = 0.95,
  num_resamples: int = 10_000,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile bootstrap interval of a mean.

  The values are the independent units: seeds, or problems (the mean over the
  samples of each), or paired differences between two arms on one problem.
  Below about ten values it is too narrow; report the values themselves.

  Reference: Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 13

  Args:
    values: [N], N >= 1.
    confidence: between 0 and 1.
    num_resamples: resampled means.
    seed: of the resampling.

  Returns:
    (low, high).

  Raises:
    ValueError: values is empty or not a vector, or confidence out of range.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size:
    raise ValueError(f'values must be a non-empty vector, not {values.shape}')
  _check_confidence(confidence)
  rng = np.random.default_rng(seed)
  # One resample at a time: N may be large, and N x resamples would not fit.
  means = [rng.choice(values, values.size).mean() for _ in range(num_resamples)]
  tail = (1.0 - confidence) / 2.0
  low, high = np.quantile(means, [tail, 1.0 - tail])
  return float(low), float(high)


def _normal_quantile(confidence: float) -> float:
  _check_confidence(confidence)
  return statistics.NormalDist().inv_cdf(0.5 + confidence / 2.0)


def _check_confidence(confidence: float) -> None:
  if not 0.0 < confidence < 1.0:
    raise ValueError(
      f'confidence must be between 0 and 1 (0.95 is 95%), not {confidence}'
    )


shapes.checked(
  globals(),
  [*__all__, 'pass_at_k'],
  rewards='BG',
  finished='BG',
  rollout_metrics__mask='BGC',
  correct='NS',
  sampler_logps='*',
  learner_logps='*',
  logp_gap__mask='*',
)
