"""Tasks in natural language: any of reasoning-gym's, tokenised on the host.

  task = TextTask('chain_sum', tokenizer, knobs={'max_terms': 3})
  task.batch([0, 1])                      prompts of problems 0 and 1
  task.verify([0, 1], ['12', '7'])        their rewards, from worker processes
  task.solve(0)                           the oracle's answer
  task.records()                          prompt and completion, for SFT

A problem is a function of (seed, knobs, index) alone, in every process. Its
prompt is the question and a line break, or a user's turn where the model's
folder has a chat template. What is scored is the completion's text, or what
stands between its last <answer> and the </answer> after it.
"""

import functools
import hashlib
import math
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain_jax.core import hosts
from posttrain_jax.core.pool import Pool
from posttrain_jax.data import chat, formats, gym
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['PREFIX', 'TextTask', 'entry', 'final_answer', 'is_text']

PREFIX = 'text:'
SERVER = 'posttrain_jax.data.gym:Server'
# Problem i of a split is the first that fits among MAX_TRIES candidates.
MAX_TRIES = 256
NUM_PROBLEMS = 2**22  # after which a split repeats
MEASURED = 64  # problems whose longest sets a length that is not given
GENERATE_TIMEOUT = 60.0  # seconds; the slowest task takes about one


def is_text(name: str) -> bool:
  """Whether a config's task name means one of these."""
  return name.startswith(PREFIX)


def entry(name: str) -> dict[str, Any]:
  """Config entry of 'text:NAME', with the task's own knobs.

  Raises:
    ValueError: unknown task, with the nearest one; no reasoning-gym.
  """
  return {
    'name': name,
    'seed': 0,  # of the problems; `config.seed` is of everything else
    'prompt_length': 0,  # tokens; 0 = the longest of MEASURED problems
    'completion_length': 0,  # tokens; 0 = the longest of their answers
    'workers': 2,  # processes that make and verify
    'timeout': 10.0,  # seconds for one verification
    'knobs': gym.knobs(name.removeprefix(PREFIX)),
  }


def final_answer(completion: str) -> str:
  """What of a completion is scored."""
  _, found, tail = completion.rpartition('<answer>')
  return (tail.split('</answer>')[0] if found else completion).strip()


class _Records(Sequence):
  """A task's training problems as records, made when they are read."""

  def __init__(self, task: 'TextTask'):
    self._task = task

  def __len__(self) -> int:
    return NUM_PROBLEMS

  def __getitem__(self, index: int) -> dict[str, Any]:
    question = self._task.problem(index)['question']
    return self._task.record(question, self._task.solve(index))


class TextTask(HostTask):
  """One reasoning-gym task behind a tokenizer.

  name               of the task, without 'text:'
  tokenizer          from `data.tokenizers`
  seed               of the problems
  prompt_length, completion_length
                     tokens, the latter with the EOS; 0: of the longest of the
                     first 64 problems, to a multiple of 8. A problem whose
                     prompt or oracle answer does not fit is passed over for
                     the next candidate, and counted
  workers, timeout   processes, and seconds for one verification
  knobs              the task's own difficulty
  heldout_fraction   share of all questions, by their hash, that only
                     `heldout=True` gives; 0: the two splits come from other
                     generator seeds, and may share a question
  judge              `rewards.judge.Judge` whose sum is the reward; None: the
                     task's own verifier

  `counts` sums, since the start: 'overlong' and 'generator_errors' (candidates
  passed over), 'timeouts' and 'verifier_errors' (answers that got 0.0 because
  their verifier hung, or crashed).

  Raises:
    ValueError: unknown task or knob with the nearest one, a value that cannot
      work, or no reasoning-gym.
  """

  def __init__(
    self,
    name: str,
    tokenizer: Tokenizer,
    *,
    seed: int = 0,
    prompt_length: int = 0,
    completion_length: int = 0,
    workers: int = 2,
    timeout: float = 10.0,
    knobs: dict[str, Any] | None = None,
    heldout_fraction: float = 0.0,
    judge: Any = None,
  ):
    gym.make_config(name, knobs or {})
    for key, value in (
      ('prompt_length', prompt_length),
      ('completion_length', completion_length),
    ):
      if value < 0:
        raise ValueError(f'task.{key}={value} is negative; 0 = measured')
    if timeout <= 0:
      raise ValueError(f'task.timeout={timeout} must be above 0 seconds')
    self.name, self.tokenizer, self.judge = name, tokenizer, judge
    self._timeout, self._fraction = timeout, heldout_fraction
    arguments = {'name': name, 'seed': seed, 'knobs': dict(knobs or {})}
    self._pool = Pool(SERVER, arguments, workers)
    self._lock, self._told = threading.Lock(), set[str]()
    self.counts = dict.fromkeys(
      ('overlong', 'generator_errors', 'timeouts', 'verifier_errors'), 0
    )
    self.prompt_length = prompt_length or math.inf
    self.completion_length = completion_length or math.inf
    self._measure()
    self._cached = functools.lru_cache(8192)(self._find)

  def _measure(self) -> None:
    """Sets the lengths that were not given."""
    if math.inf not in (self.prompt_length, self.completion_length):
      return
    found = self._pool.map(lambda i: self._find(i, False), range(MEASURED))
    up = lambda size: -(-size // 8) * 8
    if self.prompt_length == math.inf:
      self.prompt_length = up(max(len(p['tokens']) for p in found))
    if self.completion_length == math.inf:
      sizes = [p['answer_length'] for p in found]
      if None in sizes:
        raise ValueError(
          f'task "text:{self.name}" has no oracle answers to measure: set '
          'task.completion_length'
        )
      self.completion_length = up(max(sizes))

  def _count(self, what: str) -> None:
    with self._lock:
      self.counts[what] += 1

  def _tell(self, notes: Sequence[str], where: str) -> None:
    """Once, at the first problem that it is so of."""
    with self._lock:
      new = [note for note in notes if note not in self._told]
      self._told.update(new)
    for note in new if hosts.first() else ():
      told = chat.TOLD[note].format(n='problems')
      print(f'WARNING data: {told}; first: {where}', file=sys.stderr)

  def _is_heldout(self, question: str) -> bool:
    digest = hashlib.sha256(question.encode()).digest()
    return int.from_bytes(digest[:4], 'big') / 2**32 < self._fraction

  def record(self, question: str, answer: str = '') -> dict[str, Any]:
    """{prompt, completion}: turns, where the model's folder says how they are
    written, else a line of text and what follows it."""
    if self.tokenizer.template is None:
      return {'prompt': question + '\n', 'completion': answer}
    return {
      'prompt': [{'role': 'user', 'content': question}],
      'completion': [{'role': 'assistant', 'content': answer}],
    }

  def _tokenized(self, number: int, made: dict[str, Any]) -> dict[str, Any]:
    question, answer = made['question'], made['answer']
    where = f'text:{self.name}, problem {number}'
    asked = {'prompt': self.record(question)['prompt']}
    written = formats.tokenize(
      asked, self.tokenizer, kind='prompt', where=where
    )
    assert written is not None  # Without a limit nothing is dropped.
    self._tell(written['notes'], where)
    size = None if answer is None else len(self.tokenizer.encode(answer)) + 1
    return {
      **made,
      'prompt': question + '\n',
      'tokens': written['tokens'],
      'answer_length': size,
      'number': number,
    }

  def _find(self, index: int, heldout: bool) -> dict[str, Any]:
    """The first candidate that is of the split and fits."""
    told = 'no generator seed gave one of this split'
    for attempt in range(MAX_TRIES):
      stream = attempt + MAX_TRIES * heldout
      number = stream * NUM_PROBLEMS + index % NUM_PROBLEMS
      reply = self._pool.call('generate', number, timeout=GENERATE_TIMEOUT)
      if reply.status != 'ok':
        self._count('generator_errors')
        told = f'the last generator error: {reply.value}'
        continue
      question = reply.value['question']
      if self._fraction and self._is_heldout(question) != heldout:
        continue
      problem = self._tokenized(number, reply.value)
      sizes = len(problem['tokens']), problem['answer_length'] or 0
      limits = self.prompt_length, self.completion_length
      if all(size <= limit for size, limit in zip(sizes, limits)):
        return problem
      self._count('overlong')
      told = (
        f'the last prompt has {sizes[0]} tokens and its answer {sizes[1]}, of '
        f'task.prompt_length={limits[0]} and task.completion_length={limits[1]}'
      )
    raise ValueError(
      f'task "text:{self.name}": no problem {index} in {MAX_TRIES} tries; '
      + told
    )

  def problem(self, index: int, heldout: bool = False) -> dict[str, Any]:
    """Problem `index` of a split.

    Returns question, answer (None: the task has no oracle), prompt (text),
    tokens (its ids) and number (the generator's).

    Raises:
      ValueError: MAX_TRIES candidates are of the other split or too long.
    """
    return self._cached(int(index), bool(heldout))

  def solve(self, index: int, heldout: bool = False) -> str:
    """The oracle's answer.

    Raises:
      ValueError: the task has none.
    """
    answer = self.problem(index, heldout)['answer']
    if answer is None:
      raise ValueError(
        f'task "text:{self.name}" has a verifier and no oracle answers'
      )
    return answer

  def problems(
    self, indices: Sequence[int], heldout: bool = False
  ) -> list[dict[str, Any]]:
    """Several problems, made side by side."""
    return self._pool.map(lambda i: self.problem(i, heldout), indices)

  def columns(self, problem: Mapping[str, Any]) -> dict[str, Any]:
    """Its prompt, its question, and the oracle's answer or None."""
    return {key: problem[key] for key in ('prompt', 'question', 'answer')}

  def vote(self, text: str) -> str:
    """What is scored of a completion."""
    return final_answer(text) if self.judge is None else super().vote(text)

  def _verify(
    self, indices: Sequence[int], completions: Sequence[str], heldout: bool
  ) -> np.ndarray:
    """The score of each completion's answer."""
    numbers = [self.problem(i, heldout)['number'] for i in indices]

    def score(item: tuple[int, str]) -> float:
      number, text = item
      reply = self._pool.call(
        'score', number, final_answer(text), timeout=self._timeout
      )
      if reply.status == 'ok' and math.isfinite(reply.value):
        return reply.value
      late = reply.status == 'timeout'
      self._count('timeouts' if late else 'verifier_errors')
      return 0.0

    items = zip(numbers, completions)
    return np.asarray(self._pool.map(score, items), np.float32)

  def records(self) -> Sequence[dict[str, Any]]:
    """Training problems as {prompt, completion}, for `data.ListSource`."""
    return _Records(self)

  def close(self) -> None:
    """Ends the worker processes; a later call would start new ones."""
    self._pool.close()
    super().close()
