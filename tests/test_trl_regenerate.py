"""The committed TRL numbers are what the installed TRL gives."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

GOLDENS = pathlib.Path(__file__).parent / 'goldens'
REFUSED = {'kto_pair'}  # CPOTrainer raises on it


@pytest.mark.slow
def test_committed_numbers_are_those_of_trl(tmp_path):
  pytest.importorskip('trl', reason='needs the extra "parity"')
  subprocess.run(
    [sys.executable, GOLDENS / 'make_trl_goldens.py', tmp_path],
    check=True,
    env=os.environ | {'TQDM_DISABLE': '1'},
  )
  made = json.loads((tmp_path / 'expected.json').read_text())
  kept = json.loads((GOLDENS / 'trl' / 'expected.json').read_text())
  assert set(made['entries']) == set(kept['entries'])
  for name, entry in kept['entries'].items():
    new = made['entries'][name]
    pairs = [(new[key], entry[key]) for key in ('loss', 'grad_norm')]
    pairs += [
      (new['named_grad_norms'][key], norm)
      for key, norm in entry['named_grad_norms'].items()
    ]
    for ours, theirs in pairs:
      np.testing.assert_allclose(
        ours, theirs, rtol=1e-4, atol=1e-6, err_msg=name
      )
  with (
    np.load(tmp_path / 'batch.npz') as new,
    np.load(GOLDENS / 'trl' / 'batch.npz') as old,
  ):
    assert set(new) == set(old)
    for key in old:
      np.testing.assert_allclose(new[key], old[key], atol=1e-4, err_msg=key)


def _losses(source: str) -> set[str]:
  """Names that a trainer's code compares its loss_type with."""
  tests = re.findall(r'\bloss_type (?:==|in) (\[[^]]*\]|"[^"]*")', source)
  return {name for test in tests for name in re.findall(r'"([\w-]+)"', test)}


@pytest.mark.slow
def test_every_trainer_and_loss_type_is_listed():
  trl = pytest.importorskip('trl', reason='needs the extra "parity"')
  content = json.loads((GOLDENS / 'trl' / 'expected.json').read_text())
  entries = content['entries'].values()
  compared = {}
  for entry in entries:
    trainer = entry['trl'].split(':')[0]
    given = entry['args'].get('loss_type', [])
    given = [given] if isinstance(given, str) else given
    said = re.findall(r'[\w-]+', entry['trl'])
    compared.setdefault(trainer, set()).update(given, said)
  left_out = set(re.findall(r'\w+Trainer', ' '.join(content['left_out'])))
  found = 0
  for path in pathlib.Path(trl.__file__).parent.rglob('*_trainer.py'):
    source = path.read_text()
    for trainer in re.findall(r'^class ([A-Z]\w*Trainer)\(', source, re.M):
      found += 1
      assert trainer in set(compared) | left_out, trainer
      if trainer in compared:
        assert _losses(source) - REFUSED <= compared[trainer], trainer
  assert found > 15
