"""The names of parameters in Hugging Face files, and their axes there and here.

`TABLE` is the one declaration; both directions and the shape checks are read
from it. A tensor of a file may hold several parameters (fused matrices), and a
parameter several tensors (layers and experts, which are stacked here).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from posttrain_jax.models.architectures import ARCHITECTURES, architecture_of
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.parameters import holders

__all__ = ['IGNORED', 'TABLE', 'Row', 'layout_of', 'rows', 'sizes_of']

SIZES = {
  'V': 'vocab_size',
  'P': 'max_length',
  'D': 'width',
  'H': 'num_heads',
  'N': 'num_kv_heads',
  'K': 'head_dim',
  'F': 'mlp_dim',
  'E': 'num_experts',
  'X': 'expert_dim',
}


class Row(NamedTuple):
  """One parameter in both worlds.

  key      name in the file, with {} for the layer and {expert} for the expert
  path     name in our tree; those under layers/ are stacked on axis 0, those of
           experts on axis 1
  axes     axes in the file, one word each; letters of a word are merged. Rows
           with the same key are parts of one tensor: next to each other along
           what stands behind a '+', anew for each of what stands before it
  ours     our axes, one letter each (without those of layer and expert)
  when     '', or the `CONDITIONS` that the parameter needs
  layouts  the ways to lay out a file that have it
  """

  key: str
  path: str
  axes: str
  ours: str
  when: str = ''
  layouts: str = 'llama phi3'

  @property
  def stacked(self) -> bool:
    return '{}' in self.key

  @property
  def of_experts(self) -> bool:
    return '{expert}' in self.key

  def layers(self, config: ModelConfig) -> tuple[int, ...]:
    """The layers that have it."""
    return holders(self.path.removeprefix('layers/'), config)

  def shape(self, config: ModelConfig) -> tuple[int, ...]:
    """Ours, without the axes of layer and expert."""
    return sizes_of(self.ours, config)

  def full_shape(self, config: ModelConfig) -> tuple[int, ...]:
    """Ours, of the whole parameter."""
    shape = self.shape(config)
    if self.of_experts:
      shape = (config.num_experts, *shape)
    return (len(self.layers(config)), *shape) if self.stacked else shape

  @property
  def letters(self) -> str:
    """The axes in the file, one letter each."""
    return self.axes.replace(' ', '').replace('+', '')

  def to_ours(self, x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Of the part of a tensor that is this row's, or of a box of it.

    shape  of what is asked for, by our axes
    """
    sizes = dict(zip(self.ours, shape))
    x = x.reshape([sizes[axis] for axis in self.letters])
    return x.transpose([self.letters.index(axis) for axis in self.ours])

  def to_file(self, x: np.ndarray) -> np.ndarray:
    return x.transpose([self.ours.index(axis) for axis in self.letters])


def sizes_of(letters: str, config: ModelConfig) -> tuple[int, ...]:
  """The sizes of axes, by their letters."""
  return tuple(getattr(config, SIZES[axis]) for axis in letters)


def _of_layers(prefix: str, layouts: str):
  def row(key, name, axes, ours, when='', layouts=layouts) -> Row:
    return Row(f'{prefix}{key}', f'layers/{name}', axes, ours, when, layouts)

  return row


_llama = _of_layers('model.layers.{}.', 'llama phi3')
_gpt2 = _of_layers('transformer.h.{}.', 'gpt2')
_neox = _of_layers('gpt_neox.layers.{}.', 'neox')

LLAMA = (
  Row('model.embed_tokens.weight', 'embed/tokens', 'V D', 'VD'),
  _llama('input_layernorm.weight', 'attention_norm', 'D', 'D', 'norm_first'),
  _llama('self_attn.q_proj.weight', 'query', 'HK D', 'DHK', '', 'llama'),
  _llama('self_attn.k_proj.weight', 'key', 'NK D', 'DNK', '', 'llama'),
  _llama('self_attn.v_proj.weight', 'value', 'NK D', 'DNK', '', 'llama'),
  _llama('self_attn.qkv_proj.weight', 'query', '+HK D', 'DHK', '', 'phi3'),
  _llama('self_attn.qkv_proj.weight', 'key', '+NK D', 'DNK', '', 'phi3'),
  _llama('self_attn.qkv_proj.weight', 'value', '+NK D', 'DNK', '', 'phi3'),
  _llama('self_attn.q_proj.bias', 'query_bias', 'HK', 'HK', 'qkv_bias'),
  _llama('self_attn.k_proj.bias', 'key_bias', 'NK', 'NK', 'qkv_bias'),
  _llama('self_attn.v_proj.bias', 'value_bias', 'NK', 'NK', 'qkv_bias'),
  _llama('self_attn.q_norm.weight', 'query_norm', 'K', 'K', 'qk_norm'),
  _llama('self_attn.k_norm.weight', 'key_norm', 'K', 'K', 'qk_norm'),
  _llama('self_attn.q_norm.weight', 'query_norm', 'HK', 'HK', 'qk_norm_whole'),
  _llama('self_attn.k_norm.weight', 'key_norm', 'NK', 'NK', 'qk_norm_whole'),
  _llama('self_attn.o_proj.weight', 'output', 'D HK', 'HKD'),
  _llama('self_attn.o_proj.bias', 'output_bias', 'D', 'D', 'output_bias'),
  _llama(
    'post_attention_layernorm.weight', 'mlp_norm', 'D', 'D', 'norm_before'
  ),
  _llama(
    'post_attention_layernorm.weight', 'attention_post_norm', 'D', 'D',
    'norm_last',
  ),
  _llama(
    'pre_feedforward_layernorm.weight', 'mlp_norm', 'D', 'D', 'norm_both'
  ),
  _llama('mlp.gate_proj.weight', 'gate', 'F D', 'DF', '', 'llama'),
  _llama('mlp.up_proj.weight', 'up', 'F D', 'DF', '', 'llama'),
  _llama('mlp.gate_up_proj.weight', 'gate', '+F D', 'DF', '', 'phi3'),
  _llama('mlp.gate_up_proj.weight', 'up', '+F D', 'DF', '', 'phi3'),
  _llama('mlp.down_proj.weight', 'down', 'D F', 'FD'),
  _llama('mlp.gate_proj.bias', 'gate_bias', 'F', 'F', 'mlp_bias'),
  _llama('mlp.up_proj.bias', 'up_bias', 'F', 'F', 'mlp_bias'),
  _llama('mlp.down_proj.bias', 'down_bias', 'D', 'D', 'mlp_bias'),
  _llama('mlp.gate.weight', 'router', 'E D', 'DE', 'experts'),
  *(
    _llama(
      f'mlp.experts.{{expert}}.{theirs}_proj.weight', f'expert_{theirs}', axes,
      ours, 'experts',
    )
    for theirs, axes, ours in (
      ('gate', 'X D', 'DX'), ('up', 'X D', 'DX'), ('down', 'D X', 'XD')
    )
  ),
  _llama(
    'post_feedforward_layernorm.weight', 'mlp_post_norm', 'D', 'D', 'norm_last'
  ),
  Row('model.norm.weight', 'final_norm', 'D', 'D'),
  Row('lm_head.weight', 'unembed', 'V D', 'DV', 'untied'),
)  # fmt: skip


def _with_bias(row, theirs: str, ours: str) -> tuple[Row, Row]:
  """The two rows of a LayerNorm."""
  return (
    row(f'{theirs}.weight', ours, 'D', 'D'),
    row(f'{theirs}.bias', f'{ours}_bias', 'D', 'D'),
  )


def _whole(prefix: str, layout: str):
  return lambda key, name, axes, ours, when='': Row(
    f'{prefix}{key}', name, axes, ours, when, layout
  )


QKV = (('query', 'HK'), ('key', 'NK'), ('value', 'NK'))
_gpt2_top, _neox_top = _whole('transformer.', 'gpt2'), _whole('', 'neox')

GPT2 = (
  _gpt2_top('wte.weight', 'embed/tokens', 'V D', 'VD'),
  _gpt2_top('wpe.weight', 'embed/positions', 'P D', 'PD'),
  *_with_bias(_gpt2, 'ln_1', 'attention_norm'),
  *(_gpt2('attn.c_attn.weight', x, f'D +{a}', f'D{a}') for x, a in QKV),
  *(_gpt2('attn.c_attn.bias', f'{x}_bias', f'+{a}', a) for x, a in QKV),
  _gpt2('attn.c_proj.weight', 'output', 'HK D', 'HKD'),
  _gpt2('attn.c_proj.bias', 'output_bias', 'D', 'D'),
  *_with_bias(_gpt2, 'ln_2', 'mlp_norm'),
  _gpt2('mlp.c_fc.weight', 'up', 'D F', 'DF'),
  _gpt2('mlp.c_fc.bias', 'up_bias', 'F', 'F'),
  _gpt2('mlp.c_proj.weight', 'down', 'F D', 'FD'),
  _gpt2('mlp.c_proj.bias', 'down_bias', 'D', 'D'),
  *_with_bias(_gpt2_top, 'ln_f', 'final_norm'),
  Row('lm_head.weight', 'unembed', 'V D', 'DV', 'untied', 'gpt2'),
)

NEOX = (
  _neox_top('gpt_neox.embed_in.weight', 'embed/tokens', 'V D', 'VD'),
  *_with_bias(_neox, 'input_layernorm', 'attention_norm'),
  *(
    _neox('attention.query_key_value.weight', x, f'{a[0]}+K D', f'D{a}')
    for x, a in QKV
  ),
  *(
    _neox(
      'attention.query_key_value.bias', f'{x}_bias', f'{a[0]}+K', a, 'qkv_bias'
    )
    for x, a in QKV
  ),
  _neox('attention.dense.weight', 'output', 'D HK', 'HKD'),
  _neox('attention.dense.bias', 'output_bias', 'D', 'D', 'output_bias'),
  *_with_bias(_neox, 'post_attention_layernorm', 'mlp_norm'),
  _neox('mlp.dense_h_to_4h.weight', 'up', 'F D', 'DF'),
  _neox('mlp.dense_h_to_4h.bias', 'up_bias', 'F', 'F'),
  _neox('mlp.dense_4h_to_h.weight', 'down', 'D F', 'FD'),
  _neox('mlp.dense_4h_to_h.bias', 'down_bias', 'D', 'D'),
  *_with_bias(_neox_top, 'gpt_neox.final_layer_norm', 'final_norm'),
  _neox_top('embed_out.weight', 'unembed', 'V D', 'DV', 'untied'),
)

TABLE = LLAMA + GPT2 + NEOX

CONDITIONS = {
  '': lambda c: True,
  'qkv_bias': lambda c: c.qkv_bias,
  'output_bias': lambda c: c.output_bias,
  'mlp_bias': lambda c: c.mlp_bias,
  'qk_norm': lambda c: c.qk_norm and not c.qk_norm_whole,
  'qk_norm_whole': lambda c: c.qk_norm and c.qk_norm_whole,
  'norm_first': lambda c: c.norm_place != 'after',
  'norm_before': lambda c: c.norm_place == 'before',
  'norm_both': lambda c: c.norm_place == 'both',
  'norm_last': lambda c: c.norm_place != 'before',
  'experts': lambda c: c.num_experts > 0,
  'untied': lambda c: not c.tie_embeddings,
}

# Buffers that old checkpoints carry; they follow from config.json.
IGNORED = re.compile(
  r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq'
  r'|transformer\.h\.\d+\.attn\.(bias|masked_bias)'
  r'|gpt_neox\.layers\.\d+\.attention\.'
  r'(bias|masked_bias|rotary_emb\.inv_freq)'
)


def layout_of(config: ModelConfig) -> str:
  """How files of the config's architecture are laid out."""
  return ARCHITECTURES[architecture_of(config)].layout


def rows(config: ModelConfig) -> list[Row]:
  """The rows of `TABLE` that a model of this config has."""
  layout = layout_of(config)
  return [
    row
    for row in TABLE
    if layout in row.layouts.split()
    and CONDITIONS[row.when](config)
    and row.layers(config)
  ]
