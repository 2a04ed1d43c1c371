"""From a config to the functions of a run; nothing here is compiled.

Only `init_from`, a tokenizer and data files are read from disk."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import trainers
from posttrain_jax.core.types import Array, TrainState
from posttrain_jax.data import pipeline
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.evals import on_host
from posttrain_jax.evals.in_graph import Evaluator
from posttrain_jax.evals.on_file import FileEvaluator
from posttrain_jax.models import transformer
from posttrain_jax.models.adapted import trained
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params.adapters import Adapter
from posttrain_jax.rollout import guides
from posttrain_jax.run import (
  auto,
  base,
  best,
  host_tasks,
  inputs,
  model_folder,
  offload,
  profile,
  roles,
  values,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.roles import Start
from posttrain_jax.run.sizes import Sizes
from posttrain_jax.run.sizes import resolve as resolve_sizes
from posttrain_jax.run.tasks import make_evaluators, make_task, training_task
from posttrain_jax.tasks import conditioned
from posttrain_jax.tasks.base import Task
from posttrain_jax.trainers import guard, optim, step, update

__all__ = ['Run', 'build']


@dataclasses.dataclass(frozen=True)
class Run:
  """The functions and sizes of one run.

  models      {role: ModelConfig} that the run holds: 'policy', and the frozen
              ones, 'ref' and those of `config.others`
  init        ({role: params}, key=None) -> TrainState, jit-able; roles as
              `roles` gives, without adapters, which are drawn from the key
              (None: that of the config's seed)
  step        (state, key) -> (state, metrics), jit-able; with `batches`,
              (state, batch) -> (state, metrics); or a `trainers.rl.HostStep`
  evaluators  {name: Evaluator}; '' is the run's own task; none where the
              run's tokenizer is not the task's
  on_file     (state) -> metrics of the held-out records of the run's file
  batches     () -> iterator of batches; None where the step makes its own
  collect     (state, key) -> (Batch, metrics) and
  learn       (state, batch, key) -> (state, metrics): the halves of a step that
              makes its own rows (not of RL's)
  adapter     what is trained beside the policy; None: the policy itself
  generate    (params, prompts, prompt_mask, prompt_ids, key) -> Rollout, the
              answers of an RL step alone
  warmup      what is to be told of a default that was longer than the run
  """

  config: Any
  sizes: Sizes
  models: dict[str, ModelConfig]
  task: Task | HostTask | None
  tokenizer: Any
  init: Callable[..., TrainState]
  step: Any
  evaluators: dict[str, Evaluator | on_host.HostEvaluator]
  on_file: FileEvaluator | None = None
  batches: Callable[[], pipeline.BatchIterator] | None = None
  collect: Callable | None = None
  learn: Callable | None = None
  adapter: Adapter | None = None
  generate: Callable[..., Any] | None = None
  warmup: str = ''

  @property
  def model(self) -> ModelConfig:
    """The model that is trained."""
    return self.models['policy']


def _checked(config: Any) -> Any:
  """The config with its tokenizer decided, its values looked at."""
  values.check(config)
  config = model_folder.settled(config)
  guides.names(config.guides)
  best.check(config)
  profile.window(config.log.profile_steps)
  if config.condition.name != 'none' and config.tokenizer != 'task':
    raise ValueError(
      f'condition.name="{config.condition.name}" is for in-graph tasks, '
      f'not for tokenizer="{config.tokenizer}"'
    )
  return config


def build(config: Any) -> Run:
  """The run that a config describes.

  Floats of a config may be traced arrays (`sweep`), where the parts that read
  them allow it.

  Raises:
    ValueError: whatever in the config cannot work, before any compilation.
  """
  config = _checked(config)
  kind = trainers.kind(config.paradigm)
  kind.check(config)
  inputs.check(config)
  host_tasks.check(config)
  tokenizer = model_folder.load_tokenizer(config)
  records = kind.records(config)
  provided = step.provided(config, records) if records else ()
  needs = kind.needs(config, provided)
  config = inputs.counted(config, tokenizer)
  policy = roles.make_model(
    config, tokenizer.vocab_size, kind.value_head(config)
  )
  held = kind.roles(config, needs, provided)
  adapter = base.adapter_of(config, policy, held)
  if 'ref' not in held and (config.ref.path or config.ref.refresh_every):
    raise ValueError(
      f'ref.path="{config.ref.path}", ref.refresh_every='
      f'{config.ref.refresh_every}: this method has no reference'
    )
  offload.check(config, bool(held))
  models = roles.make_models(config, policy, held)
  frozen = {x: roles.path_of(config, x) for x in models if x != 'policy'}
  model_folder.check_tokens(config, tokenizer, frozen)
  task = host_tasks.make(config, tokenizer)
  if task is None and config.tokenizer == 'task':
    task = conditioned.wrap(make_task(config.task), **dict(config.condition))
  shown = training_task(config, task)
  sizes = resolve_sizes(config, task)
  config, gave_way = _rising(config, sizes.num_updates)
  batches = inputs.make_batches(config, tokenizer, task, sizes)
  rate, _ = roles.rate_of(config, policy)
  make_update, optimizer = _updater(config, policy, sizes, rate, adapter)
  steps = kind.make_step(
    step.Setup(
      config=config,
      models=models,
      task=shown,
      tokenizer=tokenizer,
      sizes=sizes,
      needs=needs,
      provided=provided,
      from_host=batches is not None,
      make_update=make_update,
      refresh=step.make_refresh(config.ref.refresh_every, config.ref.mixup),
    )
  )
  return Run(
    config=config,
    sizes=sizes,
    models={k: m for k, m in models.items() if k in held | {'policy'}},
    task=task,
    tokenizer=tokenizer,
    init=_make_init(config, adapter, optimizer, held, sizes),
    step=offload.wrapped(
      guard.guarded(steps.step, config.on_nonfinite), config
    ),
    evaluators=make_evaluators(config, policy, task, tokenizer, sizes),
    on_file=inputs.make_file_evaluator(
      batches, offload.brought(steps.judge, config)
    ),
    batches=batches,
    collect=steps.collect,
    learn=steps.learn,
    adapter=adapter,
    generate=steps.generate,
    warmup=gave_way,
  )


def _rising(config: Any, num_updates: int) -> tuple[Any, str]:
  """(the config with its warmup as a number, what to tell of it)."""
  asked = config.optimizer.warmup_updates
  taken, told = auto.warmup(asked, config.paradigm, num_updates)
  if config.optimizer.warmup_ratio > 0:  # the ratio rules
    told = ''
  if taken is not asked:
    config = config_lib.with_values(config, {config_lib.WARMUP: taken})
  return config, told


def _make_init(
  config: Any,
  adapter: Adapter | None,
  optimizer: Any,
  held: set[str],
  sizes: Sizes,
) -> Callable[..., TrainState]:
  """`Run.init`; `held` are the frozen roles."""
  kind = trainers.kind(config.paradigm)
  moving, kept = kind.controllers(config), kind.memories(config, sizes)

  def init_state(params: Start, key: Array | None = None) -> TrainState:
    policy = params['policy']
    if adapter is not None:
      policy = adapter.attach(policy, base.start_key(config, key))
    frozen = lambda role: base.frozen(config, params, policy, role)
    opt_state = optimizer.init(trained(policy))
    control = {what: c.init() for what, c in moving.items()}
    control |= {what: make(opt_state) for what, make in kept.items()}
    return TrainState(
      step=jnp.int32(0),
      params=policy,
      opt_state=opt_state,
      ref_params=frozen('ref') if 'ref' in held else None,
      others={role: frozen(role) for role in sorted(held - {'ref'})},
      control=control,
    )

  return init_state


def _updater(
  config: Any,
  model: ModelConfig,
  sizes: Sizes,
  peak: Any,
  adapter: Adapter | None,
):
  """(goal -> update with the learning rate among its metrics, optimizer).

  peak  learning rate
  """
  key = jax.random.key(0)
  shapes = jax.eval_shape(lambda: transformer.init(key, model))
  rate: Any = None
  table = transformer.param_table(model)
  specs = {path: param.spec for path, param in table.items()}
  if adapter is not None:
    specs |= adapter.specs(model)
    shapes = trained(jax.eval_shape(adapter.attach, shapes, key))
    rate = adapter.b_rate
  optimizer = optim.make_optimizer(
    config.optimizer,
    shapes,
    sizes.num_updates,
    lr=peak,
    b_rate=rate,
    specs=specs,
  )
  schedule = optim.make_schedule(config.optimizer, sizes.num_updates)

  def make_update(goal, of=sizes):
    change = update.make_update(goal, optimizer, of, specs)

    def logged(state, batch, key, **given):
      # The rate of the step's first minibatch; a step that was skipped made no
      # updates.
      rate = peak * schedule(optim.updates_done(state.opt_state))
      state, metrics = change(state, batch, key, **given)
      rate = jnp.asarray(rate, jnp.float32)
      return state, {**metrics, 'learning_rate': rate}

    return logged

  return make_update, optimizer
