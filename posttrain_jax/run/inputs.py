"""What a run is fed from the host: a text task, or the records of a file."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from posttrain_jax import trainers
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Batch
from posttrain_jax.data import formats, pipeline, tokenizers
from posttrain_jax.data.text_task import TextTask, is_text
from posttrain_jax.trainers.step import from_file

__all__ = [
  'check',
  'conversations',
  'make_batches',
  'open_source',
  'to_batch',
]

SOURCES = ('task', 'jsonl', 'tfds')
# Records of a file that are tokenised before a run begins.
LOOKED_AT = 1000
TOKENISED = 2**23  # bytes of a data set up to which all records are
_REPORTS: dict[tuple, dict[str, Any]] = {}


def _next_answers(real: np.ndarray) -> np.ndarray:
  """[R] the next row that has an answer, around the end; a lone one: itself.

  real  [R] whether a row has an answer; others keep their own index
  """
  order = np.flatnonzero(real)
  after = np.arange(real.size)
  after[order] = np.roll(order, -1)
  return after


def _mismatched(rows: dict[str, np.ndarray]) -> Batch:
  """Each prompt with the answer of the next row, cut at the row's width.

  A row that is alone with an answer has none to meet: its row here is empty.
  """
  tokens, mask = rows['tokens'], rows['mask']
  width = tokens.shape[1]
  columns = np.arange(width)[None]
  counted = mask > 0
  starts = np.where(counted.any(1), counted.argmax(1), 0)[:, None]
  sizes = counted.sum(1)[:, None]
  after = _next_answers(counted.any(1))
  # Padding rows neither give nor take an answer.
  meets = (after != np.arange(after.size))[:, None]
  other_starts = starts[after]
  other_sizes = np.where(meets, sizes[after], 0)
  index = np.clip(columns - starts + other_starts, 0, width - 1)
  answer = np.take_along_axis(tokens[after], index, axis=1)
  inside = (columns >= starts) & (columns < starts + other_sizes)
  real = (columns < starts) | inside
  return Batch(
    tokens=np.where(columns < starts, tokens, np.where(inside, answer, 0)),
    mask=inside.astype(np.float32),
    segment_ids=real.astype(np.int32),
    positions=np.broadcast_to(columns, tokens.shape).astype(np.int32),
  )


def to_batch(raw: dict[str, Any]) -> Batch:
  """A batch of `data.pipeline`, of any kind that is trained on.

  Pairs become rows next to each other, chosen first; an unpaired batch gets
  the extras `correct` [R] and `mismatched`.
  """
  if 'chosen' in raw:
    zipped = lambda a, b: np.stack([a, b], 1).reshape(-1, *a.shape[1:])
    return Batch(**jax.tree.map(zipped, raw['chosen'], raw['rejected']))
  raw = dict(raw)
  label = raw.pop('label', None)
  batch = Batch(**raw)
  if label is None:
    return batch
  return batch.replace(extras={
    'correct': label.astype(np.float32), 'mismatched': _mismatched(raw)
  })  # fmt: skip


def check(config: Any) -> None:
  """Raises ValueError unless data, task and tokenizer go together."""
  kind = trainers.kind(config.paradigm)
  if 'data' in config and kind.records(config):
    data = config.data
    if data.source == 'jsonl' and not data.path:
      raise ValueError('data.source="jsonl" needs data.path: a file or a glob')
    if data.source == 'tfds' and len(data.name.split(':')) != 2:
      raise ValueError(
        'data.source="tfds" needs data.name as BUILDER:SPLIT, not '
        f'"{data.name}"'
      )
    if from_file(config) and config.collect.name != 'oracle':
      raise ValueError(
        f'collect.name="{config.collect.name}" makes its rows from a task, not '
        f'from data.source="{data.source}"'
      )
    if data.source == 'task' and (data.path or data.name or data.packing):
      raise ValueError(
        'data.path, data.name and data.packing are for data.source "jsonl" '
        'and "tfds", not "task"'
      )
  text = is_text(config.task.name)
  if text and kind.records(config) and not from_file(config):
    if 'completion' not in kind.records(config):
      raise ValueError(
        f'task "{config.task.name}" runs on the host and gives no pairs: take '
        'data.source="jsonl", or an in-graph task'
      )
    if config.collect.name != 'oracle':
      raise ValueError(
        f'collect.name="{config.collect.name}" is for in-graph tasks; task '
        f'"{config.task.name}" gives its oracle\'s answers ("oracle")'
      )
  if text and config.tokenizer == 'task':
    raise ValueError(
      f'tokenizer="task" cannot write task "{config.task.name}": use "byte" or '
      'a path to a tokenizer.json'
    )
  if not text and not from_file(config) and config.tokenizer != 'task':
    raise ValueError(
      f'tokenizer="{config.tokenizer}": in-graph tasks speak the vocabulary '
      '"task"'
    )


def _source(config: Any) -> Any:
  data = config.data
  if data.source == 'jsonl':
    return pipeline.JsonlSource(data.path)
  builder, split_name = data.name.split(':')
  return pipeline.TfdsSource(builder, split_name, data.path or None)


def conversations(config: Any) -> bool:
  """Whether a run trains on turns, written as `data.chat` writes them."""
  if not from_file(config):
    return False
  first = _source(config)[0].columns
  if not trainers.kind(config.paradigm).records(config):  # its prompts alone
    return isinstance(first.get('prompt'), list)
  columns = formats.KINDS[formats.kind_of(first)]
  return any(isinstance(first.get(name), list) for name in columns)


def open_source(config: Any, tokenizer: tokenizers.Tokenizer) -> Any:
  """The records of `config.data`: all checked, as many as may be tokenised.

  Every record's columns are checked. All are tokenised where they are small
  together (TOKENISED bytes), else LOOKED_AT of them. What is cut, dropped or
  trains nothing is told on stderr, with counts.

  Raises:
    ValueError: no such file, a record that cannot be trained on, one that is
      too long where `data.overlong` is 'error', or records that all train
      nothing.
  """
  data, source = config.data, _source(config)
  first = source[0]
  kind = formats.kind_of(first.columns, first.where)
  trainer = trainers.kind(config.paradigm)
  if kind not in trainer.records(config):
    raise ValueError(
      f'{first.where}: {trainer.LABEL} with loss "{config.loss.name}" does not '
      f'train on kind "{kind}".{nearest(kind, trainer.records(config))}'
    )
  choices = dict(
    max_length=data.max_length,
    overlong=data.overlong,
    limit=None if source.num_bytes <= TOKENISED else LOOKED_AT,
  )
  # The runs of a sweep read one file; what is found in it stays the same.
  key = (source.stamp, config.tokenizer, tokenizer.vocab_size, str(choices))
  if source.stamp is None or key not in _REPORTS:
    _REPORTS[key] = pipeline.preflight(source, tokenizer, **choices)
  _judge(_REPORTS[key])
  return source


def _judge(report: dict[str, Any]) -> None:
  """Refuses a data set that stops the run or trains nothing; tells the rest."""
  looked, places = report['examples'], report['places']
  if report['errors']:
    raise ValueError(
      f'{places["errors"][0]}: too long: {report["errors"]:,} of {looked:,} '
      f'records have more than data.max_length={report["max_length"]} tokens '
      f'(the longest {report["lengths"]["max"]:,}); raise it, or set '
      'data.overlong to "truncate" or "drop"'
    )
  told = pipeline.warnings(report)
  if report['empty_loss'] + report['equal_pairs'] == report['kept']:
    raise ValueError(f'{next(iter(places.values()))[0]}: ' + '; '.join(told))
  if looked < report['num_records'] and report['overlong'] == 'error':
    told.append(
      f'{looked:,} of {report["num_records"]:,} records were tokenised; one '
      'that is too long ends the run where it comes, which data.overlong='
      '"truncate" or "drop" would not'
    )
  if jax.process_index() == 0:
    for line in told:
      print(f'WARNING data: {line}', file=sys.stderr)


def make_batches(
  config: Any, tokenizer: tokenizers.Tokenizer, task: Any, sizes: Any
) -> Callable[[], pipeline.BatchIterator] | None:
  """() -> batches of the records of the run; None: rows are made in-graph."""
  if not trainers.kind(config.paradigm).records(config):
    return None
  if from_file(config):
    source, kind = open_source(config, tokenizer), None
  elif isinstance(task, TextTask):
    task.solve(0)  # a task without an oracle fails here
    source, kind = pipeline.ListSource(task.records(), task.name), 'completion'
  else:
    return None
  return lambda: pipeline.make_iterator(
    source,
    tokenizer,
    # A pair is one record and two rows.
    batch_size=sizes.prompts_per_step,
    max_length=sizes.row_tokens,
    kind=kind,
    packing=config.data.packing,
    overlong=config.data.overlong,
    # A task's problems come in an order that is random already.
    shuffle=from_file(config),
    seed=config.seed,
  )
