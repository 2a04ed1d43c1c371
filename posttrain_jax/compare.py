"""Puts the answers of several models to the same prompts side by side.

  python -m posttrain_jax.compare --models runs/sft runs/grpo FOLDER \\
      --data prompts.jsonl --rewards math_verify --out DIR

Prints a table, and writes DIR/index.html, a page with it and with the answers
to each prompt, and DIR/answers.jsonl, a line for each prompt. Of a file,
`prompt` is a text to go on from, or messages. Models answer greedily unless
--temperature says otherwise, each through its own tokenizer and template; a
model is a run, a step of it, a Hugging Face folder or an adapter of PEFT.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from posttrain_jax.core import boundary, buckets, keys, paths
from posttrain_jax.core import flags as core_flags
from posttrain_jax.data.host_task import Answers, shown_prompt
from posttrain_jax.data.prompts_task import PromptsTask
from posttrain_jax.data.sources import Source
from posttrain_jax.log.progress import short
from posttrain_jax.report.page import Report
from posttrain_jax.rewards.judge import Judge
from posttrain_jax.run import (
  command,
  inference,
  notes,
  reward_models,
  runtime,
)
from posttrain_jax.run.inference import Loaded

__all__ = ['Said', 'answered', 'main', 'table', 'write']

PAGE, LINES = 'index.html', 'answers.jsonl'


class Said(NamedTuple):
  """What one model says to N prompts.

  texts     N answers
  lengths   [N] tokens, with the stop token
  finished  [N] 1.0 where an answer ended by itself
  rewards   [N]; None where nothing judges
  correct   [N] 1.0 where an answer is right; None where nothing judges
  scores    {label: [N]} of single rewards; nan where one does not apply
  unjudged  how many have no reward that says whether they are right
  """

  texts: list[str]
  lengths: np.ndarray
  finished: np.ndarray
  rewards: np.ndarray | None = None
  correct: np.ndarray | None = None
  scores: Mapping[str, np.ndarray] = MappingProxyType({})
  unjudged: int = 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.compare',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    '--models', nargs='+', required=True, help='two runs or folders, or more'
  )
  parser.add_argument('--data', required=True, help='a file of prompts')
  parser.add_argument('--rewards', default='', help='names, or JSON')
  parser.add_argument('--out', required=True, help='a folder for the page')
  parser.add_argument('--tokenizer', default='', help='in place of their own')
  parser.add_argument('--max_new_tokens', type=int, default=256)
  parser.add_argument(
    '--temperature', type=float, default=0.0, help='0: the most likely token'
  )
  parser.add_argument('--seed', type=int, default=0)
  return parser


def answered(
  loaded: Loaded,
  source: Source,
  judge: Judge | None,
  *,
  name: str = 'prompts',
  temperature: float = 0.0,
  max_new_tokens: int = 256,
  seed: int = 0,
) -> Said:
  """What a model says to all prompts of a source, and what that earns.

  name  of the source, for messages

  Raises:
    ValueError: a record that is no prompt or cannot be judged, with its place;
      more tokens than the model has positions; a reward that judged nothing.
  """
  asked = inference.read_prompts(source, loaded)
  task = judge and PromptsTask(  # what it cannot judge, before it is answered
    None,
    loaded.tokenizer,
    judge,
    completion_length=max_new_tokens,
    name=name,
    heldout=source,
  )
  longest = max(len(x.tokens) for x in asked) + max_new_tokens
  notes.tell(inference.check_room(loaded, longest, '--max_new_tokens'))
  parts = list(
    inference.answers(
      loaded,
      [x.tokens for x in asked],
      keys.seed_key(seed),
      num_samples=1,
      max_new_tokens=max_new_tokens,
      decoder=inference.make_decoder(temperature, 1.0),
    )
  )
  made = Answers(
    [group for part in parts for group in part.texts],
    [group for part in parts for group in part.ids],
    np.concatenate([part.finished for part in parts]),
  )
  texts = [group[0] for group in made.texts]
  lengths = np.array([len(group[0]) for group in made.ids], np.float32)
  said = Said(texts, lengths, made.finished[:, 0])
  if task is None or judge is None:
    return said
  found = task.judged(np.arange(len(texts)), made, True)
  label = judge.verdict.label
  unjudged = int(np.isnan(found.scores[label]).sum())
  if unjudged == len(texts):
    raise ValueError(judge.nothing(label, 'applies to no answer'))
  return said._replace(
    rewards=found.rewards[:, 0],
    correct=found.correct[:, 0],
    scores={label: x[:, 0] for label, x in found.scores.items()},
    unjudged=unjudged,
  )


def table(said: dict[str, Said]) -> tuple[list[str], list[list[Any]]]:
  """(columns, a row for each model): means over the prompts."""
  first = next(iter(said.values()))
  labels = list(first.scores) if len(first.scores) > 1 else []
  judged = first.rewards is not None
  columns = ['model', *(['reward', 'correct'] if judged else []), *labels]
  some = any(one.unjudged for one in said.values())
  columns += ['unjudged'] if some else []
  rows: list[list[Any]] = []
  for name, one in said.items():
    row: list[Any] = [name]
    if one.rewards is not None and one.correct is not None:
      row += [float(one.rewards.mean()), float(one.correct.mean())]
    for label in labels:
      values = one.scores[label][~np.isnan(one.scores[label])]
      row.append(float(values.mean()) if values.size else None)
    row += [float(one.unjudged)] if some else []
    rows.append([*row, float(one.lengths.mean()), float(one.finished.mean())])
  return [*columns, 'tokens', 'finished'], rows


def _shown(said: dict[str, Said]) -> Table:
  """The table as the terminal shows it."""
  (first, *others), rows = table(said)
  out = Table()
  out.add_column(first, overflow='fold')
  for column in others:
    out.add_column(column, justify='right', no_wrap=True)
  for row in rows:
    out.add_row(*('-' if x is None else short(x) for x in row))
  return out


def write(
  out: str | Path, source: Source, said: dict[str, Said], subtitle: str
) -> Path:
  """Writes the page and the lines of answers; returns the page's path."""
  folder = paths.path(out)
  folder.mkdir(parents=True, exist_ok=True)
  page = Report('Answers side by side', subtitle)
  page.table(
    *table(said),
    'Means over the prompts. "tokens" counts those of an answer with the one '
    'that ends it; "finished" is the share that ended by itself, "unjudged" '
    'the number that no reward says anything of: it counts as wrong.',
  )
  page.heading('Answers')
  lines = []
  for index in range(len(source)):
    columns = source[index].columns
    rewards = {
      name: None if one.rewards is None else float(one.rewards[index])
      for name, one in said.items()
    }
    page.example(
      shown_prompt(columns['prompt']),
      [(name, x.texts[index], rewards[name]) for name, x in said.items()],
    )
    line = {
      **columns,
      'answers': {name: x.texts[index] for name, x in said.items()},
    }
    if any(x is not None for x in rewards.values()):
      line['rewards'] = rewards
    lines.append(json.dumps(line, ensure_ascii=False, default=str) + '\n')
  paths.write(folder / LINES, ''.join(lines))
  return page.write(folder / PAGE)


def _check(flags: argparse.Namespace) -> None:
  """Raises ValueError for flags that do not go together."""
  names = flags.models
  if len(names) < 2:
    raise ValueError(f'--models {names[0]} is one model; give two, or more')
  twice = [name for name in names if names.count(name) > 1]
  if twice:
    raise ValueError(f'--models: "{twice[0]}" is there twice')
  out = paths.path(flags.out)
  if out.exists() and not out.is_dir():
    raise ValueError(f'--out={flags.out} is a file; name a folder for the page')
  command.check_drawn(flags, seed=0)
  found = [name for name in (PAGE, LINES) if (out / name).exists()]
  if found:
    raise ValueError(
      f'--out={flags.out} has {found[0]} already; name a new folder'
    )
  if paths.is_remote(out):
    buckets.writable(out / PAGE)


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  judge = None
  try:
    flags = core_flags.read(_parser(), argv)
    _check(flags)
    source = inference.open_data(flags.data)
    if flags.rewards:
      judge = inference.make_judge(
        flags.rewards, flags.max_new_tokens, reward_models.read_scorers
      )
    inference.check_prompt(source[0])
    for name in flags.models:  # before the first of them answers
      inference.check_model(name, flags.tokenizer)
    paths.path(flags.out).mkdir(parents=True, exist_ok=True)
    runtime.prepare()
    said = {}
    for name in flags.models:  # one of them in memory at a time
      said[name] = answered(
        inference.load(name, flags.tokenizer),
        source,
        judge,
        name=flags.data,
        temperature=flags.temperature,
        max_new_tokens=flags.max_new_tokens,
        seed=flags.seed,
      )
    shown = _shown(said)
    how = f'{len(source):,} prompts of {flags.data}, temperature '
    path = write(flags.out, source, said, f'{how}{flags.temperature:g}')
  except (ValueError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  finally:
    if judge is not None:
      judge.close()
  Console().print(shown)
  print(f'wrote {path}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
