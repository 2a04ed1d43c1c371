"""Evaluation in-graph: greedy accuracy, pass@k, votes, beams, divergence."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Example, PyTree, Rollout
from posttrain_jax.evals import scores
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import beam, decoders, environments, select
from posttrain_jax.rollout.guide import Guide
from posttrain_jax.tasks import base, split, vocab
from posttrain_jax.tasks.vocab import Text

__all__ = [
  'Evaluator',
  'HeldOut',
  'answers',
  'divergence',
  'generate_and_verify',
  'problems',
]

MARKER = '>'  # between a chain of thought and the answer


def problems(
  task: Any, key: Array, count: int, heldout_fraction: float, part: str = ''
) -> Example:
  """The `count` problems that `key` stands for: held-out ones, where there is a
  split.

  part  'test' or 'validation': halves without a common problem; '' = both
  """
  return split.sample_batch(
    task,
    jax.random.fold_in(key, 0),
    count,
    heldout=heldout_fraction > 0,
    fraction=heldout_fraction,
    part=part,
  )


def generate_and_verify(
  params: PyTree,
  model: ModelConfig,
  task: Any,
  examples: Any,
  key: Array,
  *,
  group_size: int,
  decoder: Callable,
  max_new_tokens: int = 0,
  guide: Guide | None = None,
):
  """(rollout, rewards [B, G]) of completions of a batch of problems.

  guide  steers them besides the task's environment
  """
  samples = rollout.generate(
    params,
    model,
    examples.prompt,
    examples.prompt_mask,
    key,
    group_size=group_size,
    max_new_tokens=max_new_tokens or task.completion_length,
    decoder=decoder,
    eos_id=vocab.EOS,
    pad_id=vocab.PAD,
    prompt_ids=examples.prompt_id,
    **environments.steering(task, examples, group_size, guide),
  )
  return samples, _verify(task, examples, samples)


def _verify(task: Any, examples: Any, samples: Rollout) -> Array:
  """Rewards [B, G] of completions."""
  verify = jax.vmap(jax.vmap(task.verify, (None, 0, 0)), (0, 0, 0))
  return verify(examples, samples.completion, samples.mask)['reward']


def answers(task: Any, samples: Rollout) -> Text:
  """What each completion finally answers: tokens [B, G, C], length [B, G].

  A task says it with `task.answer(completion [C], mask [C]) -> Text`; of others
  it is the text after the last '>'.
  """
  answer = getattr(task, 'answer', None) or (
    lambda completion, mask: base.final_text(completion, mask, MARKER)
  )
  return jax.vmap(jax.vmap(answer))(samples.completion, samples.mask)


class HeldOut:
  """What looks at `num_problems` held-out problems of `task`, of their half
  `part`: dataclasses with these fields know which ones they are."""

  task: Any
  num_problems: int
  heldout_fraction: float
  part: str

  def problems(self, key: Array) -> Example:
    """The problems [num_problems, ...] that `key` stands for."""
    return problems(
      self.task, key, self.num_problems, self.heldout_fraction, self.part
    )


@dataclasses.dataclass(frozen=True)
class Evaluator(HeldOut):
  """`evaluator(params, key) -> {name: scalar}` on held-out problems, jit-able.

  num_problems  problems, drawn from `key`
  samples       samples a problem, for pass@k; 0 = greedy only
  batch         problems at a time (memory)
  part          of the held-out problems, as in `problems`
  beams         of a beam search for each problem; 0 = none
  guide         steers all completions besides the task's environment
  temperature, top_p  of the samples

  Metrics: eval/accuracy (greedy), eval/length, eval/truncated; with beams
  eval/accuracy_beam, of the best one; and with samples eval/accuracy_sampled
  (and its standard error over problems), eval/distinct (different completions a
  problem / samples), eval/pass@k, eval/maj@k and eval/best_of@k (`selected`)
  for powers of two k <= samples, eval/ece (`scores.sampled`).
  """

  model: ModelConfig
  task: Any
  num_problems: int
  samples: int
  batch: int
  heldout_fraction: float
  beams: int = 0
  guide: Guide | None = None
  part: str = ''
  temperature: float = 1.0
  top_p: float = 1.0

  def __post_init__(self):
    scores.check_sizes(self.num_problems, self.batch, self.beams)
    if self.beams and environments.of(self.task) is not None:
      raise ValueError(
        f'eval.beams={self.beams}: a task in turns has no beam search; '
        'nearest valid: 0'
      )

  def _batches(self, examples):
    parts = self.num_problems // self.batch
    return jax.tree.map(
      lambda x: x.reshape(parts, self.batch, *x.shape[1:]), examples
    )

  def __call__(self, params: PyTree, key: Array) -> dict[str, Array]:
    examples = self._batches(self.problems(key))

    def one(part):
      samples, rewards = self._run(params, part, key, 1, decoders.greedy)
      return rewards[:, 0], samples.mask.sum(-1)[:, 0], samples.finished[:, 0]

    correct, length, finished = jax.lax.map(one, examples)
    metrics = scores.greedy(correct, length, finished)
    if self.beams:
      found = jax.lax.map(lambda part: self._beam(params, part), examples)
      metrics['eval/accuracy_beam'] = jnp.mean(found)
    if self.samples:
      metrics |= self._sampled(params, key, examples)
    return metrics

  def _run(self, params, part, key, size, decoder):
    return generate_and_verify(
      params,
      self.model,
      self.task,
      part,
      jax.random.fold_in(key, 1),
      group_size=size,
      decoder=decoder,
      guide=self.guide,
    )

  def _beam(self, params: PyTree, part: Any) -> Array:
    """Rewards [B] of the best beam of each problem."""
    found, ranks = beam.search(
      params,
      self.model,
      part.prompt,
      part.prompt_mask,
      beams=self.beams,
      max_new_tokens=self.task.completion_length,
      eos_id=vocab.EOS,
      pad_id=vocab.PAD,
      guide=self.guide,
    )
    return _verify(self.task, part, select.best_of_n(found, ranks))[:, 0]

  def _sampled(self, params: PyTree, key: Array, examples: Any) -> dict:
    def many(part):
      samples, rewards = self._run(
        params, part, key, self.samples,
        scores.drawing(self.temperature, self.top_p),
      )  # fmt: skip
      words = jax.vmap(jax.vmap(split.fingerprint))(samples.completion)
      ordered = jnp.sort(words, axis=1)
      fresh = 1 + jnp.sum(ordered[:, 1:] != ordered[:, :-1], axis=1)
      said = answers(self.task, samples)
      sure = scores.confidence(samples)
      return rewards, fresh / self.samples, said.tokens, said.mask, sure

    found = jax.lax.map(many, examples)
    rewards, distinct, words, mask, sure = jax.tree.map(
      lambda x: x.reshape(self.num_problems, *x.shape[2:]), found
    )
    return scores.sampled(rewards, distinct, words, mask, sure)

  def transcripts(self, params: PyTree, key: Array, count: int) -> list[dict]:
    """Greedy completions of the first `count` problems, as text (host)."""
    examples, samples, rewards = _first(self, count)(params, key)
    return [
      {
        'prompt': vocab.decode(examples.prompt[i], examples.prompt_mask[i]),
        'completion': vocab.decode(
          samples.completion[i, 0], samples.mask[i, 0]
        ),
        'reward': float(rewards[i, 0]),
      }
      for i in range(count)
    ]


@functools.cache
def _first(evaluator: Evaluator, count: int) -> Callable:
  """Greedy completions of the first problems; one program for all models."""

  def run(params, key):
    examples = jax.tree.map(lambda x: x[:count], evaluator.problems(key))
    samples, rewards = generate_and_verify(
      params,
      evaluator.model,
      evaluator.task,
      examples,
      jax.random.fold_in(key, 1),
      group_size=1,
      decoder=decoders.greedy,
      guide=evaluator.guide,
    )
    return examples, samples, rewards

  return jax.jit(run)


def divergence(
  params: PyTree,
  base_params: PyTree,
  evaluator: Evaluator,
  key: Array,
) -> Array:
  """KL(policy || base) per token, in nats, on the policy's own completions.

  The full-vocabulary KL at every position of one sample a problem: exact given
  the prefix, so its variance is that of the prefixes alone.
  """
  examples = evaluator._batches(evaluator.problems(key))

  def one(part):
    samples, _ = generate_and_verify(
      params,
      evaluator.model,
      evaluator.task,
      part,
      jax.random.fold_in(key, 2),
      group_size=1,
      decoder=decoders.sample,
      guide=evaluator.guide,
    )
    batch = rollout.assemble_groups(part.prompt, part.prompt_mask, samples)
    log_probs = lambda p: jax.nn.log_softmax(
      transformer.token_logps(
        p,
        evaluator.model,
        batch.tokens,
        batch.mask,
        segment_ids=batch.segment_ids,
        positions=batch.positions,
        logits=True,
      ).logits
    )
    ours, theirs = log_probs(params), log_probs(base_params)
    kl = jnp.sum(jnp.exp(ours) * (ours - theirs), axis=-1)
    return masked.sum(kl, batch.mask), jnp.sum(batch.mask)

  total, count = jax.lax.map(one, examples)
  return total.sum() / jnp.maximum(count.sum(), 1.0)
