"""A function's docstring, taken apart for the objectives page.

The rooms write one kind of docstring: a summary, lines of formula, prose,
sections (`Args:`), and the sources. Paragraphs are told apart by their shape,
so that a new function needs no markup:

  prose ends with a full stop
  a formula has an operator and does not end with a full stop, or is indented
  a list of parameters has a parameter's name and two spaces before each entry
"""

import dataclasses
import inspect
import re
from collections.abc import Iterable

__all__ = ['Doc', 'parse', 'problems', 'short_url', 'urls_of']

_URL = re.compile(r'https?://[^\s<>"`]+')
_HEADING = r'(Args|Returns|Raises|Extras|Metrics|Yields):'
_SECTION = re.compile(_HEADING + r'\n(?=\s)')
_REFERENCE = re.compile(r'References?:\s*')
_ITEM = re.compile(r'(\w+)(?:, \w+)*\s{2,}\S')
_OPERATOR = re.compile(r'[=^<]|\|\||\s[*/+-]\s|\w\(.+\)')
_PAPER = re.compile(
  r"[A-Z][\w'’.-]+(?: et al\.?| and [A-Z][\w'’-]+)?,? \((?:19|20)\d\d[a-z]?\)"
)


@dataclasses.dataclass(frozen=True)
class Doc:
  """What a docstring says, part by part.

  summary    its first paragraph, on one line
  formula    lines of formula, '' where there are none
  notes      paragraphs of prose
  sections   {'Args': text, ...}, lists of parameters under 'Args'
  reference  the text after `Reference:`, on one line
  urls       every URL of the docstring, in order
  text       the docstring
  """

  summary: str
  formula: str
  notes: tuple[str, ...]
  sections: dict[str, str]
  reference: str
  urls: tuple[str, ...]
  text: str


def urls_of(text: str) -> tuple[str, ...]:
  """Every URL of a text once, without the punctuation after it."""
  found = [match.rstrip('.,;:)\'"') for match in _URL.findall(text)]
  return tuple(dict.fromkeys(found))


def short_url(url: str) -> str:
  """What a link is called: 'arXiv 2402.03300', 'doi 10.1007/...', a host."""
  for prefix, name in (
    ('https://arxiv.org/abs/', 'arXiv '),
    ('https://doi.org/', 'doi '),
  ):
    if url.startswith(prefix):
      return name + url.removeprefix(prefix)
  return re.sub(r'^https?://(www\.)?', '', url)


def _joined(block: str) -> str:
  return ' '.join(block.split())


def _is_formula(block: str) -> bool:
  lines = block.splitlines()
  if all(line.startswith('  ') for line in lines):
    return True
  ends_as_prose = block.rstrip().endswith(('.', ':', ';', '.)'))
  return not ends_as_prose and bool(_OPERATOR.search(block))


def _is_list(block: str, parameters: Iterable[str]) -> bool:
  match = _ITEM.match(block)
  return match is not None and match[1] in set(parameters)


def parse(text: str | None, parameters: Iterable[str] = ()) -> Doc:
  """Takes a docstring apart.

  Args:
    text: as `function.__doc__` holds it; None is an empty one.
    parameters: names of the function's parameters.
  """
  text = inspect.cleandoc(text or '')
  parameters = tuple(parameters)
  first, *blocks = re.split(r'\n\s*\n', text)
  formula: list[str] = []
  notes: list[str] = []
  references: list[str] = []
  sections: dict[str, list[str]] = {}
  for block in blocks:
    section = _SECTION.match(block)
    if section:
      body = inspect.cleandoc('\n' + block[section.end() :])
      sections.setdefault(section[1], []).append(body)
    elif _REFERENCE.match(block):
      references.append(_joined(_REFERENCE.sub('', block, count=1)))
    elif _is_list(block, parameters):
      sections.setdefault('Args', []).append(block)
    elif _is_formula(block):
      formula.append(inspect.cleandoc('\n' + block))
    else:
      notes.append(_joined(block))
  return Doc(
    summary=_joined(first),
    formula='\n'.join(formula),
    notes=tuple(notes),
    sections={name: '\n'.join(parts) for name, parts in sections.items()},
    reference='; '.join(references),
    urls=urls_of(text),
    text=text,
  )


def problems(doc: Doc) -> list[str]:
  """What a reader of the page would miss in a docstring."""
  found = []
  if not doc.summary:
    found.append('has no summary')
  elif _REFERENCE.match(doc.summary) or re.match(_HEADING, doc.summary):
    found.append(f'starts with "{doc.summary[:40]}" in place of a summary')
  papers = _PAPER.findall(doc.text)
  if papers and not doc.urls:
    found.append(f'names {papers[0]} and has no URL')
  return found
