"""The warmup that a config file has by default, in a run that is shorter."""

import math
from typing import Any

from posttrain_jax.run import config as config_lib

__all__ = ['fitted']

KEY = 'optimizer.warmup_updates'
SHARE = 0.1  # of all updates, in a run that is shorter than the default


def fitted(config: Any, num_updates: int) -> tuple[Any, str]:
  """(the config with a warmup that the run has room for, what to tell).

  Only the default of the paradigm's config file gives way. A number of one's
  own that is too large is refused where it is read (`optim.warmup_of`).
  """
  given = config.optimizer.warmup_updates
  if config.optimizer.warmup_ratio > 0 or given <= num_updates:
    return config, ''
  plain = config_lib.shipped(config.paradigm)
  if plain is None or given != plain.optimizer.warmup_updates:
    return config, ''
  taken = math.ceil(SHARE * num_updates)
  told = (
    f'{KEY}={given}, the default, is more than the {num_updates:,} updates of '
    f'this run: {taken} is taken, a tenth'
  )
  return config_lib.with_values(config, {KEY: taken}), told
