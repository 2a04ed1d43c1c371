"""config.json of Hugging Face folders to ModelConfig and back.

`architectures` says what each class computes; RoPE and windows have files of
their own (`hf_rope`, `hf_windows`). Neither direction needs weights.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from posttrain_jax.core import dtypes
from posttrain_jax.core.resolve import nearest
from posttrain_jax.models import hf_rope, hf_windows
from posttrain_jax.models.architectures import (
  ARCHITECTURES,
  OF_SCORER,
  SCORES,
  Architecture,
  architecture_of,
)
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_values import Source, read_json, refuse

__all__ = [
  'ARCHITECTURES',
  'architecture_of',
  'is_scorer',
  'read_config',
  'read_json',
  'stored_dtype',
  'to_json',
]

# Classes whose text part is read alone; it stands under text_config.
TEXT_PARTS = {
  'Gemma3ForConditionalGeneration': ('gemma3', 'Gemma3ForCausalLM'),
}
# The only values we compute correctly where a class has no trait for them; an
# absent key or null is fine too.
ONLY: dict[str, tuple] = {
  'attention_bias': (False,),
  'mlp_bias': (False,),
  'partial_rotary_factor': (1.0,),
  'quantization_config': (),
}
OF_TRAITS = {'partial_rotary_factor': 'rotary'}
ACTIVATIONS = {
  'silu': ('silu', 'swish'),
  'gelu': ('gelu',),
  # Three names of one formula.
  'gelu_tanh': ('gelu_pytorch_tanh', 'gelu_new', 'gelu_fast'),
}
HEADS = ('num_key_value_heads', 'head_dim')


def _source(file: Path) -> tuple[str, Source]:
  """(class, values), by the class's name or else by model_type."""
  values = read_json(file)
  by_type = {a.model_type: name for name, a in ARCHITECTURES.items()}
  by_type |= {kind: name for name, (kind, _) in TEXT_PARTS.items()}
  key = 'architectures' if values.get('architectures') else 'model_type'
  named = values.get(key)
  name = named[0] if isinstance(named, list) else by_type.get(str(named), named)
  first, kind = name, values.get('model_type')
  if name in TEXT_PARTS:
    text = values.get('text_config')
    if not isinstance(text, dict):
      raise ValueError(f'{file}: key "text_config" is missing')
    outer = ('tie_word_embeddings', 'quantization_config')
    values = {**{k: values[k] for k in outer if k in values}, **text}
    name = TEXT_PARTS[name][1]
  if str(name).endswith(SCORES):
    if 'text_config' in values:
      raise ValueError(f'{file}: {key}={named!r} of pictures is not supported')
    _check_labels(file, values)
    name = OF_SCORER.get(str(name), name)
  if name not in ARCHITECTURES:
    raise ValueError(
      f'{file}: {key}={named!r} is not supported.'
      + nearest(str(name), [*ARCHITECTURES, *TEXT_PARTS, *OF_SCORER])
    )
  whole = TEXT_PARTS.get(str(first))
  known = whole[0] if whole else ARCHITECTURES[name].model_type
  if kind not in (None, known):  # transformers goes by the type
    raise ValueError(
      f'{file}: {key}={named!r} is of model_type "{known}", and '
      f'model_type={kind!r} is there: which of them are the weights of?'
    )
  return name, Source(file, values, ARCHITECTURES[name])


def _check_labels(file: Path, values: dict[str, Any]) -> None:
  """Raises ValueError unless a class for labels has one, which is a score."""
  labels = values.get('id2label')
  # Without them transformers makes two.
  count = len(labels) if isinstance(labels, dict) else 2
  count = values.get('num_labels', count)
  if count != 1:
    raise ValueError(
      f'{file}: id2label has {count} labels; a reward model has one, which is '
      'its score'
    )


def is_scorer(path: str | Path) -> bool:
  """Whether a folder is a reward model: one that scores, and cannot answer."""
  try:
    named = read_json(Path(path) / 'config.json').get('architectures')
    return isinstance(named, list) and str(named[0]).endswith(SCORES)
  except (FileNotFoundError, NotADirectoryError):
    return False


def _check_values(source: Source) -> None:
  known = source.architecture
  for key, supported in {**ONLY, **known.only}.items():
    if OF_TRAITS.get(key, key) in known.traits:
      continue
    value = source.values.get(key)
    if value is not None and value not in supported:
      refuse(source.file, key, value, supported)


def _activation(source: Source) -> str:
  value = source.get('hidden_act', 'silu')
  for ours, theirs in ACTIVATIONS.items():
    if value in theirs:
      return ours
  every = [name for theirs in ACTIVATIONS.values() for name in theirs]
  refuse(source.file, source.name('hidden_act'), value, every)


def _cap(source: Source, key: str) -> float:
  """A cap; null is none, absent the class's own."""
  if source.has(key) and source.values[key] is None:
    return 0.0
  return source.number(key, float, 0.0, zero=True)


def _query_scale(source: Source, head_dim: int) -> float:
  scale = source.number('query_pre_attn_scalar', float)
  return 0.0 if scale == head_dim else scale


def _layers(source: Source, key: str, num_layers: int) -> tuple[int, ...]:
  """A list of layer numbers."""
  given = source.get(key, [])
  right = isinstance(given, list) and all(type(i) is int for i in given)
  if not right or not all(0 <= i < num_layers for i in given):
    raise ValueError(
      f'{source.file}: {key}={given!r} is no list of layers within '
      f'0..{num_layers - 1}'
    )
  return tuple(given)


def _nope(source: Source, num_layers: int) -> tuple[int, ...]:
  """SmolLM3's layers without RoPE: those whose flag is 0."""
  flags = source.get('no_rope_layers')
  if flags is None:
    every = source.number('no_rope_layer_interval', int, 4)
    flags = [int((i + 1) % every != 0) for i in range(num_layers)]
  if (
    not isinstance(flags, list)
    or len(flags) < num_layers
    or any(flag not in (0, 1) for flag in flags)
  ):
    raise ValueError(
      f'{source.file}: no_rope_layers={flags!r} is no list of {num_layers} '
      'flags, 1 for layers with RoPE and 0 for those without'
    )
  return tuple(i for i in range(num_layers) if not flags[i])


def _experts(source: Source, num_layers: int) -> dict[str, Any]:
  local = source.get('num_local_experts')
  count = source.number('num_experts', int, local)
  every = source.number('decoder_sparse_step', int, 1)
  dense = {i for i in range(num_layers) if (i + 1) % every}
  return dict(
    num_experts=count,
    experts_per_token=source.number('num_experts_per_tok', int),
    expert_dim=source.number('moe_intermediate_size', int),
    norm_experts=source.flag('norm_topk_prob'),
    dense_layers=tuple(
      sorted(dense.union(_layers(source, 'mlp_only_layers', num_layers)))
    ),
  )


def _traits(source: Source, num_layers: int, head_dim: int) -> dict[str, Any]:
  """Fields of ModelConfig that the class lets config.json vary."""
  biased = lambda: source.flag('attention_bias')
  readers: dict[str, Callable[[], dict]] = {
    'attention_bias': lambda: dict(qkv_bias=biased(), output_bias=biased()),
    'mlp_bias': lambda: dict(mlp_bias=source.flag('mlp_bias')),
    'attention_cap': lambda: dict(
      attention_cap=_cap(source, 'attn_logit_softcapping')
    ),
    'logit_cap': lambda: dict(
      logit_cap=_cap(source, 'final_logit_softcapping')
    ),
    'query_scale': lambda: dict(query_scale=_query_scale(source, head_dim)),
    'parallel': lambda: dict(
      parallel=source.flag('use_parallel_residual', True)
    ),
    'nope': lambda: dict(nope_layers=_nope(source, num_layers)),
    'experts': lambda: _experts(source, num_layers),
  }
  fields = {**source.architecture.fixed, 'activation': _activation(source)}
  for trait in source.architecture.traits:
    if trait in readers:
      fields |= readers[trait]()
  return fields


def read_config(
  path: str | Path, *, dtype: Any = 'float32', param_dtype: Any = 'float32'
) -> ModelConfig:
  """The ModelConfig of a folder's config.json; no weights need be there.

  Of a model that also sees images it is that of the text alone. A reward model
  (`is_scorer`) has a value head, and no output matrix of its own.

  Raises:
    FileNotFoundError: no config.json.
    ValueError: an architecture or a value that we would compute wrongly, a
      missing key or a value of the wrong type; it names the file and key.
  """
  dtype = dtypes.name(dtype)
  param_dtype = dtypes.name(param_dtype, what='param_dtype')
  file = Path(path) / 'config.json'
  name, source = _source(file)
  _check_values(source)
  heads = source.number('num_attention_heads', int)
  width = source.number('hidden_size', int)
  implied = {
    'num_key_value_heads': heads,
    'head_dim': width // heads,
    'intermediate_size': 4 * width,
  }
  implied = {key: implied[key] for key in source.architecture.implied}
  integer = lambda key: source.number(key, int, implied.get(key))
  num_layers, head_dim = integer('num_hidden_layers'), integer('head_dim')
  fields = _traits(source, num_layers, head_dim)
  fields |= hf_windows.read(source, num_layers, fields.get('nope_layers', ()))
  fields |= hf_rope.read(source, head_dim, 'sliding_window' in fields)
  scores = is_scorer(path)
  try:
    config = ModelConfig(
      vocab_size=integer('vocab_size'),
      num_layers=num_layers,
      width=width,
      num_heads=heads,
      num_kv_heads=integer('num_key_value_heads'),
      head_dim=head_dim,
      mlp_dim=integer('intermediate_size'),
      max_length=integer('max_position_embeddings'),
      norm_eps=source.number('rms_norm_eps', float),
      tie_embeddings=scores or source.flag('tie_word_embeddings'),
      value_head=scores,
      dtype=dtype,
      param_dtype=param_dtype,
      **fields,
    )
    return _named(config, name)
  except ValueError as error:
    if str(error).startswith(str(file)):
      raise
    raise ValueError(f'{file}: {error}') from error


def _named(config: ModelConfig, name: str) -> ModelConfig:
  """With its class, where another one comes first that computes the same."""
  misfits = list(ARCHITECTURES[name].misfits(config))
  if misfits:
    shown = ', '.join(f'{x}={getattr(config, x)!r}' for x in misfits)
    raise ValueError(f'{name} does not compute {shown}')
  if architecture_of(config) == name:
    return config
  return dataclasses.replace(config, architecture=name)


def stored_dtype(path: str | Path) -> str:
  """The type that a folder's config.json says its weights have; '': none.

  Raises:
    ValueError: a type that no weights are read in.
  """
  file = Path(path) / 'config.json'
  values = read_json(file)
  text = values.get('text_config')
  for content in (values, text if isinstance(text, dict) else {}):
    for key in ('dtype', 'torch_dtype'):
      if content.get(key) is not None:
        named = str(content[key]).removeprefix('torch.')
        try:
          return dtypes.name(named, (*dtypes.FLOATS, 'float16'), key)
        except ValueError as error:
          raise ValueError(f'{file}: {error}') from error
  return ''


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


def _activation_name(config: ModelConfig, known: Architecture) -> str:
  names = ACTIVATIONS[config.activation]
  usual = known.defaults.get('hidden_act')
  return usual if usual in names else names[0]


def _trait_keys(config: ModelConfig, known: Architecture) -> dict[str, Any]:
  """What config.json says of a class's traits."""
  c = config
  scale = c.query_scale or c.head_dim
  rope_layers = [int(i not in c.nope_layers) for i in range(c.num_layers)]
  keys: dict[str, dict[str, Any]] = {
    'attention_bias': {'attention_bias': c.qkv_bias},
    'mlp_bias': {'mlp_bias': c.mlp_bias},
    'attention_cap': {'attn_logit_softcapping': c.attention_cap or None},
    'logit_cap': {'final_logit_softcapping': c.logit_cap or None},
    'query_scale': {
      'query_pre_attn_scalar': int(scale) if scale == int(scale) else scale
    },
    'parallel': {'use_parallel_residual': c.parallel},
    'nope': {'no_rope_layers': rope_layers},
    'experts': {
      'num_experts': c.num_experts,
      'num_experts_per_tok': c.experts_per_token,
      'moe_intermediate_size': c.expert_dim,
      'norm_topk_prob': c.norm_experts,
      'decoder_sparse_step': 1,
      'mlp_only_layers': list(c.dense_layers),
    },
  }
  found: dict[str, Any] = {}
  for trait in known.traits:
    found |= keys.get(trait, {})
  return found


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
  known = ARCHITECTURES[name]
  sizes = dict(
    vocab_size=config.vocab_size,
    hidden_size=config.width,
    intermediate_size=config.mlp_dim,
    num_hidden_layers=config.num_layers,
    num_attention_heads=config.num_heads,
    num_key_value_heads=config.num_kv_heads,
    head_dim=config.head_dim,
    hidden_act=_activation_name(config, known),
    max_position_embeddings=config.max_length,
    rms_norm_eps=config.norm_eps,
  )
  if known.heads == 'plain':
    for key in HEADS:
      del sizes[key]
  return dict(
    architectures=[name],
    model_type=known.model_type,
    torch_dtype=dtypes.name(dtype, (*dtypes.FLOATS, 'float16')),
    **{known.names.get(key, key): value for key, value in sizes.items()},
    **hf_rope.write(config, known),
    **hf_windows.write(config, known),
    **_trait_keys(config, known),
    tie_word_embeddings=config.tie_embeddings,
    initializer_range=0.02,
    use_cache=True,
    **({} if known.layout == 'gpt2' else {'attention_dropout': 0.0}),
    bos_token_id=_token_id(config, 'bos_id', bos_id),
    eos_token_id=_token_id(config, 'eos_id', eos_id),
    pad_token_id=_token_id(config, 'pad_id', pad_id),
  )
