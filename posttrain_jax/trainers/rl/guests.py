"""Rows that stand in a group beside the policy's own answers.

  expert   demonstrations of the same problem, by the task's oracle: trained on
           as answers with an advantage (LUFFY), by a supervised term (CHORD),
           or both (SRFT)
  explore  the policy's answers at another temperature; the right ones are
           imitated (AEPO)
  prefix   answers that go on from the beginning of a demonstration
           (`trainers.rl.prefixes`)

Each kind has its own terms, and each term its own count: `mask_of` tells the
kinds apart. `trainers.rl.guest_rows` makes the rows.
"""

from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import advantages, rollout
from posttrain_jax.core.resolve import active
from posttrain_jax.core.types import Array, Batch, Rollout
from posttrain_jax.rollout import environments

__all__ = [
  'check',
  'contrasts',
  'demonstrations',
  'exploring',
  'imitates',
  'join',
  'joins_experts',
  'mask_of',
  'rows_beside',
  'useful',
  'with_experts',
]

KINDS = ('own', 'expert', 'explore', 'prefix')

# Whose demonstrations answers are drawn to: `contrastive.annotation`.
ANNOTATIONS = ('own', 'another')
# What imitation is to the other terms: `sft_loss.mix`.
MIXES = ('add', 'convex', 'between', 'coin')
# An answer with a reward above it is right, where a method asks.
RIGHT = 0.5
# Exploring answers are imitated whose advantage in their group is above it.
USEFUL = 0.05


def imitates(config: Any) -> bool:
  """Whether a supervised term is added on demonstrations."""
  steered = config.sft_controller.name != 'none'
  return active(config.sft_loss.coef) or steered


def contrasts(config: Any) -> bool:
  """Whether rollouts are drawn to the demonstrations' embeddings."""
  return config.contrastive.name != 'none'


def joins_experts(config: Any) -> bool:
  """Whether demonstrations are rows of the batch."""
  return config.expert_loss.name != 'none' or imitates(config)


def with_experts(config: Any) -> bool:
  """Whether a step needs demonstrations."""
  return config.demos_per_prompt > 0


def exploring(config: Any) -> bool:
  """Whether a step samples at a second temperature."""
  return config.explore.per_prompt > 0


def rows_beside(config: Any) -> int:
  """Rows of each problem besides its `group_size` own answers."""
  experts = config.demos_per_prompt if joins_experts(config) else 0
  return experts + config.explore.per_prompt + config.prefix.per_prompt


def check(config: Any) -> None:
  """Raises ValueError for parts that would have no effect, or no rows."""
  users = joins_experts(config) or contrasts(config)
  if config.sft_loss.mix != 'add':
    _check_share(config)
  if users and not with_experts(config):
    raise ValueError(
      'demos_per_prompt=0: expert_loss, sft_loss and contrastive train on '
      'demonstrations; set it to at least 1'
    )
  if with_experts(config) and not users:
    raise ValueError(
      f'demos_per_prompt={config.demos_per_prompt}, and nothing reads the '
      'demonstrations: set expert_loss.name, sft_loss.coef or contrastive.name'
    )
  if contrasts(config) and not active(config.contrastive.coef):
    raise ValueError(
      f'contrastive.name="{config.contrastive.name}" with contrastive.coef=0 '
      'has no effect'
    )
  if contrasts(config) and config.demos_per_prompt != 1:
    raise ValueError(
      f'demos_per_prompt={config.demos_per_prompt}: contrastive '
      f'"{config.contrastive.name}" takes one demonstration a problem'
    )
  if config.contrastive.annotation == 'another' and config.prompts_per_step < 2:
    raise ValueError(
      'contrastive.annotation="another" with prompts_per_step='
      f'{config.prompts_per_step}: a step has no other problem; nearest valid: '
      '2'
    )
  if exploring(config) != active(config.explore.coef):
    raise ValueError(
      f'explore.per_prompt={config.explore.per_prompt} and explore.coef='
      f'{config.explore.coef}: set both, or neither'
    )
  cooling = config.explore.cooling
  if active(cooling - 1.0) and not exploring(config):
    raise ValueError(
      f'explore.cooling={cooling} is a share of explore.coef, and no answers '
      'explore: set explore.per_prompt, or leave it at 1'
    )
  if exploring(config) != (config.explore_controller.name != 'none'):
    raise ValueError(
      f'explore.per_prompt={config.explore.per_prompt} and '
      f'explore_controller.name="{config.explore_controller.name}": answers '
      'beside the group need a temperature; take "entropy_temperature"'
    )


def _check_share(config: Any) -> None:
  """Raises ValueError for a share of imitation that is none."""
  mix, coef = config.sft_loss.mix, config.sft_loss.coef
  if isinstance(coef, jax.core.Tracer):
    # Above 1 it would take more than there is, and as an input nobody sees it.
    raise ValueError(
      f'sft_loss.coef is a share (sft_loss.mix="{mix}"), which is no input of '
      'a program: give each value a config of its own, or take '
      'sft_loss.mix="add"'
    )
  if not 0 <= coef <= 1:
    raise ValueError(
      f'sft_loss.coef={coef} is a share (sft_loss.mix="{mix}") and must be in '
      '0..1'
    )
  if not imitates(config):
    raise ValueError(
      f'sft_loss.mix="{mix}" shares a step with imitation, and there is none: '
      'set sft_loss.coef or sft_controller.name, or take sft_loss.mix="add"'
    )


def demonstrations(
  task: Any, examples: Any, key: Array, count: int, width: int, pad_id: int
) -> Rollout:
  """The oracle's answers [B, count, width]; one that is too long is left out.

  A cut answer would teach never to stop, so its mask is 0 throughout.
  """
  keys = rollout.row_keys(key, examples.prompt_id, count)
  keys = keys.reshape(-1, count)
  solve = jax.vmap(jax.vmap(task.solve, (None, 0)))
  solutions = solve(examples, keys)
  tokens, mask = solutions.tokens, solutions.mask
  fits = jnp.sum(mask, axis=-1, keepdims=True) <= width
  missing = [(0, 0), (0, 0), (0, max(0, width - tokens.shape[-1]))]
  fit = lambda x, fill: jnp.pad(
    x, missing, constant_values=fill
  )[..., :width]  # fmt: skip
  mask = fit(mask, 0.0) * fits
  tokens = fit(tokens, pad_id)
  written = jax.vmap(
    lambda some: environments.given(task, examples, some), 1, 1
  )
  return Rollout(
    completion=tokens,
    mask=mask,
    logps=jnp.zeros_like(mask),
    finished=fits[..., 0].astype(jnp.float32),
    given=written(tokens),
  )


def useful(
  own_rewards: Array, rewards: Array, threshold: float = USEFUL
) -> Array:
  """[B, E] 1.0 on exploring answers that are better than their problem's mean.

  Better by `threshold` spreads of the problem's own and exploring answers: a
  problem whose answers earn the same at every temperature teaches nothing.
  """
  everything = jnp.concatenate([own_rewards, rewards], axis=1)
  scaled = advantages.group_normalized(everything, epsilon=1e-6)
  better = scaled[:, own_rewards.shape[1] :] > threshold
  return better.astype(jnp.float32)


def join(own: Batch, beside: dict[str, Batch], num_prompts: int) -> Batch:
  """Groups of own rows followed by those of each kind in `beside`.

  own     [B * G, T]; every field that terms on own rows read
  beside  {kind: [B * k, T]}; what they lack of own's fields is 0, and so are
          the extras that only some kinds have
  """
  every: dict[str, Any] = {}
  for batch in (own, *beside.values()):
    every |= batch.extras

  def marked(batch: Batch, kind: str) -> Batch:
    rows = batch.mask.shape[:1]
    kinds = jnp.full(rows, KINDS.index(kind), jnp.int32)
    return batch.replace(extras={**batch.extras, 'kind': kinds})

  def completed(batch: Batch) -> Batch:
    rows = batch.mask.shape[0]
    blank = lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype)
    fields = {
      name: blank(x)
      for name, x in vars(own).items()
      if name != 'extras' and x is not None and getattr(batch, name) is None
    }
    extras = {name: blank(x) for name, x in every.items()}
    return batch.replace(**fields, extras={**extras, **batch.extras})

  parts = [marked(completed(own), 'own')]
  parts += [marked(completed(rows), kind) for kind, rows in beside.items()]
  grouped = lambda x: x.reshape(num_prompts, -1, *x.shape[1:])

  def joined(*xs):
    both = jnp.concatenate([grouped(x) for x in xs], axis=1)
    return both.reshape(-1, *both.shape[2:])

  return jax.tree.map(joined, *parts)


def mask_of(batch: Batch, kind: str) -> Array:
  """[R, T] the mask on rows of a kind; a batch without kinds is all 'own'."""
  kinds = batch.extras.get('kind')
  if kinds is None:
    return batch.mask if kind == 'own' else jnp.zeros_like(batch.mask)
  return batch.mask * (kinds == KINDS.index(kind))[:, None]
