"""Model configuration: one frozen dataclass, presets and a size dial.

The defaults are a Llama. The other fields are what other families change, one
thing each; `architectures` says which of them a family has.
"""

import dataclasses
import re
from collections.abc import Collection

from posttrain_jax.core import dtypes
from posttrain_jax.core.resolve import nearest
from posttrain_jax.models import remat

ROPE_KINDS = ('llama3', 'linear', 'dynamic', 'yarn', 'longrope')
NORMS = ('rms', 'rms_plus_one', 'layer')
NORM_PLACES = ('before', 'after', 'both')
ATTENTIONS = ('plain', 'splash', 'cudnn', 'ring')
ACTIVATIONS = ('silu', 'gelu_tanh', 'gelu')
POSITIONS = ('rope', 'learned')
DECODE_WEIGHTS = ('auto', 'gathered', 'split')


def _check_word(what: str, value: str, valid: Collection[str]) -> None:
  if value not in valid:
    raise ValueError(f'{what}="{value}".{nearest(str(value), valid)}')


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How RoPE is stretched to more positions; fields are those of config.json.

  kind  'llama3': long wavelengths slowed by `factor`, short ones kept
        'linear': all slowed by `factor`
        'yarn': as llama3, between the channels that turn `beta_fast` and
        `beta_slow` times in the original context (Peng et al., 2023,
        https://arxiv.org/abs/2309.00071)
        'dynamic': plain RoPE within the model's `max_length`; beyond it the
        rule depends on the longest row of a batch, and is not computed here
        'longrope': a factor for each channel, `short_factor` within the
        original context and `long_factor` beyond it (Ding et al., 2024,
        https://arxiv.org/abs/2402.13753); see `ModelConfig.long_rope`
  attention_factor  multiplies cosines and sines ('yarn', 'longrope'); 0: the
        method's own, of `factor`
  truncate  whether 'yarn' rounds its two channels outwards
  """

  factor: float = 8.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_position_embeddings: int = 8192
  kind: str = 'llama3'
  attention_factor: float = 0.0
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  truncate: bool = True
  short_factor: tuple[float, ...] = ()
  long_factor: tuple[float, ...] = ()

  def __post_init__(self):
    _check_word('rope_scaling.kind', self.kind, ROPE_KINDS)
    for field in ('short_factor', 'long_factor'):  # lists, from JSON
      factors = tuple(map(float, getattr(self, field)))
      object.__setattr__(self, field, factors)


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
  remat: str = 'none'  # what a layer keeps for its backward pass: `remat`
  scan_layers: bool = True  # one compiled layer; False unrolls them
  scan_decode: bool = False  # the same of decoding, with one stacked cache
  # On a mesh, while decoding: 'gathered' over fsdp, or 'split' over it and
  # tensor; 'auto': by their size (`rollout.layout`).
  decode_weights: str = 'auto'
  logit_chunk: int = 0  # tokens per logits chunk in token_logps; 0 = all
  attention_chunk: int = 0  # queries at a time over whole rows; 0 = all
  # Over whole rows; 'splash' (TPU), 'cudnn' (GPU), 'ring' (axis sequence).
  attention: str = 'plain'

  # What other families than Llama, Qwen2 and Qwen3 change.
  norm: str = 'rms'  # 'rms_plus_one': by 1 + weight (Gemma); 'layer': LayerNorm
  norm_place: str = 'before'  # each branch; 'after' it (OLMo 2), 'both' (Gemma)
  parallel: bool = False  # both branches read the same stream (GPT-NeoX)
  activation: str = 'silu'  # of the MLP; or 'gelu', 'gelu_tanh'
  gated: bool = True  # False: an MLP of two matrices (GPT-2)
  output_bias: bool = False  # of attention's last product
  mlp_bias: bool = False
  qk_norm_whole: bool = False  # qk_norm is over all heads at once (OLMo 2)
  query_scale: float = 0.0  # scores are divided by its root; 0 = head_dim
  attention_cap: float = 0.0  # scores within +-cap, by tanh (Gemma 2); 0 = none
  logit_cap: float = 0.0  # logits too
  scale_embedding: bool = False  # by the root of the width (Gemma)
  positions: str = 'rope'  # or 'learned': a table of max_length rows (GPT-2)
  rotary_dim: int = 0  # first channels of a head that turn; 0 = all
  window_theta: float = (
    0.0  # of windowed layers, unscaled; 0 = as all (Gemma 3)
  )
  nope_layers: tuple[int, ...] = ()  # layers without RoPE (SmolLM3)
  long_rope: bool = False  # 'longrope': the factors of rows beyond the original
  num_experts: int = 0  # in each MLP; 0 = plain MLPs
  experts_per_token: int = 0
  expert_dim: int = 0
  norm_experts: bool = False  # weights of a token's experts sum to 1
  dense_layers: tuple[int, ...] = ()  # layers with a plain MLP all the same
  # Hugging Face class that files are written as; '' = the first that fits.
  architecture: str = ''

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
    object.__setattr__(self, 'remat', remat.word(self.remat))
    for field, words in (
      ('remat', tuple(remat.POLICIES)),
      ('attention', ATTENTIONS),
      ('norm', NORMS),
      ('norm_place', NORM_PLACES),
      ('activation', ACTIVATIONS),
      ('positions', POSITIONS),
      ('decode_weights', DECODE_WEIGHTS),
    ):
      _check_word(field, getattr(self, field), words)
    for field in ('logit_chunk', 'attention_chunk', 'sliding_window',
                  'query_scale', 'attention_cap', 'logit_cap',
                  'window_theta'):  # fmt: skip
      if getattr(self, field) < 0:
        raise ValueError(f'{field}={getattr(self, field)} is below 0')
    # From JSON or a command line they come as lists.
    for field in ('full_layers', 'nope_layers', 'dense_layers'):
      object.__setattr__(self, field, tuple(map(int, getattr(self, field))))
      for layer in getattr(self, field):
        if not 0 <= layer < self.num_layers:
          raise ValueError(
            f'{field}={getattr(self, field)}: there is no layer {layer}, only '
            f'0..{self.num_layers - 1}'
          )
    if self.qk_norm and self.norm == 'layer':
      raise ValueError('qk_norm=True with norm="layer": no family has both')
    self._check_positions()
    self._check_experts()

  def _check_positions(self) -> None:
    if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim:
      raise ValueError(
        f'rotary_dim={self.rotary_dim} is no even number up to '
        f'head_dim={self.head_dim}'
      )
    if self.positions == 'learned' and self.max_length < 1:
      raise ValueError(
        f'max_length={self.max_length}: learned positions are a table of '
        'max_length rows'
      )
    scaling = self.rope_scaling
    if scaling is None or scaling.kind not in ('dynamic', 'longrope'):
      return
    if self.max_length < 1:
      raise ValueError(
        f'max_length={self.max_length}: rope_scaling.kind="{scaling.kind}" '
        'needs to know it'
      )
    if scaling.kind == 'longrope':
      pairs = (self.rotary_dim or self.head_dim) // 2
      for field in ('short_factor', 'long_factor'):
        count = len(getattr(scaling, field))
        if count != pairs:
          raise ValueError(
            f'rope_scaling.{field} has {count} factors for the {pairs} pairs '
            'of channels that turn'
          )

  def _check_experts(self) -> None:
    if not self.num_experts:
      return
    if not 0 < self.experts_per_token <= self.num_experts:
      raise ValueError(
        f'experts_per_token={self.experts_per_token} is not within '
        f'1..num_experts={self.num_experts}'
      )
    if self.expert_dim < 1:
      raise ValueError(f'expert_dim={self.expert_dim} is below 1')
    if self.mlp_bias or not self.gated:
      raise ValueError('experts are gated and have no biases')

  def kind(self, layer: int) -> str:
    """'full' or 'window': what attention sees in a layer."""
    whole = not self.sliding_window or layer in self.full_layers
    return 'full' if whole else 'window'

  @property
  def kinds(self) -> tuple[str, ...]:
    """The kinds of layers that there are."""
    return tuple(sorted({self.kind(i) for i in range(self.num_layers)}))

  def rope_kind(self, layer: int) -> str:
    """How a layer turns queries and keys: 'full', 'window' or 'none'."""
    if self.positions == 'learned' or layer in self.nope_layers:
      return 'none'
    return self.kind(layer) if self.window_theta else 'full'

  @property
  def rope_kinds(self) -> tuple[str, ...]:
    """The kinds of RoPE that there are."""
    return tuple(sorted({self.rope_kind(i) for i in range(self.num_layers)}))

  def sparse(self, layer: int) -> bool:
    """Whether a layer's MLP is one of experts."""
    return self.num_experts > 0 and layer not in self.dense_layers

  @property
  def position_limit(self) -> int:
    """Positions beyond which nothing exact is known; 0 = none.

    Not `max_length`, beyond which a model is only untrained.
    """
    scaling = self.rope_scaling
    if self.positions == 'learned':
      return self.max_length
    if scaling is not None and scaling.kind == 'dynamic':
      return self.max_length
    if scaling is not None and scaling.kind == 'longrope':
      short = scaling.original_max_position_embeddings
      return 0 if self.long_rope else short
    return 0


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
