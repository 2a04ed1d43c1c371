"""Rewards of answers that have parts of their own: sets, calls, actions."""

from collections.abc import Sequence

from posttrain_jax.core.types import Array
from posttrain_jax.rewards.arrays.common import Facts, Rewards, namespace

__all__ = ['f_beta', 'hierarchical', 'matched_calls']

LEVELS = ('fine', 'coarse')


def f_beta(
  parts: dict[str, Array],
  facts: Facts,
  *,
  matched: str = 'matched',
  said: str = 'said',
  wanted: str = 'wanted',
  by: str = 'format',
  beta: float = 3.0,
) -> Rewards:
  """How well a set of things that are named meets the set that is right.

  F = (1 + beta^2) P R / (beta^2 P + R) = (1 + beta^2) matched / (beta^2 wanted
  + said), with P = matched / said and R = matched / wanted

  0 where nothing is named, or where the gate is shut: an answer that cannot be
  read, or that names what the problem does not have.

  Args:
    matched: the entry with the number of right things that are named.
    said: with the number of things that are named.
    wanted: with the number of right things.
    by: the gate, open above 0.5; '': the first verdict.
    beta: above 1 it counts more to find all than to name no others.

  Reference: Ma et al. (2025), SoRFT, https://arxiv.org/abs/2502.20127: beta 3
  for files, functions and lines
  """
  del facts
  found, named, right, gate = (parts[k] for k in (matched, said, wanted, by))
  xp = namespace(found)
  square = beta * beta
  below = square * right + named
  score = (1.0 + square) * found / xp.where(below > 0, below, 1.0)
  score = xp.where((gate > 0.5) & (below > 0), score, 0.0)
  silent = xp.isnan(found) | xp.isnan(named) | xp.isnan(right) | xp.isnan(gate)
  return xp.where(silent, xp.nan, score), {}


def matched_calls(
  parts: dict[str, Array],
  facts: Facts,
  *,
  names: str = 'names',
  points: str = 'points',
  most: str = 'most',
  by: str = 'format',
  scale: float = 3.0,
  level: str = 'fine',
) -> Rewards:
  """ToolRL: how well calls of tools meet those that are wanted.

  reward = 2 scale (names + points) / (1 + most) - scale

  which is `scale` for the very calls and -scale where none is right or none
  can be read. Where no call is wanted it is 0, and one too many costs nothing:
  so have the authors.

  Args:
    names: the entry with the overlap of the names, |both| / |either| of
      multisets.
    points: with what each wanted call earns in the best call of its name that
      no other has taken: the overlap of the parameters' names, and 1 for every
      value that is equal.
    most: with what `points` can be: 1 a wanted call, and 1 a parameter.
    by: the gate, open above 0.5: whether calls can be read; '': the first
      verdict.
    scale: of the reward; 1 and 3 are in the paper.
    level: 'fine', or 'coarse': all or nothing.

  Reference: Qian et al. (2025), ToolRL, https://arxiv.org/abs/2504.13958
  """
  del facts
  overlap, earned, limit, gate = (parts[k] for k in (names, points, most, by))
  xp = namespace(earned)
  share = (overlap + earned) / (1.0 + limit)
  if level == 'coarse':
    share = xp.where(share > 1.0 - 1e-6, 1.0, 0.0)
  share = xp.where(gate > 0.5, share, 0.0)
  reward = xp.where(limit > 0, 2.0 * scale * share - scale, 0.0)
  silent = xp.isnan(overlap) | xp.isnan(earned) | xp.isnan(limit)
  return xp.where(silent | xp.isnan(gate), xp.nan, reward), {}


def hierarchical(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: Sequence[str] = (),
  values: Sequence[float] = (),
  gates: int = 1,
  least: float = 0.75,
) -> Rewards:
  """Parts of an answer that count only where what is above them is right.

  reward = sum of values[i] of[i], for those entries whose gates are open

  The first `gates` entries are gates: each is open where it and all before it
  are above 0.5, and shuts all that follows. The others stand side by side, and
  each counts where it is at least `least`.

  Args:
    of: the entries, the gates first.
    values: what each is worth; one that is hard to earn may be worth much.
    gates: how many of them are gates.
    least: the smallest likeness that counts.

  Reference: Zhang et al. (2025), Shop-R1, https://arxiv.org/abs/2507.17842: 0.5
  for the format, 0.3 for the right type of action, then 0.1 or 0.2 for a part
  that is there and up to 1000 for a text that is alike; likeness counts from
  0.75 on
  """
  del facts
  found = [parts[name] for name in of]
  xp = namespace(found[0])
  total = xp.zeros_like(found[0])
  is_open = xp.ones_like(found[0]) > 0
  for index, (part, value) in enumerate(zip(found, values)):
    if index < gates:
      is_open = is_open & ~(
        part <= 0.5
      )  # one that does not apply is told below
      counted = part
    else:
      counted = xp.where(part < least, 0.0, part)
    total = total + xp.where(is_open, value * counted, 0.0)
  return total, {}
