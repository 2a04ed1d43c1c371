"""What a step of RL tells the curriculum of its problems."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from posttrain_jax.core import masked, sharding
from posttrain_jax.core.types import Array, Batch, Example, TrainState
from posttrain_jax.trainers import curriculum
from posttrain_jax.trainers.rl import guests
from posttrain_jax.trainers.rl.experience import Experience

__all__ = ['make_follow', 'make_problems', 'right']


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


def _seen(lived: Experience, batch: Batch) -> dict[str, Array]:
  """[B] what each problem showed, by names of `curricula.Stats`.

  batch  the group's own rows, with advantages
  """
  of_row = masked.mean(jnp.abs(batch.need('advantages')), batch.mask, axis=1)
  assert lived.right is not None
  return {
    'reward': jnp.mean(lived.rewards, axis=1),
    'advantage': jnp.mean(of_row.reshape(lived.rewards.shape), axis=1),
    'solved': jnp.mean(lived.right, axis=1),
  }


def make_follow(
  config: Any,
) -> Callable[..., tuple[dict[str, Array], dict[str, Array]]] | None:
  """(its state, lived, batch, steps done) -> (state, metrics) as
  `curriculum.make_move`; None without a curriculum."""
  if not curriculum.used(config):
    return None
  move = curriculum.make_move(config)

  def follow(state, lived: Experience, batch: Batch, step: Array):
    assert lived.part is not None
    return move(state, _seen(lived, batch), lived.part, step)

  return follow
