"""How the policy's answers are drawn."""

import functools
from collections.abc import Callable
from typing import Any

from posttrain_jax import rollout
from posttrain_jax.core.stops import Ends
from posttrain_jax.core.types import Rollout
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.rollout.guide import Guide, spread
from posttrain_jax.trainers.objective import bind

__all__ = ['make_rollout']


def make_rollout(
  config: Any,
  model: ModelConfig,
  max_new_tokens: int,
  eos_id: Ends,
  pad_id: int,
  *,
  slots: int = 0,
  cache_stages: int = 1,
  guide: Guide | None = None,
  greedy: bool = False,
  beside: int = 0,
) -> Callable[..., Rollout]:
  """`generate(params, prompts, prompt_mask, prompt_ids, key) -> Rollout`.

  slots, cache_stages  of `rollout.generate`
  guide   what steers the answers; where it cannot start from a prompt (it has a
          task's environment in it, or forces a prefix), `generate` takes its
          states `guide_state` [B, ...] too
  greedy  one greedy answer a prompt, in place of the group
  beside  answers a prompt beside the group, in place of it (0: the group)

  `generate` may be given a temperature in place of the decoder's; `logps` are
  then at that temperature.
  """
  decoder: Callable = decoders.greedy
  if not greedy:
    decoder = bind(decoders, config.decoder)
  group_size = 1 if greedy else beside or config.group_size

  def generate(
    params,
    prompts,
    prompt_mask,
    prompt_ids,
    key,
    temperature=None,
    guide_state=None,
  ):
    draw = decoder
    if temperature is not None:
      draw = functools.partial(decoder, temperature=temperature)
    return rollout.generate(
      params,
      model,
      prompts,
      prompt_mask,
      key,
      group_size=group_size,
      max_new_tokens=max_new_tokens,
      decoder=draw,
      eos_id=eos_id,
      pad_id=pad_id,
      prompt_ids=prompt_ids,
      slots=0 if greedy else slots,
      stages=cache_stages,
      guide=guide,
      guide_state=spread(guide_state, group_size),
    )

  return generate
