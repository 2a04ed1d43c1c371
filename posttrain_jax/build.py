"""From a config to the functions of a run; nothing here is compiled.

Only `init_from`, a tokenizer and data files are read from disk."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import checkpoint, host, inputs, optim, tasks
from posttrain_jax import config as config_lib
from posttrain_jax.data import pipeline, tokenizers
from posttrain_jax.evaluate import Evaluator
from posttrain_jax.models import hf, transformer
from posttrain_jax.models.config import ModelConfig, RopeScaling, make_config
from posttrain_jax.models.hf_config import read_config
from posttrain_jax.resolve import nearest
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import split
from posttrain_jax.tasks.mixture import Mixture
from posttrain_jax.tasks.text import TextTask, is_text
from posttrain_jax.trainers import objective, rl, sft, update
from posttrain_jax.types import Array, PyTree, TrainState

PARADIGMS = ('sft', 'rl')


@dataclasses.dataclass(frozen=True)
class Run:
  """The functions and sizes of one run.

  init        (params) -> TrainState, jit-able
  step        (state, key) -> (state, metrics), jit-able; with `batches`,
              (state, batch) -> (state, metrics); or a host.HostStep
  evaluators  {name: Evaluator}; '' is the run's own task; none where the
              run's tokenizer is not the task's
  batches     () -> iterator of batches; None where the step makes its own
  """

  config: Any
  sizes: Any
  model: ModelConfig
  task: Any
  tokenizer: Any
  init: Callable[[PyTree], TrainState]
  step: Callable | host.HostStep
  evaluators: dict[str, Evaluator | host.HostEvaluator]
  batches: Callable[[], pipeline.BatchIterator] | None = None


def make_task(entry: Any) -> Any:
  """The task of a config entry {name, **knobs}, or a mixture of such."""
  entry = dict(entry)
  name = entry.pop('name')
  if name != 'mixture':
    return tasks.make(name, **entry)
  parts, weights = [], []
  for part in dict(entry['parts']).values():
    part = dict(part)
    weights.append(float(part.pop('weight')))
    parts.append(tasks.make(part.pop('name'), **part))
  return Mixture(tasks=tuple(parts), weights=tuple(weights))


def _is_hf_folder(path: str) -> bool:
  return bool(path) and any(Path(path).glob('*.safetensors*'))


def model_fields(saved: dict[str, Any]) -> dict[str, Any]:
  """ModelConfig fields of a JSON dict."""
  fields = dict(saved)
  if fields.get('rope_scaling'):
    fields['rope_scaling'] = RopeScaling(**fields['rope_scaling'])
  return fields


def make_model(config: Any, vocab_size: int) -> ModelConfig:
  """The model that a run trains: the preset's, or that of `init_from`.

  Raises:
    ValueError: unknown preset; no model at `init_from`; a tokenizer with more
      tokens than the model.
  """
  wanted = dict(config.model)
  preset = wanted.pop('preset')
  wanted['value_head'] = (
    config.paradigm == 'rl' and config.advantage.name == 'gae'
  )
  if not config.init_from:
    return make_config(preset, vocab_size=vocab_size, **wanted)
  if _is_hf_folder(config.init_from):
    found = read_config(Path(config.init_from))
  else:
    workdir, _ = checkpoint.find(config.init_from)
    saved = checkpoint.load_config(workdir)
    if saved is None or 'resolved_model' not in saved:
      raise ValueError(f'{workdir}/{checkpoint.CONFIG}: not a run of train.py')
    found = ModelConfig(**model_fields(saved['resolved_model']))
  found = dataclasses.replace(found, **wanted)
  if vocab_size > found.vocab_size:
    raise ValueError(
      f'tokenizer "{config.tokenizer}" has {vocab_size} tokens, the model of '
      f'{config.init_from} only {found.vocab_size}'
    )
  return found


def start_params(config: Any, model: ModelConfig, key: Array) -> PyTree:
  """Initial parameters: fresh ones, overlaid with those of `init_from`.

  A value head that the loaded model does not have starts fresh (zeros).
  """
  params = transformer.init(key, model)
  if not config.init_from:
    return params
  if _is_hf_folder(config.init_from):
    _, loaded = hf.load(config.init_from, param_dtype=model.param_dtype)
  else:
    loaded = checkpoint.load_params(config.init_from)
  loaded = {k: v for k, v in loaded.items() if k in params}
  return {**params, **loaded}


def _check(config: Any) -> None:
  if config.paradigm not in PARADIGMS:
    raise ValueError(
      f'unknown paradigm "{config.paradigm}".'
      + nearest(config.paradigm, PARADIGMS)
    )
  if not 0 <= config.heldout_fraction < 1:
    raise ValueError(
      f'heldout_fraction={config.heldout_fraction} is not in [0, 1)'
    )
  if config.paradigm != 'rl':
    return
  if config.decoder.name in decoders.TRUNCATING:
    raise ValueError(
      f'decoder "{config.decoder.name}" gives some tokens probability 0, which '
      'the learner does not see: its ratios would be wrong. Train with '
      '"sample"; truncate in evaluation.'
    )
  if config.old_logps not in ('sampler', 'learner'):
    raise ValueError(
      f'old_logps="{config.old_logps}".'
      + nearest(config.old_logps, ('sampler', 'learner'))
    )
  if config.advantage.name != 'gae' and config.group_size < 2:
    raise ValueError(
      f'group_size={config.group_size}: advantage "{config.advantage.name}" '
      'compares completions of one problem and needs at least 2'
    )


def make_evaluators(
  config: Any, model: ModelConfig, task: Any, tokenizer: Any, sizes: Any
) -> dict:
  """An evaluator of the run's task, and of each part of a mixture."""
  if task is None:
    return {}
  if config.eval.num_problems == 0:
    return {}
  batch = min(config.eval.batch, config.eval.num_problems)
  if isinstance(task, TextTask):
    evaluator = host.HostEvaluator(
      model=model,
      task=task,
      tokenizer=tokenizer,
      num_problems=config.eval.num_problems,
      samples=config.eval.samples,
      batch=batch,
      max_new_tokens=sizes.max_new_tokens,
    )
    return {'': evaluator}
  make = lambda task: Evaluator(
    model=model,
    task=task,
    num_problems=config.eval.num_problems,
    samples=config.eval.samples,
    batch=batch,
    heldout_fraction=config.heldout_fraction,
  )
  if isinstance(task, Mixture):
    names = list(dict(config.task.parts))
    return {name: make(part) for name, part in zip(names, task.tasks)}
  return {'': make(task)}


def build(config: Any, learning_rate: Array | float | None = None) -> Run:
  """The run that a config describes.

  learning_rate  overrides `config.optimizer.lr`; may be traced (sweeps)

  Raises:
    ValueError: whatever in the config cannot work, before any compilation.
  """
  _check(config)
  inputs.check(config)
  sizes = config_lib.sizes(config)
  tokenizer = tokenizers.load(config.tokenizer)
  model = make_model(config, tokenizer.vocab_size)
  task = None
  if is_text(config.task.name):
    task = inputs.make_text_task(config, tokenizer)
  elif config.tokenizer == 'task':
    task = make_task(config.task)
  if task is not None:
    sizes.prompt_length = task.prompt_length
    sizes.max_new_tokens = task.completion_length
  if config.paradigm == 'rl' and config.max_new_tokens:
    sizes.max_new_tokens = config.max_new_tokens
  if inputs.on_data(config):
    sizes.row_tokens = config.data.max_length
  else:
    sizes.row_tokens = sizes.prompt_length + sizes.max_new_tokens
  batches = inputs.make_batches(config, tokenizer, task, sizes)
  sizes.tokens_per_step = sizes.rows * sizes.row_tokens
  shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), model))
  optimizer = optim.make_optimizer(
    config.optimizer, shapes, sizes.num_updates, learning_rate
  )
  peak = config.optimizer.lr if learning_rate is None else learning_rate
  schedule = optim.make_schedule(config.optimizer, sizes.num_updates)

  def make_update(goal):
    return _make_update(goal, optimizer, sizes, lambda n: peak * schedule(n))

  if config.paradigm == 'sft':
    # With batches, demonstrations are data; else the step makes them.
    oracle = task if batches is None else None
    step, needs_reference = _sft_step(config, model, oracle, make_update, sizes)
  else:
    step, needs_reference = _rl_step(
      config, model, task, tokenizer, make_update, sizes
    )

  def init_state(params: PyTree) -> TrainState:
    return TrainState(
      step=jnp.int32(0),
      params=params,
      opt_state=optimizer.init(params),
      ref_params=jax.tree.map(jnp.copy, params) if needs_reference else None,
    )

  return Run(
    config=config,
    sizes=sizes,
    model=model,
    task=task,
    tokenizer=tokenizer,
    init=init_state,
    step=step,
    evaluators=make_evaluators(config, model, task, tokenizer, sizes),
    batches=batches,
  )


def _make_update(goal, optimizer, sizes, rate):
  """The update, with the learning rate of its first minibatch as a metric."""
  change = update.make_update(goal, optimizer, sizes)

  def logged(state, batch, key):
    first = rate(state.step * sizes.updates_per_step)
    state, metrics = change(state, batch, key)
    return state, {**metrics, 'learning_rate': jnp.asarray(first, jnp.float32)}

  return logged


def _sft_step(config, model, task, make_update, sizes):
  goal = objective.make_supervised(config, model)
  change = make_update(goal)
  if task is None:
    return sft.make_step(change), False

  def make_batch(key):
    return sft.demonstrations(
      task,
      key,
      sizes.rows,
      heldout=False,
      fraction=config.heldout_fraction,
    )

  return sft.make_step(change, make_batch), False


def _rl_step(config, model, task, tokenizer, make_update, sizes):
  goal = objective.make_policy_gradient(config, model)
  change = make_update(goal)
  generate = rl.make_rollout(
    config, model, sizes.max_new_tokens, tokenizer.eos_id, tokenizer.pad_id
  )
  learn = rl.make_learn(config, model, change)
  if isinstance(task, TextTask):
    return host.HostStep(generate, learn), bool(config.kl.coef)

  def sample_examples(key):
    return split.sample_batch(
      task,
      key,
      sizes.prompts_per_step,
      heldout=False,
      fraction=config.heldout_fraction,
    )

  step = rl.make_step(sample_examples, task.verify, generate, learn)
  return step, bool(config.kl.coef)
