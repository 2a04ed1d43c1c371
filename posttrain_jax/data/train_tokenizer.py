r"""Trains a byte-level BPE tokenizer on a task's texts or on a data file.

  python -m posttrain_jax.data.train_tokenizer --task text:gsm_symbolic \
      --num_problems 2000 --vocab_size 512 --out tokenizers/gsm
  python -m posttrain_jax.data.train_tokenizer --data train.jsonl \
      --vocab_size 4096 --out tokenizers/mine

Then `--config.tokenizer=tokenizers/gsm`. A task's texts are its training
problems at its default difficulty, with the default `heldout_fraction`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from posttrain_jax.core import boundary
from posttrain_jax.core import flags as core_flags
from posttrain_jax.data import records, text_task
from posttrain_jax.data.sources import in_order, open_source
from posttrain_jax.data.tokenizers import BPETokenizer, ByteTokenizer

__all__ = ['file_texts', 'main', 'task_texts']


def task_texts(name: str, num_problems: int, fraction: float) -> list[str]:
  """Prompts and answers of the first training problems of 'text:NAME'.

  fraction  of the questions that is held out

  Raises:
    ValueError: unknown task, with the nearest one.
  """
  entry = text_task.entry(name)
  # Only the texts count: no length is a limit.
  task = text_task.TextTask(
    name.removeprefix(text_task.PREFIX),
    ByteTokenizer(),
    prompt_length=sys.maxsize,
    completion_length=sys.maxsize,
    knobs=entry['knobs'],
    heldout_fraction=fraction,
  )
  try:
    found = [task.problem(i) for i in range(num_problems)]
  finally:
    task.close()
  return [part for p in found for part in (p['prompt'], p['answer']) if part]


def file_texts(paths: str) -> Iterator[str]:
  """The texts of a file of records, of the columns that training reads.

  Raises:
    ValueError: no such file, or a record that training would refuse.
  """
  source = open_source(paths)
  first = source[0]
  kind = records.kind_of(first.columns, first.where)
  for record in in_order(source):
    columns = records.read(record.columns, kind, record.where)
    for name in records.KINDS[kind]:
      value = columns[name]
      if isinstance(value, str):
        yield value
      elif isinstance(value, list):
        yield from (message['content'] for message in value)


def _check_out(out: str) -> None:
  """Raises ValueError where a tokenizer would be written over."""
  place = Path(out)
  if place.suffix != '.json' and place.exists() and not place.is_dir():
    raise ValueError(f'--out={out} is a file; name a folder')
  file = place if place.suffix == '.json' else place / 'tokenizer.json'
  if file.exists():
    raise ValueError(f'--out={out}: {file} is there already; name a new folder')


@boundary.command
def main(argv: list[str] | None = None) -> None:
  """The command line; exits with a message where the input is bad."""
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.data.train_tokenizer',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--task', help='text:NAME')
  source.add_argument('--data', '--jsonl', help='a file, a glob, FOLDER:SPLIT')
  parser.add_argument('--num_problems', type=int, default=2000)
  parser.add_argument('--heldout_fraction', type=float, default=0.125)
  parser.add_argument('--vocab_size', type=int, required=True)
  parser.add_argument('--out', required=True, help='a folder')
  try:
    args = core_flags.read(parser, argv)
    _check_out(args.out)
    if args.data:
      texts = list(file_texts(args.data))
    elif text_task.is_text(args.task):
      texts = task_texts(args.task, args.num_problems, args.heldout_fraction)
    else:
      raise ValueError(f'--task "{args.task}" is no text task: text:NAME')
    if not any(texts):
      raise ValueError('no text to train on: all of it is empty')
    tokenizer = BPETokenizer.train(texts, args.vocab_size)
  except ValueError as error:
    sys.exit(f'error: {error}')
  tokenizer.save(args.out)
  size = sum(len(part.encode()) for part in texts)
  tokens = sum(len(tokenizer.encode(part)) for part in texts)
  print(
    f'{args.out}: {tokenizer.vocab_size} tokens, '
    f'{size / max(tokens, 1):.2f} bytes each on these {len(texts)} texts'
  )


if __name__ == '__main__':
  sys.exit(main())
