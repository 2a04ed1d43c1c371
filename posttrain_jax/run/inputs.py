"""What a run is fed from the host: a text task, or the records of a file."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import trainers
from posttrain_jax.core import hosts
from posttrain_jax.core.sharding.shapes import row_shapes
from posttrain_jax.core.types import Batch
from posttrain_jax.data import pipeline, tokenizers
from posttrain_jax.data.bad_rows import BadRows
from posttrain_jax.data.batches import Part
from posttrain_jax.data.preflight import first_kinds
from posttrain_jax.data.records import KINDS
from posttrain_jax.data.rows import Record, Source, leaves, walk
from posttrain_jax.data.text_task import TextTask, is_text
from posttrain_jax.evals.on_file import FileEvaluator
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import feed, opening
from posttrain_jax.trainers.step import from_file

__all__ = [
  'SOURCES',
  'check',
  'conversations',
  'counted',
  'make_batches',
  'make_file_evaluator',
  'on_device',
  'open_source',
  'shapes_of',
  'to_batch',
]

# 'jsonl' is files of any kind; 'files' says the same.
SOURCES = ('task', 'jsonl', 'files', 'tfds')


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
    opening.check_data(config.data)
    if from_file(config) and config.collect.name != 'oracle':
      raise ValueError(
        f'collect.name="{config.collect.name}" makes its rows from a task, not '
        f'from data.source="{config.data.source}"'
      )
  _check_steps(config)
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
      f'"task", and task.name="{config.task.name}" is one; a file of your own '
      f'is configs/{config.paradigm}.py:data=jsonl'
    )


def _check_steps(config: Any) -> None:
  """Raises ValueError where nothing says how long a run is."""
  epochs = from_file(config) and config.data.get('num_epochs', 0)
  if config.num_steps == 0 and not epochs:
    raise ValueError(
      'num_steps=0 is as many steps as data.num_epochs has, and that is not '
      'set; nearest valid: 1'
    )


def counted(config: Any, tokenizer: tokenizers.Tokenizer) -> Any:
  """The config with the steps that its epochs have, where it has epochs.

  Raises:
    ValueError: num_steps is another number; or as `open_feed`.
  """
  if not from_file(config) or not config.data.get('num_epochs', 0):
    return config
  steps = feed.num_steps(feed.open_feed(config, tokenizer))
  if config.num_steps not in (0, steps):
    raise ValueError(
      f'num_steps={config.num_steps} is not the {steps:,} steps that '
      f'data.num_epochs={config.data.num_epochs} has with prompts_per_step='
      f'{config.prompts_per_step}; set num_steps=0 for these, or '
      'data.num_epochs=0 to go round the data without end'
    )
  return config_lib.with_values(config, {'num_steps': steps})


def conversations(config: Any) -> bool:
  """Whether a run trains on turns, written as `data.chat` writes them."""
  if not from_file(config):
    return False
  if not trainers.kind(config.paradigm).records(config):  # its prompts alone
    found = opening.open_records(config.data)
    first = next(x for x in walk(found) if isinstance(x, Record))
    return isinstance(first.columns.get('prompt'), list)
  rows = BadRows('skip')
  for leaf in leaves(opening.open_records(config.data)):
    with contextlib.suppress(ValueError):  # it is told where it is trained on
      kind, _ = first_kinds(leaf, rows)[0]
      first = next(x for x in walk(leaf) if isinstance(x, Record))
      if any(isinstance(first.columns.get(n), list) for n in KINDS[kind]):
        return True
  return False


def open_source(config: Any, tokenizer: tokenizers.Tokenizer) -> Source:
  """The records that a run trains on, as `feed.open_feed` checks them."""
  found = feed.open_feed(config, tokenizer)
  feed.show(found.told)
  return found.source


def make_batches(
  config: Any, tokenizer: tokenizers.Tokenizer, task: Any, sizes: Any
) -> Callable[[], pipeline.BatchIterator] | None:
  """() -> batches of the records of the run; None: rows are made in-graph."""
  if not trainers.kind(config.paradigm).records(config):
    return None  # it samples its rows
  if from_file(config):
    found = feed.open_feed(config, tokenizer)
    feed.show(found.told)
    return found
  if not isinstance(task, TextTask):
    return None
  task.solve(0)  # a task without an oracle fails here
  source = pipeline.ListSource(task.records(), task.name)
  return lambda: pipeline.make_iterator(
    source,
    tokenizer,
    batch_size=sizes.prompts_per_step,
    max_length=sizes.row_tokens,
    kind='completion',
    overlong=config.data.overlong,
    # A task's problems come in an order that is random already.
    shuffle=False,
    seed=config.seed,
    held=feed.held(config),
  )


def make_file_evaluator(batches: Any, judge: Any) -> FileEvaluator | None:
  """The evaluator of the held-out records of a run's file, if there are any.

  batches  of `make_batches`
  judge    of `trainers.judge.make_judge`
  """
  if not isinstance(batches, feed.Feed) or batches.heldout is None:
    return None
  return FileEvaluator(judge, batches.evaluation, on_device)


def on_device(raw: dict[str, Any], part: Part | None = None) -> Batch:
  """A batch of `data.pipeline`, split over the mesh's rows if there is one.

  part  of the batch that `raw` is, where every process has its own
  """
  mesh = jax.sharding.get_mesh()
  batch = to_batch(raw)
  if mesh.empty:
    return jax.tree.map(jnp.asarray, batch)
  if part is None:
    return jax.tree.map(lambda x: hosts.place_rows(x, mesh), batch)
  rows, count = part.records, part.size
  if 'chosen' in raw:  # a pair is two rows
    rows, count = np.stack([2 * rows, 2 * rows + 1], 1).ravel(), 2 * count
  return jax.tree.map(lambda x: hosts.place_rows(x, mesh, rows, count), batch)


def shapes_of(raw: dict[str, Any], mesh: jax.sharding.Mesh) -> Batch:
  """Shapes, dtypes and shardings of what `on_device` makes of a batch."""
  return row_shapes(to_batch(raw), mesh)
