"""Trains one run from a config file.

  python -m posttrain_jax.train --config configs/rl.py:recipe=grpo \\
      --workdir runs/x --config.optimizer.lr=1e-4 [--dry_run]

Running again on the same workdir goes on where it stopped. Ctrl-C and SIGTERM
save first. A step whose loss, gradient norm or parameters are not finite ends
the run and leaves a record of itself, which

  python -m posttrain_jax.train --replay runs/x/failed/step-12.json

takes again. Exit status: 0 finished, 1 a step was not finite (or was not again,
in a replay), 2 something given cannot work or the machine gave out (disk,
memory), 128 + n stopped by signal n.

On several hosts the same command is started on each (posttrain_jax/run/join.py
says how they find each other), with a workdir that all of them share.
"""

import contextlib
import io
import signal
import sys
from collections.abc import Sequence
from typing import Any

from posttrain_jax.core import hosts, paths, trees
from posttrain_jax.models import transformer
from posttrain_jax.models.adapted import WHOLE, trained
from posttrain_jax.run import (
  build,
  failed,
  hub_keys,
  join,
  measured,
  model_folder,
  notes,
  on_disk,
  rescue,
  runtime,
)
from posttrain_jax.run.command import parse
from posttrain_jax.run.continuing import built, check_folder, foreseen
from posttrain_jax.run.loop import Interrupted, run_mesh, train
from posttrain_jax.run.state import abstract_state
from posttrain_jax.sweep import replay

# Of a run without evaluation.
NOTHING = 'nothing was evaluated (eval.num_problems=0, or no data held out)'


def describe(config: Any, workdir: str | None = None) -> str:
  """The resolved config and sizes, as `--dry_run` prints them; and what a run
  would find in its folder, where there is one. Nothing is written.

  Raises:
    ValueError: what a run would be refused for.
  """
  place = paths.path(workdir) if workdir else None
  if place is not None:
    check_folder(place)
    config = hub_keys.as_begun(config, place)
  config = model_folder.settled(config)
  run = build.build(config) if place is None else built(config, place)
  measured.check(run)
  on_disk.check(run, place)
  out = [str(config).rstrip(), '', 'resolved sizes']
  sizes = run.sizes.to_dict()
  sizes['parameters'] = transformer.param_count(run.model)
  out += [f'  {name:22} {value:,}' for name, value in sizes.items()]
  if run.adapter is not None:
    out.append(f'  {"trained":22} {adapters_told(run)}')
  if run.sizes.why:
    out.append(f'  auto                   {run.sizes.why}')
  if choice := notes.chosen(run):
    out += ['', 'chosen, where the config says auto']
    out += [f'  {line}' for line in choice]
  told = [*notes.notes(run), *devices_told(config)]
  if place is not None:
    out += ['', 'workdir']
    out += [f'  {line}' for line in foreseen(config, run, place)]
  out += ['', 'notes', *(f'  {line}' for line in told)] if told else []
  return '\n'.join(out)


def devices_told(config: Any) -> list[str]:
  """Where a run would be refused here for its mesh: not here is it sized."""
  try:
    run_mesh(config)
  except ValueError as error:
    return [
      f'{error} A run is refused on these devices; python -m '
      'posttrain_jax.plan --topology sizes it for others.'
    ]
  return []


def adapters_told(run: build.Run) -> str:
  """'trains 0.8% of 494M parameters: rank 16 on ...'."""
  parts = trained(abstract_state(run).params)
  count, whole = trees.count(parts), transformer.param_count(run.model)
  heads = [name for name in WHOLE if name in parts]
  beside = f'; all of {", ".join(heads)}' if heads else ''
  return (
    f'trains {count:,}, {count / whole:.2%} of {whole:,} parameters: '
    f'{run.adapter.told(run.model)}{beside}'
  )


def record_of(argv: Sequence[str]) -> str:
  """FILE of a command line `--replay FILE`; '' where it asks for none.

  Raises:
    ValueError: it asks for more than that, or names no file.
  """
  flags = [flag.partition('=') for flag in argv]
  if not any(name == '--replay' for name, _, _ in flags):
    return ''
  words = [word for name, _, value in flags for word in (name, value) if word]
  if len(words) != 2 or words[0] != '--replay':
    raise ValueError(
      '--replay FILE stands alone: the record has config and state'
    )
  return words[1]


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  argv = paths.words(argv)
  with join.leaving():
    return join.leave(_main(argv))


def _main(argv: list[str]) -> int:
  try:
    if file := record_of(argv):
      record = failed.read(file)
      beside = record.together
      runtime.prepare(runs=beside.count if beside else 1)
      runtime.as_recorded(record.header.get('devices', {}))
      with contextlib.ExitStack() as stack:
        if not hosts.first():  # all see the same
          stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        return replay.main(record)
    config, flags = parse(argv, __doc__)
    if flags.dry_run:
      print(describe(config, flags.workdir))
      return 0
    runtime.prepare()
    _, _, scores = train(config, flags.workdir)
  except Interrupted as stopped:
    if hosts.first():
      print(f'{stopped}; the same command goes on from there')
    return 128 + stopped.number
  except KeyboardInterrupt:
    print('stopped at once', file=sys.stderr)
    return 128 + signal.SIGINT
  except Exception as error:
    told = rescue.sentence(error)
    if not told:
      raise
    nonfinite = isinstance(error, FloatingPointError)
    if hosts.first() or not nonfinite:  # of that all say the same
      print(f'error: {told}', file=sys.stderr)
    return 1 if nonfinite else 2
  shown = ', '.join(f'{k} {v:.3f}' for k, v in sorted(scores.items()))
  if hosts.first():
    print(f'finished: {shown or NOTHING}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
