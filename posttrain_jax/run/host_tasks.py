"""Tasks whose answers are text that Python judges: of a run's config."""

from typing import Any

from posttrain_jax import trainers
from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import prompts_task, tokenizers
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.data.text_task import PREFIX, TextTask, is_text
from posttrain_jax.rewards import entries
from posttrain_jax.rewards.judge import Judge
from posttrain_jax.run import opening
from posttrain_jax.trainers.step import from_file

__all__ = ['check', 'make', 'prompts_file']

LOOKED_AT = 16  # problems of a task of texts, for what rewards read in them


def prompts_file(config: Any) -> bool:
  """Whether a run draws its own answers to the prompts of a file."""
  sampling = not trainers.kind(config.paradigm).records(config)
  return from_file(config) and sampling


def check(config: Any) -> None:
  """Raises ValueError for a file of prompts that cannot be used."""
  if 'data' not in config or trainers.kind(config.paradigm).records(config):
    return
  data = config.data
  if not from_file(config):
    for key in ('path', 'name', 'eval_path', 'max_prompt_length'):
      if data[key]:
        raise ValueError(
          f'data.{key}={data[key]!r} is of a file of prompts, not of '
          'data.source="task"; set data.source, as in configs/rl.py:data=jsonl'
        )
    return
  if data.source != 'tfds' and not data.path:
    raise ValueError(
      f'data.source="{data.source}" needs data.path: a file or a glob'
    )
  if data.source == 'tfds' and len(data.name.split(':')) != 2:
    raise ValueError(
      f'data.source="tfds" needs data.name as BUILDER:SPLIT, not "{data.name}"'
    )
  if data.source == 'tfds' and data.eval_path:
    raise ValueError(
      'data.eval_path is a file of data.source="jsonl"; of "tfds", '
      'heldout_fraction of the prompts are kept for evaluation'
    )
  if data.overlong not in prompts_task.OVERLONG:
    raise ValueError(
      f'data.overlong="{data.overlong}" would cut prompts.'
      + nearest(data.overlong, prompts_task.OVERLONG)
    )
  if not config.max_new_tokens:
    raise ValueError(
      'max_new_tokens=0: a file of prompts does not say how long an answer may '
      'be; set it, as configs/rl.py:data=jsonl does'
    )
  if config.condition.name != 'none':
    raise ValueError(
      f'condition.name="{config.condition.name}" is for in-graph tasks, not '
      'for prompts of a file'
    )
  if config.eval.num_problems and not (
    data.eval_path or config.heldout_fraction
  ):
    raise ValueError(
      'heldout_fraction=0 and no data.eval_path: there are no prompts to '
      'evaluate on; set one of them, or eval.num_problems=0'
    )


def make(config: Any, tokenizer: tokenizers.Tokenizer) -> HostTask | None:
  """The task of a config that Python judges; None where it has another.

  Raises:
    ValueError: what in the config or the file cannot work.
  """
  if prompts_file(config):
    return _prompts(config, tokenizer)
  if not is_text(config.task.name):
    return None
  entry = dict(config.task)
  name = entry.pop('name').removeprefix(PREFIX)
  knobs = dict(entry.pop('knobs'))
  judge = _judge(config)
  task = TextTask(
    name,
    tokenizer,
    knobs=knobs,
    heldout_fraction=config.heldout_fraction,
    judge=judge,
    **entry,
  )
  if judge is not None:
    judge.limit = config.max_new_tokens or task.completion_length
    seen = judge.seen(config.task.name)
    for index, problem in enumerate(task.problems(range(LOOKED_AT))):
      columns = task.columns(problem)
      seen.add({k: x for k, x in columns.items() if k != 'prompt'},
               f'problem {index}')  # fmt: skip
    judge.check(seen)
  return task


def _judge(config: Any) -> Judge | None:
  """The judge of `config.rewards`; None: a task judges itself."""
  rewards = entries.read(config.get('rewards', ()))
  if not rewards:
    return None
  return Judge(rewards, limit=config.max_new_tokens, **dict(config.reward_pool))


def _prompts(
  config: Any, tokenizer: tokenizers.Tokenizer
) -> prompts_task.PromptsTask:
  data, heldout = config.data, None
  source = opening.open_records(data)
  if data.eval_path:
    heldout = opening.open_path(data.eval_path, 'data.eval_path')
  task = prompts_task.PromptsTask(
    source,
    tokenizer,
    _judge(config),
    completion_length=config.max_new_tokens,
    name=data.name or data.path,
    seed=config.seed,
    prompt_length=data.max_prompt_length,
    overlong=data.overlong,
    heldout_fraction=config.heldout_fraction,
    heldout=heldout,
    on_change=data.on_change,
  )
  if config.eval.num_problems and not task.num_heldout:
    raise ValueError(
      f'{task.name}: none of {task.num_prompts()["train"]:,} prompts is held '
      f'out by heldout_fraction={config.heldout_fraction}; raise it, give '
      'data.eval_path, or set eval.num_problems=0'
    )
  return task
