"""What a value of a config may be, and the sentence that refuses another.

A domain says itself in words (`str`), and `check(key, value)` raises a
ValueError that names the key, the value and, where there is one, the nearest
valid value. Values that a sweep traces have no number yet and pass.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from posttrain_jax.core.resolve import nearest

__all__ = [
  'Anything',
  'Flag',
  'Listed',
  'Number',
  'Patterns',
  'Text',
  'Whole',
  'Word',
  'concrete',
]

INF = math.inf


def concrete(value: Any) -> Any:
  """A scalar array or NumPy number as the Python number that it is."""
  if isinstance(value, jax.core.Tracer):
    return value
  if hasattr(value, 'dtype') and getattr(value, 'shape', None) == ():
    return value.item()
  return value


def _shown(value: Any) -> str:
  text = f'"{value}"' if isinstance(value, str) else repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def _plain(x: float) -> str:
  """1e-06, 0, 2**64-1: a bound as one would write it."""
  if isinstance(x, int):
    power = x.bit_length()
    return f'2**{power}-1' if x > 10**6 and x == 2**power - 1 else str(x)
  return f'{x:g}'


def _float(x: int) -> float:
  try:
    return float(x)
  except OverflowError:
    return INF if x > 0 else -INF


@dataclasses.dataclass(frozen=True)
class Number:
  """A finite number of an interval.

  low, high        its ends
  above, below     whether `low`, or `high`, is itself left out
  also             single values besides that mean something: 0 where it
                   switches off, inf where nothing is cut
  words            texts besides that mean something, as 'auto'
  none             whether None is allowed: no value
  hint             what to do instead, as the end of the message
  """

  low: float = -INF
  high: float = INF
  above: bool = False
  below: bool = False
  also: tuple[float, ...] = ()
  words: tuple[str, ...] = ()
  none: bool = False
  hint: str = ''
  whole: bool = dataclasses.field(default=False, init=False)

  def __str__(self) -> str:
    kind = 'a whole number' if self.whole else 'a finite number'
    also = [f'"{word}"' for word in self.words]
    also += ['None'] if self.none else []
    also += [_plain(x) for x in self.also]
    return ' or '.join([*also, f'{kind}{self._range()}'])

  def _range(self) -> str:
    if self.low == -INF and self.high == INF:
      return ''
    if self.high == INF:
      return f' {">" if self.above else ">="} {_plain(self.low)}'
    if self.low == -INF:
      return f' {"<" if self.below else "<="} {_plain(self.high)}'
    if self.whole:
      return f' in {_plain(self.low)}..{_plain(self.high)}'
    left, right = '(' if self.above else '[', ')' if self.below else ']'
    return f' in {left}{_plain(self.low)}, {_plain(self.high)}{right}'

  def _inside(self, x: Any) -> bool:
    low = x > self.low if self.above else x >= self.low
    high = x < self.high if self.below else x <= self.high
    return low and high and abs(x) < INF

  def _nearest(self, x: float) -> float | None:
    """The nearest valid number, where an interval has one."""
    if x != x:  # nan
      return None
    close = min(max(x, self.low), self.high)  # the nearer end
    if self.whole and math.isfinite(close):
      close = round(close)
    inside = [close] if self._inside(close) else []
    return min([*inside, *self.also], key=lambda y: abs(y - x), default=None)

  def check(self, key: str, value: Any) -> None:
    """Raises ValueError unless `value` is one of these numbers."""
    value = concrete(value)
    if isinstance(value, jax.core.Tracer) or (value is None and self.none):
      return
    if isinstance(value, str) and value in self.words:
      return
    kind = numbers.Integral if self.whole else numbers.Real
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and value in self.also:
      return
    if number and isinstance(value, int) and not self.whole:
      value = _float(value)
    if number and isinstance(value, kind) and self._inside(value):
      return
    near = self._nearest(value) if number else None
    hint = '' if near is None else f'; nearest valid: {_plain(near)}'
    hint += f'; {self.hint}' if self.hint else ''
    raise ValueError(f'{key}={_shown(value)} is not {self}{hint}')


@dataclasses.dataclass(frozen=True)
class Whole(Number):
  """A whole number of an interval; its ends are inside."""

  whole: bool = dataclasses.field(default=True, init=False)


@dataclasses.dataclass(frozen=True)
class Word:
  """One of some words."""

  words: Collection[str]

  def __str__(self) -> str:
    return 'one of ' + ', '.join(f'"{word}"' for word in self.words)

  def check(self, key: str, value: Any) -> None:
    """Raises ValueError unless `value` is one of the words."""
    if not isinstance(value, str) or value not in self.words:
      raise ValueError(
        f'{key}={_shown(value)} is unknown.{nearest(str(value), self.words)}'
      )


@dataclasses.dataclass(frozen=True)
class Flag:
  """True or False; `words` as in `Number`."""

  words: tuple[str, ...] = ()

  def __str__(self) -> str:
    return ' or '.join([*(f'"{word}"' for word in self.words), 'true or false'])

  def check(self, key: str, value: Any) -> None:
    """Raises ValueError unless `value` is a bool."""
    if isinstance(value, str) and value in self.words:
      return
    if not isinstance(concrete(value), bool | jax.core.Tracer):
      told = isinstance(value, str) and len(self.words) > 1
      near = '.' + nearest(value, self.words) if told else ''
      raise ValueError(f'{key}={_shown(value)} is not {self}{near}')


@dataclasses.dataclass(frozen=True)
class Text:
  """Any text; what it names is looked up elsewhere."""

  def __str__(self) -> str:
    return 'text'

  def check(self, key: str, value: Any) -> None:
    """Raises ValueError unless `value` is a string."""
    if not isinstance(value, str):
      raise ValueError(f'{key}={_shown(value)} is not {self}')


@dataclasses.dataclass(frozen=True)
class Patterns:
  """A list of regular expressions."""

  def __str__(self) -> str:
    return 'a list of regular expressions'

  def check(self, key: str, value: Any) -> None:
    """Raises ValueError unless `value` lists valid patterns."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
      raise ValueError(f'{key}={_shown(value)} is not {self}')
    for item in value:
      try:
        re.compile(item)
      except (re.error, TypeError) as error:
        raise ValueError(
          f'{key}: {_shown(item)} is no regular expression: {error}'
        ) from error


@dataclasses.dataclass(frozen=True)
class Anything:
  """What another part checks; `by` names it."""

  by: str

  def __str__(self) -> str:
    return f'what {self.by} takes'

  def check(self, key: str, value: Any) -> None:
    """Nothing to refuse here."""


@dataclasses.dataclass(frozen=True)
class Listed:
  """A list of values of one domain."""

  of: Any

  def __str__(self) -> str:
    return f'a list, each {self.of}'

  def check(self, key: str, value: Any) -> None:
    """Raises ValueError unless `value` is a list of such values."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
      raise ValueError(f'{key}={_shown(value)} is not {self}')
    for index, item in enumerate(value):
      self.of.check(f'{key}[{index}]', item)
