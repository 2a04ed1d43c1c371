r"""Prints data as the learner will see it: each token with its loss weight.

  python -m posttrain_jax.show_data --jsonl f.jsonl --tokenizer byte
  python -m posttrain_jax.show_data --tfds FOLDER --split train \
      --tokenizer task --packing --num 3

Green tokens are trained, dim ones are context; a number after a token is a
weight other than 0 and 1. The preflight report of the whole set follows.
"""

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from posttrain_jax.core.domain import Whole
from posttrain_jax.data import pipeline
from posttrain_jax.data.tokenizers import Tokenizer, load

__all__ = ['main', 'row_text']

TRAINED, PARTLY, CONTEXT, CONTROL = 'bold green', 'yellow', 'dim', 'reverse'


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


def _rows(batch: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """(title, row) of every row of a batch of any kind."""
  sides = {'': batch}
  if 'chosen' in batch:
    sides = {side: batch[side] for side in ('chosen', 'rejected')}
  elif 'prompt' in batch:
    real = batch['prompt_mask']
    fields = {'tokens': batch['prompt'], 'mask': 0 * real}
    sides = {'prompt': {**fields, 'segment_ids': real.astype(int)}}
  count = len(next(iter(sides.values()))['tokens'])
  names = ('tokens', 'mask', 'segment_ids')
  return [
    (f'row {i} {side}'.strip(), {name: fields[name][i] for name in names})
    for i in range(count)
    for side, fields in sides.items()
  ]


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
) -> dict[str, Any]:
  """Prints `num` rows and the preflight report, which is also returned."""
  batches = pipeline.make_iterator(
    source,
    tokenizer,
    batch_size=num,
    max_length=max_length,
    kind=kind,
    packing=packing,
    overlong=overlong,
    shuffle=False,
    num_epochs=1,
    process_index=0,
    process_count=1,
  )
  for title, row in _rows(next(batches)):
    if row['segment_ids'].any():
      console.rule(f'{title}: {int((row["mask"] > 0).sum())} tokens trained')
      console.print(row_text(row, tokenizer))
  report = pipeline.preflight(
    source, tokenizer, max_length=max_length, kind=kind, overlong=overlong
  )
  console.rule('preflight')
  console.print(pipeline.format_report(report), markup=False, highlight=False)
  return report


def main(argv: list[str] | None = None, console: Console | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.show_data', allow_abbrev=False
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--jsonl', help='a file or a glob')
  source.add_argument('--tfds', help='a dataset name or folder')
  parser.add_argument('--split', default='train', help='of a TFDS dataset')
  parser.add_argument('--tokenizer', default='byte', help='task, byte, path')
  parser.add_argument('--kind', help='default: by the columns')
  parser.add_argument('--max_length', type=int, default=1024)
  parser.add_argument('--overlong', default='truncate')
  parser.add_argument('--packing', action='store_true')
  parser.add_argument('--num', type=int, default=3, help='rows to print')
  args = parser.parse_args(argv)
  try:
    for flag in ('num', 'max_length'):
      Whole(1).check(f'--{flag}', getattr(args, flag))
    if args.jsonl:
      records = pipeline.JsonlSource(args.jsonl)
    else:
      records = pipeline.TfdsSource(args.tfds, args.split)
    show(
      records,
      load(args.tokenizer),
      console or Console(),
      num=args.num,
      max_length=args.max_length,
      kind=args.kind,
      packing=args.packing,
      overlong=args.overlong,
    )
  except ValueError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main()
