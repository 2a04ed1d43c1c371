"""What `config.data` names, opened; what is open and unchanged is kept."""

import json
from collections import OrderedDict
from typing import Any

from posttrain_jax.data import files, pipeline, sources
from posttrain_jax.data.rows import Source, Stored

__all__ = ['check_data', 'open_path', 'open_records', 'spec_of']

_OPENED: OrderedDict[str, Source] = OrderedDict()
MOST_OPEN = 8


def check_data(data: Any) -> None:
  """Raises ValueError unless the keys of a `config.data` go together."""
  listed = len(data.get('sources', ())) > 0
  if data.source == 'task':
    keys = ('path', 'sources', 'name', 'packing', 'num_epochs', 'eval_path',
            'eval_fraction')  # fmt: skip
    given = [f'data.{key}' for key in keys if data.get(key)]
    if given:
      verb = 'are' if len(given) > 1 else 'is'
      raise ValueError(
        f'{" and ".join(given)} {verb} for data.source "jsonl" and "tfds", not '
        '"task"; set data.source, as in configs/sft.py:data=jsonl'
      )
    return
  if data.source == 'tfds':
    if len(data.name.split(':')) != 2:
      raise ValueError(
        'data.source="tfds" needs data.name as BUILDER:SPLIT, not '
        f'"{data.name}"'
      )
    if listed:
      raise ValueError('data.sources is for data.source="jsonl", not "tfds"')
  elif listed and data.path:
    raise ValueError(
      f'data.path="{data.path}" and data.sources: each says what the data '
      'are; leave one out'
    )
  elif not listed and not data.path:
    raise ValueError(
      f'data.source="{data.source}" needs data.path: a file or a glob; or '
      'data.sources: a list of them'
    )
  elif listed:
    sources.entries(data.sources, 'data.sources')
  if data.eval_path and data.eval_fraction:
    raise ValueError(
      f'data.eval_path="{data.eval_path}" and data.eval_fraction='
      f'{data.eval_fraction:g}: each says what a run is judged by; leave one '
      'out'
    )


def spec_of(data: Any) -> Any:
  """What `sources.open_source` is given for a `config.data`."""
  if isinstance(data.get('sources', ()), str):
    return data.sources or data.path
  if len(data.get('sources', ())):
    return [dict(x) if hasattr(x, 'items') else x for x in data.sources]
  return data.path


def _unchanged(source: Source) -> bool:
  """Whether the files of an opened source are as they were."""
  if not isinstance(source, Stored) or source.stamp is None:
    return False
  try:
    return _flat(source.stamp) == files.stamp(source.paths())
  except OSError:
    return False


def _flat(stamp: Any) -> tuple:
  """(path, size, time) of every file of a stamp of joined ones."""
  if not stamp or isinstance(stamp[0], str):
    return (stamp,) if stamp else ()
  return tuple(entry for part in stamp for entry in _flat(part))


def open_path(spec: Any, name: str) -> Source:
  """`sources.open_source`; what is open already and unchanged is taken again.

  The runs of a sweep read one file, and a run asks for it more than once.
  """
  entries = sources.entries(spec, name)
  found = [sources.local(**e) for e in entries]
  key = json.dumps([entries, found], default=str)
  if key in _OPENED and _unchanged(_OPENED[key]):
    _OPENED.move_to_end(key)
    return _OPENED[key]
  _OPENED[key] = source = sources.open_source(spec, name)
  while len(_OPENED) > MOST_OPEN:
    _OPENED.popitem(last=False)
  return source


def open_records(data: Any) -> Source:
  """The records that a `config.data` names, as they are."""
  if data.source != 'tfds':
    name = 'data.sources' if len(data.get('sources', ())) else 'data.path'
    return open_path(spec_of(data), name)
  builder, split_name = data.name.split(':')
  return pipeline.TfdsSource(builder, split_name, data.path or None)
