"""Evaluation where the verifier is Python: answers compiled, verdicts not."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import rollout
from posttrain_jax.core import hosts, sharding
from posttrain_jax.core.types import Array, Judged, PyTree, Rollout
from posttrain_jax.data.host_task import (
  Answers,
  HostTask,
  shown_prompt,
)
from posttrain_jax.data.tokenizers import Tokenizer, ends
from posttrain_jax.evals import scores
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import beam, decoders, select
from posttrain_jax.rollout.guide import Guide

__all__ = ['HostEvaluator', 'answers_of', 'judged', 'judged_by_all', 'named',
           'texts_of']  # fmt: skip


def _rows(samples: Rollout) -> list[tuple[np.ndarray, bool]]:
  """(tokens with the stop token, whether there is one) of B * G completions."""
  length = samples.completion.shape[-1]
  rows = np.asarray(samples.completion).reshape(-1, length)
  sizes = np.asarray(samples.mask).sum(-1).astype(int).ravel()
  ended = np.asarray(samples.finished).ravel() > 0
  return [
    (row[:size], bool(stop)) for row, size, stop in zip(rows, sizes, ended)
  ]


def answers_of(samples: Rollout, tokenizer: Tokenizer) -> Answers:
  """Completions [B, G, C] as those who judge them see them."""
  size, rows = samples.completion.shape[1], _rows(samples)
  grouped = lambda flat: [
    flat[i : i + size] for i in range(0, len(flat), size)
  ]  # fmt: skip
  return Answers(
    grouped([tokenizer.decode(ids[: len(ids) - stop]) for ids, stop in rows]),
    grouped([ids for ids, _ in rows]),
    np.asarray(samples.finished, np.float32),
  )


def judged(
  task: HostTask,
  tokenizer: Tokenizer,
  indices: np.ndarray,
  samples: Rollout,
  heldout: bool,
  given: Mapping[str, np.ndarray] | None = None,
) -> tuple[Judged, list[str]]:
  """(what completions of problems `indices` earn, their B * G texts).

  given  {label: [B, G]} of rewards that models give
  """
  answers = answers_of(samples, tokenizer)
  verdict = task.judged(indices, answers, heldout, given)
  return verdict, [text for group in answers.texts for text in group]


def judged_by_all(
  task: HostTask,
  tokenizer: Tokenizer,
  indices: np.ndarray,
  numbers: np.ndarray,
  samples: Rollout,
  heldout: bool,
  given: Mapping[str, np.ndarray] | None = None,
) -> tuple[Judged, list[str]]:
  """What the completions of all problems earn, of which this process judges
  some; and the texts of these. Every process has to call it.

  indices  [B] of all problems
  numbers  which of them are this process's (`hosts.own`)
  samples  [len(numbers), G, C] of these; `given` alike

  Raises:
    hosts.Elsewhere: another process could not judge its own; and what this one
      raises, it raises once the others know.
  """
  count, error, found, texts = len(indices), None, None, []
  if not hosts.several():
    return judged(task, tokenizer, indices, samples, heldout, given)
  if len(numbers):
    try:
      found, texts = judged(
        task, tokenizer, indices[numbers], samples, heldout, given
      )
    except Exception as caught:
      error = caught
  # One without problems of its own learns from the others what is judged.
  said = hosts.said(
    json.dumps({
      'error': '' if error is None else str(error) or type(error).__name__,
      'labels': None if found is None else list(found.scores),
      'size': 0 if found is None else int(found.rewards.shape[1]),
    })
  )  # fmt: skip
  told = [json.loads(text) for text in said]
  if error is not None:
    raise error
  for process, one in enumerate(told):
    if one['error']:
      raise hosts.Elsewhere(f'process {process}: {one["error"]}')
  labels = next(one['labels'] for one in told if one['labels'] is not None)
  size = max(one['size'] for one in told)
  tables = np.zeros((0, 3 + len(labels), size), np.float32)
  if found is not None:
    scores = [found.scores[label] for label in labels]
    tables = np.stack(
      [found.rewards, found.correct, found.unscored, *scores], axis=1
    ).astype(np.float32)
  tables = hosts.merged(tables, numbers, count)
  rewards, correct, unscored, *scores = np.moveaxis(tables, 1, 0)
  return Judged(rewards, correct, unscored, dict(zip(labels, scores))), texts


def texts_of(texts: list[str], numbers: np.ndarray, count: int) -> list[str]:
  """The texts of all `count` problems, each in its place; of `judged_by_all`.
  Every process has to call it."""
  if not hosts.several() or not count:
    return texts
  size = len(texts) // max(len(numbers), 1)
  own = {int(n): texts[i * size :][:size] for i, n in enumerate(numbers)}
  found: dict[int, list[str]] = {}
  for said in hosts.said(json.dumps(own)):
    found |= {int(n): group for n, group in json.loads(said).items()}
  return [text for n in range(count) for text in found[n]]


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
  if its verdict is 1, and eval/reward, the mean of the greedy rewards (a task
  may score an answer between 0 and 1); with rewards of several entries, also
  eval/rewards/LABEL, the mean of each, over the answers that it applies to.
  With any, also eval/rewards/LABEL/none, the share of the other greedy answers,
  and eval/rewards/unscored, the number of answers, samples too, that none
  applies to. Reward models are left out: an evaluator has the policy alone.

  samples         a problem, for pass@k; 0 = greedy only
  batch           problems at a time (memory)
  max_new_tokens  of a completion
  beams           of a beam search for each problem; 0 = none
  guide           steers all completions
  temperature, top_p  of the samples
  """

  model: ModelConfig
  task: HostTask
  tokenizer: Tokenizer
  num_problems: int
  samples: int
  batch: int
  max_new_tokens: int
  beams: int = 0
  guide: Guide | None = None
  temperature: float = 1.0
  top_p: float = 1.0

  def __post_init__(self):
    # The last batch may be a part of one.
    scores.check_sizes(self.batch, self.batch, self.beams)
    if self.task.num_heldout is not None:
      self.num_problems = min(self.num_problems, self.task.num_heldout)

  @functools.cached_property
  def _generate(self) -> Callable[..., Rollout]:
    drawn = scores.drawing(self.temperature, self.top_p)

    def generate(params, prompts, prompt_mask, prompt_ids, key, size):
      prompts, prompt_mask, prompt_ids = sharding.rows(
        (prompts, prompt_mask, prompt_ids)
      )
      return rollout.generate(
        params,
        self.model,
        prompts,
        prompt_mask,
        key,
        group_size=size or 1,
        max_new_tokens=self.max_new_tokens,
        decoder=drawn if size else decoders.greedy,
        eos_id=ends(self.tokenizer),
        pad_id=self.tokenizer.pad_id,
        prompt_ids=prompt_ids,
        guide=self.guide,
      )

    return jax.jit(generate, static_argnames='size')

  @functools.cached_property
  def _search(self) -> Callable[..., Rollout]:
    def search(params, prompts, prompt_mask):
      prompts, prompt_mask = sharding.rows((prompts, prompt_mask))
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

  def _indices(self, start: int) -> tuple[np.ndarray, int]:
    """(problems of a batch, how many of them are not a repetition)."""
    last = self.num_problems - 1
    indices = np.minimum(start + np.arange(self.batch), last)
    return indices, min(self.batch, self.num_problems - start)

  def _run(self, params: PyTree, key: Array, size: int, start: int):
    """(samples, what they earn, their texts) of a batch; `size` 0: greedy."""
    indices, count = self._indices(start)
    prompts = self.task.batch(indices, heldout=True)
    samples = self._generate(
      params,
      **named(prompts),
      key=jax.random.fold_in(key, 1),
      size=size,
    )
    samples = jax.tree.map(lambda x: x[:count], hosts.whole(samples))
    return samples, *self._judged(indices[:count], samples)

  def _judged(
    self, indices: np.ndarray, samples: Rollout
  ) -> tuple[Judged, list[str]]:
    """The verdicts and texts of all; the processes of a run share the work."""
    count = len(indices)
    mine = np.arange(jax.process_index(), count, jax.process_count())
    verdict, texts = judged_by_all(
      self.task,
      self.tokenizer,
      indices,
      mine,
      jax.tree.map(lambda x: x[mine], samples),
      True,
    )
    return verdict, texts_of(texts, mine, count)

  def _beam(self, params: PyTree, start: int) -> np.ndarray:
    """[B] 1.0 where the best beam of a problem of one batch is right."""
    indices, count = self._indices(start)
    prompts = self.task.batch(indices, heldout=True)
    found = self._search(params, prompts['prompt'], prompts['prompt_mask'])
    found = jax.tree.map(lambda x: x[:count], hosts.whole(found))
    return self._judged(indices[:count], found)[0].correct[:, 0]

  def __call__(self, params: PyTree, key: Array) -> dict[str, float]:
    starts = range(0, self.num_problems, self.batch)
    verdicts, lengths, finished = [], [], []
    for start in starts:
      samples, verdict, _ = self._run(params, key, 0, start)
      verdicts.append(verdict)
      lengths.append(samples.mask.sum(-1))
      finished.append(samples.finished)
    correct = np.concatenate([x.correct[:, 0] for x in verdicts])
    metrics = scores.greedy(
      jnp.asarray(correct, jnp.float32),
      jnp.asarray(np.concatenate(lengths)),
      jnp.asarray(np.concatenate(finished)),
    )
    metrics['eval/reward'] = np.mean(
      np.concatenate([x.rewards for x in verdicts])
    )
    metrics |= _entries(verdicts, self._labels())
    unscored = sum(x.unscored.sum() for x in verdicts)
    if self.beams:
      right = np.concatenate([self._beam(params, start) for start in starts])
      metrics['eval/accuracy_beam'] = np.mean(right)
    if self.samples:
      found, more = self._sampled(params, key, starts)
      metrics |= found
      unscored += more
    if self._labels():
      metrics['eval/rewards/unscored'] = unscored
    return {name: float(value) for name, value in metrics.items()}

  def _labels(self) -> list[str]:
    """Of the rewards that judge the task's answers, without models."""
    judge = getattr(self.task, 'judge', None)
    entries = [] if judge is None else judge.entries
    return [e.label for e in entries if e.kind != 'model']

  def names(self) -> set[str]:
    """The metrics of a call; nothing is drawn or judged."""
    flat = jnp.zeros(2)
    found = set(jax.eval_shape(scores.greedy, flat, flat, flat))
    found |= {'eval/reward'}
    if labels := self._labels():
      found |= {f'eval/rewards/{x}{end}' for x in labels
                for end in ('', '/none')}  # fmt: skip
      found.add('eval/rewards/unscored')
    if self.beams:
      found.add('eval/accuracy_beam')
    if self.samples:
      table = jnp.zeros((2, self.samples))
      words = jnp.zeros((2, self.samples, 1), jnp.int32)
      found |= set(
        jax.eval_shape(scores.sampled, table, flat, words, words > 0, table)
      )
      found.add('eval/reward_sampled')
    return found

  def _sampled(
    self, params: PyTree, key: Array, starts: range
  ) -> tuple[dict, float]:
    """(metrics of samples, how many of them no reward applies to)."""
    correct, distinct, answers, sure, rewards = [], [], [], [], []
    unscored = 0.0
    for start in starts:
      samples, verdict, texts = self._run(params, key, self.samples, start)
      correct.append(verdict.correct)
      rewards.append(verdict.rewards)
      unscored += verdict.unscored.sum()
      groups = np.reshape(np.array(texts, object), verdict.correct.shape)
      distinct += [len(set(group)) / self.samples for group in groups]
      answers += [self.task.vote(text) for text in texts]
      sure.append(scores.confidence(samples))
    correct = jnp.asarray(np.concatenate(correct), jnp.float32)
    # One number for each different answer stands for it in the vote.
    names, words = np.unique(np.array(answers), return_inverse=True)
    words = jnp.asarray(words.reshape(*correct.shape, 1))
    said = jnp.asarray(names != '')[words]
    found = scores.sampled(
      correct, jnp.asarray(distinct), words, said, jnp.concatenate(sure)
    )
    found['eval/reward_sampled'] = np.mean(np.concatenate(rewards))
    return found, unscored

  def transcripts(self, params: PyTree, key: Array, count: int) -> list[dict]:
    """Greedy completions of the first `count` <= `batch` problems, as text."""
    _, verdict, texts = self._run(params, key, 0, 0)
    return [
      {
        'prompt': shown_prompt(self.task.problem(i, heldout=True)['prompt']),
        'completion': texts[i],
        'reward': float(verdict.rewards[i, 0]),
      }
      for i in range(min(count, self.batch, self.num_problems))
    ]


def _entries(verdicts: list[Judged], labels: list[str]) -> dict[str, float]:
  """Means of single rewards, of the answers that each applies to; and of those
  of `labels` the share of the others."""
  out = {}
  for label in verdicts[0].scores:
    values = np.concatenate([x.scores[label].ravel() for x in verdicts])
    none = np.isnan(values)
    if not none.all():
      out[f'eval/rewards/{label}'] = float(np.mean(values[~none]))
    if label in labels:
      out[f'eval/rewards/{label}/none'] = float(np.mean(none))
  return out
