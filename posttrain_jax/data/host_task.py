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

from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['Answers', 'HostTask', 'Judged', 'shown_prompt']


class Answers(NamedTuple):
  """G completions of each of B problems.

  texts     [B][G] before their stop tokens
  ids       [B][G] their tokens, with the stop token
  finished  [B, G] 1.0 where a stop token ended it
  """

  texts: list[list[str]]
  ids: list[list[Sequence[int]]]
  finished: np.ndarray


class Judged(NamedTuple):
  """What answers earn.

  rewards   [B, G] float32
  correct   [B, G] float32, 1.0 where an answer is right
  unscored  [B, G] float32, 1.0 where nothing judges an answer
  scores    {label: [B, G]} of single rewards; nan where one does not apply
  """

  rewards: np.ndarray
  correct: np.ndarray
  unscored: np.ndarray
  scores: dict[str, np.ndarray]


def shown_prompt(prompt: Any) -> str:
  """A prompt as text for people: a string, or turns."""
  if isinstance(prompt, str):
    return prompt
  return '\n'.join(
    f'{turn["role"]}: {turn.get("content") or ""}' for turn in prompt
  )


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
    found = self.problems(indices, heldout)
    shape = (len(found), self.prompt_length)
    prompt = np.full(shape, self.tokenizer.pad_id, np.int32)
    mask = np.zeros(shape, np.float32)
    for row, problem in enumerate(found):
      size = len(problem['tokens'])
      prompt[row, :size], mask[row, :size] = problem['tokens'], 1.0
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
    """Rewards [N] float32 of single completions of problems `indices`."""
    raise NotImplementedError

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
    shape = np.shape(answers.finished)
    if self.judge is None:
      flat = [text for group in answers.texts for text in group]
      repeated = np.repeat(np.asarray(indices), shape[1])
      rewards = self.verify(repeated, flat, heldout).reshape(shape)
      right = (rewards >= 1.0).astype(np.float32)
      return Judged(rewards, right, np.zeros_like(rewards), {})
    given = dict(given or {})
    for entry in self.judge.entries:
      if entry.kind == 'verifier':
        flat = [text for group in answers.texts for text in group]
        repeated = np.repeat(np.asarray(indices), shape[1])
        said = self.verify(repeated, flat, heldout).reshape(shape)
        given[entry.label] = said
    problems = [self.columns(p) for p in self.problems(indices, heldout)]
    completions = [
      group
      if isinstance(problem['prompt'], str)
      else [[{'role': 'assistant', 'content': text}] for text in group]
      for problem, group in zip(problems, answers.texts)
    ]
    return Judged(
      *self.judge(problems, completions, answers.ids, answers.finished, given)
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

  def close(self) -> None:
    """Ends the worker processes; a later call would start new ones."""
    if self.judge is not None:
      self.judge.close()
