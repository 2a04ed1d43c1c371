"""Runs of host tasks: the compiled halves of an RL step around a Python
verifier, and the same for evaluation."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import diagnostics, evaluate, rollout, sharding
from posttrain_jax.data.tokenizers import Tokenizer
from posttrain_jax.drivers import run_key
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import beam, decoders, select
from posttrain_jax.rollout.guide import Guide
from posttrain_jax.tasks.text import TextTask, final_answer
from posttrain_jax.trainers import rl_rewards
from posttrain_jax.types import Array, PyTree, Rollout, TrainState

__all__ = ['HostEvaluator', 'HostRL', 'HostStep', 'completion_texts']


class HostStep(NamedTuple):
  """The halves of a step, from `rl.make_rollout` and `rl.make_learn`."""

  generate: Callable[..., Rollout]
  learn: Callable[..., tuple[TrainState, dict[str, Array]]]


def completion_texts(samples: Rollout, tokenizer: Tokenizer) -> list[str]:
  """Texts of [B, G, C] completions before their EOS, B * G of them."""
  length = samples.completion.shape[-1]
  rows = np.asarray(samples.completion).reshape(-1, length)
  sizes = np.asarray(samples.mask).sum(-1) - np.asarray(samples.finished)
  return [
    tokenizer.decode(row[: int(size)]) for row, size in zip(rows, sizes.ravel())
  ]


def _verified(
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


class HostRL:
  """RL on a host task: generate (compiled), verify (Python), learn (compiled).

  Step s trains on problems s * B .. s * B + B - 1, with the keys of the
  in-graph step: the state's step says all there is to resume.
  """

  def __init__(
    self,
    step: HostStep,
    task: TextTask,
    tokenizer: Tokenizer,
    seed: int,
    prompts_per_step: int,
  ):
    if jax.process_count() > 1:
      raise ValueError(
        f'tasks "text:NAME" run on one process, not {jax.process_count()}'
      )
    self._task, self._tokenizer = task, tokenizer
    self._seed, self._size = seed, prompts_per_step

    def generate(params, prompts, prompt_mask, prompt_ids, key):
      prompts, prompt_mask, prompt_ids = sharding.rows(
        (prompts, prompt_mask, prompt_ids)
      )
      return sharding.rows(
        step.generate(params, prompts, prompt_mask, prompt_ids, key)
      )

    self._generate = jax.jit(generate)

    def learn(state, prompts, prompt_mask, samples, rewards, key):
      state, metrics = step.learn(
        state, prompts, prompt_mask, samples, rewards, key
      )
      return state, metrics | rl_rewards.spent([samples])

    self._learn = jax.jit(learn, donate_argnums=0)

  def advance(self, state: TrainState, first_step: int, count: int):
    """One step; `count` is at least that."""
    del count
    key = jax.random.fold_in(run_key(self._seed), first_step)
    _, sample_key, update_key = jax.random.split(key, 3)
    indices = first_step * self._size + np.arange(self._size)
    counts = dict(self._task.counts)
    prompts = self._task.batch(indices)
    samples = self._generate(state.params, **_named(prompts), key=sample_key)
    jax.block_until_ready(samples)
    began = time.monotonic()
    rewards, _ = _verified(self._task, self._tokenizer, indices, samples, False)
    seconds = time.monotonic() - began
    state, metrics = self._learn(
      state,
      prompts['prompt'],
      prompts['prompt_mask'],
      samples,
      rewards,
      update_key,
    )
    metrics = {name: x[None] for name, x in metrics.items()}
    metrics['time/verify'] = np.array([seconds])
    for name, now in self._task.counts.items():
      metrics[f'host/{name}'] = np.array([float(now - counts[name])])
    return state, metrics, 1

  def position(self) -> dict:
    return {}

  def seek(self, position: dict) -> None:
    del position


def _named(prompts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A task's batch under the names of `rl.make_rollout`'s arguments."""
  return {
    'prompts': prompts['prompt'],
    'prompt_mask': prompts['prompt_mask'],
    'prompt_ids': prompts['prompt_id'],
  }


@dataclasses.dataclass(eq=False)
class HostEvaluator:
  """`evaluator(params, key) -> {name: number}` on held-out problems.

  The same problems at every call: the first `num_problems` of the held-out
  split. Metrics are those of `evaluate.Evaluator`, where an answer is correct
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
    if self.beams < 0:
      raise ValueError(f'eval.beams={self.beams} is negative; 0 = none')
    if self.num_problems < 1 or self.num_problems % self.batch:
      near = max(1, round(self.num_problems / self.batch)) * self.batch
      raise ValueError(
        f'eval.num_problems={self.num_problems} is no multiple of '
        f'eval.batch={self.batch}; nearest valid: {near}'
      )

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
        eos_id=self.tokenizer.eos_id,
        pad_id=self.tokenizer.pad_id,
        prompt_ids=prompt_ids,
        guide=self.guide,
      )

    return jax.jit(generate, static_argnames='size')

  @functools.cached_property
  def _search(self) -> Callable[..., Rollout]:
    def search(params, prompts, prompt_mask):
      found, scores = beam.search(
        params,
        self.model,
        prompts,
        prompt_mask,
        beams=self.beams,
        max_new_tokens=self.max_new_tokens,
        eos_id=self.tokenizer.eos_id,
        pad_id=self.tokenizer.pad_id,
        guide=self.guide,
      )
      return select.best_of_n(found, scores)

    return jax.jit(search)

  def _run(self, params: PyTree, key: Array, size: int, start: int):
    """(samples, rewards [B, G], texts) of one batch; `size` 0: greedy."""
    indices = start + np.arange(self.batch)
    prompts = self.task.batch(indices, heldout=True)
    samples = self._generate(
      params,
      **_named(prompts),
      key=jax.random.fold_in(key, 1),
      size=size,
    )
    samples = jax.device_get(samples)
    return samples, *_verified(
      self.task, self.tokenizer, indices, samples, True
    )

  def _beam(self, params: PyTree, start: int) -> np.ndarray:
    """Rewards [B] of the best beam of each problem of one batch."""
    indices = start + np.arange(self.batch)
    prompts = self.task.batch(indices, heldout=True)
    found = self._search(params, prompts['prompt'], prompts['prompt_mask'])
    found = jax.device_get(found)
    return _verified(self.task, self.tokenizer, indices, found, True)[0][:, 0]

  def __call__(self, params: PyTree, key: Array) -> dict[str, float]:
    starts = range(0, self.num_problems, self.batch)
    rewards, lengths, finished = [], [], []
    for start in starts:
      samples, scored, _ = self._run(params, key, 0, start)
      rewards.append(scored[:, 0])
      lengths.append(samples.mask.sum(-1))
      finished.append(samples.finished)
    rewards = np.concatenate(rewards)
    metrics = {
      'eval/accuracy': np.mean(rewards >= 1.0),
      'eval/reward': np.mean(rewards),
      'eval/length': np.mean(lengths),
      'eval/truncated': 1.0 - np.mean(finished),
    }
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
      sure.append(evaluate.confidence(samples))
    correct = jnp.asarray(np.concatenate(correct), jnp.float32)
    # Problems are independent, the samples of one problem are not.
    spread = jnp.std(correct.mean(axis=1), ddof=1)
    metrics = {
      'eval/accuracy_sampled': correct.mean(),
      'eval/accuracy_sampled_stderr': spread / self.num_problems**0.5,
      'eval/distinct': np.mean(distinct),
    }
    k = 2
    while k <= self.samples:
      metrics[f'eval/pass@{k}'] = diagnostics.pass_at_k(correct, k)
      k *= 2
    # One number for each different answer stands for it in the vote.
    names, words = np.unique(np.array(answers), return_inverse=True)
    words = jnp.asarray(words.reshape(*correct.shape, 1))
    said = jnp.asarray(names != '')[words]
    return metrics | evaluate.selected(
      words, said, jnp.concatenate(sure), correct
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
