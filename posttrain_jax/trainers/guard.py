"""Holds a step back whose loss, gradient or parameters are not finite.

The choice is made inside the step, leaf by leaf, so that runs side by side
(`vmap`) stand still one by one, and a state that is handed out is always good:
that of the failing step is the one before it, which a record can keep. Where
all is finite the numbers of a step are what they were, bit for bit.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, PyTree, TrainState

__all__ = ['MODES', 'SKIPPED', 'WHAT', 'bare', 'check', 'finite', 'guarded',
           'hold', 'reasons']  # fmt: skip

MODES = ('stop', 'skip')
# Metric of every step: 0, or the sum of what is not finite. It is for the loop,
# which takes it out; SKIPPED is what a file of metrics holds.
WHAT = 'nonfinite/what'
SKIPPED = 'nonfinite/skipped'
CODES = {1: 'loss', 2: 'grad_norm', 4: 'parameters'}


def check(mode: str) -> None:
  """Raises ValueError, with the nearest valid one, for an unknown mode."""
  if mode not in MODES:
    raise ValueError(f'unknown on_nonfinite "{mode}".{nearest(mode, MODES)}')


def finite(tree: PyTree) -> Array:
  """[] bool: every number of every leaf is finite."""
  leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
  return jnp.all(jnp.stack(leaves))


def _chosen(good: Array, new: PyTree, old: PyTree) -> PyTree:
  """`new` where `good`, else `old`; what a step hands on needs no choice."""
  return jax.tree.map(
    lambda x, y: x if x is y else jnp.where(good, x, y), new, old
  )


def guarded(step: Any, mode: str) -> Any:
  """`step(state, ...) -> (state, metrics)`, held back where it is not finite.

  step  its metrics have 'loss' and 'grad_norm', [] each; or a step in halves,
        whose `learn` is that
  mode  'stop': the state is the one before the step, its number too, so the
        same step comes again; 'skip': only the step's number moves on, and
        metric `nonfinite/skipped` is 1

  Metric `nonfinite/what` [] says what was not finite (`reasons`).

  Raises:
    ValueError: an unknown mode.
  """
  check(mode)
  if hasattr(step, 'learn'):  # of a step in halves, that which moves the state
    return step._replace(learn=guarded(step.learn, mode))

  @functools.wraps(step)  # a replay looks at what was not kept
  def held(state: TrainState, *given: Any, **named: Any):
    new, metrics = step(state, *given, **named)
    verdicts = jnp.stack(
      [
        jnp.all(jnp.isfinite(metrics['loss'])),
        jnp.all(jnp.isfinite(metrics['grad_norm'])),
        finite(new.params),
      ]
    )
    codes = jnp.asarray(list(CODES), jnp.float32)
    what = jnp.sum(jnp.where(verdicts, 0.0, codes))
    good = what == 0
    kept = _chosen(good, new, state)
    metrics = {**metrics, WHAT: what}
    if mode == 'skip':
      kept = kept.replace(step=new.step)
      metrics[SKIPPED] = (~good).astype(jnp.float32)
    return kept, metrics

  return held


def bare(step: Any) -> Any:
  """The step inside `guarded(step)`, which hands out whatever it makes."""
  if hasattr(step, 'learn'):
    return step._replace(learn=bare(step.learn))
  return step.__wrapped__


def hold(step: Callable) -> Callable:
  """`held(state, number, ...)`: `step(state, ...)` if it is step `number`'s
  turn (`number` steps are done), else the state as it is.

  A loop that sends off a step before it has read the last one's metrics needs
  this: after a step that stopped, none of those behind it may move the state.
  """

  def held(state: TrainState, number: Array, *given: Any, **named: Any):
    new, metrics = step(state, *given, **named)
    return _chosen(state.step == number, new, state), metrics

  return held


def reasons(what: float) -> list[str]:
  """Names of what a metric `nonfinite/what` says was not finite."""
  return [name for code, name in CODES.items() if int(what) & code]
