"""Hugging Face folders (config.json + safetensors) to our parameters and back.

`hf_table` names every tensor in both worlds and its axes in both; the two
transforms and the shape checks are read from it. config.json itself is read and
written by `hf_config`.
"""

import collections
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util
from jax.sharding import Sharding
from safetensors.numpy import save_file

from posttrain_jax.core import dtypes, hosts, lfs, trees
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import hf_pieces
from posttrain_jax.models.architectures import SCORERS
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_config import read_config, read_json, to_json
from posttrain_jax.models.hf_pieces import Piece
from posttrain_jax.models.hf_read import Source, Tensor, Weights
from posttrain_jax.models.hf_table import Row, rows

__all__ = [
  'INDEX',
  'Row',
  'WEIGHTS',
  'check',
  'is_folder',
  'load',
  'pickled',
  'read_config',
  'rows',
  'save',
]

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
SCORE = 'score.weight'  # of a reward model
UNEMBED = 'unembed'  # its parameter that a reward model has no use for
# Weights of PyTorch: a pickle, which may run code when it is read.
PICKLED = ('*.bin', '*.pt', '*.pth')
ADAPTER = 'adapter_model'
FIRST = (ADAPTER, 'pytorch_model', 'consolidated')  # the names of weights


def is_folder(path: str | Path) -> bool:
  """Whether a folder is one of transformers: by its weights, or by the class
  that its config.json names."""
  folder = Path(path)
  if any(folder.glob('*.safetensors*')):
    return True
  try:
    values = read_json(folder / 'config.json')
  except (FileNotFoundError, NotADirectoryError, ValueError):
    return False
  return bool(values.get('architectures') or values.get('model_type'))


def pickled(folder: str | Path) -> str:
  """What to do about a folder whose weights are a pickle of PyTorch; '': it has
  none."""
  folder = Path(folder)
  there = (x.name for kind in PICKLED for x in folder.glob(kind))
  # What a trainer keeps beside them, as its arguments, comes last.
  found = sorted(there, key=lambda x: (not x.startswith(FIRST), x))
  if not found:
    return ''
  made = folder / found[0]
  into = made.with_suffix('.safetensors')
  if made.name.startswith(ADAPTER):  # as it is: nothing in it is shared
    how = (
      'import torch; from safetensors.torch import save_file; save_file('
      f"torch.load('{made}', map_location='cpu', weights_only=True), '{into}')"
    )
  else:
    how = (
      f'from transformers import {_class(folder)} as M; '
      f"M.from_pretrained('{folder}').save_pretrained('{folder}')"
    )
  return (
    f'The folder has its weights in {made.name}, a pickle of PyTorch, which is '
    f'not read here: where torch is, python -c "{how}" writes them as '
    'safetensors'
  )


def _class(folder: Path) -> str:
  """The class of transformers that a folder's config.json names."""
  try:
    named = read_json(folder / 'config.json').get('architectures')
  except (OSError, ValueError):
    named = None
  first = named[0] if isinstance(named, list) and named else ''
  known = isinstance(first, str) and first.isidentifier()
  return first if known else 'AutoModelForCausalLM'


def _files(folder: Path) -> list[Path]:
  """The weight files of a folder, by its index where there is one."""
  if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
    return [folder / WEIGHTS]
  weight_map = read_json(folder / INDEX).get('weight_map')
  if not isinstance(weight_map, dict):
    raise ValueError(f'{folder / INDEX}: key "weight_map" is missing')
  return sorted({folder / name for name in weight_map.values()})


def _open(
  folder: Path, config: ModelConfig, expected: dict
) -> dict[str, Tensor]:
  """{key as the table has it: tensor} of all safetensors files of a folder."""
  found: dict[str, Tensor] = {}
  for file in _files(folder):
    if not file.exists():
      told = pickled(folder)
      if told and file.name == WEIGHTS:
        raise FileNotFoundError(f'{file}: no such file. {told}')
      raise FileNotFoundError(
        f'{file}: no such file; weights are read from {WEIGHTS}, or from the '
        f'files that {INDEX} names'
      )
    try:
      with safetensors.safe_open(file, framework='numpy') as handle:
        found |= {key: Tensor(file, key) for key in handle.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
      told = lfs.pointer(file) or f'no safetensors file: {error}'
      raise ValueError(f'{file}: {told}') from error
  return hf_pieces.renamed(found, expected, config)


def _check_keys(
  folder: Path, config: ModelConfig, found: dict[str, Tensor], expected: dict
) -> str:
  """The key of a tied matrix that stands there once more; '' mostly."""
  if missing := sorted(set(expected) - set(found)):
    raise ValueError(f'{folder}: missing tensors: {_listed(missing)}')
  extra = set(found) - set(expected)
  # Some tools write the tied matrix twice; only a true copy is harmless.
  head = hf_pieces.head(config)
  twin = head if config.tie_embeddings and head in extra else ''
  extra -= {twin}
  if extra:
    raise ValueError(f'{folder}: unexpected tensors: {_listed(sorted(extra))}')
  return twin


def _listed(names: list[str]) -> str:
  more = f' and {len(names) - 8} more' if len(names) > 8 else ''
  return ', '.join(names[:8]) + more


def load(
  path: str | Path,
  *,
  dtype: Any = 'float32',
  param_dtype: Any = 'float32',
  where: Callable[[str, tuple[int, ...]], Sharding] | None = None,
) -> tuple[ModelConfig, PyTree]:
  """Config and parameters of a Hugging Face folder.

  dtype, param_dtype  as in ModelConfig, or types (jnp.bfloat16); weights are
         cast to `param_dtype`
  where  (path of a parameter, shape) -> its sharding. A process reads what its
         own devices hold of each tensor, once, and all processes have to call
         this. Default: whole on the default device. One parameter (all layers
         of it), or a device's part, is on the host at a time

  Raises:
    FileNotFoundError: config.json or a weight file is not there.
    ValueError: as `read_config`; or a tensor that is missing, unexpected, not
      finite, or of another shape than config.json says: file and tensor are
      named. Of several processes, what one has read fails on all.
  """
  folder = Path(path)
  param_dtype = dtypes.name(param_dtype, what='param_dtype')
  dtypes.check_available(param_dtype, 'param_dtype')
  config = read_config(folder, dtype=dtype, param_dtype=param_dtype)
  read = lambda: _loaded(folder, config, where)
  flat = read() if where is None else hosts.together(read)
  return config, traverse_util.unflatten_dict(flat, sep='/')


def _loaded(
  folder: Path,
  config: ModelConfig,
  where: Callable[[str, tuple[int, ...]], Sharding] | None,
) -> dict[str, Array]:
  """{path: parameter}."""
  expected = hf_pieces.pieces(config)
  sources = collections.defaultdict(list)
  for key, made_of in expected.items():
    for piece in made_of:
      sources[piece.row.path].append(Source(key, piece, made_of))
  found, score, twin = _sorted(folder, config, expected)

  def place(path: str, shape: tuple[int, ...], read: Callable) -> Array:
    if where is None:
      return jnp.asarray(read([(0, size) for size in shape]))
    return hosts.made(shape, where(path, shape), read)

  with Weights({**found, **score}, config) as weights:
    flat = _score_head(config, weights, place) if score else {}
    for row in rows(config):
      read = functools.partial(
        weights.part,
        sources[row.path],
        twin=twin if row.path == 'embed/tokens' else '',
      )
      flat[row.path] = place(row.path, row.full_shape(config), read)
  return flat


def _sorted(
  folder: Path, config: ModelConfig, expected: dict
) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
  """(tensors of the model, of a head that scores, key of a tied matrix that
  stands there once more)."""
  found = _open(folder, config, expected)
  if config.value_head and SCORE not in found:
    raise ValueError(f'{folder}: missing tensors: {SCORE}')
  score = {key: found.pop(key) for key in (SCORE,) if config.value_head}
  return found, score, _check_keys(folder, config, found, expected)


def check(path: str | Path) -> None:
  """Holds the weight files of a folder to its config.json, by their headers. No
  number is read, but of a tied matrix that stands there twice.

  Raises:
    FileNotFoundError, ValueError: as `load`, but for numbers that are not
      finite.
  """
  folder = Path(path)
  config = read_config(folder)
  expected = hf_pieces.pieces(config)
  found, score, twin = _sorted(folder, config, expected)
  with Weights({**found, **score}, config) as weights:
    if twin:
      table = hf_pieces.embedding(config)
      shape = hf_pieces.file_shape(expected[table], config)
      weights.same(table, twin, shape)
    for key, made_of in expected.items():
      weights.look(key, hf_pieces.file_shape(made_of, config))
    for key in score:
      weights.look(key, (1, config.width))


def _score_head(
  config: ModelConfig, weights: Weights, place: Callable
) -> dict[str, Array]:
  """The head of a reward model; it has no bias."""
  kernel = weights.whole(SCORE, (1, config.width))[0]
  kernel = kernel.astype(jnp.dtype(config.param_dtype))
  bias = np.zeros((), kernel.dtype)
  return {
    'value_head/kernel': place(
      'value_head/kernel',
      kernel.shape,
      lambda ranges: kernel[slice(*ranges[0])],
    ),
    'value_head/bias': place('value_head/bias', (), lambda _: bias),
  }


def _host(path: Path, config: ModelConfig, params: PyTree) -> dict:
  """{path name: host array} after a check of names and shapes."""
  expected = {row.path: row.full_shape(config) for row in rows(config)}
  names, leaves = trees.names(params), jax.tree.leaves(params)
  missing, extra = set(expected) - set(names), set(names) - set(expected)
  if missing or extra:
    raise ValueError(
      f'{path}: not saved: missing parameters: {_listed(sorted(missing))}; '
      f'unexpected: {_listed(sorted(extra))}. Layers are stacked, LoRA is '
      'merged and a value head is left out before saving'
    )
  for name, leaf in zip(names, leaves):
    if tuple(leaf.shape) != expected[name]:
      raise ValueError(
        f'{path}: not saved: parameter "{name}" has shape {list(leaf.shape)}, '
        f'but the config makes it {list(expected[name])}'
      )
  return {name: np.asarray(leaf) for name, leaf in zip(names, leaves)}


def _shards(
  config: ModelConfig, host: dict, max_bytes: int
) -> list[dict[str, list[Piece]]]:
  """The tensors in file order, cut before a shard exceeds `max_bytes`."""
  shards: list[dict[str, list[Piece]]] = [{}]
  used = 0
  for key, made_of in hf_pieces.pieces(config).items():
    bytes_each = host[made_of[0].row.path].dtype.itemsize
    size = math.prod(hf_pieces.file_shape(made_of, config)) * bytes_each
    if shards[-1] and used + size > max_bytes:
      shards.append({})
      used = 0
    shards[-1][key] = made_of
    used += size
  return shards


def save(
  path: str | Path,
  config: ModelConfig,
  params: PyTree,
  *,
  eos_id: int | Iterable[int] | None = None,
  pad_id: int | None = None,
  bos_id: int | None = None,
  score: Array | None = None,
  max_shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes a folder that transformers (and `load`) reads.

  params  on this host; each is stored in the dtype it has
  score   [D] of a reward model: the folder is one of the class
          ...ForSequenceClassification with one label, and what a decoder draws
          tokens with is left out
  eos_id, pad_id, bos_id  token ids for config.json
  max_shard_bytes  more than this goes into several files with an index; one
                   tensor is never cut

  Tied embeddings are stored once. config.json is written last, so that a
  folder with one is complete.

  Raises:
    FileExistsError: the folder has weights already.
    ValueError: parameters do not fit the config, or no architecture does.
  """
  folder = Path(path)
  if score is not None:
    params = {key: x for key, x in params.items() if key != UNEMBED}
    config = dataclasses.replace(config, tie_embeddings=True)
  host = _host(folder, config, params)
  dtype = str(jnp.result_type(*(x.dtype for x in host.values())))
  content = to_json(config, dtype, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id)
  if score is not None:
    labels = {'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0}}
    named = [SCORERS[name] for name in content['architectures']]
    content |= {'architectures': named, **labels}
  folder.mkdir(parents=True, exist_ok=True)
  if old := sorted(folder.glob('*.safetensors*')):
    raise FileExistsError(f'{old[0]}: exists; save into an empty folder')
  shards = _shards(config, host, max_shard_bytes)
  weight_map, total = {}, 0
  for index, shard in enumerate(shards):
    name = WEIGHTS
    if len(shards) > 1:
      name = f'model-{index + 1:05}-of-{len(shards):05}.safetensors'
    tensors = {}
    for key, made_of in shard.items():
      parts = [host[piece.row.path][piece.place] for piece in made_of]
      tensors[key] = hf_pieces.join(parts, made_of, config)
      weight_map[key] = name
      total += tensors[key].nbytes
    if score is not None and index == len(shards) - 1:
      tensors[SCORE] = np.asarray(score)[None]
      weight_map[SCORE] = name
      total += tensors[SCORE].nbytes
    # transformers before 5 refuses files that do not name a framework.
    save_file(tensors, folder / name, metadata={'format': 'pt'})
  if len(shards) > 1:
    files = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    (folder / INDEX).write_text(json.dumps(files, indent=2) + '\n')
  (folder / 'config.json').write_text(json.dumps(content, indent=2) + '\n')
