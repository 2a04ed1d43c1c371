"""Losses on given or self-made rows: supervised fine-tuning and its kin."""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import collect, token_weights
from posttrain_jax.core import arrays as named
from posttrain_jax.core import masked
from posttrain_jax.core.resolve import active, arrays_of, lookup
from posttrain_jax.core.types import Batch, TrainState
from posttrain_jax.losses import reduce, supervised
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers import arrays, curriculum, step
from posttrain_jax.trainers.objective import (
  Objective,
  bind,
  count_with,
  score,
  with_mask,
)

__all__ = [
  'LABEL',
  'check',
  'check_packing',
  'check_sizes',
  'controllers',
  'counts',
  'forwards',
  'loss_room',
  'make_objective',
  'make_step',
  'memories',
  'needs',
  'records',
  'roles',
  'rows_per_prompt',
  'scorers',
  'sources',
  'value_head',
]

LABEL = 'SFT'
# Signals that a scalar head makes.
_HEAD = frozenset({'values', 'values_after'})


def loss_room(name: str) -> ModuleType:
  """The room of a loss: always `supervised`."""
  del name
  return supervised


def records(config: Any) -> tuple[str, ...]:
  """Kinds of records that it trains on."""
  del config
  return ('text', 'messages', 'completion')


def sources(config: Any) -> tuple[tuple[str, ...], str]:
  """(names of `collect` that make its rows, for whom)."""
  kinds = collect.SINGLE + collect.GROUPS + collect.TURNS
  return kinds, f'paradigm "{config.paradigm}"'


def _parts(config: Any, provided: Iterable[str]):
  """(loss, weights, marks or None), each bound."""
  supplied = (
    *provided, *named.scored_by(), *named.inside_update(), 'negative'
  )  # fmt: skip
  loss = bind(supervised, config.loss, supplied=supplied)
  weigh = bind(token_weights, config.weights, supplied=supplied)
  marks = None
  if 'negative' in config:
    marks = bind(token_weights, config.negative, supplied=supplied)
  return loss, weigh, marks


def _wanted(function) -> frozenset[str]:
  """Every array that a loss or weight needs, signals and extras."""
  return arrays.signals_read_by(function) | set(arrays_of(function.func))


def needs(config: Any, provided: Iterable[str]) -> frozenset[str]:
  """Names of the arrays that the parts of a config need.

  Raises:
    ValueError: an array that neither a model nor the source makes.
  """
  provided = set(provided)
  names: frozenset[str] = frozenset()
  loss, weigh, marks = _parts(config, provided)
  for function in (loss, weigh, marks):
    if function is None:
      continue
    wanted = _wanted(function) - {'logps', 'entropy', 'is_top', 'logits'}
    wanted -= _HEAD
    if marks is not None and function is not marks:
      wanted -= {'negative'}  # the marks are made here
    arrays.check(wanted, provided, function.func.__name__)
    names |= wanted
  if marks is not None and 'negative' not in arrays_of(loss.func):
    raise ValueError(
      f'config.negative marks tokens that loss "{config.loss.name}" does not '
      'look at; take config.loss.name="forgetting" or "unlikelihood_negative"'
    )
  return names


def value_head(config: Any) -> bool:
  """Whether the loss reads a scalar head."""
  loss = lookup(supervised, config.loss.name)
  return bool(_HEAD & arrays.signals_read_by(loss))


roles = step.roles


def forwards(
  config: Any, sizes: Any, models: Any
) -> list[tuple[float, str, int, int]]:
  """Passes of a step beside its updates: (times, role, rows, tokens a row)."""
  passes = step.forwards(config, sizes, models)
  if active(config.get('own_inputs', 0.0)):
    passes.append((1.0, 'policy', sizes.rows, sizes.row_tokens))
  if curriculum.reads(config):  # how rows stand before the update
    passes.append((1.0, 'policy', sizes.rows, sizes.row_tokens))
  for role in scorers(config):  # it reads what is not chosen, too
    others = sizes.prompts_per_step * (config.group_size - 1)
    passes.append((1.0, role, others, sizes.row_tokens))
  return passes


def scorers(config: Any) -> tuple[str, ...]:
  """The reward model that chooses among own answers, where one does."""
  if step.from_file(config):
    return ()
  judge = config.collect.get('judge', '')
  return (judge,) if judge else ()


def controllers(config: Any) -> dict[str, Any]:
  """The weights of a curriculum."""
  return curriculum.states(config)


def memories(config: Any, sizes: Any) -> dict[str, Any]:
  """Nothing is kept beside the model."""
  del config, sizes
  return {}


def rows_per_prompt(config: Any) -> int:
  """Rows of one problem or record."""
  if step.from_file(config):
    return 1
  return collect.rows_per_prompt(config.collect.name, config.group_size)


def counts(config: Any, sizes: Any) -> dict[str, float]:
  """What a step on a file shows; sources of rows count their own."""
  if not step.from_file(config):
    return {}
  return {'demonstrations': float(sizes.rows)}


def check(config: Any) -> None:
  """Raises ValueError for parts of a config that cannot work together."""
  _check_curriculum(config)
  if not step.from_file(config):
    collect.check(config, *sources(config))
  elif config.data.packing:
    check_packing(config)


def _check_curriculum(config: Any) -> None:
  """Raises ValueError for weights of rows that a file decides, or that ask for
  what answers earned."""
  if not curriculum.used(config):
    return
  where = f'curriculum.name="{config.curriculum.name}"'
  if step.from_file(config):
    raise ValueError(
      f'{where} draws problems of in-graph tasks; a mixture of files has fixed '
      'weights, data.sources=[{"path": ..., "weight": ...}]'
    )
  curriculum.check(config)
  if 'advantage' in curriculum.reads(config):
    raise ValueError(
      f'{where} goes by advantages, which SFT has none of; nearest valid: '
      '"learnable", or one of configs/rl.py'
    )


def check_sizes(config: Any, sizes: Any) -> None:
  """Raises ValueError for micro-batches that would change the result."""
  parts = [(supervised, config.loss.name)]
  if 'weights' in config:
    parts.append((token_weights, config.weights.name))
  if 'negative' in config:
    parts.append((token_weights, config.negative.name))
  step.refuse_split(sizes, parts)


def check_packing(config: Any, losses: ModuleType = supervised) -> None:
  """Raises ValueError for parts that would mix the examples of a packed row.

  losses  the room of `config.loss`
  """
  for key, room in (('loss', losses), ('weights', token_weights)):
    name = config[key].name if key in config else ''
    if name in getattr(room, 'WHOLE_ROWS', ()):
      raise ValueError(
        f'data.packing: {key} "{name}" judges whole rows, and a packed row '
        'holds several examples'
      )
  if config.reduce.name != 'token_mean':
    raise ValueError(
      f'data.packing: reduce "{config.reduce.name}" averages whole rows, and '
      'a packed row holds several examples; take "token_mean"'
    )


def _own(params: Any, model: ModelConfig, batch: Batch) -> Any:
  """[B, T] what the model itself takes for likeliest at each counted token,
  given the row before it; the row's own tokens elsewhere."""
  found = score(jax.lax.stop_gradient(params), model, batch, logits=True)
  likeliest = jnp.argmax(found.need('logits'), axis=-1)
  counted = (batch.mask > 0) & (jnp.arange(batch.mask.shape[1]) > 0)[None]
  return jnp.where(counted, likeliest, batch.tokens).astype(batch.tokens.dtype)


def make_objective(
  config: Any, models: dict[str, ModelConfig], provided: Iterable[str]
) -> Objective:
  """`config.loss`, times `config.weights`, averaged by `config.reduce`.

  models    {role: ModelConfig}, 'policy' is trained
  provided  names of the arrays that come with the rows
  """
  loss, weigh, marks = _parts(config, provided)
  average = bind(reduce, config.reduce)
  model = models['policy']
  own = {'loss': arrays_of(loss.func), 'weights': arrays_of(weigh.func)}
  read = arrays.signals_read_by(loss) | arrays.signals_read_by(weigh)
  optional = arrays.optional_of(weigh)
  own_inputs = active(config.get('own_inputs', 0.0))

  def evaluate(params, state: TrainState, batch: Batch):
    more: dict[str, Any] = {}
    if 'values_after' in read:
      more['values_after'] = True
    if own_inputs:
      more['mixed'] = _own(params, model, batch), config.own_inputs
    signals = score(
      params, model, batch, entropy=True, logits='logits' in read, **more
    )
    supply = lambda names, extra=(): arrays.inside(
      names, extra, params, state, batch, models
    )
    given = supply([n for n in own['loss'] if n != 'negative' or not marks])
    if marks is not None:
      marked = marks(signals, batch.mask, **supply(arrays_of(marks.func)))
      given['negative'] = jnp.where(marked > 0, 0.0, batch.mask)
    token_loss, metrics = loss(signals, batch.mask, **given)
    weights = weigh(signals, batch.mask, **supply(own['weights'], optional))
    metrics = {
      **metrics,
      'entropy': signals.entropy,
      'mean_token_accuracy': signals.is_top,
      'nll': -signals.logps,
    }
    if config.weights.name != 'uniform':
      metrics['token_weight'] = weights
    total, _ = average(masked.select(token_loss * weights, batch.mask),
                       batch.mask)  # fmt: skip
    return {'loss': total}, with_mask(metrics, batch.mask)

  return Objective(evaluate, count_with(average, 'loss'), {'loss': 1.0})


def make_step(setup: step.Setup) -> step.Steps:
  """The steps of a run."""
  config, models = setup.config, setup.models
  objective = make_objective(config, models, setup.provided)
  if not curriculum.used(config):
    return step.on_rows(setup, objective)
  carried = {curriculum.KEY: curriculum.make_carry(config, models['policy'])}
  draw = curriculum.make_draw(config, setup.task, setup.sizes.prompts_per_step)
  return step.on_rows(setup, objective, carried, draw)
