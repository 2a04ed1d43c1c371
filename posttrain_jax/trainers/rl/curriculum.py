"""Problems that are drawn by weights which move as a run goes on.

The parts of a `config.curriculum` are the tasks of a mixture (but for those of
weight 0), or with `problems.count` the problems of that limited set. Its state
stands in `TrainState.control['curriculum']`, so it is saved, resumed, and
mapped over seeds with the run.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import curricula
from posttrain_jax.core import masked, sharding
from posttrain_jax.core.types import Array, Batch, Example, TrainState
from posttrain_jax.tasks import base, split
from posttrain_jax.trainers.objective import bind
from posttrain_jax.trainers.rl import guests
from posttrain_jax.trainers.rl.experience import Experience

__all__ = ['KEY', 'check', 'make_draw', 'make_follow', 'make_problems',
           'right', 'states', 'used']  # fmt: skip

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
  return config[KEY].name != 'none'


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


def make_problems(
  sample_examples: Callable[[Array], Example],
  draw: Callable[..., tuple[Example, Array]] | None,
) -> Callable[..., tuple[Example, dict[str, Any]]]:
  """(state, key) -> problems, and what a curriculum says of them."""

  def problems(state: TrainState, key: Array):
    if draw is None:
      return sharding.rows(sample_examples(key)), {}
    examples, part = sharding.rows(draw(state, key))
    return examples, {'part': part}

  return problems


def right(components: dict[str, Array]) -> Array:
  """[B, G] 1.0 where the verifier's own reward says that an answer is right."""
  found = components.get('verified', components['reward'])
  return (found > guests.RIGHT).astype(jnp.float32)


def _stats(lived: Experience, batch: Batch, place: Array) -> curricula.Stats:
  """What a step found out about each part.

  batch  the group's own rows, with advantages
  place  [K] the numbers of the parts, as `Experience.part` has them
  """
  of_row = masked.mean(jnp.abs(batch.need('advantages')), batch.mask, axis=1)
  part, found = lived.part, lived.right
  assert part is not None and found is not None
  part = part[:, None] == place[None]  # [B, K]
  drawn = jnp.sum(part, axis=0).astype(jnp.float32)

  def mean(values: Array) -> Array:
    """[K] of numbers [B, G]."""
    of_problem = jnp.mean(values, axis=1)[:, None]
    total = jnp.sum(jnp.where(part, of_problem, 0.0), axis=0)
    return total / jnp.maximum(drawn, 1.0)

  return curricula.Stats(
    drawn=drawn,
    reward=mean(lived.rewards),
    advantage=mean(of_row.reshape(lived.rewards.shape)),
    solved=mean(found),
  )


def make_follow(
  config: Any,
) -> Callable[..., tuple[dict[str, Array], dict[str, Array]]] | None:
  """(its state, lived, batch, steps done) -> (state, metrics); None without a
  curriculum.

  curriculum/NAME     chance of each task of a mixture in the step just done
  curriculum/entropy  of those chances, in nats
  curriculum/left     share of parts that may be drawn
  """
  if not used(config):
    return None
  curriculum, parts = _bound(config), _parts(config)

  place = jnp.array(parts.place) if parts.names else jnp.arange(parts.count)

  def follow(state, lived: Experience, batch: Batch, step: Array):
    chances = parts.chances(curriculum.weights(state))
    logs = jnp.log(jnp.where(chances > 0, chances, 1.0))
    metrics = {
      'curriculum/entropy': -jnp.sum(chances * logs),
      'curriculum/left': jnp.mean((chances > 0).astype(jnp.float32)),
    }
    for index, name in enumerate(parts.names):
      metrics[f'curriculum/{name}'] = chances[index]
    stats = _stats(lived, batch, place)
    return curriculum.update(state, stats, step, config.num_steps), metrics

  return follow
