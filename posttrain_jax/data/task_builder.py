r"""In-graph tasks as data sets: problems with oracle demonstrations.

  python -m posttrain_jax.data.task_builder --task addition \
      --num_train 1000 --num_test 100 --data_dir data --task.num_digits=4

writes a TFDS dataset (array_record files; TensorFlow is not needed) with the
columns prompt, completion, answer (JSON of what the verifier needs) and task.
`--jsonl out.jsonl` also writes out.train.jsonl and out.test.jsonl.

Problem i of a split has its own key, and the two splits take theirs from
disjoint ranges: more training problems never change the test ones. Test holds
only problems that in-graph evaluation holds out too (`tasks.split`), and train
only others, so that no problem of one is in the other; `overlap` counts.
"""

import argparse
import ast
import dataclasses
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from posttrain_jax import tasks
from posttrain_jax.data.tokenizers import TaskTokenizer
from posttrain_jax.resolve import nearest
from posttrain_jax.rollout import environments
from posttrain_jax.tasks import split as split_lib
from posttrain_jax.tasks import vocab

__all__ = ['COLUMNS', 'SPLITS', 'Problems', 'build', 'records', 'write_jsonl']

COLUMNS = ('prompt', 'completion', 'answer', 'task')
SPLITS = {'train': 0, 'test': 2**31}  # first key of each split's range
CHUNK = 256  # problems per compiled call


@dataclasses.dataclass(frozen=True)
class Problems:
  """A task with its knobs, and how many problems of it.

  heldout_fraction  share of all problems that only test has, as the config key
                    of that name; 0.0: the splits differ in their keys alone

  Raises ValueError for an unknown task or knob, or a number out of range.
  """

  task: str
  knobs: tuple[tuple[str, Any], ...] = ()
  num_train: int = 1000
  num_test: int = 100
  seed: int = 0
  heldout_fraction: float = 0.125

  def __post_init__(self):
    tasks.make(self.task, **dict(self.knobs))
    for name in ('num_train', 'num_test'):
      value = getattr(self, name)
      if not 1 <= value < 2**31:
        raise ValueError(f'{name}={value} is not in 1..2**31-1')
    if not 0 <= self.heldout_fraction < 1:
      raise ValueError(
        f'heldout_fraction={self.heldout_fraction} is not in [0, 1)'
      )

  @property
  def name(self) -> str:
    """Names all that the problems depend on, so that none are mixed up."""
    knobs = '-'.join(f'{key}_{value}' for key, value in sorted(self.knobs))
    if len(knobs) > 120 or re.search(r'[^\w.-]', knobs):  # unfit for a path
      knobs = hashlib.sha256(repr(sorted(self.knobs)).encode()).hexdigest()[:12]
    sizes = (
      f'train_{self.num_train}-test_{self.num_test}-seed_{self.seed}'
      f'-heldout_{self.heldout_fraction:g}'
    )
    return '-'.join(filter(None, [self.task, knobs, sizes]))


def _text(tokens: np.ndarray, length: int) -> str:
  """Text of a task's tokens, without the EOS.

  Raises:
    ValueError: another special token stands in it, which text cannot hold.
  """
  ids = tokens[:length].tolist()
  if ids and ids[-1] == vocab.EOS:
    ids = ids[:-1]
  if any(i < vocab.ZERO for i in ids):
    raise ValueError(f'special tokens within {vocab.decode(ids)!r}')
  return TaskTokenizer().decode(ids)


@functools.cache
def _compiled(task: Any, fraction: float) -> Any:
  """(seed, numbers [N], heldout) -> N examples, solutions and rewards."""

  def one(key: jax.Array, heldout: jax.Array):
    sample_key, solve_key = jax.random.split(key)
    example = split_lib.sample(
      task, sample_key, heldout=heldout, fraction=fraction
    )
    text = task.solve(example, solve_key)
    reward = task.verify(example, text.tokens, text.mask)['reward']
    return example, text, reward

  def chunk(seed: jax.Array, numbers: jax.Array, heldout: jax.Array):
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = fold(jax.random.key(seed), numbers)
    return jax.vmap(one, in_axes=(0, None))(keys, heldout)

  return jax.jit(chunk)


def records(problems: Problems, split: str) -> Iterator[dict[str, str]]:
  """Problems of a split, in order, as dicts of COLUMNS.

  Raises:
    ValueError: an unknown split, or an oracle that its verifier rejects.
  """
  if split not in SPLITS:
    raise ValueError(f'unknown split "{split}".{nearest(split, SPLITS)}')
  task = tasks.make(problems.task, **dict(problems.knobs))
  if environments.of(task) is not None:
    raise ValueError(
      f'task "{problems.task}" is played in turns: its transcripts hold an '
      "environment's answers, which text alone does not tell from the model's"
    )
  compute = _compiled(task, problems.heldout_fraction)
  count = getattr(problems, f'num_{split}')
  for start in range(0, count, CHUNK):
    # Whole chunks only: one shape, one compilation.
    numbers = np.arange(start, start + CHUNK) + SPLITS[split]
    example, text, reward = jax.device_get(
      compute(problems.seed, numbers.astype(np.uint32), split == 'test')
    )
    prompt_lengths = example.prompt_mask.sum(axis=1).astype(int)
    for i in range(min(CHUNK, count - start)):
      prompt = _text(example.prompt[i], prompt_lengths[i])
      completion = _text(text.tokens[i], text.length[i])
      if reward[i] != 1.0:
        raise ValueError(
          f'task "{problems.task}": the verifier gives {reward[i]} to the '
          f"oracle's {completion!r} on {prompt!r}"
        )
      answer = {key: value[i].tolist() for key, value in example.answer.items()}
      yield {
        'prompt': prompt,
        'completion': completion,
        'answer': json.dumps(answer, sort_keys=True),
        'task': problems.task,
      }


def write_jsonl(problems: Problems, path: str) -> list[str]:
  """Writes NAME.train.jsonl and NAME.test.jsonl for `path` NAME.jsonl."""
  stem = path.removesuffix('.jsonl')
  os.makedirs(os.path.dirname(stem) or '.', exist_ok=True)
  paths = []
  for split in SPLITS:
    paths.append(f'{stem}.{split}.jsonl')
    with open(paths[-1], 'w', encoding='utf-8') as file:
      for record in records(problems, split):
        file.write(json.dumps(record, ensure_ascii=False) + '\n')
  return paths


def overlap(problems: Problems) -> int:
  """How many test problems have a prompt that training has too."""
  seen = {record['prompt'] for record in records(problems, 'train')}
  return sum(r['prompt'] in seen for r in records(problems, 'test'))


def build(problems: Problems, data_dir: str) -> str:
  """Writes the TFDS dataset, unless it is there; returns its folder.

  `TfdsSource(folder, 'train')` reads it.
  """
  from posttrain_jax.data import task_tfds

  builder = task_tfds.TaskProblems(
    config=task_tfds.TaskConfig(name=problems.name, problems=problems),
    data_dir=data_dir,
    file_format='array_record',
  )
  builder.download_and_prepare()
  return str(builder.data_dir)


def _knob(task: str, argument: str) -> tuple[str, Any]:
  """('num_digits', 4) of '--task.num_digits=4'.

  Raises:
    ValueError: an unknown knob, or a value of another type than its default.
  """
  key, equals, text = argument.removeprefix('--task.').partition('=')
  if not argument.startswith('--task.') or not equals:
    raise ValueError(f'unknown argument "{argument}"; knobs: --task.KNOB=VALUE')
  known = tasks.defaults(task)
  known.pop('name')
  if key not in known:
    raise ValueError(f'task "{task}" has no knob "{key}".{nearest(key, known)}')
  try:
    value = ast.literal_eval(
      text.title() if text in ('true', 'false') else text
    )
  except (ValueError, SyntaxError):
    value = text
  default = known[key]
  if isinstance(default, float) and type(value) is int:
    value = float(value)
  if default is not None and type(value) is not type(default):
    raise ValueError(
      f'--task.{key}={text}: expected {type(default).__name__}, as the '
      f'default {default!r}'
    )
  return key, value


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.data.task_builder', allow_abbrev=False
  )
  parser.add_argument('--task', required=True, help='a name of tasks.__all__')
  parser.add_argument('--num_train', type=int, default=1000)
  parser.add_argument('--num_test', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--heldout_fraction', type=float, default=0.125)
  parser.add_argument('--data_dir', help='where the TFDS dataset goes')
  parser.add_argument('--jsonl', help='also (or only) NAME.jsonl files')
  args, rest = parser.parse_known_args(argv)
  if not args.data_dir and not args.jsonl:
    parser.error('give --data_dir, --jsonl or both')
  try:
    tasks.make(args.task)
    problems = Problems(
      task=args.task,
      knobs=tuple(sorted(_knob(args.task, argument) for argument in rest)),
      num_train=args.num_train,
      num_test=args.num_test,
      seed=args.seed,
      heldout_fraction=args.heldout_fraction,
    )
  except ValueError as error:
    parser.error(str(error))
  if args.data_dir:
    print(build(problems, args.data_dir))
  if args.jsonl:
    print('\n'.join(write_jsonl(problems, args.jsonl)))
  print(
    f'{overlap(problems)} of {problems.num_test} test prompts are also in train'
  )


if __name__ == '__main__':
  main(sys.argv[1:])
