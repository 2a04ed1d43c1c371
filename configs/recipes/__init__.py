"""Published methods as rows: which loss, which weights, which average.

A row names the parts of a method and its paper (`reference`); whatever it does
not name keeps the function's own default, and hyperparameters are the paper's.
`configs/PARADIGM.py:recipe=NAME` takes a row by its name. Some rows set other
keys too: where the rows of a step come from, frozen models that the method
needs, passes over a batch.
"""

from typing import Any

import ml_collections

from configs.recipes.distill import DISTILL
from configs.recipes.preference import PREFERENCE
from configs.recipes.rl import RL
from configs.recipes.sft import SFT
from posttrain_jax.core.resolve import nearest

__all__ = ['DISTILL', 'PREFERENCE', 'RL', 'SFT', 'apply', 'rows']

_ROWS = {'sft': SFT, 'preference': PREFERENCE, 'rl': RL, 'distill': DISTILL}


def rows(paradigm: str) -> dict[str, dict[str, Any]]:
  """{recipe name: row} of 'sft', 'preference', 'rl' or 'distill'."""
  return _ROWS[paradigm]


def apply(config: ml_collections.ConfigDict, name: str) -> None:
  """Writes the row called `name` into a config of its paradigm.

  Parts replace the config's parts, plain values its values; of `ref`, `task`
  and `optimizer` only what the row names is replaced.

  Raises:
    ValueError: no such recipe, with the nearest one, or with the config file
      that has it.
  """
  table = rows(config.paradigm)
  if name not in table:
    for paradigm, other in _ROWS.items():
      if name in other:
        raise ValueError(
          f'recipe "{name}" is in configs/{paradigm}.py, not in '
          f'configs/{config.paradigm}.py'
        )
    kind = config.paradigm if len(config.paradigm) > 3 else (
      config.paradigm.upper()
    )  # fmt: skip
    raise ValueError(f'unknown {kind} recipe "{name}".{nearest(name, table)}')
  for key, entry in table[name].items():
    if key == 'reference':
      continue
    if key in ('ref', 'task', 'optimizer'):
      config[key].update(entry)
    elif isinstance(entry, dict):
      config[key] = ml_collections.ConfigDict(entry)
    else:
      config[key] = entry
