"""Which files of a data set's repository are which part of it.

A repository's card (README.md) may name its parts, as `configs`; else the names
of its files do: 'main/train-00000-of-00002.parquet' is of 'main/train'.
"""

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from posttrain_jax.core.names import nearest

__all__ = ['CARD', 'chosen', 'is_data']

CARD = 'README.md'
SUFFIXES = ('.jsonl', '.json', '.parquet', '.arrow', '.jsonl.gz', '.jsonl.zst',
            '.json.gz', '.json.zst')  # fmt: skip
_SHARD = re.compile(r'[-_.]\d+(-of-\d+)?(-[0-9a-f]{8,})?$')
MOST_NAMED = 12


def is_data(path: str) -> bool:
  """Whether a file's name says that records are in it."""
  return path.lower().endswith(SUFFIXES)


def _by_name(files: Iterable[str]) -> dict[str, list[str]]:
  """{part: files} as their names tell it."""
  parts: dict[str, list[str]] = {}
  for file in files:
    suffix = max((s for s in SUFFIXES if file.endswith(s)), key=len)
    stem = file.removesuffix(suffix)
    folder, _, name = stem.rpartition('/')
    if name.isdigit() and folder:  # train/0000.parquet
      name = folder
    else:
      folder = '' if folder == 'data' else folder
      name = '/'.join(filter(None, (folder, _SHARD.sub('', name))))
    parts.setdefault(name, []).append(file)
  return parts


def _patterns(entry: Any) -> list[tuple[str, list[str]]]:
  """[(split, patterns)] of a card's data_files."""
  if isinstance(entry, str):
    return [('train', [entry])]
  if not isinstance(entry, list):
    return []
  if all(isinstance(item, str) for item in entry):
    return [('train', entry)]
  out = []
  for item in entry:
    if isinstance(item, dict) and item.get('path'):
      path = item['path']
      paths = [path] if isinstance(path, str) else list(map(str, path))
      out.append((str(item.get('split', 'train')), paths))
  return out


def _by_card(card: Path, files: Sequence[str]) -> dict[str, list[str]]:
  """{part: files} as the card tells it; nothing where it does not."""
  text = card.read_text('utf-8', 'replace') if card.is_file() else ''
  head = re.match(r'---\s*\n(.*?\n)---', text, re.DOTALL)
  if head is None:
    return {}
  import yaml

  try:
    found = yaml.safe_load(head[1])
  except yaml.YAMLError:
    return {}
  configs = found.get('configs') if isinstance(found, dict) else None
  parts: dict[str, list[str]] = {}
  configs = configs if isinstance(configs, list) else []
  for config in configs:
    name = str(config.get('config_name', 'default'))
    prefix = '' if name == 'default' or len(configs) == 1 else f'{name}/'
    for split, patterns in _patterns(config.get('data_files')):
      matched = [
        x for x in files if any(fnmatch.fnmatch(x, p) for p in patterns)
      ]
      if matched:
        parts[prefix + split] = matched
  return parts


def chosen(
  listing: Iterable[str], card: Path, part: str, repo: str
) -> list[str]:
  """The files of a part, in order.

  listing  all files of the repository
  part     a split, 'config/split', a file or a glob of files; '': its only part

  Raises:
    ValueError: no files that are read; no such part, with the nearest; or
      several, of which one has to be named.
  """
  listing = list(listing)
  files = sorted(x for x in listing if is_data(x))
  if not files:
    kinds = sorted({os.path.splitext(x)[1] for x in listing} - {''})
    raise ValueError(
      f'{repo} has no files of JSON lines, Parquet or Arrow'
      + (f', but of {", ".join(kinds)}' if kinds else '')
    )
  parts = _by_card(card, files) or _by_name(files)
  if part in parts:
    return parts[part]
  if not part and len(parts) == 1:
    return next(iter(parts.values()))
  names = sorted(parts)
  shown = ', '.join(names[:MOST_NAMED])
  shown += f' and {len(names) - MOST_NAMED} more' * (len(names) > MOST_NAMED)
  if not part:
    raise ValueError(
      f'{repo} has the parts {shown}: name one as "{repo}:{names[0]}"'
    )
  ends = [name for name in names if name.endswith(f'/{part}')]
  if len(ends) == 1:
    return parts[ends[0]]
  if ends:
    raise ValueError(
      f'{repo} has several parts "{part}": name one of {", ".join(ends)}'
    )
  matched = fnmatch.filter(files, part)
  if not matched:
    raise ValueError(
      f'{repo} has no part and no file "{part}".{nearest(part, names)}'
    )
  return matched
