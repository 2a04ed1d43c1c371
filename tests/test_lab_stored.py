"""Stages of a study that were harmed, or that went wrong while they trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_lab import tiny

from posttrain_jax import lab
from posttrain_jax.lab import direct
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


@dataclasses.dataclass(frozen=True)
class Draw:
  """A number of a key, and what is given."""

  shift: float

  def __call__(self, key, given):
    return {'x': jax.random.uniform(key) + self.shift + given['rate'][0]}


def test_numbers_of_seeds_alone_are_kept(tmp_path, monkeypatch):
  runs = lab.Lab(tmp_path, range(3))
  found = lab.look(runs, 'draw', Draw(1.0), {'rate': [2.0, 0.0]})
  expected = [jax.random.uniform(key) + 3.0 for key in runs.split_keys('test')]
  np.testing.assert_allclose(found['x'], expected, rtol=1e-6)
  assert runs.commits and runs.seconds > 0.0
  # Other seeds in the same folder count for the same study.
  other = runs.beside((7,))
  took = runs.seconds
  more = lab.look(other, 'draw', Draw(1.0), {'rate': [2.0]}, 'validation')
  assert more['x'][0] not in found['x'] and runs.seconds > took

  # Read again by whoever asks for the same, and made for all else.
  def refuse(*args, **kwargs):
    raise AssertionError('it was measured again')

  monkeypatch.setattr(direct, '_programs', {Draw(1.0): refuse})
  again = lab.Lab(tmp_path, range(3))
  assert lab.look(again, 'draw', Draw(1.0), {'rate': [2.0, 0.0]}) == found
  with pytest.raises(AssertionError):
    lab.look(again, 'draw', Draw(1.0), {'rate': [2.5, 0.0]})
  with pytest.raises(AssertionError):
    lab.look(again, 'draw', Draw(1.0), {'rate': [2.0, 0.0]}, 'validation')
