r"""Prints data as the learner will see it: each token with its loss weight.

  python -m posttrain_jax.show_data --data f.jsonl --model FOLDER
  python -m posttrain_jax.show_data --data 'part-*.parquet' --model byte --json
  python -m posttrain_jax.show_data --data '[{"path": "a.jsonl", "weight": 2},
      {"path": "saved:train", "weight": 1}]' --model FOLDER --packing --num 3

Green tokens are trained, dim ones are context; a number after a token is a
weight other than 0 and 1. What the whole set would do to a run follows: how
many records are cut, dropped, bad or train nothing, and how long they are.

Rows are made as a run would make them: as --config FILE and its --config.KEY
say, or else as configs/sft.py, preference.py or rl.py would of records of their
kind; what is taken from there is told. --max_length and the flags after it
replace it. Of a --config that names them, data and model may be left out.

--data takes what `data.path` and `data.sources` of a config take; --model is a
folder with a tokenizer, or 'byte' or 'task'. With --json every record is a line
{"tokens": [...], "mask": [...]} on stdout (of a pair two such, as "chosen" and
"rejected"; of packed rows one a row), and nothing else is. Older flags: --jsonl
is --data, --tfds NAME --split SPLIT a TFDS data set, --tokenizer is --model.
"""

import argparse
import json
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from posttrain_jax import trainers
from posttrain_jax.core import boundary, paths
from posttrain_jax.core import flags as core_flags
from posttrain_jax.core.domain import Whole
from posttrain_jax.data import bad_rows, formats, narrowed, pipeline, sources
from posttrain_jax.data.tokenizers import Tokenizer, load
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import model_folder, notes, opening

__all__ = ['main', 'row_text', 'show', 'write_json']

TRAINED, PARTLY, CONTEXT, CONTROL = 'bold green', 'yellow', 'dim', 'reverse'
# What trains on records of a kind, where that is not SFT.
SFT = 'configs/sft.py:data=jsonl'
TRAINED_BY = {
  'preference': 'configs/preference.py:data=jsonl',
  'unpaired': 'configs/preference.py:data=jsonl,recipe=kto',
  'prompt': 'configs/rl.py:data=jsonl',
}
ANY_LENGTH = 2**24  # tokens
ROWS = 64  # of a batch, where all rows are written


def _name(token: int, tokenizer: Tokenizer) -> str:
  """A token's text with what is invisible made visible."""
  specials = {
    tokenizer.pad_id: '<pad>',
    tokenizer.bos_id: '<bos>',
    tokenizer.eos_id: '<eos>',
  }
  if token in specials:
    return specials[token]
  text = tokenizer.decode([token])
  return text.replace('\n', '\u23ce\n') if text else f'<{token}>'


def row_text(row: dict[str, Any], tokenizer: Tokenizer) -> Text:
  """One row ([T] arrays of a batch), coloured; padding is only counted."""
  text, segment, padding = Text(), 0, 0
  for token, weight, now in zip(
    row['tokens'].tolist(), row['mask'].tolist(), row['segment_ids'].tolist()
  ):
    if now == 0:
      padding += 1
      continue
    if now != segment and segment:
      text.append('\n--- next segment ---\n', style='cyan')
    segment = now
    style = {0.0: CONTEXT, 1.0: TRAINED}.get(weight, PARTLY)
    text.append(_name(token, tokenizer), style=style)
    if weight not in (0.0, 1.0):
      text.append(f'[{weight:g}]', style=PARTLY)
  if padding:
    text.append(f' +{padding} padding', style='cyan')
  return text


def _sides(batch: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """{side: fields} of a batch of any kind; '' where there is one."""
  if 'chosen' in batch:
    return {side: batch[side] for side in ('chosen', 'rejected')}
  if 'prompt' in batch:
    real = batch['prompt_mask']
    fields = {'tokens': batch['prompt'], 'mask': 0 * real}
    return {'prompt': {**fields, 'segment_ids': real.astype(int)}}
  return {'': batch}


def _rows(batch: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """(title, row) of every row of a batch of any kind."""
  sides = _sides(batch)
  count = len(next(iter(sides.values()))['tokens'])
  names = ('tokens', 'mask', 'segment_ids')
  return [
    (f'row {i} {side}'.strip(), {name: fields[name][i] for name in names})
    for i in range(count)
    for side, fields in sides.items()
  ]


def _iterator(
  source: pipeline.Source, tokenizer: Tokenizer, rows: int, **options: Any
) -> pipeline.BatchIterator:
  return pipeline.make_iterator(
    source,
    tokenizer,
    batch_size=rows,
    shuffle=False,
    num_epochs=1,
    **options,
  )


def show(
  source: pipeline.Source,
  tokenizer: Tokenizer,
  console: Console,
  *,
  num: int,
  max_length: int,
  kind: str | None = None,
  packing: bool = False,
  overlong: str = 'truncate',
  on_bad_row: str = 'error',
) -> dict[str, Any]:
  """Prints `num` rows and the preflight report, which is also returned.

  Where a run would stop at a row that is too long (overlong 'error'), the
  report says so; here its beginning is shown.
  """
  options = dict(max_length=max_length, kind=kind, overlong=overlong)
  bad = _bad(on_bad_row)
  cut = 'truncate' if overlong == 'error' else overlong
  batches = _iterator(
    source, tokenizer, num, packing=packing, bad=bad,
    **{**options, 'overlong': cut},
  )  # fmt: skip
  for title, row in _rows(next(batches)):
    if row['segment_ids'].any():
      trained = int((row['mask'] > 0).sum())
      console.rule(f'{title}: {trained} tokens trained')
      console.print(row_text(row, tokenizer))
  bad = _bad(on_bad_row)
  report = pipeline.preflight(source, tokenizer, bad=bad, **options)
  console.rule('preflight')
  lines = [pipeline.format_report(report)]
  if bad is not None:
    lines += [f'WARNING {line}' for line in bad.lines(len(source))]
  console.print('\n'.join(lines), markup=False, highlight=False)
  return report


def _bad(rule: str) -> pipeline.BadRows | None:
  """Of a rule that leaves rows out."""
  rows = pipeline.BadRows(rule)
  return None if rule == 'error' else rows


def _line(row: dict[str, Any]) -> dict[str, list]:
  """Tokens and weights of a row, without its padding."""
  size = int((row['segment_ids'] > 0).sum())
  weights = row['mask'][:size].tolist()
  out = {
    'tokens': row['tokens'][:size].tolist(),
    'mask': [int(w) if w in (0.0, 1.0) else w for w in weights],
  }
  if row['segment_ids'].max(initial=0) > 1:
    out['segment_ids'] = row['segment_ids'][:size].tolist()
  return out


def write_json(
  source: pipeline.Source,
  tokenizer: Tokenizer,
  out: TextIO,
  *,
  num: int = 0,
  **options: Any,
) -> int:
  """Writes a line of JSON for every row, in the order of the file.

  num      rows at most; 0: all
  options  of `pipeline.make_iterator`

  Returns how many were written.
  """
  written = 0
  for batch in _iterator(source, tokenizer, ROWS, **options):
    sides = _sides(batch)
    for index in range(len(next(iter(sides.values()))['tokens'])):
      lines = {
        side: _line(
          {k: fields[k][index] for k in ('tokens', 'mask', 'segment_ids')}
        )
        for side, fields in sides.items()
      }
      if not any(line['tokens'] for line in lines.values()):
        continue  # what a last batch is filled with
      line = lines if 'chosen' in lines else next(iter(lines.values()))
      if 'label' in batch:
        line['label'] = bool(batch['label'][index])
      out.write(json.dumps(line) + '\n')
      written += 1
      if written == num:
        return written
  return written


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.show_data',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  source = parser.add_mutually_exclusive_group()
  source.add_argument('--data', '--jsonl', help='file, glob, list, ...')
  source.add_argument('--tfds', help='a dataset name or folder of TFDS')
  parser.add_argument('--split', help='of --data, or of --tfds (train)')
  parser.add_argument('--model', '--tokenizer', help='task, byte, a folder')
  parser.add_argument('--config', help='configs/FILE.py[:ARGS] of the run')
  parser.add_argument('--kind', help='default: by the columns')
  parser.add_argument('--max_length', type=int)
  parser.add_argument('--overlong', choices=formats.OVERLONG)
  parser.add_argument('--on_bad_row', choices=bad_rows.RULES[:2])
  parser.add_argument('--packing', action='store_true', default=None)
  parser.add_argument(
    '--num', type=int, help='rows to print (3); with --json all'
  )
  parser.add_argument('--json', action='store_true', help='lines of JSON')
  return parser


def _spec(text: str, split: str | None) -> Any:
  """What --data names: a path, or a list or entry as JSON.

  Raises:
    ValueError: no JSON; a --split of what says its own.
  """
  if not text.lstrip().startswith(('[', '{')):
    own = sources.split_of(text)[1]
    if split and own and own != split:
      raise ValueError(f'--split={split} and --data={text}: leave one out')
    return {'path': text, 'split': split} if split and not own else text
  try:
    found = json.loads(text)
  except ValueError as error:
    raise ValueError(f'--data={text[:60]} is no JSON: {error}') from None
  if split:
    raise ValueError(
      f'--split={split} is of a --data that is one path; here each entry has '
      'its own: {"path": ..., "split": ...}'
    )
  return found


def _opened(flags: argparse.Namespace, config: Any) -> pipeline.Source:
  """The records that the flags name, or the config where they name none."""
  if flags.tfds:
    return pipeline.TfdsSource(flags.tfds, flags.split or 'train')
  if flags.data is not None:
    return pipeline.open_source(_spec(flags.data, flags.split), '--data')
  if flags.split:
    raise ValueError(f'--split={flags.split} is of --data, which is missing')
  if config is None:
    raise ValueError('--data is missing: a file, a glob, or a list of them')
  opening.check_data(config.data)
  if config.data.source == 'task':
    raise ValueError(
      '--data is missing, and --config has rows of a task (data.source="task")'
    )
  return opening.open_records(config.data)


def _tokenizer(flags: argparse.Namespace, config: Any) -> Tokenizer:
  """That of --model, or the one that a run of the config would have."""
  if config is None:
    return load(flags.model or 'byte')
  if flags.model:
    config = config_lib.with_values(config, {'tokenizer': flags.model})
  return model_folder.load_tokenizer(model_folder.settled(config))


def _trained_as(kind: str, given: Any, spec: str) -> tuple[str, Any]:
  """(name, config) that records of a kind are trained by."""
  if given is not None:
    return spec, given
  name = TRAINED_BY.get(kind, SFT)
  return name, config_lib.load(name)


def _choices(
  flags: argparse.Namespace, name: str, config: Any
) -> tuple[dict[str, Any], str]:
  """(options of `show`, what is told of them); max_length 0: of the longest."""
  data = config.data
  length = 'max_length' if 'max_length' in data else 'max_prompt_length'
  theirs = {
    'max_length': data[length],
    'overlong': data.overlong,
    'packing': data.get('packing', False),
    'on_bad_row': data.get('on_bad_row', 'error'),
  }
  if theirs['on_bad_row'] not in bad_rows.RULES[:2]:
    theirs['on_bad_row'] = 'skip'  # which writes nothing
  given = {key: getattr(flags, key) for key in theirs}
  out = {k: theirs[k] if x is None else x for k, x in given.items()}
  told = [
    f'{key}={out[key]}' + ('' if given[key] is None else f' (--{key})')
    for key in out
  ]
  return out, f'rows as {name} makes them: {", ".join(told)}'


def _longest(
  records: pipeline.Source, tokenizer: Tokenizer, options: dict[str, Any]
) -> int:
  """Tokens of the longest record."""
  report = pipeline.preflight(
    records,
    tokenizer,
    kind=options['kind'],
    max_length=ANY_LENGTH,
    overlong='truncate',
    bad=_bad(options['on_bad_row']),
  )
  return max(2, report['lengths']['max'])


@boundary.command
def main(argv: list[str] | None = None, console: Console | None = None) -> None:
  try:
    items, rest = config_lib.split_flags(paths.words(argv))
    args = core_flags.read(_parser(), rest)
    if args.num is not None:
      Whole(1).check('--num', args.num)
    if args.max_length is not None:  # 0 is what no flag means
      Whole(1).check('--max_length', args.max_length)
    if items and not args.config:
      raise ValueError(f'--config.{items[0][0]} without a --config FILE')
    config = config_lib.load(args.config, items) if args.config else None
    records = _opened(args, config)
    tokenizer = _tokenizer(args, config)
    if not args.kind:
      own = config if config is not None else config_lib.load(SFT)
      takes = trainers.kind(own.paradigm).records(own)
      records, lines = narrowed.as_taken(records, takes, _bad('skip'))
      notes.tell(lines)
    kind = args.kind or pipeline.kinds_of(records, _bad('skip'))[0]
    name, config = _trained_as(kind, config, args.config)
    options, told = _choices(args, name, config)
    options['kind'] = args.kind
    print(f'note: {told}', file=sys.stderr)
    if not options['max_length']:
      options['max_length'] = _longest(records, tokenizer, options)
    if args.json:
      bad = _bad(options.pop('on_bad_row'))
      write_json(
        records, tokenizer, sys.stdout, num=args.num or 0, bad=bad, **options
      )
      if bad is not None:
        bad.tell()
      return
    show(records, tokenizer, console or Console(), num=args.num or 3, **options)
  except ValueError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  sys.exit(main())
