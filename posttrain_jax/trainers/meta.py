"""MetaRM: a reward model that goes on telling the policy's answers apart.

The gradient of the pairs' loss is taken one step ahead, up the difference of
the scores of several answers to a problem; the answers are those of the policy
as it is now, which pairs that were collected before have none of.

Reference: Dou et al. (2024), https://arxiv.org/abs/2405.00438, and Wang et al.
(2024), https://arxiv.org/abs/2401.06080
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import collect
from posttrain_jax.collect.setting import rows_of
from posttrain_jax.core import sharding
from posttrain_jax.core.resolve import active, nearest
from posttrain_jax.core.types import Array, Batch, TrainState
from posttrain_jax.losses import reward_model
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers.objective import Ahead, Objective, with_mask
from posttrain_jax.trainers.step import from_file

__all__ = ['check', 'forwards', 'make_ahead', 'make_draw', 'roles', 'used']

KEY = 'meta'  # of the answers among a batch's extras


def used(config: Any) -> bool:
  """Whether the gradient is taken ahead."""
  return 'meta' in config and active(config.meta.rate)


def check(config: Any, kind: str) -> None:
  """Raises ValueError for what cannot work with `config.meta`.

  kind  'pair', 'unpaired' or 'reward'
  """
  if not used(config):
    return
  where = f'meta.rate={config.meta.rate}'
  if kind != 'reward':
    raise ValueError(
      f'{where} is for reward models, not for loss "{config.loss.name}"; leave '
      'meta.rate=0'
    )
  if from_file(config):
    raise ValueError(
      f'{where} makes its rows from a task, whose problems a model answers, '
      'and the rows are of a file; take data=task or leave meta.rate=0'
    )
  if config.optimizer.freeze:
    raise ValueError(
      f'{where} takes its step with all parameters; leave optimizer.freeze=() '
      f'in place of {list(config.optimizer.freeze)}'
    )
  known = ('ref', *config.get('others', {}))
  if config.meta.sampler not in known:
    raise ValueError(
      f'meta.sampler="{config.meta.sampler}" is no model that answers beside '
      'the reward model.' + nearest(config.meta.sampler, known)
    )


def roles(config: Any) -> set[str]:
  """Frozen models that `config.meta` asks for answers."""
  return {config.meta.sampler} if used(config) else set()


def _per_row(config: Any) -> int:
  """Answers that each of a pair's two rows has room for."""
  return -(-config.meta.answers // 2)


def forwards(config: Any, sizes: Any) -> list[tuple[float, str, int, int]]:
  """Passes of a step for the step ahead, as of `step.forwards`."""
  if not used(config):
    return []
  asked, length = sizes.prompts_per_step, sizes.row_tokens
  written = asked * config.meta.answers
  read = asked * 2 * _per_row(config)
  return [
    (1.0, config.meta.sampler, written, length),
    (3.0, 'policy', read, length),
  ]


def make_draw(config: Any) -> Callable | None:
  """(setting, state, key) -> ({'meta': answers}, metrics): `meta.answers` of
  the sampler to a problem beside each pair, which nobody judges. None: not
  used.

  The answers are a Batch of [R, n, ...]: those of a problem stand in the two
  rows of a pair, so that they go wherever the pair goes.
  """
  if not used(config):
    return None
  count, room = config.meta.answers, _per_row(config)

  def draw(
    setting: collect.Setting, state: TrainState, key: Array
  ) -> tuple[dict[str, Batch], dict[str, Array]]:
    examples, samples = setting.answered(state, config.meta.sampler, key, count)

    def lay(x: Array) -> Array:
      grouped = x.reshape(-1, count, *x.shape[1:])
      # An odd one out stands there twice, and is read once.
      full = jnp.take(grouped, jnp.minimum(jnp.arange(2 * room), count - 1), 1)
      return full.reshape(-1, room, *x.shape[1:])

    rows = jax.tree.map(lay, rows_of(examples, samples))
    return {KEY: sharding.rows(rows)}, {}

  return draw


def make_ahead(config: Any, model: ModelConfig) -> Ahead | None:
  """The step up the mean difference of scores; None: not used."""
  if not used(config):
    return None
  count = config.meta.answers

  def evaluate(params: Any, state: TrainState, batch: Batch):
    del state
    flat = jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[2:]), batch.extras[KEY]
    )
    scores = heads.sequence_values(
      params,
      model,
      flat.tokens,
      flat.mask,
      positions=flat.positions,
      segment_ids=flat.segment_ids,
    )
    scores = scores.reshape(batch.mask.shape[0] // 2, -1)[:, :count]
    difference = reward_model.meta_difference(scores)
    seen = {'rewards': jnp.mean(scores, axis=1)}
    every = jnp.ones_like(difference)
    return {'difference': jnp.sum(difference)}, with_mask(seen, every)

  def problems(batch: Batch) -> dict[str, Array]:
    return {'difference': jnp.float32(batch.mask.shape[0] // 2)}

  goal = Objective(evaluate, problems, {'difference': 1.0})
  return Ahead(goal, config.meta.rate, KEY)
