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
import json
import os
import sys
from typing import Any

from posttrain_jax import tasks
from posttrain_jax.core import boundary, paths
from posttrain_jax.core.resolve import nearest
from posttrain_jax.data.task_problems import SPLITS, Problems, records

__all__ = ['build', 'overlap', 'write_jsonl']


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


@boundary.command
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
  args, rest = parser.parse_known_args(paths.words(argv))
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
  sys.exit(main(sys.argv[1:]))
