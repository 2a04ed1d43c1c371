"""Trains one run from a config file.

  python -m posttrain_jax.train --config configs/rl.py:recipe=grpo \\
      --workdir runs/x --config.optimizer.lr=1e-4 [--dry_run]

Running again on the same workdir goes on where it stopped. Ctrl-C and SIGTERM
save first.
"""

import sys
from collections.abc import Sequence
from typing import Any

from posttrain_jax.models import transformer
from posttrain_jax.run import build, notes, roles, runtime
from posttrain_jax.run.command import parse
from posttrain_jax.run.loop import Interrupted, train


def describe(config: Any) -> str:
  """The resolved config and sizes, as `--dry_run` prints them."""
  run = build.build(config)
  roles.check(config)
  out = [str(config).rstrip(), '', 'resolved sizes']
  sizes = run.sizes.to_dict()
  sizes['parameters'] = transformer.param_count(run.model)
  sizes['scan_layers'] = run.model.scan_layers
  out += [f'  {name:22} {value:,}' for name, value in sizes.items()]
  if run.sizes.why:
    out.append(f'  auto                   {run.sizes.why}')
  told = notes.notes(run)
  out += ['', 'notes', *(f'  {line}' for line in told)] if told else []
  return '\n'.join(out)


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  try:
    config, flags = parse(argv, __doc__)
    if flags.dry_run:
      print(describe(config))
      return 0
    runtime.prepare()
    _, _, scores = train(config, flags.workdir)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except Interrupted as stopped:
    print(f'{stopped}; the same command goes on from there')
    return 128 + stopped.number
  shown = ', '.join(f'{k} {v:.3f}' for k, v in sorted(scores.items()))
  print(f'finished: {shown}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
