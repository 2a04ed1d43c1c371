"""What the files of a run said when it began, and what becomes of a change.

  record(content)         [[file, digest, bytes], ...], as a position holds it
  check(then, now, rule)  refuses files that have changed since, or tells
  Guard(source, rule)     looks again while a run is under way

A digest (`files.digest`) is of every byte of a file up to 128 MiB, and of a
larger one of its size and of 64 blocks of 1 MiB, evenly spread. While a run is
under way sizes and times are looked at, and a digest is only taken where these
have moved.
"""

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import files
from posttrain_jax.data.bad_rows import BadData
from posttrain_jax.data.rows import Source, Stored

__all__ = ['RULES', 'Guard', 'check', 'record']

# What `data.on_change` may be.
RULES = ('error', 'warn')
FILES = 64  # whose digests a record holds one by one
SHOWN = 8
EVERY = 5.0  # seconds between two looks
PATIENCE = 30.0  # seconds in which a file that is gone may come back

Entries = Sequence[Sequence[str | int]]


def record(content: Mapping[str, str]) -> list[list]:
  """The record of {file: digest}; of very many files it is one digest."""
  if len(content) > FILES:
    text = '\n'.join(content.values())
    whole = hashlib.sha256(text.encode()).hexdigest()
    return [[f'{len(content)} files', whole]]
  return [
    [path, digest, os.path.getsize(path) if os.path.isfile(path) else 0]
    for path, digest in content.items()
  ]


def _differs(old: Sequence, new: Sequence) -> str:
  """'a.jsonl (10 bytes then, 12 now)'; '' where two entries say the same."""
  if old[1] == new[1]:
    return ''
  name = str(old[0]) if old[0] == new[0] else f'{old[0]} (now {new[0]})'
  if len(old) < 3 or len(new) < 3:
    return name
  if old[2] != new[2]:
    return f'{name} ({old[2]:,} bytes then, {new[2]:,} now)'
  return f'{name} (still {new[2]:,} bytes, of other content)'


def check(
  then: Entries,
  now: Entries,
  rule: str,
  counts: tuple[int, int] | None = None,
) -> None:
  """Compares what files said with what they say, in their order: a folder may
  have moved. A record that is empty says nothing.

  rule    'error', or 'warn': it is told on stderr, and what stands at the
          places that are left is read
  counts  of records then and now, where they are not the same

  Raises:
    ValueError: a file says something else; names it, and what differs.
  """
  if rule not in RULES:
    raise ValueError(f'unknown on_change "{rule}".{nearest(rule, RULES)}')
  told = []
  if then and now:
    told = [x for x in map(_differs, then, now) if x][:SHOWN]
    if len(then) != len(now):
      told = [*told[: SHOWN - 1], f'{len(now)} files, {len(then)} then']
  named = bool(told)
  if counts is not None:
    told.append(f'{counts[1]:,} records, {counts[0]:,} then')
  if not told:
    return
  what = 'not what it was' if named else 'the records are not what they were'
  said = f'{what} when this run began: ' + ', '.join(told)
  if rule == 'error':
    raise ValueError(
      f'{said}; put it back, or use another --workdir. With data.on_change='
      '"warn" the run goes on at its place, with what stands there now'
    )
  order = (
    '; another number of records has another order: some of this epoch may '
    'come twice, and some not'
  )
  print(
    f'WARNING data: {said}; the run goes on at its place, with what stands '
    'there now' + ('' if counts is None else order),
    file=sys.stderr,
  )


class Guard:
  """Sees files of a source change, or go, while a run reads them.

  Args:
    source: what is read.
    rule: as of `check`.
  """

  def __init__(self, source: Source, rule: str):
    self._rule = rule
    content = source.content() if isinstance(source, Stored) else {}
    self._digests = {p: d for p, d in content.items() if os.path.isfile(p)}
    self._stamps = {p: files.stamp([p]) for p in self._digests}
    self._next = time.monotonic() + EVERY

  def check(self) -> None:
    """Looks, if the last look is a while ago.

    Raises:
      BadData: a file is gone, or says something else.
    """
    if time.monotonic() < self._next:
      return
    for path, digest in list(self._digests.items()):
      stamp = self._stamp(path)
      if stamp == self._stamps[path]:
        continue
      self._stamps[path] = stamp
      if files.digest(path) != digest:
        del self._digests[path]  # it is told once
        self._changed(path, stamp[0][1])
    self._next = time.monotonic() + EVERY

  def _stamp(self, path: str) -> tuple:
    """The stamp of a file; one that is gone is waited for."""
    end = time.monotonic() + PATIENCE
    while True:
      try:
        return files.stamp([path])
      except OSError as error:
        if time.monotonic() > end:
          raise BadData(
            f'{path} cannot be read any more: {error.strerror}'
          ) from None
        time.sleep(min(1.0, PATIENCE / 10))

  def _changed(self, path: str, size: int) -> None:
    told = f'{path} has changed while the run reads it (now {size:,} bytes)'
    if self._rule == 'error':
      raise BadData(
        f'{told}; put it back, or use another --workdir (data.on_change="warn" '
        'goes on with what stands there now)'
      )
    print(f'WARNING data: {told}; the run goes on', file=sys.stderr)
