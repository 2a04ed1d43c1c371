"""What a step does for its own answers, and draws aside from their group.

before  hints of demonstrations, a temperature that a controller sets
after   second answers (`refined`), demonstrations for the buffer of unsolved
        problems (`hard_buffer`), those of other problems that a controller
        looks at (`imitation.make_valid`)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example, Rollout, TrainState
from posttrain_jax.rollout import guides
from posttrain_jax.trainers.rl import (
  guests,
  hard_buffer,
  hints,
  imitation,
  refined,
  steering,
)

__all__ = ['NOTHING', 'Aside', 'Drawn', 'make', 'make_generate']


class Drawn(NamedTuple):
  """What was drawn aside.

  guests  {kind: (Rollout [B, k, C], rewards [B, k])}, beside the group
  given   fields of `Experience`
  spent   {name: [] float32} to add to what the step took
  seen    {metric: [] float32}
  """

  guests: dict[str, tuple[Rollout, Array]]
  given: dict[str, Any]
  spent: dict[str, Array]
  seen: dict[str, Array]


class Aside(NamedTuple):
  """Two functions of a step.

  before  (state, examples, key) -> keyword arguments of the group's `generate`
  after   (state, examples, samples, rewards, judge, key) -> `Drawn`
  """

  before: Callable[[TrainState, Example, Array], dict[str, Any]]
  after: Callable[..., Drawn]


NOTHING = Aside(lambda *_: {}, lambda *_: Drawn({}, {}, {}, {}))


def make_generate(config: Any, make_rollout: Callable) -> Callable:
  """`rl.make_rollout` of the run, for the group's own answers."""
  if hints.used(config):
    return make_rollout(guide=guides.forced_prefix())
  return make_rollout()


def make(
  config: Any,
  task: Any,
  make_rollout: Callable,
  sample_examples: Callable[[Array, int], Example],
  width: int,
  pad_id: int,
) -> Aside:
  """What the config asks for; without any of it a step is as it was.

  sample_examples  (key, count) -> Example [count, ...]
  width            tokens of an answer
  """
  moving = steering.make_controllers(config)
  hint = hints.make_hints(config, task, width, pad_id)
  valid = imitation.make_valid(config, task, sample_examples, width, pad_id)
  refine = None
  if refined.used(config):
    again = make_rollout(beside=1)
    refine = refined.make_refine(config, task, again, width, pad_id)

  def before(state: TrainState, examples: Example, key: Array):
    given: dict[str, Any] = {}
    if hints.used(config):
      chance = moving['hints'].value(state.control['hints'])
      given['guide_state'] = hint(examples, chance, jax.random.fold_in(key, 3))
    if 'temperature' in moving:
      given['temperature'] = moving['temperature'].value(
        state.control['temperature']
      )
    return given

  def after(
    state: TrainState,
    examples: Example,
    samples: Rollout,
    rewards: Array,
    judge: Callable,
    key: Array,
  ) -> Drawn:
    out = Drawn({}, {}, {}, {})
    if hints.used(config):
      out.seen.update(hints.seen(samples))
      shown = out.seen['hints/frac_problems'] * samples.mask.shape[0]
      out.spent['num_demonstrations'] = shown
    if refine is not None:
      again = refine(
        state, examples, samples, rewards, judge, jax.random.fold_in(key, 4)
      )
      out.guests['expert'] = again.guests, again.rewards
      out.spent.update(again.spent)
      out.seen.update(again.seen)
    if hard_buffer.used(config):
      out.given['hard'] = guests.demonstrations(
        task, examples, jax.random.fold_in(key, 5), 1, width, pad_id
      )
    if valid is not None:
      out.given['valid'] = valid(jax.random.fold_in(key, 6))
      out.spent['num_demonstrations'] = jnp.float32(config.valid_per_step)
    return out

  return Aside(before, after)
