"""Evaluates a model: on a file, or on the task of its run.

  python -m posttrain_jax.evaluate --model FOLDER_OR_RUN --data x.jsonl
  python -m posttrain_jax.evaluate --model FOLDER_OR_RUN --data prompts.jsonl \\
      --rewards math_verify
  python -m posttrain_jax.evaluate --checkpoint runs/rl \\
      --config.eval.num_problems=512 [--config.task.name=addition]
  python -m posttrain_jax.evaluate --model FOLDER \\
      --config.task.name=text:gsm_symbolic

Of records with answers: loss, perplexity and token accuracy of these. With
--rewards (as `config.rewards` of a run, or names: math_verify,length) the model
answers each `prompt`, greedily and --num_samples times: accuracy, mean reward,
pass@k, maj@k, length, the expected calibration error (ece) of the samples, and
how many answers a reward failed on (rewards/LABEL/errors, timeouts) or no
reward applies to (rewards/unscored), which count as wrong.

--model is a run, a step of it, a Hugging Face folder or an adapter of PEFT.
--checkpoint is its older name. Without --data a run is evaluated by its own
task: the run's own config is used, with the keys changed that are given. A
folder has no task; the one that is named is configs/rl.py's, with its other
keys. JSON goes to stdout.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax

from posttrain_jax.core import boundary, hosts, hub, paths
from posttrain_jax.core import flags as core_flags
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import PyTree
from posttrain_jax.evals import score, unjudged
from posttrain_jax.models import adapted
from posttrain_jax.run import (
  build,
  checkpoint,
  inference,
  join,
  loop,
  notes,
  on_data,
  reward_models,
  roles,
  runtime,
)
from posttrain_jax.run import config as config_lib

# Flags of --data alone, with their defaults.
OF_DATA = {
  'rewards': '',
  'tokenizer': '',
  'max_length': 0,
  'max_new_tokens': 256,
  'num_samples': 8,
  'temperature': 1.0,
  'top_p': 1.0,
  'seed': 0,
}
# Those of --rewards, and those of the samples among them.
OF_SAMPLES = ('temperature', 'top_p', 'seed')
OF_REWARDS = ('max_new_tokens', 'num_samples', *OF_SAMPLES)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.evaluate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument('--model', help='runs/x[/.../STEP], or a folder')
  which.add_argument('--checkpoint', help='runs/x[/.../STEP]')
  parser.add_argument('--data', help='a file, a glob, FOLDER:SPLIT')
  parser.add_argument('--rewards', help='names, or JSON as config.rewards')
  parser.add_argument('--tokenizer', help="default: the model's own")
  parser.add_argument(
    '--max_length', type=int, help='tokens of a record; 0: of the longest'
  )
  parser.add_argument('--max_new_tokens', type=int, help='of an answer (256)')
  parser.add_argument('--num_samples', type=int, help='of a prompt (8)')
  parser.add_argument('--temperature', type=float, help='of samples (1)')
  parser.add_argument('--top_p', type=float, help='of samples (1)')
  parser.add_argument('--seed', type=int, help='of the samples (0)')
  return parser


def _of_data(flags: argparse.Namespace, items: Sequence) -> dict[str, Any]:
  """Scores on a file."""
  if items:
    raise ValueError(
      f'--config.{items[0][0]} changes the task of a run; with --data there is '
      'none.' + nearest(f'--{items[0][0]}', [f'--{name}' for name in OF_DATA])
    )
  given = {
    name: default if getattr(flags, name) is None else getattr(flags, name)
    for name, default in OF_DATA.items()
  }
  source = inference.open_data(flags.data)
  answered = on_data.has_answers(source)
  _check_read(flags, answered)
  if not (answered or given['rewards']) and on_data.has_pairs(source):
    raise ValueError(
      f'{flags.data} holds pairs, which are judged as a run trains on them: '
      'configs/preference.py:data=jsonl with data.eval_path says eval/loss and '
      'eval/rewards/accuracies of them'
    )
  if not answered and not given['rewards']:
    raise ValueError(
      f'{flags.data} holds no records with one answer: --rewards says what the '
      "model's own answers to its prompts are judged by"
    )
  judge = None
  if given['rewards']:
    inference.check_prompt(source[0])
    judge = inference.make_judge(
      given['rewards'], given['max_new_tokens'], reward_models.read_scorers
    )
  model = flags.model or flags.checkpoint
  inference.check_model(model, given['tokenizer'])
  loaded = inference.load(model, given['tokenizer'])
  scores: dict[str, float] = {}
  if answered:
    scores |= on_data.likelihood(loaded, source, max_length=given['max_length'])
  if judge is not None:
    scores |= on_data.rewards(
      loaded,
      source,
      judge,
      name=flags.data,
      num_samples=given['num_samples'],
      temperature=given['temperature'],
      top_p=given['top_p'],
      max_new_tokens=given['max_new_tokens'],
      seed=given['seed'],
    )
  return {'model': loaded.name, 'step': loaded.step, **scores}


def _check_read(flags: argparse.Namespace, answered: bool) -> None:
  """Raises ValueError for a flag that nothing would read, and that is not what
  it is by default.

  answered  whether the records of --data have answers
  """
  given = lambda *names: core_flags.first_given(
    flags, [x for x in names if getattr(flags, x) != OF_DATA[x]]
  )
  if not flags.rewards and (name := given(*OF_REWARDS)):
    raise ValueError(
      f"--{name} is of the model's own answers, which --rewards asks for, and "
      'that is missing'
    )
  if not answered and (name := given('max_length')):
    raise ValueError(
      f'--{name} is of records with answers; {flags.data} has prompts alone'
    )
  if flags.num_samples == 0 and (name := given(*OF_SAMPLES)):
    raise ValueError(f'--{name} is of samples, and --num_samples=0 draws none')
  if flags.temperature == 0 and flags.num_samples != 0:
    raise ValueError(
      '--temperature=0 draws nothing: an answer without samples is greedy; '
      'give --num_samples=0 in its place'
    )


def _of_task(flags: argparse.Namespace, items: Sequence) -> dict[str, Any]:
  """Scores of a run on its own task, or of a folder on one that is named."""
  path = flags.checkpoint or flags.model
  if given := core_flags.first_given(flags, tuple(OF_DATA)):
    raise ValueError(f'--{given} is for --data, which is missing')
  _check_own(items)
  if flags.model and not inference.is_run(path):
    return _of_folder(hub.pinned(path), items)
  workdir, _ = checkpoint.run_folder(path)
  saved = checkpoint.load_config(workdir)
  if saved is None:
    raise ValueError(f'{workdir} has no {checkpoint.CONFIG}')
  config = config_lib.completed(saved['config'])
  config.init_from = path
  # Frozen models of the training run are not evaluated; reward models of text
  # are asked where they are still there.
  paths = dict(config.get('others', {}))
  config.ref.path = ''
  for role in config.get('others', {}):
    config.others[role] = ''
  config_lib.override(config, items)
  run = build.build(config)
  if not run.evaluators:
    raise ValueError(f'nothing to evaluate: {_instead(run)}')
  judge = getattr(run.task, 'judge', None)
  if judge is not None:
    judge.scorers = reward_models.of_roles(judge.entries, paths)
  notes.tell(notes.positions(run))
  if not hosts.several():
    _, step, params = checkpoint.read_params(path)
    return {'step': step, **_scores(run.evaluators, params, config.seed)}
  mesh = loop.run_mesh(config)
  with jax.set_mesh(mesh):
    where = roles.placing(run.model, mesh)
    _, step, params = checkpoint.read_params(path, where=where)
    scores = _scores(run.evaluators, params, config.seed)
  return {'step': step, **scores}


def _scores(evaluators: dict, params: PyTree, seed: int) -> dict[str, float]:
  """What evaluators say, and how often their rewards failed."""
  found = score.evaluate(evaluators, params, seed)
  return found | unjudged.counted(evaluators, found)


def _instead(run: build.Run) -> str:
  """Why a run has no task to be evaluated on, and what it can be judged by."""
  data = run.config.get('data', {})
  if run.task is not None:
    return 'eval.num_problems=0; give --config.eval.num_problems'
  of = data.get('path') or data.get('name') or 'its data'
  told = f'the run has no task, only the records of {of}; give --data FILE'
  if own := data.get('eval_path'):
    return f'{told}, as --data {own}, which was its own data.eval_path'
  if share := data.get('eval_fraction'):
    told += (
      f' (data.eval_fraction={share:g} of its own were held out: their scores '
      'stand in its metrics)'
    )
  return told


def _check_own(items: Sequence) -> None:
  """Raises ValueError for a second model beside the one that is evaluated."""
  other = dict(items).get('init_from')
  if other is not None:
    raise ValueError(
      f'--config.init_from={other}: what is evaluated is --model; give {other} '
      'there'
    )


def _of_folder(path: str, items: Sequence) -> dict[str, Any]:
  """Scores of a model folder on the task of `--config.task.name`."""
  if 'task.name' not in dict(items):
    raise ValueError(
      f'{path} is no run, and has no task: give --data, or name one, as '
      '--config.task.name=text:gsm_symbolic'
    )
  config = config_lib.load('configs/rl.py', [('init_from', path), *items])
  run = build.build(config)
  if not run.evaluators:
    raise ValueError('nothing to evaluate: eval.num_problems=0')
  notes.tell(notes.positions(run))
  mesh = loop.run_mesh(config) if hosts.several() else None
  with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
    params = adapted.merged(roles.read_params(path, run.model, mesh))
    scores = _scores(run.evaluators, params, config.seed)
  return {'model': path, 'step': None, **scores}


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  with join.leaving():
    return join.leave(_main(argv))


def _main(argv: Sequence[str] | None) -> int:
  try:
    items, rest = config_lib.split_flags(paths.words(argv))
    flags = core_flags.read(_parser(), rest)
    runtime.prepare()
    scores = (_of_data if flags.data else _of_task)(flags, items)
  except OSError as error:
    print(f'error: {boundary.sentence(error)}', file=sys.stderr)
    return 2
  except (ValueError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  # JSON has no number for what is undefined, as the spread of one prompt.
  shown = {k: None if x != x else x for k, x in scores.items()}
  if hosts.first():
    print(json.dumps(shown, indent=1))
  return 0


if __name__ == '__main__':
  sys.exit(main())
