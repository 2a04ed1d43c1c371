"""Asks a model: one prompt, a file of prompts, or a chat in a terminal.

  python -m posttrain_jax.sample --model FOLDER_OR_RUN --prompt 'What is 2+2?'
  python -m posttrain_jax.sample --model FOLDER_OR_RUN --data prompts.jsonl \\
      --out answers.jsonl --num_samples 4
  python -m posttrain_jax.sample --model FOLDER_OR_RUN

A --prompt is a user's turn where the model has a chat template, or was trained
on turns; with --raw it is a text to go on from. Its answers are written as they
are drawn. In a chat an empty line forgets what was said, and Ctrl-D ends it.

Of a file, `prompt` is a text to go on from, or messages; every answer becomes a
line: the record's columns, `completion` (a text, or messages) and `finished`,
so that training can read them. A `completion` that was there is called
`reference`.

--model is a run, a step of it, a Hugging Face folder or an adapter of PEFT.
"""

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from posttrain_jax.core import boundary, keys, paths
from posttrain_jax.core import flags as core_flags
from posttrain_jax.data import chat as turns_of
from posttrain_jax.data.tokenizers import ends
from posttrain_jax.rollout.stream import Stream
from posttrain_jax.run import command, inference, notes, runtime
from posttrain_jax.run.inference import Loaded

__all__ = ['chat', 'main', 'write_answers']

NEW = 256  # tokens of an answer where no flag says it
PARTIAL = '.partial'  # of a file that is not whole yet
# Columns that a line of answers has of its own.
GIVEN, KEPT_AS, FINISHED = 'completion', 'reference', 'finished'


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.sample',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--model', required=True, help='a run, or a folder')
  parser.add_argument('--tokenizer', default='', help="default: the model's")
  what = parser.add_mutually_exclusive_group()
  what.add_argument('--prompt', help='a question')
  what.add_argument('--data', help='a file, a glob, FOLDER:SPLIT of prompts')
  parser.add_argument('--out', help='a new file of JSON lines, for --data')
  parser.add_argument('--raw', action='store_true', help='no chat template')
  parser.add_argument(
    '--max_new_tokens', type=int,
    help=f'{NEW}, or what the model has positions for',
  )  # fmt: skip
  parser.add_argument(
    '--temperature', type=float, default=1.0, help='0: the most likely token'
  )
  parser.add_argument(
    '--top_p', type=float, default=1.0, help='mass of the tokens drawn from'
  )
  parser.add_argument('--num_samples', type=int, default=1)
  parser.add_argument('--seed', type=int, default=0)
  return parser


def _stream(loaded: Loaded, flags: argparse.Namespace) -> Stream:
  return Stream(
    loaded.params,
    loaded.model,
    decoder=inference.make_decoder(flags.temperature, flags.top_p),
    eos_id=ends(loaded.tokenizer),
    pad_id=loaded.tokenizer.pad_id,
  )


def _room(loaded: Loaded, longest: int, flags: argparse.Namespace) -> int:
  """Tokens that an answer to the longest prompt may have."""
  new, left = flags.max_new_tokens, loaded.model.max_length - longest
  if new is None:
    new = min(NEW, left) if left > 0 else NEW
  notes.tell(inference.check_room(loaded, longest + new, '--max_new_tokens'))
  return new


def _one(loaded: Loaded, flags: argparse.Namespace, out: TextIO) -> None:
  """Writes the answers to one prompt, piece by piece."""
  prompt = inference.ask(loaded, flags.prompt, flags.raw)
  new = _room(loaded, len(prompt), flags)
  stream, key = _stream(loaded, flags), keys.seed_key(flags.seed)
  for sample in range(flags.num_samples):
    if flags.num_samples > 1:
      out.write(f'--- {sample + 1} of {flags.num_samples}\n')
    tokens = stream(prompt, key, max_new_tokens=new, sample=sample)
    for piece in inference.pieces(loaded.tokenizer, tokens):
      out.write(piece)
      out.flush()
    out.write('\n')


def write_answers(
  loaded: Loaded,
  asked: Sequence[inference.Asked],
  out: TextIO | paths.Grown,
  **how: Any,
) -> int:
  """Writes a line of JSON for every answer; returns how many.

  how  as `inference.answers`
  """
  written = 0
  found = inference.answers(loaded, [x.tokens for x in asked], **how)
  left = iter(asked)
  for made in found:
    groups = zip(made.texts, made.finished)
    for one, (texts, ended) in zip(itertools.islice(left, len(made.texts)),
                                   groups):  # fmt: skip
      columns = dict(one.columns)
      if GIVEN in columns:
        columns[KEPT_AS] = columns.pop(GIVEN)
      for text, stopped in zip(texts, ended):
        answer: Any = text
        if not isinstance(columns['prompt'], str):
          answer = [{'role': 'assistant', 'content': text}]
        line = {**columns, GIVEN: answer, FINISHED: bool(stopped)}
        out.write(json.dumps(line, ensure_ascii=False, default=str) + '\n')
        written += 1
  return written


@contextlib.contextmanager
def _made(path: paths.AnyPath) -> Iterator[TextIO | paths.Grown]:
  """A file that is there when it is whole; until then its lines are beside it,
  under PARTIAL, where the same command writes them anew; in a bucket from when
  it breaks off."""
  partial = path.with_name(path.name + PARTIAL)
  if isinstance(partial, paths.Remote):
    partial.unlink(missing_ok=True)
    with contextlib.closing(paths.Grown(partial)) as grown:
      yield grown
    partial.replace(path)
    return
  with open(partial, 'w', encoding='utf-8') as out:
    yield out
  partial.replace(path)


def _file(loaded: Loaded, flags: argparse.Namespace) -> None:
  asked = inference.read_prompts(inference.open_data(flags.data), loaded)
  new = _room(loaded, max(len(x.tokens) for x in asked), flags)
  with _made(paths.path(flags.out)) as out:
    written = write_answers(
      loaded,
      asked,
      out,
      key=keys.seed_key(flags.seed),
      num_samples=flags.num_samples,
      max_new_tokens=new,
      decoder=inference.make_decoder(flags.temperature, flags.top_p),
    )
  print(f'wrote {written:,} answers to {flags.out}')


def chat(
  loaded: Loaded,
  flags: argparse.Namespace,
  lines: Iterable[str],
  out: TextIO,
) -> Iterator[str]:
  """A conversation: writes the answer to every line, and yields it.

  lines  what the user says; an empty one begins anew
  """
  stream, key = _stream(loaded, flags), keys.seed_key(flags.seed)
  messages: list[dict[str, str]] = []
  plain = flags.raw or not loaded.turns
  for number, line in enumerate(lines):
    text = line.rstrip('\n')
    if not text:
      messages = []
      out.write('(a new conversation)\n')
      continue
    messages.append({'role': 'user', 'content': text})
    try:
      if plain:
        prompt = inference.ask(loaded, text, raw=True)
      else:
        written = turns_of.prompted(loaded.tokenizer, messages)
        inference.tell_written([written.notes])
        prompt = written.tokens
      new = _room(loaded, len(prompt), flags)
    except ValueError as error:
      messages.pop()
      out.write(f'error: {error}\n')
      continue
    tokens = stream(prompt, key, max_new_tokens=new, prompt_id=number)
    said = ''
    for piece in inference.pieces(loaded.tokenizer, tokens):
      out.write(piece)
      out.flush()
      said += piece
    out.write('\n')
    messages.append({'role': 'assistant', 'content': said})
    yield said


def _typed() -> Iterator[str]:
  """Lines from the terminal, until it is closed."""
  while True:
    try:
      yield input('> ')
    except EOFError:
      print()
      return


def _check(flags: argparse.Namespace) -> None:
  """Raises ValueError for flags that do not go together."""
  if flags.num_samples < 1:
    raise ValueError(f'--num_samples={flags.num_samples} is below 1')
  if flags.data and not flags.out:
    raise ValueError('--out is missing: a new file for the answers to --data')
  if flags.data and flags.raw:
    raise ValueError(
      '--raw is for --prompt and chats: of --data a text is plain as it stands'
    )
  if flags.out and not flags.data:
    raise ValueError('--out is for the answers to --data, which is missing')
  if flags.out and paths.path(flags.out).exists():
    raise ValueError(f'--out={flags.out} is there already; name a new file')
  if flags.out:
    inference.check_parent('--out', flags.out)
  if flags.temperature == 0 and flags.num_samples > 1:
    raise ValueError(
      f'--num_samples={flags.num_samples} at --temperature=0 are one answer'
    )
  command.check_drawn(flags, top_p=1.0, seed=0)
  chats = flags.prompt is None and not flags.data
  if chats and not sys.stdin.isatty():
    raise ValueError(
      '--prompt or --data is missing, and this is no terminal to chat in'
    )
  if chats and flags.num_samples > 1:
    raise ValueError('--num_samples is for --prompt and --data, not for a chat')


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  try:
    flags = core_flags.read(_parser(), argv)
    _check(flags)
    if flags.data:
      inference.check_prompt(inference.open_data(flags.data)[0])
    runtime.prepare()
    loaded = inference.load(flags.model, flags.tokenizer)
    if flags.data:
      _file(loaded, flags)
    elif flags.prompt is not None:
      _one(loaded, flags, sys.stdout)
    else:
      for _ in chat(loaded, flags, _typed(), sys.stdout):
        pass
  except (ValueError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
