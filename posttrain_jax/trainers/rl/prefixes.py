"""Answers that begin as a demonstration does and go on as the policy does.

Beside a group's own answers, `config.prefix.per_prompt` answers of each problem
begin with the first tokens of the oracle's demonstration, the same for all of
them. What they begin with is learnt too: these tokens get the advantage

  (reward - mean reward of the own answers) / per_prompt

so a beginning is imitated where it helps, and no more where the policy does as
well alone. Only those at which the policy is least sure keep it. Probabilities
are the policy's own, of forced tokens too, not those of who demonstrated.

Reference: Huang et al. (2025), https://arxiv.org/abs/2507.01679 (Prefix-RFT)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout, token_weights
from posttrain_jax.core import masked
from posttrain_jax.core.types import (
  Array,
  Batch,
  Example,
  PyTree,
  Rollout,
  TokenSignals,
  TrainState,
)
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import environments, guides
from posttrain_jax.trainers.objective import score
from posttrain_jax.trainers.rl import guests, steering
from posttrain_jax.trainers.shared import Shared

__all__ = [
  'advantages',
  'check_task',
  'forced_lengths',
  'make_beginnings',
  'make_loss',
  'make_rows',
  'ranks',
  'used',
]

# What the reward of a continuation is compared with: nothing (the published
# code with one of them), the continuations of its prefix, the own answers.
BASELINES = ('none', 'prefix', 'group')


def used(config: Any) -> bool:
  """Whether a step has answers that begin with part of a demonstration."""
  return config.prefix.per_prompt > 0


def ranks(config: Any) -> bool:
  """Whether forced tokens of all rows of a minibatch are compared."""
  return used(config) and config.prefix.top_fraction < 1


def check_task(config: Any, task: Any) -> None:
  """Raises ValueError for a task in turns.

  Its demonstrations have observations in them, which are not the policy's to
  write, and its world would have to be led through the beginning.
  """
  if used(config) and environments.of(task) is not None:
    raise ValueError(
      f'prefix.per_prompt={config.prefix.per_prompt}: task '
      f'"{config.task.name}" answers in turns, and its demonstrations cannot '
      'be forced; take prefix.per_prompt=0'
    )


def forced_lengths(sizes: Array, fractions: Array) -> Array:
  """[B] int32: floor(fraction * size), at least 1, and short of the last token.

  sizes  [B] tokens of demonstrations. One without two tokens has nothing to
         begin with: 0.
  """
  sizes = sizes.astype(jnp.int32)
  # 0.95 * 20 may be a little less than 19 in float32.
  lengths = jnp.floor(fractions * sizes + 1e-4).astype(jnp.int32)
  return jnp.clip(lengths, jnp.minimum(sizes, 1), jnp.maximum(sizes - 1, 0))


def make_beginnings(
  config: Any, task: Any, width: int, pad_id: int
) -> Callable[[Example, Array, Array], PyTree]:
  """(examples, low, key) -> states [B, ...] of `guides.forced_prefix`.

  Each problem's part of its demonstration is drawn between `low` and
  `config.prefix.high`. Demonstrations over `width` tokens are not used.
  """

  def begin(examples: Example, low: Array, key: Array) -> PyTree:
    demo_key, cut_key = jax.random.split(key)
    shown = guests.demonstrations(task, examples, demo_key, 1, width, pad_id)
    keys = rollout.row_keys(cut_key, examples.prompt_id, 1)
    high = config.prefix.high
    low = jnp.minimum(low, high)
    fractions = low + (high - low) * jax.vmap(jax.random.uniform)(keys)
    sizes = jnp.sum(shown.mask[:, 0], axis=-1)
    lengths = forced_lengths(sizes, fractions)
    return guides.prefix_state(shown.completion[:, 0], lengths)

  return begin


def advantages(
  rewards: Array, own_rewards: Array, baseline: str
) -> tuple[Array, Array]:
  """Advantages of forced tokens and of those after them, both [B, k].

  rewards      [B, k] of the answers that begin with a prefix
  own_rewards  [B, G] of the group's own answers
  baseline     one of BASELINES, for the tokens after the prefix

  Rewards are compared as they are. (The published code subtracts the baseline
  of the continuation first, which has the prefix pushed down wherever that is
  not 0.)
  """
  alone = jnp.mean(own_rewards, axis=1, keepdims=True)
  forced = (rewards - alone) / rewards.shape[1]
  if baseline == 'group':
    return forced, rewards - alone
  if baseline == 'prefix':
    return forced, rewards - jnp.mean(rewards, axis=1, keepdims=True)
  return forced, rewards


def make_rows(
  config: Any, model: ModelConfig, shared: Shared | None = None
) -> Callable[..., tuple[Batch, dict[str, Array]]]:
  """(state, prompts, prompt_mask, own_rewards [B, G], samples [B, k, C],
  rewards [B, k]) -> rows, metrics.

  The rows have `extras['forced']` [R, T], 1 on forced tokens, which count.
  Their old log-probabilities are scored here: a sampler that is told its tokens
  says nothing of them. Rows without a prefix count nothing.

  shared  reads each prompt once for all of its rows
  """
  view_of = steering.make_view(config)
  rescored = config.old_logps == 'learner'
  if shared is not None and used(config):
    shared = shared.with_group(config.prefix.per_prompt)

  def read(state: TrainState, batch: Batch) -> Array:
    at = view_of(state)
    if shared is None:
      signals = score(state.params, model, batch, at)
    else:
      signals = shared.score_once(state.params, model, batch, at)
    return jax.lax.stop_gradient(signals.logps)

  def rows(
    state: TrainState,
    prompts: Array,
    prompt_mask: Array,
    own_rewards: Array,
    samples: Rollout,
    rewards: Array,
  ):
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    given = samples.need('given')
    kept = given[..., :1]
    batch = rollout.assemble_groups(
      prompts,
      prompt_mask,
      samples.replace(mask=samples.mask * kept, given=None),
    )
    starts, width = batch.need('starts'), batch.mask.shape[1]
    forced = rollout.place(flat(given), starts, width)
    begun, after = advantages(rewards, own_rewards, config.prefix.baseline)
    spread = jnp.where(forced > 0, flat(begun)[:, None], flat(after)[:, None])
    taught = jnp.ones_like(forced) if rescored else forced
    old_logps = jnp.where(
      taught > 0, read(state, batch), batch.need('old_logps')
    )
    batch = batch.replace(
      advantages=spread * batch.mask,
      old_logps=old_logps * batch.mask,
      extras={'forced': forced},
    )
    metrics = {
      'rewards/prefix/mean': jnp.mean(rewards),
      'prefix/frac_rows_kept': jnp.mean(kept),
      'prefix/frac_forced': masked.mean(forced, batch.mask),
    }
    return batch, metrics

  return rows


def make_loss(config: Any, policy_loss: Callable) -> Callable:
  """(signals, batch, mask) -> token loss [R, T], metrics, of rows with prefix.

  The policy's loss, where of all forced tokens of the call those of highest
  entropy keep their advantage, `config.prefix.top_fraction` of them. The others
  go on being counted. `config.weights` are of own rows, not of these.
  """

  def loss(signals: TokenSignals, batch: Batch, mask: Array):
    forced = batch.extras['forced'] * mask
    top = token_weights.high_entropy(
      signals, forced, fraction=config.prefix.top_fraction
    )
    kept = jnp.where(forced > 0, top, 1.0)
    batch = batch.replace(advantages=batch.need('advantages') * kept)
    return policy_loss(signals, batch, mask)

  return loss
