"""The kinds of records, by their columns; `records` checks what stands there.

A column that is misspelled, so that the record would be of another kind or of
none, is named.
"""

import difflib
import functools
from collections.abc import Iterable

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data.quoting import listed, quoted

__all__ = ['ANSWERS', 'KINDS', 'almost', 'check_columns', 'implicit',
           'kind_of']  # fmt: skip

KINDS = {
  'messages': ('messages',),
  'preference': ('prompt', 'chosen', 'rejected'),
  'unpaired': ('prompt', 'completion', 'label'),
  'completion': ('prompt', 'completion'),
  'text': ('text',),
  'prompt': ('prompt',),
}
KNOWN = sorted({name for names in KINDS.values() for name in names})
ANSWERS = {
  'preference': ('chosen', 'rejected'),
  'unpaired': ('completion',),
  'completion': ('completion',),
}
# What other formats call these columns.
OTHER_NAMES = {
  'conversations': 'messages',
  'conversation': 'messages',
  'instruction': 'prompt',
  'question': 'prompt',
  'response': 'completion',
  'output': 'completion',
  'answer': 'completion',
}

# What they call the two answers of a pair; one of each side together is a pair.
SIDES = {
  'chosen': (
    'chosen',
    'accepted',
    'preferred',
    'winner',
    'chosen_response',
    'preferred_response',
  ),
  'rejected': (
    'rejected',
    'dispreferred',
    'loser',
    'rejected_response',
    'dispreferred_response',
  ),
}


def _fits(kind: str, names: Iterable[str], shared: str) -> bool:
  """Whether the columns `names` make a record of `kind`."""
  needed = KINDS[kind]
  if kind == 'preference' and shared:
    needed = ('chosen', 'rejected')
  return all(name in names for name in needed)


def _kind(names: frozenset[str], shared: str) -> str | None:
  return next((k for k in KINDS if _fits(k, names, shared)), None)


@functools.lru_cache(4096)
def _meant(names: frozenset[str], shared: str) -> tuple[str, str] | None:
  """(column, known name) of a misspelling that changes the record's kind."""
  kind = _kind(names, shared)
  # Texts that share a few words would else be their own prompt.
  lacks = shared == 'texts' and kind == 'preference' and 'prompt' not in names
  for column in sorted(names - set(KNOWN)):
    close = difflib.get_close_matches(column[:40], KNOWN, n=1, cutoff=0.8)
    close = close or [OTHER_NAMES.get(column)] * (kind is None or lacks)
    if close and close[0] and close[0] not in names:
      # A prompt alone may stand beside two misspelled answers.
      unsure = kind in (None, 'prompt') or (lacks and close[0] == 'prompt')
      if unsure or _kind(names | {close[0]}, shared) != kind:
        return column, close[0]
  return None


def _pair(names: frozenset[str], kind: str | None) -> tuple[str, str] | None:
  """(column, known name) of a pair whose answers have other names."""
  if kind not in (None, 'prompt'):
    return None
  found = {
    side: next((x for x in others if x in names), '')
    for side, others in SIDES.items()
  }
  if not all(found.values()):
    return None
  return next(((x, side) for side, x in found.items() if x != side), None)


def implicit(record: dict) -> str:
  """Whether both answers are 'turns', or 'texts', which may have a prompt."""
  for told, kind in (('turns', list), ('texts', str)):
    if all(isinstance(record.get(n), kind) for n in ('chosen', 'rejected')):
      return told
  return ''


def _present(record: dict) -> frozenset[str]:
  return frozenset(name for name, value in record.items() if value is not None)


def kind_of(record: dict, where: str = 'record') -> str:
  """The kind of a record by its columns; `messages` wins over other layouts.

  Raises:
    ValueError: no kind fits, or a column looks like a misspelling of one that
      would make the record another kind.
  """
  names, shared = _present(record), implicit(record)
  kind = _kind(names, shared)
  meant = _pair(names, kind) or _meant(names, shared)
  if meant:
    raise ValueError(
      f'{where}: unknown column {quoted(meant[0])}. Did you mean "{meant[1]}"?'
    )
  if kind is None:
    layouts = '; '.join(', '.join(names) for names in KINDS.values())
    raise ValueError(
      f'{where}: columns {listed(sorted(map(str, record))) or "(none)"} fit no '
      f'known layout. Valid: {layouts}'
    )
  return kind


def almost(record: dict, kind: str, kinds: Iterable[str]) -> str:
  """The one of `kinds` that a record lacks a single column of, while it has as
  many of its columns as of its own kind; '': there is none."""
  names = _present(record)
  for other in kinds:
    there = [name for name in KINDS[other] if name in names]
    if len(KINDS[other]) - 1 == len(there) >= len(KINDS[kind]):
      return other
  return ''


def check_columns(record: dict, kind: str, where: str = 'record') -> None:
  """Raises ValueError unless the record has every column of `kind`."""
  if kind not in KINDS:
    raise ValueError(f'unknown kind {quoted(kind)}.{nearest(kind, KINDS)}')
  names = _present(record)
  if _fits(kind, names, implicit(record)):
    return
  name = next(name for name in KINDS[kind] if name not in names)
  if name in record:
    raise ValueError(
      f'{where}: column "{name}" is null; kind "{kind}" needs it'
    )
  others = [str(key)[:40] for key in record]
  same = [x for x, known in OTHER_NAMES.items() if known == name]
  close = [x for x in (*SIDES.get(name, ()), *same) if x in others]
  close += difflib.get_close_matches(name, others, n=1, cutoff=0.6)
  hint = f' Did you mean column {quoted(close[0])}?' if close else ''
  raise ValueError(
    f'{where}: no column "{name}", which kind "{kind}" needs.{hint} '
    f'The record has: {listed(sorted(map(str, record))) or "(none)"}'
  )
