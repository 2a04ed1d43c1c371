"""How far a policy has moved from its base, exactly at every token.

The full-vocabulary KL at each position of sampled completions: exact given the
prefix, so its only variance is that of the prefixes. What is averaged over is
who sampled them:

  reverse KL  KL(policy || base) on the policy's own samples: what a KL penalty
              in RL measures; it is blind to what the policy has dropped
  forward KL  KL(base || policy) on the base's samples: how surprised the policy
              is by what the base does; it sees what was forgotten

Both are in nats per token. `probe.Probe` measures them on a task.
"""

import functools

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, PyTree, Rollout
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import vocab

__all__ = ['compare', 'on_prompts', 'per_token']


def per_token(logits: Array, other_logits: Array) -> dict[str, Array]:
  """Divergences of one next-token distribution from another.

  A token that the first gives no probability counts 0, one that only the other
  excludes makes the KL infinite.

  Args:
    logits: [..., V] of the model that sampled.
    other_logits: [..., V].

  Returns:
    [...] each: kl (first || other), total_variation (half of the L1 distance),
    entropy (of the first), in nats but for the second.
  """
  ours, theirs = jax.nn.log_softmax(logits), jax.nn.log_softmax(other_logits)
  probs = jnp.exp(ours)
  # 0 * inf is nan: what has no probability is selected out.
  possible = probs > 0
  weigh = lambda x: jnp.sum(jnp.where(possible, probs * x, 0.0), axis=-1)
  distance = jnp.sum(jnp.abs(probs - jnp.exp(theirs)), axis=-1)
  return {
    'kl': weigh(ours - theirs),
    'total_variation': distance / 2,
    'entropy': -weigh(ours),
  }


def compare(
  params: PyTree,
  other_params: PyTree,
  model: ModelConfig,
  prompts: Array,
  prompt_mask: Array,
  samples: Rollout,
  temperature: float = 1.0,
) -> tuple[dict[str, Array], Array]:
  """Sums of `per_token` over the completions that `params` sampled.

  Args:
    params: the model that sampled.
    other_params: the model it is compared with.
    model: of both.
    prompts, prompt_mask: [B, P].
    samples: G completions of each prompt.
    temperature: both models' logits are divided by it.

  Returns:
    ({name: sum over tokens}, number of tokens): divide after adding up batches.
    Tokens that the model was given do not count.
  """
  batch = rollout.assemble_groups(prompts, prompt_mask, samples)
  logits = lambda p: (
    transformer.token_logps(
      p,
      model,
      batch.tokens,
      batch.mask,
      temperature,
      segment_ids=batch.segment_ids,
      positions=batch.positions,
      logits=True,
    ).logits
  )
  found = per_token(logits(params), logits(other_params))
  sums = {name: masked.sum(x, batch.mask) for name, x in found.items()}
  return sums, jnp.sum(batch.mask)


def on_prompts(
  params: PyTree,
  base_params: PyTree,
  model: ModelConfig,
  prompts: Array,
  prompt_mask: Array,
  key: Array,
  *,
  max_new_tokens: int,
  group_size: int = 1,
  temperature: float = 1.0,
  eos_id: int = vocab.EOS,
  pad_id: int = vocab.PAD,
) -> dict[str, Array]:
  """Both KLs on one batch of any prompts, each on its own model's samples.

  Args:
    params, base_params: policy and base, both of `model`.
    prompts, prompt_mask: [B, P], right-padded.
    key: of the sampling; both models sample with it.
    max_new_tokens: of each completion.
    group_size: completions of each prompt.
    temperature: of the sampling, and of the distributions that are compared.
    eos_id, pad_id: as in `rollout.generate`.

  Returns:
    kl_reverse, kl_forward, total_variation and entropy (the last two of the
    policy on its own samples).
  """
  draw = functools.partial(decoders.sample, temperature=temperature)

  def own(sampler, other):
    samples = rollout.generate(
      sampler,
      model,
      prompts,
      prompt_mask,
      key,
      group_size=group_size,
      max_new_tokens=max_new_tokens,
      decoder=draw,
      eos_id=eos_id,
      pad_id=pad_id,
    )
    sums, count = compare(
      sampler, other, model, prompts, prompt_mask, samples, temperature
    )
    return {name: x / jnp.maximum(count, 1.0) for name, x in sums.items()}

  ours, theirs = own(params, base_params), own(base_params, params)
  return {
    'kl_reverse': ours['kl'],
    'kl_forward': theirs['kl'],
    'total_variation': ours['total_variation'],
    'entropy': ours['entropy'],
  }
