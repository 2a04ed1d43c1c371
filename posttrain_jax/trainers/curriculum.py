"""Problems that are drawn by weights which move as a run goes on.

The parts of a `config.curriculum` are the tasks of a mixture (but for those of
weight 0), or with `problems.count` the problems of that limited set. Its state
stands in `TrainState.control['curriculum']`, so it is saved, resumed, and
mapped over seeds with the run. What a step tells it is the trainer's: of RL
what answers earned (`rl.curriculum`), of SFT how the rows stood before the
update (`make_carry`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import curricula
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Batch, Example, TrainState
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.tasks import base, split
from posttrain_jax.trainers.objective import bind, score
from posttrain_jax.trainers.step import Carry

__all__ = [
  'KEY',
  'check',
  'make_carry',
  'make_draw',
  'make_move',
  'reads',
  'states',
  'stats_of',
  'used',
]

KEY = 'curriculum'


@dataclasses.dataclass(frozen=True)
class _Parts:
  """What a config's curriculum weighs: K parts.

  count  K
  names  of the tasks of a mixture that it draws at all; () for problems
  own    [K] their weights without a curriculum
  place  [K] theirs among all `total` tasks of the mixture
  """

  count: int
  names: tuple[str, ...] = ()
  own: tuple[float, ...] = ()
  place: tuple[int, ...] = ()
  total: int = 0

  def spread(self, moving: Array) -> Array:
    """What is drawn by, from a curriculum's weights [K]: [total], or [K] of
    problems."""
    if not self.names:
      return moving
    blank = jnp.zeros(self.total, jnp.float32)
    return blank.at[jnp.array(self.place)].set(self.chances(moving))

  def chances(self, moving: Array) -> Array:
    """[K] how likely each part is."""
    if self.names:
      moving = moving * jnp.array(self.own, jnp.float32)
    return moving / jnp.sum(moving)


def used(config: Any) -> bool:
  """Whether a run has a curriculum."""
  return KEY in config and config[KEY].name != 'none'


def _mixed(config: Any) -> bool:
  return config.task.name == 'mixture'


def _parts(config: Any) -> _Parts:
  count = config.problems.count
  if isinstance(count, jax.core.Tracer) or count:
    return _Parts(int(count))
  # In the order of names, as `run.tasks` has the tasks too.
  parts = dict(config.task.parts)
  weights = {name: float(part['weight']) for name, part in parts.items()}
  drawn = [name for name, weight in weights.items() if weight > 0]
  return _Parts(
    count=len(drawn),
    names=tuple(drawn),
    own=tuple(weights[name] for name in drawn),
    place=tuple(list(weights).index(name) for name in drawn),
    total=len(weights),
  )


def check(config: Any) -> None:
  """Raises ValueError for a curriculum of problems that have no parts."""
  if not used(config):
    return
  name = config[KEY].name
  where = f'curriculum.name="{name}"'
  limited = isinstance(config.problems.count, jax.core.Tracer)
  limited = limited or bool(config.problems.count)
  if not limited and not _mixed(config):
    raise ValueError(
      f'{where} weighs the tasks of a mixture (task=mixture), or the problems '
      f'of a limited set (problems.count); task.name="{config.task.name}" is '
      'neither'
    )
  if limited and name in curricula.ORDERED:
    raise ValueError(
      f'{where} goes through parts in their order, and the '
      f'problems.count={config.problems.count} problems have none; take a '
      'mixture, or "informative"'
    )
  if config.condition.name != 'none':
    raise ValueError(
      f'{where}: condition.name="{config.condition.name}" changes what a right '
      'answer earns; leave one of them out'
    )


def _bound(config: Any) -> curricula.Curriculum:
  return bind(curricula, config[KEY])()


@dataclasses.dataclass(frozen=True)
class _Start:
  """`init()` of a curriculum, as a controller has it."""

  init: Callable[[], dict[str, Array]]


def states(config: Any) -> dict[str, _Start]:
  """{'curriculum': its `init`} where a run has one."""
  if not used(config):
    return {}
  curriculum, count = _bound(config), _parts(config).count
  return {KEY: _Start(lambda: curriculum.init(count))}


def make_draw(
  config: Any, task: Any, size: int
) -> Callable[[TrainState, Array], tuple[Example, Array]] | None:
  """(state, key) -> `size` problems [B, ...], the part [B] that each is of;
  None without a curriculum.

  task  the mixture, or the `tasks.subset.Subset`
  """
  if not used(config):
    return None
  curriculum, parts = _bound(config), _parts(config)

  def draw(state: TrainState, key: Array):
    weights = parts.spread(curriculum.weights(state.control[KEY]))
    if parts.names:
      examples = split.sample_batch(
        dataclasses.replace(task, weights=weights), key, size,
        heldout=False, fraction=config.heldout_fraction,
      )  # fmt: skip
      return examples, examples.answer['task']
    ids = jnp.arange(size, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
    index = jax.vmap(base.pick, (0, None))(keys, weights)
    examples = jax.vmap(task.problem)(index)
    return examples.replace(prompt_id=ids), index

  return draw


def reads(config: Any) -> tuple[str, ...]:
  """Names of `curricula.Stats` that a run's curriculum asks for."""
  return _bound(config).reads if used(config) else ()


def make_move(
  config: Any,
) -> Callable[..., tuple[dict[str, Array], dict[str, Array]]]:
  """(its state, {name of `Stats`: [..]}, part, steps done) -> (state, metrics).

  curriculum/NAME     chance of each task of a mixture in the step just done
  curriculum/entropy  of those chances, in nats
  curriculum/left     share of parts that may be drawn
  """
  curriculum, parts = _bound(config), _parts(config)
  place = jnp.array(parts.place) if parts.names else jnp.arange(parts.count)

  def move(state, seen: dict[str, Array], part: Array, step: Array):
    chances = parts.chances(curriculum.weights(state))
    logs = jnp.log(jnp.where(chances > 0, chances, 1.0))
    metrics = {
      'curriculum/entropy': -jnp.sum(chances * logs),
      'curriculum/left': jnp.mean((chances > 0).astype(jnp.float32)),
    }
    for index, name in enumerate(parts.names):
      metrics[f'curriculum/{name}'] = chances[index]
    stats = stats_of(seen, part, place)
    return curriculum.update(state, stats, step, config.num_steps), metrics

  return move


def stats_of(
  seen: dict[str, Array], part: Array, place: Array
) -> curricula.Stats:
  """Means over what was drawn of each part.

  seen   {name of `Stats`: [B]}; 'drawn' 1.0 where an entry counts (absent: all
         do)
  part   [B] the part that each is of
  place  [K] the numbers of the parts, as `part` has them
  """
  of = part[:, None] == place[None]  # [B, K]
  counts = seen.get('drawn')
  if counts is not None:
    of = of & (counts > 0)[:, None]
  drawn = jnp.sum(of, axis=0).astype(jnp.float32)

  def mean(name: str) -> Array:
    values = seen.get(name, jnp.zeros(part.shape))[:, None]
    total = jnp.sum(jnp.where(of, values, 0.0), axis=0)
    return total / jnp.maximum(drawn, 1.0)

  return curricula.Stats(drawn, *map(mean, ('reward', 'advantage', 'solved')))


def make_carry(config: Any, model: ModelConfig) -> Carry:
  """What SFT remembers of its rows, which have `extras['part']` [R].

  reward  of a row: the mean log-probability of its tokens
  solved  1.0 where each of its tokens is the likeliest one after those before
          it: the model would write the row by itself

  Both are of the model before the step's update, in a forward pass of its own
  where the curriculum reads them; rows without a counted token are not drawn.
  """
  curriculum, move = _bound(config), make_move(config)

  def told(state: TrainState, batch: Batch) -> dict[str, Array]:
    live = jnp.any(batch.mask > 0, axis=1).astype(jnp.float32)
    if not curriculum.reads:
      return {'drawn': live}
    found = score(state.params, model, batch, entropy=True)
    top = jnp.where(batch.mask > 0, found.need('is_top'), 1.0)
    return {
      'drawn': live,
      'reward': masked.mean(found.logps, batch.mask, axis=1),
      'solved': jnp.all(top > 0, axis=1).astype(jnp.float32),
    }

  def enter(held: dict[str, Array], batch: Batch, state: TrainState):
    seen = jax.lax.stop_gradient(told(state, batch))
    part = batch.extras['part']
    after, metrics = move(held, seen, part, state.step + 1)
    return batch, after, metrics

  return Carry(states(config)[KEY].init, enter)
