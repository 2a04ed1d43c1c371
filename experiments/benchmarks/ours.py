"""Our sides of the benchmarks, put together from the library's public parts.

Only jax, flax, optax and numpy are imported: `build` would also do it, but it
reads tokenizers, safetensors, grain and ml_collections.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax import advantages, rollout, tasks, token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.core.types import Array, Batch, Example, Rollout, TrainState
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
from posttrain_jax.tasks import split, vocab
from posttrain_jax.trainers import optim, sft, update
from posttrain_jax.trainers import step as step_lib
from posttrain_jax.trainers.rl import objective
from posttrain_jax.trainers.rl import step as rl_step
from posttrain_jax.trainers.shared import Shared

EOS, PAD, VOCAB = vocab.EOS, vocab.PAD, vocab.VOCAB_SIZE
# The digit that a completion is rewarded for, and how early it has to come.
WANTED, EARLY = vocab.token('3'), 4
LEARNING_RATE = 1e-4
# Of XLA's CPU compiler, as `jax.jit` takes it: which operations it hands to the
# kernels of YNNPACK. Everywhere: XLA_FLAGS=--xla_cpu_experimental_ynn_...
YNNPACK = 'xla_cpu_experimental_ynn_fusion_type'
WITHOUT_YNNPACK = {YNNPACK: ''}

# name -> (width, layers, heads, MLP size); parameters with the embedding.
SIZES = {
  '1m': (128, 4, 4, 512),  # 1.06M
  '0.4m': (96, 3, 4, 384),  # 0.45M
  'toy': (32, 2, 2, 64),
}


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


class Work(NamedTuple):
  """The sizes of a rollout or of a GRPO step.

  stop_chance    of the stop token at every step, exactly; 0: it never comes
  slots          completions decoded at a time; 0: all
  stages         steps in which the cache grows, where there are no slots
  token_buckets  sizes that the update is compiled for, to skip padding
  micro          rows of one forward and backward pass; 0: all
  """

  size: str
  prompts: int
  prompt_length: int
  group_size: int
  max_new_tokens: int
  stop_chance: float
  slots: int = 0
  token_buckets: int = 1
  stages: int = 1
  micro: int = 0


def model_config(size: str) -> ModelConfig:
  """The Qwen2 of a size."""
  width, layers, heads, mlp_dim = SIZES[size]
  return ModelConfig(
    vocab_size=VOCAB,
    width=width,
    num_layers=layers,
    num_heads=heads,
    num_kv_heads=heads,
    head_dim=width // heads,
    mlp_dim=mlp_dim,
    qkv_bias=True,
    scan_layers=False,
    max_length=512,
  )


def with_stop(chance: float) -> Callable[[Array, Array], tuple[Array, Array]]:
  """A decoder that samples, with P(stop token) = `chance` at every step."""

  def decoder(logits: Array, keys: Array):
    is_stop = (jnp.arange(logits.shape[-1]) == EOS)[None]
    others = jnp.where(is_stop, -jnp.inf, logits)
    if chance == 0.0:
      return decoders.sample(others, keys)
    total = jax.nn.logsumexp(others, axis=-1, keepdims=True)
    odds = jnp.log(chance / (1.0 - chance))
    return decoders.sample(jnp.where(is_stop, total + odds, others), keys)

  return decoder


def make_generate(
  work: Work, options: dict[str, Any] | None = None
) -> Callable[..., Rollout]:
  """Jitted (params, prompts [B, P], key) -> Rollout.

  options  of the compiler, as `jax.jit` takes them
  """
  model, decoder = model_config(work.size), with_stop(work.stop_chance)

  def generate(params, prompts: Array, key: Array) -> Rollout:
    return rollout.generate(
      params,
      model,
      prompts,
      jnp.ones(prompts.shape, jnp.float32),
      key,
      group_size=work.group_size,
      max_new_tokens=work.max_new_tokens,
      decoder=decoder,
      eos_id=EOS,
      pad_id=PAD,
      slots=work.slots,
      stages=work.stages,
    )

  return jax.jit(generate, compiler_options=options)


def random_prompts(key: Array, work: Work) -> Array:
  """[B, P] ordinary tokens."""
  shape = (work.prompts, work.prompt_length)
  return jax.random.randint(key, shape, vocab.ZERO, VOCAB, jnp.int32)


def sum_prompts(key: Array, work: Work) -> Array:
  """[B, P] prompts 'ddd+ddd=' that fill their P tokens.

  Raises:
    ValueError: an odd or too small prompt_length.
  """
  digits = (work.prompt_length - 2) // 2
  if digits < 1 or work.prompt_length % 2:
    raise ValueError(
      f'prompt_length={work.prompt_length} is not 2 * digits + 2'
    )
  shape = (work.prompts, work.prompt_length)
  text = vocab.ZERO + jax.random.randint(key, shape, 0, 10, jnp.int32)
  text = text.at[:, digits].set(vocab.token('+'))
  return text.at[:, -1].set(vocab.token('='))


def _sum_examples(key: Array, work: Work) -> Example:
  prompts = sum_prompts(key, work)
  return Example(
    prompt=prompts,
    prompt_mask=jnp.ones(prompts.shape, jnp.float32),
    prompt_id=jnp.arange(work.prompts, dtype=jnp.uint32),
    answer={},
  )


def has_digit(example: Example, completion: Array, mask: Array) -> dict:
  """Reward 1.0 for a '3' among the first tokens; the peers get the same."""
  del example
  early = (completion[:EARLY] == WANTED) & (mask[:EARLY] > 0)
  return {'reward': jnp.any(early).astype(jnp.float32)}


def _none(**keys: Any) -> dict[str, Any]:
  return {'name': 'none', **keys}


OPTIMIZER = dict(
  name='adamw', lr=LEARNING_RATE, schedule='constant', warmup_updates=0,
  final_fraction=0.0, weight_decay=0.0, b1=0.9, b2=0.999, eps=1e-8,
  max_grad_norm=1.0, freeze=(),
)  # fmt: skip


def grpo_config(work: Work) -> Settings:
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
      explore=dict(per_prompt=0, coef=0.0),
      prefix=dict(per_prompt=0),
      log_reward=dict(floor=1e-6, temperature=1.0),
      entropy_coef=0.0,
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
  work: Work,
  prompt_length: int,
  generate: Callable,
  sample_examples: Callable,
  verify: Callable,
) -> Steps:
  config, model = grpo_config(work), model_config(work.size)
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
  goal = objective.make_objective(config, models, EOS, shared)
  init, change = _learner(config, model, goal, sizes)
  refresh = step_lib.make_refresh(0, 1.0)
  learn = rl_step.make_learn(config, models, change, refresh, shared)
  return Steps(
    model, init, rl_step.make_step(sample_examples, verify, generate, learn)
  )


def grpo(work: Work) -> Steps:
  """A GRPO step on sums, with the stop rule of `work`."""
  model, decoder = model_config(work.size), with_stop(work.stop_chance)

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
      eos_id=EOS,
      pad_id=PAD,
      prompt_ids=prompt_ids,
      slots=work.slots,
      stages=work.stages,
    )

  sample = functools.partial(_sum_examples, work=work)
  return _grpo(work, work.prompt_length, generate, sample, has_digit)


def grpo_on_task(
  work: Work, name: str, *, bonus: bool = False, **difficulty: Any
) -> Steps:
  """A GRPO step on an in-graph task, as `build.build(config).step` makes it.

  Lengths and the stop are the task's; `work` gives the rest.

  bonus  adds `has_digit` to the task's reward, so that the groups of an
         untrained model differ, and its parameters move
  """
  task = tasks.make(name, **difficulty)
  generate = rl_step.make_rollout(
    grpo_config(work),
    model_config(work.size),
    task.completion_length,
    EOS,
    PAD,
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
      found['reward'] += has_digit(example, completion, mask)['reward']
    return found

  return _grpo(work, task.prompt_length, generate, sample_examples, verify)


def supervised_steps(
  size: str, lr: float = LEARNING_RATE, micro: int = 0
) -> Steps:
  """An SFT step `(state, batch, key)` on given rows.

  micro  rows of one forward and backward pass; 0: all
  """
  model = model_config(size)
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
