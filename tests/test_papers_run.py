"""Every command of the catalogue of papers, as it is printed, for three steps.

A row's stages are run one after the other, stage k in the folder runs/k. As the
page says, each starts from the one before unless it names the run it reads.
"""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from posttrain_jax import train
from posttrain_jax.log import files

ROOT = Path(__file__).parent.parent
STEPS = 3
# Three steps without a warm-up, and nothing between them or after the last.
SHORT = (
  f'--config.num_steps={STEPS}',
  '--config.steps_per_call=1',
  '--config.optimizer.warmup_updates=0',
  '--config.eval.num_problems=0',
)


def _papers():
  """experiments/papers.py, which is no part of the package."""
  spec = importlib.util.spec_from_file_location(
    'papers', ROOT / 'experiments' / 'papers.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _rows() -> list:
  """One row for each list of commands, by the first paper that has it."""
  papers = _papers()
  found = {}
  for paper in papers.read():
    stages = papers.stages(paper)
    if stages:
      found.setdefault(json.dumps(stages), (paper, stages))
  return list(found.values())


def run(spec: str, flags: list[str], workdir: Path) -> list[dict]:
  """The metrics of a command's three steps."""
  argv = ['--config', spec, *flags, *SHORT, '--workdir', str(workdir)]
  assert train.main(argv) == 0, ' '.join([spec, *flags])
  return files.read(workdir)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
  'paper, stages', _rows(), ids=lambda x: getattr(x, 'id', '')
)
def test_printed_commands_train(paper, stages, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  os.symlink(ROOT / 'configs', tmp_path / 'configs')
  for number, (spec, flags) in enumerate(stages, start=1):
    if number > 1 and not any('runs/' in flag for flag in flags):
      flags = [*flags, f'--config.init_from=runs/{number - 1}']
    found = run(spec, flags, Path(f'runs/{number}'))
    losses = [row['loss'] for row in found if 'loss' in row]
    assert len(losses) == STEPS and np.isfinite(losses).all(), (spec, losses)
