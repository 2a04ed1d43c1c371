"""Stages of a study that were harmed, or that went wrong while they trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_lab import tiny

from posttrain_jax import lab
from posttrain_jax.run import checkpoint, failed, manifest
from posttrain_jax.sweep import replay

CALM, WILD = {'optimizer.lr': 0.1}, {'optimizer.lr': 1e38}


def config():
  return tiny(('optimizer.name', 'sgd'), ('optimizer.max_grad_norm', '0'))


@pytest.mark.long
def test_harmed_stages_are_named_and_trained_again(tmp_path, capsys):
  runs = lab.Lab(tmp_path, range(2))
  base = runs.train('base', config(), hparams=CALM)
  first, folder = base.params, base.path.parent
  content = bytearray(base.path.read_bytes())
  content[-1] ^= 1
  base.path.write_bytes(content)
  capsys.readouterr()
  again = runs.train('base', config(), hparams=CALM)
  said = capsys.readouterr().err
  assert f'{folder}: params.safetensors is not what was written' in said
  assert (tmp_path / checkpoint.DAMAGED / folder.name).is_dir()
  jax.tree.map(np.testing.assert_array_equal, again.params, first)
  # One from before manifests is read, and told of once.
  (folder / manifest.FILE).unlink()
  other = lab.Lab(tmp_path, range(2))
  for _ in range(2):
    read = other.train('base', config(), hparams=CALM)
  assert read.wall_seconds == again.wall_seconds
  assert capsys.readouterr().err.count('cannot be verified') == 1

  # A seed whose numbers leave float32 stands still, with a record.
  kept = runs.train('wild', config(), hparams=WILD)
  said = capsys.readouterr().err
  assert 'seed 0: ' in said
  [wild] = (tmp_path / 'stages').glob('wild-*')
  step, path = failed.newest(wild)
  assert f'--replay {path}' in said and kept.failed[0] == step
  probe = lambda params, base, key: {'one': jnp.float32(1)}
  measured = runs.measure(kept, probe)['one']
  expected = [np.nan if index in kept.failed else 1.0 for index in range(2)]
  np.testing.assert_array_equal(measured, expected)
  tried = {'wild': measured, 'calm': [0.0, 0.0]}
  assert lab.best(tried, lambda values: values) == 'calm'
  found = replay.replay(failed.read(path))
  assert found.not_finite and found.differing == []
