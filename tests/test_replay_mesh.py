"""A failed step of a mesh, taken again under the same mesh; and elsewhere."""

import json
from types import SimpleNamespace

import pytest
from test_nonfinite import LARGE, command, in_the_repository  # noqa: F401

from posttrain_jax import log, train
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import failed, runtime
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


PLACES = [
  ({'fsdp': 16}, '16 devices, and here are 8'),
  ({'fsdp': 4}, 'fsdp=4, which the 8 devices here make .*fsdp=8.* take 8'),
]  # fmt: skip


@pytest.mark.parametrize('mesh, message', PLACES)
def test_another_place_is_refused(mesh, message, tmp_path):
  """Before the step's state is read, and before anything is compiled."""
  config = config_lib.load('configs/sft.py:smoke', [('mesh.fsdp', '-1')])
  header = log.make_header({})
  path = tmp_path / 'step-3.json'
  path.write_text(json.dumps({
    'step': 3, 'metrics': {}, 'header': header, 'together': None,
    'mesh': mesh, 'config': config.to_dict(),
  }, default=list))  # fmt: skip
  with pytest.raises(ValueError, match=message):
    replay.replay(failed.read(path))


def test_the_cpu_is_divided_as_it_was(monkeypatch):
  asked = []
  monkeypatch.setattr(runtime.jax.config, 'update', lambda *x: asked.append(x))
  then = {'platform': 'cpu', 'count': 4, 'processes': 1}
  runtime.as_recorded(then)
  assert asked == [], 'the suite has asked for 8'
  monkeypatch.setattr(
    runtime.jax, 'config', SimpleNamespace(
      jax_num_cpu_devices=-1, update=lambda *x: asked.append(x)
    ),
  )  # fmt: skip
  monkeypatch.setenv('XLA_FLAGS', '')
  runtime.as_recorded(then | {'platform': 'tpu'})
  assert asked == []
  runtime.as_recorded(then)
  assert asked == [('jax_num_cpu_devices', 4)]
