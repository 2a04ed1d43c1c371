"""Judges answers by functions in Python: calls, time-outs, what goes wrong."""

import collections
import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain_jax.core import hosts
from posttrain_jax.core.pool import Pool
from posttrain_jax.core.types import Judged
from posttrain_jax.rewards import arrays, mixing, texts
from posttrain_jax.rewards.columns import Seen
from posttrain_jax.rewards.entries import (
  MODEL,
  VERIFIER,
  Entry,
  check_untimed,
  verdict_of,
)
from posttrain_jax.rewards.server import Spec

__all__ = ['Judge']

SERVER = 'posttrain_jax.rewards.server:Server'
START = 60.0  # seconds in which a function is imported


@dataclasses.dataclass(frozen=True)
class _Group:
  """The answers to one problem, the `number`th of those that are judged."""

  number: int
  problem: Mapping[str, Any]
  completions: Sequence[Any]
  ids: Sequence[Sequence[int]]
  finished: Sequence[float]
  where: Callable[[int], str] | None

  @property
  def place(self) -> str:
    """'PLACE: ', where it is known."""
    return '' if self.where is None else f'{self.where(self.number)}: '

  def request(self, limit: int) -> dict[str, Any]:
    """What functions are called with."""
    size = len(self.completions)
    columns = {k: [v] * size for k, v in self.problem.items() if k != 'prompt'}
    return {
      **columns,
      'prompts': [self.problem['prompt']] * size,
      'completions': list(self.completions),
      'completion_ids': [list(map(int, row)) for row in self.ids],
      'finished': [bool(x) for x in self.finished],
      'max_completion_length': limit,
    }


class Judge:
  """The rewards of a run whose answers are text.

  entries  of `entries.read`
  workers  processes that call functions
  timeout  seconds for a call, with all answers to one problem
  limit    tokens that an answer may have
  folder   where one's own modules are; '': the working folder
  scorers  {label: (prompts [B], completions [B][G]) -> [B, G]} of entries that
           are reward models; those of a run are `given` instead

  `counts` sums since the start, and each is told once for each entry:
    LABEL/errors    answers for which a function raised, gave no finite number,
                    or ended its process
    LABEL/timeouts  those that it gave no reward in time; both have None
    LABEL/alone     those that a function of one's own was asked for one by one,
                    after it had failed on all answers to their problem

  `faults` has the first thing that went wrong for each label, with its place.
  """

  def __init__(
    self,
    entries: Sequence[Entry],
    *,
    workers: int = 2,
    timeout: float = 10.0,
    limit: int = 0,
    folder: str = '',
    scorers: Mapping[str, Callable[..., np.ndarray]] | None = None,
  ):
    self.scorers = dict(scorers or {})
    self.entries = tuple(entries)
    check_untimed(self.entries)
    self.limit = limit
    self.verdict = verdict_of(self.entries)
    self._called = [e for e in self.entries if e.kind in ('text', 'own')]
    self._timeout, self._lock = timeout, threading.Lock()
    self._told: set[str] = set()
    self.faults: dict[str, str] = {}
    specs = [tuple(Spec(e.name, e.kind == 'own', e.params))
             for e in self._called]  # fmt: skip
    arguments = {'specs': specs, 'folder': folder or os.getcwd()}
    own = any(spec[1] for spec in specs)  # what those print is wanted
    self._pool = Pool(SERVER, arguments, workers, own) if specs else None
    self.counts: collections.Counter[str] = collections.Counter({
      f'{e.label}/{what}': 0
      for e in self._called
      for what in ('errors', 'timeouts', *(['alone'] * (e.kind == 'own')))
    })  # fmt: skip

  def seen(self, name: str) -> Seen:
    """What is to look at all records of a file, for `check`."""
    return Seen(self.entries, name)

  def check(self, *seen: Seen) -> None:
    """Imports every function, and sees that files have what they need; tells,
    once and at the first process, what is empty in some of their records.

    seen  of all files that the judge is asked about

    Raises:
      ValueError: a function that cannot be used, with the reason; a column
        that is not there, or in which there is nothing.
    """
    needs = {}
    for index, entry in enumerate(self._called):
      reply = self._pool.call('describe', index, timeout=START)
      if reply.status != 'ok':
        told = str(reply.value).removeprefix('ValueError: ')
        raise ValueError(f'rewards: {told}')
      needs[entry.label] = reply.value
    for line in [x for one in seen for x in one.check(needs, seen)]:
      # Every process reads all records.
      if line not in self._told and hosts.first():
        self._told.add(line)
        print(f'WARNING rewards: {line}', file=sys.stderr)
    self._tell_verdict()

  def _tell_verdict(self) -> None:
    """Accuracy is of the verdict; of what is none it says little."""
    found = self.verdict
    if found is None or found.verdict or 'verdict' in self._told:
      return
    self._told.add('verdict')
    if hosts.first():
      print(
        'NOTE rewards: none of them is a verdict, so that accuracy, pass@k and '
        f'maj@k count answers that "{found.label}" gives 1 or more as right; '
        'say "verdict": true in the entry that tells right ones, or add one '
        'with "weight": 0',
        file=sys.stderr,
      )

  def answer(self, text: str) -> str:
    """What of a completion counts in a vote; '': it gives no answer."""
    if self.verdict is None or self.verdict.kind != 'text':
      return texts.common.final(text)
    return texts.answer(self.verdict.name, text, self.verdict.params)

  def __call__(
    self,
    problems: Sequence[Mapping[str, Any]],
    completions: Sequence[Sequence[Any]],
    ids: Sequence[Sequence[Sequence[int]]],
    finished: np.ndarray,
    given: Mapping[str, np.ndarray] | None = None,
    where: Callable[[int], str] | None = None,
  ) -> Judged:
    """Judges G answers to each of B problems.

    problems     {'prompt': ..., **columns} of each
    completions  [B][G] texts, or lists of a message
    ids          [B][G] their tokens
    finished     [B, G]
    given        {label: [B, G]} of entries that are judged elsewhere; one that
                 is neither here nor there does not apply
    where        (number of a problem) -> its place, for messages

    Returns `Judged`: the weighted sum, right where the verdict's entry gives at
    least 1, and the score of every entry.
    """
    shape = np.shape(finished)
    blank = np.full(shape, np.nan, np.float32)
    given = dict(given or {})
    for label, scorer in self.scorers.items():
      asked = [problem['prompt'] for problem in problems]
      given[label] = scorer(asked, completions)
    found = {
      e.label: np.asarray(given.get(e.label, blank), np.float32)
      for e in self.entries
      if e.kind in (MODEL, VERIFIER)
    }
    calls = [
      (index, _Group(b, problem, completions[b], ids[b], finished[b], where))
      for index in range(len(self._called))
      for b, problem in enumerate(problems)
    ]
    if calls:
      said = self._pool.map(lambda call: self._group(*call), calls)
      tables = np.asarray(said, np.float32).reshape(-1, *shape)
      found |= {e.label: table for e, table in zip(self._called, tables)}
    lengths = np.array([[len(x) for x in row] for row in ids], np.float32)
    facts = arrays.Facts(lengths, np.asarray(finished), self.limit)
    scores = mixing.completed(self.entries, found, facts)
    rewards, unscored = mixing.total(self.entries, scores)
    host = {label: np.asarray(x) for label, x in scores.items()}
    unscored = np.asarray(unscored)
    self._tell_unscored(unscored)
    right = np.nan_to_num(host[self.verdict.label]) >= 1.0
    return Judged(np.asarray(rewards), right.astype(np.float32), unscored, host)

  def _group(self, index: int, group: '_Group') -> list[float]:
    """Rewards [G] of one entry for the answers to one problem."""
    size, request = len(group.completions), group.request(self.limit)
    alone = self._called[index].name == 'unit_tests'
    if not alone or size == 1:
      values = self._call(index, request, group)
      if values is not None:
        return values
      if size == 1:
        return [np.nan]
    # One by one: a program has its own time, and what hung costs one answer.
    if self._called[index].kind == 'own':
      self._count_alone(index, group, 'did not answer in time, or died')
    rows = [
      {k: v[i : i + 1] if isinstance(v, list) else v
       for k, v in request.items()}
      for i in range(size)
    ]  # fmt: skip
    return [(self._call(index, row, group, True) or [np.nan])[0]
            for row in rows]  # fmt: skip

  def _call(
    self,
    index: int,
    request: dict[str, Any],
    group: '_Group',
    last: bool = False,
  ) -> list[float] | None:
    """Rewards of a call; None where there was no answer in time."""
    entry = self._called[index]
    last = last or len(request['completions']) == 1
    timeout = self._timeout + _own_time(entry, request)
    reply = self._pool.call('score', index, request, timeout=timeout)
    if reply.status == 'ok':
      values, errors, alone = reply.value
      if alone:
        self._count_alone(index, group, f'raised {alone}')
      for error in filter(None, errors):
        self._count(entry.label, 'errors', group.place + error)
      return [np.nan if x is None else x for x in values]
    if last:
      what = 'timeouts' if reply.status == 'timeout' else 'errors'
      told = f'{group.place}{reply.value}'
      if what == 'timeouts':
        told += '; reward_pool.timeout is what a call may take'
      self._count(entry.label, what, told)
    return None

  def _count(self, label: str, what: str, told: str) -> None:
    with self._lock:
      self.counts[f'{label}/{what}'] += 1
      if (key := f'{label}/{what}') in self._told:
        return
      self._told.add(key)
      self.faults.setdefault(label, told)
    print(
      f'WARNING rewards: "{label}" gave no reward to an answer, and is counted '
      f'as rewards/{key} from here on: {told}',
      file=sys.stderr,
    )

  def _count_alone(self, index: int, group: '_Group', why: str) -> None:
    """Counts the answers of a group that a function has failed on."""
    entry, size = self._called[index], len(group.completions)
    with self._lock:
      self.counts[key := f'{entry.label}/alone'] += size
      if key in self._told:
        return
      self._told.add(key)
    print(
      f'WARNING rewards: {group.place}"{entry.name}" {why}, and was then asked '
      f'for the {size} answers one by one: one that compares the answers to a '
      'problem with each other says something else of each alone. They are '
      f'counted as rewards/{key} from here on',
      file=sys.stderr,
    )

  def _tell_unscored(self, unscored: np.ndarray) -> None:
    if unscored.any() and 'unscored' not in self._told:
      self._told.add('unscored')
      print(
        f'WARNING rewards: no entry gave a reward to {int(unscored.sum())} of '
        f'{unscored.size} answers; their reward is 0, and they are counted as '
        'rewards/unscored from here on',
        file=sys.stderr,
      )

  def nothing(self, label: str, told: str) -> str:
    """The sentence of an evaluation that a reward said nothing in, with the
    first thing that went wrong."""
    first = self.faults.get(label, '')
    return f'nothing was judged: reward "{label}" {told}' + (
      f'; first: {first}' if first else ''
    )

  def close(self) -> None:
    """Ends the worker processes; a later call would start new ones."""
    if self._pool is not None:
      self._pool.close()


def _own_time(entry: Entry, request: dict[str, Any]) -> float:
  """Seconds that a reward limits itself, beside the time of a call."""
  if entry.kind != 'text' or entry.name != 'unit_tests':
    return 0.0
  tests = request[entry.params['column']][0]
  if isinstance(tests, dict):
    tests = tests.get('inputs', ())
  cases = len(tests) if isinstance(tests, list | tuple) else 1
  return entry.params['seconds'] * (cases + 1)
