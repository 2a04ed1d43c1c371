"""Which stages learn the same, and which run the same program."""

import json
from collections.abc import Mapping
from typing import Any

from posttrain_jax import trainers
from posttrain_jax.run import auto, later
from posttrain_jax.run import config as config_lib

__all__ = ['computes', 'learns']

# Config keys that change nothing of what is learnt.
_ASIDE = ('checkpoint.', 'eval.', 'log.', 'mesh.', 'seed', 'steps_per_call')


def learns(config: Any) -> dict[str, Any]:
  """The keys of a config that what is learnt depends on."""
  flat = config_lib.flatten(json.loads(json.dumps(config.to_dict())))
  if flat.get('on_nonfinite') == 'stop':  # a stage that is there never stopped
    del flat['on_nonfinite']
  if flat.get('adapter.name') == 'none':  # nor had it adapters
    del flat['adapter.name']
  if flat.get('optimizer.l2_to_start') == 0.0:  # nor a pull to its start
    del flat['optimizer.l2_to_start']
  if flat.get('own_inputs') == 0.0:  # nor inputs of its own
    del flat['own_inputs']
  if flat.get('partner.place') == 'none':  # nor another model beside it
    flat = {k: v for k, v in flat.items() if not k.startswith('partner.')}
  if flat.get('meta.rate') == 0.0:  # nor a gradient taken ahead
    flat = {k: v for k, v in flat.items() if not k.startswith('meta.')}
  off: dict[str, Any] = {'strength': [], 'flip_fraction': 0.0}
  for part, names in later.LATER.items():  # nor what parts were given since
    own = names.get(flat.get(f'{part}.name'), {})
    off |= {f'{part}.{key}': value for key, value in own.items()}
  flat = {k: v for k, v in flat.items() if k not in off or v != off[k]}
  collects = bool(trainers.kind(config.paradigm).sources(config)[0])
  if collects and flat.get('curriculum.name') == 'none':
    del flat['curriculum.name']  # nor weights of its tasks that move
  if flat.get(config_lib.WARMUP) == auto.AUTO:  # it was a number
    flat[config_lib.WARMUP] = auto.WARMUPS.get(config.paradigm, 0)
  return {k: v for k, v in flat.items() if not k.startswith(_ASIDE)}


def computes(config: Any) -> dict[str, Any]:
  """The keys of a config that a step's program depends on."""
  keys = learns(config)
  if not _sees_the_end(config, keys):
    del keys['num_steps']
  return keys


def _sees_the_end(config: Any, keys: Mapping[str, Any]) -> bool:
  """Whether a step depends on how many there will be."""
  moves = any(
    name != 'none'
    for key, name in keys.items()
    if key.endswith('controller.name') or key == 'curriculum.name'
  )
  how = config.optimizer
  gives_way = how.warmup_updates == auto.AUTO and (
    keys[config_lib.WARMUP] > config.num_steps
  )
  rises = how.warmup_ratio > 0 or gives_way
  # Some rewards tighten as the run goes on.
  return (
    how.schedule != 'constant' or moves or rises or bool(config.get('rewards'))
  )
