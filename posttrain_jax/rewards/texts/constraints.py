"""Instructions that a program can check, in the columns of IFEval.

  {"prompt": "... in at least 50 words, without commas",
   "instruction_id_list": ["length_constraints:number_words",
                           "punctuation:no_comma"],
   "kwargs": [{"relation": "at least", "num_words": 50}, {}]}

`KINDS` has every kind with its arguments; arguments that are null count as
absent. What is counted, and how, follows the paper's description.

Reference: Zhou et al. (2023), IFEval, https://arxiv.org/abs/2311.07911; its
kind `language:response_language` needs a language detector and is left out
"""

import functools
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from posttrain_jax.core.names import nearest
from posttrain_jax.rewards.texts import common

__all__ = ['KINDS', 'check_instructions', 'if_constraints']

RELATIONS = ('at least', 'less than')
RESPONSES = ('My answer is yes.', 'My answer is no.', 'My answer is maybe.')


class Kind(NamedTuple):
  """(text, **arguments) -> bool, and {argument: type}."""

  holds: Callable[..., bool]
  arguments: dict[str, type]


def _counts(count: int, relation: str, number: int) -> bool:
  return count >= number if relation == 'at least' else count < number


def _words(text: str) -> list[str]:
  return re.findall(r'\w+', text)


def _sentences(text: str) -> int:
  return sum(bool(_words(part)) for part in re.split(r'[.!?]+(?=\s|$)', text))


def _number_words(text, relation, num_words):
  return _counts(len(_words(text)), relation, num_words)


def _number_sentences(text, relation, num_sentences):
  return _counts(_sentences(text), relation, num_sentences)


def _number_paragraphs(text, num_paragraphs):
  """Separated by ***; only the first and the last may be empty."""
  parts = [part.strip() for part in re.split(r'\s?\*\*\*\s?', text)]
  inner = parts[1:-1]
  return all(inner) and sum(map(bool, parts)) == num_paragraphs


def _nth_first_word(text, num_paragraphs, nth_paragraph, first_word):
  parts = [part.strip() for part in re.split(r'\n\s*\n', text)]
  parts = [part for part in parts if part]
  if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= len(parts):
    return False
  words = _words(parts[nth_paragraph - 1])
  return bool(words) and words[0].lower() == first_word.lower()


def _placeholders(text, num_placeholders):
  return len(re.findall(r'\[.*?\]', text)) >= num_placeholders


def _postscript(text, postscript_marker):
  letters = re.findall(r'[a-z]', postscript_marker.lower())
  mark = r'\.\s?'.join(map(re.escape, letters))
  return re.search(rf'^\s*{mark}', text.lower(), re.MULTILINE) is not None


def _bullets(text, num_bullets):
  stars = re.findall(r'^\s*\*[^*].*$', text, re.MULTILINE)
  return len(stars) + len(re.findall(r'^\s*-.*$', text, re.MULTILINE)) == (
    num_bullets
  )


def _highlights(text, num_highlights):
  double = re.findall(r'\*\*([^\n*]+)\*\*', text)
  single = re.findall(r'\*([^\n*]+)\*', re.sub(r'\*\*[^\n*]+\*\*', '', text))
  return sum(bool(x.strip()) for x in double + single) >= num_highlights


def _sections(text, section_spliter, num_sections):
  mark = rf'\s?{re.escape(section_spliter.strip())}\s?\d+\s?'
  return len(re.findall(mark, text)) >= num_sections


def _json_format(text):
  inside = re.sub(r'^```(?:json)?\s*|\s*```$', '', text.strip(), flags=re.I)
  try:
    json.loads(inside)
  except (ValueError, RecursionError):
    return False
  return True


def _title(text):
  return any(x.strip('<> ') for x in re.findall(r'<<[^\n]+?>>', text))


def _capital_words(text, capital_relation, capital_frequency):
  words = [word for word in _words(text) if word.isupper()]
  return _counts(len(words), capital_relation, capital_frequency)


def _existence(text, keywords):
  return all(word.lower() in text.lower() for word in keywords)


def _forbidden(text, forbidden_words):
  found = (
    re.search(rf'\b{re.escape(word)}\b', text, re.IGNORECASE)
    for word in forbidden_words
  )
  return not any(found)


def _frequency(text, keyword, frequency, relation):
  count = text.lower().count(keyword.lower())
  return _counts(count, relation, frequency)


def _letters(text, letter, let_frequency, let_relation):
  return _counts(text.lower().count(letter.lower()), let_relation,
                 let_frequency)  # fmt: skip


def _ends(text, end_phrase):
  text = text.strip().strip('"').lower()
  return text.endswith(end_phrase.strip().lower())


def _quoted(text):
  text = text.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


def _two_responses(text):
  parts = [part.strip() for part in text.split('******')]
  parts = [part for part in parts if part]
  return len(parts) == 2 and parts[0] != parts[1]


def _repeats(text, prompt_to_repeat):
  start = prompt_to_repeat.strip().lower()
  return text.strip().lower().startswith(start)


KINDS = {
  'change_case:capital_word_frequency': Kind(
    _capital_words, {'capital_relation': str, 'capital_frequency': int}
  ),
  'change_case:english_capital': Kind(lambda text: text.isupper(), {}),
  'change_case:english_lowercase': Kind(lambda text: text.islower(), {}),
  'combination:repeat_prompt': Kind(_repeats, {'prompt_to_repeat': str}),
  'combination:two_responses': Kind(_two_responses, {}),
  'detectable_content:number_placeholders': Kind(
    _placeholders, {'num_placeholders': int}
  ),
  'detectable_content:postscript': Kind(
    _postscript, {'postscript_marker': str}
  ),
  'detectable_format:constrained_response': Kind(
    lambda text: any(x in text for x in RESPONSES), {}
  ),
  'detectable_format:json_format': Kind(_json_format, {}),
  'detectable_format:multiple_sections': Kind(
    _sections, {'section_spliter': str, 'num_sections': int}
  ),
  'detectable_format:number_bullet_lists': Kind(_bullets, {'num_bullets': int}),
  'detectable_format:number_highlighted_sections': Kind(
    _highlights, {'num_highlights': int}
  ),
  'detectable_format:title': Kind(_title, {}),
  'keywords:existence': Kind(_existence, {'keywords': list}),
  'keywords:forbidden_words': Kind(_forbidden, {'forbidden_words': list}),
  'keywords:frequency': Kind(
    _frequency, {'keyword': str, 'frequency': int, 'relation': str}
  ),
  'keywords:letter_frequency': Kind(
    _letters, {'letter': str, 'let_frequency': int, 'let_relation': str}
  ),
  'length_constraints:nth_paragraph_first_word': Kind(
    _nth_first_word,
    {'num_paragraphs': int, 'nth_paragraph': int, 'first_word': str},
  ),
  'length_constraints:number_paragraphs': Kind(
    _number_paragraphs, {'num_paragraphs': int}
  ),
  'length_constraints:number_sentences': Kind(
    _number_sentences, {'relation': str, 'num_sentences': int}
  ),
  'length_constraints:number_words': Kind(
    _number_words, {'relation': str, 'num_words': int}
  ),
  'punctuation:no_comma': Kind(lambda text: ',' not in text, {}),
  'startend:end_checker': Kind(_ends, {'end_phrase': str}),
  'startend:quotation': Kind(_quoted, {}),
}


def _bound(name: str, given: Any) -> Callable[[str], bool]:
  """The check of one instruction of KINDS.

  Raises:
    ValueError: an unknown argument, one that is missing or of another type,
      with what is expected.
  """
  if not isinstance(given, dict):
    raise ValueError(f'instruction "{name}": arguments {given!r} are no dict')
  given = {key: x for key, x in given.items() if x is not None}
  kind = KINDS[name]
  for key in given:
    if key not in kind.arguments:
      raise ValueError(
        f'instruction "{name}" takes no "{key}".{nearest(key, kind.arguments)}'
      )
  for key, wanted in kind.arguments.items():
    value = given.get(key)
    if wanted is int and isinstance(value, float) and value.is_integer():
      given[key] = value = int(value)  # as tables with gaps hold them
    if not isinstance(value, wanted) or isinstance(value, bool):
      raise ValueError(
        f'instruction "{name}" needs "{key}" as {wanted.__name__}, not '
        f'{value!r}'
      )
    if key.endswith('relation') and value not in RELATIONS:
      raise ValueError(
        f'instruction "{name}": {key}="{value}".{nearest(value, RELATIONS)}'
      )
  return functools.partial(kind.holds, **given)


def _all_bound(
  names: Any, arguments: Any, column: str, kwargs_column: str
) -> list[Callable[[str], bool]]:
  """The checks of a record's instructions.

  Raises:
    ValueError: what is wrong with one of the two columns, with its name.
  """
  if not isinstance(names, list | tuple):
    raise ValueError(f'column "{column}": {names!r} is no list of instructions')
  for name in names:
    if not isinstance(name, str) or name not in KINDS:
      raise ValueError(
        f'column "{column}": unknown instruction "{name}".'
        + nearest(name, KINDS)
      )
  if arguments is None:
    arguments = [{}] * len(names)
  try:
    if not isinstance(arguments, list | tuple) or len(arguments) != len(names):
      raise ValueError(
        f'{len(names)} instructions need a list of as many arguments, not '
        f'{arguments!r}'
      )
    return [_bound(name, given or {}) for name, given in zip(names, arguments)]
  except ValueError as error:
    raise ValueError(f'column "{kwargs_column}": {error}') from None


def check_instructions(
  columns: dict[str, Any], *, column: str, kwargs_column: str, **others: Any
) -> None:
  """Raises ValueError unless a record's instructions can be checked; one
  without any is passed over."""
  del others
  if not common.empty(columns.get(column)):
    _all_bound(
      columns[column], columns.get(kwargs_column), column, kwargs_column
    )


def if_constraints(
  prompts: list,
  completions: list,
  *,
  column: str = 'instruction_id_list',
  kwargs_column: str = 'kwargs',
  partial: bool = False,
  **columns: Any,
) -> list[float | None]:
  """1.0 where every instruction is followed; what is checked comes after the
  thoughts. None where a record has none.

  Args:
    column: of the names of instructions, of KINDS.
    kwargs_column: of their arguments, a dict each.
    partial: the share of instructions that are followed.
  """

  def one(text: str, names: Any, arguments: Any) -> float | None:
    if common.empty(names):
      return None
    text = common.spoken(text).strip()
    checks = _all_bound(names, arguments, column, kwargs_column)
    followed = [bool(text) and holds(text) for holds in checks]
    return sum(followed) / len(followed) if partial else float(all(followed))

  texts = map(common.text_of, completions)
  given = columns.get(kwargs_column) or [None] * len(completions)
  return [one(*row) for row in zip(texts, columns[column], given)]
