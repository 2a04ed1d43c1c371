"""Our steps of the benchmarks: GRPO and SFT, from public parts.

As in `ours`, nothing is read from `posttrain_jax.run`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks import ours
from posttrain_jax import advantages, rollout, tasks, token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.core.types import Array, Batch, Example, TrainState
from posttrain_jax.losses import (
  policy_gradient,
  reduce,
  regularizers,
  supervised,
  value,
)
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import split
from posttrain_jax.trainers import optim, sft, update
from posttrain_jax.trainers import step as step_lib
from posttrain_jax.trainers.rl import objective
from posttrain_jax.trainers.rl import step as rl_step
from posttrain_jax.trainers.shared import Shared


class Settings(dict):
  """A nested dict whose keys are attributes, as a run's config has them."""

  def __getattr__(self, name: str) -> Any:
    try:
      return self[name]
    except KeyError:
      raise AttributeError(name) from None


def settings(tree: dict[str, Any]) -> Settings:
  """`tree` and its dicts as Settings."""
  nested = lambda x: settings(x) if isinstance(x, dict) else x
  return Settings({key: nested(item) for key, item in tree.items()})


def _sum_examples(key: Array, work: ours.Work) -> Example:
  prompts = ours.sum_prompts(key, work)
  return Example(
    prompt=prompts,
    prompt_mask=jnp.ones(prompts.shape, jnp.float32),
    prompt_id=jnp.arange(work.prompts, dtype=jnp.uint32),
    answer={},
  )


def _none(**keys: Any) -> dict[str, Any]:
  return {'name': 'none', **keys}


OPTIMIZER = dict(
  name='adamw', lr=ours.LEARNING_RATE, schedule='constant', warmup_updates=0,
  final_fraction=0.0, weight_decay=0.0, b1=0.9, b2=0.999, eps=1e-8,
  max_grad_norm=1.0, moments='params', freeze=(),
)  # fmt: skip


def grpo_config(work: ours.Work) -> Settings:
  """configs/rl.py:recipe=grpo, as far as a step reads it."""
  return settings(
    dict(
      group_size=work.group_size,
      num_steps=1000,
      slots=work.slots,
      cache_stages=work.stages,
      guides=(),
      old_logps='sampler',
      decoder=part(decoders, 'sample'),
      advantage=part(advantages, 'group_normalized'),
      loss=part(policy_gradient, 'ppo_clip'),
      reduce=part(reduce, 'sequence_mean'),
      weights=part(token_weights, 'uniform'),
      kl=dict(part(regularizers, 'kl_k3'), coef=0.0, place='loss'),
      value_loss=dict(part(value, 'clipped_value'), coef=0.1),
      sft_loss=dict(part(supervised, 'nll'), coef=0.0, mix='add'),
      sft_weights=part(token_weights, 'uniform'),
      explore=dict(per_prompt=0, coef=0.0, cooling=1.0),
      prefix=dict(per_prompt=0),
      log_reward=dict(floor=1e-6, temperature=1.0),
      entropy_coef=0.0,
      entropy_over='own',
      demos_per_prompt=0,
      contrastive=_none(coef=0.0),
      expert_loss=_none(),
      expert_advantage=_none(),
      token_rewards=_none(),
      optimizer=OPTIMIZER,
      **{
        f'{what}_controller': _none()
        for what in ('kl', 'entropy', 'sft', 'explore', 'prefix')
      },
    )
  )


def _train_state(params, optimizer) -> TrainState:
  return TrainState(
    step=jnp.int32(0), params=params, opt_state=optimizer.init(params)
  )


def _learner(config: Settings, model: ModelConfig, goal, sizes: Settings):
  """(params -> TrainState, update) of an objective."""
  shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), model))
  optimizer = optim.make_optimizer(config.optimizer, shapes, 1000)
  start = functools.partial(_train_state, optimizer=optimizer)
  return start, update.make_update(goal, optimizer, sizes)


class Steps(NamedTuple):
  """A trainer: `init(params) -> TrainState`, and its pure step.

  step  (state, key) or (state, batch, key) -> (state, metrics)
  """

  model: ModelConfig
  init: Callable[..., TrainState]
  step: Callable[..., tuple[TrainState, dict[str, Array]]]


def _grpo(
  work: ours.Work,
  prompt_length: int,
  generate: Callable,
  sample_examples: Callable,
  verify: Callable,
) -> Steps:
  config, model = grpo_config(work), ours.model_config(work.size)
  sizes = settings(
    dict(
      minibatch_rows=0,
      microbatch_rows=work.micro,
      updates_per_rollout=1,
      group_size=work.group_size,
    )
  )
  models = {'policy': model, 'ref': model}
  shared = Shared(prompt_length, work.group_size, work.token_buckets)
  goal = objective.make_objective(config, models, ours.EOS, shared)
  init, change = _learner(config, model, goal, sizes)
  refresh = step_lib.make_refresh(0, 1.0)
  learn = rl_step.make_learn(config, models, change, refresh, shared)
  return Steps(
    model, init, rl_step.make_step(sample_examples, verify, generate, learn)
  )


def grpo(work: ours.Work) -> Steps:
  """A GRPO step on sums, with the stop rule of `work`."""
  model, decoder = (
    ours.model_config(work.size),
    ours.with_stop(work.stop_chance),
  )

  def generate(params, prompts, prompt_mask, prompt_ids, key):
    return rollout.generate(
      params,
      model,
      prompts,
      prompt_mask,
      key,
      group_size=work.group_size,
      max_new_tokens=work.max_new_tokens,
      decoder=decoder,
      eos_id=ours.EOS,
      pad_id=ours.PAD,
      prompt_ids=prompt_ids,
      slots=work.slots,
      stages=work.stages,
    )

  sample = functools.partial(_sum_examples, work=work)
  return _grpo(work, work.prompt_length, generate, sample, ours.has_digit)


def grpo_on_task(
  work: ours.Work, name: str, *, bonus: bool = False, **difficulty: Any
) -> Steps:
  """A GRPO step on an in-graph task, as `build.build(config).step` makes it.

  Lengths and the stop are the task's; `work` gives the rest.

  bonus  adds `ours.has_digit` to the task's reward, so that the groups of an
         untrained model differ, and its parameters move
  """
  task = tasks.make(name, **difficulty)
  generate = rl_step.make_rollout(
    grpo_config(work),
    ours.model_config(work.size),
    task.completion_length,
    ours.EOS,
    ours.PAD,
    slots=work.slots,
    cache_stages=work.stages,
  )

  def sample_examples(key):
    return split.sample_batch(
      task, key, work.prompts, heldout=False, fraction=0.125
    )

  def verify(example, completion, mask):
    found = task.verify(example, completion, mask)
    if bonus:
      found['reward'] += ours.has_digit(example, completion, mask)['reward']
    return found

  return _grpo(work, task.prompt_length, generate, sample_examples, verify)


def supervised_steps(
  size: str, lr: float = ours.LEARNING_RATE, micro: int = 0
) -> Steps:
  """An SFT step `(state, batch, key)` on given rows.

  micro  rows of one forward and backward pass; 0: all
  """
  model = ours.model_config(size)
  config = settings(
    dict(
      loss=part(supervised, 'nll'),
      weights=part(token_weights, 'uniform'),
      reduce=part(reduce, 'token_mean'),
      optimizer=dict(OPTIMIZER, lr=lr),
    )
  )
  sizes = settings(
    dict(
      minibatch_rows=0,
      microbatch_rows=micro,
      updates_per_rollout=1,
      group_size=1,
    )
  )
  goal = sft.make_objective(config, {'policy': model}, ())
  init, change = _learner(config, model, goal, sizes)
  learn = step_lib.make_learn(
    change, lambda state, batch: batch, step_lib.make_refresh(0, 1.0)
  )
  return Steps(model, init, learn)


def full_rows(tokens: Array) -> Batch:
  """Rows of [B, T] tokens; all count but the first, which nothing predicts."""
  return Batch(
    tokens=tokens,
    mask=jnp.ones(tokens.shape, jnp.float32).at[:, 0].set(0.0),
    segment_ids=jnp.ones(tokens.shape, jnp.int32),
    positions=jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape),
  )


class Runner:
  """Steps of a trainer with its own state and keys, one call each."""

  def __init__(
    self,
    steps: Steps,
    seed: int = 0,
    options: dict[str, Any] | None = None,
  ):
    key = jax.random.key(seed)
    params = transformer.init(jax.random.fold_in(key, 1), steps.model)
    self.state = jax.jit(steps.init)(params)
    self.metrics: dict[str, Array] = {}
    self._key, self._count = key, 0
    self._step = jax.jit(steps.step, donate_argnums=0, compiler_options=options)

  def __call__(self, *rows: Batch) -> float:
    """One whole step; 1.0 when it is finished."""
    self._count += 1
    key = jax.random.fold_in(self._key, self._count)
    self.state, self.metrics = self._step(self.state, *rows, key)
    jax.block_until_ready(self.state)
    return 1.0
