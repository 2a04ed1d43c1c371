"""The records of a run: opened, judged before it begins, split, counted."""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from posttrain_jax import trainers
from posttrain_jax.core import hosts, sharding
from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import content, heldout, pipeline, tokenizers
from posttrain_jax.data.bad_rows import BadRows
from posttrain_jax.data.kinds import almost, check_columns
from posttrain_jax.data.narrowed import as_taken
from posttrain_jax.data.preflight import first_kinds, first_records
from posttrain_jax.data.rows import Joined, Source, each_leaf, subset
from posttrain_jax.data.unpaired import Unpaired
from posttrain_jax.data.watching import Watch
from posttrain_jax.losses import preference
from posttrain_jax.run.opening import open_path, open_records

__all__ = [
  'Feed',
  'held',
  'num_steps',
  'open_feed',
  'show',
]

# Records of a file that are tokenised before a run begins.
LOOKED_AT = 1000
TOKENISED = 2**23  # bytes of a data set up to which all records are
CHECKED = 2**25  # bytes up to which all are read; of more, as the run goes on
# Of each kind of record, what trains on it.
UNPAIRED = ', '.join(f'recipe={x}' for x in reversed(preference.UNPAIRED))
TRAINED_BY = {
  **dict.fromkeys(
    ('messages', 'completion', 'text'), ', which configs/sft.py does'
  ),
  'preference': ', which configs/preference.py does, with recipe=dpo',
  'unpaired': f', which configs/preference.py does, with {UNPAIRED}',
  'prompt': ', which configs/rl.py does',
}
_REPORTS: dict[tuple, tuple[dict[str, Any], BadRows]] = {}
# {what a number of steps depends on: it}
_COUNTS: dict[tuple, int] = {}
_TOLD: set[str] = set()
_SPLITS: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}


def _of_kind(
  config: Any, tokenizer: Any, source: Source, rows: BadRows
) -> Source:
  """The source, as records of a kind that the run trains on.

  Pairs become labelled answers for the losses that train on these.

  Raises:
    ValueError: the run does not train on records of this kind.
  """
  trainer = trainers.kind(config.paradigm)
  takes = trainer.records(config)
  source, told = as_taken(source, takes, rows)
  for line in told * hosts.first():
    if line not in _TOLD:
      print(f'note: {line}', file=sys.stderr)
    _TOLD.add(line)
  makes_pairs = False
  for kind, record in first_records(source, rows):
    if kind == 'preference' and 'unpaired' in takes:
      makes_pairs = True
    elif kind not in takes:
      if meant := almost(record.columns, kind, takes):
        check_columns(record.columns, meant, record.where)
      raise ValueError(
        f'{record.where}: {trainer.LABEL} with loss "{config.loss.name}" does '
        f'not train on kind "{kind}"{TRAINED_BY[kind]}.{nearest(kind, takes)}'
      )
  if not makes_pairs:
    return source

  def unpaired(leaf: Source) -> Source:
    kind, _ = first_kinds(leaf, rows)[0]
    return Unpaired(leaf, tokenizer.template) if kind == 'preference' else leaf

  return each_leaf(source, unpaired)


def _kept(source: Source, indices: np.ndarray, why: str) -> Source:
  """`subset`, where something is left of every part of a mixture.

  why  what is true of all records of a part of which nothing is left
  """
  kept = subset(source, indices)
  if isinstance(source, Joined) and source.weights:
    ends = np.cumsum([len(part) for part in source.parts])
    left = np.unique(np.searchsorted(ends, indices, side='right'))
    gone = sorted(set(range(len(ends))) - set(left.tolist()))
    if gone:
      paths = ', '.join(Joined(source.parts[gone[0] : gone[0] + 1]).paths())
      raise ValueError(
        f'data.sources[{gone[0]}]: all its records {why}: {paths}'
      )
  return kept


def _split(source: Source, fraction: float) -> tuple[Source, Source]:
  """(records to train on, held-out ones)."""
  key = (getattr(source, 'stamp', None), fraction)
  if key[0] is None or key not in _SPLITS:
    _SPLITS[key] = heldout.split(source, fraction)
  train, held = _SPLITS[key]
  judges = subset(source, held)
  if isinstance(judges, Joined):
    judges = Joined(judges.parts)  # each record counts once
  return _kept(source, train, 'would be held out'), judges


@dataclasses.dataclass
class _Looked:
  """A source that was looked at.

  source  without the bad rows that were found
  bad     what is done with those that may be left; None: there are none
  """

  source: Source
  report: dict[str, Any]
  rows: BadRows
  bad: BadRows | None
  large: bool


def _choices(config: Any) -> dict[str, Any]:
  data = config.data
  return dict(max_length=data.max_length, overlong=data.overlong)


def _looked(config: Any, tokenizer: Any, source: Source) -> _Looked:
  """The source as its records are checked: all of them where it is small."""
  rule = config.data.on_bad_row
  small = source.num_bytes <= TOKENISED
  large = source.num_bytes > CHECKED
  choices = dict(
    **_choices(config), limit=None if small else LOOKED_AT, everything=not large
  )
  stamp = getattr(source, 'stamp', None)
  written = (config.tokenizer, config.data.special_text, config.data.after_stop)
  key = (stamp, *written, tokenizer.vocab_size, rule, str(choices))
  if stamp is None or key not in _REPORTS:
    rows = BadRows(rule)
    bad = None if rule == 'error' else rows
    report = pipeline.preflight(source, tokenizer, bad=bad, **choices)
    _REPORTS[key] = report, rows
  report, found = _REPORTS[key]
  rows = BadRows(rule)
  rows.absorb(found)
  kept = source
  if len(rows) and not large:
    good = np.delete(np.arange(len(source)), rows.indices)
    kept = _kept(source, good, 'cannot be trained on')
  bad = rows if rule != 'error' and not small else None
  return _Looked(kept, report, rows, bad, large)


def _judged(report: dict[str, Any], rule: str) -> list[str]:
  """What is to be told of a data set.

  Raises:
    ValueError: it stops the run, or trains nothing.
  """
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
  left = report['num_records'] - report['bad'] - looked
  if left > 0 and report['overlong'] == 'error' and rule == 'error':
    told.append(
      f'{looked:,} of {report["num_records"]:,} records were tokenised; one '
      'that is too long ends the run where it comes, which data.overlong='
      '"truncate" or "drop" would not'
    )
  return told


def _shared(source: Source, held: Source) -> list[str]:
  """Told where records of evaluation are trained on; of small data sets."""
  if max(source.num_bytes, held.num_bytes) > TOKENISED:
    return []
  places = heldout.overlap(source, held)
  if not places:
    return []
  return [
    f'evaluation: {len(places):,} of {len(held):,} records have a prompt that '
    f'is trained on, too; first: {", ".join(places[:3])}'
  ]


def held(config: Any) -> Callable[[int], np.ndarray] | None:
  """(rows of a batch) -> those of this process's devices; None: there is no
  other process, and it has all."""
  if not hosts.several():
    return None
  mesh = sharding.make_mesh(config.mesh)
  return lambda count: hosts.held(count, mesh)


@dataclasses.dataclass
class Feed:
  """The records of a run; called, batches of them from the start.

  source     of training
  heldout    of evaluation, or None
  rows       what was found to be no record to train on
  told       lines to show before the run
  """

  config: Any
  tokenizer: Any
  source: Source
  heldout: Source | None
  rows: BadRows
  told: list[str]
  bad: BadRows | None
  heldout_bad: BadRows | None
  watch: Watch | None

  def _batches(
    self, source: Source, size: int, **options: Any
  ) -> pipeline.BatchIterator:
    return pipeline.make_iterator(
      source,
      self.tokenizer,
      batch_size=size,
      seed=self.config.seed,
      held=held(self.config),
      **_choices(self.config),
      **options,
    )

  def batches(self, before: Callable[[], None] = lambda: None):
    """Batches of training; endless, or of `data.num_epochs`."""
    return self._batches(
      self.source,
      # A pair is one record and two rows.
      self.config.prompts_per_step,
      packing=self.config.data.packing,
      num_epochs=self.config.data.num_epochs or None,
      bad=self.bad,
      before=before,
      on_change=self.config.data.on_change,
    )

  def __call__(self) -> pipeline.BatchIterator:
    guard = content.Guard(self.source, self.config.data.on_change)
    if self.watch is None:
      return self.batches(guard.check)
    watch = self.watch
    watch.start()

    def check() -> None:
      watch.check()
      guard.check()

    return self.batches(check)

  def evaluation(self) -> Iterable[dict[str, Any]]:
    """Every held-out record once; `eval.batch` at a time, or a few more where
    the mesh wants it."""
    mesh = sharding.axis_sizes(self.config.mesh)
    parts = sharding.row_parts(mesh)
    size = -(-self.config.eval.batch // parts) * parts
    options = dict(shuffle=False, num_epochs=1, bad=self.heldout_bad)
    return self._batches(self.heldout, size, **options)

  def keep_in(self, workdir: Path) -> None:
    """Bad rows go to a file of the run's folder, where the rule says so."""
    self.rows.keep_in(workdir)

  def close(self) -> None:
    """Ends the look in the thread, and shows what was left out."""
    if self.watch is not None:
      self.watch.stop()
    if self.bad is not None and hosts.first():
      self.rows.tell()


def _watch(config: Any, tokenizer: Any, looked: _Looked) -> Watch:
  """A look at all of a source, for while the run goes on."""
  rows = looked.rows

  def look(pause: Callable[[], None]) -> dict[str, Any]:
    bad = None if rows.rule == 'error' else rows
    return pipeline.preflight(
      looked.source, tokenizer, bad=bad, pause=pause, **_choices(config)
    )

  def told(report: dict[str, Any]) -> None:
    lines = _judged(report, rows.rule) + rows.lines(report['num_records'])
    show([f'all records are looked at: {line}' for line in lines])

  return Watch(look, told)


def show(lines: Iterable[str]) -> None:
  """Prints lines on stderr, on one process."""
  if hosts.first():
    for line in lines:
      print(f'WARNING data: {line}', file=sys.stderr)


def open_feed(config: Any, tokenizer: tokenizers.Tokenizer) -> Feed:
  """The records of `config.data`: checked, and those of evaluation apart.

  Every record's columns are checked before the run where a data set has up to
  CHECKED bytes, in a thread while it goes on where it has more. All are
  tokenised up to TOKENISED bytes, else LOOKED_AT of them. `data.on_bad_row`
  says what becomes of those that cannot be trained on.

  Raises:
    ValueError: no such file, a record that cannot be trained on, one that is
      too long where `data.overlong` is 'error', or records that all train
      nothing.
  """
  data = config.data
  first_look = BadRows(data.on_bad_row)
  source = _of_kind(config, tokenizer, open_records(data), first_look)
  held = None
  if data.eval_path:
    opened = open_path(data.eval_path, 'data.eval_path')
    held = _of_kind(config, tokenizer, opened, first_look)
  elif data.eval_fraction:
    source, held = _split(source, data.eval_fraction)
  looked = _looked(config, tokenizer, source)
  size = looked.report['num_records']
  told = _judged(looked.report, data.on_bad_row)
  told += looked.rows.lines(size if not looked.large else 0)
  judged = None
  if held is not None:
    judged = _looked(config, tokenizer, held)
    lines = _judged(judged.report, data.on_bad_row)
    lines += judged.rows.lines(judged.report['num_records'])
    told += [f'evaluation: {line}' for line in lines]
    if data.eval_path:
      told += _shared(looked.source, judged.source)
  return Feed(
    config=config,
    tokenizer=tokenizer,
    source=looked.source,
    heldout=None if judged is None else judged.source,
    heldout_bad=None if judged is None else judged.bad,
    rows=looked.rows,
    told=told,
    bad=looked.bad,
    watch=_watch(config, tokenizer, looked) if looked.large else None,
  )


def num_steps(feed: Feed) -> int:
  """Steps that `data.num_epochs` epochs of the records have."""
  batches = feed.batches()
  if batches.num_batches is not None:
    return batches.num_batches
  # How many rows they are packed into, or are left out, shows as they are read:
  # once a process, however often it builds the run.
  key = _counted_by(feed)
  if key is None or key not in _COUNTS:
    count = sum(1 for _ in batches)
    if key is None:
      return count
    _COUNTS[key] = count
  return _COUNTS[key]


def _counted_by(feed: Feed) -> tuple | None:
  """What the number of its steps depends on; None: on what has no stamp."""
  config, stamp = feed.config, getattr(feed.source, 'stamp', None)
  if stamp is None:
    return None
  data = config.data
  return (
    stamp, len(feed.source), tuple(feed.rows.indices),
    tuple(getattr(feed.source, 'weights', ())), feed.tokenizer.vocab_size,
    config.tokenizer, config.prompts_per_step, config.seed,
    str(_choices(config)), data.packing, data.num_epochs, data.on_bad_row,
    data.special_text, data.after_stop, str(data.eval_path),
    data.eval_fraction,
  )  # fmt: skip
