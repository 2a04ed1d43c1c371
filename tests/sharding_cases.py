"""Rows that do not depend on a model, for steps of RL without a sampler."""

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Rollout


def fixed(params, config, prompts, prompt_mask, key, **options) -> Rollout:
  """Random tokens of random length, as if a model without an opinion wrote."""
  del params, prompt_mask
  shape = (len(prompts), options['group_size'], options['max_new_tokens'])
  token_key, length_key = jax.random.split(key)
  tokens = jax.random.randint(token_key, shape, 2, config.vocab_size)
  lengths = jax.random.randint(length_key, (*shape[:2], 1), 1, shape[2] + 1)
  mask = (jnp.arange(shape[2])[None, None] < lengths).astype(jnp.float32)
  return Rollout(
    completion=jnp.where(mask > 0, tokens, options['pad_id']),
    mask=mask,
    logps=mask * -np.log(config.vocab_size),
    finished=jnp.ones(shape[:2]),
  )


def even(self, example, completion, mask):
  """A reward that half of the answers have."""
  return {'reward': (completion[0] % 2).astype(jnp.float32)}
