"""Evaluates a checkpoint: greedy accuracy, pass@k, votes, beams.

  python -m posttrain_jax.evaluate --checkpoint runs/rl \\
      --config.eval.num_problems=512 [--config.task.name=addition]

The run's own config is used, with these keys changed; JSON goes to stdout.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from posttrain_jax.evals import score
from posttrain_jax.run import build, checkpoint, notes, runtime
from posttrain_jax.run import config as config_lib


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  try:
    items, rest = config_lib.split_flags(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
      prog='python -m posttrain_jax.evaluate',
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--checkpoint', required=True, help='runs/x[/.../STEP]')
    flags = parser.parse_args(rest)
    workdir, _ = checkpoint.run_folder(flags.checkpoint)
    saved = checkpoint.load_config(workdir)
    if saved is None:
      raise ValueError(f'{workdir} has no {checkpoint.CONFIG}')
    config = config_lib.completed(saved['config'])
    config.init_from = flags.checkpoint
    # Frozen models of the training run are not evaluated, nor looked for.
    config.ref.path = ''
    for role in config.get('others', {}):
      config.others[role] = ''
    config_lib.override(config, items)
    run = build.build(config)
    if not run.evaluators:
      raise ValueError('nothing to evaluate: eval.num_problems=0, or no task')
    notes.tell(notes.positions(run))
    runtime.prepare()
    _, step, params = checkpoint.read_params(flags.checkpoint)
    scores = score.evaluate(run.evaluators, params, config.seed)
  except (ValueError, OSError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(json.dumps({'step': step, **scores}, indent=1))
  return 0


if __name__ == '__main__':
  sys.exit(main())
