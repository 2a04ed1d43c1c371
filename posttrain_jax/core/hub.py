"""Names of the Hugging Face hub, where a path may stand.

  org/name                    a model
  org/name@revision           at a branch, a tag or a commit
  org/name:split@revision     a data set; a part of it, or one of its files

What exists as a path here is that path. So is what lies in a folder that is
here ('runs/x' beside 'runs/'), unless it has a revision. `pinned` gives a name
its commit, which is what runs record; the other functions give local files.
Files come through huggingface_hub into its cache, and obey HF_HOME, HF_TOKEN,
HF_ENDPOINT and HF_HUB_OFFLINE. Folders and files in a bucket have local copies
by the same functions (`core.buckets`).
"""

import functools
import glob
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from posttrain_jax.core import buckets, hub_files, paths

__all__ = ['TOKENIZER', 'Name', 'data_files', 'elsewhere', 'folder', 'parse',
           'pinned', 'tokenizer']  # fmt: skip

NEAR = 0.75  # how like a path here has to be a name that may be of the hub
COMMIT = re.compile('[0-9a-f]{40}')
_PART = r'[A-Za-z0-9](?:[\w.-]*\w)?'
_NAME = re.compile(f'({_PART}/{_PART})(?::([^@]+))?(?:@([\\w./-]+))?')
# What a tokenizer may consist of, its chat template among it.
TOKENIZER = (
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'tokenizer.model',
  'spiece.model',
  'vocab.json',
  'vocab.txt',
  'merges.txt',
  'chat_template.jinja',
)
# What is in a model folder beside its weights; by name, as repositories hold
# the files of other libraries in folders of their own.
SMALL = (
  'config.json',
  'generation_config.json',
  'adapter_config.json',
  'model.safetensors.index.json',
  *TOKENIZER,
  'additional_chat_templates/*.jinja',
)
INDEX, WEIGHTS = 'model.safetensors.index.json', 'model.safetensors'
ADAPTER = ('adapter_config.json', 'adapter_model.safetensors')


class Name(NamedTuple):
  """A name of the hub: 'org/name', the part of a data set, a revision."""

  repo: str
  part: str
  revision: str

  def at(self, commit: str) -> str:
    """The name with a commit in place of its revision."""
    return f'{self.repo}{self.part and ":" + self.part}@{commit}'


def parse(text: Any, data: bool = False) -> Name | None:
  """A name of the hub; None for a path, or what may be one.

  data  whether it is to be a data set
  """
  match = _NAME.fullmatch(text) if isinstance(text, str) else None
  if match is None or os.path.exists(text):
    return None
  name = Name(match[1], match[2] or '', match[3] or '')
  if name.part and not data:
    return None
  if name.revision:
    return name
  owner = name.repo.partition('/')[0]
  if os.path.isdir(owner):
    return None
  is_file = data and not name.part and hub_files.is_data(name.repo)
  return None if is_file else name


def _told(error: Exception, name: Name, kind: str) -> str:
  """One sentence of what went wrong, and what to do about it."""
  from huggingface_hub import constants, errors

  host = constants.ENDPOINT
  here = f'no file "{name.repo}" here, and'
  if kind == 'model':
    here = f'no checkpoint under "{name.repo}", no model folder, and'
  page = f'{host}/{"datasets/" if kind == "dataset" else ""}{name.repo}'
  code = getattr(getattr(error, 'response', None), 'status_code', None)
  if isinstance(error, errors.GatedRepoError):
    return (
      f'{page} is gated: accept its terms there, and give a token that may '
      'read it (HF_TOKEN, or "hf auth login")'
    )
  if isinstance(error, errors.RevisionNotFoundError):
    return f'{page} has no revision "{name.revision}"'
  if isinstance(error, errors.RepositoryNotFoundError) or code == 401:
    return (
      f'{here} {host} has no {kind} of this name that may be read without a '
      'token (HF_TOKEN, or "hf auth login")'
    )
  what = 'checkpoint under' if kind == 'model' else 'file'
  lacking = (
    f'no {what} "{name.repo}" here, nor all of it in {constants.HF_HUB_CACHE}'
  )
  near = ''
  if not name.revision:
    near = paths.mended(name.repo, kind == 'model', NEAR)
  near = f'. Did you mean "{near}"?' if near else ''
  instead = 'download it where there is a network, and give the path'
  if constants.HF_HUB_OFFLINE:
    return (
      f'{lacking}, and HF_HUB_OFFLINE keeps {host} from being asked: unset it, '
      f'or {instead}{near}'
    )
  why = (str(error).strip().splitlines() or [''])[0][:200]
  why = f'{type(error).__name__}: {why}' if why else type(error).__name__
  return f'{lacking}, and {host} did not give it ({why}): {instead}{near}'


def _download(name: Name, kind: str, files: tuple[str, ...]) -> str:
  """The local snapshot with these files of a repository, as far as it has them.

  Raises:
    ValueError: it cannot be had; says why, and what to do.
  """
  import huggingface_hub
  from huggingface_hub.utils import HFValidationError

  try:
    return huggingface_hub.snapshot_download(
      name.repo,
      repo_type=kind,
      revision=name.revision or None,
      allow_patterns=list(files),
    )
  except HFValidationError as error:
    raise ValueError(f'"{name.repo}" is no name of the hub: {error}') from None
  except Exception as error:  # of the network's own kinds, too
    raise ValueError(_told(error, name, kind)) from error


@functools.cache
def _commit(name: Name, kind: str) -> str:
  files = SMALL if kind == 'model' else (hub_files.CARD,)
  return Path(_download(name, kind, files)).name


def pinned(text: str, data: bool = False) -> str:
  """A name with the commit that it stands for now; what is none, as it is.

  Raises:
    ValueError: there is no such repository or revision, or no network.
  """
  name = parse(text, data)
  if name is None or COMMIT.fullmatch(name.revision):
    return text
  return name.at(_commit(name, 'dataset' if data else 'model'))


@functools.cache
def _folder(name: Name, weights: bool) -> str:
  if not weights:
    return _download(name, 'model', SMALL)
  place = Path(_folder(name, False))
  wanted = _weights(place)
  _download(name._replace(revision=place.name), 'model', wanted)
  if not all((place / file).exists() for file in wanted):
    raise ValueError(
      f'{name.repo}@{place.name} has no {wanted[0]}: weights are read from '
      f'safetensors, as {WEIGHTS} or as {INDEX} names them'
    )
  return str(place)


def _weights(place: Path) -> tuple[str, ...]:
  """The weight files of a snapshot."""
  if (place / ADAPTER[0]).exists():
    return (ADAPTER[1],)
  if not (place / INDEX).exists():
    return (WEIGHTS,)
  try:
    found = json.loads((place / INDEX).read_text())['weight_map'].values()
    return tuple(sorted(set(map(str, found))))
  except (ValueError, KeyError, AttributeError, TypeError) as error:
    raise ValueError(
      f'{place / INDEX}: no index of weights: {error!r}'
    ) from None


def _of_bucket(url: str, weights: bool) -> str:
  place = buckets.folder(url, SMALL)
  if place == url or not weights:  # a run, or nothing that is a model
    return place
  wanted = _weights(Path(place))
  place = buckets.folder(url, (*SMALL, *wanted))
  missing = [file for file in wanted if not (Path(place) / file).exists()]
  if missing:
    raise ValueError(f'{url} has no {missing[0]}')
  return place


def tokenizer(path: Any) -> str:
  """The local path of a tokenizer: a folder, as `folder` has it, or a .json
  file of one in a bucket, whose folder is copied for what lies beside it.

  Raises:
    ValueError: it cannot be had; says why.
  """
  text = os.fspath(path)
  place = folder(text)
  if place != text or not paths.is_remote(text) or not text.endswith('.json'):
    return place
  url = paths.path(text)
  beside = buckets.folder(str(url.parent), (url.name, *SMALL))
  file = os.path.join(beside, url.name)
  return file if os.path.isfile(file) else text


def elsewhere(path: str) -> bool:
  """Whether a path is a model's that is fetched to be read, its weights last:
  one of the hub, or a folder in a bucket."""
  if paths.is_remote(path):
    return folder(path) != path
  return parse(path) is not None


def folder(path: Any, weights: bool = False) -> str:
  """The local folder of a model of the hub, or of one in a bucket; any other
  path as it is.

  weights  whether it has to hold them; without, a snapshot may be a few files

  Raises:
    ValueError: it cannot be had; says why.
  """
  text = os.fspath(path)
  if paths.is_remote(text):
    return _of_bucket(text, weights)
  name = parse(text)
  return text if name is None else _folder(name, weights)


@functools.cache
def _listing(name: Name, place: str) -> tuple[str, ...]:
  """The files of a data set; those in the cache, where there is no network."""
  import huggingface_hub

  try:
    found = huggingface_hub.HfApi().list_repo_files(
      name.repo, repo_type='dataset', revision=name.revision
    )
  except Exception:
    root = Path(place)
    found = [str(x.relative_to(root)) for x in root.rglob('*') if x.is_file()]
  return tuple(sorted(found))


@functools.cache
def _data_files(name: Name) -> tuple[str, ...]:
  card = (hub_files.CARD,)
  place = _download(name, 'dataset', card)
  here = name._replace(revision=Path(place).name)
  chosen = hub_files.chosen(
    _listing(here, place), Path(place) / hub_files.CARD, name.part, name.repo
  )
  place = _download(here, 'dataset', tuple(map(glob.escape, chosen)))
  paths = tuple(os.path.join(place, file) for file in chosen)
  missing = [path for path in paths if not os.path.exists(path)]
  if missing:
    raise ValueError(
      f'{name.repo}: {missing[0]} is not there, and was not given'
    )
  return paths


def data_files(path: Any, part: str = '') -> list[str] | None:
  """Local files of a data set of the hub, or of what lies in a bucket; None
  where a path is neither.

  part  of it, where the name has none

  Raises:
    ValueError: it cannot be had; it has no files that are read, or several
      parts of which one has to be named.
  """
  text = os.fspath(path)
  if paths.is_remote(text):
    return buckets.local(text)
  name = parse(text, data=True)
  if name is None:
    return None
  return list(_data_files(name._replace(part=name.part or part)))
