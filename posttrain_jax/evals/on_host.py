"""Evaluation where the verifier is Python: answers compiled, verdicts not."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import rollout
from posttrain_jax.core.types import Array, PyTree, Rollout
from posttrain_jax.data.text_task import TextTask, final_answer
from posttrain_jax.data.tokenizers import Tokenizer, ends
from posttrain_jax.evals import scores
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import beam, decoders, select
from posttrain_jax.rollout.guide import Guide

__all__ = ['HostEvaluator', 'completion_texts', 'named', 'verified']


def completion_texts(samples: Rollout, tokenizer: Tokenizer) -> list[str]:
  """Texts of [B, G, C] completions before their EOS, B * G of them."""
  length = samples.completion.shape[-1]
  rows = np.asarray(samples.completion).reshape(-1, length)
  sizes = np.asarray(samples.mask).sum(-1) - np.asarray(samples.finished)
  return [
    tokenizer.decode(row[: int(size)]) for row, size in zip(rows, sizes.ravel())
  ]


def verified(
  task: TextTask,
  tokenizer: Tokenizer,
  indices: np.ndarray,
  samples: Rollout,
  heldout: bool,
) -> tuple[np.ndarray, list[str]]:
  """(rewards [B, G], the B * G texts) of completions of problems `indices`."""
  group_size = samples.completion.shape[1]
  texts = completion_texts(samples, tokenizer)
  rewards = task.verify(np.repeat(indices, group_size), texts, heldout)
  return rewards.reshape(-1, group_size), texts


def named(prompts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A task's batch under the names of a rollout function's arguments."""
  return {
    'prompts': prompts['prompt'],
    'prompt_mask': prompts['prompt_mask'],
    'prompt_ids': prompts['prompt_id'],
  }


@dataclasses.dataclass(eq=False)
class HostEvaluator:
  """`evaluator(params, key) -> {name: number}` on held-out problems.

  The same problems at every call: the first `num_problems` of the held-out
  split. Metrics are those of `in_graph.Evaluator`, where an answer is correct
  if its reward is 1, and eval/reward, the mean of the greedy rewards (a task
  may score an answer between 0 and 1).

  samples         a problem at temperature 1, for pass@k; 0 = greedy only
  batch           problems at a time (memory)
  max_new_tokens  of a completion
  beams           of a beam search for each problem; 0 = none
  guide           steers all completions
  """

  model: ModelConfig
  task: TextTask
  tokenizer: Tokenizer
  num_problems: int
  samples: int
  batch: int
  max_new_tokens: int
  beams: int = 0
  guide: Guide | None = None

  def __post_init__(self):
    scores.check_sizes(self.num_problems, self.batch, self.beams)

  @functools.cached_property
  def _generate(self) -> Callable[..., Rollout]:
    def generate(params, prompts, prompt_mask, prompt_ids, key, size):
      return rollout.generate(
        params,
        self.model,
        prompts,
        prompt_mask,
        key,
        group_size=size or 1,
        max_new_tokens=self.max_new_tokens,
        decoder=decoders.sample if size else decoders.greedy,
        eos_id=ends(self.tokenizer),
        pad_id=self.tokenizer.pad_id,
        prompt_ids=prompt_ids,
        guide=self.guide,
      )

    return jax.jit(generate, static_argnames='size')

  @functools.cached_property
  def _search(self) -> Callable[..., Rollout]:
    def search(params, prompts, prompt_mask):
      found, ranks = beam.search(
        params,
        self.model,
        prompts,
        prompt_mask,
        beams=self.beams,
        max_new_tokens=self.max_new_tokens,
        eos_id=ends(self.tokenizer),
        pad_id=self.tokenizer.pad_id,
        guide=self.guide,
      )
      return select.best_of_n(found, ranks)

    return jax.jit(search)

  def _run(self, params: PyTree, key: Array, size: int, start: int):
    """(samples, rewards [B, G], texts) of one batch; `size` 0: greedy."""
    indices = start + np.arange(self.batch)
    prompts = self.task.batch(indices, heldout=True)
    samples = self._generate(
      params,
      **named(prompts),
      key=jax.random.fold_in(key, 1),
      size=size,
    )
    samples = jax.device_get(samples)
    return samples, *verified(self.task, self.tokenizer, indices, samples, True)

  def _beam(self, params: PyTree, start: int) -> np.ndarray:
    """Rewards [B] of the best beam of each problem of one batch."""
    indices = start + np.arange(self.batch)
    prompts = self.task.batch(indices, heldout=True)
    found = self._search(params, prompts['prompt'], prompts['prompt_mask'])
    found = jax.device_get(found)
    return verified(self.task, self.tokenizer, indices, found, True)[0][:, 0]

  def __call__(self, params: PyTree, key: Array) -> dict[str, float]:
    starts = range(0, self.num_problems, self.batch)
    rewards, lengths, finished = [], [], []
    for start in starts:
      samples, scored, _ = self._run(params, key, 0, start)
      rewards.append(scored[:, 0])
      lengths.append(samples.mask.sum(-1))
      finished.append(samples.finished)
    rewards = np.concatenate(rewards)
    metrics = scores.greedy(
      jnp.asarray(rewards >= 1.0, jnp.float32),
      jnp.asarray(np.concatenate(lengths)),
      jnp.asarray(np.concatenate(finished)),
    )
    metrics['eval/reward'] = np.mean(rewards)
    if self.beams:
      found = np.concatenate([self._beam(params, start) for start in starts])
      metrics['eval/accuracy_beam'] = np.mean(found >= 1.0)
    if self.samples:
      metrics |= self._sampled(params, key, starts)
    return {name: float(value) for name, value in metrics.items()}

  def _sampled(self, params: PyTree, key: Array, starts: range) -> dict:
    correct, distinct, answers, sure = [], [], [], []
    for start in starts:
      samples, rewards, texts = self._run(params, key, self.samples, start)
      correct.append(rewards >= 1.0)
      groups = np.reshape(np.array(texts, object), rewards.shape)
      distinct += [len(set(group)) / self.samples for group in groups]
      answers += [final_answer(text) for text in texts]
      sure.append(scores.confidence(samples))
    correct = jnp.asarray(np.concatenate(correct), jnp.float32)
    # One number for each different answer stands for it in the vote.
    names, words = np.unique(np.array(answers), return_inverse=True)
    words = jnp.asarray(words.reshape(*correct.shape, 1))
    said = jnp.asarray(names != '')[words]
    return scores.sampled(
      correct, jnp.asarray(distinct), words, said, jnp.concatenate(sure)
    )

  def transcripts(self, params: PyTree, key: Array, count: int) -> list[dict]:
    """Greedy completions of the first `count` <= `batch` problems, as text."""
    _, rewards, texts = self._run(params, key, 0, 0)
    return [
      {
        'prompt': self.task.problem(i, heldout=True)['prompt'],
        'completion': texts[i],
        'reward': float(rewards[i, 0]),
      }
      for i in range(min(count, self.batch))
    ]
