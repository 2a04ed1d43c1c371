"""Numbers that controllers set as a run goes on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import controllers
from posttrain_jax.core.types import Array, TrainState
from posttrain_jax.rollout import decoders
from posttrain_jax.rollout.guide import Guide
from posttrain_jax.trainers.objective import bind

__all__ = [
  'coefficient',
  'gradients_read',
  'make_controllers',
  'make_view',
  'moved',
  'steered',
  'tossed',
]

# What each controller sets.
STEERS = (
  'kl', 'entropy', 'sft', 'explore', 'prefix', 'temperature', 'hints',
)  # fmt: skip
# The coin of a step that is either imitation or RL.
COIN = 'coin'


def steered(config: Any, what: str) -> bool:
  """Whether a controller sets the coefficient (or another number) `what`."""
  if what == 'prefix':
    return config.prefix.per_prompt > 0
  if what == 'hints':
    return config.hints.chunks > 0
  return config[f'{what}_controller'].name != 'none'


def tosses(config: Any) -> bool:
  """Whether a step is imitation or RL by a coin."""
  return config.sft_loss.mix == 'coin'


def make_controllers(config: Any) -> dict[str, controllers.Controller]:
  """{what: Controller} of those that a config names, and of the coin."""
  made = {
    what: bind(controllers, config[f'{what}_controller'])()
    for what in STEERS
    if steered(config, what)
  }
  if tosses(config):
    made[COIN] = controllers.fixed()
  return made


def gradients_read(config: Any) -> frozenset[str]:
  """Metrics of gradients that some controller reads."""
  read = {x for c in make_controllers(config).values() for x in c.reads}
  return frozenset(x for x in read if x.startswith('grad_'))


def coefficient(config: Any, what: str, fixed: float) -> Callable:
  """(TrainState) -> the coefficient of a term, `fixed` or a controller's."""
  controller = make_controllers(config).get(what)
  if controller is None:
    return lambda state: fixed
  return lambda state: controller.value(state.control[what])


def make_view(
  config: Any, guide: Guide | None = None
) -> Callable[[TrainState], Any]:
  """(state) -> how the learner scores this step's samples, `decoders.view`."""
  controller = make_controllers(config).get('temperature')
  if controller is None:
    fixed = decoders.view(config.decoder, guide)
    return lambda state: fixed

  def view(state: TrainState):
    at = controller.value(state.control['temperature'])
    return decoders.view({**config.decoder, 'temperature': at}, guide)

  return view


def tossed(config: Any, state: TrainState, key: Array) -> TrainState:
  """The state with this step's coin: 1.0, imitation, with the share's chance.

  key  of the step and of the run's seed
  """
  if not tosses(config):
    return state
  chance = coefficient(config, 'sft', config.sft_loss.coef)(state)
  drawn = jax.random.uniform(jax.random.fold_in(key, 1)) < chance
  coin = {'value': drawn.astype(jnp.float32)}
  return state.replace(control={**state.control, COIN: coin})


def moved(
  config: Any,
  moving: dict[str, controllers.Controller],
  state: TrainState,
  metrics: dict[str, Array],
) -> tuple[dict[str, Any], dict[str, Array]]:
  """What is remembered after a step, and the values that it had.

  state  after the update, with what was remembered before it
  """
  control, values = dict(state.control), {}
  for what, controller in moving.items():
    values[f'control/{what}'] = controller.value(state.control[what])
    if what != COIN:  # the next step tosses its own
      control[what], _ = controller.update(
        state.control[what], metrics, state.step, config.num_steps
      )
  return control, values
