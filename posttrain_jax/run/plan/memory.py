"""Bytes of one chip, by what they are for.

What a run holds from step to step (parameters, moments, frozen models) is
exact: shapes over shardings. What comes and goes is XLA's number where it
compiled the program; of that, gradients and the key/value cache are told apart
by their shapes. Without a compiler all of it is arithmetic.
"""

import contextlib
import math
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import sharding
from posttrain_jax.core.types import TrainState
from posttrain_jax.models import adapted, cache, remat, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import layout
from posttrain_jax.run.build import Run
from posttrain_jax.run.plan.programs import Compiled, local_bytes
from posttrain_jax.run.state import shaped_state

__all__ = [
  'activations',
  'arithmetic',
  'components',
  'decode_weights',
  'gradients',
  'held',
  'kv_cache',
  'rollout_rows',
]


def held(state: TrainState) -> dict[str, int]:
  """{component: bytes} of what stays from step to step.

  'parameters' are the policy's, a critic's head and adapters among them;
  'moments' of the optimizer; 'reference', and other frozen models by their
  roles ('teacher', ...).

  state  shapes with shardings
  """
  out = {
    'parameters': local_bytes(state.params),
    'moments': local_bytes(state.opt_state),
  }
  if state.ref_params is not None:
    out['reference'] = local_bytes(state.ref_params)
  for role, params in state.others.items():
    out[role] = local_bytes(params)
  out['control'] = local_bytes((state.step, state.control))
  return {name: size for name, size in out.items() if size}


def gradients(run: Run, state: TrainState) -> int:
  """Bytes of the gradient of what is trained; twice that where micro-batches
  are added up."""
  own = local_bytes(adapted.trained(state.params))
  sizes = run.sizes
  split = 0 < sizes.microbatch_rows < sizes.minibatch_rows
  return own * (2 if split else 1)


def rollout_rows(run: Run) -> int:
  """Completions that are decoded at a time; 0: the step has no rollout."""
  if run.generate is None:
    return 0
  every = run.sizes.prompts_per_step * run.config.group_size
  return min(run.sizes.slots or every, every)


def _decoding(run: Run, mesh: Any) -> contextlib.ExitStack:
  """Inside, what is asked of `sharding` is the layout of a decode loop."""
  stack = contextlib.ExitStack()
  stack.enter_context(jax.sharding.use_abstract_mesh(mesh.abstract_mesh))
  stack.enter_context(layout.decoding(run.model))
  return stack


def decode_weights(run: Run, mesh: Any) -> int:
  """Bytes of the weights of a chip while it decodes: gathered over fsdp, or
  split over all chips of a `data` part (`rollout.layout`)."""
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    return layout.held_bytes(run.model)


def kv_cache(run: Run, mesh: Any) -> int:
  """Bytes of the keys and values of a rollout: the prompts', read by all of
  their answers, and the answers'.

  Rows and heads are split as `rollout.layout` splits them; prompts and rows are
  as many as it makes of them.
  """
  rows, sizes = rollout_rows(run), run.sizes
  if not rows:
    return 0
  with _decoding(run, mesh):
    split = sharding.size(*sharding.over('cache_rows'))
    heads = sharding.size(*sharding.over('cache_heads'))
    group = run.config.group_size
    made = layout.rows_of(sizes.prompts_per_step, group, run.model)

  # Layers of a kind may be one array: rows come second, then heads.
  place = 2 if run.model.scan_decode else 1

  def local(leaf: Any) -> int:
    size = math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
    return size // heads if leaf.shape[place] % heads == 0 else size

  def each(rows: int, slots: int) -> int:
    of_one = lambda: cache.init_cache(run.model, -(-rows // split), slots)
    one = jax.eval_shape(of_one)
    return sum(map(local, jax.tree.leaves((one.keys, one.values))))

  return each(len(made.prompts), sizes.prompt_length) + each(
    min(rows, len(made.rows)), sizes.max_new_tokens
  )


def activations(run: Run, mesh: Any) -> int:
  """Bytes that an update takes beside gradients, by arithmetic.

  What every layer keeps of a micro-batch (`models.remat`), what one layer makes
  of it, logits in float32 with their gradient, the weights of a layer, whole
  and in the type that is computed in, and, where rows are split, the whole
  unembedding with a gradient of its own. The compiler may do with less, or with
  a half more.
  """
  model, sizes = run.model, run.sizes
  places = dict(mesh.shape)
  split = sharding.row_parts(places) * places.get('sequence', 1)
  tensor = places.get('tensor', 1)
  rows = sizes.microbatch_rows or sizes.minibatch_rows
  tokens = rows * sizes.row_tokens / split
  wide = jnp.dtype(model.dtype).itemsize
  inside = _layer_numbers(model) / tensor + 4 * model.width
  scores = _score_numbers(model, sizes.row_tokens) / tensor
  kept = model.num_layers * _kept_numbers(model, sizes.row_tokens, tensor)
  chunk = min(model.logit_chunk or sizes.row_tokens, sizes.row_tokens)
  logits = 8.0 * tokens / sizes.row_tokens * chunk * model.vocab_size / tensor
  table = model.vocab_size * model.width
  one = transformer.param_count(model) - table
  one /= max(model.num_layers, 1) * tensor
  layer = tokens * (inside + 2 * scores)
  whole = 2 * one + (2 * table / tensor if split > 1 else 0)
  return int(wide * (tokens * kept + layer + whole) + logits)


def _kept_numbers(model: ModelConfig, length: int, tensor: int) -> float:
  """Numbers that a layer keeps of a token, by `models.remat`."""
  name, width = remat.word(model.remat), model.width
  found = model.num_heads * model.head_dim / tensor
  scores = _score_numbers(model, length) / tensor
  products = _layer_numbers(model) / tensor + 2 * width
  gate = model.mlp_dim if model.gated and not model.num_experts else 0
  return {
    # What is no product is kept too: norms, activations, rotated heads.
    'none': 1.5 * products + 4 * width + scores,
    'dots': products + scores,
    'dots_no_batch': products,
    'save_all_but_mlp': 2 * width + _head_numbers(model) / tensor,
    'save_all_but_up': 2 * width + (_head_numbers(model) + gate) / tensor,
    'save_branches': 2 * width + found,
    'save_attention': width + found,
    'full': width,
  }[name]


def decoding(run: Run, mesh: Any) -> int:
  """Bytes that a rollout takes beside its parameters and the cache, by
  arithmetic: logits of a token in float32 and what a sampler makes of them, and
  the weights as they are decoded with."""
  with _decoding(run, mesh):
    rows = rollout_rows(run) / sharding.size(*sharding.over('rows'))
    vocab = run.model.vocab_size / sharding.size(*sharding.over('vocab'))
  return int(12 * rows * vocab) + decode_weights(run, mesh)


def arithmetic(run: Run, mesh: Any, name: str) -> int:
  """Bytes of a chip while a program runs, by arithmetic alone.

  name  of the program (`programs.Compiled`)
  """
  state = shaped_state(run, mesh)
  total = sum(held(state).values())
  learns = gradients(run, state) + activations(run, mesh)
  samples = 0
  if run.generate is not None:
    samples = kv_cache(run, mesh) + decoding(run, mesh)
  if name == 'rollout':
    return total + samples
  return total + (max(learns, samples) if name == 'step' else learns)


def _head_numbers(model: ModelConfig) -> float:
  """Queries, keys, values, and what attention found, of a token."""
  return (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim


def _layer_numbers(model: ModelConfig) -> float:
  """Numbers that the products of one layer make of a token."""
  inner = model.mlp_dim
  if model.num_experts:
    inner = model.experts_per_token * model.expert_dim
  return _head_numbers(model) + (3 if model.gated else 2) * inner


def _score_numbers(model: ModelConfig, length: int) -> float:
  """Attention scores that are held at a time, a token of a row; a kernel holds
  none."""
  if model.attention != 'plain':
    return 0.0
  chunk = model.attention_chunk or length
  return model.num_heads * min(chunk, length)


def components(
  run: Run, state: TrainState, program: Compiled, mesh: Any
) -> dict[str, int]:
  """{component: bytes} of one chip while a program runs; they add up to its
  `total`.

  'batch' is all else that it is given or gives: rows, keys, metrics.
  'activations' are its temporaries without gradients and cache, and 'program'
  its code. Of one that XLA refused, 'activations' is all that is not held.
  """
  out = held(state)
  fixed = sum(out.values())
  rest = program.total - fixed
  learns = program.name in ('step', 'learn')
  samples = program.name in ('step', 'rollout')
  if program.exhausted is None:
    given = program.arguments + program.resident - fixed
    out['batch'] = given + program.outputs - program.aliased
    out['program'] = program.code
    rest = program.total - sum(out.values())
  if learns:
    out['gradients'] = max(min(gradients(run, state), rest), 0)
    rest -= out['gradients']
  if samples and run.generate is not None:
    # A step samples, then learns: the larger of both is in its temporaries.
    size = kv_cache(run, mesh)
    if program.name == 'rollout':
      out['kv_cache'] = max(min(size, rest), 0)
      rest -= out['kv_cache']
  out['activations'] = rest
  return {name: size for name, size in out.items() if size}
