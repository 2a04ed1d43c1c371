"""Keys of a config that a run never reads, though they were given a value.

`configs/sft.py` has keys of rows that models write and of a task's problems; a
run on a file has neither. `KEYS` says of each such key when it is not read, and
why; what the shipped config of the run has is no news, and anything else is
told.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

from posttrain_jax import collect, trainers
from posttrain_jax.losses import flow
from posttrain_jax.run import auto, roles
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.config_file import recipes, shipped
from posttrain_jax.run.feed import Feed
from posttrain_jax.run.judging import judged
from posttrain_jax.trainers.rl import HostStep, guests, terms
from posttrain_jax.trainers.step import from_file

__all__ = ['KEYS', 'notes', 'unread']

ORACLE = "the answers are those of the task's oracle"
Why = Callable[[Any], str]  # (run) -> why it does not read them, or ''


def _on_records(run: Any) -> bool:
  """Whether the rows of a run are those of a file."""
  return isinstance(run.batches, Feed)


def _samples(config: Any) -> bool:
  """Whether a kind of run draws its rows itself, as RL does."""
  return not trainers.kind(config.paradigm).records(config)


def _file(run: Any) -> str:
  return 'the rows are of a file' if _on_records(run) else ''


def _not_collected(run: Any) -> str:
  """Whether a source of rows makes them: `collect` is for in-graph tasks."""
  return _file(run) or ('' if run.batches is None else ORACLE)


def _file_alone(run: Any) -> str:
  if run.evaluators:
    return ''
  if run.task is None:
    return 'rows and evaluation are of a file'
  return _file(run)


def _no_task(run: Any) -> str:
  return '' if run.task is not None else _file(run)


def _heldout(run: Any) -> str:
  """Of a file of prompts, what is held out may be another file."""
  if _samples(run.config) and run.config.data.eval_path:
    return f'data.eval_path="{run.config.data.eval_path}" is held out'
  return _file_alone(run)


def _written(run: Any) -> str:
  """Whether a model writes rows of training, beside RL."""
  config = run.config
  if _on_records(run) or _samples(config):
    return _file(run)
  if run.batches is not None:
    return ORACLE
  name = config.collect.name
  if collect.written_per_prompt(name, config.group_size, 1):
    return ''
  return f'collect.name="{name}" has no model write an answer'


def _draws(run: Any) -> str:
  """Whether a model writes anything at all."""
  if run.evaluators or _samples(run.config):
    return ''
  return _written(run) and 'no model writes an answer in this run'


def _no_answers(run: Any) -> str:
  """Whether an evaluation asks for answers."""
  if run.evaluators:
    return ''
  if run.config.eval.num_problems == 0:
    return 'eval.num_problems=0'
  return 'an evaluation asks for no answers here'


def _greedy(run: Any) -> str:
  if run.config.eval.samples == 0:
    return 'eval.samples=0: answers of an evaluation are greedy'
  return _no_answers(run)


def _not_judged(run: Any) -> str:
  return '' if judged(run) else 'nothing is evaluated'


def _start(run: Any) -> str:
  path = run.config.init_from
  return f'init_from={path} says what the model is' if path else ''


def _no_long_rope(run: Any) -> str:
  kinds = {getattr(m.rope_scaling, 'kind', '') for m in run.models.values()}
  return '' if 'longrope' in kinds else 'no model has factors for it'


def _one_by_one(run: Any) -> str:
  host = isinstance(run.step, HostStep) or run.batches is not None
  return 'rows come from the host, a step at a time' if host else ''


def _in_graph(run: Any) -> str:
  return '' if from_file(run.config) else 'the rows are not of a file'


def _no_text(run: Any) -> str:
  made = run.config.tokenizer == 'task' and not from_file(run.config)
  return 'in-graph tasks have no text' if made else ''


def _one_name(run: Any) -> str:
  source = run.config.data.source
  return f'data.source="{source}"' if source != 'tfds' else ''


def _no_judge(run: Any) -> str:
  judge = getattr(run.task, 'judge', None)
  return 'no answer is judged by rewards' if judge is None else ''


def _off(key: str, off: Any = 0) -> Why:
  """Where `key` of the config has the value that leaves a part out."""

  def why(run: Any) -> str:
    value = config_lib.flatten(run.config.to_dict()).get(key, off)
    return f'{key}={_shown(value)}' if _same(value, off) else ''

  return why


def _without(*whys: Why) -> Why:
  """Where all of these are off; told as the first."""

  def why(run: Any) -> str:
    found = [each(run) for each in whys]
    return found[0] if all(found) else ''

  return why


def _optimizer(*names: str) -> Why:
  def why(run: Any) -> str:
    name = run.config.optimizer.name
    return f'optimizer.name="{name}"' if name in names else ''

  return why


def _warmup(run: Any) -> str:
  config, ratio = run.config, run.config.optimizer.warmup_ratio
  usual = auto.warmup(auto.AUTO, config.paradigm, run.sizes.num_updates)[0]
  if not ratio > 0 or config.optimizer.warmup_updates == usual:
    return ''
  return f'optimizer.warmup_ratio={ratio:g} is in its place'


def _no_critic(run: Any) -> str:
  return '' if terms.has_critic(run.config) else 'the method has no critic'


def _no_flow(run: Any) -> str:
  name = run.config.loss.name
  return '' if name in flow.__all__ else f'loss.name="{name}" reads none'


def _no_demonstrations(run: Any) -> str:
  return '' if guests.imitates(run.config) else 'sft_loss.coef=0'


# {key, or the part of all keys that begin so: when and why it is not read}.
# Keys that a config does not have are of another kind of run.
KEYS: dict[str, Why] = {
  'group_size': lambda run: '' if _samples(run.config) else _file(run),
  'max_new_tokens': lambda run: (
    '' if _samples(run.config) else _file_alone(run)
  ),
  'collect.': _not_collected,
  'decoder.': lambda run: '' if _samples(run.config) else _written(run),
  'task.': _no_task,
  'heldout_fraction': _heldout,
  'guides': _draws,
  'model.cache_dtype': _draws,
  'model.decode_weights': _draws,
  'model.scan_decode': _draws,
  'model.long_rope': _no_long_rope,
  'model.preset': _start,
  'model.sliding_window': _start,
  'steps_per_call': _one_by_one,
  'problems.seed': _off('problems.count'),
  'eval.num_problems': lambda run: (
    '' if run.config.eval.num_problems == 0 else _no_answers(run)
  ),
  'eval.samples': _no_answers,
  'eval.beams': _no_answers,
  'eval.temperature': _greedy,
  'eval.top_p': _greedy,
  'eval.batch': _not_judged,
  'eval.every': _not_judged,
  'ref.mixup': _off('ref.refresh_every'),
  'optimizer.b2': _optimizer('sgd'),
  'optimizer.eps': _optimizer('sgd', 'lion'),
  'optimizer.final_fraction': _off('optimizer.schedule', 'constant'),
  'optimizer.warmup_updates': _warmup,
  'data.max_length': _in_graph,
  'data.on_bad_row': _in_graph,
  'data.on_change': _in_graph,
  'data.overlong': lambda run: _in_graph(run) and (
    '' if run.batches is not None else 'the rows are not of a file'
  ),
  'data.special_text': _no_text,
  'data.after_stop': _no_text,
  'data.name': _one_name,
  'kl.': _without(_off('kl.coef', 0.0), _off('kl_controller.name', 'none')),
  'value_loss.': _no_critic,
  'log_reward.': _no_flow,
  'sft_loss.': _no_demonstrations,
  'sft_weights.': _no_demonstrations,
  'expert_advantage.': _off('demos_per_prompt'),
  'contrastive.': _off('contrastive.name', 'none'),
  'meta.': _off('meta.rate', 0.0),
  'prefix.': _off('prefix.per_prompt'),
  'prefix_controller.': _off('prefix.per_prompt'),
  'hints_controller.': _off('hints.chunks'),
  'refine.': lambda run: (
    '' if run.config.demos_from == 'refined' else
    f'demos_from="{run.config.demos_from}"'
  ),
  'entropy_over': _without(
    _off('entropy_coef', 0.0), _off('entropy_controller.name', 'none')
  ),
  'reward_pool.': _no_judge,
  'sampler.': _off('sampler.url', ''),
}  # fmt: skip
# At these values a key asks for nothing, which is what it gets.
NOTHING = {
  'eval.beams': 0, 'eval.every': 0, 'eval.samples': 0, 'heldout_fraction': 0,
}  # fmt: skip
# What a part is switched on by is read wherever the part is.
SWITCHES = (
  'collect.name', 'contrastive.name', 'kl.coef', 'meta.rate',
  'prefix.per_prompt',
  'sampler.url', 'sft_loss.coef', 'sft_loss.mix', 'task.name',
)  # fmt: skip


def unread(run: Any) -> dict[str, str]:
  """{key: why} of the keys that a `build.Run` does not read."""
  found, flat = {}, config_lib.flatten(run.config.to_dict())
  for key in config_lib.keys(run.config):
    part = key.partition('.')[0] + '.'
    why = KEYS.get(key) or KEYS.get(part)
    told = why(run) if why is not None and key not in SWITCHES else ''
    if key in NOTHING and _same(flat[key], NOTHING[key]):
      told = ''
    if told:
      found[key] = told
  return found


def _same(one: Any, two: Any) -> bool:
  plain = lambda x: list(x) if isinstance(x, tuple | list) else x
  try:
    return bool(plain(one) == plain(two))
  except Exception:  # of a traced number, nobody knows
    return False


def _shown(value: Any) -> str:
  if isinstance(value, str | list | tuple | dict):
    return json.dumps(value, default=str)
  return f'{value}'


@functools.lru_cache(16)
def _shipped(paradigm: str, args: str) -> dict[str, Any]:
  """The shipped config of a paradigm with some arguments, flat; {}: none."""
  file = shipped(paradigm)
  if file is None:
    return {}
  try:
    return config_lib.flatten(config_lib.load(f'{file}:{args}').to_dict())
  except ValueError:  # a recipe that is not of such rows
    return {}


@functools.lru_cache(8)
def _recipes(paradigm: str, args: str) -> tuple[dict[str, Any], ...]:
  """`_shipped` with every recipe."""
  names = recipes(paradigm)
  return tuple(_shipped(paradigm, f'{args},recipe={name}') for name in names)


def _as_begun(run: Any, key: str) -> bool:
  """Whether a value is what 'auto' is, as where a run goes on."""
  leaf = key.removeprefix('model.')
  if key not in config_lib.DECIDED or leaf not in roles.DECIDED:
    return False
  decided = getattr(roles.decided(run.model, {leaf: auto.AUTO}), leaf)
  return _same(decided, run.config.model[leaf])


def _given(config: Any, keys: list[str]) -> list[str]:
  """Those of some keys that have another value than the shipped config that
  the run's is nearest to: of all its recipes."""
  flat = config_lib.flatten(config.to_dict())
  args = 'data=jsonl' if from_file(config) else 'data=task'
  usual, tiny = (
    _shipped(config.paradigm, f'{args}{more}') for more in ('', ',smoke')
  )
  changed = lambda keys, base: [
    key for key in keys if key in base and not _same(flat[key], base[key])
  ]
  keys = changed(changed(keys, usual), tiny)
  if not keys:
    return []

  def far(base: dict[str, Any]) -> int:
    return sum(not _same(x, base.get(key)) for key, x in flat.items())

  return changed(keys, min(_recipes(config.paradigm, args), key=far))


def notes(run: Any) -> list[str]:
  """A line for every reason for which a run does not read keys that were given
  another value than the shipped config has."""
  found = unread(run)
  lines: dict[str, list[str]] = {}
  flat = config_lib.flatten(run.config.to_dict())
  asked = [key for key in found if not _as_begun(run, key)]
  for key in _given(run.config, asked):
    lines.setdefault(found[key], []).append(f'{key}={_shown(flat[key])}')
  label = trainers.kind(run.config.paradigm).LABEL
  return [
    f'{", ".join(keys)} {"are" if len(keys) > 1 else "is"} not read by this '
    f'run of {label}: {why}'
    for why, keys in lines.items()
  ]
