"""What a run is told of the records of its file before its first step."""

from typing import Any

from posttrain_jax.data.prompts_task import PromptsTask
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.feed import Feed

__all__ = ['records']

# Rounds of a file above which their number is told.
MANY_ROUNDS = 4


def records(run: Any) -> list[str]:
  """Told how many records of a file are trained on, for how long, and what is
  held out."""
  if not isinstance(getattr(run, 'batches', None), Feed):
    return _all_problems(run)
  feed, config = run.batches, run.config
  told = [f'{len(feed.source):,} records to train on']
  if feed.heldout is not None:
    told[0] += f', {len(feed.heldout):,} to evaluate by'
  told += _rounds(run)
  if feed.heldout is not None and len(feed.heldout) > len(feed.source):
    whole = len(feed.heldout) + len(feed.source)
    told.append(
      f'evaluation takes {len(feed.heldout):,} of {whole:,} records, more than '
      'are trained on'
    )
  usual = config_lib.shipped(config.paradigm)
  names = ('none', *([usual.task.name] if usual is not None else []))
  if run.task is None and config.task.name not in names:
    told.append(
      f'task.name="{config.task.name}" is not read: the rows are of a file, in '
      f'tokenizer={config.tokenizer}'
    )
  if config.data.num_epochs:
    told.append(
      f'data.num_epochs={config.data.num_epochs} makes num_steps='
      f'{config.num_steps:,}'
    )
  return told


def _all_problems(run: Any) -> list[str]:
  """Told how many prompts of a file are trained on, and where fewer are held
  out than an evaluation is to ask."""
  task, told = getattr(run, 'task', None), []
  if isinstance(task, PromptsTask):
    split = task.num_prompts()
    told.append(
      f'{split["train"]:,} prompts to train on, {split["heldout"]:,} held out'
    )
  asked = run.config.eval.num_problems
  there = getattr(task, 'num_heldout', None)
  if there is None or there >= asked:
    return told
  return told + [
    f'eval.num_problems={asked:,}: {there:,} prompts are held out, and each '
    'evaluation asks all of them'
  ]


def _rounds(run: Any) -> list[str]:
  """Told where num_steps goes round a file many times."""
  config, count = run.config, len(run.batches.source)
  if config.data.num_epochs or not count:
    return []
  rounds = config.num_steps * config.prompts_per_step / count
  if rounds <= MANY_ROUNDS:
    return []
  least = 'at least ' if config.data.packing else ''
  return [
    f'num_steps={config.num_steps:,} of prompts_per_step='
    f'{config.prompts_per_step} go round the {count:,} records {least}'
    f'{rounds:,.0f} times; three times is '
    '--config.data.num_epochs=3 --config.num_steps=0'
  ]
