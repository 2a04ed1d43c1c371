"""Adapters in the files of the PEFT library, and back.

A folder has `adapter_config.json` (rank, alpha, kind, the base's name) and
`adapter_model.safetensors`, whose tensors are named by the modules of the base:

  base_model.model.model.layers.0.self_attn.q_proj
    .lora_A.weight          [R, inputs]
    .lora_B.weight          [outputs, R]
    .lora_magnitude_vector  [outputs]
  base_model.model.model.embed_tokens
    .lora_embedding_A       [R, tokens]
    .lora_embedding_B       [width, R]

Where the table of embeddings is the output matrix, too, its adapter is written
for both, and `ensure_weight_tying` says that they are one. PEFT computes the
same logits then; its `merge_and_unload` (0.21) gives others, as it merges both
into the one table, and `export --merge` is right. `peft_places` says which
module is which of our matrices.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from posttrain_jax.core import hosts, hub, paths, trees
from posttrain_jax.core.types import PyTree
from posttrain_jax.models import adapted, hf
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_config import read_json
from posttrain_jax.params.adapters import TABLE, Adapter
from posttrain_jax.params.peft_places import (
  PARTS,
  PREFIX,
  check_copies,
  find,
  is_copy,
  output_of,
  places_of,
  tensors_of,
  tied_names,
  to_file,
  to_ours,
)

__all__ = ['base_of', 'is_folder', 'load', 'read', 'save']

CONFIG = 'adapter_config.json'
WEIGHTS = 'adapter_model.safetensors'
# What changes the model in a way that is not read here, where it is set.
UNREAD = (
  'alora_invocation_tokens', 'alpha_pattern', 'arrow_config', 'kasa_config',
  'layer_replication', 'lora_bias', 'lora_ga_config', 'modules_to_save',
  'monteclora_config', 'rank_pattern', 'target_parameters',
  'trainable_token_indices', 'use_bdlora', 'use_qalora',
)  # fmt: skip
# Ways to start that have changed the base.
MOVED_BASE = ('corda', 'loftq', 'olora', 'pissa')


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
  if paths.is_remote(name):
    return name
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
  for module, place in places_of(config):
    if f'{place.path}/a' not in flat:
      continue
    left.discard(place.path)
    targets.append(module.rpartition('.')[2])
    in_layers = place.layer is not None
    turned = place.row.axes.split()[0] == place.row.ours[: place.inner]
    first |= in_layers and turned
    for name, key in place.parts.items():
      x = flat.get(f'{place.path}/{name}')
      if x is not None:
        own = x[place.layer] if in_layers else x
        made = to_file(own, name, place)
        tensors[f'{PREFIX}{module}.{key}'] = made
  tied = config.tie_embeddings and f'{TABLE}/a' in flat
  if tied:  # W + A B here is its transpose there
    for name, other in (('a', 'b'), ('b', 'a')):
      made = np.ascontiguousarray(flat[f'{TABLE}/{other}'])
      tensors[f'{PREFIX}{output_of(config)}.{PARTS[name]}'] = made
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
    **({'ensure_weight_tying': True} if tied else {}),
  }
  folder.mkdir(parents=True, exist_ok=True)
  save_file(tensors, folder / WEIGHTS, metadata={'format': 'pt'})
  (folder / CONFIG).write_text(json.dumps(content, indent=2) + '\n')


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
  found = tensors_of(folder / WEIGHTS)
  places = dict(places_of(config))
  tied = tied_names(folder / WEIGHTS, content, config, found)
  stacks: dict[str, dict[int | None, np.ndarray]] = {}
  for key, x in found.items():
    if key in tied or is_copy(key, config):
      continue
    try:
      place, name = find(key, places)
    except ValueError as error:
      raise ValueError(f'{folder / WEIGHTS}: {error}') from None
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
    ours = to_ours(x, name, place, place.row.shape(config))
    stacks.setdefault(f'{place.path}/{name}', {})[place.layer] = ours
  dora = bool(content.get('use_dora'))
  flat = _stacked(folder / WEIGHTS, stacks, config.num_layers, dora)
  targets = tuple(re.escape(p[:-2]) for p in sorted(flat) if p.endswith('/a'))
  adapter = Adapter(rank, scale, targets, magnitude=dora)
  return adapter, traverse_util.unflatten_dict(flat, sep='/')


def _stacked(
  file: Path,
  stacks: Mapping[str, Mapping[int | None, np.ndarray]],
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
    every = range(layers) if name.startswith('layers/') else (None,)
    lacking = [layer for layer in every if layer not in there]
    if lacking or name.rpartition('/')[2] not in parts:
      what = 'use_dora'
      if lacking:
        what = 'it' if lacking[0] is None else f'layer {lacking[0]}'
      raise ValueError(
        f'{file}: {name} is not there for {what}; adapters of all layers, with '
        f'{", ".join(PARTS[part] for part in parts)}, are read'
      )
    whole = None in there
    stack = there[None] if whole else np.stack([there[i] for i in every])
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
  file = Path(hub.folder(path, weights=True)) / WEIGHTS
  check_copies(file, config, params, tensors_of(file))
  made = adapter.attach(params, jax.random.key(0))
  return config, adapted.join(parts, made)
