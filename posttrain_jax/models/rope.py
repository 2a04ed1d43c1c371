"""Rotary position embedding: how far each pair of channels turns at a position.

Where no scaling is named it is that of Su et al. (2021),
https://arxiv.org/abs/2104.09864; `RopeScaling` says how it is stretched.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array
from posttrain_jax.models.config import ModelConfig, RopeScaling

__all__ = [
  'by_kind',
  'of_kind',
  'rope',
  'rope_frequencies',
  'rope_magnitude',
  'rope_tables',
]

# (cos, sin) [B, T, pairs]; None: nothing turns.
Tables = tuple[Array, Array] | None


def _llama3(frequency: np.ndarray, scaling: RopeScaling) -> np.ndarray:
  wavelength = 2 * np.pi / frequency
  context = scaling.original_max_position_embeddings
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  smooth = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _yarn(
  frequency: np.ndarray, theta: float, scaling: RopeScaling
) -> np.ndarray:
  pairs = len(frequency)

  def channel(turns: float) -> float:
    """The (fractional) pair that turns so often in the original context."""
    period = scaling.original_max_position_embeddings / (2 * np.pi * turns)
    return pairs * math.log(period) / math.log(theta)

  low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
  if scaling.truncate:
    low, high = math.floor(low), math.ceil(high)
  # The upper bound counts channels, not pairs, in every implementation.
  low, high = max(low, 0), min(high, 2 * pairs - 1)
  high += 0.001 if low == high else 0.0
  slowed = np.clip((np.arange(pairs) - low) / (high - low), 0.0, 1.0)
  return frequency * (slowed / scaling.factor + 1 - slowed)


def rope_frequencies(
  channels: int,
  theta: float,
  scaling: RopeScaling | None,
  long: bool = False,
) -> np.ndarray:
  """Rotation per position of each pair of channels [channels / 2], in radians.

  long  for rows beyond the original context ('longrope' alone tells them apart)
  """
  exponent = np.arange(0, channels, 2, dtype=np.float64) / channels
  frequency = theta**-exponent
  if scaling is None or scaling.kind == 'dynamic':
    return frequency.astype(np.float32)
  if scaling.kind == 'llama3':
    frequency = _llama3(frequency, scaling)
  elif scaling.kind == 'linear':
    frequency = frequency / scaling.factor
  elif scaling.kind == 'yarn':
    frequency = _yarn(frequency, theta, scaling)
  else:
    factors = scaling.long_factor if long else scaling.short_factor
    frequency = frequency / np.array(factors)
  return frequency.astype(np.float32)


def rope_magnitude(scaling: RopeScaling | None) -> float:
  """What cosines and sines are multiplied by."""
  if scaling is None or scaling.kind not in ('yarn', 'longrope'):
    return 1.0
  if scaling.attention_factor:
    return scaling.attention_factor
  if scaling.factor <= 1:
    return 1.0
  if scaling.kind == 'yarn':
    return 0.1 * math.log(scaling.factor) + 1.0
  context = scaling.original_max_position_embeddings
  return math.sqrt(1 + math.log(scaling.factor) / math.log(context))


def rope_tables(
  positions: Array, config: ModelConfig, kind: str = 'full'
) -> tuple[Array, Array]:
  """(cos, sin) [B, T, pairs] in float32 for positions [B, T].

  kind  'full', or 'window': of layers with a RoPE of their own
  """
  scaling, theta = config.rope_scaling, config.rope_theta
  if kind == 'window':
    scaling, theta = None, config.window_theta
  channels = config.rotary_dim or config.head_dim
  frequency = rope_frequencies(channels, theta, scaling, config.long_rope)
  places = positions[..., None].astype(jnp.float32)

  def tables(part):
    angle = places * part[None, None]
    return jnp.cos(angle), jnp.sin(angle)

  # A loop's result is kept; else XLA would fuse sines and cosines into every
  # use, and compute them anew for each head of each layer.
  parts = math.gcd(frequency.size, 2)
  cos, sin = jax.lax.map(tables, frequency.reshape(parts, -1))
  join = lambda x: jnp.concatenate(list(x), axis=-1)
  cos, sin = join(cos), join(sin)
  magnitude = rope_magnitude(scaling)
  if magnitude != 1.0:
    cos, sin = cos * magnitude, sin * magnitude
  if config.position_limit and kind == 'full':
    # Loud, where an exact number is not known; runs are refused before.
    known = places < config.position_limit
    cos, sin = jnp.where(known, cos, jnp.nan), jnp.where(known, sin, jnp.nan)
  return cos, sin


def by_kind(positions: Array, config: ModelConfig) -> dict[str, Tables]:
  """{kind: tables} of every kind of RoPE that the model's layers have."""
  return {
    kind: None if kind == 'none' else rope_tables(positions, config, kind)
    for kind in config.rope_kinds
  }


def of_kind(tables: dict[str, Tables], marks: dict[str, Array]) -> Tables:
  """The tables of a layer of a scan; `marks` {kind: [] bool} has one True."""
  if len(tables) == 1:
    return next(iter(tables.values()))
  cos, sin = next(x for x in tables.values() if x is not None)
  # Turned by nothing: x * 1 - y * 0 is x.
  still = jnp.ones_like(cos), jnp.zeros_like(sin)
  for kind, table in tables.items():
    own = still if table is None else table
    cos = jnp.where(marks[kind], own[0], cos)
    sin = jnp.where(marks[kind], own[1], sin)
  return cos, sin


def rope(x_BTHK: Array, tables: tuple[Array, Array]) -> Array:
  """Rotates channel pairs (i, i + pairs) by their position's angle.

  Channels beyond 2 * pairs stay as they are.
  """
  cos, sin = (table[:, :, None].astype(x_BTHK.dtype) for table in tables)
  turned = 2 * cos.shape[-1]
  still = None
  if turned < x_BTHK.shape[-1]:
    x_BTHK, still = x_BTHK[..., :turned], x_BTHK[..., turned:]
  first, second = jnp.split(x_BTHK, 2, axis=-1)
  parts = [first * cos - second * sin, second * cos + first * sin]
  if still is not None:
    parts.append(still)
  return jnp.concatenate(parts, axis=-1)
