"""How good a completion or a token was, compared with what was expected.

Functions in `__all__` score completions and are called the same way:

  advantages = f(rewards, **hparams)

  rewards     [B, G]  reward of each of the G completions of B prompts
  advantages  [B, G]  repeated over a completion's tokens by the caller

A keyword argument without a default is an array that the caller supplies.
`TOKEN` lists functions that score tokens, each with its own signature; all
take a mask [B, T] and give 0 where it is 0.

Nothing is divided by a zero spread: a group in which all rewards are equal,
one of a single completion among them, gets exactly 0 from every centred form.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, shapes

# fmt: off
__all__ = [
  'batch_whitened', 'group_centered', 'group_centered_batch_scaled',
  'group_centered_batch_whitened', 'group_normalized', 'label_in_group',
  'leave_one_out', 'pass_at_k', 'raw', 'remax', 'signed',
]

TOKEN = [
  'discounted_returns', 'gae', 'last_token_rewards', 'progress_rewards',
  'segment_rewards', 'whitened_returns',
]
# fmt: on

# What a config may name: some that score tokens, too.
SELECTABLE = (*__all__, 'gae', 'whitened_returns')
# Each completion by itself: a group of one is enough.
ALONE = ('gae', 'raw', 'remax', 'signed', 'whitened_returns')
# An advantage depends on the other prompts of the call.
WHOLE_BATCH = (
  'batch_whitened',
  'group_centered_batch_scaled',
  'group_centered_batch_whitened',
  'whitened_returns',
)

Array = jax.Array


def _center(rewards: Array) -> Array:
  """Rewards minus their group's mean; exact zeros where all are equal."""
  centered = rewards - jnp.mean(rewards, axis=1, keepdims=True)
  # The mean of equal floats may be off by one rounding, which a division by
  # an equally small std would blow up to a visible advantage.
  first = rewards[:, :1]
  all_equal = jnp.all(rewards == first, axis=1, keepdims=True)
  return jnp.where(all_equal, 0.0, centered)


def _std(x: Array, axis: int | None, ddof: Array | float) -> Array:
  """Spread around the mean, dimensions kept; 0 for no more than ddof values."""
  size = x.size if axis is None else x.shape[axis]
  squares = jnp.square(x - jnp.mean(x, axis=axis, keepdims=True))
  total = jnp.sum(squares, axis=axis, keepdims=True)
  return jnp.sqrt(total / jnp.maximum(size - ddof, 1.0))


def group_normalized(
  rewards: Array, *, epsilon: float = 1e-4, ddof: float = 1.0
) -> Array:
  """GRPO: (reward - group mean) / (group std + epsilon).

  Args:
    epsilon: 1e-4 as in TRL; verl has 1e-6.
    ddof: 1 for the sample std that TRL and verl use, 0 for the population std,
      which makes advantages sqrt(G / (G - 1)) times larger.

  Reference: Shao et al. (2024), https://arxiv.org/abs/2402.03300 section 4.1.2
  """
  return _center(rewards) / (_std(rewards, 1, ddof) + epsilon)


def group_centered(rewards: Array) -> Array:
  """Dr.GRPO: reward - group mean, so that no difficulty is preferred.

  Reference: Liu et al. (2025), https://arxiv.org/abs/2503.20783 section 3.2
  """
  return _center(rewards)


def leave_one_out(rewards: Array) -> Array:
  """RLOO: reward - mean of the others, G / (G - 1) times `group_centered`.

  Unlike the group mean this baseline leaves the gradient unbiased.

  Reference: Ahmadian et al. (2024), https://arxiv.org/abs/2402.14740 eq. 8
  """
  group_size = rewards.shape[1]
  return _center(rewards) * (group_size / max(group_size - 1, 1))


def raw(rewards: Array) -> Array:
  """The reward itself: REINFORCE without a baseline.

  Reference: Williams (1992), https://doi.org/10.1007/BF00992696
  """
  return rewards


def remax(rewards: Array, *, greedy_rewards: Array) -> Array:
  """ReMax: reward - reward of the prompt's greedy completion [B].

  Reference: Li et al. (2023), https://arxiv.org/abs/2310.10505
  """
  return rewards - greedy_rewards[:, None]


def signed(rewards: Array, *, threshold: float = 0.5) -> Array:
  """1 for a right completion, -1 for a wrong one: no baseline.

  Args:
    threshold: a completion with a reward above it is right.

  Reference: Fu et al. (2025), SRFT, https://arxiv.org/abs/2506.19767
  """
  return jnp.where(rewards > threshold, 1.0, -1.0).astype(rewards.dtype)


def label_in_group(
  rewards: Array,
  *,
  smooth: bool = True,
  docked: float = 0.0,
  epsilon: float = 1e-4,
) -> Array:
  """ViSurf: `group_normalized` of a group whose last member is the label.

  Args:
    smooth: once another is as good it earns their mean, so that its advantage
      is 0; else it is pushed however good the policy is.
    docked: taken off its reward first, as for a format that it does not teach.

  Reference: Liu et al. (2025), https://arxiv.org/abs/2510.10606 eq. 6 to 9
  """
  own, first, label = rewards[:, :-1], rewards[:, :1], rewards[:, -1:] - docked
  best = jnp.max(own, axis=1, keepdims=True, initial=-jnp.inf)
  mean = first + jnp.sum(own - first, 1, keepdims=True) / max(own.shape[1], 1)
  label = jnp.where((best >= label) & jnp.asarray(smooth), mean, label)
  return group_normalized(jnp.concatenate([own, label], 1), epsilon=epsilon)


def batch_whitened(
  rewards: Array, *, epsilon: float = 1e-8, ddof: float = 1.0
) -> Array:
  """Zero mean and unit variance over the whole batch, as in REINFORCE++.

  Completions weigh the same here; in `whitened_returns`, as published, tokens
  do.

  Args:
    epsilon: added to the variance.
    ddof: as in `group_normalized`.

  Reference: Hu et al. (2025), https://arxiv.org/abs/2501.03262
  """
  centered = _center(rewards.reshape(1, -1)).reshape(rewards.shape)
  variance = jnp.square(_std(rewards, None, ddof))
  return centered * jax.lax.rsqrt(variance + epsilon)


def group_centered_batch_whitened(
  rewards: Array, *, epsilon: float = 1e-8, ddof: float = 1.0
) -> Array:
  """`group_centered` over its own spread in the batch, as in
  REINFORCE++-baseline, but of completions, not of tokens.

  Args:
    epsilon: added to the variance.
    ddof: as in `group_normalized`.

  Reference: Hu et al. (2025), https://arxiv.org/abs/2501.03262
  """
  centered = _center(rewards)
  variance = jnp.square(_std(centered, None, ddof))
  return centered * jax.lax.rsqrt(variance + epsilon)


def group_centered_batch_scaled(
  rewards: Array, *, epsilon: float = 1e-4, ddof: float = 1.0
) -> Array:
  """`group_centered` over the std of all rewards: TRL's scale_rewards='batch'.

  That std counts differences between prompts, which
  `group_centered_batch_whitened` leaves out.

  Args:
    epsilon: added to the std.
    ddof: as in `group_normalized`.

  Reference: Liu et al. (2025), https://arxiv.org/abs/2508.08221 (Lite PPO)
  """
  return _center(rewards) / (_std(rewards, None, ddof) + epsilon)


def pass_at_k(rewards: Array, *, k: int = 4, threshold: float = 0.5) -> Array:
  """Advantage of a completion when sets of k of the group earn one reward.

  A set earns 1 if any member is correct. Averaged over all sets that can be
  drawn from the group, with P = P(a set has no correct member) and s the std
  of a set's reward, a correct completion gets P / s and a wrong one
  (P - P(a set that has it has no correct member)) / s. Groups that pass or
  fail every set get 0. k = 1 is `group_normalized` with ddof and epsilon 0.

  Args:
    k: size of a set, at most G.
    threshold: a completion is correct if its reward is above this.

  Raises:
    ValueError: k is not in 1..G.

  Reference: Chen et al. (2025), https://arxiv.org/abs/2508.10751 eq. 14, 15
  """
  group_size = rewards.shape[1]
  if isinstance(k, int) and not 1 <= k <= group_size:
    raise ValueError(f'pass_at_k: k={k} is not in 1..{group_size} (group size)')
  correct = rewards > threshold
  wrong = jnp.sum(~correct, axis=1, keepdims=True).astype(rewards.dtype)

  # C(wrong, k) / C(G, k) is the product over i < k of (wrong - i) / (G - i);
  # leaving out the first factor fixes one wrong member of the set.
  i = jnp.arange(group_size, dtype=rewards.dtype)[None, :]
  factors = jnp.where(
    i < k, jnp.maximum(wrong - i, 0.0) / (group_size - i), 1.0
  )
  all_wrong = jnp.prod(factors, axis=1, keepdims=True)
  others_wrong = jnp.prod(factors[:, 1:], axis=1, keepdims=True)

  spread = jnp.sqrt(all_wrong * (1.0 - all_wrong))
  advantages = jnp.where(correct, all_wrong, all_wrong - others_wrong)
  return jnp.where(
    spread > 0, advantages / jnp.where(spread > 0, spread, 1.0), 0.0
  )


def gae(
  token_rewards: Array,
  values: Array,
  mask: Array,
  *,
  gamma: float = 1.0,
  lam: float = 0.95,
) -> tuple[Array, Array]:
  """Generalised advantage estimation over the counted tokens of each row.

  Masked tokens (a prompt, an environment's turn) are stepped over: the state
  after a counted token is the one before the next counted token. Rewards on
  masked tokens are dropped. After a row's last counted token the value is 0.

  Args:
    token_rewards: [B, T] reward received for each token.
    values: [B, T] value of the state before each token.
    mask: [B, T] 1.0 on counted tokens.
    gamma: discount per counted token.
    lam: 1 trusts rewards alone (returns - values), 0 trusts the critic.

  Returns:
    advantages [B, T], not whitened (`masked.whiten` does that), and returns
    [B, T], the targets of the value head: advantages + values.

  Reference: Schulman et al. (2016), https://arxiv.org/abs/1506.02438 eq. 16
  """
  token_rewards = masked.select(token_rewards, mask)
  values = masked.select(values, mask)

  def backwards(carry, token):
    next_value, next_advantage = carry
    reward, value, counted = token
    delta = reward + gamma * next_value - value
    advantage = delta + gamma * lam * next_advantage
    carry = (
      jnp.where(counted, value, next_value),
      jnp.where(counted, advantage, next_advantage),
    )
    return carry, jnp.where(counted, advantage, 0.0)

  start = jnp.zeros_like(values[:, 0])
  _, advantages = jax.lax.scan(
    backwards,
    (start, start),
    (token_rewards.T, values.T, mask.T != 0),
    reverse=True,
  )
  return advantages.T, advantages.T + values


def discounted_returns(
  token_rewards: Array, mask: Array, *, gamma: float = 1.0
) -> Array:
  """[B, T] discounted sum of the rewards from each counted token on.

  Masked tokens are stepped over and their rewards dropped, as in `gae`.

  Reference: Williams (1992), https://doi.org/10.1007/BF00992696
  """
  advantages, _ = gae(
    token_rewards, jnp.zeros_like(token_rewards), mask, gamma=gamma, lam=1.0
  )
  return advantages


def whitened_returns(
  token_rewards: Array, mask: Array, *, gamma: float = 1.0
) -> Array:
  """REINFORCE++: `discounted_returns`, whitened over all counted tokens.

  A token weighs as much as another, so a long completion weighs more than in
  `batch_whitened`. With rewards that are centred in their groups it is
  REINFORCE++-baseline.

  Reference: Hu et al. (2025), https://arxiv.org/abs/2501.03262; verl's
  `compute_reinforce_plus_plus_outcome_advantage`
  """
  returns = discounted_returns(token_rewards, mask, gamma=gamma)
  return masked.whiten(returns, mask)


def last_token_rewards(rewards: Array, mask: Array) -> Array:
  """[B, T] token rewards: `rewards` [B] on each row's last counted token.

  A row in which nothing counts gets none.
  """
  counted = mask != 0
  later = jnp.cumsum(counted[:, ::-1], axis=1)[:, ::-1]
  return jnp.where(counted & (later == 1), rewards[:, None], 0.0)


def segment_rewards(rewards: Array, ends: Array, mask: Array) -> Array:
  """[B, T] token rewards: each segment's reward on the token that ends it.

  Args:
    rewards: [B, S] reward of each segment of a row (a step, a turn, a part of
      the answer).
    ends: [B, S] int, the column of its last token. A segment whose column is
      outside 0..T-1 (write -1 for "no such segment") or masked has no effect;
      those that end together add up.
    mask: [B, T] 1.0 on counted tokens.

  Reference: Wu et al. (2023), https://arxiv.org/abs/2306.01693
  """
  columns = jnp.arange(mask.shape[1], dtype=ends.dtype)
  hit = ends[:, :, None] == columns[None, None, :]
  placed = jnp.sum(jnp.where(hit, rewards[:, :, None], 0.0), axis=1)
  return masked.select(placed, mask)


def progress_rewards(
  success: Array, start: Array, ends: Array, mask: Array
) -> Array:
  """[B, T] token rewards: how much each episode of a thought helped.

  The rise of the probability of success since the episode before, on the
  token that ends the episode. A row's sum is the last probability minus the
  first, so beside the outcome only the credit of an episode changes. The
  paper's reward is `last_token_rewards` of the outcome plus a coefficient
  times this. (Its form for continuations of one prefix is `remax` with the
  prefix's probability as `greedy_rewards`.)

  Args:
    success: [B, S] probability of success if the answer had to be given after
      each episode.
    start: [B] the same before the first one.
    ends: [B, S] int, the column of an episode's last token. An episode whose
      column is outside 0..T-1 (write -1 for "no such episode") or masked is
      passed over.
    mask: [B, T] 1.0 on counted tokens.

  Reference: Qu et al. (2025), https://arxiv.org/abs/2503.07572
  """
  size = mask.shape[1]
  at = jnp.take_along_axis(mask, jnp.clip(ends, 0, size - 1), axis=1)
  exists = (ends >= 0) & (ends < size) & (at != 0)

  def forward(before, episode):
    after, real = episode
    rise = jnp.where(real, after - before, 0.0)
    return jnp.where(real, after, before), rise

  _, rises = jax.lax.scan(forward, start, (success.T, exists.T))
  return segment_rewards(rises.T, ends, mask)


shapes.checked(
  globals(),
  [*__all__, *TOKEN],
  rewards='BG',
  last_token_rewards__rewards='B',
  segment_rewards__rewards='BS',
)
