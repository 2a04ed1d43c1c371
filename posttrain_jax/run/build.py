"""From a config to the functions of a run; nothing here is compiled.

Only `init_from`, a tokenizer and data files are read from disk."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import collect
from posttrain_jax.core.resolve import nearest, resolve
from posttrain_jax.core.types import TrainState
from posttrain_jax.data import pipeline, tokenizers
from posttrain_jax.data.text_task import TextTask, is_text
from posttrain_jax.evals import on_host
from posttrain_jax.evals.in_graph import Evaluator
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rewards import answers
from posttrain_jax.rewards import tokens as token_rewards
from posttrain_jax.rollout import decoders, guides
from posttrain_jax.run import drivers, inputs
from posttrain_jax.run import roles as start
from posttrain_jax.run import sizes as run_sizes
from posttrain_jax.run.roles import Start
from posttrain_jax.run.tasks import make_evaluators, make_task, training_task
from posttrain_jax.tasks import conditioned, split
from posttrain_jax.trainers import (
  arrays,
  distill,
  optim,
  preference,
  sft,
  step,
  update,
)
from posttrain_jax.trainers.objective import bind
from posttrain_jax.trainers.rl import checks, guest_rows, objective, prefixes
from posttrain_jax.trainers.rl import step as rl_step
from posttrain_jax.trainers.shared import Shared

PARADIGMS = ('sft', 'preference', 'rl', 'distill')


@dataclasses.dataclass(frozen=True)
class Run:
  """The functions and sizes of one run.

  models      {role: ModelConfig} that the run holds: 'policy', and the frozen
              ones, 'ref' and those of `config.others`
  init        ({role: params}) -> TrainState, jit-able; roles as `start` gives
  step        (state, key) -> (state, metrics), jit-able; with `batches`,
              (state, batch) -> (state, metrics); or a host.HostStep
  evaluators  {name: Evaluator}; '' is the run's own task; none where the
              run's tokenizer is not the task's
  batches     () -> iterator of batches; None where the step makes its own
  collect     (state, key) -> (Batch, metrics) and
  learn       (state, batch, key) -> (state, metrics): the halves of a step that
              makes its own rows (not of RL's)
  """

  config: Any
  sizes: Any
  models: dict[str, ModelConfig]
  task: Any
  tokenizer: Any
  init: Callable[[Start], TrainState]
  step: Callable | drivers.HostStep
  evaluators: dict[str, Evaluator | on_host.HostEvaluator]
  batches: Callable[[], pipeline.BatchIterator] | None = None
  collect: Callable | None = None
  learn: Callable | None = None

  @property
  def model(self) -> ModelConfig:
    """The model that is trained."""
    return self.models['policy']


def _check(config: Any) -> None:
  guides.names(config.guides)
  if config.paradigm not in PARADIGMS:
    raise ValueError(
      f'unknown paradigm "{config.paradigm}".'
      + nearest(config.paradigm, PARADIGMS)
    )
  if not 0 <= config.heldout_fraction < 1:
    raise ValueError(
      f'heldout_fraction={config.heldout_fraction} is not in [0, 1)'
    )
  if config.condition.name != 'none' and config.tokenizer != 'task':
    raise ValueError(
      f'condition.name="{config.condition.name}" is for in-graph tasks, '
      f'not for tokenizer="{config.tokenizer}"'
    )
  if config.paradigm != 'rl':
    if not inputs.on_data(config):
      collect.check(config)
    elif config.paradigm == 'sft' and config.data.packing:
      sft.check_packing(config)
    return
  checks.check(config)


def _provided(config: Any) -> tuple[str, ...]:
  """Names of the arrays that come with the rows of a run."""
  if inputs.on_data(config):
    return inputs.provided(config)
  return collect.PROVIDES[config.collect.name]


def _needs(config: Any) -> frozenset[str]:
  """Names of the arrays that frozen models or the rows have to give."""
  if config.paradigm == 'sft':
    return sft.needs(config, _provided(config))
  if config.paradigm == 'preference':
    return preference.needs(config, _provided(config))
  return frozenset()


def _value_head(config: Any) -> bool:
  if config.paradigm == 'rl':
    return objective.needs_value_head(config)
  if config.paradigm == 'preference':
    return preference.kind_of(config.loss.name) == 'reward'
  return config.paradigm == 'sft' and sft.reads_values(config)


def _roles(config: Any, needs: frozenset[str]) -> set[str]:
  """Frozen models that a run holds."""
  roles = set(config.get('others', {}))
  if config.paradigm == 'rl':
    return roles | ({'ref'} if checks.needs_reference(config) else set())
  roles |= arrays.roles(needs, _provided(config))
  if not inputs.on_data(config):
    roles |= collect.roles(config.collect)
  if config.paradigm == 'preference' and 'mismatched' in needs:
    roles.add('ref')
  return roles


def build(config: Any) -> Run:
  """The run that a config describes.

  Floats of a config may be traced arrays (`sweep.py`), where the parts that
  read them allow it.

  Raises:
    ValueError: whatever in the config cannot work, before any compilation.
  """
  _check(config)
  inputs.check(config)
  tokenizer = tokenizers.load(config.tokenizer)
  needs = _needs(config)
  policy = start.make_model(config, tokenizer.vocab_size, _value_head(config))
  roles = _roles(config, needs)
  if 'ref' not in roles and (config.ref.path or config.ref.refresh_every):
    raise ValueError(
      f'ref.path="{config.ref.path}", ref.refresh_every='
      f'{config.ref.refresh_every}: this method has no reference'
    )
  models = start.make_models(config, policy, roles)
  task = None
  if is_text(config.task.name):
    task = inputs.make_text_task(config, tokenizer)
  elif config.tokenizer == 'task':
    task = conditioned.wrap(make_task(config.task), **dict(config.condition))
  shown = training_task(config, task)
  sizes = run_sizes.resolve(config, task)
  run_sizes.check_micro(config, sizes)
  batches = inputs.make_batches(config, tokenizer, task, sizes)
  make_update, optimizer = _updater(config, policy, sizes)
  refresh = step.make_refresh(config.ref.refresh_every, config.ref.mixup)
  source = learn = None
  if config.paradigm == 'rl':
    run_step = _rl_step(
      config, models, shown, tokenizer, make_update, refresh, sizes
    )
  else:
    if batches is None:
      source = _source(config, models, shown, tokenizer, sizes)
    learn = step.make_learn(
      make_update(_objective(config, models)),
      arrays.make_prepare(needs, _provided(config), models),
      refresh,
    )
    run_step = step.make_step(learn, source, config.seed)

  steering = {}
  if config.paradigm == 'rl':
    steering = objective.make_controllers(config)

  def init_state(params: Start) -> TrainState:
    copy = lambda role: start.role_params(params, role)
    return TrainState(
      step=jnp.int32(0),
      params=params['policy'],
      opt_state=optimizer.init(params['policy']),
      ref_params=copy('ref') if 'ref' in roles else None,
      others={role: copy(role) for role in sorted(roles - {'ref'})},
      control={what: c.init() for what, c in steering.items()},
    )

  kept = {k: m for k, m in models.items() if k in roles | {'policy'}}
  return Run(
    config=config,
    sizes=sizes,
    models=kept,
    task=task,
    tokenizer=tokenizer,
    init=init_state,
    step=run_step,
    evaluators=make_evaluators(config, policy, task, tokenizer, sizes),
    batches=batches,
    collect=source,
    learn=learn,
  )


def _objective(config, models):
  if config.paradigm == 'preference':
    return preference.make_objective(config, models)
  if config.paradigm == 'distill':
    return distill.make_objective(config, models)
  return sft.make_objective(config, models, _provided(config))


def _updater(config, model, sizes):
  """(goal -> update with the learning rate among its metrics, optimizer)."""
  shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), model))
  optimizer = optim.make_optimizer(config.optimizer, shapes, sizes.num_updates)
  schedule = optim.make_schedule(config.optimizer, sizes.num_updates)

  def make_update(goal):
    change = update.make_update(goal, optimizer, sizes)

    def logged(state, batch, key):
      # The rate of the step's first minibatch.
      rate = config.optimizer.lr * schedule(state.step * sizes.updates_per_step)
      state, metrics = change(state, batch, key)
      rate = jnp.asarray(rate, jnp.float32)
      return state, {**metrics, 'learning_rate': rate}

    return logged

  return make_update, optimizer


def _source(config, models, task, tokenizer, sizes):
  """(state, key) -> rows, from `config.collect`."""
  world = collect.Setting(
    task=task,
    models=models,
    num_prompts=sizes.prompts_per_step,
    group_size=config.group_size,
    heldout_fraction=config.heldout_fraction,
    max_new_tokens=sizes.max_new_tokens,
    decoder=bind(decoders, config.decoder),
    eos_id=tokenizer.eos_id,
    pad_id=tokenizer.pad_id,
    guide=guides.make(
      config.guides,
      eos_id=tokenizer.eos_id,
      vocab_size=models['policy'].vocab_size,
    ),
  )
  part = dict(config.collect)
  function = resolve(collect, part.pop('name'), **part)

  def source(state, key):
    own = dataclasses.replace(world, spent=collect.Spent())
    batch, metrics = function(own, state, key)
    return batch, {**metrics, **own.spent.metrics()}

  return source


def _rl_step(config, models, task, tokenizer, make_update, refresh, sizes):
  shared = None
  if run_sizes.shares_prompts(config, sizes):
    shared = Shared(sizes.prompt_length, sizes.group_size, config.token_buckets)
  guide = checks.make_guide(
    config, task, tokenizer.eos_id, models['policy'].vocab_size
  )
  goal = objective.make_objective(
    config, models, tokenizer.eos_id, shared, guide
  )
  make_rollout = lambda guide=guide, **kind: rl_step.make_rollout(
    config,
    models['policy'],
    sizes.max_new_tokens,
    tokenizer.eos_id,
    tokenizer.pad_id,
    guide=guide,
    **kind,
  )
  token_rewards.check(config.token_rewards, task)
  prefixes.check_task(config, task)
  generate = make_rollout()
  learn = rl_step.make_learn(
    config, models, make_update(goal), refresh, shared, guide
  )
  if isinstance(task, TextTask):
    return drivers.HostStep(generate, learn)

  def sample_examples(key):
    return split.sample_batch(
      task,
      key,
      sizes.prompts_per_step,
      heldout=False,
      fraction=config.heldout_fraction,
    )

  kinds = {}
  kinds['start_guide'] = checks.make_start(task, guide)
  kinds['score'] = answers.make_score(config, models)
  if config.token_rewards.name != 'none':
    part = dict(config.token_rewards)
    world = token_rewards.World(
      task, models['policy'], decoders.view(config.decoder)
    )
    kinds['reward_tokens'] = functools.partial(
      resolve(token_rewards, part.pop('name'), **part), world
    )
  if checks.needs_greedy(config):
    kinds['generate_greedy'] = make_rollout(greedy=True)
  kinds['sources'] = guest_rows.make_sources(
    config, task, make_rollout, sizes.max_new_tokens, tokenizer.pad_id
  )
  return rl_step.make_step(
    sample_examples,
    task.verify,
    generate,
    learn,
    prefixes=checks.needs_prefixes(config),
    **kinds,
  )
