"""What a run is fed from the host: a text task, or the records of a file."""

from collections.abc import Callable
from typing import Any

from posttrain_jax.data import pipeline, tokenizers
from posttrain_jax.resolve import nearest
from posttrain_jax.tasks.text import PREFIX, TextTask, is_text

__all__ = ['check', 'make_batches', 'make_text_task', 'on_data', 'open_source']

SOURCES = ('task', 'jsonl', 'tfds')
# Records that a file for SFT may hold, and how many of them are looked at.
SFT_KINDS = ('text', 'messages', 'completion')
LOOKED_AT = 1000


def make_text_task(config: Any, tokenizer: tokenizers.Tokenizer) -> TextTask:
  """The host task of `config.task`."""
  entry = dict(config.task)
  name = entry.pop('name').removeprefix(PREFIX)
  knobs = dict(entry.pop('knobs'))
  fraction = config.heldout_fraction
  return TextTask(
    name, tokenizer, knobs=knobs, heldout_fraction=fraction, **entry
  )


def on_data(config: Any) -> bool:
  """Whether a run trains on records of a file."""
  return config.paradigm == 'sft' and config.data.source != 'task'


def check(config: Any) -> None:
  """Raises ValueError unless data, task and tokenizer go together."""
  if config.paradigm == 'sft':
    data = config.data
    if data.source not in SOURCES:
      raise ValueError(
        f'unknown data.source "{data.source}".{nearest(data.source, SOURCES)}'
      )
    if data.source == 'jsonl' and not data.path:
      raise ValueError('data.source="jsonl" needs data.path: a file or a glob')
    if data.source == 'tfds' and len(data.name.split(':')) != 2:
      raise ValueError(
        'data.source="tfds" needs data.name as BUILDER:SPLIT, not '
        f'"{data.name}"'
      )
    if data.source == 'task' and (data.path or data.name or data.packing):
      raise ValueError(
        'data.path, data.name and data.packing are for data.source "jsonl" '
        'and "tfds", not "task"'
      )
  text = is_text(config.task.name)
  if text and config.tokenizer == 'task':
    raise ValueError(
      f'tokenizer="task" cannot write task "{config.task.name}": use "byte" or '
      'a path to a tokenizer.json'
    )
  if not text and not on_data(config) and config.tokenizer != 'task':
    raise ValueError(
      f'tokenizer="{config.tokenizer}": in-graph tasks speak the vocabulary '
      '"task"'
    )


def open_source(config: Any, tokenizer: tokenizers.Tokenizer) -> Any:
  """The records of `config.data`, the first of them tokenised as a trial.

  Raises:
    ValueError: no such file, a record that cannot be trained on, or one that
      is too long where `data.overlong` is 'error'.
  """
  data = config.data
  if data.source == 'jsonl':
    source = pipeline.JsonlSource(data.path)
  else:
    builder, split_name = data.name.split(':')
    source = pipeline.TfdsSource(builder, split_name, data.path or None)
  report = pipeline.preflight(
    source,
    tokenizer,
    max_length=data.max_length,
    overlong=data.overlong,
    limit=LOOKED_AT,
  )
  if report['kind'] not in SFT_KINDS:
    raise ValueError(
      f'{source[0].where}: SFT does not train on kind "{report["kind"]}".'
      + nearest(report['kind'], SFT_KINDS)
    )
  if report['errors'] or report['empty_loss'] == report['kept']:
    raise ValueError(pipeline.format_report(report))
  return source


def make_batches(
  config: Any, tokenizer: tokenizers.Tokenizer, task: Any, sizes: Any
) -> Callable[[], pipeline.BatchIterator] | None:
  """() -> batches of the records that SFT trains on; None: made in-graph."""
  if config.paradigm != 'sft':
    return None
  if on_data(config):
    source, kind = open_source(config, tokenizer), None
  elif isinstance(task, TextTask):
    task.solve(0)  # a task without an oracle fails here
    source, kind = pipeline.ListSource(task.records(), task.name), 'completion'
  else:
    return None
  return lambda: pipeline.make_iterator(
    source,
    tokenizer,
    batch_size=sizes.rows,
    max_length=sizes.row_tokens,
    kind=kind,
    packing=config.data.packing,
    overlong=config.data.overlong,
    # A task's problems come in an order that is random already.
    shuffle=on_data(config),
    seed=config.seed,
  )
