"""config.json of Hugging Face folders to ModelConfig and back.

RoPE has two spellings: `rope_theta` and `rope_scaling` side by side, or both
inside `rope_parameters` (transformers 5). Both are read; the first is written,
because old and new versions understand it.

Sliding windows have two as well: `max_window_layers`, the first windowed layer,
and `layer_types`, a name for each layer, which wins.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from posttrain_jax.core import dtypes
from posttrain_jax.core.resolve import nearest
from posttrain_jax.models.config import ModelConfig, RopeScaling


class Architecture(NamedTuple):
  """What a class name in config.json says.

  implied  keys that may be absent
  windows  layers that may have a sliding window: 'none', 'all' at once, 'any'
  """

  model_type: str
  qkv_bias: bool = False
  qk_norm: bool = False
  implied: tuple[str, ...] = ()
  windows: str = 'none'

  def computes(self, config: ModelConfig) -> bool:
    """Whether models of this class see what `config` makes layers see."""
    kinds = {'none': [('full',)], 'all': [('full',), ('window',)]}
    return self.windows == 'any' or config.kinds in kinds[self.windows]


ARCHITECTURES = {
  'LlamaForCausalLM': Architecture(
    'llama', implied=('num_key_value_heads', 'head_dim')
  ),
  'MistralForCausalLM': Architecture(
    'mistral', implied=('head_dim',), windows='all'
  ),
  'Qwen2ForCausalLM': Architecture(
    'qwen2', qkv_bias=True, implied=('head_dim',), windows='any'
  ),
  'Qwen3ForCausalLM': Architecture('qwen3', qk_norm=True, windows='any'),
}

# The only values we compute correctly; an absent key or null is fine too.
SUPPORTED_VALUES: dict[str, tuple] = {
  'hidden_act': ('silu', 'swish'),
  'attention_bias': (False,),  # would add a bias to o_proj as well
  'mlp_bias': (False,),
  'partial_rotary_factor': (1.0,),
  'quantization_config': (),
}
ROPE_TYPES = ('default', 'llama3')
LAYER_TYPES = {'full': 'full_attention', 'window': 'sliding_attention'}
# What transformers takes for a key that is absent; a null window is none.
ABSENT = {'sliding_window': 4096, 'max_window_layers': 28}


def read_json(file: Path) -> dict[str, Any]:
  """The object in a JSON file; errors name the file."""
  try:
    content = json.loads(file.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{file}: no such file; a local folder with config.json and safetensors '
      'is needed'
    ) from None
  except ValueError as error:
    raise ValueError(f'{file}: not JSON: {error}') from error
  if not isinstance(content, dict):
    raise ValueError(f'{file}: an object is needed, not {content!r:.40}')
  return content


def _number(
  file: Path, values: dict, key: str, kind: type, default=None, *, zero=False
):
  """`values[key]`, positive (or `zero`); absent or null: the default."""
  value = values.get(key)
  value = default if value is None else value
  if value is None:
    raise ValueError(f'{file}: key "{key}" is missing')
  accepted = (int, float) if kind is float else (int,)
  right = isinstance(value, accepted) and not isinstance(value, bool)
  if not right or value < 0 or (value == 0 and not zero):
    sign = 'non-negative' if zero else 'positive'
    raise ValueError(f'{file}: {key}={value!r} is no {sign} {kind.__name__}')
  return kind(value)


def _refuse(file: Path, key: str, value, supported) -> None:
  raise ValueError(
    f'{file}: {key}={value!r} is not supported. Supported: '
    + (', '.join(repr(x) for x in supported) or 'leaving it out')
  )


def _architecture(file: Path, values: dict) -> Architecture:
  """The architecture a config.json names, by class or else by model_type."""
  by_type = {a.model_type: name for name, a in ARCHITECTURES.items()}
  key = 'architectures' if values.get('architectures') else 'model_type'
  named = values.get(key)
  name = named[0] if isinstance(named, list) else by_type.get(str(named), named)
  if name not in ARCHITECTURES:
    raise ValueError(
      f'{file}: {key}={named!r} is not supported.'
      + nearest(str(name), ARCHITECTURES)
    )
  return ARCHITECTURES[name]


def _check_values(file: Path, values: dict, rope: dict) -> None:
  for key, supported in SUPPORTED_VALUES.items():
    for value in (values.get(key), rope.get(key)):
      if value is not None and value not in supported:
        _refuse(file, key, value, supported)
  for key, value in rope.items():
    if isinstance(value, dict):
      _refuse(file, f'rope_parameters.{key}', value, ())


def _layer_types(file: Path, values: dict, num_layers: int) -> list | None:
  types = values.get('layer_types')
  if types is None:
    return None
  if not isinstance(types, list) or len(types) != num_layers:
    raise ValueError(
      f'{file}: layer_types={types!r} is no list of {num_layers} names, one '
      'per layer (num_hidden_layers)'
    )
  known = list(LAYER_TYPES.values())
  for name in types:
    if name not in known:
      raise ValueError(
        f'{file}: layer_types has {name!r}, which is not supported.'
        + nearest(name, known)
      )
  return types


def _windows(
  file: Path, values: dict, architecture: Architecture, num_layers: int
) -> dict[str, Any]:
  """ModelConfig's sliding_window and full_layers."""
  full, sliding = LAYER_TYPES.values()
  types = _layer_types(file, values, num_layers)
  used = values.get('use_sliding_window')
  if used not in (None, False, True):
    _refuse(file, 'use_sliding_window', used, (False, True))
  if architecture.windows == 'any' and not used:
    return {}
  window, key = None, 'sliding_window'
  none = key in values and values[key] is None
  if architecture.windows != 'none' and not none:
    window = _number(file, values, key, int, ABSENT[key])
  if architecture.windows == 'any':
    if types is None:
      key = 'max_window_layers'
      first = _number(file, values, key, int, ABSENT[key], zero=True)
      first = num_layers if window is None else first
      types = [full if i < first else sliding for i in range(num_layers)]
    elif sliding in types and window is None:
      raise ValueError(f'{file}: layer_types={types!r} needs a sliding_window')
  else:
    # transformers ignores these two keys here: they may only agree with it.
    same = [full if window is None else sliding] * num_layers
    if types not in (None, same):
      _refuse(file, 'layer_types', types, same[:1])
    if used not in (None, window is not None):
      _refuse(file, 'use_sliding_window', used, (window is not None,))
    types = same
  if sliding not in types:
    return {}
  layers = tuple(i for i, name in enumerate(types) if name == full)
  return dict(sliding_window=window, full_layers=layers)


def _rope(file: Path, values: dict, rope: dict) -> dict[str, Any]:
  """ModelConfig's rope_theta and rope_scaling."""
  theta = rope.get('rope_theta', values.get('rope_theta'))
  theta = _number(file, {'rope_theta': theta}, 'rope_theta', float, 10_000.0)
  rope_type = rope.get('rope_type', rope.get('type')) or 'default'
  if rope_type not in ROPE_TYPES:
    _refuse(file, 'rope_type', rope_type, ROPE_TYPES)
  scaling = None
  if rope_type == 'llama3':
    floats = ('factor', 'low_freq_factor', 'high_freq_factor')
    context = 'original_max_position_embeddings'
    scaling = RopeScaling(
      **{key: _number(file, rope, key, float) for key in floats},
      original_max_position_embeddings=_number(file, rope, context, int),
    )
  return dict(rope_theta=theta, rope_scaling=scaling)


def read_config(
  path: str | Path, *, dtype: Any = 'float32', param_dtype: Any = 'float32'
) -> ModelConfig:
  """The ModelConfig of a folder's config.json, without reading weights.

  Raises:
    FileNotFoundError: no config.json.
    ValueError: an architecture or a value that we would compute wrongly, a
      missing key or a value of the wrong type; it names the file and key.
  """
  dtype = dtypes.name(dtype)
  param_dtype = dtypes.name(param_dtype, what='param_dtype')
  file = Path(path) / 'config.json'
  values = read_json(file)
  architecture = _architecture(file, values)
  rope = values.get('rope_scaling') or values.get('rope_parameters') or {}
  _check_values(file, values, rope)
  heads = _number(file, values, 'num_attention_heads', int)
  width = _number(file, values, 'hidden_size', int)
  implied = {'num_key_value_heads': heads, 'head_dim': width // heads}
  implied = {key: implied[key] for key in architecture.implied}
  integer = lambda key: _number(file, values, key, int, implied.get(key))
  num_layers = integer('num_hidden_layers')
  tie = values.get('tie_word_embeddings')
  if tie not in (None, False, True):
    _refuse(file, 'tie_word_embeddings', tie, (False, True))
  try:
    return ModelConfig(
      vocab_size=integer('vocab_size'),
      num_layers=num_layers,
      width=width,
      num_heads=heads,
      num_kv_heads=integer('num_key_value_heads'),
      head_dim=integer('head_dim'),
      mlp_dim=integer('intermediate_size'),
      max_length=integer('max_position_embeddings'),
      norm_eps=_number(file, values, 'rms_norm_eps', float),
      tie_embeddings=bool(tie),
      qkv_bias=architecture.qkv_bias,
      qk_norm=architecture.qk_norm,
      dtype=dtype,
      param_dtype=param_dtype,
      **_rope(file, values, rope),
      **_windows(file, values, architecture, num_layers),
    )
  except ValueError as error:
    if str(error).startswith(str(file)):
      raise
    raise ValueError(f'{file}: {error}') from error


def architecture_of(config: ModelConfig) -> str:
  """The class name that computes what `config` computes.

  Raises:
    ValueError: there is none.
  """
  fits = {
    name: known
    for name, known in ARCHITECTURES.items()
    if (known.qkv_bias, known.qk_norm) == (config.qkv_bias, config.qk_norm)
  }
  if not fits:
    raise ValueError(
      f'qkv_bias={config.qkv_bias} with qk_norm={config.qk_norm} is none of '
      + ', '.join(ARCHITECTURES)
    )
  name = next((x for x, known in fits.items() if known.computes(config)), None)
  if name is None:
    raise ValueError(
      f'sliding_window={config.sliding_window} with full_layers='
      f'{config.full_layers} is none of {", ".join(fits)}: without qkv_bias '
      'or qk_norm all layers have the window, or none has'
    )
  if name == 'LlamaForCausalLM' and config.width % config.num_heads:
    raise ValueError(
      f'width={config.width} is no multiple of num_heads={config.num_heads}: '
      f'{name} requires it'
    )
  if config.max_length < 1:
    raise ValueError(
      f'max_length={config.max_length}: config.json needs a positive '
      'max_position_embeddings'
    )
  return name


def _token_id(config: ModelConfig, key: str, ids) -> int | list[int] | None:
  if ids is None:
    return None
  listed = [ids] if isinstance(ids, int) else list(ids)
  for token in listed:
    if not 0 <= token < config.vocab_size:
      raise ValueError(
        f'{key}={ids!r} is outside the vocabulary of {config.vocab_size}'
      )
  return ids if isinstance(ids, int) else listed


def _window_keys(config: ModelConfig) -> dict[str, Any]:
  """What Qwen's config.json says of windows."""
  kinds = [config.kind(layer) for layer in range(config.num_layers)]
  if 'window' not in kinds:
    return dict(use_sliding_window=False)
  keys = dict(
    use_sliding_window=True,
    sliding_window=config.sliding_window,
    layer_types=[LAYER_TYPES[kind] for kind in kinds],
  )
  first = kinds.index('window')
  # Older transformers read this key only; it can say no other pattern.
  if 'full' not in kinds[first:]:
    keys['max_window_layers'] = first
  return keys


def to_json(
  config: ModelConfig,
  dtype: Any,
  *,
  eos_id: int | Iterable[int] | None = None,
  pad_id: int | None = None,
  bos_id: int | None = None,
) -> dict[str, Any]:
  """What config.json says of `config` with weights stored as `dtype`.

  A window that no layer has is left out.

  Raises:
    ValueError: no architecture fits, or an id is outside the vocabulary.
  """
  name = architecture_of(config)
  scaling = None
  if config.rope_scaling is not None:
    scaling = {
      'rope_type': 'llama3',
      **dataclasses.asdict(config.rope_scaling),
    }
  values = dict(
    architectures=[name],
    model_type=ARCHITECTURES[name].model_type,
    torch_dtype=dtypes.name(dtype, (*dtypes.FLOATS, 'float16')),
    vocab_size=config.vocab_size,
    hidden_size=config.width,
    intermediate_size=config.mlp_dim,
    num_hidden_layers=config.num_layers,
    num_attention_heads=config.num_heads,
    num_key_value_heads=config.num_kv_heads,
    head_dim=config.head_dim,
    hidden_act='silu',
    max_position_embeddings=config.max_length,
    rms_norm_eps=config.norm_eps,
    rope_theta=config.rope_theta,
    rope_scaling=scaling,
    tie_word_embeddings=config.tie_embeddings,
    attention_dropout=0.0,
    initializer_range=0.02,
    use_cache=True,
    bos_token_id=_token_id(config, 'bos_id', bos_id),
    eos_token_id=_token_id(config, 'eos_id', eos_id),
    pad_token_id=_token_id(config, 'pad_id', pad_id),
  )
  if name == 'LlamaForCausalLM':
    return {**values, 'attention_bias': False, 'mlp_bias': False}
  if name == 'MistralForCausalLM':
    return {**values, 'sliding_window': config.sliding_window}
  if name == 'Qwen3ForCausalLM':
    values['attention_bias'] = False
  return {**values, **_window_keys(config)}
