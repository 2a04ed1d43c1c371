"""Coefficients that change during a run, from the step or from its metrics.

Every function here makes a controller and is called the same way:

  controller = make(**hparams)
  state = controller.init()
  value = controller.value(state)
  state, value = controller.update(state, metrics, step, num_steps)

  state      dict of scalars, saved with the run; `value` reads it
  metrics    dict of scalars of the step just done; `controller.reads` names
             those that are needed
  step       steps done so far, at least 1: the value is that of the next step
  num_steps  steps of the whole run
  value      [] float32: the coefficient of a loss term, or a temperature

`value(init())` is the value of the first step. All of it may be compiled, and
hyperparameters and steps may be traced. A metric that is not finite leaves the
state as it is: one bad step must not spoil the rest of a run.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

__all__ = [
  'adaptive_entropy',
  'adaptive_kl',
  'dynamic_kl',
  'entropy_temperature',
  'fixed',
  'linear',
  'warmup_cosine',
]

Array = jax.Array
State = dict[str, Array]
Update = Callable[..., tuple[State, Array]]


def _value(state: State) -> Array:
  return state['value']


@dataclasses.dataclass(frozen=True)
class Controller:
  """What steers one scalar; see the module.

  init    () -> state
  update  (state, metrics, step, num_steps) -> (state, value)
  value   (state) -> value
  reads   names of the metrics that `update` needs
  """

  init: Callable[[], State]
  update: Update
  value: Callable[[State], Array] = _value
  reads: tuple[str, ...] = ()


def _scalar(x: Array | float) -> Array:
  return jnp.asarray(x, jnp.float32)


def _scheduled(schedule: Callable[[Array], Array]) -> Controller:
  """A controller that is a function of the fraction of the run done."""

  def at(fraction):
    value = _scalar(schedule(_scalar(fraction)))
    return {'value': value}

  def update(state, metrics, step, num_steps):
    del state, metrics
    fraction = _scalar(step) / jnp.maximum(_scalar(num_steps), 1.0)
    state = at(jnp.clip(fraction, 0.0, 1.0))
    return state, state['value']

  return Controller(init=lambda: at(0.0), update=update)


def _steered(
  name: str,
  start: Mapping[str, float],
  change: Callable[[State, Array], State],
) -> Controller:
  """A controller that reacts to the metric `name`."""

  def init():
    return {key: _scalar(x) for key, x in start.items()}

  def update(state, metrics, step, num_steps):
    del step, num_steps
    if name not in metrics:
      raise ValueError(
        f'a controller reads the metric "{name}", which the step does not '
        f'give. It gives: {", ".join(sorted(metrics)) or "(none)"}'
      )
    metric = _scalar(metrics[name])
    usable = jnp.isfinite(metric)
    moved = change(state, jnp.where(usable, metric, 0.0))
    state = {
      key: jnp.where(usable, _scalar(moved[key]), old)
      for key, old in state.items()
    }
    return state, state['value']

  return Controller(init=init, update=update, reads=(name,))


def fixed(*, value: float = 0.0) -> Controller:
  """The same value at every step."""
  return _scheduled(lambda fraction: value + 0.0 * fraction)


def linear(*, start: float = 0.0, end: float = 1.0) -> Controller:
  """From `start` before the first step to `end` after the last, in a line."""
  return _scheduled(lambda fraction: start + (end - start) * fraction)


def warmup_cosine(
  *,
  peak: float = 0.9,
  valley: float = 0.05,
  warmup: float = 0.0,
  decay: float = 1.0,
) -> Controller:
  """CHORD's mu: a line from 0 up to `peak`, then half a cosine to `valley`.

  Args:
    peak, valley: largest and last value.
    warmup: fraction of the run's steps until the peak; 0 starts there.
    decay: fraction of the run's steps from the peak to the valley.

  Reference: Zhang et al. (2025), https://arxiv.org/abs/2508.11408 (its
  schedule is in steps: no warm-up, 200 of decay)
  """

  def schedule(fraction):
    rising = peak * fraction / jnp.where(warmup > 0, warmup, 1.0)
    after = (fraction - warmup) / jnp.where(decay > 0, decay, 1.0)
    after = jnp.where(decay > 0, jnp.clip(after, 0.0, 1.0), 1.0)
    falling = valley + (peak - valley) * 0.5 * (1.0 + jnp.cos(jnp.pi * after))
    return jnp.where(fraction < warmup, rising, falling)

  return _scheduled(schedule)


def dynamic_kl(
  *, low: float = 0.04, high: float = 0.1, turn: float = 0.3
) -> Controller:
  """GRPO-D: a KL coefficient that falls at first and then rises, a V.

  f <= turn:  mid - (mid - low) f / turn,  mid = (low + high) / 2
  f > turn:   low + (high - low) (f - turn) / (1 - turn)

  f is the fraction of the run's steps done.

  Args:
    low, high: smallest and last coefficient.
    turn: fraction at which it is smallest; 0 only rises, 1 only falls.

  Reference: Liu et al. (2025), https://arxiv.org/abs/2503.16081
  """

  def schedule(fraction):
    middle = 0.5 * (low + high)
    before = fraction / jnp.where(turn > 0, turn, 1.0)
    after = (fraction - turn) / jnp.where(turn < 1, 1.0 - turn, 1.0)
    falling = middle - (middle - low) * before
    rising = low + (high - low) * after
    return jnp.where((fraction <= turn) & (turn > 0), falling, rising)

  return _scheduled(schedule)


def adaptive_kl(
  *,
  start: float = 0.2,
  target: float = 6.0,
  horizon: float = 40.0,
  clip: float = 0.2,
) -> Controller:
  """A KL coefficient that grows where the KL is above its target.

  value <- value * (1 + clip(kl / target - 1, -clip, clip) / horizon)

  Reads `kl`.

  Args:
    start: the first coefficient.
    target: of the metric `kl`, in its unit. 6 nats is usual for the sum over a
      sequence; a mean over tokens wants a much smaller one.
    horizon: updates over which an error of 1 would double the value. Peers
      count rows: 10,000 at 256 rows an update are about 40.
    clip: largest error counted.

  Reference: Ziegler et al. (2019), https://arxiv.org/abs/1909.08593
  section 2.2
  """

  def change(state, kl):
    error = jnp.clip(kl / target - 1.0, -clip, clip)
    return {'value': state['value'] * (1.0 + error / horizon)}

  return _steered('kl', {'value': start}, change)


def adaptive_entropy(
  *,
  target: float = 0.2,
  delta: float = 0.005,
  start: float = 0.0,
  low: float = 0.0,
  high: float = 1.0,
) -> Controller:
  """An entropy bonus that is on only where the entropy is too small.

  c <- clip(c + delta if entropy <= target else c - delta, low, high)
  value = c if entropy <= target else 0

  Reads `entropy`. The metric is the one that the last step measured, so the
  bonus answers one step late. The first value is `start`.

  Args:
    target: mean entropy of a token, in nats.
    delta: change of the coefficient c per update.
    start, low, high: first, smallest and largest c.

  Reference: He et al. (2025), https://arxiv.org/abs/2505.22312 (Skywork-OR1)
  """

  def change(state, entropy):
    step = jnp.where(entropy <= target, delta, -delta)
    coef = jnp.clip(state['coef'] + step, low, high)
    return {'coef': coef, 'value': jnp.where(entropy <= target, coef, 0.0)}

  return _steered('entropy', {'coef': start, 'value': start}, change)


def entropy_temperature(
  *, target: float = 0.5, high: float = 1.2, low: float = 0.8
) -> Controller:
  """AEPO: the temperature of extra samples that push the entropy to a target.

  value = high if entropy < target else low

  Correct completions drawn at that temperature are imitated: hot ones spread
  the policy, cold ones sharpen it. Reads `entropy`; the first value is `high`.
  It switches from one side to the other by design.

  Args:
    target: mean entropy of a token, in nats.
    high, low: the two temperatures.

  Reference: Wang et al. (2025), https://arxiv.org/abs/2510.08141
  """

  def change(state, entropy):
    del state
    return {'value': jnp.where(entropy < target, high, low)}

  return _steered('entropy', {'value': high}, change)
