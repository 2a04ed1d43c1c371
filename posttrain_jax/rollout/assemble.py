"""From prompts and completions to the rows a learner reads."""

import jax.numpy as jnp

from posttrain_jax.core.types import Array, Batch, Rollout


def place(values: Array, prompt_lengths: Array, total: int) -> Array:
  """Completion values [R, C] at their tokens' places in rows of `total`.

  Row r's values start at column `prompt_lengths[r]`; the rest is 0. A value may
  have more dimensions, [R, C, ...].
  """
  columns = jnp.arange(total)[None] - prompt_lengths[:, None]
  inside = (columns >= 0) & (columns < values.shape[1])
  index = jnp.clip(columns, 0, values.shape[1] - 1)
  wide = lambda x: x.reshape(x.shape + (1,) * (values.ndim - 2))
  found = jnp.take_along_axis(values, wide(index), axis=1)
  return jnp.where(wide(inside), found, jnp.zeros((), values.dtype))


def assemble(
  prompts: Array,
  prompt_mask: Array,
  completions: Array,
  completion_mask: Array,
  given: Array | None = None,
) -> Batch:
  """Rows 'prompt completion padding', contiguous from column 0.

  prompts      [R, P], prompt_mask [R, P] right-padded
  completions  [R, C], completion_mask [R, C]; the mask is 1 up to the end
  given        [R, C], 1 on tokens of completions that no loss counts

  Returns a Batch of [R, P + C] whose mask is 1 on completion tokens that count.
  """
  total = prompts.shape[1] + completions.shape[1]
  lengths = prompt_mask.astype(jnp.int32).sum(axis=1)
  mask = place(completion_mask.astype(jnp.float32), lengths, total)
  tokens = place(completions, lengths, total)
  is_prompt = jnp.arange(total)[None] < lengths[:, None]
  padded = jnp.pad(prompts, ((0, 0), (0, completions.shape[1])))
  real = is_prompt | (mask > 0)
  if given is not None:
    mask = mask * (1.0 - place(given.astype(jnp.float32), lengths, total))
  return Batch(
    tokens=jnp.where(is_prompt, padded, jnp.where(real, tokens, 0)),
    mask=mask,
    segment_ids=real.astype(jnp.int32),
    positions=jnp.broadcast_to(
      jnp.arange(total, dtype=jnp.int32)[None], mask.shape
    ),
    starts=lengths,
  )


def assemble_groups(
  prompts: Array, prompt_mask: Array, rollout: Rollout
) -> Batch:
  """`assemble` of [B, P] prompts with their [B, G, C] completions.

  The rows of one group stand next to each other; `old_logps` are the
  sampler's. Tokens that were given to the model do not count.
  """
  b, g, c = rollout.completion.shape
  prompts = jnp.repeat(prompts, g, axis=0)
  prompt_mask = jnp.repeat(prompt_mask, g, axis=0)
  flat = lambda x: x.reshape(b * g, c)
  batch = assemble(
    prompts,
    prompt_mask,
    flat(rollout.completion),
    flat(rollout.mask),
    None if rollout.given is None else flat(rollout.given),
  )
  lengths = prompt_mask.astype(jnp.int32).sum(axis=1)
  logps = place(flat(rollout.logps), lengths, batch.tokens.shape[1])
  return batch.replace(old_logps=logps)
