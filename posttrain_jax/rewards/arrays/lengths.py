"""Rewards of lengths, alone or beside a verdict."""

from posttrain_jax.core.types import Array
from posttrain_jax.rewards.arrays.common import Facts, Rewards, namespace

__all__ = ['cosine_length', 'length', 'relative_length', 'soft_overlong']


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


def relative_length(
  parts: dict[str, Array], facts: Facts, *, of: str = ''
) -> Rewards:
  """Shorter than the other answers to the problem, where it is right.

  share = 1/2 - (length - shortest) / (longest - shortest)
  reward = share if right else min(0, share)

  The shortest and the longest are of the group, right or wrong; 0 where all
  answers are equally long. A wrong answer gains nothing by being short.

  Args:
    of: the entry that says what is right (above 0.5); '': the first verdict.

  References: Kimi Team (2025), https://arxiv.org/abs/2501.12599, section 2.3.3;
  Yoshihara et al. (2025), https://arxiv.org/abs/2507.08267, whose code takes
  the shortest and the longest of the whole batch
  """
  verdict = parts[of]
  xp = namespace(verdict)
  shortest = xp.min(facts.lengths, axis=-1, keepdims=True)
  span = xp.max(facts.lengths, axis=-1, keepdims=True) - shortest
  share = 0.5 - (facts.lengths - shortest) / xp.where(span > 0, span, 1.0)
  earned = xp.where(verdict > 0.5, share, xp.minimum(share, 0.0))
  earned = xp.where(span > 0, earned, 0.0)
  return xp.where(xp.isnan(verdict), xp.nan, earned), {}
