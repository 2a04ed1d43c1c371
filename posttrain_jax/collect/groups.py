"""`group_size` rows for each problem, next to each other."""

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
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Batch, Rollout, TrainState

__all__ = ['feedback', 'labelled', 'oracle_and_rollouts', 'rollouts']

Rows = tuple[Batch, dict[str, Array]]
KEEP = ('all', 'correct', 'mixed')


def _first_of_kind(samples: Rollout) -> Array:
  """[B, G] 1.0 where no earlier completion of the group is the same."""
  tokens = jnp.where(samples.mask > 0, samples.completion, -1)
  same = jnp.all(tokens[:, :, None] == tokens[:, None, :], axis=-1)
  earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)[None]
  return 1.0 - jnp.any(same & earlier, axis=-1).astype(jnp.float32)


def _verdicts(rewards: Array, threshold) -> tuple[Array, Array]:
  """(correct, rate of correct ones in the group), [B, G] each."""
  correct = (rewards > threshold).astype(jnp.float32)
  rate = jnp.mean(correct, axis=1, keepdims=True)
  return correct, jnp.broadcast_to(rate, correct.shape)


def _with_verdicts(batch: Batch, rewards: Array, threshold) -> Batch:
  correct, rate = _verdicts(rewards, threshold)
  flat = lambda x: x.reshape(-1)
  wrong = (1.0 - flat(correct))[:, None]
  extras = {
    'scores': flat(rewards),
    'correct': flat(correct),
    'correct_rate': flat(rate),
    'negative': wrong * batch.mask,
  }
  return batch.replace(extras={**batch.extras, **extras})


def rollouts(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'policy',
  keep: str = 'all',
  threshold: float = 0.5,
  dedup: bool = False,
  whole_fraction: float = 0.0,
) -> Rows:
  """Self-made answers and what the verifier says of them.

  sampler         'policy', 'ref' or a role of `config.others`
  keep            'all'; 'correct': those with a reward above `threshold`
                  (rejection sampling, expert iteration); 'mixed': groups with
                  right and wrong answers
  dedup           a completion that its group already has is left out
  whole_fraction  chance of a row to be marked `whole` (prefix fine-tuning)

  Extras: scores, correct, correct_rate, whole [R], negative [R, T] (the tokens
  of wrong answers).

  References: rejection sampling, Yuan et al. (2023),
  https://arxiv.org/abs/2308.01825; the negative side, Chen et al. (2025), NFT,
  https://arxiv.org/abs/2505.18116

  Raises:
    ValueError: an unknown `keep` or `sampler`.
  """
  if keep not in KEEP:
    raise ValueError(f'unknown keep "{keep}".{nearest(keep, KEEP)}')
  attempt_key, whole_key = jax.random.split(key)
  examples, samples, rewards = setting.attempts(
    state, sampler, attempt_key, setting.group_size
  )
  correct, rate = _verdicts(rewards, threshold)
  kept = {
    'all': jnp.ones_like(correct),
    'correct': correct,
    'mixed': ((rate > 0) & (rate < 1)).astype(jnp.float32),
  }[keep]
  if dedup:
    kept = kept * _first_of_kind(samples)
  batch = keep_rows(rows_of(examples, samples), kept.reshape(-1))
  batch = _with_verdicts(batch, rewards, threshold)
  whole = chances(whole_key, examples, setting.group_size) < whole_fraction
  batch.extras['whole'] = whole.astype(jnp.float32)
  return batch, reward_metrics(rewards, kept)


def _gold_first(
  setting: Setting,
  state: TrainState,
  key: Array,
  sampler: str,
  threshold,
  trust: bool = False,
) -> Rows:
  """Groups of a demonstration and `group_size` - 1 own answers, judged; with
  `trust` a demonstration's score is 1 without being judged."""
  attempt_key, solve_key = jax.random.split(key)
  examples, samples, rewards = setting.attempts(
    state, sampler, attempt_key, setting.group_size - 1
  )
  tokens, mask = setting.solve(examples, solve_key)
  gold = demonstrated(setting, examples, tokens, mask)
  if trust:
    gold_rewards = jnp.ones((tokens.shape[0], 1), rewards.dtype)
  else:
    gold_rewards = setting.verify(examples, tokens[:, None], mask[:, None])
  own = rows_of(examples, samples)
  size = setting.num_prompts

  def joined(a, b):
    b = b.reshape(size, setting.group_size - 1, *b.shape[1:])
    both = jnp.concatenate([a[:, None], b], axis=1)
    return both.reshape(-1, *a.shape[1:])

  batch = jax.tree.map(joined, gold, own)
  rewards_of_all = jnp.concatenate([gold_rewards, rewards], axis=1)
  batch = _with_verdicts(batch, rewards_of_all, threshold)
  return batch, reward_metrics(rewards)


def oracle_and_rollouts(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'policy',
  threshold: float = 0.5,
  trust: bool = False,
) -> Rows:
  """Each group is one demonstration and `group_size` - 1 self-made answers.

  trust  a demonstration's score is 1, right or not, as in UFT; else it is what
         the verifier gives it

  Extras: scores, correct, correct_rate [R], negative [R, T], and `expert` [R],
  1.0 on demonstrations.

  Reference: Sun (2024), https://arxiv.org/abs/2403.12017 (expert and own rows
  for a discriminator)

  Raises:
    ValueError: group_size below 2, or an unknown `sampler`.
  """
  if setting.group_size < 2:
    raise ValueError(
      f'group_size={setting.group_size}: a demonstration and at least one '
      'sample make 2'
    )
  batch, metrics = _gold_first(setting, state, key, sampler, threshold, trust)
  is_first = jnp.arange(batch.mask.shape[0]) % setting.group_size == 0
  batch.extras['expert'] = is_first.astype(jnp.float32)
  return batch, metrics


def feedback(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'policy',
  oracle: bool = True,
  threshold: float = 0.5,
) -> Rows:
  """Right and wrong answers, each with its verdict in its prompt.

  Answers are sampled behind "good"; all of them are trained on, and prompts
  never count in the loss. The task is a `tasks.conditioned.Feedback`.

  oracle     the first answer of each group is a demonstration
  threshold  answers with a reward above it are good

  Extras: scores, correct, correct_rate [R], negative [R, T].

  References: Chen et al. (2024), feedback-aware fine-tuning,
  https://arxiv.org/abs/2408.06318 (a verdict on each of several constraints
  there); Wang et al. (2023), LeTI, https://arxiv.org/abs/2305.10314 (with
  `oracle` False; its interpreter's messages beside the verdict are left out)

  Raises:
    ValueError: a task without verdicts in its prompts, an unknown `sampler`,
      or group_size 1 where the oracle's answer is the only one.
  """
  if not hasattr(setting.task, 'relabel'):
    raise ValueError(
      'collect "feedback" writes verdicts into prompts, and this task has no '
      'place for them: take condition.name="feedback"'
    )
  if oracle:
    if setting.group_size < 2:
      raise ValueError(
        f'group_size={setting.group_size}: a demonstration and at least one '
        'sample make 2; or take collect.oracle=False'
      )
    batch, metrics = _gold_first(setting, state, key, sampler, threshold)
  else:
    examples, samples, rewards = setting.attempts(
      state, sampler, key, setting.group_size
    )
    batch = _with_verdicts(rows_of(examples, samples), rewards, threshold)
    metrics = reward_metrics(rewards)
  tokens = setting.task.relabel(batch.tokens, batch.extras['correct'])
  return batch.replace(tokens=tokens), metrics


def labelled(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'ref',
  threshold: float = 0.5,
) -> Rows:
  """Self-made answers labelled good or bad, for unpaired preference losses.

  Extras: scores, correct, correct_rate [R], negative [R, T], and `mismatched`:
  Batch [R, T], each problem with the answer of the next problem of the batch
  (KTO's estimate of the KL).

  Reference: Ethayarajh et al. (2024), KTO, https://arxiv.org/abs/2402.01306

  Raises:
    ValueError: a single problem, or an unknown `sampler`.
  """
  if setting.num_prompts < 2:
    raise ValueError(
      f'prompts_per_step={setting.num_prompts}: collect "labelled" gives each '
      'problem the answers of another and needs at least 2'
    )
  examples, samples, rewards = setting.attempts(
    state, sampler, key, setting.group_size
  )
  batch = _with_verdicts(rows_of(examples, samples), rewards, threshold)
  # Whole groups move on, so that no row keeps an answer to its own problem.
  moved = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), samples)
  batch.extras['mismatched'] = rows_of(examples, moved).replace(extras={})
  return batch, reward_metrics(rewards)
