"""Shares of imitation that go by gradients.

A gradient's norm is that of the whole minibatch, before any clipping; of
several minibatches in a step the metric is their mean.
"""

from collections.abc import Callable

import jax.numpy as jnp

from posttrain_jax.controllers.common import Array, Controller, steered

_NORM = 'grad_norm/sft'
TINY = 1e-30


def _switch(form: Callable[[Array, Array], Array], warmup: float) -> Controller:
  """form(norm, norm in warm-up) after a warm-up in which the value is 1."""

  def change(state, metrics, step, num_steps):
    norm, steps = metrics[_NORM], jnp.maximum(num_steps, 1.0)
    # The first step is always one of them: there is nothing else to compare
    # with.
    warming = ((step - 1.0) / steps < warmup) | (state['steps'] == 0)
    total = state['total'] + jnp.where(warming, norm, 0.0)
    count = state['steps'] + jnp.where(warming, 1.0, 0.0)
    value = form(norm, total / jnp.maximum(count, 1.0))
    value = jnp.where(step / steps < warmup, 1.0, value)
    return {'value': value, 'total': total, 'steps': count}

  start = {'value': 1.0, 'total': 0.0, 'steps': 0.0}
  return steered((_NORM,), start, change)


def grad_switch(*, gamma: float = 1.0, warmup: float = 0.1) -> Controller:
  """SASR: the chance of a step of SFT, by how large its gradient still is.

  value = 1 in the warm-up, then g / (g + gamma g_w)

  g is the norm of the gradient of the SFT part in the step just done, g_w its
  mean over the warm-up's steps. Reads `grad_norm/sft`, which every step
  measures, also one of RL, so that g is never stale.

  The published text says that the SFT gradient's norm against that of the
  warm-up decides; the equation was not found in any source that was read, and
  this form is one of two, `grad_switch_clipped` the other.

  Args:
    gamma: weight of the warm-up's norm.
    warmup: fraction of the run's steps that are SFT alone; the first step
      always is.

  Reference: Chen et al. (2025), https://arxiv.org/abs/2505.13026
  """

  def form(norm, first):
    return norm / jnp.maximum(norm + gamma * first, TINY)

  return _switch(form, warmup)


def grad_switch_clipped(*, warmup: float = 0.1) -> Controller:
  """`grad_switch` with min(1, g / g_w): SFT as long as the norm is no smaller.

  Args:
    warmup: as in `grad_switch`.

  Reference: as `grad_switch`; the form is ours
  """

  def form(norm, first):
    return jnp.minimum(norm / jnp.maximum(first, TINY), 1.0)

  return _switch(form, warmup)


def meta_share(
  *,
  start: float = 0.5,
  low: float = 0.05,
  high: float = 0.95,
  meta_rate: float = 0.01,
  meta_every: float = 1.0,
  entropy_rate: float = 5e-4,
  target: float = 0.0,
) -> Controller:
  """AMFT: a share of imitation that lowers the loss of held-out demonstrations.

  mu <- clip(mu + meta_rate cos(g_v, g_s - g_r)
                + entropy_rate (target - entropy), low, high)

  g_s, g_r and g_v are gradients of the SFT part, of the RL part and of held-out
  demonstrations. One small step of SGD with the share mu changes the held-out
  loss by -rate <g_v, g_s - g_r> for each unit of mu, so the share rises where
  imitation lowers it. The cosine stands for the product of the paper, which at
  the published rates moves mu by 1e-10. Entropy below the target raises the
  share.

  Reads `entropy` and the norms and products of 'sft', 'rl' and 'valid'.

  Args:
    start, low, high: first, smallest and largest share.
    meta_rate: of the cosine; 0 leaves the entropy alone, a negative one is the
      sign of the released code, which raises the held-out loss.
    meta_every: steps between changes by the cosine; 20 in the paper.
    entropy_rate: of the entropy's error in nats; 0 leaves the cosine alone.
    target: entropy in nats; 0: that of the first step, which in a run that
      begins from SFT is the paper's target.

  Reference: He et al. (2025), https://arxiv.org/abs/2508.06944, released code
  adaptive_weight_controller.py
  """
  sft, rl, valid = (f'grad_norm/{x}' for x in ('sft', 'rl', 'valid'))
  dots = ('grad_dot/rl/sft', 'grad_dot/rl/valid', 'grad_dot/sft/valid')

  def change(state, metrics, step, num_steps):
    del num_steps
    between, with_rl, with_sft = (metrics[x] for x in dots)
    apart = metrics[sft] ** 2 + metrics[rl] ** 2 - 2.0 * between
    length = jnp.sqrt(jnp.maximum(apart, 0.0)) * metrics[valid]
    cosine = (with_sft - with_rl) / jnp.maximum(length, TINY)
    due = jnp.mod(step, jnp.maximum(meta_every, 1.0)) == 0
    cosine = jnp.where(due, jnp.clip(cosine, -1.0, 1.0), 0.0)
    entropy = metrics['entropy']
    first = jnp.where(state['first'] < 0, entropy, state['first'])
    aim = jnp.where(target > 0, target, first)
    moved = state['value'] + meta_rate * cosine + entropy_rate * (aim - entropy)
    return {'value': jnp.clip(moved, low, high), 'first': first}

  reads = ('entropy', sft, rl, valid, *dots)
  return steered(reads, {'value': start, 'first': -1.0}, change)
