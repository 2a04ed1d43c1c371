"""Which layers have a sliding window, in config.json and back.

`layer_types` names each layer's kind; older files have the first windowed layer
(`max_window_layers`) or a period (`sliding_window_pattern`), and lose to it.
"""

from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.models.architectures import Architecture
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_values import Source, refuse

__all__ = ['read', 'write']

FULL, SLIDING = 'full_attention', 'sliding_attention'
LAYER_TYPES = {'full': FULL, 'window': SLIDING}


def _layer_types(source: Source, num_layers: int) -> list | None:
  types = source.values.get('layer_types')
  if types is None:
    return None
  if not isinstance(types, list) or len(types) != num_layers:
    raise ValueError(
      f'{source.file}: layer_types={types!r} is no list of {num_layers} names, '
      'one per layer (num_hidden_layers)'
    )
  for name in types:
    if name not in (FULL, SLIDING):
      raise ValueError(
        f'{source.file}: layer_types has {name!r}, which is not supported.'
        + nearest(name, (FULL, SLIDING))
      )
  return types


def _used(source: Source) -> bool | None:
  used = source.values.get('use_sliding_window')
  if used not in (None, False, True):
    refuse(source.file, 'use_sliding_window', used, (False, True))
  return used


def _size(source: Source) -> int | None:
  """The window; null is none, absent the class's own."""
  key = 'sliding_window'
  if key in source.values and source.values[key] is None:
    return None
  if source.get(key) is None:
    return None
  return source.number(key, int)


def _uniform(
  source: Source, types: list | None, num_layers: int
) -> tuple[list, int | None]:
  """(types, window) where all layers are of one kind.

  transformers ignores layer_types here, and use_sliding_window where it does
  not switch: they may only agree with what it does.
  """
  used, rule = _used(source), source.architecture.windows
  window = None if rule == 'none' else _size(source)
  if rule == 'switched':
    window = window if used else None
  elif used not in (None, window is not None):
    refuse(source.file, 'use_sliding_window', used, (window is not None,))
  same = [FULL if window is None else SLIDING] * num_layers
  if types not in (None, same):
    refuse(source.file, 'layer_types', types, same[:1])
  return same, window


def _derived(
  source: Source, window: int | None, num_layers: int, nope: tuple[int, ...]
) -> list:
  """layer_types of a file that does not have them."""
  rule = source.architecture.windows
  if rule == 'any':
    first = source.number('max_window_layers', int, zero=True)
    first = num_layers if window is None else first
    return [FULL if i < first else SLIDING for i in range(num_layers)]
  if rule == 'nope':
    near = nope if window is not None else ()
    return [SLIDING if i in near else FULL for i in range(num_layers)]
  period = source.number('sliding_window_pattern', int)
  return [SLIDING if (i + 1) % period else FULL for i in range(num_layers)]


def read(
  source: Source, num_layers: int, nope: tuple[int, ...] = ()
) -> dict[str, Any]:
  """ModelConfig's sliding_window and full_layers.

  nope  layers without RoPE

  Raises:
    ValueError: windows that the class does not compute.
  """
  types = _layer_types(source, num_layers)
  rule = source.architecture.windows
  if rule in ('none', 'all', 'switched'):
    types, window = _uniform(source, types, num_layers)
  else:
    used = _used(source)
    if rule != 'every' and not used:
      if rule == 'nope' and types is not None and SLIDING in types:
        refuse(source.file, 'layer_types', types, (FULL,))
      return {}
    window = _size(source)
    if types is None:
      types = _derived(source, window, num_layers, nope)
    if SLIDING in types and window is None:
      raise ValueError(
        f'{source.file}: layer_types={types!r} needs a sliding_window'
      )
  if SLIDING not in types:
    return {}
  layers = tuple(i for i, name in enumerate(types) if name == FULL)
  return dict(sliding_window=window, full_layers=layers)


def write(config: ModelConfig, architecture: Architecture) -> dict[str, Any]:
  """What config.json says of windows; one that no layer has is left out."""
  rule = architecture.windows
  kinds = [config.kind(layer) for layer in range(config.num_layers)]
  types = [LAYER_TYPES[kind] for kind in kinds]
  window = config.sliding_window if 'window' in kinds else None
  if rule == 'none':
    return {}
  if rule == 'all':
    return {'sliding_window': window}
  if rule == 'every':
    keys = dict(
      sliding_window=window or architecture.defaults['sliding_window'],
      layer_types=types,
    )
    # Older transformers read this key only; it can say no other pattern.
    period = (*config.full_layers, 0)[0] + 1
    if (
      all((i + 1) % period == 0 for i in config.full_layers)
      and len(config.full_layers) == config.num_layers // period
    ):
      keys['sliding_window_pattern'] = period
    return keys
  if window is None:
    return dict(use_sliding_window=False)
  keys = dict(use_sliding_window=True, sliding_window=window)
  if rule == 'switched':
    return keys
  keys['layer_types'] = types
  first = kinds.index('window')
  if rule == 'any' and 'full' not in kinds[first:]:
    keys['max_window_layers'] = first  # as above
  return keys
