"""Hugging Face folders (config.json + safetensors) to our parameters and back.

`TABLE` is the one declaration: each row names a tensor in both worlds and its
axes in both; the two transforms and the shape checks are read from it.
config.json itself is read and written by `hf_config`.
"""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np
import safetensors
from flax import traverse_util
from safetensors.numpy import save_file

from posttrain_jax.core import dtypes, trees
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_config import read_config, read_json, to_json

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
STORED_DTYPES = ('BF16', 'F16', 'F32', 'F64')

SIZES = {
  'V': 'vocab_size',
  'D': 'width',
  'H': 'num_heads',
  'N': 'num_kv_heads',
  'K': 'head_dim',
  'F': 'mlp_dim',
}


class Row(NamedTuple):
  """One parameter in both worlds.

  key      name in the file, with {} for the layer number
  path     name in our tree; those under layers/ are stacked on axis 0
  axes     axes in the file, one word each; a word of two letters is merged
  ours     our axes, one letter each (without the layer axis)
  when     '', or the property of the config that the parameter needs
  """

  key: str
  path: str
  axes: str
  ours: str
  when: str = ''

  @property
  def stacked(self) -> bool:
    return '{}' in self.key

  def file_shape(self, config: ModelConfig) -> tuple[int, ...]:
    size = lambda axis: getattr(config, SIZES[axis])
    return tuple(math.prod(map(size, word)) for word in self.axes.split())

  def shape(self, config: ModelConfig) -> tuple[int, ...]:
    return tuple(getattr(config, SIZES[axis]) for axis in self.ours)

  def to_ours(self, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    split = self.axes.replace(' ', '')
    x = x.reshape([getattr(config, SIZES[axis]) for axis in split])
    return x.transpose([split.index(axis) for axis in self.ours])

  def to_file(self, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    split = self.axes.replace(' ', '')
    x = x.transpose([self.ours.index(axis) for axis in split])
    return np.ascontiguousarray(x.reshape(self.file_shape(config)))


def _in_layer(key: str, name: str, axes: str, ours: str, when: str = '') -> Row:
  return Row(f'model.layers.{{}}.{key}', f'layers/{name}', axes, ours, when)


TABLE = (
  Row('model.embed_tokens.weight', 'embed/tokens', 'V D', 'VD'),
  _in_layer('input_layernorm.weight', 'attention_norm', 'D', 'D'),
  _in_layer('self_attn.q_proj.weight', 'query', 'HK D', 'DHK'),
  _in_layer('self_attn.k_proj.weight', 'key', 'NK D', 'DNK'),
  _in_layer('self_attn.v_proj.weight', 'value', 'NK D', 'DNK'),
  _in_layer('self_attn.q_proj.bias', 'query_bias', 'HK', 'HK', 'qkv_bias'),
  _in_layer('self_attn.k_proj.bias', 'key_bias', 'NK', 'NK', 'qkv_bias'),
  _in_layer('self_attn.v_proj.bias', 'value_bias', 'NK', 'NK', 'qkv_bias'),
  _in_layer('self_attn.q_norm.weight', 'query_norm', 'K', 'K', 'qk_norm'),
  _in_layer('self_attn.k_norm.weight', 'key_norm', 'K', 'K', 'qk_norm'),
  _in_layer('self_attn.o_proj.weight', 'output', 'D HK', 'HKD'),
  _in_layer('post_attention_layernorm.weight', 'mlp_norm', 'D', 'D'),
  _in_layer('mlp.gate_proj.weight', 'gate', 'F D', 'DF'),
  _in_layer('mlp.up_proj.weight', 'up', 'F D', 'DF'),
  _in_layer('mlp.down_proj.weight', 'down', 'D F', 'FD'),
  Row('model.norm.weight', 'final_norm', 'D', 'D'),
  Row('lm_head.weight', 'unembed', 'V D', 'DV', 'untied'),
)
HEAD = TABLE[-1]
EMBEDDING = TABLE[0]
# Buffers that old checkpoints carry; they follow from config.json.
IGNORED = re.compile(r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq')


def rows(config: ModelConfig) -> list[Row]:
  """The rows of `TABLE` that a model of this config has."""
  has = {
    '': True,
    'qkv_bias': config.qkv_bias,
    'qk_norm': config.qk_norm,
    'untied': not config.tie_embeddings,
  }
  return [row for row in TABLE if has[row.when]]


def _file_keys(config: ModelConfig) -> Iterator[tuple[Row, int | None, str]]:
  """(row, layer or None, key in the file) of every tensor, layer by layer."""
  table = rows(config)
  for row in table:
    if not row.stacked:
      yield row, None, row.key
  for layer in range(config.num_layers):
    for row in table:
      if row.stacked:
        yield row, layer, row.key.format(layer)


def _open(folder: Path, stack: contextlib.ExitStack) -> dict[str, tuple]:
  """{key: (file, open handle)} over all safetensors files of a folder."""
  files = [folder / WEIGHTS]
  if not files[0].exists() and (folder / INDEX).exists():
    weight_map = read_json(folder / INDEX).get('weight_map')
    if not isinstance(weight_map, dict):
      raise ValueError(f'{folder / INDEX}: key "weight_map" is missing')
    files = sorted({folder / name for name in weight_map.values()})
  found: dict[str, tuple] = {}
  for file in files:
    if not file.exists():
      raise FileNotFoundError(
        f'{file}: no such file; weights are read from {WEIGHTS}, or from the '
        f'files that {INDEX} names'
      )
    try:
      handle = safetensors.safe_open(file, framework='numpy')
      stack.enter_context(handle)
    except safetensors.SafetensorError as error:
      raise ValueError(f'{file}: no safetensors file: {error}') from error
    found.update((key, (file, handle)) for key in handle.keys())  # noqa: SIM118
  return found


def _tensor(found: dict, key: str, shape: tuple[int, ...]) -> np.ndarray:
  """One tensor as it is stored, after a check of its shape and dtype."""
  file, handle = found[key]
  stored = handle.get_slice(key)
  if tuple(stored.get_shape()) != shape:
    raise ValueError(
      f'{file}: tensor "{key}" has shape {list(stored.get_shape())}, but '
      f'config.json makes it {list(shape)}'
    )
  if stored.get_dtype() not in STORED_DTYPES:
    raise ValueError(
      f'{file}: tensor "{key}" is stored as {stored.get_dtype()}. Supported: '
      + ', '.join(STORED_DTYPES)
    )
  return handle.get_tensor(key)


def _check_keys(folder: Path, config: ModelConfig, found: dict) -> None:
  expected = {key for _, _, key in _file_keys(config)}
  if missing := sorted(expected - set(found)):
    raise ValueError(f'{folder}: missing tensors: {_listed(missing)}')
  extra = {key for key in found if not IGNORED.fullmatch(key)} - expected
  if HEAD.key in extra and config.tie_embeddings:
    # Some tools write the tied matrix twice; only a true copy is harmless.
    shape = EMBEDDING.file_shape(config)
    if not np.array_equal(
      _tensor(found, HEAD.key, shape), _tensor(found, EMBEDDING.key, shape)
    ):
      raise ValueError(
        f'{found[HEAD.key][0]}: tensor "{HEAD.key}" differs from '
        f'"{EMBEDDING.key}", but config.json has tie_word_embeddings=true'
      )
    extra.remove(HEAD.key)
  if extra:
    raise ValueError(f'{folder}: unexpected tensors: {_listed(sorted(extra))}')


def _listed(names: list[str]) -> str:
  more = f' and {len(names) - 8} more' if len(names) > 8 else ''
  return ', '.join(names[:8]) + more


def load(
  path: str | Path,
  *,
  dtype: Any = 'float32',
  param_dtype: Any = 'float32',
  place: Callable[[str, np.ndarray], Array] | None = None,
) -> tuple[ModelConfig, PyTree]:
  """Config and parameters of a Hugging Face folder.

  dtype, param_dtype  as in ModelConfig, or types (jnp.bfloat16); weights are
         cast to `param_dtype`
  place  `place(path_name, host_array)` puts one parameter on devices, for
         instance under its sharding; default: the default device. Only one
         parameter (all layers of it) is on the host at a time.

  Raises:
    FileNotFoundError: config.json or a weight file is not there.
    ValueError: as `read_config`; or a tensor that is missing, unexpected, or
      has another shape than config.json says: file and tensor are named.
  """
  folder = Path(path)
  param_dtype = dtypes.name(param_dtype, what='param_dtype')
  dtypes.check_available(param_dtype, 'param_dtype')
  config = read_config(folder, dtype=dtype, param_dtype=param_dtype)
  place = place or (lambda _, x: jnp.asarray(x, param_dtype))
  flat = {}
  with contextlib.ExitStack() as stack:
    found = _open(folder, stack)
    _check_keys(folder, config, found)
    for row in rows(config):
      layers = range(config.num_layers if row.stacked else 1)
      out = np.empty((len(layers), *row.shape(config)), jnp.dtype(param_dtype))
      for layer in layers:
        stored = _tensor(found, row.key.format(layer), row.file_shape(config))
        out[layer] = row.to_ours(stored, config)
      flat[row.path] = place(row.path, out if row.stacked else out[0])
  return config, traverse_util.unflatten_dict(flat, sep='/')


def _host(path: Path, config: ModelConfig, params: PyTree) -> dict:
  """{path name: host array} after a check of names and shapes."""
  expected = {
    row.path: ((config.num_layers,) if row.stacked else ()) + row.shape(config)
    for row in rows(config)
  }
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
) -> list[list[tuple[Row, int | None, str]]]:
  """The tensors in file order, cut before a shard exceeds `max_bytes`."""
  shards: list[list[tuple[Row, int | None, str]]] = [[]]
  used = 0
  for row, layer, key in _file_keys(config):
    size = math.prod(row.shape(config)) * host[row.path].dtype.itemsize
    if shards[-1] and used + size > max_bytes:
      shards.append([])
      used = 0
    shards[-1].append((row, layer, key))
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
  max_shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes a folder that transformers (and `load`) reads.

  params  on this host; each is stored in the dtype it has
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
  host = _host(folder, config, params)
  dtype = str(jnp.result_type(*(x.dtype for x in host.values())))
  content = to_json(config, dtype, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id)
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
    for row, layer, key in shard:
      x = host[row.path] if layer is None else host[row.path][layer]
      tensors[key] = row.to_file(x, config)
      weight_map[key] = name
      total += tensors[key].nbytes
    # transformers before 5 refuses files that do not name a framework.
    save_file(tensors, folder / name, metadata={'format': 'pt'})
  if len(shards) > 1:
    files = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    (folder / INDEX).write_text(json.dumps(files, indent=2) + '\n')
  (folder / 'config.json').write_text(json.dumps(content, indent=2) + '\n')
