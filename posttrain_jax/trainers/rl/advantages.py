"""From the verifier's rewards to what each token of a batch is told."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from posttrain_jax import advantages as advantages_room
from posttrain_jax import rollout
from posttrain_jax.core import arrays as named
from posttrain_jax.core import masked
from posttrain_jax.core.resolve import resolve
from posttrain_jax.core.types import (
  Array,
  Batch,
  Rollout,
)
from posttrain_jax.rewards import tokens as token_rewards
from posttrain_jax.trainers.objective import bind
from posttrain_jax.trainers.rl.terms import has_critic, scores_tokens

__all__ = [
  'make_token_advantages',
  'spent',
]


def _at_tokens(dense: Array, batch: Batch) -> Array:
  """Values of completion tokens [B, G, C] at their places in rows [R, T]."""
  flat = dense.reshape(-1, dense.shape[-1])
  return rollout.place(flat, batch.need('starts'), batch.mask.shape[1])


def _make_estimate(config: Any) -> Callable[..., Batch]:
  """(rewards [B, G], extra [R, T], batch, old_values) -> the batch with an
  advantage of each token, and returns where there is a critic.

  extra  rewards of tokens, beside that of the answer at its end
  """
  hparams = dict(config.advantage)
  name = hparams.pop('name')
  whiten = hparams.pop('whiten', False)
  whiten_rewards = hparams.pop('whiten_rewards', False)
  centered = hparams.pop('baseline', 'none') == 'group'
  function = resolve(advantages_room, name, **hparams)
  critic = has_critic(config)

  def estimate(
    rewards: Array, extra: Array, batch: Batch, old_values: Array | None
  ) -> Batch:
    if centered:
      rewards = advantages_room.group_centered(rewards)
    # The verifier's reward comes with the last token of the completion.
    earned = advantages_room.last_token_rewards(rewards.reshape(-1), batch.mask)
    earned = earned + extra
    if whiten_rewards:  # their spread is 1, and their mean is left
      earned = masked.whiten(earned, batch.mask, center=False)
    if not critic:
      return batch.replace(advantages=function(earned, batch.mask))
    advantage, returns = function(earned, old_values, batch.mask)
    if whiten:
      advantage = masked.whiten(advantage, batch.mask)
    return batch.replace(
      advantages=advantage, returns=returns, old_values=old_values
    )

  return estimate


def make_token_advantages(config: Any) -> Callable[..., tuple[Batch, Any]]:
  """(rewards, batch, old_values, expert_rewards, penalty, dense, **arrays) ->
  the batch with advantages [R, T], returns where there is a critic, and the
  advantages [B, D] of demonstrations, or None.

  rewards         [B, G] of the policy's own answers
  expert_rewards  [B, D] of demonstrations that share the group, or None
  penalty         [R, T] taken off the tokens' rewards, or None
  dense           [B, G, C] rewards of completion tokens, added to the
                  verifier's, or None
  """
  tokenwise = scores_tokens(config.advantage.name)
  of = lambda part: bind(
    advantages_room, part, supplied=named.of_learner('advantage')
  )
  compare: Any = None if tokenwise else of(config.advantage)
  estimate: Any = _make_estimate(config) if tokenwise else None
  apart = config.expert_advantage.name != 'none'
  judge = of(config.expert_advantage) if apart else compare

  def of_completions(rewards, expert_rewards, given):
    """(own [B, G], demonstrations' [B, D] or None)."""
    if expert_rewards is None:
      return compare(rewards, **given), None
    size = rewards.shape[1]
    mixed = jnp.concatenate([rewards, expert_rewards], axis=1)
    theirs = judge(mixed, **given)[:, size:]
    if tokenwise:
      return None, theirs
    if apart:
      return compare(rewards, **given), theirs
    return compare(mixed, **given)[:, :size], theirs

  def token_advantages(
    rewards: Array,
    batch: Batch,
    old_values: Array | None = None,
    expert_rewards: Array | None = None,
    penalty: Array | None = None,
    dense: Array | None = None,
    **given: Array,
  ):
    theirs = None
    if not tokenwise:
      if penalty is not None:
        rewards = rewards - jnp.sum(penalty, axis=1).reshape(rewards.shape)
      own, theirs = of_completions(rewards, expert_rewards, given)
      spread = own.reshape(-1)[:, None] * batch.mask
      if dense is not None:
        mask = jnp.ones_like(dense)
        dense = token_rewards.group_advantages(dense, mask)
        spread = spread + batch.mask * _at_tokens(dense, batch)
      return batch.replace(advantages=spread), theirs
    if expert_rewards is not None:
      _, theirs = of_completions(rewards, expert_rewards, given)
    extra = jnp.zeros_like(batch.mask)
    if penalty is not None:
      extra = extra - penalty
    if dense is not None:
      extra = extra + _at_tokens(dense, batch)
    return estimate(rewards, extra, batch, old_values), theirs

  return token_advantages


def spent(
  drawn: Sequence[Rollout],
  beside: dict[str, tuple[Rollout, Array]] | None = None,
  prefixes: bool = False,
  more: dict[str, Array] | None = None,
) -> dict[str, Array]:
  """What a step's answers took, for `accounting`.

  drawn     answers [B, G, C] of the policy: the group's, greedy ones
  beside    {kind of `guests.KINDS`: (answers [B, k, C], rewards)}
  prefixes  each answer of the group was judged at each of its tokens too
  more      {name: [] float32} to add

  Demonstrations count as such, and the tokens of one that an answer begins with
  are not the policy's.
  """
  beside = beside or {}
  written = [
    *drawn,
    *(x for kind, (x, _) in beside.items() if kind != 'expert'),
  ]
  judged = [*drawn, *(x for x, _ in beside.values())]
  shown = [x for kind, (x, _) in beside.items() if kind in ('expert', 'prefix')]
  answers = lambda rows: sum(x.mask.shape[0] * x.mask.shape[1] for x in rows)
  verified = answers(judged) + (drawn[0].mask.size if prefixes else 0)
  took = {
    'num_generated': sum(x.num_generated() for x in written),
    'num_verified': jnp.float32(verified),
    'num_demonstrations': jnp.float32(answers(shown)),
  }
  for name, x in (more or {}).items():
    took[name] = took[name] + x
  return took
