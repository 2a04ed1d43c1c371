"""Everything about one model on one task, in one program: `Probe`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import diagnostics, rollout
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, PyTree, Rollout
from posttrain_jax.evals import in_graph, scores
from posttrain_jax.evals.measures import calibration, divergences, diversity
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders

__all__ = ['DEFAULT', 'MEASURES', 'Probe']

DEFAULT = (
  'accuracy',
  'accuracy_greedy',
  'pass@k',
  'entropy',
  'kl_reverse',
  'kl_forward',
  'distinct',
  'distinct_solutions',
  'self_bleu',
  'ece',
  'length',
  'truncated',
)
MEASURES = (
  *DEFAULT,
  'brier',
  'ead',
  'self_bleu_across',
  'solutions',
  'total_variation',
)
CONFIDENCES = ('likelihood', 'consistency')

# What a measure is made of, besides `rewards`.
_OF_BASE = {'kl_reverse', 'kl_forward', 'total_variation'}
_OF_TOKENS = {'entropy', 'kl_reverse', 'total_variation'}
_OF_CONFIDENCE = {'ece', 'brier'}
_OF_SOLUTIONS = {'solutions', 'distinct_solutions'}


@dataclasses.dataclass(frozen=True)
class Probe:
  """`probe(params, base_params, key) -> {name: scalar}`, jit- and vmap-able.

  model             of both
  task              an in-graph task (`posttrain_jax.tasks`)
  num_problems      problems, drawn from `key` as `in_graph.Evaluator` does
  samples           samples S of each problem
  batch             problems at a time (memory)
  heldout_fraction  share of problems that training leaves out; 0 = no split
  temperature       of the sampling and of all that is said of tokens
  measures          names of `MEASURES`; what is not asked for is not computed
  confidence        'likelihood' or 'consistency' (`measures.calibration`)
  part              'test' or 'validation': halves of the held-out problems that
                    have none in common; '' = both
  by_problem        also 'accuracy/problems' and 'accuracy_greedy/problems', [N]
                    arrays, where these measures are asked for

  Of the samples (of texts: the tokens that the policy chose):
    accuracy, pass@k (k = 2, 4, ... <= S), length (tokens), truncated (share
    without an end); distinct (different completions / S), solutions (different
    correct completions a problem), distinct_solutions (their share of the
    correct ones; nan where nothing is correct), self_bleu, self_bleu_across
    (between problems), ead; ece (15 bins), brier
  Of the policy's tokens, on its samples, exact over the vocabulary:
    entropy, kl_reverse = KL(policy || base), total_variation
  kl_forward = KL(base || policy) on one sample of the base for each problem;
  accuracy_greedy.

  Arms that get one key get the same problems, and the same randomness for each
  sample. `base_params` may be None where no measure asks for it.

  Raises:
    ValueError: an unknown measure or confidence, a number of problems that is
      no multiple of the batch, too few samples for a measure.
  """

  model: ModelConfig
  task: Any
  num_problems: int
  samples: int
  batch: int
  heldout_fraction: float
  temperature: float = 1.0
  measures: tuple[str, ...] = DEFAULT
  confidence: str = 'likelihood'
  part: str = ''
  by_problem: bool = False

  def __post_init__(self):
    for name in self.measures:
      if name not in MEASURES:
        raise ValueError(f'no measure "{name}".' + nearest(name, MEASURES))
    if self.confidence not in CONFIDENCES:
      raise ValueError(
        f'no confidence "{self.confidence}".'
        + nearest(self.confidence, CONFIDENCES)
      )
    if not self.temperature > 0:
      raise ValueError(
        f'temperature={self.temperature} is not above 0; for the most likely '
        'tokens ask for accuracy_greedy'
      )
    least = 2 if 'self_bleu' in self.measures else 1
    if self.samples < least:
      raise ValueError(
        f'samples={self.samples} is too few for {", ".join(self.measures)}; '
        f'nearest valid: {least}'
      )
    if 'self_bleu_across' in self.measures and self.num_problems < 2:
      raise ValueError(
        f'num_problems={self.num_problems} are too few for self_bleu_across; '
        'nearest valid: 2'
      )
    _ = self._evaluator  # which checks problems and batch

  @property
  def _evaluator(self) -> 'in_graph.Evaluator':  # may be half imported
    return in_graph.Evaluator(
      model=self.model,
      task=self.task,
      num_problems=self.num_problems,
      samples=self.samples,
      batch=self.batch,
      heldout_fraction=self.heldout_fraction,
      part=self.part,
    )

  def problems(self, key: Array):
    """The problems [num_problems, ...] that `key` stands for."""
    return self._evaluator.problems(key)

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    asked = set(self.measures)
    if base_params is None and asked & _OF_BASE:
      raise ValueError(
        f'base_params is None, but {", ".join(sorted(asked & _OF_BASE))} '
        'compare with the base'
      )
    parts = jax.tree.map(
      lambda x: x.reshape(-1, self.batch, *x.shape[1:]),
      self.problems(key),
    )
    one = lambda part: self._of_batch(params, base_params, part, key)
    found = jax.lax.map(one, parts)
    # `totals` are of batches, all else is of problems.
    totals = jax.tree.map(lambda x: jnp.sum(x, axis=0), found.pop('totals'))
    found = jax.tree.map(
      lambda x: x.reshape(self.num_problems, *x.shape[2:]), found
    )
    metrics = self._scalars(found) | {
      name: total / jnp.maximum(count, 1.0)
      for name, (total, count) in totals.items()
    }
    return metrics | (self._outcomes(found) if self.by_problem else {})

  def _of_batch(
    self, params: PyTree, base_params: PyTree | None, part: Any, key: Array
  ) -> dict[str, Any]:
    """Arrays [batch, ...] by name, and `totals` {name: (sum, count)}."""
    asked = set(self.measures)
    found: dict[str, Any] = {'totals': {}}
    if asked - {'accuracy_greedy', 'kl_forward'}:
      found |= self._of_samples(params, base_params, part, key)
    if 'accuracy_greedy' in asked:
      greedy = decoders.greedy
      _, rewards = self._draw(params, part, key, 1, 1, greedy)
      found['accuracy_greedy'] = rewards[:, 0]
    if 'kl_forward' in asked:
      theirs, _ = self._draw(base_params, part, key, 2, 1)
      sums, count = self._compare(base_params, params, part, theirs)
      found['totals']['kl_forward'] = sums['kl'], count
    return found

  def _of_samples(self, params, base_params, part, key) -> dict[str, Any]:
    """What is said of the policy's own samples."""
    asked = set(self.measures)
    samples, rewards = self._draw(params, part, key, 1, self.samples)
    text = samples.completion, _chosen(samples)
    found = {'rewards': rewards, 'totals': {}}
    if 'length' in asked:
      found['length'] = jnp.sum(samples.mask, axis=-1)
    if 'truncated' in asked:
      found['truncated'] = 1.0 - samples.finished
    if 'distinct' in asked:
      found['distinct'] = diversity.distinct(*text)
    if asked & _OF_SOLUTIONS:
      found['solutions'] = diversity.distinct_correct(*text, rewards > 0.5)
    if 'self_bleu' in asked:
      found['self_bleu'] = diversity.self_bleu(*text)
    if 'self_bleu_across' in asked:
      found['text'] = text
    if 'ead' in asked:
      found['ead'] = diversity.expectation_adjusted_distinct(
        *text, self.model.vocab_size
      )
    if asked & _OF_CONFIDENCE:
      found['confidence'] = self._confidence(samples)
    if asked & (_OF_TOKENS & _OF_BASE):
      sums, count = self._compare(params, base_params, part, samples)
      sums['kl_reverse'] = sums.pop('kl')
      found['totals'] = {
        name: (x, count) for name, x in sums.items() if name in asked
      }
    elif 'entropy' in asked:
      found['totals']['entropy'] = self._entropy(params, part, samples)
    return found

  def _draw(self, params, part, key, fold, size, decoder=None):
    draw = functools.partial(decoders.sample, temperature=self.temperature)
    return in_graph.generate_and_verify(
      params,
      self.model,
      self.task,
      part,
      # As the Evaluator does: the same key gives the same completions.
      jax.random.fold_in(key, fold),
      group_size=size,
      decoder=decoder or draw,
    )

  def _compare(self, params, other, part, samples: Rollout):
    return divergences.compare(
      params,
      other,
      self.model,
      part.prompt,
      part.prompt_mask,
      samples,
      self.temperature,
    )

  def _entropy(self, params, part, samples: Rollout) -> tuple[Array, Array]:
    """(sum, count) over tokens; without the base, and without its logits."""
    rows = rollout.assemble_groups(part.prompt, part.prompt_mask, samples)
    signals = transformer.token_logps(
      params,
      self.model,
      rows.tokens,
      rows.mask,
      self.temperature,
      segment_ids=rows.segment_ids,
      positions=rows.positions,
      entropy=True,
    )
    return jnp.sum(signals.entropy * rows.mask), jnp.sum(rows.mask)

  def _confidence(self, samples: Rollout) -> Array:
    if self.confidence == 'likelihood':
      return jnp.exp(scores.confidence(samples))
    said = in_graph.answers(self.task, samples)
    return calibration.consistency(said.tokens, said.mask)

  def _outcomes(self, found: dict[str, Any]) -> dict[str, Array]:
    """What the accuracies are means of, [num_problems]."""
    made = {}
    if 'accuracy' in self.measures:
      made['accuracy/problems'] = jnp.mean(found['rewards'], axis=-1)
    if 'accuracy_greedy' in self.measures:
      made['accuracy_greedy/problems'] = found['accuracy_greedy']
    return made

  def _scalars(self, found: dict[str, Any]) -> dict[str, Array]:
    """Metrics of arrays [num_problems, ...]."""
    asked = set(self.measures)
    plain = (
      'accuracy_greedy', 'length', 'truncated', 'distinct', 'self_bleu', 'ead',
      'solutions',
    )  # fmt: skip
    metrics = {
      name: jnp.mean(found[name])
      for name in plain
      if name in asked and name in found
    }
    if 'accuracy' in asked:
      metrics['accuracy'] = jnp.mean(found['rewards'])
    if 'pass@k' in asked:
      for k in (2**i for i in range(1, self.samples.bit_length())):
        metrics[f'pass@{k}'] = diagnostics.pass_at_k(found['rewards'] > 0.5, k)
    if 'distinct_solutions' in asked:
      metrics['distinct_solutions'] = diversity.solution_share(
        found['solutions'], found['rewards'] > 0.5
      )
    if 'self_bleu_across' in asked:
      # One group of all problems at a time.
      groups = diversity.across_inputs(*found['text'])
      one = lambda pair: diversity.self_bleu(*(x[None] for x in pair))[0]
      metrics['self_bleu_across'] = jnp.mean(jax.lax.map(one, groups))
    for name in asked & _OF_CONFIDENCE:
      measure = getattr(calibration, name)
      metrics[name] = measure(found['confidence'], found['rewards'] > 0.5)
    return metrics


def _chosen(samples: Rollout) -> Array:
  """[B, G, C] 1.0 on tokens of the policy: what an environment says is always
  alike, and no diversity of the policy's."""
  if samples.given is None:
    return samples.mask
  return samples.mask * (1.0 - samples.given)
