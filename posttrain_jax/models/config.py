"""Model configuration: one frozen dataclass, presets and a size dial.

The flags cover Llama, Qwen2, Qwen3 and what is built from the same blocks.
"""

import dataclasses
import re

from posttrain_jax.core import dtypes
from posttrain_jax.core.resolve import nearest


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama 3's frequency scaling; the fields are those of config.json."""

  factor: float = 8.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder-only transformer. Static under jit (hashable)."""

  vocab_size: int = 64
  num_layers: int = 3
  width: int = 96  # residual stream
  num_heads: int = 3
  num_kv_heads: int = 3  # fewer than num_heads: grouped-query attention
  head_dim: int = 32
  mlp_dim: int = 384
  max_length: int = 2048  # positions the model was made for; 0 = unlimited
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling | None = None
  norm_eps: float = 1e-6
  tie_embeddings: bool = True
  qkv_bias: bool = False  # Qwen2
  qk_norm: bool = False  # Qwen3
  sliding_window: int = 0  # tokens that attention sees; 0 = all
  full_layers: tuple[int, ...] = ()  # layers that see all, window or not
  value_head: bool = False  # a scalar per token, for PPO
  # Types too are taken (jnp.bfloat16), and kept as names.
  dtype: str = 'float32'  # of activations and matrix products
  param_dtype: str = 'float32'  # of the stored weights
  cache_dtype: str = ''  # of keys and values while decoding; '' = dtype
  remat: bool = False  # recompute each layer in the backward pass
  scan_layers: bool = True  # one compiled layer; False unrolls them
  logit_chunk: int = 0  # tokens per logits chunk in token_logps; 0 = all
  attention_chunk: int = 0  # queries at a time over whole rows; 0 = all

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is no multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim % 2:
      raise ValueError(f'head_dim={self.head_dim} is odd: RoPE needs pairs')
    for field, valid in (
      ('dtype', dtypes.FLOATS),
      ('param_dtype', dtypes.FLOATS),
      ('cache_dtype', ('', *dtypes.CACHE)),
    ):
      named = dtypes.name(getattr(self, field), valid, field)
      object.__setattr__(self, field, named)
    for field in ('logit_chunk', 'attention_chunk'):
      if getattr(self, field) < 0:
        raise ValueError(f'{field}={getattr(self, field)} is below 0')
    if self.sliding_window < 0:
      raise ValueError(f'sliding_window={self.sliding_window} is below 0')
    # From JSON or a command line it comes as a list.
    object.__setattr__(self, 'full_layers', tuple(map(int, self.full_layers)))
    for layer in self.full_layers:
      if not 0 <= layer < self.num_layers:
        raise ValueError(
          f'full_layers={self.full_layers}: there is no layer {layer}, only '
          f'0..{self.num_layers - 1}'
        )

  def kind(self, layer: int) -> str:
    """'full' or 'window': what attention sees in a layer."""
    whole = not self.sliding_window or layer in self.full_layers
    return 'full' if whole else 'window'

  @property
  def kinds(self) -> tuple[str, ...]:
    """The kinds of layers that there are."""
    return tuple(sorted({self.kind(i) for i in range(self.num_layers)}))


def _dial(width: int, num_layers: int) -> dict[str, int]:
  return dict(
    width=width,
    num_layers=num_layers,
    num_heads=width // 32,
    num_kv_heads=width // 32,
    head_dim=32,
    mlp_dim=4 * width,
  )


# name -> fields; parameters without the embedding in the comment.
PRESETS: dict[str, dict[str, int]] = {
  'pico': _dial(64, 3),  # 0.2M
  'nano': _dial(96, 3),  # 0.44M
  'micro': _dial(128, 4),  # 1.05M
  'mini': _dial(192, 6),  # 3.5M
  'small': _dial(256, 9),  # 9.4M
}


def make_config(preset: str, **fields) -> ModelConfig:
  """`PRESETS[preset]`, or the size dial 'depth-N' (width 32 N, N layers).

  Raises:
    ValueError: unknown preset or field, with the nearest valid one.
  """
  dial = re.fullmatch(r'depth-([1-9]\d*)', preset)
  if dial:
    size = _dial(32 * int(dial[1]), int(dial[1]))
  elif preset in PRESETS:
    size = PRESETS[preset]
  else:
    raise ValueError(
      f'unknown model preset "{preset}".{nearest(preset, PRESETS)}, or '
      'depth-N for any N'
    )
  known = [field.name for field in dataclasses.fields(ModelConfig)]
  for key in fields:
    if key not in known:
      raise ValueError(f'model has no field "{key}".{nearest(key, known)}')
  return ModelConfig(**{**size, **fields})
