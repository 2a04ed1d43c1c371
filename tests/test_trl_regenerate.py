"""The committed TRL numbers are what the installed TRL gives."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

GOLDENS = pathlib.Path(__file__).parent / 'goldens'


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
