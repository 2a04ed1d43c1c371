"""Our sides of the benchmarks: sizes, models, prompts, generation.

Put together from the library's public parts; `ours_steps` has the trainers.

Only jax, flax, optax and numpy are imported: `build` would also do it, but it
reads tokenizers, safetensors, grain and ml_collections.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core.types import Array, Example, Rollout
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import vocab

EOS, PAD, VOCAB = vocab.EOS, vocab.PAD, vocab.VOCAB_SIZE
# The digit that a completion is rewarded for, and how early it has to come.
WANTED, EARLY = vocab.token('3'), 4
LEARNING_RATE = 1e-4
# Of XLA's CPU compiler, as `jax.jit` takes it: which operations it hands to the
# kernels of YNNPACK. Everywhere: XLA_FLAGS=--xla_cpu_experimental_ynn_...
YNNPACK = 'xla_cpu_experimental_ynn_fusion_type'
WITHOUT_YNNPACK = {YNNPACK: ''}

# name -> (width, layers, heads, MLP size); parameters with the embedding.
SIZES = {
  '1m': (128, 4, 4, 512),  # 1.06M
  '0.4m': (96, 3, 4, 384),  # 0.45M
  'toy': (32, 2, 2, 64),
}


class Work(NamedTuple):
  """The sizes of a rollout or of a GRPO step.

  stop_chance    of the stop token at every step, exactly; 0: it never comes
  slots          completions decoded at a time; 0: all
  stages         steps in which the cache grows, where there are no slots
  token_buckets  sizes that the update is compiled for, to skip padding
  micro          rows of one forward and backward pass; 0: all
  """

  size: str
  prompts: int
  prompt_length: int
  group_size: int
  max_new_tokens: int
  stop_chance: float
  slots: int = 0
  token_buckets: int = 1
  stages: int = 1
  micro: int = 0


def model_config(size: str) -> ModelConfig:
  """The Qwen2 of a size."""
  width, layers, heads, mlp_dim = SIZES[size]
  return ModelConfig(
    vocab_size=VOCAB,
    width=width,
    num_layers=layers,
    num_heads=heads,
    num_kv_heads=heads,
    head_dim=width // heads,
    mlp_dim=mlp_dim,
    qkv_bias=True,
    scan_layers=False,
    max_length=512,
  )


def with_stop(chance: float) -> Callable[[Array, Array], tuple[Array, Array]]:
  """A decoder that samples, with P(stop token) = `chance` at every step."""

  def decoder(logits: Array, keys: Array):
    is_stop = (jnp.arange(logits.shape[-1]) == EOS)[None]
    others = jnp.where(is_stop, -jnp.inf, logits)
    if chance == 0.0:
      return decoders.sample(others, keys)
    total = jax.nn.logsumexp(others, axis=-1, keepdims=True)
    odds = jnp.log(chance / (1.0 - chance))
    return decoders.sample(jnp.where(is_stop, total + odds, others), keys)

  return decoder


def make_generate(
  work: Work, options: dict[str, Any] | None = None
) -> Callable[..., Rollout]:
  """Jitted (params, prompts [B, P], key) -> Rollout.

  options  of the compiler, as `jax.jit` takes them
  """
  model, decoder = model_config(work.size), with_stop(work.stop_chance)

  def generate(params, prompts: Array, key: Array) -> Rollout:
    return rollout.generate(
      params,
      model,
      prompts,
      jnp.ones(prompts.shape, jnp.float32),
      key,
      group_size=work.group_size,
      max_new_tokens=work.max_new_tokens,
      decoder=decoder,
      eos_id=EOS,
      pad_id=PAD,
      slots=work.slots,
      stages=work.stages,
    )

  return jax.jit(generate, compiler_options=options)


def random_prompts(key: Array, work: Work) -> Array:
  """[B, P] ordinary tokens."""
  shape = (work.prompts, work.prompt_length)
  return jax.random.randint(key, shape, vocab.ZERO, VOCAB, jnp.int32)


def sum_prompts(key: Array, work: Work) -> Array:
  """[B, P] prompts 'ddd+ddd=' that fill their P tokens.

  Raises:
    ValueError: an odd or too small prompt_length.
  """
  digits = (work.prompt_length - 2) // 2
  if digits < 1 or work.prompt_length % 2:
    raise ValueError(
      f'prompt_length={work.prompt_length} is not 2 * digits + 2'
    )
  shape = (work.prompts, work.prompt_length)
  text = vocab.ZERO + jax.random.randint(key, shape, 0, 10, jnp.int32)
  text = text.at[:, digits].set(vocab.token('+'))
  return text.at[:, -1].set(vocab.token('='))


def has_digit(example: Example, completion: Array, mask: Array) -> dict:
  """Reward 1.0 for a '3' among the first tokens; the peers get the same."""
  del example
  early = (completion[:EARLY] == WANTED) & (mask[:EARLY] > 0)
  return {'reward': jnp.any(early).astype(jnp.float32)}
