"""Rewards of answers from arrays: of verdicts and lengths, in-graph or not.

  rewards, metrics = reward(parts, facts, **hparams)

  parts    {name: [B, G]} what was found of each answer so far: the parts of a
           task's verifier, and the entries of `config.rewards` before this one;
           nan where one does not apply
  facts    `Facts` of the answers
  rewards  [B, G]; nan: it does not apply
  metrics  {name: scalar}

Nothing here reads text; rewards that do stand in `texts`. `as_texts` gives
one of these TRL's signature.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array

__all__ = ['cosine_length', 'length', 'soft_overlong']

# Functions that compare with another entry: the hyperparameter that names it.
READS = {'cosine_length': 'of'}


class Facts(NamedTuple):
  """What is known of answers.

  lengths   [B, G] tokens, with the stop token
  finished  [B, G] 1.0 where a stop token ended it
  limit     tokens that an answer may have
  """

  lengths: Array
  finished: Array
  limit: int


Rewards = tuple[Array, dict[str, Array]]


def namespace(array: Any) -> ModuleType:
  """`numpy` for its own arrays, which need no compiling; else `jax.numpy`."""
  return np if isinstance(array, np.ndarray) else jnp


def length(
  parts: dict[str, Array], facts: Facts, *, low: int = 0, high: int = 0
) -> Rewards:
  """0 for low..high tokens, and below it their share of the limit too many or
  too few.

  With low = high it is the distance to a length, as in Aggarwal & Welleck
  (2025), https://arxiv.org/abs/2503.04697.

  Args:
    low: fewest tokens.
    high: most tokens; 0: `low`.
  """
  del parts
  xp = namespace(facts.lengths)
  beyond = xp.maximum(facts.lengths - max(high, low), 0)
  return -(beyond + xp.maximum(low - facts.lengths, 0)) / facts.limit, {}


def soft_overlong(
  parts: dict[str, Array],
  facts: Facts,
  *,
  max_length: int = 0,
  cache: int = 0,
) -> Rewards:
  """0 up to `max_length` - `cache` tokens, then falling to -1 at `max_length`.

  Args:
    max_length: tokens; 0: what an answer may have.
    cache: tokens in which it falls; 0: a fifth of `max_length`.

  Reference: Yu et al. (2025), DAPO, https://arxiv.org/abs/2503.14476, eq. 13

  Raises:
    ValueError: `cache` is more than `max_length`.
  """
  del parts
  most = max_length or facts.limit
  cache = cache or max(most // 5, 1)
  if cache > most:
    raise ValueError(
      f'rewards: "soft_overlong" falls over cache={cache} tokens, more than '
      f'the {most} of its max_length; nearest valid: {most}'
    )
  xp = namespace(facts.lengths)
  return xp.clip((most - cache - facts.lengths) / cache, -1.0, 0.0), {}


def cosine_length(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: str = '',
  right_short: float = 1.0,
  right_long: float = 0.5,
  wrong_short: float = -1.0,
  wrong_long: float = -0.5,
  exceeded: float = -1.0,
) -> Rewards:
  """Between a value for the shortest answer and one for the longest, by half a
  cosine wave; other values where the answer is right.

  Args:
    of: the entry that says what is right (above 0.5); '': the first verdict.
    right_short: for a right answer of no length.
    right_long: for a right answer as long as may be.
    wrong_short: for a wrong answer of no length.
    wrong_long: for a wrong answer as long as may be.
    exceeded: for an answer that was cut off.

  Reference: Yeo et al. (2025), https://arxiv.org/abs/2502.03373, Appendix C.1;
  the values are TRL's
  """
  verdict = parts[of]
  xp = namespace(verdict)
  share = xp.minimum(facts.lengths / facts.limit, 1.0)
  wave = 0.5 * (1.0 + xp.cos(xp.pi * share))
  right = right_long + (right_short - right_long) * wave
  wrong = wrong_long + (wrong_short - wrong_long) * wave
  scaled = xp.where(verdict > 0.5, right, wrong)
  scaled = xp.where(facts.finished > 0, scaled, exceeded)
  return xp.where(xp.isnan(verdict), xp.nan, scaled), {}


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
    named = hparams.get('of')
    parts = {}
    if named is not None:
      parts[named] = row([
        np.nan if x is None else float(x) for x in columns[named]
      ])  # fmt: skip
    values, _ = function(parts, facts, **hparams)
    return [None if np.isnan(x) else float(x) for x in np.asarray(values)[0]]

  return reward
