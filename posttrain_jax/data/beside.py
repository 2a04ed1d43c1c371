"""Columns that say how the others are written: tools, template variables.

They are read where the chat template of the model's folder reads them. To drop
them would train on another prompt than the record's author meant.
"""

import json
from collections.abc import Mapping
from typing import Any

from posttrain_jax.data import chat
from posttrain_jax.data.quoting import shown
from posttrain_jax.data.template import Template

__all__ = ['UNSUPPORTED', 'check', 'tools_of', 'variables_of']

# What chat templates and multimodal models read; the first two may be there.
UNSUPPORTED = (
  'tools',
  'chat_template_kwargs',
  'functions',
  'chat_template',
  'image',
  'images',
  'video',
  'videos',
  'audio',
  'audios',
)


def _parsed(record: dict, name: str, where: str) -> Any:
  """A column that may be JSON in a string, as files of columns hold it."""
  value = record.get(name)
  if not isinstance(value, str) or not value:
    return value
  try:
    return json.loads(value)
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{where}: column "{name}": no JSON: {str(error)[:80]}'
    ) from None


def tools_of(record: dict, where: str = 'record') -> list[dict] | None:
  """The tools of a record, as JSON schemas; None where it has none.

  Raises:
    ValueError: they are no list of them.
  """
  tools = _parsed(record, 'tools', where)
  if tools in chat.EMPTY:
    return None
  if not isinstance(tools, list) or not all(
    isinstance(tool, Mapping) for tool in tools
  ):
    raise ValueError(
      f'{where}: column "tools": expected a list of JSON schemas, got '
      f'{shown(tools)}'
    )
  return [dict(tool) for tool in tools]


def variables_of(record: dict, where: str = 'record') -> dict[str, Any]:
  """A record's own variables of the chat template (`chat_template_kwargs`).

  Raises:
    ValueError: they are no names with values.
  """
  found = _parsed(record, 'chat_template_kwargs', where)
  if found in chat.EMPTY:
    return {}
  if not isinstance(found, Mapping):
    raise ValueError(
      f'{where}: column "chat_template_kwargs": expected names with values, '
      f'got {shown(found)}'
    )
  return dict(found)


def check(
  record: dict, columns: tuple[str, ...], where: str, template: Template | None
) -> None:
  """The columns that say something about the others, and what reads them."""
  for name in UNSUPPORTED:
    if record.get(name) in chat.EMPTY:
      continue
    at = f'{where}: column "{name}"'
    if template is None or name not in ('tools', 'chat_template_kwargs'):
      raise ValueError(f'{at} is not supported')
    if name == 'tools':
      if tools_of(record, where) and not template.reads_variable('tools'):
        raise ValueError(
          f'{at} is not supported: the chat template does not read it'
        )
      continue
    try:
      template.check_variables(variables_of(record, where))
    except ValueError as error:
      raise ValueError(f'{at}: {error}') from None

  if any(isinstance(record.get(name), list) for name in columns):
    return
  for name in UNSUPPORTED[:2]:
    if record.get(name) not in chat.EMPTY:
      raise ValueError(
        f'{where}: column "{name}" is not supported beside texts: it says how '
        'messages are written'
      )
