"""One declaration of the decoder's parameters, and what is read from it.

`param_table` declares every parameter once (shape, sharding, initial scale);
`init`, `param_specs` and `param_count` read it. Parameters are a nested dict;
those of all layers that have one are stacked on axis 0.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.sharding import EXPERT_SHARDS, SHARDS
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import adapted, placed, remat
from posttrain_jax.models.config import ModelConfig

__all__ = [
  'Param',
  'active_param_count',
  'gathered',
  'holders',
  'init',
  'param_count',
  'param_specs',
  'param_table',
  'recomputed',
  'scan',
  'unstack',
]


class Param(NamedTuple):
  """One parameter: shape, mesh axes of its dimensions, initial std.

  `std` 0 means zeros, `ones` True means ones.
  """

  shape: tuple[int, ...]
  spec: P
  std: float = 0.0
  ones: bool = False


def _norms(config: ModelConfig, name: str, shape: tuple) -> dict[str, Param]:
  """Weights that scale by 1 at the start, and the bias of a LayerNorm."""
  made = {name: Param(shape, P(), ones=config.norm != 'rms_plus_one')}
  if config.norm == 'layer':
    made[f'{name}_bias'] = Param(shape, P())
  return made


def _attention(config: ModelConfig) -> dict[str, Param]:
  c = config
  l, d, k = c.num_layers, c.width, c.head_dim
  h, n = c.num_heads, c.num_kv_heads
  heads, bias = P(None, SHARDS, 'tensor', None), P(None, 'tensor', None)
  table = {
    'layers/query': Param((l, d, h, k), heads, d**-0.5),
    'layers/key': Param((l, d, n, k), heads, d**-0.5),
    'layers/value': Param((l, d, n, k), heads, d**-0.5),
    'layers/output': Param(
      (l, h, k, d),
      P(None, 'tensor', None, SHARDS),
      _branch(c) * (h * k) ** -0.5,
    ),
  }
  if c.qkv_bias:
    table['layers/query_bias'] = Param((l, h, k), bias)
    table['layers/key_bias'] = Param((l, n, k), bias)
    table['layers/value_bias'] = Param((l, n, k), bias)
  if c.output_bias:
    table['layers/output_bias'] = Param((l, d), P())
  if c.qk_norm:
    of = lambda heads: (l, heads, k) if c.qk_norm_whole else (l, k)
    table |= _norms(c, 'layers/query_norm', of(h))
    table |= _norms(c, 'layers/key_norm', of(n))
  return table


def _branch(config: ModelConfig) -> float:
  """Residual branches start small, so that depth does not change the scale."""
  return 1.0 / math.sqrt(2 * config.num_layers)


def _mlp(config: ModelConfig) -> dict[str, Param]:
  c = config
  d, f = c.width, c.mlp_dim
  wide, narrow = P(None, SHARDS, 'tensor'), P(None, 'tensor', SHARDS)
  table = {}
  if count := len(holders('up', c)):
    if c.gated:
      table['layers/gate'] = Param((count, d, f), wide, d**-0.5)
    table['layers/up'] = Param((count, d, f), wide, d**-0.5)
    table['layers/down'] = Param((count, f, d), narrow, _branch(c) * f**-0.5)
    if c.mlp_bias:
      if c.gated:
        table['layers/gate_bias'] = Param((count, f), P(None, 'tensor'))
      table['layers/up_bias'] = Param((count, f), P(None, 'tensor'))
      table['layers/down_bias'] = Param((count, d), P())
  if count := len(holders('router', c)):
    e, x = c.num_experts, c.expert_dim
    own = P(None, 'expert', EXPERT_SHARDS, 'tensor')
    into = Param((count, e, d, x), own, d**-0.5)
    table['layers/router'] = Param((count, d, e), P(None, SHARDS), d**-0.5)
    table['layers/expert_gate'] = table['layers/expert_up'] = into
    table['layers/expert_down'] = Param(
      (count, e, x, d),
      P(None, 'expert', 'tensor', EXPERT_SHARDS),
      _branch(c) * x**-0.5,
    )
  return table


def param_table(config: ModelConfig) -> dict[str, Param]:
  """Every parameter of the model by its path."""
  c = config
  l, d = c.num_layers, c.width
  embedding = Param((c.vocab_size, d), P('tensor', SHARDS), 0.02)
  table = {'embed/tokens': embedding}
  if c.positions == 'learned':
    table['embed/positions'] = Param((c.max_length, d), P(None, SHARDS), 0.02)
  for branch in ('attention', 'mlp'):
    if c.norm_place != 'after':
      table |= _norms(c, f'layers/{branch}_norm', (l, d))
    if c.norm_place != 'before':
      table |= _norms(c, f'layers/{branch}_post_norm', (l, d))
  table |= _attention(c) | _mlp(c) | _norms(c, 'final_norm', (d,))
  if not c.tie_embeddings:
    table['unembed'] = Param((d, c.vocab_size), P(SHARDS, 'tensor'), d**-0.5)
  if c.value_head:
    # Zero: values start at 0, whatever the trunk.
    table['value_head/kernel'] = Param((d,), P(SHARDS))
    table['value_head/bias'] = Param((), P())
  return table


def _nested(flat: dict[str, PyTree]) -> PyTree:
  return traverse_util.unflatten_dict(flat, sep='/')


def init(key: Array, config: ModelConfig, skip: Collection[str] = ()) -> PyTree:
  """Fresh parameters; each depends on the key and its own path only.

  skip  first names of paths ('embed', 'layers', ...) that are not made
  """
  dtype = jnp.dtype(config.param_dtype)
  flat = {}
  for index, (path, param) in enumerate(sorted(param_table(config).items())):
    if path.partition('/')[0] in skip:
      continue
    if param.ones:
      flat[path] = jnp.ones(param.shape, dtype)
    elif param.std == 0.0:
      flat[path] = jnp.zeros(param.shape, dtype)
    else:
      noise = jax.random.truncated_normal(
        jax.random.fold_in(key, index), -3.0, 3.0, param.shape, jnp.float32
      )
      flat[path] = (param.std * noise).astype(dtype)
  return _nested(flat)


def param_specs(config: ModelConfig) -> PyTree:
  """PartitionSpec of every parameter, over the axes of `core.sharding`."""
  return _nested({path: p.spec for path, p in param_table(config).items()})


def param_count(config: ModelConfig) -> int:
  """Number of parameters."""
  return sum(math.prod(p.shape) for p in param_table(config).values())


def active_param_count(config: ModelConfig) -> int:
  """Number of parameters that one token meets: of experts, those it chose."""
  total = param_count(config)
  for path, param in param_table(config).items():
    if path.startswith('layers/expert_'):
      unused = config.num_experts - config.experts_per_token
      total -= math.prod(param.shape) // config.num_experts * unused
  return total


def holders(name: str, config: ModelConfig) -> tuple[int, ...]:
  """Layers that have the parameter 'layers/`name`', in its stack's order."""
  layers = range(config.num_layers)
  if name.startswith(('gate', 'up', 'down')):
    return tuple(i for i in layers if not config.sparse(i))
  if name.startswith(('router', 'expert')):
    return tuple(i for i in layers if config.sparse(i))
  return tuple(layers)


def _cut(stacks: dict[str, PyTree], config: ModelConfig, cut: Callable):
  """`cut(stack, layers that have it)` of every stack; None is left out."""
  made = {}
  for name, stack in stacks.items():
    place = cut(holders(name, config))
    if place is not None:
      made[name] = jax.tree.map(lambda w, place=place: w[place], stack)
  return made


def unstack(params: PyTree, config: ModelConfig) -> PyTree:
  """`params` with `layers` as a tuple of per-layer dicts.

  `apply` takes both forms. A decode loop wants this one: slicing the stacked
  weights inside the loop would copy all of them at every token.
  """
  if isinstance(params['layers'], tuple):
    return params

  def of(layer: int) -> dict[str, PyTree]:
    find = lambda there: there.index(layer) if layer in there else None
    return adapted.settled(_cut(params['layers'], config, find))

  split = tuple(of(layer) for layer in range(config.num_layers))
  rest = {key: part for key, part in params.items() if key != 'layers'}
  return {**adapted.settled(rest), 'layers': split}


def gathered(layer: PyTree, config: ModelConfig) -> PyTree:
  """A layer's weights as its products need them (`sharding.gathered`); those
  of experts are gathered by `experts.mlp`.

  To be called where the layer is computed, within what is recomputed for the
  backward pass: then the weights of one layer are whole at a time.
  """
  if not sharding.split():
    return layer
  table, out = param_table(config), dict(layer)
  for name, weight in layer.items():
    param = table.get(f'layers/{name}')
    if param is not None and not name.startswith('expert_'):
      spec = P(*tuple(param.spec)[1:])
      out[name] = placed.gathered(weight, spec, config.dtype)
  return out


def recomputed(
  function: Callable, config: ModelConfig, **options: Any
) -> Callable:
  """The function of a layer, with what its backward pass computes anew: what
  `config.remat` names, and never keeps all layers' gathered weights.

  options  of `jax.checkpoint`
  """
  keep = remat.POLICIES[config.remat]
  if keep is None and sharding.size(*SHARDS) > 1:
    keep = sharding.keep_all_but_gathered
  if keep is None:
    return function
  return jax.checkpoint(function, policy=keep, **options)


def _stretches(config: ModelConfig) -> list[range]:
  """Layers one after another that have the same parameters."""
  starts = [
    i for i in range(config.num_layers)
    if i == 0 or config.sparse(i) != config.sparse(i - 1)
  ]  # fmt: skip
  ends = [*starts[1:], config.num_layers]
  return [range(a, b) for a, b in zip(starts, ends)]


def scan(
  function: Callable[..., tuple[Any, Any]],
  carry: Any,
  params: PyTree,
  marks: PyTree,
  config: ModelConfig,
) -> tuple[Any, PyTree]:
  """`function(carry, layer, marks) -> (carry, out)` over stacked layers.

  marks  arrays [L, ...] that tell layers apart

  One loop where all layers have the same parameters; else one for each stretch
  of layers that have. Returns the last carry, and outs stacked on axis 0.
  """
  step = lambda carry, item: function(carry, *item)
  stretches = _stretches(config)
  if len(stretches) == 1:
    return jax.lax.scan(step, carry, (params['layers'], marks))
  outs = []
  for layers in stretches:

    def find(there, layers=layers):
      if layers[0] not in there:
        return None
      first = there.index(layers[0])
      return slice(first, first + len(layers))

    part = _cut(params['layers'], config, find)
    mark = jax.tree.map(
      lambda x, layers=layers: x[layers[0] : layers[-1] + 1], marks
    )
    carry, out = jax.lax.scan(step, carry, (part, mark))
    outs.append(out)
  return carry, jax.tree.map(lambda *x: jnp.concatenate(x), *outs)
