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
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import roles

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


def _printed(paper) -> list[list[str]]:
  """All commands of a row, those last that its reading names by flags."""
  papers = _papers()
  return [*papers.commands(paper), *papers.variants(paper)]


def _rows() -> list:
  """One row for each list of commands, by the first paper that has it."""
  found = {}
  for paper in _papers().read():
    if paper.config:
      found.setdefault(json.dumps(_printed(paper)), paper)
  return list(found.values())


def run(spec: str, flags: list[str], workdir: Path) -> list[dict]:
  """The metrics of a command's three steps."""
  # A flag given twice is refused: three steps stand for the row's own number.
  keys = {flag.partition('=')[0] for flag in SHORT}
  own = [flag for flag in flags if flag.partition('=')[0] not in keys]
  argv = ['--config', spec, *own, *SHORT, '--workdir', str(workdir)]
  assert train.main(argv) == 0, ' '.join([spec, *flags])
  return files.read(workdir)[1]


@pytest.mark.slow
@pytest.mark.parametrize('paper', _rows(), ids=lambda paper: paper.id)
def test_printed_commands_train(paper, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  os.symlink(ROOT / 'configs', tmp_path / 'configs')
  for _, spec, *flags, _, workdir in _printed(paper):
    found = run(spec, flags, Path(workdir))
    losses = [row['loss'] for row in found if 'loss' in row]
    assert len(losses) == STEPS and np.isfinite(losses).all(), (spec, losses)


@pytest.mark.parametrize('paper', _rows(), ids=lambda paper: paper.id)
def test_no_command_starts_in_a_form_that_says_nothing(paper):
  """Also where nothing is run: a model that a method needs is named."""
  for _, spec, *flags, _, _ in _printed(paper):
    items, rest = config_lib.split_flags(flags)
    assert not rest
    roles.check(config_lib.load(spec, items))


def test_stages_follow_each_other():
  papers = _papers()
  rows = {paper.id: paper for paper in papers.read()}
  first, second = papers.commands(rows['151'])
  assert first == ['--config', 'configs/sft.py:recipe=sft', '--workdir',
                   'runs/1']  # fmt: skip
  assert second[2:] == ['--config.ref.path=runs/1', '--workdir', 'runs/2']
  _, dpo = papers.commands(rows['005'], 'there')
  assert dpo[2:] == ['--config.init_from=there/1', '--workdir', 'there/2']
