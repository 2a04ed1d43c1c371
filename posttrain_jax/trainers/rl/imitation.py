"""Imitation of rows that stand in no group: held ones, and held-out ones."""

from collections.abc import Callable
from typing import Any

from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.core.types import (
  Array,
  Batch,
  Example,
  PyTree,
  TokenSignals,
  TrainState,
)
from posttrain_jax.losses import reduce, supervised
from posttrain_jax.models import adapted
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers import update
from posttrain_jax.trainers.objective import (
  Objective,
  count_with,
  score,
  with_mask,
)
from posttrain_jax.trainers.rl import guests

__all__ = ['make_objective', 'make_toward', 'make_valid']


def make_objective(
  model: ModelConfig, imitate: Callable, read: frozenset[str]
) -> Objective:
  """One term, 'sft': a mean over all tokens of the rows, at temperature 1.

  imitate, read  of `terms.make_imitation`
  """

  def evaluate(params: PyTree, state: TrainState, batch: Batch):
    del state
    signals = score(params, model, batch, entropy=True, logits='logits' in read)
    token_loss, _ = imitate(signals, batch.mask)
    total, _ = reduce.token_mean(token_loss, batch.mask)
    return {'sft': total}, with_mask({'nll': -signals.logps}, batch.mask)

  count = count_with(reduce.token_mean, 'sft')
  return Objective(evaluate, count, {'sft': 1.0})


def make_valid(
  config: Any, task: Any, sample_examples: Callable, width: int, pad_id: int
) -> Callable[[Array], Batch] | None:
  """(key) -> demonstrations [V, T] of `config.valid_per_step` problems of their
  own, that nothing trains on in this step; None where there are none.

  sample_examples  (key, count) -> Example [count, ...]
  """
  count = config.valid_per_step
  if not count:
    return None

  def valid(key: Array) -> Batch:
    examples: Example = sample_examples(key, count)
    shown = guests.demonstrations(task, examples, key, 1, width, pad_id)
    return sharding.rows(
      rollout.assemble_groups(examples.prompt, examples.prompt_mask, shown)
    )

  return valid


def make_toward(
  model: ModelConfig,
) -> Callable[[TrainState, Batch], PyTree]:
  """(state, demonstrations) -> gradient of their mean negative log-likelihood
  by the trained parameters."""

  def imitate(signals: TokenSignals, mask: Array):
    return supervised.nll(signals, mask)

  gradient = update.make_gradient(
    make_objective(model, imitate, frozenset()), microbatch_rows=0
  )

  def toward(state: TrainState, rows: Batch) -> PyTree:
    return gradient(adapted.trained(state.params), state, rows)[0]

  return toward
