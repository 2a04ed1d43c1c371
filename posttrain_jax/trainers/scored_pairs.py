"""Pairs by how sure they are: who says so, which are turned round, and the
objective of a reward model.

The strength of a pair is how much better the chosen side scores than the
rejected one: by the verifier, as rows of a task carry it (`scores`), or by the
mean of the reward models that `config.strength` names (`judged`).
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.collect.pairs import interleave
from posttrain_jax.core import arrays as named
from posttrain_jax.core.resolve import active, arrays_of, lookup, nearest
from posttrain_jax.core.types import Array, Batch, TrainState
from posttrain_jax.losses import reward_model
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers import meta, pairs
from posttrain_jax.trainers.objective import Objective, bind, with_mask
from posttrain_jax.trainers.pairs import side
from posttrain_jax.trainers.step import from_file

__all__ = [
  'check',
  'judges',
  'make_objective',
  'make_relabel',
  'make_score',
  'wanted',
]

# Of a reward model's pair, from the scores of its sides.
STRENGTH = named.of_pair('strength')


def judges(config: Any) -> tuple[str, ...]:
  """Roles of the reward models whose mean score says how sure a pair is."""
  return tuple(config.get('strength', ()))


def _flips(config: Any) -> bool:
  return active(config.get('flip_fraction', 0.0))


def _errs(config: Any) -> bool:
  """Whether some pairs of a source are the wrong way round."""
  return active(config.collect.get('noise', 0.0))


def check(config: Any, kind: str) -> None:
  """Raises ValueError for keys that cannot work with the loss or its rows.

  kind  'pair', 'unpaired' or 'reward'
  """
  known = dict(config.get('others', {}))
  for role in judges(config):
    if role not in known:
      raise ValueError(
        f'strength names "{role}", which is no model of config.others.'
        + nearest(role, known)
      )
  if _flips(config) and kind == 'unpaired':
    raise ValueError(
      f'flip_fraction={config.flip_fraction} turns pairs round, and loss '
      f'"{config.loss.name}" reads single answers; leave flip_fraction=0'
    )
  by_verifier = not (judges(config) or from_file(config))
  if _flips(config) and by_verifier and not _errs(config):
    raise ValueError(
      f'flip_fraction={config.flip_fraction}: the verifier decided these pairs '
      'and says how sure they are, so that none of them is wrong; name reward '
      'models in config.strength, or give collect.noise above 0'
    )
  if _flips(config) and config.loss.name in ('soft_label', 'soft_margin'):
    raise ValueError(
      f'flip_fraction={config.flip_fraction} turns the pairs round that loss '
      f'"{config.loss.name}" doubts: they would count for sure; take '
      '"adaptive_margin" or "bradley_terry", or leave flip_fraction=0'
    )
  if _flips(config) and config.data.packing:
    raise ValueError(
      f'flip_fraction={config.flip_fraction} turns whole rows round, and with '
      'data.packing=true a row has several answers; leave packing=false'
    )
  asks = _flips(config)
  if kind == 'reward':
    loss = lookup(reward_model, config.loss.name)
    asks = asks or bool(set(arrays_of(loss)) & set(STRENGTH))
  if judges(config) and not asks:
    raise ValueError(
      f'strength={list(judges(config))}: loss "{config.loss.name}" does not '
      'ask how sure a pair is; take "soft_label", "adaptive_margin" or '
      '"soft_margin", or flip_fraction above 0'
    )


def wanted(config: Any, names: Iterable[str]) -> set[str]:
  """Arrays that rows have to carry for `names` of a loss, and for turning."""
  names = set(names)
  asks = bool(names & set(STRENGTH)) or _flips(config)
  given = {'scores'} if asks and not judges(config) else set()
  return names - set(STRENGTH) | given


def strength(batch: Batch) -> Array:
  """[R / 2] how much better the chosen side of each pair scores."""
  scores = batch.extras.get('judged', batch.extras.get('scores'))
  return side(scores, 0) - side(scores, 1)


def _scores(params: Any, model: ModelConfig, batch: Batch) -> Array:
  """[R] what a reward model gives each row."""
  return heads.sequence_values(
    params,
    model,
    batch.tokens,
    batch.mask,
    positions=batch.positions,
    segment_ids=batch.segment_ids,
  )


def make_score(
  config: Any, models: dict[str, ModelConfig]
) -> Callable[[TrainState, Batch], Batch] | None:
  """(state, batch) -> batch with `judged` [R], the mean score of the reward
  models; None: there are none.

  The mean of an ensemble's gaps is the gap of its mean scores.
  """
  roles = judges(config)
  if not roles:
    return None

  def score(state: TrainState, batch: Batch) -> Batch:
    given = [_scores(state.model(x), models[x], batch) for x in roles]
    mean = jax.lax.stop_gradient(sum(given) / len(given))
    return batch.replace(extras={**batch.extras, 'judged': mean})

  return score


def make_relabel(
  config: Any,
) -> Callable[[Batch], tuple[Batch, dict[str, Array]]] | None:
  """(batch) -> (batch with its weakest pairs turned round, metrics); None: none
  are.

  `config.flip_fraction` of the pairs of a step that count, rounded down; what
  rows carry goes with them, but for MetaRM's answers. Metrics:

  flip/share         turned ones, of these pairs
  flip/wrong         of the turned pairs, those whose chosen side the verifier
                     had held for the worse one, where its scores are there
  flip/wrong_before  of all these pairs, such ones, and
  flip/wrong_after   what is left of them, or new
  """
  if not _flips(config):
    return None

  def relabel(batch: Batch) -> tuple[Batch, dict[str, Array]]:
    live = pairs.live(batch.mask)
    gap = jnp.where(live > 0, strength(batch), jnp.nan)  # sorted last
    share = config.flip_fraction * jnp.sum(live) / live.shape[0]
    own = {k: x for k, x in batch.extras.items() if k != meta.KEY}
    rows = batch.replace(extras=own)
    first, second, turned = reward_model.flip(
      side(rows, 0), side(rows, 1), gap, share
    )
    whole = interleave(first, second)
    if meta.KEY in batch.extras:  # these are of a problem, in their order
      beside = {meta.KEY: batch.extras[meta.KEY]}
      whole = whole.replace(extras={**whole.extras, **beside})
    count = jnp.maximum(jnp.sum(live), 1.0)
    seen = {'flip/share': jnp.sum(turned) / count}
    if 'scores' in batch.extras:
      scores = batch.extras['scores']
      wrong = (side(scores, 0) < side(scores, 1)) & (live > 0)
      after = wrong != (turned & (side(scores, 0) != side(scores, 1)))
      hit = jnp.sum(turned & wrong) / jnp.maximum(jnp.sum(turned), 1)
      seen['flip/wrong'] = hit
      seen['flip/wrong_before'] = jnp.sum(wrong) / count
      seen['flip/wrong_after'] = jnp.sum(after) / count
    return whole, seen

  return relabel


def make_objective(config: Any, model: ModelConfig) -> Objective:
  """The loss of a reward model, and where its gradient is taken.

  Raises:
    ValueError: unknown hyperparameter.
  """
  loss = bind(reward_model, config.loss, supplied=STRENGTH)
  own = arrays_of(loss.func)

  def extras(batch: Batch) -> dict[str, Array]:
    if not own:
      return {}
    gap = strength(batch)
    every = {'strength': gap, 'label_prob': jax.nn.sigmoid(gap)}
    return {name: every[name] for name in own}

  def evaluate(params, state: TrainState, batch: Batch):
    del state
    rewards = _scores(params, model, batch)
    live = pairs.live(batch.mask)
    pair_loss, metrics = loss(
      side(rewards, 0), side(rewards, 1), **extras(batch)
    )
    total = jnp.sum(jnp.where(live > 0, pair_loss, 0.0))
    return {'preference': total}, with_mask(metrics, live)

  return Objective(
    evaluate,
    lambda batch: {'preference': jnp.sum(pairs.live(batch.mask))},
    {'preference': 1.0},
    ahead=meta.make_ahead(config, model),
  )
