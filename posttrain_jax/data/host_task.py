"""What tasks on the host share: text prompts, answers judged in Python.

  batch(indices)          the prompts of problems, tokenised
  judged(indices, ...)    what their answers earn
  problem(index)          one of them, as text
  vote(text)              what of an answer counts in a vote
  counts                  {what: how often, since the start}

A problem is a function of its index alone, so that a run resumes exactly.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from posttrain_jax.core.types import Judged
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['Answers', 'HostTask', 'padded', 'shown_prompt']


class Answers(NamedTuple):
  """G completions of each of B problems.

  texts     [B][G] before their stop tokens
  ids       [B][G] their tokens, with the stop token
  finished  [B, G] 1.0 where a stop token ended it
  """

  texts: list[list[str]]
  ids: list[list[Sequence[int]]]
  finished: np.ndarray


def shown_prompt(prompt: Any) -> str:
  """A prompt as text for people: a string, or turns."""
  if isinstance(prompt, str):
    return prompt
  return '\n'.join(
    f'{turn["role"]}: {turn.get("content") or ""}' for turn in prompt
  )


def padded(
  prompts: Sequence[Sequence[int]], width: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """(tokens [B, width] int32, mask [B, width] 1.0 on real ones) of prompts."""
  tokens = np.full((len(prompts), width), pad_id, np.int32)
  mask = np.zeros((len(prompts), width), np.float32)
  for row, prompt in enumerate(prompts):
    tokens[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1.0
  return tokens, mask


class HostTask:
  """Base of the tasks whose answers are judged in Python.

  name, tokenizer    of the task
  prompt_length, completion_length
                     tokens
  judge              `rewards.judge.Judge`, or None: the task judges itself
  num_heldout        problems there are of the held-out split; None: no end
  """

  name: str
  tokenizer: Tokenizer
  prompt_length: Any
  completion_length: Any
  judge: Any = None
  num_heldout: int | None = None
  counts: dict[str, int]

  def problem(self, index: int, heldout: bool = False) -> dict[str, Any]:
    """Problem `index` of a split: prompt, tokens, and what judges it."""
    raise NotImplementedError

  def problems(
    self, indices: Sequence[int], heldout: bool = False
  ) -> list[dict[str, Any]]:
    """Several problems."""
    return [self.problem(i, heldout) for i in indices]

  def batch(
    self, indices: Sequence[int], heldout: bool = False
  ) -> dict[str, np.ndarray]:
    """prompt [B, P] int32, prompt_mask [B, P], prompt_id [B] uint32."""
    prompt, mask = padded(
      [problem['tokens'] for problem in self.problems(indices, heldout)],
      self.prompt_length,
      self.tokenizer.pad_id,
    )
    return {
      'prompt': prompt,
      'prompt_mask': mask,
      'prompt_id': np.asarray(indices, np.uint32),
    }

  def verify(
    self,
    indices: Sequence[int],
    completions: Sequence[str],
    heldout: bool = False,
  ) -> np.ndarray:
    """Rewards [N] float32 of single completions.

    indices  the problem of each completion; may repeat
    """
    if len(indices) != len(completions):
      raise ValueError(
        f'{len(completions)} completions of {len(indices)} problems'
      )
    return self._verify(indices, completions, heldout)

  def _verify(
    self, indices: Sequence[int], completions: Sequence[str], heldout: bool
  ) -> np.ndarray:
    raise NotImplementedError

  def _verified(
    self, indices: Sequence[int], answers: Answers, heldout: bool
  ) -> np.ndarray:
    """`verify` of G answers to each problem, [B, G]."""
    flat = [text for group in answers.texts for text in group]
    repeated = np.repeat(np.asarray(indices), answers.finished.shape[1])
    rewards = self.verify(repeated, flat, heldout)
    return rewards.reshape(answers.finished.shape)

  def place(self, index: int, heldout: bool = False) -> str:
    """Where problem `index` comes from, for messages."""
    split = 'held-out problem' if heldout else 'problem'
    return f'{self.name}, {split} {int(index)}'

  def columns(self, problem: Mapping[str, Any]) -> dict[str, Any]:
    """What reward functions are told of a problem, 'prompt' among it."""
    return {k: v for k, v in problem.items() if k != 'tokens'}

  def judged(
    self,
    indices: Sequence[int],
    answers: Answers,
    heldout: bool = False,
    given: Mapping[str, np.ndarray] | None = None,
  ) -> Judged:
    """What G answers to each of B problems earn.

    given  {label: [B, G]} of rewards that models give
    """
    if self.judge is None:
      rewards = self._verified(indices, answers, heldout)
      right = (rewards >= 1.0).astype(np.float32)
      return Judged(rewards, right, np.zeros_like(rewards), {})
    given = dict(given or {})
    for entry in self.judge.entries:
      if entry.kind == 'verifier':
        given[entry.label] = self._verified(indices, answers, heldout)
    problems = [self.columns(p) for p in self.problems(indices, heldout)]
    completions = [
      group
      if isinstance(problem['prompt'], str)
      else [[{'role': 'assistant', 'content': text}] for text in group]
      for problem, group in zip(problems, answers.texts)
    ]
    return self.judge(
      problems,
      completions,
      answers.ids,
      answers.finished,
      given,
      lambda number: self.place(indices[number], heldout),
    )

  def vote(self, text: str) -> str:
    """What of a completion counts in a vote; '': it gives no answer."""
    return self.judge.answer(text) if self.judge is not None else text.strip()

  def all_counts(self) -> dict[str, int]:
    """`counts`, and those of the judge under 'rewards/'."""
    if self.judge is None:
      return dict(self.counts)
    theirs = {f'rewards/{k}': v for k, v in self.judge.counts.items()}
    return {**self.counts, **theirs}

  def content(self) -> list[list]:
    """What the files of its problems said, as `content.record`; [] where they
    come from none."""
    return []

  def check(self) -> None:
    """Raises BadData where a file of its problems has changed, or is gone."""

  def check_content(self, then: list[list]) -> None:
    """Raises ValueError where the files are not what `content` said then."""

  def close(self) -> None:
    """Ends the worker processes; a later call would start new ones."""
    if self.judge is not None:
      self.judge.close()
