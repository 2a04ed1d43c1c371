"""The classes of transformers that the decoder computes.

A class fixes some fields of ModelConfig, lets config.json vary others (its
traits), and leaves the rest at the defaults, which are a Llama's.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from posttrain_jax.core.resolve import nearest
from posttrain_jax.models.config import ROPE_KINDS, ModelConfig

__all__ = ['ARCHITECTURES', 'OF_SCORER', 'SCORERS', 'SCORES', 'TRAITS',
           'Architecture', 'architecture_of']  # fmt: skip

# What config.json may vary: {trait: fields of ModelConfig}.
TRAITS: dict[str, tuple[str, ...]] = {
  'activation': ('activation',),
  'attention_bias': ('qkv_bias', 'output_bias'),  # both, or none
  'mlp_bias': ('mlp_bias',),
  'attention_cap': ('attention_cap',),
  'logit_cap': ('logit_cap',),
  'query_scale': ('query_scale',),
  'parallel': ('parallel',),
  'rotary': ('rotary_dim',),
  'local_theta': ('window_theta',),
  'nope': ('nope_layers',),
  'experts': (
    'num_experts', 'experts_per_token', 'expert_dim', 'norm_experts',
    'dense_layers',
  ),
}  # fmt: skip
STRUCTURE = (
  'norm', 'norm_place', 'gated', 'qk_norm', 'qk_norm_whole', 'scale_embedding',
  'positions', *(field for fields in TRAITS.values() for field in fields),
)  # fmt: skip
DEFAULTS = {x.name: x.default for x in dataclasses.fields(ModelConfig)}
# Fields that a fault of another one is in proportion to.
BESIDE = {
  'num_heads': ('width',),
  'head_dim': ('num_heads', 'width'),
  'sliding_window': ('full_layers',),
}


class Architecture(NamedTuple):
  """What a class name in config.json says.

  fixed     fields of ModelConfig that all its models have, where they are not
            the defaults
  traits    what its config.json may vary, besides 'activation'
  names     {Llama's key: its own}
  defaults  {key: what transformers takes where it is absent}; of sizes that are
            not named here it has to be there
  implied   sizes that may be absent, and then follow from others
  windows   layers that may have a sliding window: 'none'; 'all' at once, where
            there is a size; 'switched', all by use_sliding_window; 'any'
            (Qwen2); 'every' but each n-th (Gemma); 'nope', those without RoPE
            (SmolLM3)
  ropes     kinds of RoPE scaling
  heads     'free'; 'divide': the number of heads divides the width; 'exact':
            heads * head_dim is the width; 'plain': exact, and as many key heads
  only      {key: the only values that are computed}; absent or null is fine
  layout    how its files are laid out (`hf_table`)
  """

  model_type: str
  fixed: dict[str, Any] = {}
  traits: tuple[str, ...] = ()
  names: dict[str, str] = {}
  defaults: dict[str, Any] = {}
  implied: tuple[str, ...] = ()
  windows: str = 'none'
  ropes: tuple[str, ...] = ROPE_KINDS
  heads: str = 'free'
  only: dict[str, tuple] = {}
  layout: str = 'llama'

  def misfits(self, config: ModelConfig) -> Iterator[str]:
    """Fields of a config that models of this class cannot have so."""
    free = {field for trait in self.traits for field in TRAITS[trait]}
    free.add('activation')
    for field in STRUCTURE:
      usual = self.fixed.get(field, DEFAULTS[field])
      if field not in free and getattr(config, field) != usual:
        yield field
    if (
      'attention_bias' in self.traits and config.qkv_bias != config.output_bias
    ):
      yield 'output_bias'
    if 'experts' in self.traits and not config.num_experts:
      yield 'num_experts'
    kinds = config.kinds
    together = self.windows in ('all', 'switched') and len(kinds) == 1
    if kinds != ('full',) and not (
      together or self.windows in ('any', 'every', 'nope')
    ):
      yield 'sliding_window'
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind not in self.ropes:
      yield 'rope_scaling'
    if (
      'local_theta' in self.traits
      and 'window' in kinds
      and not config.window_theta
    ):
      yield 'window_theta'
    exact = config.head_dim * config.num_heads == config.width
    if self.heads in ('exact', 'plain') and not exact:
      yield 'head_dim'
    if self.heads == 'divide' and config.width % config.num_heads:
      yield 'num_heads'
    if self.heads == 'plain' and config.num_kv_heads != config.num_heads:
      yield 'num_kv_heads'


_GEMMA = dict(
  norm='rms_plus_one',
  norm_place='both',
  activation='gelu_tanh',
  scale_embedding=True,
)
_GEMMA_KEYS: dict[str, Any] = {
  'hidden_act': 'gelu_pytorch_tanh',
  'query_pre_attn_scalar': 256,
  'sliding_window': 4096,
  'tie_word_embeddings': True,
}
_GEMMA_ONLY: dict[str, tuple] = {'use_bidirectional_attention': (False,)}
_GPT = dict(norm='layer', gated=False, mlp_bias=True)

ARCHITECTURES = {
  'LlamaForCausalLM': Architecture(
    'llama',
    traits=('attention_bias', 'mlp_bias'),
    implied=('num_key_value_heads', 'head_dim'),
    heads='divide',
  ),
  'MistralForCausalLM': Architecture(
    'mistral',
    defaults={'sliding_window': 4096},
    implied=('head_dim',),
    windows='all',
  ),
  'Qwen2ForCausalLM': Architecture(
    'qwen2',
    fixed=dict(qkv_bias=True),
    defaults={'sliding_window': 4096, 'max_window_layers': 28},
    implied=('head_dim',),
    windows='any',
  ),
  'Qwen3ForCausalLM': Architecture(
    'qwen3',
    fixed=dict(qk_norm=True),
    traits=('attention_bias',),
    defaults={'sliding_window': 4096, 'max_window_layers': 28},
    windows='any',
  ),
  'Qwen3MoeForCausalLM': Architecture(
    'qwen3_moe',
    fixed=dict(qk_norm=True),
    traits=('attention_bias', 'experts'),
    defaults={'sliding_window': 4096},
    implied=('head_dim',),
    windows='switched',
  ),
  'Gemma2ForCausalLM': Architecture(
    'gemma2',
    fixed=_GEMMA,
    traits=('attention_bias', 'attention_cap', 'logit_cap', 'query_scale'),
    names={'hidden_act': 'hidden_activation'},
    defaults={
      **_GEMMA_KEYS,
      'attn_logit_softcapping': 50.0,
      'final_logit_softcapping': 30.0,
      'sliding_window_pattern': 2,
    },
    windows='every',
    heads='divide',
    only=_GEMMA_ONLY,
  ),
  'Gemma3ForCausalLM': Architecture(
    'gemma3_text',
    fixed={**_GEMMA, 'qk_norm': True},
    traits=('attention_bias', 'logit_cap', 'query_scale', 'local_theta'),
    names={'hidden_act': 'hidden_activation'},
    defaults={
      **_GEMMA_KEYS,
      'vocab_size': 262_208,
      'hidden_size': 2304,
      'intermediate_size': 9216,
      'num_hidden_layers': 26,
      'num_attention_heads': 8,
      'num_key_value_heads': 4,
      'head_dim': 256,
      'max_position_embeddings': 131_072,
      'rms_norm_eps': 1e-6,
      'rope_theta': 1_000_000.0,
      'rope_local_base_freq': 10_000.0,
      'sliding_window_pattern': 6,
    },
    windows='every',
    heads='divide',
    # In config.json, but transformers does not cap attention here.
    only={**_GEMMA_ONLY, 'attn_logit_softcapping': ()},
  ),
  'Olmo2ForCausalLM': Architecture(
    'olmo2',
    fixed=dict(norm_place='after', qk_norm=True, qk_norm_whole=True),
    traits=('attention_bias',),
    implied=('num_key_value_heads', 'head_dim'),
  ),
  'SmolLM3ForCausalLM': Architecture(
    'smollm3',
    traits=('attention_bias', 'mlp_bias', 'nope'),
    defaults={'tie_word_embeddings': True, 'rope_theta': 2_000_000.0},
    implied=('num_key_value_heads', 'head_dim'),
    windows='nope',
  ),
  'Phi3ForCausalLM': Architecture(
    'phi3',
    traits=('rotary',),
    defaults={'original_max_position_embeddings': 4096},
    implied=('num_key_value_heads', 'head_dim'),
    windows='all',
    ropes=('longrope',),
    heads='exact',
    layout='phi3',
  ),
  'GPT2LMHeadModel': Architecture(
    'gpt2',
    fixed=dict(_GPT, qkv_bias=True, output_bias=True, positions='learned'),
    names={
      'hidden_size': 'n_embd',
      'intermediate_size': 'n_inner',
      'num_hidden_layers': 'n_layer',
      'num_attention_heads': 'n_head',
      'max_position_embeddings': 'n_positions',
      'hidden_act': 'activation_function',
      'rms_norm_eps': 'layer_norm_epsilon',
    },
    defaults={
      'hidden_act': 'gelu_new',
      'rms_norm_eps': 1e-5,
      'tie_word_embeddings': True,
    },
    implied=('num_key_value_heads', 'head_dim', 'intermediate_size'),
    ropes=(),
    heads='plain',
    only={
      'scale_attn_weights': (True,),
      'scale_attn_by_inverse_layer_idx': (False,),
      'add_cross_attention': (False,),
    },
    layout='gpt2',
  ),
  'GPTNeoXForCausalLM': Architecture(
    'gpt_neox',
    fixed=_GPT,
    traits=('attention_bias', 'parallel', 'rotary'),
    names={
      'rms_norm_eps': 'layer_norm_eps',
      'rope_theta': 'rotary_emb_base',
      'partial_rotary_factor': 'rotary_pct',
    },
    defaults={
      'hidden_act': 'gelu',
      'attention_bias': True,
      'rms_norm_eps': 1e-5,
      'partial_rotary_factor': 0.25,
    },
    implied=('num_key_value_heads', 'head_dim'),
    heads='plain',
    layout='neox',
  ),
}


# Classes whose head says numbers of a whole text; that of each decoder.
SCORES = 'ForSequenceClassification'
SCORERS = {
  name: name.removesuffix('ForCausalLM') + SCORES for name in ARCHITECTURES
} | {
  'Gemma3ForCausalLM': 'Gemma3TextForSequenceClassification',
  'GPT2LMHeadModel': 'GPT2ForSequenceClassification',
}
OF_SCORER = {scorer: name for name, scorer in SCORERS.items()} | {
  'Gemma3ForSequenceClassification': 'Gemma3ForCausalLM'  # of text alone
}


def architecture_of(config: ModelConfig) -> str:
  """The class name that computes what `config` computes.

  That of `config.architecture`, where it does; else the first that does.

  Raises:
    ValueError: there is none; it names the nearest, and what it cannot do.
  """
  named = config.architecture
  if named and named not in ARCHITECTURES:
    raise ValueError(f'architecture="{named}".{nearest(named, ARCHITECTURES)}')
  apart = {
    name: list(known.misfits(config)) for name, known in ARCHITECTURES.items()
  }
  fits = [name for name, fields in apart.items() if not fields]
  if not fits:
    name = min(apart, key=lambda name: len(apart[name]))
    shown = [field for x in apart[name] for field in (x, *BESIDE.get(x, ()))]
    fields = ', '.join(f'{x}={getattr(config, x)!r}' for x in shown)
    raise ValueError(
      f'no Hugging Face class computes this model; the nearest, {name}, has '
      f'no {fields}'
    )
  if config.max_length < 1:
    raise ValueError(
      f'max_length={config.max_length}: config.json needs a positive '
      'max_position_embeddings'
    )
  return named if named in fits else fits[0]
