"""Every way a stored run can be harmed, against every way it is read."""

import dataclasses
import errno
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from posttrain_jax import export
from posttrain_jax.core.types import TrainState
from posttrain_jax.models import hf, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.run import checkpoint, loop, manifest, roles
from posttrain_jax.run import config as config_lib

MODEL = ModelConfig(
  num_layers=1, width=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=6
)
CONFIG = {'config': {'tokenizer': 'task'}}
GOOD, NEWEST = 2, 4


def state_of(step):
  """A state whose every number is its step."""
  table = transformer.param_table(MODEL)
  flat = {k: jnp.full(p.shape, step, jnp.float32) for k, p in table.items()}
  params = traverse_util.unflatten_dict(flat, sep='/')
  moments = jax.tree.map(jnp.copy, params)
  return TrainState(jnp.int32(step), params, (moments, jnp.int32(step)))


def abstract():
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    state_of(0),
  )


@functools.cache
def pristine(folder: str) -> Path:
  workdir = Path(folder) / 'run'
  config = {**CONFIG, 'resolved_model': dataclasses.asdict(MODEL)}
  checkpoint.save_config(workdir, config)
  with checkpoint.Checkpointer(workdir, keep=0) as saver:
    for step in (GOOD, NEWEST):
      saver.save(step, state_of(step), {'at': step})
    saver.wait()
  return workdir


@pytest.fixture(scope='module')
def original(tmp_path_factory):
  return pristine(str(tmp_path_factory.mktemp('stored')))


@pytest.fixture
def run(original, tmp_path):
  return Path(shutil.copytree(original, tmp_path / 'run'))


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def foreign(file):
  size = file.stat().st_size
  file.write_bytes(b'\x5a' * size)


# Each leaves another file than it found.
HARMS = {
  'flipped': flip,
  'cut': lambda f: f.write_bytes(f.read_bytes()[: -max(2, len(f.name))]),
  'longer': lambda f: f.write_bytes(f.read_bytes() + b'0'),
  'empty': lambda f: f.write_bytes(b''),
  'gone': lambda f: f.unlink(),
  'foreign': foreign,
}


def files_of(step_folder):
  """Names of the files of a step that hold anything of a run."""
  names = json.loads((step_folder / manifest.FILE).read_text())['files']
  return [*sorted(names), manifest.TIMES]


@pytest.mark.parametrize('harm', HARMS)
def test_any_harm_to_any_file_is_noticed(harm, run, capsys):
  newest = run / checkpoint.FOLDER / str(NEWEST)
  names = files_of(newest)
  assert len(names) > 20
  for name in names:
    file = newest / name
    before = file.read_bytes()
    HARMS[harm](file)
    # Times that Orbax writes later are no data: only what is no JSON counts.
    harmless = name == manifest.TIMES and harm in ('flipped', 'longer')
    found = checkpoint.find(run)
    said = capsys.readouterr().err
    if not harmless:
      assert found == (run, GOOD), f'{name} {harm}'
      assert str(newest) in said and Path(name).name in said, said
      assert f'step {GOOD} is used' in said
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(before)
  assert checkpoint.find(run) == (run, NEWEST)
  assert capsys.readouterr().err == ''


def test_a_manifest_is_checked_itself(run, capsys):
  path = run / checkpoint.FOLDER / str(NEWEST) / manifest.FILE
  content = path.read_text()
  for old, new in (
    (f'"step": {NEWEST}', '"step": 5'),
    ('"run": "', '"run": "0'),
    ('{', ''),
    (content, ''),
    (content, '[]'),
  ):
    assert old in content
    path.write_text(content.replace(old, new, 1))
    assert checkpoint.find(run)[1] == GOOD
    assert manifest.FILE in capsys.readouterr().err
  path.write_text(content)
  assert checkpoint.find(run)[1] == NEWEST


def empty_step(run):
  (run / checkpoint.FOLDER / '9').mkdir()


def file_step(run):
  (run / checkpoint.FOLDER / '9').write_text('')


def strange_folder(run):
  (run / checkpoint.FOLDER / '9' / 'pictures').mkdir(parents=True)


def copied_step(run):
  folder = run / checkpoint.FOLDER
  shutil.copytree(folder / str(GOOD), folder / '9')


def half_a_step(run):
  """What a copy leaves that was stopped, here before the manifest."""
  folder = run / checkpoint.FOLDER
  shutil.copytree(folder / str(NEWEST), folder / '9')
  (folder / '9' / manifest.FILE).unlink()
  shutil.rmtree(folder / '9' / 'rest')


STRANGE = {
  'empty': empty_step,
  'file': file_step,
  'strange': strange_folder,
  'copied': copied_step,
  'half': half_a_step,
}


def went_on(run, out):
  with checkpoint.Checkpointer(run, keep=0) as saver:
    state, position = saver.restore(abstract())
  assert position == {'at': int(state.step)}
  # What is no good is out of the way of the steps to come.
  left = checkpoint.steps(run)
  assert left == [s for s in (NEWEST, GOOD) if s <= int(state.step)]
  numbers = {float(x.flat[0]) for x in map(np.asarray, jax.tree.leaves(state))}
  assert numbers == {float(state.step)}
  return int(state.step)


def started_from(run, out):
  config = config_lib.load('configs/sft.py:smoke')
  config.init_from = str(run)
  params = roles.read(config, {'policy': MODEL})['policy']
  return int(np.asarray(jax.tree.leaves(params)[0]).flat[0])


def exported(run, out):
  assert export.main(['--checkpoint', str(run), '--out', str(out)]) == 0
  _, params = hf.load(out)
  return int(np.asarray(jax.tree.leaves(params)[0]).flat[0])


READERS = {'resume': went_on, 'init_from': started_from, 'export': exported}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('harm', STRANGE)
def test_a_newest_step_that_is_none_is_passed_over(
  harm, reader, run, tmp_path, capsys
):
  STRANGE[harm](run)
  assert READERS[reader](run, tmp_path / 'out') == NEWEST
  said = capsys.readouterr().err
  assert f'{run / checkpoint.FOLDER / "9"} cannot be used: ' in said


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('harm', ['flipped', 'gone'])
@pytest.mark.parametrize('item', ['params', 'rest'])
def test_readers_take_the_step_before_a_damaged_one(
  item, harm, reader, run, tmp_path, capsys
):
  folder = run / checkpoint.FOLDER / str(NEWEST) / item
  files = [f for f in folder.rglob('*') if f.is_file()]
  HARMS[harm](max(files, key=lambda f: f.stat().st_size))
  assert READERS[reader](run, tmp_path / 'out') == GOOD
  said = capsys.readouterr().err
  assert f'{NEWEST} cannot be used: ' in said
  moved = (run / checkpoint.DAMAGED / str(NEWEST)).is_dir()
  assert moved == (reader == 'resume'), 'readers move nothing'


def test_the_step_that_was_asked_for_is_not_replaced(run):
  folder = run / checkpoint.FOLDER / str(NEWEST)
  flip(max(folder.rglob('d/*'), key=lambda f: f.stat().st_size))
  for path in (folder, run):  # the library's call takes none in its place
    with pytest.raises(ValueError, match=rf'{NEWEST} cannot be used: '):
      checkpoint.load_params(path)
  with pytest.raises(ValueError, match='cannot be used: '):
    checkpoint.find(folder)
  assert checkpoint.find(folder.with_name(str(GOOD)))[1] == GOOD


def test_where_nothing_is_good_all_is_said_and_nothing_moved(run, capsys):
  flip(run / checkpoint.FOLDER / str(NEWEST) / 'params/_METADATA')
  shutil.rmtree(run / checkpoint.FOLDER / str(GOOD) / 'params')
  for reader in (went_on, started_from):
    with pytest.raises(ValueError) as raised:
      reader(run, None)
    said = str(raised.value)
    assert f'{checkpoint.FOLDER}/{NEWEST} cannot be used: params/' in said
    assert f'{checkpoint.FOLDER}/{GOOD} cannot be used: params/' in said
  out = str(run / 'out')
  assert export.main(['--checkpoint', str(run), '--out', out]) == 2
  assert capsys.readouterr().err.count('error: ') == 1
  assert checkpoint.steps(run) == [NEWEST, GOOD]


def without_manifests(run):
  for path in (run / checkpoint.FOLDER).glob(f'*/{manifest.FILE}'):
    path.unlink()


@pytest.mark.parametrize('reader', READERS)
def test_a_run_from_before_manifests_is_read(reader, run, tmp_path, capsys):
  without_manifests(run)
  assert READERS[reader](run, tmp_path / 'out') == NEWEST
  assert capsys.readouterr().err.count('cannot be verified') == 1


def test_damage_without_a_manifest_is_found_by_reading(run, capsys):
  without_manifests(run)
  shutil.rmtree(run / checkpoint.FOLDER / str(NEWEST) / 'params/d')
  assert started_from(run, None) == GOOD
  assert went_on(run, None) == GOOD
  assert f'{NEWEST} cannot be used: ' in capsys.readouterr().err


def test_a_step_of_another_run_is_none_of_ours(run, tmp_path, capsys):
  other = Path(shutil.copytree(run, tmp_path / 'other'))
  saved = checkpoint.load_config(other)
  del saved['run_id']
  checkpoint.save_config(other, saved)
  shutil.rmtree(other / checkpoint.FOLDER)
  with checkpoint.Checkpointer(other, keep=0) as saver:
    saver.save(NEWEST, state_of(NEWEST))
    saver.wait()
  # The same number and the same arrays: only the run's name tells.
  theirs, ours = (x / checkpoint.FOLDER / str(NEWEST) for x in (other, run))
  shutil.rmtree(ours)
  shutil.copytree(theirs, ours)
  assert checkpoint.find(run)[1] == GOOD
  assert 'it is of another run' in capsys.readouterr().err


def test_a_changed_config_is_told(run, capsys):
  path = run / checkpoint.CONFIG
  path.write_text(path.read_text().replace('"task"', '"byte"'))
  assert started_from(run, None) == NEWEST
  assert 'config.json is not what it was' in capsys.readouterr().err


@pytest.mark.parametrize(
  'content',
  [None, '', '{}', '[]', '{"config": 3}', '{"config": {', b'\xff\xfe'],
)
def test_a_harmed_config_is_an_error(content, run, capsys):
  path = run / checkpoint.CONFIG
  path.unlink()
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif content is not None:
    path.write_text(content)
  config = config_lib.load('configs/sft.py:smoke')
  with pytest.raises(ValueError, match=r'config\.json'):
    loop.check_continues(config, run)
  config.init_from = str(run)
  with pytest.raises(ValueError, match=r'config\.json'):
    roles.make_model(config, 10)
  assert export.main(['--checkpoint', str(run), '--out', str(run / 'o')]) == 2
  assert checkpoint.CONFIG in capsys.readouterr().err


def test_a_model_that_no_version_knows_is_an_error(run):
  saved = checkpoint.load_config(run)
  saved['resolved_model']['number_of_layers'] = 3
  checkpoint.save_config(run, saved)
  with pytest.raises(ValueError, match='number_of_layers'):
    roles.saved_model(run)


def test_a_step_is_never_without_its_manifest(tmp_path, monkeypatch):
  """Killed while the manifest is written, a save leaves no step at all."""

  def killed(*arguments):
    raise SystemExit

  monkeypatch.setattr(manifest, 'write', killed)
  saver = checkpoint.Checkpointer(tmp_path, keep=0)
  with pytest.raises(SystemExit):
    saver.save(1, state_of(1))
    saver.wait()
  assert checkpoint.steps(tmp_path) == []
  monkeypatch.undo()
  with checkpoint.Checkpointer(tmp_path, keep=0) as saver:
    saver.save(1, state_of(1))
    saver.wait()
  assert checkpoint.find(tmp_path) == (tmp_path, 1)


def test_a_step_before_the_newest_is_saved_too(run):
  """As the record of a failing step may be, beside that of a later one."""
  with checkpoint.Checkpointer(run, keep=0) as saver:
    saver.save(1, state_of(1))
    saver.wait()
  assert checkpoint.find(run / checkpoint.FOLDER / '1')[1] == 1
  assert checkpoint.find(run)[1] == NEWEST


def test_of_several_processes_each_digests_and_checks_its_own(tmp_path):
  names = ['params/ocdbt.process_0/d/a', 'params/ocdbt.process_1/d/b',
           'params/ocdbt.process_12/d/c', 'params/_METADATA']  # fmt: skip
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(name)
  manifest.write_own(tmp_path, 1)
  part = json.loads((tmp_path / 'manifest.process_1.json').read_text())
  assert list(part['files']) == names[1:2]
  # What a process that died before has not digested, the first one does.
  manifest.write(tmp_path, 7, 'r', '')
  files = manifest.read(tmp_path)['files']
  assert sorted(files) == sorted(names)
  assert not list(tmp_path.glob('manifest.process_*'))
  for name in names:
    (tmp_path / name).write_text(name.upper())
  shares = [manifest.faults(tmp_path, files, (i, 3)) for i in range(3)]
  assert all(shares) and sum(map(len, shares)) == len(names)
  named = {fault.split()[0] for share in shares for fault in share}
  assert named == set(names)


def test_a_machine_that_cannot_read_for_now_harms_no_checkpoint(
  tmp_path, monkeypatch
):
  folder = tmp_path / 'step'
  folder.mkdir()
  (folder / 'x').write_bytes(b'abc')
  files = {'x': [3, manifest.digest(folder / 'x')]}
  assert manifest.faults(folder, files) == []

  def busy(path):
    raise OSError(errno.EMFILE, 'Too many open files')

  monkeypatch.setattr(manifest, 'digest', busy)
  with pytest.raises(OSError, match='Too many open files'):
    manifest.faults(folder, files)
  (folder / 'x').unlink()
  assert manifest.faults(folder, files) == ['x is missing']
