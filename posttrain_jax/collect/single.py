"""One row for each problem."""

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.collect.setting import (
  Setting,
  chances,
  demonstrations,
  keep_rows,
  reward_metrics,
  rows_of,
)
from posttrain_jax.core.resolve import active
from posttrain_jax.core.types import (
  Array,
  Batch,
  Example,
  Rollout,
  TrainState,
)

__all__ = [
  'best_of',
  'on_policy_mix',
  'oracle',
  'question_free',
  'self_rehearsal',
]

Rows = tuple[Batch, dict[str, Array]]


def _pick(samples: Rollout, index: Array) -> Rollout:
  """The `index`-th [B] completion of each group, as groups of one."""

  def take(x):
    at = index.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.take_along_axis(x, at, axis=1)

  return jax.tree.map(take, samples)


def _where(choose: Array, first: Batch, second: Batch) -> Batch:
  """Row by row `first` where `choose` [B], else `second`."""

  def select(a, b):
    return jnp.where(choose.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

  return jax.tree.map(select, first, second)


def _slipped(
  key: Array, examples: Example, tokens: Array, mask: Array, share: float
) -> Array:
  """[B, C] answers of which a share of tokens is the one that stands at its
  place in the answer of the row before; the last token of either never is."""
  keys = rollout.row_keys(key, examples.prompt_id, 1)
  draw = lambda key: jax.random.uniform(key, tokens.shape[1:])
  inner = mask * jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
  both = inner * jnp.roll(inner, 1, axis=0) > 0
  slips = both & (jax.vmap(draw)(keys) < share)
  return jnp.where(slips, jnp.roll(tokens, 1, axis=0), tokens)


def oracle(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  noise: float = 0.0,
  slips: float = 0.0,
  shuffled: bool = False,
) -> Rows:
  """Demonstrations of the task's oracle.

  noise     share of rows that carry another problem's answer
  slips     share of tokens that are those of another problem's answer, each at
            its place there: where both answers go on, so that lengths stay
  shuffled  every row carries the answer of the row before it: what SHAD tunes
            its probe on, Ye et al. (2024), https://arxiv.org/abs/2412.14780

  Extras: `scores` [B], 1.0 on rows with their own answer, none of it slipped.
  """
  del state
  example_key, solve_key, noise_key = jax.random.split(key, 3)
  examples = setting.examples(example_key)
  tokens, mask = setting.solve(examples, solve_key)
  given = setting.given(examples, tokens)
  wrong = chances(noise_key, examples) < noise
  wrong = jnp.logical_or(wrong, shuffled)
  moved = lambda x: jnp.where(wrong[:, None], jnp.roll(x, 1, axis=0), x)
  tokens, mask = moved(tokens), moved(mask)
  given = given if given is None else moved(given)
  if active(slips):
    slip_key = jax.random.fold_in(noise_key, 1)
    own = mask if given is None else mask * (1.0 - given)
    written = _slipped(slip_key, examples, tokens, own, slips)
    wrong |= jnp.any(written != tokens, axis=1)
    tokens = written
  batch = rollout.assemble(
    examples.prompt, examples.prompt_mask, tokens, mask, given
  )
  return batch.replace(extras={'scores': 1.0 - wrong.astype(jnp.float32)}), {}


def question_free(
  setting: Setting, state: TrainState, key: Array, *, share: float = 1.0
) -> Rows:
  """QFFT: demonstrations of the task's oracle without their questions.

  A row is an answer alone, from position 0 on. Nothing stands before its first
  token, which is therefore not predicted; questions come back when the model is
  asked.

  share  of rows that lose their question, chosen at random; the others are
         those of `oracle`

  Extras: `scores` [B], 1.0.

  Reference: Liu et al. (2025), QFFT, https://arxiv.org/abs/2506.12860 and
  https://github.com/LWL-cpu/Question-Free-Fine-Tuning (a template without
  question, roles or system text)
  """
  del state
  # Those of `oracle`, which draws noise by the last one.
  example_key, solve_key, share_key = jax.random.split(key, 3)
  examples = setting.examples(example_key)
  free = chances(share_key, examples) < share
  asked = jnp.where(free[:, None], 0.0, examples.prompt_mask)
  nothing = examples.replace(prompt_mask=asked)
  tokens, mask = setting.solve(examples, solve_key)
  given = setting.given(examples, tokens)
  batch = rollout.assemble(
    nothing.prompt, nothing.prompt_mask, tokens, mask, given
  )
  ones = jnp.ones(batch.mask.shape[:1])
  # Where a question stands, this is its first token, and counts for nothing.
  batch = batch.replace(mask=batch.mask.at[:, 0].set(0.0))
  return batch.replace(extras={'scores': ones}), {}


def self_rehearsal(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'ref',
  hint: bool = True,
) -> Rows:
  """The model's own answer wherever it is right, the oracle's elsewhere.

  hint  where the own answer is wrong, the model tries again after reading the
        oracle's; a right one is taken before the oracle's (S3FT's paraphrase).
        False: SSR

  The verifier stands for the papers' judge. Own answers are drawn with the
  run's decoder, a new one whenever a problem comes back.

  References: Gupta et al. (2025), S3FT, https://arxiv.org/abs/2502.08130;
  Gupta et al. (2024), SSR, https://arxiv.org/abs/2409.04787
  """
  own_key, solve_key, hint_key = jax.random.split(key, 3)
  examples, samples, rewards = setting.attempts(state, sampler, own_key, 1)
  gold = demonstrations(setting, examples, solve_key)
  right = rewards[:, 0] >= 1.0
  batch = _where(right, rows_of(examples, samples), gold)
  metrics = {'frac_own': jnp.mean(right.astype(jnp.float32))}
  if hint:
    # The prompt of the second try is the problem and its answer.
    shown = examples.replace(
      prompt=gold.tokens,
      prompt_mask=(gold.segment_ids > 0).astype(jnp.float32),
    )
    again = setting.sample(state, sampler, shown, hint_key, 1)
    rewards = setting.verify(examples, again.completion, again.mask)
    use = ~right & (rewards[:, 0] >= 1.0)
    batch = _where(use, rows_of(examples, again), batch)
    metrics['frac_paraphrased'] = jnp.mean(use.astype(jnp.float32))
  return batch, metrics


def best_of(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'policy',
  threshold: float = 0.0,
  judge: str = '',
) -> Rows:
  """The best of `group_size` samples of each problem.

  Rows whose best reward is not above `threshold` are left out. Of equally good
  samples the first is taken.

  judge  role of the reward model of `config.others` whose score is the reward;
         '' takes the verifier's

  Extras: `scores` [B], the reward.

  References: Dong et al. (2023), RAFT, https://arxiv.org/abs/2304.06767; with
  a direction in the prompt: Wang et al. (2024), DPA,
  https://arxiv.org/abs/2402.18571; with a reward model and a KL to the start:
  Mukobi et al. (2023), SuperHF, https://arxiv.org/abs/2310.16763
  """
  if judge:
    examples, samples = setting.answered(
      state, sampler, key, setting.group_size
    )
    rewards = setting.scored(state, judge, examples, samples)
  else:
    examples, samples, rewards = setting.attempts(
      state, sampler, key, setting.group_size
    )
  best = jnp.argmax(rewards, axis=1)
  top = jnp.max(rewards, axis=1)
  batch = rows_of(examples, _pick(samples, best))
  keep = top > threshold
  batch = keep_rows(batch, keep).replace(extras={'scores': top})
  return batch, reward_metrics(rewards, keep)


def on_policy_mix(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  fraction: float = 0.5,
  sampler: str = 'policy',
  other: str = 'oracle',
) -> Rows:
  """A share of rows by the student, the others from a fixed source.

  fraction  chance of a row to be the student's sample (GKD's lambda)
  other     'oracle', or the role of a model that writes the other rows, such
            as 'teacher'

  Reference: Agarwal et al. (2024), GKD, https://arxiv.org/abs/2306.13649
  """
  own_key, other_key, pick_key = jax.random.split(key, 3)
  examples, samples, rewards = setting.attempts(state, sampler, own_key, 1)
  own = rows_of(examples, samples)
  if other == 'oracle':
    given = demonstrations(setting, examples, other_key)
  else:
    written = setting.sample(state, other, examples, other_key, 1)
    given = rows_of(examples, written)
  choose = chances(pick_key, examples) < fraction
  metrics = {'frac_own': jnp.mean(choose.astype(jnp.float32))}
  return _where(choose, own, given), {**reward_metrics(rewards), **metrics}
