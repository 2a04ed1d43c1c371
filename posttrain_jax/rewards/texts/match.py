"""Whether an answer is the right one."""

import functools
import re
from collections.abc import Callable
from typing import Any

from posttrain_jax.rewards.texts import common

__all__ = [
  'GOLDS',
  'choice_letter',
  'exact_match',
  'letter',
  'math_verify',
  'numeric_match',
  'regex',
]

_SPACES = re.compile(r'\s+')
_ENDS = ' \t\n.,;:!?"\'`*_'
_LETTER_ALONE = re.compile(r'\W*([A-Z])(?:\W*|[.):]\s.*)', re.DOTALL)
_LETTER_TOLD = re.compile(
  r'(?i:answer|choice|option)\W{0,3}(?i:is|would be|:)?\W{0,4}([A-Z])\b(?!\')'
)
_LETTER_BRACKETED = re.compile(r'\(([A-Z])\)')
_LETTER_STANDING = re.compile(r'(?<![\w\'])([A-Z])(?![\w\'])')


def _compared(
  completions: list, answers: list, one: Callable[[str, Any], float | None]
) -> list[float | None]:
  texts = map(common.text_of, completions)
  return [one(text, answer) for text, answer in zip(texts, answers)]


def _plain(text: str, ignore_case: bool, ignore_ends: bool) -> str:
  text = _SPACES.sub(' ', text.strip())
  if ignore_ends:
    text = text.strip(_ENDS)
  return text.casefold() if ignore_case else text


def _texts(answer: Any, ignore_case: bool, ignore_ends: bool) -> list[str]:
  """What an answer may be, to be right: no completion is the empty text."""
  golds = map(common.gold, common.accepted(answer))
  made = (_plain(gold, ignore_case, ignore_ends) for gold in golds)
  return [text for text in made if text]


def _numbers(answer: Any) -> list[int | float]:
  found = (common.number(common.gold(a)) for a in common.accepted(answer))
  return [value for value in found if value is not None]


def _choices(answer: Any, choices: str) -> list[str]:
  """The letter of a right choice, in a list; [] where there is no such one."""
  if isinstance(answer, int) and 0 <= answer < len(choices):
    answer = choices[answer]
  said = common.gold(answer).strip(' ().:').upper()
  return [said] if len(said) == 1 and said in choices else []


# (a column's value, hyperparameters) -> what of it an answer is compared with;
# of math_verify, what it tries to read. With nothing no answer can be right.
GOLDS: dict[str, Callable[[Any, dict], list]] = {
  'choice_letter': lambda answer, of: _choices(answer, of['choices']),
  'exact_match': lambda answer, of: _texts(
    answer, of['ignore_case'], of['ignore_ends']
  ),
  'math_verify': lambda answer, of: [
    a for a in common.accepted(answer) if common.gold(a)
  ],
  'numeric_match': lambda answer, of: _numbers(answer),
}


def exact_match(
  prompts: list,
  completions: list,
  *,
  column: str = '',
  ignore_case: bool = False,
  ignore_ends: bool = True,
  **columns: Any,
) -> list[float | None]:
  """1.0 where the answer is the right one, letter by letter.

  The answer is what `texts.common.final` finds; white space counts as one
  blank. None where the right answer is null, 0.0 where it is blank.

  Args:
    column: of the right answer, or of a list of right ones; '': 'solution',
      else 'answer'.
    ignore_case: 'Paris' is 'paris'.
    ignore_ends: marks around an answer, as a full stop, do not count.
  """
  plain = functools.partial(
    _plain, ignore_case=ignore_case, ignore_ends=ignore_ends
  )

  def one(text: str, answer: Any) -> float | None:
    if common.null(answer):
      return None
    wanted = _texts(answer, ignore_case, ignore_ends)
    return float(plain(common.final(text)) in wanted)

  return _compared(completions, common.picked(columns, column), one)


def numeric_match(
  prompts: list,
  completions: list,
  *,
  column: str = '',
  tolerance: float = 1e-6,
  **columns: Any,
) -> list[float | None]:
  """1.0 where the last number of the answer is the right one.

  Signs, thousands (1,000), fractions (1/2, \\frac{1}{2}) and powers of ten are
  read; % and $ are passed over. None where the right answer has no number.

  Args:
    column: of the right answer, or of a list of right ones; '': 'solution',
      else 'answer'.
    tolerance: as a share of the right number.
  """

  def one(text: str, answer: Any) -> float | None:
    wanted = _numbers(answer)
    if not wanted:
      return None
    said = common.number(common.final(text))
    same = functools.partial(common.same_number, tolerance=tolerance)
    return float(said is not None and any(same(said, w) for w in wanted))

  return _compared(completions, common.picked(columns, column), one)


def letter(text: str, choices: str) -> str:
  """The choice that an answer names, or ''."""
  said = common.final(text)
  if (alone := _LETTER_ALONE.fullmatch(said)) and alone[1] in choices:
    return alone[1]
  for pattern in (_LETTER_TOLD, _LETTER_BRACKETED, _LETTER_STANDING):
    named = [x for x in pattern.findall(said) if x in choices]
    if pattern is _LETTER_STANDING:
      # "A" and "I" are words, too.
      named = [x for x in named if x not in 'AI'] or named
    if named:
      return named[-1]
  return ''


def choice_letter(
  prompts: list,
  completions: list,
  *,
  column: str = '',
  choices: str = 'ABCD',
  **columns: Any,
) -> list[float | None]:
  """1.0 where the answer names the right choice.

  Args:
    column: of the right letter, or of its place counted from 0; '':
      'solution', else 'answer'.
    choices: the letters there are.
  """

  def one(text: str, answer: Any) -> float | None:
    wanted = _choices(answer, choices)
    if not wanted:
      return None
    return float(letter(text, choices) in wanted)

  return _compared(completions, common.picked(columns, column), one)


def regex(
  prompts: list,
  completions: list,
  *,
  pattern: str = '',
  whole: bool = False,
  **columns: Any,
) -> list[float | None]:
  """1.0 where a pattern is found in the completion; '.' takes line breaks.

  Args:
    pattern: of Python's `re`.
    whole: the pattern has to match all of it.
  """
  compiled = re.compile(pattern, re.DOTALL)
  find = compiled.fullmatch if whole else compiled.search
  return [float(find(common.text_of(c)) is not None) for c in completions]


def math_verify(
  prompts: list,
  completions: list,
  *,
  column: str = '',
  **columns: Any,
) -> list[float | None]:
  """1.0 where the answer is mathematically the right one, by math-verify.

  Read is what comes after the thoughts: LaTeX, the last \\boxed first, or a
  plain expression. What is the right answer to the letter is right, too: words,
  or LaTeX that is none. None where the right answer cannot be read.

  Args:
    column: of the right answer, or of a list of right ones; '': 'solution',
      else 'answer'.

  Raises:
    ImportError: the package is not there.
  """
  # Its own time-outs are signals, which belong to the worker.
  parse, verify = _math()

  def one(text: str, answer: Any) -> float | None:
    golds = map(common.gold, common.accepted(answer))
    wanted = [w for gold in golds for w in _expressions(gold)]
    if not wanted:
      return None
    # With its ends: .5 is not 5, and n! is not n.
    if _plain(common.final(text), False, False) in _texts(answer, False, False):
      return 1.0
    said = parse(_judged(text), parsing_timeout=None, raise_on_error=False)
    return float(any(
      verify(w, said, timeout_seconds=None, raise_on_error=False)
      for w in wanted
    ))  # fmt: skip

  return _compared(completions, common.picked(columns, column), one)


def _judged(text: str) -> str:
  """What math-verify reads: inside the last <answer>, where there is one."""
  text = common.spoken(text)
  _, found, tail = text.rpartition('<answer>')
  return tail.partition('</answer>')[0] if found else text


@functools.cache
def _math() -> tuple[Callable, Callable]:
  try:
    import math_verify as package
  except ImportError as error:
    raise ImportError(
      'reward "math_verify" needs the package: pip install '
      '"posttrain_jax[math]"'
    ) from error
  return package.parse, package.verify


@functools.lru_cache(4096)
def _expressions(answer: str) -> tuple[list, ...]:
  """Readings of a right answer: as it stands, or as LaTeX."""
  parse, _ = _math()
  forms = (answer,) if '$' in answer or '\\boxed' in answer else (
    f'${answer}$', answer
  )  # fmt: skip
  made = (parse(form, parsing_timeout=None) for form in forms)
  return tuple(found for found in made if found)
