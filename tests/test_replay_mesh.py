"""A failed step of a mesh, taken again under the same mesh; and elsewhere."""

import json

import jax
import pytest
from test_nonfinite import LARGE, command, in_the_repository  # noqa: F401

from posttrain_jax import train
from posttrain_jax.run import failed
from posttrain_jax.sweep import replay

MESHES = {
  'sft': {'data': 2, 'fsdp': 4},
  'rl': {'data': 2, 'fsdp': 2},
  'file': {'fsdp': -1},
  'preference': {'data': 2, 'tensor': 2},
  'host': {'data': 2, 'fsdp': 2},
}


def stopped(name, folder, capsys):
  flags = [f'--config.mesh.{k}={v}' for k, v in MESHES[name].items()]
  assert train.main(command(name, folder, *LARGE, *flags)) == 1
  capsys.readouterr()
  return failed.read(failed.newest(folder)[1])


@pytest.mark.slow
@pytest.mark.parametrize('name', MESHES)
def test_a_step_of_a_mesh_is_taken_again_bit_for_bit(name, tmp_path, capsys):
  record = stopped(name, tmp_path / 'run', capsys)
  sizes = {'data': 1, 'fsdp': 1, 'tensor': 1} | MESHES[name]
  sizes = {k: 8 if v == -1 else v for k, v in sizes.items()}
  assert {k: record.mesh[k] for k in sizes} == sizes
  assert train.main(['--replay', str(record.path)]) == 1
  assert 'every metric bit for bit as recorded' in capsys.readouterr().out


def changed(path, **values):
  content = json.loads(path.read_text())
  for name, value in values.items():
    if isinstance(value, dict):
      content[name] = {**content[name], **value}
  path.write_text(json.dumps(content))
  return failed.read(path)


@pytest.mark.long
def test_another_mesh_is_refused(tmp_path, capsys, monkeypatch):
  record = stopped('file', tmp_path / 'run', capsys)
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  with pytest.raises(ValueError, match='8 devices, and here are 4'):
    replay.replay(record)
  monkeypatch.undo()
  path = record.path
  there = changed(path, mesh={'fsdp': 4})
  with pytest.raises(
    ValueError, match=r'fsdp=4 .*the 8 devices here make .*fsdp=8.*: take 8'
  ):
    replay.replay(there)
  devices = {**record.header['devices'], 'processes': 2}
  there = changed(path, mesh={'fsdp': 8}, header={'devices': devices})
  with pytest.raises(ValueError, match='of 2 processes, and here are 1'):
    replay.replay(there)
