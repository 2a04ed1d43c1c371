"""The doctor, in circumstances that are made up, and here as it is."""

import collections
import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import fake_gcs
import pytest

from posttrain_jax import doctor
from posttrain_jax.run.doctor import machine, places, software, whole


def versions(**changed: str | None):
  """The versions that are here, some of them others (None: not installed)."""
  named = {name.replace('_', '-'): found for name, found in changed.items()}
  return lambda name: named.get(name, software.version_of(name))


def only(found):
  (one,) = found
  return one


# Software.


@pytest.mark.parametrize(
  'version, status', [((3, 10, 14), 'fault'), ((3, 11, 0), 'ok')]
)
def test_python_is_new_enough(version, status):
  assert software.python(version).status == status


def test_packages_here_are_as_asked_for():
  assert {x.status for x in software.packages()} == {'ok'}


@pytest.mark.parametrize(
  'changed, said, todo',
  [
    ({'optax': None}, 'optax is missing', "pip install 'optax>="),
    ({'optax': '0.1.0'}, 'optax 0.1.0 (asked for: >=', "pip install 'optax>="),
    ({'jax': '0.4.30'}, 'jax 0.4.30', "'jax<0.13,>=0.10'"),
  ],
)
def test_packages_that_are_missing_or_old_are_named(changed, said, todo):
  found = software.packages(versions(**changed))
  assert found[0].status == 'fault'
  assert said in found[0].said and todo in found[0].todo


def test_parts_of_jax_fit_each_other():
  found = software.packages(versions(jaxlib='0.4.30'))[-1]
  assert found.status == 'fault' and 'asks for jaxlib' in found.said
  # Its extra tpu names one version of libtpu.
  found = software.packages(versions(libtpu='0.0.1'))[-1]
  assert found.status == 'warning' and 'asks for libtpu' in found.said
  assert "'jax[tpu]==" in found.todo
  found = software.packages(versions(jax_cuda12_plugin='0.4.30'))[-1]
  assert found.status == 'warning' and "'jax[cuda12]==" in found.todo


# The machine.


def meminfo(root: Path, total: float, free: float, limit: float = 0) -> Path:
  kib = lambda gib: int(gib * 2**20)
  (root / 'proc').mkdir()
  (root / 'proc/meminfo').write_text(
    f'MemTotal: {kib(total)} kB\nMemFree: {kib(free)} kB\n'
    f'MemAvailable: {kib(free)} kB\nHugePages_Total: 0\n'
  )
  if limit:
    group = root / 'sys/fs/cgroup'
    group.mkdir(parents=True)
    (group / 'memory.max').write_text(str(int(limit * 2**30)))
    (group / 'memory.current').write_text(str(2**30))
  return root


@pytest.mark.parametrize(
  'sizes, status, said',
  [
    ((64, 50), 'ok', '50.0 GiB free of 64.0 GiB'),
    ((64, 3), 'warning', '3.0 GiB free'),
    ((64, 0.5), 'fault', '512.0 MiB free'),
    ((64, 50, 8), 'ok', '7.0 GiB free of 8.0 GiB, the limit of the container'),
    ((64, 50, 1.5), 'fault', '512.0 MiB free of 1.5 GiB'),
    ((64, 50, 999), 'ok', '50.0 GiB free of 64.0 GiB'),
  ],
)
def test_memory(tmp_path, sizes, status, said):
  found = machine.memory(meminfo(tmp_path, *sizes))
  assert found.status == status and said in found.said


@pytest.mark.parametrize(
  'limits, status, todo',
  [
    ((1024, 2**20), 'warning', 'ulimit -n 4096'),
    ((1024, 2048), 'warning', 'ulimit -n 2048'),
    ((1024, 1024), 'warning', 'hard limit'),
    ((2**16, 2**20), 'ok', ''),
    ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 'ok', ''),
  ],
)
def test_open_files(monkeypatch, limits, status, todo):
  monkeypatch.setattr(machine.resource, 'getrlimit', lambda which: limits)
  found = machine.open_files()
  assert found.status == status and todo in found.todo


def test_a_clock_before_the_code_was_written_is_wrong():
  assert machine.clock().status == 'ok'
  assert machine.clock(now=1e9).status == 'fault'


def test_one_core_is_told(monkeypatch):
  monkeypatch.setattr(machine.os, 'sched_getaffinity', lambda pid: {3})
  monkeypatch.setattr(machine.os, 'cpu_count', lambda: 64)
  found = machine.cores()
  assert found.status == 'warning' and found.said == '1 of 64'


def test_shared_memory_is_asked_for_by_several_gpus(tmp_path, monkeypatch):
  Stat = collections.namedtuple('Stat', 'f_blocks f_frsize')
  monkeypatch.setattr(machine.os, 'statvfs', lambda path: Stat(64, 2**20))
  assert machine.shared_memory(1, tmp_path) == []
  found = only(machine.shared_memory(8, tmp_path))
  assert found.status == 'warning' and '--shm-size' in found.todo


# Folders.


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
  found, space = places.workdir(str(tmp_path / 'not' / 'yet'))
  assert found.status == 'ok' and str(tmp_path) in found.said
  assert 'free at' in space.said
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  'number, said, todo',
  [
    (errno.EACCES, 'cannot be written', 'chmod u+w'),
    (errno.EROFS, 'cannot be written', 'read-only'),
    (errno.ENOSPC, 'No space left', 'free some space'),
    (errno.EDQUOT, 'quota', 'free some space'),
  ],
)
@pytest.mark.parametrize('step', ['open', 'rename'])
def test_a_folder_that_cannot_be_written(
  tmp_path, monkeypatch, number, said, todo, step
):
  def fails(*args, **kwargs):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(Path, step, fails)
  found = only(places.workdir(str(tmp_path)))
  assert found.status == 'fault'
  assert said in found.said and todo in found.todo
  cached = places.cache({'JAX_COMPILATION_CACHE_DIR': str(tmp_path)})
  assert cached.status == 'warning' and 'compiles all anew' in cached.todo


def test_bytes_that_come_back_changed_are_a_fault(tmp_path, monkeypatch):
  monkeypatch.setattr(Path, 'read_bytes', lambda path: b'')
  assert only(places.workdir(str(tmp_path))).status == 'fault'
  monkeypatch.undo()
  assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path):
  (tmp_path / 'x').write_text('')
  found = only(places.workdir(str(tmp_path / 'x')))
  assert found.status == 'fault' and 'is a file' in found.said


@pytest.mark.parametrize(
  'free, status', [(0.5, 'fault'), (5, 'warning'), (500, 'ok')]
)
def test_little_space_is_told(tmp_path, monkeypatch, free, status):
  Usage = collections.namedtuple('Usage', 'total used free')
  usage = Usage(0, 0, free * 2**30)
  monkeypatch.setattr(places.shutil, 'disk_usage', lambda path: usage)
  _, space = places.workdir(str(tmp_path))
  assert space.status == status


def test_no_inodes_are_a_fault(tmp_path, monkeypatch):
  Stat = collections.namedtuple('Stat', 'f_files f_favail')
  Usage = collections.namedtuple('Usage', 'free')
  monkeypatch.setattr(places.shutil, 'disk_usage', lambda path: Usage(2**40))
  monkeypatch.setattr(places.os, 'statvfs', lambda path: Stat(9, 0))
  _, space = places.workdir(str(tmp_path))
  assert space.status == 'fault' and 'inodes' in space.said


def test_a_bucket_is_tried_and_left_as_it_was():
  with fake_gcs.served() as objects:
    found = only(places.workdir('gs://bucket/run'))
    assert found.status == 'ok', found
    assert not [name for name in objects if 'doctor' in name]


@pytest.mark.parametrize(
  'error, todo',
  [
    (ImportError('gcsfs is not here'), "'.[gcs]'"),
    (RuntimeError('403 Forbidden\nmore'), 'gcloud storage ls'),
  ],
)
def test_a_bucket_that_cannot_be_written(monkeypatch, error, todo):
  def fails(place):
    raise error

  monkeypatch.setattr(places.paths, 'path', fails)
  found = only(places.workdir('gs://bucket/run'))
  assert found.status == 'fault' and todo in found.todo
  assert '\n' not in found.said


def test_the_cache_is_measured(tmp_path, monkeypatch):
  (tmp_path / 'a').write_bytes(b'x' * 1000)
  environ = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path)}
  assert '1 programs' in places.cache(environ).said
  monkeypatch.setattr(places, 'LARGE_CACHE', 500)
  assert places.cache(environ).status == 'warning'
  assert places.cache_folder({}).endswith('.cache/posttrain_jax')


# The command.


def test_the_exit_status_is_that_of_the_worst(monkeypatch, capsys):
  fault = whole.fault('disk', 'full', 'free some')
  for findings, status in (([whole.ok('disk', 'fine')], 0), ([fault], 1)):
    monkeypatch.setattr(doctor.doctor, 'examine', lambda *a, x=findings: x)
    assert doctor.main([]) == status
    assert doctor.main(['--json']) == status
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last['ok'] == (status == 0) and last['fault'] == status
  assert last['findings'] == [
    {'name': 'disk', 'status': 'fault', 'said': 'full', 'todo': 'free some'}
  ]


@pytest.mark.parametrize(
  'words, said',
  [(['--workdri', 'x'], '--workdir'), (['--config.seed=1'], 'without')],
)
def test_a_wrong_flag_is_named(words, said, capsys):
  assert doctor.main(words) == 2
  assert said in capsys.readouterr().err


@pytest.mark.long
def test_as_it_is_here(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'posttrain_jax.doctor', '--workdir', str(tmp_path),
     '--config', 'configs/sft.py:smoke', '--config.mesh.fsdp=2', '--json'],
    capture_output=True, text=True, env={
      **os.environ, 'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    },
  )  # fmt: skip
  found = json.loads(done.stdout.splitlines()[-1])['findings']
  by_name = {x['name']: x for x in found}
  assert by_name['devices']['status'] == by_name['compute']['status'] == 'ok'
  assert by_name['config']['status'] == 'ok', by_name['config']
  assert done.returncode == any(x['status'] == 'fault' for x in found)
