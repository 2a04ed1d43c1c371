"""What moves of a model, and how: methods on parameters.

`adapters` says which weights get an adapter, and of what kind; `peft` writes
and reads the files that the library of that name has for them.
"""

from collections.abc import Mapping
from typing import Any

from posttrain_jax.core.resolve import resolve
from posttrain_jax.params import adapters

__all__ = ['make_adapter']


def make_adapter(part: Mapping[str, Any] | None) -> adapters.Adapter | None:
  """The adapter of a config's part {name, **hparams}; None of 'none'.

  part  None: of a config that is older than adapters

  Raises:
    ValueError: unknown name or hyperparameter, with the nearest one.
  """
  hparams = dict(part or {'name': 'none'})
  name = hparams.pop('name')
  if name == 'none':
    return None
  return resolve(adapters, name, **hparams)()
