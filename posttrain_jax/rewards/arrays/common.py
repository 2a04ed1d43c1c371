"""What rewards from arrays are given, and what they share."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array

__all__ = ['Facts', 'Rewards', 'as_texts', 'namespace']


class Facts(NamedTuple):
  """What is known of answers.

  lengths   [B, G] tokens, with the stop token
  finished  [B, G] 1.0 where a stop token ended it
  limit     tokens that an answer may have
  done      share of the run's steps that are done, 0 to 1
  """

  lengths: Array
  finished: Array
  limit: int
  done: Array | float = 0.0


Rewards = tuple[Array, dict[str, Array]]


def namespace(array: Any) -> ModuleType:
  """`numpy` for its own arrays, which need no compiling; else `jax.numpy`."""
  return np if isinstance(array, np.ndarray) else jnp


# Hyperparameters that name entries, one or several each.
NAMES = (
  'of',
  'by',
  'abstained',
  'matched',
  'said',
  'wanted',
  'names',
  'points',
  'most',
)


def _read_by(hparams: Mapping[str, Any]) -> list[str]:
  """The entries that hyperparameters name."""
  found: list[str] = []
  for key in NAMES:
    value = hparams.get(key, ())
    found += [value] if isinstance(value, str) else value
  return found


def as_texts(
  function: Callable[..., Rewards], **hparams: Any
) -> Callable[..., list[float | None]]:
  """A reward of this room with TRL's signature.

  What it reads of `parts` are columns of that name; None there: it does not
  apply. Beside the completions' ids it takes `max_completion_length`, and
  `finished`, a list of bools (absent: all are).
  """

  def reward(
    prompts: list,
    completions: list,
    completion_ids: list,
    max_completion_length: int,
    finished: list | None = None,
    **columns: Any,
  ) -> list[float | None]:
    del prompts, completions
    row = lambda values: np.array([values], np.float32)
    lengths = row([len(ids) for ids in completion_ids])
    ended = np.ones_like(lengths) if finished is None else row(finished)
    facts = Facts(lengths, ended, max_completion_length)
    parts = {
      name: row([np.nan if x is None else float(x) for x in columns[name]])
      for name in _read_by(hparams)
    }
    values, _ = function(parts, facts, **hparams)
    return [None if np.isnan(x) else float(x) for x in np.asarray(values)[0]]

  return reward
