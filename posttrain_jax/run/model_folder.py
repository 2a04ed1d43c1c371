"""What a run starts from is one thing: a model, its tokenizer, its habits.

`config.init_from` brings the tokenizer, and with it the chat template and the
tokens at which the model stops, where `config.tokenizer` is 'auto'. What was
chosen stands in the run's config from then on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain_jax.core import dtypes, hub
from posttrain_jax.data import tokenizers
from posttrain_jax.data.text_task import is_text
from posttrain_jax.models import hf
from posttrain_jax.models.hf_config import is_scorer, read_json
from posttrain_jax.params import peft
from posttrain_jax.run import checkpoint, hub_keys
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.auto import AUTO
from posttrain_jax.trainers.step import from_file

__all__ = ['check_template', 'check_tokens', 'choose', 'load_tokenizer',
           'settled', 'stored_dtype', 'tokenizer_of']  # fmt: skip

# Files that say that a folder has a tokenizer, in one form or another.
FILES = ('tokenizer.json', 'tokenizer.model', 'spiece.model', 'vocab.json',
         'vocab.txt', 'tokenizer_config.json')  # fmt: skip


def _is_model(folder: Path) -> bool:
  """Whether it is a model folder of Hugging Face, and no run of ours."""
  there = (folder / 'config.json').is_file()
  return there and not (folder / checkpoint.FOLDER).is_dir()


def _saved(path: str) -> dict[str, Any]:
  """What the run at a path saved of itself.

  Raises:
    ValueError: there is no run.
  """
  return checkpoint.load_config(checkpoint.run_folder(path)[0]) or {}


def tokenizer_of(path: str) -> str:
  """The tokenizer of a run, a model folder or one of PEFT, whose base may have
  it; '' where there is none.

  Raises:
    ValueError: there is no run.
  """
  folder = Path(hub.folder(path))
  own = any((folder / name).is_file() for name in FILES)
  if peft.is_folder(path):
    return str(path) if own else tokenizer_of(peft.base_of(path))
  if _is_model(folder):
    return str(path) if own else ''
  found = _saved(path).get('config', {}).get('tokenizer', '')
  return '' if found == AUTO else found


def _has_weights(path: str) -> bool:
  """Whether a model folder is more than a config.json, which gives sizes."""
  if not path or hub.elsewhere(path):  # whose weights come when they are read
    return bool(path)
  return any(Path(path).glob('*.safetensors')) or bool(hf.pickled(path))


def choose(config: Any) -> str:
  """What 'auto' is in a config.

  That of `init_from`, a run or a model folder; where it has none, or nothing
  is started from, 'byte' for text tasks and one's own files, and 'task' for all
  others.

  Raises:
    ValueError: `init_from` is neither, or has weights and no tokenizer where
      text is written for it.
  """
  found = tokenizer_of(config.init_from) if config.init_from else ''
  # The prompts of a file are text as well, and no task's.
  text = is_text(config.task.name) or config.task.name == 'none'
  written = text or from_file(config)
  if written and not found and _has_weights(config.init_from):
    raise ValueError(
      f'init_from={config.init_from} has no tokenizer.json, and its model '
      'would be given tokens that it does not know; put the tokenizer of the '
      'model there, or name one: --config.tokenizer=FOLDER'
    )
  # Data sets of tensorflow_datasets may be those of in-graph tasks.
  own = from_file(config) and config.data.source != 'tfds'
  return found or ('byte' if text or own else 'task')


def settled(config: Any) -> Any:
  """The config with its tokenizer decided, and names of the hub with the
  commits that they stand for: itself, where both was so.

  Raises:
    ValueError: as `choose` and `hub_keys.pinned`.
  """
  config = hub_keys.pinned(config)
  if config.get('tokenizer') != AUTO or 'task' not in config:
    return config  # what lacks a task is no run, and refused elsewhere
  return config_lib.with_values(config, {'tokenizer': choose(config)})


def load_tokenizer(config: Any) -> tokenizers.Tokenizer:
  """The tokenizer of a settled config.

  Raises:
    ValueError: there is none of that name, or it cannot be read.
  """
  data = config.get('data', {})
  how = {
    key: data[key] for key in ('special_text', 'after_stop') if key in data
  }
  return tokenizers.load(config.tokenizer, **how)


def check_tokens(
  config: Any, tokenizer: tokenizers.Tokenizer, paths: Mapping[str, str]
) -> None:
  """Raises ValueError for a frozen model that reads other tokens than the run.

  tokenizer  of the run, of config.tokenizer
  paths      {role: where its model is read from}; '' and folders without a
             tokenizer are not looked at, and neither are those of reward models
             that read text; those of `config.strength` read tokens
  """
  reads_tokens = config.get('strength', ())
  for role, path in sorted(paths.items()):
    folder = Path(hub.folder(path)) if path else None
    if folder is None:
      continue
    if role not in reads_tokens and _is_model(folder) and is_scorer(folder):
      continue
    theirs = tokenizer_of(path)
    if theirs in ('', config.tokenizer):
      continue
    key = 'ref.path' if role == 'ref' else f'others.{role}'
    try:
      found = tokenizers.load(theirs)
    except (ValueError, OSError) as error:
      checkpoint.tell(
        f'{key}={path}: its tokenizer cannot be read, so that its tokens are '
        f'not compared with those of the run: {error}'
      )
      continue
    where = (
      f'{key}={path} speaks other tokens than the run, whose tokenizer is '
      f'{config.tokenizer}'
    )
    if type(found) is not type(tokenizer):
      raise ValueError(f'{where}, not {theirs}')
    if not isinstance(found, tokenizers.BPETokenizer):
      continue
    for i in range(min(found.vocab_size, tokenizer.vocab_size)):
      if found.name(i) != tokenizer.name(i):
        raise ValueError(
          f'{where}: token {i} is "{found.name(i)}" there, and '
          f'"{tokenizer.name(i)}" here'
        )
    if found.vocab_size < tokenizer.vocab_size:
      raise ValueError(
        f'{where}: {found.vocab_size:,} tokens there, and '
        f'{tokenizer.vocab_size:,} here'
      )


def stored_dtype(path: str) -> str:
  """In what the weights that a run starts from were stored; '': not known.

  That of the model folder at the beginning of a chain of runs.
  """
  if not path:
    return ''
  adapter = peft.is_folder(path)
  folder = Path(hub.folder(peft.base_of(path) if adapter else path))
  if not _is_model(folder):
    return _saved(str(folder) if adapter else path).get('init_dtype', '')
  content = read_json(folder / 'config.json')
  content = {**content, **(content.get('text_config') or {})}
  found = content.get('dtype') or content.get('torch_dtype') or ''
  return found if found in dtypes.STORED else ''


def check_template(config: Any, run: Any, workdir: str | Path) -> None:
  """Raises ValueError where a run began with other turns than it would go on
  with: before the folder's own chat template was read. Tells where tokens may
  differ otherwise."""
  saved = checkpoint.load_config(workdir)
  if saved is None or 'chat_template' in saved:
    return
  turns = saved.get('conversations') or is_text(config.task.name)
  if turns and run.tokenizer.template is not None:
    raise ValueError(
      f'{workdir} began without the chat template of {config.tokenizer}, and '
      'would go on with it, on other tokens; use another --workdir (init_from '
      'this one goes on from its weights)'
    )
  if run.tokenizer.special_names and from_file(config):
    checkpoint.tell(
      f'{workdir} began when a prompt and its answer were tokenised apart: '
      'where a token reaches from one into the other, the rest of this run is '
      'trained on the tokens of both as one text'
    )
