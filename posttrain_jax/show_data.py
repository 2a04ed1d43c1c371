r"""Prints data as the learner will see it: each token with its loss weight.

  python -m posttrain_jax.show_data --data f.jsonl --model FOLDER
  python -m posttrain_jax.show_data --data 'part-*.parquet' --model byte --json
  python -m posttrain_jax.show_data --data '[{"path": "a.jsonl", "weight": 2},
      {"path": "saved:train", "weight": 1}]' --model FOLDER --packing --num 3

Green tokens are trained, dim ones are context; a number after a token is a
weight other than 0 and 1. What the whole set would do to a run follows: how
many records are cut, dropped, bad or train nothing, and how long they are.

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

from posttrain_jax.core import boundary, paths
from posttrain_jax.core.domain import Whole
from posttrain_jax.data import bad_rows, pipeline
from posttrain_jax.data.tokenizers import Tokenizer, load

__all__ = ['main', 'row_text', 'show', 'write_json']

TRAINED, PARTLY, CONTEXT, CONTROL = 'bold green', 'yellow', 'dim', 'reverse'
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
  """Prints `num` rows and the preflight report, which is also returned."""
  options = dict(max_length=max_length, kind=kind, overlong=overlong)
  bad = _bad(on_bad_row)
  batches = _iterator(
    source, tokenizer, num, packing=packing, bad=bad, **options
  )
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
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--data', '--jsonl', help='file, glob, list, ...')
  source.add_argument('--tfds', help='a dataset name or folder of TFDS')
  parser.add_argument('--split', default='train', help='of --tfds')
  parser.add_argument(
    '--model', '--tokenizer', default='byte', help='task, byte, a folder'
  )
  parser.add_argument('--kind', help='default: by the columns')
  parser.add_argument('--max_length', type=int, default=1024)
  parser.add_argument('--overlong', default='truncate')
  parser.add_argument(
    '--on_bad_row', default='error', choices=bad_rows.RULES[:2]
  )
  parser.add_argument('--packing', action='store_true')
  parser.add_argument(
    '--num', type=int, help='rows to print (3); with --json all'
  )
  parser.add_argument('--json', action='store_true', help='lines of JSON')
  return parser


def _spec(text: str) -> Any:
  """What --data names: a path, or a list or entry as JSON."""
  if not text.lstrip().startswith(('[', '{')):
    return text
  try:
    return json.loads(text)
  except ValueError as error:
    raise ValueError(f'--data={text[:60]} is no JSON: {error}') from None


@boundary.command
def main(argv: list[str] | None = None, console: Console | None = None) -> None:
  args = _parser().parse_args(paths.words(argv))
  try:
    if args.num is not None:
      Whole(1).check('--num', args.num)
    Whole(1).check('--max_length', args.max_length)
    if args.tfds:
      records = pipeline.TfdsSource(args.tfds, args.split)
    else:
      records = pipeline.open_source(_spec(args.data), '--data')
    options = dict(
      max_length=args.max_length,
      kind=args.kind,
      packing=args.packing,
      overlong=args.overlong,
    )
    tokenizer = load(args.model)
    if args.json:
      bad = _bad(args.on_bad_row)
      write_json(
        records, tokenizer, sys.stdout, num=args.num or 0, bad=bad, **options
      )
      if bad is not None:
        bad.tell()
      return
    show(
      records,
      tokenizer,
      console or Console(),
      num=args.num or 3,
      on_bad_row=args.on_bad_row,
      **options,
    )
  except ValueError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  sys.exit(main())
