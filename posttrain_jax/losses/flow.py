"""GFlowNet losses: sample answers in proportion to their reward.

Every function is called the same way and averages nothing:

  token_loss, metrics = loss(logps, log_flows, log_rewards, mask, **hparams)

  logps        [B, T]  log-probability of each taken token, trained policy
  log_flows    [B, T]  log F of the state before each token, from a value head
  log_rewards  [B]     log R of the whole answer (no gradient); finite: give an
                       answer that earns nothing a floor
  mask         [B, T]  1.0 on tokens that count; what the other arrays hold
                       elsewhere has no effect
  token_loss   [B, T]  minimised, 0 where masked. A loss of a whole sequence
                       lies in equal parts on its tokens: the paper's mean over
                       sequences is `reduce.sequence_sum`
  metrics      'residual' [B, T], detached: by how much, in nats, the flow is
               out of balance

A state is the text so far, so it has one parent and the backward policy is 1.
The losses accept tokens of any policy. Multiply `logps` to count some tokens
less, such as a chain of thought beside an action.

The `..._stop` forms have no value head: where any state may be the last, its
flow is R(s) / P(stop | s). They read neither `log_flows` nor `log_rewards`
(None will do) but two arrays [B, T], keyword arguments without a default:

  stop_logps         log-probability of stopping before token t
  state_log_rewards  log R of the text before token t (no gradient)

A row ends with its stop token. Taking that one is in balance by definition, so
the last counted token adds nothing; for a truncated row that drops a step.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, shapes
from posttrain_jax.core.types import Array

__all__ = [
  'detailed_balance',
  'detailed_balance_stop',
  'sub_trajectory_balance',
  'sub_trajectory_balance_stop',
  'trajectory_balance',
  'trajectory_balance_group',
]

# Rows of one prompt must not be split.
WHOLE_BATCH = ('trajectory_balance_group',)

WHOLE_ROWS = tuple(__all__)

TokenLoss = tuple[Array, dict[str, Array]]


def _finish(token_loss: Array, residual: Array, mask: Array) -> TokenLoss:
  residual = jax.lax.stop_gradient(residual)
  return (
    masked.select(token_loss, mask),
    {'residual': masked.select(residual, mask)},
  )


def _spread(row_loss: Array, residual: Array, mask: Array) -> TokenLoss:
  """[B] losses in equal parts on the counted tokens of their rows."""
  share = row_loss / masked.count(mask != 0, axis=1)
  shape = mask.shape
  return _finish(
    jnp.broadcast_to(share[:, None], shape),
    jnp.broadcast_to(residual[:, None], shape)
    if residual.ndim == 1
    else residual,
    mask,
  )


def _rewards(log_rewards: Array, mask: Array) -> Array:
  """[B] detached, 0 on rows in which nothing counts."""
  live = jnp.any(mask != 0, axis=1)
  return jax.lax.stop_gradient(jnp.where(live, log_rewards, 0.0))


def _next(x: Array, last: Array, mask: Array) -> Array:
  """[B, T] `x` of the next counted token of the row, `last` [B] after it."""

  def backwards(following, token):
    value, counted = token
    return jnp.where(counted, value, following), following

  _, found = jax.lax.scan(backwards, last, (x.T, mask.T != 0), reverse=True)
  return found.T


def _is_last(mask: Array) -> Array:
  """[B, T] True on the last counted token of a row."""
  later = jnp.cumsum((mask != 0)[:, ::-1], axis=1)[:, ::-1]
  return (mask != 0) & (later == 1)


def _before(x: Array) -> Array:
  """[B, T] sum of the earlier columns."""
  return jnp.cumsum(x, axis=1) - x


def _sub_trajectories(
  potential: Array, counted: Array, lam: Array | float
) -> Array:
  """[B] weighted mean of (u_i - u_j)^2 over pairs of a row's states, i < j."""
  position = _before(counted.astype(potential.dtype))
  steps = position[:, None, :] - position[:, :, None]
  pair = counted[:, :, None] & counted[:, None, :] & (steps > 0)
  gap = jnp.where(pair, potential[:, :, None] - potential[:, None, :], 0.0)
  # A power of one less, so that lam 0 leaves the single steps.
  weight = jnp.where(pair, lam ** jnp.where(pair, steps - 1.0, 0.0), 0.0)
  total = jnp.sum(weight, axis=(1, 2))
  loss = jnp.sum(weight * jnp.square(gap), axis=(1, 2))
  return loss / jnp.where(total > 0, total, 1.0)


def trajectory_balance(
  logps: Array, log_flows: Array, log_rewards: Array, mask: Array
) -> TokenLoss:
  """TB: one square for the whole answer.

  (log Z + sum_t log p_t - log R)^2,  log Z = log_flows at the first token

  Reference: Malkin et al. (2022), https://arxiv.org/abs/2201.13259 eq. 14
  """
  counted = mask != 0
  first = counted & (jnp.cumsum(counted, axis=1) == 1)
  log_z = jnp.sum(jnp.where(first, log_flows, 0.0), axis=1)
  path = jnp.sum(jnp.where(counted, logps, 0.0), axis=1)
  residual = log_z + path - _rewards(log_rewards, mask)
  return _spread(jnp.square(residual), residual, mask)


def trajectory_balance_group(
  logps: Array,
  log_flows: Array | None,
  log_rewards: Array,
  mask: Array,
  *,
  group_size: int = 1,
) -> TokenLoss:
  """Var-TB: trajectory balance with log Z estimated by the group.

  (zeta - mean of zeta over the prompt's answers)^2,
  zeta = sum_t log p_t - log R

  No value head: `log_flows` are not read. Rows come group by group; those in
  which nothing counts are left out of the mean.

  Args:
    group_size: answers to one prompt. It must be set: one alone has no
      variance.

  Raises:
    ValueError: `group_size` is 1, or does not divide the number of rows.

  References: Zhang et al. (2023), https://arxiv.org/abs/2302.05446; Kang et
  al. (2025), https://arxiv.org/abs/2503.06514 (GFlowVLM)
  """
  del log_flows
  rows = logps.shape[0]
  if isinstance(group_size, int) and (group_size < 2 or rows % group_size):
    raise ValueError(
      f'trajectory_balance_group: group_size={group_size} must be at least 2 '
      f'and divide the {rows} rows of the batch'
    )
  live = jnp.any(mask != 0, axis=1)
  path = jnp.sum(jnp.where(mask != 0, logps, 0.0), axis=1)
  zeta = path - _rewards(log_rewards, mask)
  # Segment sums, not a reshape: group_size may be traced in a sweep.
  group = jnp.arange(rows) // group_size
  count = jax.ops.segment_sum(live.astype(zeta.dtype), group, rows)
  total = jax.ops.segment_sum(zeta, group, rows)
  residual = zeta - (total / jnp.maximum(count, 1.0))[group]
  return _spread(jnp.square(residual), residual, mask)


def detailed_balance(
  logps: Array, log_flows: Array, log_rewards: Array, mask: Array
) -> TokenLoss:
  """DB: one square per token.

  (log F(s_t) + log p_t - log F(s_t+1))^2, the last F being R

  Reference: Bengio et al. (2023), https://arxiv.org/abs/2111.09266
  """
  flows = masked.select(log_flows, mask)
  following = _next(flows, _rewards(log_rewards, mask), mask)
  residual = flows + masked.select(logps, mask) - following
  return _finish(jnp.square(residual), residual, mask)


def sub_trajectory_balance(
  logps: Array,
  log_flows: Array,
  log_rewards: Array,
  mask: Array,
  *,
  lam: float = 0.9,
) -> TokenLoss:
  """SubTB: a weighted mean over all pieces of the answer.

  sum over i < j of lam^(j-i) (log F_i + sum_{i <= t < j} log p_t - log F_j)^2
  over sum of lam^(j-i), the last F being R

  Memory grows with T^2. The residual of a token is that of the piece from it
  to the end.

  Args:
    lam: near 0 counts single steps (the mean of `detailed_balance`), 1 all
      pieces alike.

  Reference: Madan et al. (2023), https://arxiv.org/abs/2209.12782 eq. 8
  """
  counted = mask != 0
  path = masked.select(logps, mask)
  reward = _rewards(log_rewards, mask)
  # u = log F - log P(the path so far): a piece's residual is u_i - u_j.
  last = reward - jnp.sum(path, axis=1)
  states = masked.select(log_flows, mask) - _before(path)
  potential = jnp.concatenate([states, last[:, None]], axis=1)
  live = jnp.any(counted, axis=1, keepdims=True)
  is_state = jnp.concatenate([counted, live], axis=1)
  loss = _sub_trajectories(potential, is_state, lam)
  return _spread(loss, states - last[:, None], mask)


def detailed_balance_stop(
  logps: Array,
  log_flows: Array | None,
  log_rewards: Array | None,
  mask: Array,
  *,
  stop_logps: Array,
  state_log_rewards: Array,
) -> TokenLoss:
  """`detailed_balance` with R(s) / P(stop | s) as the flow of a state.

  (log R_t + log p_t + log P_stop,t+1 - log R_t+1 - log P_stop,t)^2

  Reference: Kang et al. (2025), https://arxiv.org/abs/2503.06514 (GFlowVLM);
  its form for unfinished text is that of Hu et al. (2023),
  https://arxiv.org/abs/2310.04363
  """
  del log_flows, log_rewards
  rewards = jax.lax.stop_gradient(masked.select(state_log_rewards, mask))
  flows = rewards - masked.select(stop_logps, mask)
  following = _next(flows, jnp.zeros_like(flows[:, 0]), mask)
  residual = flows + masked.select(logps, mask) - following
  residual = jnp.where(_is_last(mask), 0.0, residual)
  return _finish(jnp.square(residual), residual, mask)


def sub_trajectory_balance_stop(
  logps: Array,
  log_flows: Array | None,
  log_rewards: Array | None,
  mask: Array,
  *,
  stop_logps: Array,
  state_log_rewards: Array,
  lam: float = 1.0,
) -> TokenLoss:
  """`sub_trajectory_balance` with R(s) / P(stop | s) as the flow of a state.

  A weighted mean over i < j of
  (log R_i + sum_{i <= t < j} log p_t + log P_stop,j - log R_j - log P_stop,i)^2

  GFlowVLM sums over the pairs of an answer with n tokens: n (n - 1) / 2 times
  this with lam 1. Memory grows with T^2. The residual of a token is that of
  the piece from it to the last state.

  Args:
    lam: as in `sub_trajectory_balance`.

  References: Kang et al. (2025), https://arxiv.org/abs/2503.06514 (GFlowVLM);
  Gao et al. (2025), https://arxiv.org/abs/2503.07377 (Flower)
  """
  del log_flows, log_rewards
  rewards = jax.lax.stop_gradient(masked.select(state_log_rewards, mask))
  flows = rewards - masked.select(stop_logps, mask)
  potential = flows - _before(masked.select(logps, mask))
  loss = _sub_trajectories(potential, mask != 0, lam)
  last = jnp.sum(jnp.where(_is_last(mask), potential, 0.0), axis=1)
  return _spread(loss, potential - last[:, None], mask)


shapes.checked(globals(), __all__)
