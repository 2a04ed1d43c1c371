"""The terms of an RL objective, each bound from its part of a config."""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import advantages, token_weights
from posttrain_jax.core import arrays as named
from posttrain_jax.core.resolve import arrays_of, lookup, resolve
from posttrain_jax.core.stops import Ends, several
from posttrain_jax.core.types import (
  Array,
  Batch,
  PyTree,
  TokenSignals,
  TrainState,
)
from posttrain_jax.losses import (
  contrastive,
  flow,
  policy_gradient,
  regularizers,
  supervised,
)
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout.guide import Guide
from posttrain_jax.trainers.arrays import signals_read_by
from posttrain_jax.trainers.objective import bind, score
from posttrain_jax.trainers.rl import guests
from posttrain_jax.trainers.rl.steering import make_view

__all__ = [
  'BASELINES',
  'advantage_keys',
  'bind_kl',
  'has_critic',
  'loss_arrays',
  'loss_room',
  'make_contrast',
  'make_imitation',
  'make_penalty',
  'make_policy_loss',
  'scores_tokens',
  'trl_names',
]

# What answers' rewards are compared with before their tokens' are whitened.
BASELINES = ('none', 'group')


def bind_kl(part: Any) -> functools.partial:
  """The penalty of `config.kl`: on taken tokens, or on the whole vocabulary.

  Raises:
    ValueError: unknown name or hyperparameter, with the nearest valid one.
  """
  own = ('name', 'coef', 'place')
  hparams = {k: v for k, v in dict(part).items() if k not in own}
  return resolve(regularizers, part['name'], **hparams)


def loss_room(name: str) -> ModuleType:
  """The room of a policy's loss."""
  return flow if name in flow.__all__ else policy_gradient


def has_critic(config: Any) -> bool:
  """Whether the advantage reads values of states, so that a critic learns."""
  return _asks(config.advantage.name, 'values')


def scores_tokens(name: str) -> bool:
  """Whether an advantage is one of tokens, from rewards of tokens."""
  return name != 'none' and _asks(name, 'token_rewards')


def _asks(name: str, array: str) -> bool:
  function = lookup(advantages, name)
  return array in inspect.signature(function).parameters


def advantage_keys(name: str) -> dict[str, Any]:
  """What the trainer reads of an advantage's part beside its hyperparameters.

  whiten          a critic's advantages, before the update
  whiten_rewards  rewards of tokens to a spread of 1, their mean left
  baseline        of the answers' rewards, one of BASELINES
  """
  if not scores_tokens(name):
    return {}
  if _asks(name, 'values'):
    return {'whiten': True, 'whiten_rewards': False}
  return {'baseline': 'none'}


def loss_of(config: Any) -> functools.partial:
  part = dict(config.loss)
  if part['name'] in flow.__all__ and 'group_size' in part:
    # Rows beside the own ones count nothing, but stand in the group.
    beside = guests.rows_beside(config)
    part['group_size'] = config.group_size + beside
  return bind(loss_room(part['name']), part, supplied=named.of_learner('loss'))


def loss_arrays(config: Any) -> list[str]:
  """Arrays that the policy's loss asks for."""
  return arrays_of(loss_of(config).func)


def trl_names(metrics: dict[str, Array]) -> dict[str, Array]:
  """The rooms' clip marks under the names that TRL logs their means by."""
  out = dict(metrics)
  sides = {
    side: out.pop(f'clip_{side}')
    for side in ('low', 'high')
    if f'clip_{side}' in out
  }
  for side, clipped in sides.items():
    out[f'clip_ratio/{side}_mean'] = clipped
  if len(sides) == 2:
    out['clip_ratio/region_mean'] = sides['low'] + sides['high']
  return out


def make_policy_loss(config: Any, eos_id: Ends) -> Callable:
  """(signals, batch, mask) -> token loss [R, T], metrics."""
  loss = loss_of(config)
  own = arrays_of(loss.func)

  def gradient(signals: TokenSignals, batch: Batch, mask: Array):
    given = {name: batch.extras[name] for name in own}
    return loss(signals.logps, batch.old_logps, batch.advantages, mask, **given)

  def balance(signals: TokenSignals, batch: Batch, mask: Array):
    given = {n: batch.extras[n] for n in own if n != 'stop_logps'}
    if 'stop_logps' in own:
      chances = jax.nn.log_softmax(signals.need('logits'))
      ends = (chances[..., token] for token in several(eos_id))
      given['stop_logps'] = functools.reduce(jnp.logaddexp, ends)
    return loss(
      signals.logps, signals.values, batch.extras['log_rewards'], mask, **given
    )

  return balance if config.loss.name in flow.__all__ else gradient


def make_penalty(
  config: Any, models: dict[str, ModelConfig], guide: Guide | None = None
) -> Callable:
  """(signals, state, batch, mask, view) -> token penalty [R, T], metrics.

  view  how `score` reads the batch
  """
  penalty = bind_kl(config.kl)
  view_of = make_view(config, guide)
  on_logits = config.kl.name in regularizers.LOGITS
  corrected = 'old_logps' in arrays_of(penalty.func)

  def apply(signals, state: TrainState, batch: Batch, mask: Array, view: dict):
    if on_logits:
      ref = score(
        state.model('ref'),
        models['ref'],
        batch,
        view_of(state),
        logits=True,
        **view,
      )
      return penalty(signals.logits, jax.lax.stop_gradient(ref.logits), mask)
    extra = {'old_logps': batch.old_logps} if corrected else {}
    return penalty(signals.logps, batch.ref_logps, mask, **extra)

  return apply


def make_imitation(config: Any) -> tuple[Callable, frozenset[str]]:
  """((signals, mask) -> token loss and metrics, signals that it reads)."""
  skip = ('coef', 'mix')
  loss = bind(supervised, config.sft_loss, skip=skip)
  weigh = bind(token_weights, config.sft_weights)
  read = signals_read_by(loss) | signals_read_by(weigh)
  for name in ('ref_logps', 'old_logps', 'values'):
    if name in read:
      raise ValueError(
        f'sft_loss.name="{config.sft_loss.name}" with sft_weights.name='
        f'"{config.sft_weights.name}" reads "{name}", which demonstrations '
        'beside rollouts do not have'
      )

  def imitate(signals: TokenSignals, mask: Array):
    token_loss, metrics = loss(signals, mask)
    return token_loss * weigh(signals, mask), metrics

  return imitate, read


def make_contrast(config: Any, model: ModelConfig) -> tuple[Callable, Callable]:
  """((params, batch) -> row loss [R], row metrics, rows that exist [R];
  (batch) -> how many rows have a loss)."""
  contrast = bind(
    contrastive,
    config.contrastive,
    skip=('annotation', 'coef'),
    supplied=named.of_learner('contrastive'),
  )
  asked = arrays_of(contrast.func)

  def existing(batch: Batch) -> Array:
    mask = guests.mask_of(batch, 'own')
    return jnp.any(mask != 0, axis=1).astype(mask.dtype)

  def apply(params: PyTree, batch: Batch):
    positives = heads.sequence_embedding(
      params,
      model,
      batch.tokens,
      guests.mask_of(batch, 'own'),
      segment_ids=batch.segment_ids,
    )
    given = {name: batch.extras[name] for name in asked}
    exists = existing(batch)
    row_loss, metrics = contrast(
      batch.extras['anchors'], positives, exists, **given
    )
    return row_loss, metrics, exists

  def count(batch: Batch) -> Array:
    exists = existing(batch)
    if 'correct' in asked:
      exists = exists * (batch.extras['correct'] > 0.5)
    return jnp.sum(exists)

  return apply, count
