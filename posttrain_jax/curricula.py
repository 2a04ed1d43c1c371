"""Weights of the parts of a mixture, which move as a run goes on.

Every function here makes a curriculum and is called the same way:

  curriculum = make(**hparams)
  state = curriculum.init(K)
  weights = curriculum.weights(state)
  state = curriculum.update(state, stats, step, num_steps)

  K          parts: the tasks of a mixture, or the problems of a limited set
  state      dict of arrays, saved with the run; `weights` reads it
  weights    [K] float32, none negative, at least one positive: how much more
             or less of each part is drawn than the mixture says
  stats      `Stats` of the step just done; `curriculum.reads` names those that
             are needed
  step       steps done so far, at least 1: the weights are those of the next
  num_steps  steps of the whole run

`weights(init(K))` are those of the first step. All of it may be compiled, and
numbers and steps may be traced. A part that no problem was drawn from, or whose
number is not finite, keeps its state.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
  'bandit',
  'easy_to_hard',
  'falling_share',
  'fixed',
  'informative',
  'learnable',
  'skill_profile',
  'stages',
]

# Go through the parts in their order.
ORDERED = ('easy_to_hard', 'falling_share', 'stages')

Array = jax.Array
State = dict[str, Array]


class Stats(NamedTuple):
  """What a step found out about each part, [K] each.

  drawn      problems drawn from it
  reward     mean reward of the answers to them; this and the rest 0 where none
             was drawn
  advantage  mean size of their advantages, over answers
  solved     share of right answers
  """

  drawn: Array
  reward: Array
  advantage: Array
  solved: Array


@dataclasses.dataclass(frozen=True)
class Curriculum:
  """What moves the weights of parts; see the module.

  init     (K) -> state
  weights  (state) -> [K]
  update   (state, stats, step, num_steps) -> state
  reads    names of `Stats` that `update` needs
  """

  init: Callable[[int], State]
  weights: Callable[[State], Array]
  update: Callable[..., State]
  reads: tuple[str, ...] = ()


def _usable(weights: Array) -> Array:
  """The weights, or equal ones where none is positive."""
  return jnp.where(jnp.any(weights > 0), weights, jnp.ones_like(weights))


def _scheduled(schedule: Callable[[Array, int], Array]) -> Curriculum:
  """A function (share of the run that is done, K) -> weights [K]."""

  def at(done, count):
    weights = jnp.asarray(schedule(jnp.float32(done), count), jnp.float32)
    return {'weights': _usable(weights)}

  def update(state, stats, step, num_steps):
    del stats
    done = jnp.float32(step) / jnp.maximum(jnp.float32(num_steps), 1.0)
    return at(jnp.clip(done, 0.0, 1.0), state['weights'].shape[0])

  return Curriculum(
    init=lambda count: at(0.0, count),
    weights=lambda state: state['weights'],
    update=update,
  )


def _followed(
  name: str,
  start: float,
  rate: float,
  weigh: Callable[[Array], Array],
) -> Curriculum:
  """A moving average of one of the stats for each part; `weigh` of it are the
  weights."""

  def init(count):
    return {'mean': jnp.full((count,), start, jnp.float32)}

  def update(state, stats, step, num_steps):
    del step, num_steps
    seen = getattr(stats, name)
    usable = (stats.drawn > 0) & jnp.isfinite(seen)
    moved = rate * jnp.where(usable, seen, 0.0) + (1.0 - rate) * state['mean']
    return {'mean': jnp.where(usable, moved, state['mean'])}

  return Curriculum(
    init=init,
    weights=lambda state: _usable(weigh(state['mean'])),
    update=update,
    reads=('drawn', name),
  )


def fixed() -> Curriculum:
  """The mixture's own weights at every step."""
  return _scheduled(lambda done, count: jnp.ones(count) + 0.0 * done)


def stages(*, keep: float = 0.0) -> Curriculum:
  """One part after the other, for equally many steps each.

  Args:
    keep: weight of the parts that were before, beside 1 of the present one.

  Reference: Deng et al. (2025), Curr-ReFT, https://arxiv.org/abs/2503.07065,
  whose stages follow each other without the earlier ones
  """

  def schedule(done, count):
    now = jnp.minimum(jnp.floor(done * count), count - 1)
    place = jnp.arange(count)
    return jnp.where(place == now, 1.0, jnp.where(place < now, keep, 0.0))

  return _scheduled(schedule)


def easy_to_hard(*, width: float = 1.0) -> Curriculum:
  """From the first part to the last in one sweep, with those beside it.

  weight = max(0, 1 - |place - centre| / width),  centre = done (K - 1)

  Args:
    width: parts until the weight is 0, to either side; at least 1. With 1 two
      neighbours share a step.

  Reference: Bengio et al. (2009), https://doi.org/10.1145/1553374.1553380
  """

  def schedule(done, count):
    centre = done * (count - 1)
    apart = jnp.abs(jnp.arange(count) - centre)
    return jnp.maximum(0.0, 1.0 - apart / width)

  return _scheduled(schedule)


def falling_share(*, start: float = 1.0, end: float = 0.0) -> Curriculum:
  """A helped part first, then less and less of it; the others share the rest.

  Args:
    start: share of the first part before the first step.
    end: share of it after the last; in a line between them.

  Reference: Gur et al. (2019), QWeb, https://arxiv.org/abs/1812.09195, which
  fills in a part of the form with a falling chance (its schedule is not known)
  """

  def schedule(done, count):
    share = start + (end - start) * done
    others = (1.0 - share) / max(count - 1, 1)
    return jnp.where(jnp.arange(count) == 0, share, others)

  return _scheduled(schedule)


def bandit(
  *,
  rate: float = 0.5,
  temperature: float = 1.0,
  floor: float = 0.0,
  start: float = 0.0,
) -> Curriculum:
  """SEC: more of the parts whose advantages are large.

  value <- rate mean|advantage| + (1 - rate) value, of the parts drawn
  weights = (1 - floor) softmax(value / temperature) + floor / K

  With verdicts and advantages that are divided by their spread, mean|advantage|
  is 2 sqrt(p (1 - p)) of the chance p to be right: largest at 1/2.

  Args:
    rate: share of the new number.
    temperature: of the softmax; 1 on one task, 0.4 and 0.2 on mathematics.
    floor: share that is drawn evenly. With a low temperature a part that was
      out of reach once is not drawn again without it; the paper has none.
    start: the first value.

  Reference: Chen et al. (2025), SEC, https://arxiv.org/abs/2505.14970
  """

  def weigh(value):
    count = value.shape[0]
    return (1.0 - floor) * jax.nn.softmax(value / temperature) + floor / count

  return _followed('advantage', start, rate, weigh)


def learnable(*, rate: float = 0.5, floor: float = 0.05) -> Curriculum:
  """More of the parts that are right half of the time.

  solved <- rate share solved + (1 - rate) solved, of the parts drawn
  weights = 4 solved (1 - solved) + floor

  Args:
    rate: share of the new number; the first is 1/2.
    floor: weight of a part that is always right or never.

  Reference: Foster et al. (2025), https://arxiv.org/abs/2502.12272
  """
  return _followed('solved', 0.5, rate, lambda p: 4.0 * p * (1.0 - p) + floor)


def skill_profile(*, rate: float = 0.5, smoothing: float = 0.05) -> Curriculum:
  """STAT: more of the skills that are missing.

  solved <- rate share solved + (1 - rate) solved, of the parts drawn
  weights = 1 - solved + smoothing

  Parts are skills; the paper counts the skills that a teacher finds missing in
  failed validation problems, once, and here every step's answers count.

  Args:
    rate: share of the new number; at first nothing is solved.
    smoothing: weight of a skill that never fails.

  Reference: He et al. (2025), STAT, https://arxiv.org/abs/2510.10023
  """
  return _followed('solved', 0.0, rate, lambda p: 1.0 - p + smoothing)


def informative(*, drop: str = 'all_wrong', tries: int = 1) -> Curriculum:
  """RIF-RFT's filter: a part that taught nothing when it was met is dropped.

  all_wrong      dropped where no answer was right
  zero_variance  dropped where all were right, too

  Parts are meant to be problems (`problems.count`). The paper draws answers to
  all of them before training; here each is judged when it comes up, by the
  policy of that step. Where all are dropped, all come back.

  Args:
    drop: one of the two; the paper's notes differ on which it is.
    tries: times that a part is drawn before it is judged.

  Reference: Lai et al. (2025), https://arxiv.org/abs/2507.05386
  """

  def init(count):
    return {'drawn': jnp.zeros(count), 'solved': jnp.zeros(count)}

  def weights(state):
    drawn, solved = state['drawn'], state['solved']
    dull = solved <= 0
    if drop == 'zero_variance':
      dull = dull | (solved >= drawn)
    return _usable(jnp.where((drawn >= tries) & dull, 0.0, 1.0))

  def update(state, stats, step, num_steps):
    del step, num_steps
    usable = (stats.drawn > 0) & jnp.isfinite(stats.solved)
    drawn = jnp.where(usable, stats.drawn, 0.0)
    right = jnp.where(usable, stats.drawn * stats.solved, 0.0)
    return {
      'drawn': state['drawn'] + drawn,
      'solved': state['solved'] + right,
    }

  return Curriculum(init, weights, update, reads=('drawn', 'solved'))


DROPS = ('all_wrong', 'zero_variance')
