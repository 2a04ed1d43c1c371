"""Holds a step back whose loss, gradient or parameters are not finite.

The choice is made inside the step, leaf by leaf, so that runs side by side
(`vmap`) stand still one by one, and a state that is handed out is always good:
that of the failing step is the one before it, which a record can keep.

An optimizer's only update of a step is held back before it is made (`once`), in
the memory that the parameters have. Where a step makes several, what they began
with is kept beside them.
"""

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, PyTree, TrainState

__all__ = ['MODES', 'SKIPPED', 'WHAT', 'bare', 'check', 'finite', 'guarded',
           'hold', 'on', 'once', 'reasons', 'unheld', 'verdict']  # fmt: skip

MODES = ('stop', 'skip')
# Metric of every step: 0, or the sum of what is not finite. It is for the loop,
# which takes it out; SKIPPED is what a file of metrics holds.
WHAT = 'nonfinite/what'
SKIPPED = 'nonfinite/skipped'
CODES = {1: 'loss', 2: 'grad_norm', 4: 'parameters'}
# Whether what is traced right now hands out whatever it makes (`bare`).
_BARE: contextvars.ContextVar[bool] = contextvars.ContextVar(
  'bare', default=False
)


def check(mode: str) -> None:
  """Raises ValueError, with the nearest valid one, for an unknown mode."""
  if mode not in MODES:
    raise ValueError(f'unknown on_nonfinite "{mode}".{nearest(mode, MODES)}')


def finite(tree: PyTree) -> Array:
  """[] bool: every number of every leaf is finite."""
  leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
  return jnp.all(jnp.stack(leaves)) if leaves else jnp.bool_(True)


def _moved(new: PyTree, old: PyTree) -> list[Array]:
  """Leaves that a step has made; those it hands on were looked at before."""
  both = zip(jax.tree.leaves(new), jax.tree.leaves(old))
  return [x for x, y in both if x is not y]


def on() -> bool:
  """Whether updates are held back in what is traced right now."""
  return not _BARE.get()


def verdict(metrics: dict[str, Array], params: PyTree) -> Array:
  """[] `nonfinite/what` of a step's metrics ('loss' and 'grad_norm') and of the
  parameters that it makes."""
  verdicts = jnp.stack(
    [
      jnp.all(jnp.isfinite(metrics['loss'])),
      jnp.all(jnp.isfinite(metrics['grad_norm'])),
      finite(params),
    ]
  )
  codes = jnp.asarray(list(CODES), jnp.float32)
  return jnp.sum(jnp.where(verdicts, 0.0, codes))


def once(
  when: Array, change: Callable, carry: PyTree, given: PyTree = None
) -> PyTree:
  """`change(carry, given)` where `when`, else the carry as it is.

  A loop of one turn or none: XLA makes those in the memory of what they begin
  with, and what `cond` returns in memory of its own.
  """

  def turn(index: Array, carry: PyTree) -> PyTree:
    # What is made of `given` alone would be made, and kept, before the loop.
    held, _ = jax.lax.optimization_barrier((given, index))
    return change(carry, held)

  return jax.lax.fori_loop(0, jnp.asarray(when, jnp.int32), turn, carry)


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
    if WHAT in metrics:  # the update has looked already
      what = metrics[WHAT]
      moved = {'params': new.params, 'opt_state': new.opt_state}
      still = {'params': state.params, 'opt_state': state.opt_state}
      kept = _chosen(what == 0, new.replace(**still), state).replace(**moved)
    else:
      what = verdict(metrics, _moved(new.params, state.params))
      kept = _chosen(what == 0, new, state)
    good = what == 0
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

  @functools.wraps(step.__wrapped__)
  def free(*given: Any, **named: Any):
    token = _BARE.set(True)
    try:
      return step.__wrapped__(*given, **named)
    finally:
      _BARE.reset(token)

  return free


def unheld(update: Callable) -> Callable:
  """An update that is made whatever it is, for a step of several: the step as a
  whole is then looked at (`guarded`), and stands still as a whole."""

  def free(*given: Any, **named: Any):
    token = _BARE.set(True)
    try:
      return update(*given, **named)
    finally:
      _BARE.reset(token)

  return free


def hold(step: Callable) -> Callable:
  """`held(state, number, ...)`: `step(state, ...)` if it is step `number`'s
  turn (`number` steps are done), else the state as it is.

  A loop that sends off a step before it has read the last one's metrics needs
  this: after a step that stopped, none of those behind it may move the state.
  """

  # Traced once, though it is asked for its shapes before it is run.
  step = jax.jit(step, inline=True)

  def held(state: TrainState, number: Array, *given: Any, **named: Any):
    shapes = jax.eval_shape(step, state, *given, **named)[1]
    none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    take = lambda carry, _: step(carry[0], *given, **named)
    return once(state.step == number, take, (state, none))

  return held


def reasons(what: float) -> list[str]:
  """Names of what a metric `nonfinite/what` says was not finite."""
  return [name for code, name in CODES.items() if int(what) & code]
