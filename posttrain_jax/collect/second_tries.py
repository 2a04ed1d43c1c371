"""Two rows for each problem: a first answer, and a second that saw it."""

import jax
import jax.numpy as jnp

from posttrain_jax.collect.pairs import interleave
from posttrain_jax.collect.setting import (
  Setting,
  demonstrated,
  keep_rows,
  rows_of,
)
from posttrain_jax.collect.single import _pick
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Batch, Example, Rollout, TrainState

__all__ = ['KEEP', 'PICK', 'retries']

Rows = tuple[Batch, dict[str, Array]]
KEEP, PICK = ('all', 'better', 'success'), ('best_of', 'oracle')


def bare(setting: Setting, examples: Example) -> Example:
  """The problems [B, ...] without an answer beside them."""
  return jax.vmap(setting.task.bare)(examples)


def beside(
  setting: Setting, examples: Example, samples: Rollout, key: Array
) -> Example:
  """The problems, each beside the answer [B, 1, C] that was given to it."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, examples.prompt_id)
  answers = samples.completion[:, 0], samples.mask[:, 0]

  def show(example, key, tokens, mask):
    return setting.task.show(example, tokens, mask, key)

  return jax.vmap(show)(examples, keys, *answers)


def retries(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'policy',
  pick: str = 'best_of',
  keep: str = 'all',
) -> Rows:
  """RISE: the model's first answer, and where it is wrong, a second one behind
  the first and its mark.

  pick  whose second answer: 'best_of', the best of `group_size` of the model's
        own (self-distillation), or 'oracle', a demonstration
  keep  second rows that are trained on: 'all', 'better' than the first answer,
        or 'success', right ones; first ones always are, but with 'success'

  Extras: `scores` [R], the reward of each row's answer, of which the paper
  makes its weight (`token_weights.reward_weighted`).

  Reference: Qu et al. (2024), RISE, https://arxiv.org/abs/2407.18219 and
  https://github.com/cmu-mind/RISE, workflow_convert.py (two turns of data)

  Raises:
    ValueError: an unknown `keep`, `pick` or `sampler`; a task that shows no
      answers.
  """
  for name, value, known in (('keep', keep, KEEP), ('pick', pick, PICK)):
    if value not in known:
      raise ValueError(f'unknown {name} "{value}".{nearest(value, known)}')
  if not hasattr(setting.task, 'show'):
    raise ValueError(
      'collect "retries" asks again behind an answer, and this task has no '
      'place for it: take condition.name="seen_answer"'
    )
  example_key, first_key, again_key, solve_key = jax.random.split(key, 4)
  examples = setting.examples(example_key)
  plain = bare(setting, examples)
  first = setting.sample(state, sampler, plain, first_key, 1)
  earned = setting.verify(plain, first.completion, first.mask)[:, 0]
  asked = beside(setting, examples, first, solve_key)
  if setting.task.feedback == 'truth':  # it is read in the prompt
    setting.spent.demonstrations += asked.prompt_id.shape[0]
  if pick == 'oracle':
    tokens, mask = setting.solve(asked, solve_key)
    second = demonstrated(setting, asked, tokens, mask)
    best = setting.verify(asked, tokens[:, None], mask[:, None])[:, 0]
  else:
    tries = setting.sample(state, sampler, asked, again_key, setting.group_size)
    rewards = setting.verify(asked, tries.completion, tries.mask)
    best = jnp.max(rewards, axis=1)
    second = rows_of(asked, _pick(tries, jnp.argmax(rewards, axis=1)))
  right, mended = earned >= 1.0, best >= 1.0
  kept = {
    'all': jnp.ones_like(right),
    'better': best > earned,
    'success': mended,
  }[keep]
  use_first = right if keep == 'success' else jnp.ones_like(right)
  use = jnp.stack([use_first, kept & ~right], axis=1).reshape(-1)
  batch = keep_rows(interleave(rows_of(plain, first), second), use)
  scores = jnp.stack([earned, best], axis=1).reshape(-1)
  mean = lambda x: jnp.mean(x.astype(jnp.float32))
  metrics = {
    'reward': jnp.mean(earned),
    'frac_rows_kept': mean(use),
    'frac_mended': mean(mended & ~right),
  }
  return batch.replace(extras={'scores': scores}), metrics
