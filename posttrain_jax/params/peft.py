"""Adapters in the files of the PEFT library, and back.

A folder has `adapter_config.json` (rank, alpha, kind, the base's name) and
`adapter_model.safetensors`, whose tensors are named by the modules of the base:

  base_model.model.model.layers.0.self_attn.q_proj
    .lora_A.weight          [R, inputs]
    .lora_B.weight          [outputs, R]
    .lora_magnitude_vector  [outputs]

Which module is which of our matrices is read from `models.hf`'s table.
"""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util
from safetensors.numpy import save_file

from posttrain_jax.core import hosts, hub, trees
from posttrain_jax.core.names import nearest
from posttrain_jax.core.types import PyTree
from posttrain_jax.models import adapted, hf, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_config import read_json
from posttrain_jax.params.adapters import MATRICES, Adapter

__all__ = ['base_of', 'is_folder', 'load', 'read', 'save']

CONFIG = 'adapter_config.json'
WEIGHTS = 'adapter_model.safetensors'
PREFIX = 'base_model.model.'
PARTS = {
  'a': 'lora_A.weight',
  'b': 'lora_B.weight',
  'magnitude': 'lora_magnitude_vector',
}
_ENDS = '|'.join(map(re.escape, PARTS.values()))
_TENSOR = re.compile(f'{re.escape(PREFIX)}(.+)[.]({_ENDS})')
# What changes the model in a way that is not read here, where it is set.
UNREAD = (
  'alora_invocation_tokens', 'alpha_pattern', 'arrow_config', 'kasa_config',
  'layer_replication', 'lora_bias', 'lora_ga_config', 'modules_to_save',
  'monteclora_config', 'rank_pattern', 'target_parameters',
  'trainable_token_indices', 'use_bdlora', 'use_qalora',
)  # fmt: skip
# Ways to start that have changed the base.
MOVED_BASE = ('corda', 'loftq', 'olora', 'pissa')


class _Place(NamedTuple):
  """One matrix of one layer.

  row     of the table of `models.hf`
  inside  number of inputs, outside of outputs
  inner   input axes of our matrix
  """

  row: hf.Row
  path: str
  layer: int
  inside: int
  outside: int
  inner: int


def is_folder(path: str | Path) -> bool:
  """Whether a path is a folder of PEFT."""
  return bool(path) and (Path(hub.folder(path)) / CONFIG).is_file()


def base_of(path: str | Path) -> str:
  """The folder of the model that an adapter belongs to, or its hub name.

  Raises:
    ValueError: the adapter names none, or it is not here.
  """
  own = Path(hub.folder(path))
  where = own / CONFIG
  content = read_json(where)
  name = content.get('base_model_name_or_path')
  if not isinstance(name, str) or not name:
    raise ValueError(f'{where}: key "base_model_name_or_path" is missing')
  # As PEFT finds it; else beside the adapter, which may have moved.
  for folder in (Path(name), own / name, own / Path(name).name):
    if (folder / 'config.json').is_file():
      return str(folder)
  revision = content.get('revision')
  named = f'{name}@{revision}' if revision else name
  why = ''
  if hub.parse(named):
    try:
      return hub.pinned(named)
    except ValueError as error:
      why = f' ({error})'
  raise ValueError(
    f'{where}: its base "{name}" is no folder with a config.json here{why}; '
    'put the path of the model into "base_model_name_or_path"'
  )


def _module(row: hf.Row, layer: int) -> str:
  return row.key.format(layer).removesuffix('.weight')


def _places(config: ModelConfig) -> Iterator[tuple[str, _Place]]:
  """(module, matrix) of every matrix that may have an adapter of its own."""
  table = transformer.param_table(config)
  for row in hf.rows(config):
    inner, outer = MATRICES.get(row.path.rpartition('/')[2], (0, 0))
    if not row.stacked or not inner or len(row.ours) != inner + outer:
      continue
    words = {row.ours[:inner], row.ours[inner:]}
    if set(row.axes.split()) != words or not row.key.endswith('.weight'):
      continue  # one tensor of the file is several of ours
    if table[row.path].shape[0] != config.num_layers:
      continue  # some layers have no such matrix
    shape = row.shape(config)
    sizes = math.prod(shape[:inner]), math.prod(shape[inner:])
    for layer in range(config.num_layers):
      yield _module(row, layer), _Place(row, row.path, layer, *sizes, inner)


def _whole(value: float) -> float | int:
  return int(value) if value == int(value) else value


def save(
  path: str | Path,
  config: ModelConfig,
  part: Mapping[str, Any],
  parts: PyTree,
  base: str,
) -> None:
  """Writes a folder that PEFT (and `read`) reads.

  part   {name, rank, alpha, ...} of a config: one of `params.adapters`
  parts  what is trained, `adapted.trained`; heads are left out
  base   the folder of the model that it stands on, or its hub name

  Raises:
    FileExistsError: the folder has an adapter already.
    ValueError: a matrix that is only a part of a module there.
  """
  folder = Path(path)
  if (folder / WEIGHTS).exists():
    raise FileExistsError(f'{folder / WEIGHTS}: exists; save into a new folder')
  flat = traverse_util.flatten_dict(parts, sep='/')
  flat = {name: np.asarray(x) for name, x in flat.items()}
  left = {name.rpartition('/')[0] for name in flat if name.endswith('/a')}
  targets, tensors, first = [], {}, False
  for module, place in _places(config):
    if f'{place.path}/a' not in flat:
      continue
    left.discard(place.path)
    targets.append(module.rpartition('.')[2])
    first |= place.row.axes.split()[0] == place.row.ours[: place.inner]
    for name, key in PARTS.items():
      x = flat.get(f'{place.path}/{name}')
      if x is not None:
        made = _to_file(x[place.layer], name, place)
        tensors[f'{PREFIX}{module}.{key}'] = made
  if left:
    raise ValueError(
      f'{folder}: not saved: {", ".join(sorted(left))} is no module of its own '
      'in the files of this model, so PEFT has no place for its adapter; '
      'export merged weights'
    )
  named = hub.parse(base)
  content = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': named.repo if named else base,
    'revision': named.revision if named else None,
    'r': part['rank'],
    'lora_alpha': _whole(part['alpha']),
    'use_rslora': part['name'] == 'rslora',
    'use_dora': part['name'] == 'dora',
    'target_modules': list(dict.fromkeys(targets)),
    'lora_dropout': part.get('dropout', 0.0),
    'bias': 'none',
    'fan_in_fan_out': first,  # its modules hold inputs first
    'inference_mode': True,
    'init_lora_weights': True,
  }
  folder.mkdir(parents=True, exist_ok=True)
  save_file(tensors, folder / WEIGHTS, metadata={'format': 'pt'})
  (folder / CONFIG).write_text(json.dumps(content, indent=2) + '\n')


def _to_file(x: np.ndarray, name: str, place: _Place) -> np.ndarray:
  if name == 'a':
    x = x.reshape(place.inside, -1).T
  elif name == 'b':
    x = x.reshape(-1, place.outside).T
  else:
    x = x.reshape(-1)
  return np.ascontiguousarray(x)


def _to_ours(x: np.ndarray, name: str, place: _Place, shape: tuple):
  inside, outside = shape[: place.inner], shape[place.inner :]
  if name == 'a':
    return x.T.reshape(*inside, -1)
  if name == 'b':
    return x.T.reshape(-1, *outside)
  return x.reshape(outside)


def _settings(where: Path) -> tuple[dict[str, Any], float]:
  """(adapter_config.json, scale); refused where more is asked than is read."""
  content = read_json(where)
  kind = content.get('peft_type')
  if kind != 'LORA':
    raise ValueError(f'{where}: peft_type={kind!r}; "LORA" is read, no other')
  for key in UNREAD:
    if content.get(key):
      raise ValueError(
        f'{where}: {key}={content[key]!r} is not read; merge it with PEFT first'
      )
  if content.get('bias', 'none') != 'none':
    raise ValueError(f'{where}: bias={content["bias"]!r}; "none" is read')
  began = content.get('init_lora_weights')
  if isinstance(began, str) and began.lower().startswith(MOVED_BASE):
    raise ValueError(
      f'{where}: init_lora_weights={began!r} has moved the base; save it with '
      'PEFT converted to LoRA'
    )
  for key in ('r', 'lora_alpha'):
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise ValueError(f'{where}: key "{key}" is {value!r}, no number')
  rank = content['r']
  if rank != int(rank) or rank < 1:
    raise ValueError(f'{where}: r={rank!r} is not in 1..')
  root = math.sqrt(rank) if content.get('use_rslora') else rank
  return content, content['lora_alpha'] / root


def read(path: str | Path, config: ModelConfig) -> tuple[Adapter, PyTree]:
  """(what an adapter is, its arrays as `adapted.trained` has them).

  config  of the model that it stands on

  Raises:
    FileNotFoundError: a file is not there.
    ValueError: it is of a kind that is not read, or does not fit the model;
      names file, key and value.
  """
  folder = Path(hub.folder(path, weights=True))
  content, scale = _settings(folder / CONFIG)
  rank = int(content['r'])
  found = _tensors(folder / WEIGHTS)
  places = dict(_places(config))
  stacks: dict[str, dict[int, np.ndarray]] = {}
  for key, x in found.items():
    match = _TENSOR.fullmatch(key)
    if match is None or match[1] not in places:
      known = [f'{PREFIX}{m}.{part}' for m in places for part in PARTS.values()]
      raise ValueError(
        f'{folder / WEIGHTS}: tensor "{key}" is of no matrix of this model '
        f'that may have an adapter.{nearest(key, known)}'
      )
    place = places[match[1]]
    name = next(n for n, part in PARTS.items() if part == match[2])
    shape = {
      'a': (rank, place.inside),
      'b': (place.outside, rank),
      'magnitude': (place.outside,),
    }[name]
    if x.shape != shape:
      raise ValueError(
        f'{folder / WEIGHTS}: tensor "{key}" has shape {list(x.shape)}, not '
        f'{list(shape)}'
      )
    ours = _to_ours(x, name, place, place.row.shape(config))
    stacks.setdefault(f'{place.path}/{name}', {})[place.layer] = ours
  dora = bool(content.get('use_dora'))
  flat = _stacked(folder / WEIGHTS, stacks, config.num_layers, dora)
  targets = tuple(re.escape(p[:-2]) for p in sorted(flat) if p.endswith('/a'))
  adapter = Adapter(rank, scale, targets, magnitude=dora)
  return adapter, traverse_util.unflatten_dict(flat, sep='/')


def _tensors(file: Path) -> dict[str, np.ndarray]:
  if not file.is_file():
    raise FileNotFoundError(f'{file}: no such file')
  with contextlib.ExitStack() as stack:
    try:
      handle = stack.enter_context(
        safetensors.safe_open(file, framework='numpy')
      )
      names = list(handle.keys())
      return {name: handle.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
      raise ValueError(f'{file}: no safetensors file: {error}') from error


def _stacked(
  file: Path,
  stacks: Mapping[str, Mapping[int, np.ndarray]],
  layers: int,
  dora: bool,
) -> dict[str, jax.Array]:
  """{path/part: [L, ...]}; every layer and every part has to be there."""
  flat = {}
  if not stacks:
    raise ValueError(f'{file}: it holds no adapter')
  paths = {name.rpartition('/')[0] for name in stacks}
  parts = ('a', 'b', 'magnitude') if dora else ('a', 'b')
  wanted = {f'{path}/{part}' for path in paths for part in parts}
  for name in sorted(stacks.keys() | wanted):
    there = stacks.get(name, {})
    lacking = [layer for layer in range(layers) if layer not in there]
    if lacking or name.rpartition('/')[2] not in parts:
      what = f'layer {lacking[0]}' if lacking else 'use_dora'
      raise ValueError(
        f'{file}: {name} is not there for {what}; adapters of all layers, with '
        f'{", ".join(PARTS[part] for part in parts)}, are read'
      )
    stack = np.stack([there[layer] for layer in range(layers)])
    wide = np.float64 if stack.dtype == np.float64 else np.float32
    flat[name] = jnp.asarray(stack.astype(wide))
  return flat


def load(
  path: str | Path,
  *,
  param_dtype: Any = 'float32',
  where: Callable[[str, tuple[int, ...]], Any] | None = None,
) -> tuple[ModelConfig, PyTree]:
  """(the base's config, its parameters with the adapter) of a PEFT folder.

  where  (path of an array, shape) -> its sharding; None: the default device

  Raises:
    FileNotFoundError, ValueError: as `read`, `base_of` and `hf.load`.
  """
  base = hub.folder(base_of(path), weights=True)
  config, params = hf.load(base, param_dtype=param_dtype, where=where)
  adapter, parts = read(path, config)
  if where is not None:
    put = lambda name, x: hosts.placed(x, where(name, x.shape))
    parts = trees.map_by_path(put, parts)
  made = adapter.attach(params, jax.random.key(0))
  return config, adapted.join(parts, made)
