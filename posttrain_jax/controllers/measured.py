"""Controllers that react to one metric of the step just done."""

import jax.numpy as jnp

from posttrain_jax.controllers.common import Controller, alone


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

  return alone('kl', {'value': start}, change)


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

  return alone('entropy', {'coef': start, 'value': start}, change)


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

  return alone('entropy', {'value': high}, change)


def entropy_at(
  *,
  target: float = 0.3,
  gain: float = 0.1,
  start: float = 1.0,
  low: float = 0.2,
  high: float = 2.0,
) -> Controller:
  """The sampling temperature that holds the entropy at a target.

  log T <- log T + gain clip(1 - entropy / target, -1, 1), T in low..high

  Reads `entropy`, that of the distribution which tokens are drawn from,
  softmax(logits / T): AceReason-Nemotron 1.1 finds T by hand so that it stays
  near 0.3 in RL. The feedback is ours; the paper has a rule, no formula.

  Args:
    target: mean entropy of a token, in nats.
    gain: largest change of log T per step.
    start, low, high: first, smallest and largest temperature.

  Reference: Liu et al. (2025), https://arxiv.org/abs/2506.13284
  """

  def change(state, entropy):
    error = jnp.clip(1.0 - entropy / target, -1.0, 1.0)
    moved = state['value'] * jnp.exp(gain * error)
    return {'value': jnp.clip(moved, low, high)}

  return alone('entropy', {'value': start}, change)
