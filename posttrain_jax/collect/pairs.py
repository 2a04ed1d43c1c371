"""Two rows for each problem: the chosen answer, then the rejected one."""

import jax
import jax.numpy as jnp

from posttrain_jax.collect.setting import (
  Setting,
  chances,
  demonstrated,
  keep_rows,
  reward_metrics,
  rows_of,
)
from posttrain_jax.collect.single import _pick
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Batch, TrainState

__all__ = ['best_vs_worst', 'oracle_vs_rollout']

Rows = tuple[Batch, dict[str, Array]]
KEEP = ('all', 'wrong')
NOISE = 2  # folded into a key for which pairs are turned round


def interleave(chosen: Batch, rejected: Batch) -> Batch:
  """Rows c0 r0 c1 r1 ... of two batches."""

  def zipped(a, b):
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

  return jax.tree.map(zipped, chosen, rejected)


def pairs_of(
  chosen: Batch, rejected: Batch, scores: tuple[Array, Array], keep: Array
) -> Batch:
  """Rows of pairs with both sides' scores [B]; where `keep` [B] is 0 neither
  counts."""
  batch = interleave(chosen, rejected)
  both = jnp.stack(scores, axis=1).reshape(-1)
  batch = keep_rows(batch, jnp.repeat(keep, 2))
  return batch.replace(extras={'scores': both})


def best_vs_worst(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'policy',
  margin: float = 0.0,
  noise: float = 0.0,
  fixed: bool = False,
) -> Rows:
  """The best and the worst of `group_size` self-made answers.

  sampler  'policy' is online preference optimisation; 'ref' gives what an
           offline data set of the reference's answers would hold
  margin   pairs whose rewards differ by no more are left out: ties say nothing
  noise    share of pairs that are turned round, as by raters who err
  fixed    the same pair whenever a problem comes back, as in a stored data set
           (with a frozen sampler, and `problems.count` for its size), turned
           round or not

  Extras: `scores` [R], the rewards, which stay with their answers.

  Reference: Guo et al. (2024), online AI feedback,
  https://arxiv.org/abs/2402.04792

  Raises:
    ValueError: group_size below 2, or an unknown `sampler`.
  """
  if setting.group_size < 2:
    raise ValueError(f'group_size={setting.group_size}: a pair needs 2 samples')
  examples, samples, rewards = setting.attempts(
    state, sampler, key, setting.group_size, fixed=fixed
  )
  asked, noise_key = setting.fixed(examples) if fixed else (examples, key)
  turned = chances(jax.random.fold_in(noise_key, NOISE), asked) < noise
  best, worst = jnp.argmax(rewards, axis=1), jnp.argmin(rewards, axis=1)
  first = jnp.where(turned, worst, best)
  second = jnp.where(turned, best, worst)
  earned = lambda at: jnp.take_along_axis(rewards, at[:, None], axis=1)[:, 0]
  keep = earned(best) - earned(worst) > margin
  batch = pairs_of(
    rows_of(examples, _pick(samples, first)),
    rows_of(examples, _pick(samples, second)),
    (earned(first), earned(second)),
    keep,
  )
  return batch, reward_metrics(rewards, keep)


def oracle_vs_rollout(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'ref',
  keep: str = 'all',
  fixed: bool = False,
) -> Rows:
  """A demonstration against a self-made answer.

  keep   'all', as SPIN does; 'wrong': only where the self-made answer is wrong
  fixed  as of `best_vs_worst`

  With `ref.refresh_every` the opponent is the previous iterate.

  Extras: `scores` [R], what the verifier gives both.

  Reference: Chen et al. (2024), SPIN, https://arxiv.org/abs/2401.01335

  Raises:
    ValueError: an unknown `keep` or `sampler`.
  """
  if keep not in KEEP:
    raise ValueError(f'unknown keep "{keep}".{nearest(keep, KEEP)}')
  attempt_key, solve_key = jax.random.split(key)
  examples, samples, rewards = setting.attempts(
    state, sampler, attempt_key, 1, fixed=fixed
  )
  tokens, mask = setting.solve(examples, solve_key)
  gold = setting.verify(examples, tokens[:, None], mask[:, None])[:, 0]
  kept = jnp.ones_like(gold) if keep == 'all' else gold - rewards[:, 0]
  batch = pairs_of(
    demonstrated(setting, examples, tokens, mask),
    rows_of(examples, samples),
    (gold, rewards[:, 0]),
    kept > 0,
  )
  return batch, reward_metrics(rewards, kept)
