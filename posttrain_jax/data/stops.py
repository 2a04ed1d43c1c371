"""Where a model stops: what its folder declares, and what its template writes.

A chat template ends an assistant's turn with a special token; that is what is
trained, and where a sampler has to stop. It is found by writing two answers, a
text and a tool call, and by looking at what stands after them.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from posttrain_jax.data.template import Template

__all__ = ['CHATML', 'declared', 'written']

# What opens and ends a turn of ChatML; a folder without a template that has
# both is written so.
CHATML = ('<|im_start|>', '<|im_end|>')

SAID = 'said9'  # what the answers say; templates strip spaces, and no more
CALL = {
  'type': 'function',
  'id': 'abcdefgh9',  # some templates count its characters
  'function': {'name': 'tool', 'arguments': {'x': SAID}},
}
TOOL = {
  'type': 'function',
  'function': {
    'name': 'tool',
    'description': 'd',
    'parameters': {
      'type': 'object',
      'properties': {'x': {'type': 'string', 'description': 'd'}},
      'required': ['x'],
    },
  },
}
ASKED = {'role': 'user', 'content': 'asked'}


def declared(
  files: Mapping[str, Mapping[str, Any]],
) -> tuple[str, tuple[int, ...], list[tuple[str, Any]]]:
  """(file, ids, what is none) of the first file whose "eos_token_id" names an
  id, or a list with one; ('', (), what is none).

  What is none, as -1 of folders without one, is passed over.

  files  {file: content}: generation_config.json, config.json

  Returns what was passed over as (file, value), for who tells it.
  """
  none: list[tuple[str, Any]] = []
  for file, content in files.items():
    value = content.get('eos_token_id')
    ids = value if isinstance(value, list) else [value]
    if value is None:
      continue
    good = tuple(i for i in ids if type(i) is int and i >= 0)
    none += [(file, i) for i in ids if type(i) is not int or i < 0]
    if good:
      return file, good, none
  return '', (), none


def _after(template: Template, answer: dict, tools: list | None) -> str:
  """What the template writes after an answer; '' where it refuses it."""
  try:
    text = template.render([ASKED, answer], tools=tools).text
  except ValueError:
    return ''
  return text.rpartition(SAID)[2] if SAID in text else ''


def written(template: Template, names: Collection[str]) -> list[str]:
  """Special tokens, of `names`, that end what an assistant says.

  The first after a text is one (what follows it ends the conversation, as in
  Phi-3), and the last of a tool call's turn (others end its call).
  """
  if not names:
    return []
  longest = sorted(names, key=len, reverse=True)
  any_of = re.compile('|'.join(map(re.escape, longest)))
  answer = {'role': 'assistant', 'content': SAID}
  found = any_of.findall(_after(template, answer, None))[:1]
  if template.reads('tool_calls'):
    answer = {'role': 'assistant', 'content': '', 'tool_calls': [CALL]}
    found += any_of.findall(_after(template, answer, [TOOL]))[-1:]
  return list(dict.fromkeys(found))
