"""Writes a trained run as a Hugging Face folder.

  python -m posttrain_jax.export --checkpoint runs/x --out exported/x

`--checkpoint` is a run's folder (its newest step) or runs/x/checkpoints/40.
Of a run with adapters it writes the weights with those merged in, or with
`--adapter` the adapters alone, in a folder that PEFT and `init_from` read.
A reward model becomes a folder of the class ...ForSequenceClassification; any
other value head is left out: no Hugging Face decoder has one. What the run
started from comes along: the files of its tokenizer ('task' and 'byte' have
none), its chat template, its sampling settings, the type its weights were
stored in. A run on conversations gets the template that it was trained on, ours
where the folder had none, and every folder a generation_config.json that stops
where answers were trained to stop.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from posttrain_jax import trainers
from posttrain_jax.core import boundary, buckets, dtypes, hub, paths
from posttrain_jax.core import flags as core_flags
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.data import chat, tokenizers
from posttrain_jax.data import template as templates
from posttrain_jax.losses import reward_model
from posttrain_jax.models import adapted, hf
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params import peft
from posttrain_jax.run import base, checkpoint, roles

GENERATION = 'generation_config.json'
BASE = 'base'  # folder of an adapter's base that lies nowhere else


def _copy_tokenizer(name: str, out: Path) -> list[str]:
  """Copies a tokenizer (a folder, or its .json file); names what it copied."""
  path = Path(hub.tokenizer(name))
  folder = path if path.is_dir() else path.parent
  files = {file: folder / file for file in hub.TOKENIZER}
  if not path.is_dir():
    files['tokenizer.json'] = path
  for extra in sorted((folder / templates.FOLDER).glob('*.jinja')):
    files[f'{templates.FOLDER}/{extra.name}'] = extra
  files = {file: source for file, source in files.items() if source.exists()}
  for file, source in files.items():
    (out / file).parent.mkdir(exist_ok=True)
    shutil.copy(source, out / file)
  return list(files)


def _write_template(tokenizer: tokenizers.Tokenizer, out: Path) -> str:
  """The template of the trained turns, in place of a copied one."""
  (out / templates.FILE).write_text(chat.template(tokenizer))
  named = out / 'tokenizer_config.json'
  if named.exists():  # older folders hold theirs in here
    content = json.loads(named.read_text())
    if content.pop('chat_template', None) is not None:
      named.write_text(json.dumps(content, indent=2))
  return f'wrote {templates.FILE}: the turns as they were trained'


def _first_folder(saved: dict) -> Path | None:
  """The model folder at the beginning of a chain of runs."""
  for _ in range(100):  # runs that name each other
    path = saved['config'].get('init_from')
    if not path:
      return None
    folder = Path(hub.folder(path))
    if (folder / GENERATION).is_file():
      return folder
    try:
      saved = checkpoint.load_config(checkpoint.run_folder(path)[0]) or {}
    except ValueError:  # moved away since, or a folder without that file
      return None
    if 'config' not in saved:
      return None
  return None


def _read_generation(saved: dict) -> dict:
  """Sampling settings that came with the model, or with its tokenizer."""
  base = _first_folder(saved) or Path(hub.folder(saved['config']['tokenizer']))
  file = base / GENERATION
  return json.loads(file.read_text()) if file.is_file() else {}


def _ours(saved: dict) -> bool:
  """Whether turns were written by our template, not by the folder's own.

  Runs before this was saved knew of no other, and, before they saved whether
  they had turns at all, may have had some.
  """
  turns = saved.get('conversations') is not False
  return turns and saved.get('chat_template') != 'folder'


def _stops(
  saved: dict, tokenizer: tokenizers.Tokenizer, vocab_size: int
) -> list[int]:
  """Every token at which answers were trained to stop, the main one first."""
  found = [*tokenizer.stops]
  if _ours(saved):
    found.insert(0, chat.our_stop(tokenizer))
  return list(dict.fromkeys(i for i in found if i < vocab_size))


def _write_generation(
  content: dict,
  tokenizer: tokenizers.Tokenizer,
  stops: list[int],
  out: Path,
) -> None:
  """generation_config.json: the starting folder's, with our stop tokens."""
  content = content | {
    'eos_token_id': stops if len(stops) > 1 else stops[0],
    'pad_token_id': tokenizer.pad_id,
  }
  if tokenizer.bos_id is not None:
    content['bos_token_id'] = tokenizer.bos_id
  (out / GENERATION).write_text(json.dumps(content, indent=2) + '\n')


def _write_adapter(
  out: Path,
  place: paths.AnyPath,
  saved: dict,
  config: ModelConfig,
  params: PyTree,
  **tokens: Any,
) -> list[str]:
  """The adapter of a run as PEFT's files; and its base, where that lies in no
  Hugging Face folder. A line of report each.

  out    a folder of this machine
  place  where that is to lie in the end
  """
  part, entry = saved['config']['adapter'], saved.get(base.KEY, {})
  source, told = entry.get('source', ''), []
  if roles.is_hf_folder(source):
    if part['base']:
      told.append(
        f'trained on {source} in {part["base"]}: on its own numbers the '
        'adapter gives slightly other logits than here'
      )
  else:
    source = str((place / BASE).absolute())
    hf.save(out / BASE, config, adapted.off(params, dense=True), **tokens)
    told.append(f'wrote its base to {source}: it is in no Hugging Face folder')
  if paths.is_remote(source):
    told.append(
      f'PEFT reads no bucket: copy {source} for it, and name the copy'
    )
  peft.save(out, config, part, adapted.trained(params), source)
  return told


# Of a run or a model: what a folder has that is not to be written over.
KEPT = (
  'checkpoints', 'config.json', 'metrics.jsonl', GENERATION,
  'adapter_config.json', BASE, templates.FILE, templates.FOLDER, *hub.TOKENIZER,
)  # fmt: skip


def _check_out(out: paths.AnyPath) -> None:
  """Raises for a folder that cannot be exported into, before anything is read.

  Raises:
    FileExistsError: it holds a model, an adapter, a tokenizer or a run.
    ValueError: it is a file, in no folder, or cannot be written.
  """
  if out.exists() and not out.is_dir():
    raise ValueError(f'--out={out} is a file; name a folder')
  old = sorted(out.glob('*.safetensors*')) if out.is_dir() else []
  old += [out / name for name in KEPT if (out / name).exists()]
  if old:
    raise FileExistsError(f'{old[0]}: exists; save into an empty folder')
  if paths.is_remote(out):
    buckets.writable(out / 'model')
    return
  there = next(x for x in (out, *out.absolute().parents) if x.exists())
  if not os.access(there, os.W_OK):
    raise ValueError(f'--out={out}: {there} may not be written by this user')


@contextlib.contextmanager
def _undone(out: Path) -> Iterator[None]:
  """What is half written when it breaks off is taken away again, so that the
  same command works."""
  files = lambda: {x for x in out.rglob('*') if not x.is_dir()}
  there, before = out.exists(), files()
  try:
    yield
  except BaseException:
    if not there:
      shutil.rmtree(out, ignore_errors=True)
    else:
      for file in files() - before:
        file.unlink(missing_ok=True)
    raise


def export(
  path: str | Path,
  out: str | Path,
  dtype: Any = '',
  adapter: bool = False,
  merge: bool = False,
) -> list[str]:
  """Writes the model of a run or of one of its steps into the folder `out`.

  dtype    of the written weights, by name or type; '' is that of the model
           folder that the run started from, else the stored one
  adapter  write what was trained beside a base, as PEFT stores it; otherwise
           adapters are merged into the weights
  merge    there have to be adapters to merge

  Returns what a user should know: one line per thing written or left out.

  Raises:
    FileExistsError: `out` holds weights already.
    ValueError: no checkpoint, not a run of train.py, a model that no Hugging
      Face architecture computes, or no adapters where those are asked for.
  """
  wanted = dtypes.name(dtype, ('', *dtypes.STORED))
  place = paths.path(out)
  _check_out(place)
  if not isinstance(place, paths.Remote):
    with _undone(place):
      return _export(path, place, place, wanted, adapter, merge)
  with tempfile.TemporaryDirectory() as made:
    told = _export(path, Path(made), place, wanted, adapter, merge)
    buckets.sent(Path(made), place)
  return told


def _score(
  saved: dict[str, Any], head: PyTree | None, adapter: bool
) -> tuple[Array | None, list[str]]:
  """(`hf.save`'s `score` of a run that trained a reward model, what is left out
  of its head).

  Raises:
    ValueError: adapters of a reward model are asked for: PEFT's are not read as
      one.
  """
  if head is None:
    return None, []
  config = saved['config']
  room = None
  if 'paradigm' in config:
    room = trainers.kind(config['paradigm']).loss_room(config['loss']['name'])
  if room is not reward_model:
    return None, ['left out: the value head']
  if adapter:
    raise ValueError(
      '--adapter: a reward model has a head beside its adapters, which no file '
      'of PEFT of ours holds; leave it out, and they are merged'
    )
  told = []
  if bias := float(head['bias']):
    told.append(
      f"left out: the head's bias of {bias:.4g}, which all scores share"
    )
  return head['kernel'], told


def _scored_at(
  tokenizer: tokenizers.Tokenizer, stop: int, tokens: dict[str, Any]
) -> list[str]:
  """What a user of a reward model has to know of the token that it scores; in
  `tokens` that is no padding, which transformers passes over."""
  name = f'token {stop}, {tokenizer.decode([stop])!r}'
  told = [
    'a reward model: it was trained to score a text at the token that ends '
    f'an answer ({name}), and transformers scores the last one: give it texts '
    'that end so. A run here that is rewarded by it reads it as it was trained '
    'from the run itself'
  ]
  if tokens['pad_id'] == stop:
    tokens['pad_id'] = None
    told.append(
      'left out: the pad token, which is the one that ends an answer; '
      'transformers then takes one text at a time, or another pad token'
    )
  return told


def _export(
  path: str | Path,
  out: Path,
  place: paths.AnyPath,
  wanted: str,
  adapter: bool,
  merge: bool,
) -> list[str]:
  """`export` into a folder of this machine, which is to lie at `place`."""
  config, saved = roles.saved_model(checkpoint.run_folder(path)[0])
  workdir, step, params = checkpoint.read_params(path)
  report = []
  head = params.pop('value_head', None)
  score, said = _score(saved, head, adapter)
  report += said
  there = adapted.has_adapters(params)
  if (adapter or merge) and not there:
    flag = '--adapter' if adapter else '--merge'
    raise ValueError(f'{workdir} has no adapters; leave out {flag}')
  if not adapter:
    if there:
      report.append('merged: the adapters into the weights')
    params = adapted.merged(params)
  elif wanted:
    raise ValueError(
      f'--dtype={wanted}: adapters are written as they are stored'
    )
  wanted = '' if adapter else wanted or saved.get('init_dtype', '')
  if wanted:
    params = jax.tree.map(lambda x: x.astype(wanted), params)
    score = None if score is None else score.astype(wanted)
  name = saved['config']['tokenizer']
  tokenizer = tokenizers.load(name)
  stops = _stops(saved, tokenizer, config.vocab_size)
  tokens = {
    'eos_id': stops if len(stops) > 1 else stops[0],
    'pad_id': tokenizer.pad_id,
    'bos_id': tokenizer.bos_id,
  }
  if score is not None:
    report += _scored_at(tokenizer, stops[0], tokens)
  if adapter:
    report += _write_adapter(out, place, saved, config, params, **tokens)
  else:
    hf.save(out, config, params, score=score, **tokens)
  report.insert(0, f'wrote step {step} of {workdir} to {place}')
  copied = [] if name in ('task', 'byte') else _copy_tokenizer(name, out)
  if copied:
    report.append(f'copied: {", ".join(copied)}')
  else:
    report.append(f'no tokenizer files: the run used "{name}"')
  _write_generation(_read_generation(saved), tokenizer, stops, out)
  if copied and saved.get('conversations') and _ours(saved):
    report.append(_write_template(tokenizer, out))
  return report


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.export',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    '--checkpoint',
    '--model',
    required=True,
    help='runs/x, or its step 40 as runs/x/checkpoints/40',
  )
  parser.add_argument('--out', required=True, help='a folder without weights')
  parser.add_argument(
    '--dtype', choices=dtypes.STORED, default='', help='default: as it came in'
  )
  how = parser.add_mutually_exclusive_group()
  how.add_argument(
    '--adapter', action='store_true', help='its adapters, as PEFT stores them'
  )
  how.add_argument(
    '--merge', action='store_true', help='its adapters, in the weights'
  )
  try:
    flags = core_flags.read(parser, argv)
    report = export(
      flags.checkpoint, flags.out, flags.dtype, flags.adapter, flags.merge
    )
  except (ValueError, ImportError, FileExistsError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print('\n'.join(report))
  return 0


if __name__ == '__main__':
  sys.exit(main())
