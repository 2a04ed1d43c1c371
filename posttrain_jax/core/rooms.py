"""Every room of methods, and the config keys that name a function of it.

The one list: overrides, the page of objectives and the tests of the rooms'
protocol read it. A method is found by its name in the room's `__all__`.
"""

import importlib
from types import ModuleType
from typing import NamedTuple

__all__ = ['PURE', 'ROOMS', 'Room', 'load', 'of_key']


class Room(NamedTuple):
  """A module below the package.

  keys  config parts whose `name` is a function of it; `loss` belongs to several
        rooms, and the trainer kind says to which (`trainers`)
  pure  arrays -> arrays: it imports nothing but jax and `core`
  """

  keys: tuple[str, ...] = ()
  pure: bool = True


ROOMS = {
  'losses.supervised': Room(('sft_loss',)),
  'losses.policy_gradient': Room(('expert_loss',)),
  'losses.preference': Room(),
  'losses.reward_model': Room(),
  'losses.distillation': Room(),
  'losses.flow': Room(),
  'losses.contrastive': Room(('contrastive',)),
  'losses.value': Room(('value_loss',)),
  'losses.regularizers': Room(('kl',)),
  'losses.reduce': Room(('reduce',)),
  'advantages': Room(('advantage', 'expert_advantage')),
  'token_weights': Room(('weights', 'sft_weights', 'negative')),
  'rewards.arrays': Room(),
  'rewards.tokens': Room(('token_rewards',), pure=False),
  'collect': Room(('collect',), pure=False),
  'rollout.decoders': Room(('decoder',)),
  'controllers': Room(('*_controller',)),
  'curricula': Room(('curriculum',)),
}
PURE = tuple(name for name, room in ROOMS.items() if room.pure)


def of_key(key: str) -> str:
  """The room of a config part's key; '' for one that names no function, and
  for 'loss'."""
  if key.endswith('_controller'):
    key = '*_controller'
  return next((name for name, room in ROOMS.items() if key in room.keys), '')


def load(name: str) -> ModuleType:
  """The module of a room."""
  return importlib.import_module(f'posttrain_jax.{name}')
