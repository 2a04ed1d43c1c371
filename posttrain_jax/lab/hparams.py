"""Numbers that are inputs of a stage's program: one for all seeds, or each."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array

__all__ = ['Hparam', 'of_seed', 'plain', 'stacked']

# Of a config: a number, or one for each seed.
Hparam = float | Sequence[float]


def plain(
  hparams: Mapping[str, Hparam] | None, seeds: int
) -> dict[str, float | tuple[float, ...]]:
  """The same, with a tuple where there is a number a seed.

  Raises:
    ValueError: more or fewer of them than there are seeds.
  """
  found: dict[str, float | tuple[float, ...]] = {}
  for key, value in (hparams or {}).items():
    found[key] = value
    if np.ndim(value):
      found[key] = tuple(float(x) for x in value)
      if len(found[key]) != seeds:
        raise ValueError(
          f'hparams["{key}"] has {len(found[key])} values for {seeds} seeds'
        )
  return found


def of_seed(hparams: Mapping[str, Hparam], index: int) -> dict[str, float]:
  """The numbers of one seed."""
  return {
    key: value[index] if np.ndim(value) else value
    for key, value in hparams.items()
  }


def stacked(hparams: Mapping[str, Hparam], seeds: int) -> list[Array]:
  """[S] of each, in the order of their names."""
  return [
    jnp.broadcast_to(jnp.asarray(hparams[key], jnp.float32), (seeds,))
    for key in sorted(hparams)
  ]
