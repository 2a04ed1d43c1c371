"""RoPE in config.json, both ways.

It has two spellings: `rope_theta` and `rope_scaling` side by side, or both
inside `rope_parameters` (transformers 5), there by kind of layer for Gemma 3.
Both are read; the first is written, because old and new versions understand it.
"""

import dataclasses
import math
from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.models.config import ModelConfig, RopeScaling
from posttrain_jax.models.hf_values import Source, number, refuse

__all__ = ['read', 'write']

CONTEXT = 'original_max_position_embeddings'
# Phi-3 called its own kind by other names first.
OLD_NAMES = {'phi3': {'su': 'longrope', 'yarn': 'longrope'}}
LAYER_KINDS = ('full_attention', 'sliding_attention')


def _given(source: Source) -> tuple[dict, dict]:
  """(RoPE of most layers, of windowed ones) as they stand in the file."""
  values = source.values
  rope = values.get('rope_scaling') or values.get('rope_parameters') or {}
  if not isinstance(rope, dict):
    refuse(source.file, 'rope_parameters', rope, ())
  windowed: dict[str, Any] = {}
  for key, value in rope.items():
    if not isinstance(value, dict):
      continue
    local = 'local_theta' in source.architecture.traits
    if not local or key not in LAYER_KINDS:
      supported = LAYER_KINDS if local else ()
      refuse(source.file, f'rope_parameters.{key}', value, supported)
  if any(key in rope for key in LAYER_KINDS):
    full, sliding = (rope.get(key) or {} for key in LAYER_KINDS)
    rope, windowed = full, sliding
  return rope, windowed


def _number(source: Source, rope: dict, key: str, kind: type, default=None):
  value = rope.get(key)
  value = default if value is None else value
  return number(source.file, key, value, kind)


def _kind(source: Source, rope: dict) -> str:
  """The kind of scaling; 'default': none."""
  named = rope.get('rope_type', rope.get('type')) or 'default'
  old = OLD_NAMES.get(source.architecture.model_type, {})
  kind = old.get(named, named)
  valid = ('default', *source.architecture.ropes)
  if kind not in valid:
    raise ValueError(
      f'{source.file}: rope_type={named!r} is not supported.'
      + nearest(str(named), valid)
    )
  return kind


def _context(source: Source, rope: dict) -> int:
  """The original context: Phi-3 has it beside the others."""
  outer = source.get(CONTEXT)
  if outer is not None:
    return number(source.file, CONTEXT, outer, int)
  most = source.number('max_position_embeddings', int)
  return _number(source, rope, CONTEXT, int, most)


def _own_magnitude(source: Source, rope: dict, factor: float) -> float:
  """attention_factor, which 'yarn' may give by way of two others; 0: absent."""
  if rope.get('attention_factor') is not None:
    return _number(source, rope, 'attention_factor', float)
  keys = ('mscale', 'mscale_all_dim')
  if not all(rope.get(key) for key in keys):
    return 0.0
  log = math.log(max(factor, 1.0))
  top, bottom = (
    0.1 * _number(source, rope, key, float) * log + 1.0 for key in keys
  )
  return top / bottom


def _factors(source: Source, rope: dict, key: str) -> tuple[float, ...]:
  given = rope.get(key)
  if not isinstance(given, list) or not given:
    raise ValueError(f'{source.file}: {key}={given!r} is no list of numbers')
  return tuple(number(source.file, key, value, float) for value in given)


def _scaling(source: Source, rope: dict, kind: str) -> RopeScaling | None:
  get = lambda key, default=None: _number(source, rope, key, float, default)
  if kind == 'default':
    return None
  if kind in ('linear', 'dynamic'):
    return RopeScaling(factor=get('factor'), kind=kind)
  if kind == 'llama3':
    return RopeScaling(
      factor=get('factor'),
      low_freq_factor=get('low_freq_factor'),
      high_freq_factor=get('high_freq_factor'),
      original_max_position_embeddings=_number(source, rope, CONTEXT, int),
    )
  context = _context(source, rope)
  longest = source.number('max_position_embeddings', int)
  factor = get('factor', longest / context)
  made = RopeScaling(
    factor=factor,
    original_max_position_embeddings=context,
    kind=kind,
    attention_factor=_own_magnitude(source, rope, factor),
    beta_fast=get('beta_fast', 32.0),
    beta_slow=get('beta_slow', 1.0),
  )
  if kind == 'yarn':
    truncate = rope.get('truncate', True)
    if truncate not in (False, True):
      refuse(source.file, 'truncate', truncate, (False, True))
    return dataclasses.replace(made, truncate=bool(truncate))
  return dataclasses.replace(
    made,
    short_factor=_factors(source, rope, 'short_factor'),
    long_factor=_factors(source, rope, 'long_factor'),
  )


def _rotary_dim(source: Source, rope: dict, head_dim: int) -> int:
  key = 'partial_rotary_factor'
  share = rope.get(key)
  share = source.get(key, 1.0) if share is None else share
  if 'rotary' not in source.architecture.traits:
    if share != 1.0:
      refuse(source.file, key, share, (1.0,))
    return 0
  channels = int(head_dim * number(source.file, source.name(key), share, float))
  return 0 if channels == head_dim else channels


def read(source: Source, head_dim: int, windowed: bool) -> dict[str, Any]:
  """ModelConfig's fields of RoPE.

  windowed  whether any layer has a window

  Raises:
    ValueError: a kind or value that we would compute wrongly.
  """
  if not source.architecture.ropes:
    return {}
  rope, local = _given(source)
  theta = rope.get('rope_theta')
  theta = source.get('rope_theta', 10_000.0) if theta is None else theta
  fields = dict(
    rope_theta=number(source.file, source.name('rope_theta'), theta, float),
    rope_scaling=_scaling(source, rope, _kind(source, rope)),
    rotary_dim=_rotary_dim(source, rope, head_dim),
  )
  if 'local_theta' in source.architecture.traits and windowed:
    kind = local.get('rope_type') or 'default'
    if kind != 'default':
      refuse(source.file, f'{LAYER_KINDS[1]}.rope_type', kind, ('default',))
    theta = local.get('rope_theta') or source.get('rope_local_base_freq')
    fields['window_theta'] = number(
      source.file, 'rope_local_base_freq', theta, float
    )
  return fields


def _written(config: ModelConfig) -> dict[str, Any] | None:
  """`rope_scaling` of config.json."""
  scaling = config.rope_scaling
  if scaling is None:
    return None
  content: dict[str, Any] = {'rope_type': scaling.kind}
  if scaling.kind in ('linear', 'dynamic'):
    return {**content, 'factor': scaling.factor}
  if scaling.kind == 'llama3':
    for key in ('factor', 'low_freq_factor', 'high_freq_factor', CONTEXT):
      content[key] = getattr(scaling, key)
    return content
  if scaling.kind == 'longrope':
    # Phi-3 before transformers 5 takes these three keys and no other.
    content = {'type': scaling.kind}
    for key in ('short_factor', 'long_factor'):
      content[key] = list(getattr(scaling, key))
    usual = config.max_length / scaling.original_max_position_embeddings
    if scaling.factor != usual:
      content['factor'] = scaling.factor
  else:
    for key in ('factor', CONTEXT, 'beta_fast', 'beta_slow', 'truncate'):
      content[key] = getattr(scaling, key)
  if scaling.attention_factor:
    content['attention_factor'] = scaling.attention_factor
  return content


def _share(config: ModelConfig) -> float:
  """partial_rotary_factor, which readers multiply and round down."""
  if not config.rotary_dim:
    return 1.0
  share = config.rotary_dim / config.head_dim
  if int(config.head_dim * share) != config.rotary_dim:
    share = (config.rotary_dim + 0.5) / config.head_dim
  return share


def write(config: ModelConfig, architecture: Any) -> dict[str, Any]:
  """What config.json says of RoPE."""
  if not architecture.ropes:
    return {}
  name = lambda key: architecture.names.get(key, key)
  keys = {
    name('rope_theta'): config.rope_theta,
    'rope_scaling': _written(config),
  }
  if 'rotary' in architecture.traits:
    keys[name('partial_rotary_factor')] = _share(config)
  if 'local_theta' in architecture.traits:
    usual = architecture.defaults['rope_local_base_freq']
    keys['rope_local_base_freq'] = config.window_theta or usual
  if CONTEXT in architecture.defaults:
    scaling = config.rope_scaling
    plain = min(config.max_length, architecture.defaults[CONTEXT])
    keys[CONTEXT] = (
      scaling.original_max_position_embeddings if scaling else plain
    )
  return keys
