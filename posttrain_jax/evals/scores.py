"""From judged answers to the numbers of an evaluation; one place for both kinds
of evaluators."""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from posttrain_jax import diagnostics
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Rollout
from posttrain_jax.evals.measures import calibration
from posttrain_jax.rollout import decoders, select

__all__ = ['check_sizes', 'confidence', 'drawing', 'greedy', 'sampled',
           'selected']  # fmt: skip


def check_sizes(num_problems: int, batch: int, beams: int) -> None:
  """Raises ValueError for an evaluation that cannot run, with what can."""
  if beams < 0:
    raise ValueError(f'eval.beams={beams} is negative; 0 = none')
  if num_problems < 1 or num_problems % batch:
    near = max(1, round(num_problems / batch)) * batch
    raise ValueError(
      f'eval.num_problems={num_problems} is no multiple of '
      f'eval.batch={batch}; nearest valid: {near}'
    )


def drawing(temperature: float, top_p: float) -> Callable:
  """The decoder of samples: greedy at temperature 0; else a draw from the most
  likely `top_p` mass."""
  if temperature == 0:
    return decoders.greedy
  if top_p < 1:
    return functools.partial(decoders.top_p, p=top_p, temperature=temperature)
  if temperature == 1:
    return decoders.sample
  return functools.partial(decoders.sample, temperature=temperature)


def _powers(largest: int) -> list[int]:
  return [2**i for i in range(1, largest.bit_length())]


def confidence(samples: Rollout) -> Array:
  """Mean log-probability [B, G] of the tokens that the model chose."""
  return masked.mean(samples.logps, samples.chosen, axis=-1)


def greedy(correct: Array, length: Array, finished: Array) -> dict[str, Array]:
  """eval/accuracy, eval/length and eval/truncated of greedy answers, [N] each.

  finished  1.0 where an answer ended by itself
  """
  return {
    'eval/accuracy': jnp.mean(correct),
    'eval/length': jnp.mean(length),
    'eval/truncated': 1.0 - jnp.mean(finished),
  }


def sampled(
  correct: Array,
  distinct: Array,
  words: Array,
  mask: Array,
  confidence: Array,
) -> dict[str, Array]:
  """What S samples of each of N problems say.

  correct      [N, S] 1.0 where a sample is right
  distinct     [N] different completions of a problem / S
  words, mask  [N, S, A] answers, from the first slot on
  confidence   [N, S] mean log-probability of each sample's tokens

  Returns eval/accuracy_sampled and its standard error over problems,
  eval/distinct, eval/pass@k for powers of two, what `selected` says, and how
  far the model is from being right as often as it is sure: eval/ece, where a
  sample's confidence is the geometric mean of its tokens' probabilities, and
  eval/ece_consistency, where it is the share of samples with the same answer.
  """
  # Problems are independent, the samples of one problem are not.
  spread = jnp.std(jnp.mean(correct, axis=1), ddof=1)
  metrics = {
    'eval/accuracy_sampled': jnp.mean(correct),
    'eval/accuracy_sampled_stderr': spread / correct.shape[0] ** 0.5,
    'eval/distinct': jnp.mean(distinct),
    'eval/ece': calibration.ece(jnp.exp(confidence), correct > 0.5),
  }
  if correct.shape[1] > 1:
    same = calibration.consistency(words, mask)
    metrics['eval/ece_consistency'] = calibration.ece(same, correct > 0.5)
  for k in _powers(correct.shape[1]):
    metrics[f'eval/pass@{k}'] = diagnostics.pass_at_k(correct > 0.5, k)
  return metrics | selected(words, mask, confidence, correct)


def selected(
  words: Array, mask: Array, confidence: Array, rewards: Array
) -> dict[str, Array]:
  """What choosing among k samples without a verifier is worth.

  words, mask   [N, S, A] answers, from the first slot on
  confidence    [N, S] mean log-probability of each sample's tokens
  rewards       [N, S]

  Returns eval/maj@k, of the answer that most of k samples give, and
  eval/best_of@k, of the sample the policy itself is surest of, for powers of
  two 2 <= k <= S.
  """
  metrics = {}
  for k in _powers(rewards.shape[1]):
    voted = select.majority_at_k(words, mask, rewards, k)
    best = select.best_of_k_expected(confidence, rewards, k)
    metrics[f'eval/maj@{k}'] = jnp.mean(voted)
    metrics[f'eval/best_of@{k}'] = jnp.mean(best)
  return metrics
