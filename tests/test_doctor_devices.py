"""The doctor's devices and hosts, made up, and two processes on loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain_jax.run.doctor import accelerators, hosts, software, whole

CPU = {'backend': 'cpu', 'kind': 'cpu', 'local': 1, 'count': 1}
GPU = {'backend': 'gpu', 'kind': 'NVIDIA H100', 'local': 8, 'count': 16}


def versions(**changed: str | None):
  """The versions that are here, some of them others (None: not installed)."""
  named = {name.replace('_', '-'): found for name, found in changed.items()}
  return lambda name: named.get(name, software.version_of(name))


def only(found):
  (one,) = found
  return one


def here(**more: str) -> dict[str, str]:
  return {**os.environ, 'JAX_PLATFORMS': 'cpu', **more}


# Devices.


def root_with(root: Path, *names: str, **texts: str) -> Path:
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(texts.get(name, ''))
  return root


def test_hardware_is_read_from_the_system(tmp_path):
  root_with(tmp_path, 'dev/nvidia0', 'dev/nvidia1', 'dev/nvidiactl')
  for i, (vendor, device) in enumerate(
    [('0x1ae0', '0x0063'), ('0x1ae0', '0x0042'), ('0x8086', '0x0063')]
  ):
    folder = tmp_path / f'sys/bus/pci/devices/{i}'
    folder.mkdir(parents=True)
    (folder / 'vendor').write_text(vendor + '\n')
    (folder / 'device').write_text(device + '\n')
  version = tmp_path / 'proc/driver/nvidia/version'
  version.parent.mkdir(parents=True)
  version.write_text('NVRM version: NVIDIA UNIX Open Kernel Module  535.129.03')
  found = accelerators.hardware({'TPU_NAME': 'x'}, tmp_path)
  # One TPU: the other card of Google's is for the network.
  assert found == accelerators.Hardware(2, 1, '535.129.03', 'TPU_NAME')
  quiet = {'TPU_NAME': 'x', 'TPU_SKIP_MDS_QUERY': '1'}
  assert accelerators.hardware(quiet, tmp_path / 'none').named == ''


Hardware = accelerators.Hardware


@pytest.mark.parametrize(
  'found, there, environ, changed, status, said, todo',
  [
    (CPU, Hardware(), {}, {}, 'ok', 'no GPU or TPU', ''),
    (GPU, Hardware(8), {}, {}, 'ok', '8 x NVIDIA H100, 16 of all', ''),
    # A GPU, and jax of the CPU alone: the extra is missing.
    (CPU, Hardware(8), {}, {}, 'fault', '8 NVIDIA GPUs', "'.[cuda]'"),
    (
      CPU, Hardware(8), {'JAX_PLATFORMS': 'cpu'},
      {'jax_cuda12_plugin': '0.10.2'}, 'warning', 'hides them', 'unset',
    ),
    (
      None, Hardware(8), {}, {'jax_cuda12_plugin': '0.10.2'}, 'fault',
      'cannot use them: why', '--gpus all',
    ),
    (
      CPU, Hardware(0, 4), {}, {'libtpu': None}, 'fault',
      'libtpu is not installed', "'.[tpu]'",
    ),
    (
      CPU, Hardware(0, 0, '', 'TPU_NAME'), {}, {'libtpu': None}, 'fault',
      '$TPU_NAME is set', "'.[tpu]'",
    ),
    (
      CPU, Hardware(0, 4), {'JAX_PLATFORMS': 'cpu'}, {'libtpu': '1'},
      'warning', 'hides them', 'unset',
    ),
    (
      None, Hardware(0, 4), {}, {'libtpu': '1'}, 'fault',
      '4 TPU chips, but jax cannot use them: why', 'every host',
    ),
    (
      None, Hardware(), {'JAX_PLATFORMS': 'tpu'}, {}, 'fault', 'why',
      'unset JAX_PLATFORMS',
    ),
  ],
)  # fmt: skip
def test_what_jax_sees_against_what_is_there(
  found, there, environ, changed, status, said, todo, tmp_path
):
  error = '' if found else 'why'
  one = accelerators.devices(
    found, error, there, environ, versions(**changed), tmp_path
  )[0]
  assert one.status == status
  assert said in one.said and todo in one.todo


def test_who_has_the_tpu_is_named(tmp_path):
  for pid, target in (('12', '/dev/vfio/0'), ('13', '/dev/vfio/vfio')):
    folder = tmp_path / 'proc' / pid
    (folder / 'fd').mkdir(parents=True)
    (folder / 'comm').write_text('python\n')
    (folder / 'fd' / '3').symlink_to(target)
  look = lambda: accelerators.devices(
    None, 'busy', Hardware(0, 4), {}, versions(libtpu='1'), tmp_path
  )[0]
  assert 'process 12 (python) has' in look().said or (
    'process 12 (python)' in look().said
  )
  assert look().todo.endswith('kill 12')
  (tmp_path / 'proc/12/fd/3').unlink()
  assert 'cannot use them' in look().said
  root_with(tmp_path, 'tmp/libtpu_lockfile')
  assert 'libtpu_lockfile' in look().said and 'rm' in look().todo


def test_an_old_driver_is_a_fault():
  there = Hardware(8, 0, '470.57.02')
  assert accelerators.devices(GPU, '', there, {})[-1].status == 'fault'
  there = Hardware(8, 0, '550.1.2')
  assert accelerators.devices(GPU, '', there, {})[-1].status == 'ok'


def row(**changed) -> dict:
  return {'device': 'gpu:0', 'compile': 0.1, 'seconds': 1e-3, 'flops': 1e14,
          'right': True, 'limit': 80 * 2**30, **changed}  # fmt: skip


def test_devices_that_err_or_lag_are_named():
  fine = accelerators.compute([row(), row()])
  assert [x.status for x in fine] == ['ok', 'ok']
  assert '100.00 TFLOP/s' in fine[0].said and '80.0 GiB' in fine[1].said
  bad = only(accelerators.compute([row(), row(device='gpu:1', right=False)]))
  assert bad.status == 'fault' and bad.said.startswith('gpu:1')
  slow, _ = accelerators.compute([row(), row(device='gpu:2', seconds=3e-3)])
  assert slow.status == 'warning' and 'gpu:2 takes 3.0 times' in slow.said


def test_gpus_that_others_use_are_named(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert accelerators.occupied() == []  # no nvidia-smi
  program = tmp_path / 'nvidia-smi'
  program.write_text('#!/bin/sh\necho 0, 400, 81920\necho 1, 40960, 81920\n')
  program.chmod(0o755)
  found = only(accelerators.occupied())
  assert found.status == 'warning'
  assert found.said == 'in use already: GPU 1: 40.0 GiB of 80.0 GiB'


# Other processes.


def test_variables_that_do_not_fit_are_named(monkeypatch):
  for name in ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID', 'SLURM_NTASKS'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'localhost:1234')
  found = only(hosts.variables())
  assert found.status == 'fault' and 'JAX_PROCESS_ID' in found.said
  monkeypatch.setenv('JAX_NUM_PROCESSES', '2')
  monkeypatch.setenv('JAX_PROCESS_ID', '1')
  assert only(hosts.variables()).status == 'ok'

  def unknown(*args):
    raise socket.gaierror(-2, 'Name or service not known')

  monkeypatch.setattr(hosts.socket, 'getaddrinfo', unknown)
  found = only(hosts.variables())
  assert found.status == 'fault' and 'Name or service' in found.said
  # Nothing else is tried: it would be this process alone.
  told = [x.name for x in whole.examine(seconds=1)]
  assert told[-1] == 'hosts' and 'devices' not in told


def test_proxies_are_told():
  assert hosts.proxies({}) == []
  assert only(hosts.proxies({'http_proxy': 'x:1'})).status == 'warning'
  excepted = {'http_proxy': 'x:1', 'no_proxy': '10.0.0.0/8'}
  assert only(hosts.proxies(excepted)).status == 'ok'


def test_what_processes_measured_together():
  found = {'count': 4, 'hosts': ['a', 'a', 'b', 'b'], 'bytes': 2**23,
           'seconds': 1e-3, 'latency': 1e-4, 'right': True,
           'times': [100.0, 100.1, 100.2, 100.0]}  # fmt: skip
  assert [x.status for x in hosts.checked_in(found)] == ['ok'] * 3
  assert 'all 4 processes on 2 hosts' in hosts.checked_in(found)[0].said
  wrong = hosts.checked_in({**found, 'right': False})
  assert wrong[1].status == 'fault' and 'wrong sum' in wrong[1].said
  apart = hosts.checked_in({**found, 'times': [100.0, 100.0, 40.0, 100.0]})
  assert apart[2].status == 'warning' and '60 s apart; b' in apart[2].said
  assert hosts.checked_in({'count': 1}) == []


@pytest.mark.parametrize(
  'script, kind, said',
  [
    ('import time; print(\'{"at": "asking for the devices"}\', flush=True); '
     'time.sleep(60)', 'late', 'while asking for the devices'),
    ('print(\'{"error": "process 1 did not come", "kind": "absent"}\')',
     'absent', 'process 1 did not come'),
    ('print("a library speaks"); import os; os.abort()', 'failed', ''),
  ],
)  # fmt: skip
def test_a_child_that_hangs_or_dies_says_where(monkeypatch, script, kind, said):
  real = subprocess.Popen
  monkeypatch.setattr(
    whole.subprocess, 'Popen',
    lambda words, **how: real([sys.executable, '-S', '-c', script], **how),
  )  # fmt: skip
  child = whole.probed(-19.5, os.environ)  # half a second
  assert child.found is None and child.kind == kind
  found = next(whole.tried(child, Hardware(), {}))
  assert found.status == 'fault' and said in found.said


def test_a_mesh_has_to_fit_the_devices(monkeypatch):
  look = lambda *items, count: whole.config(
    'configs/sft.py:smoke', items, count, os.environ
  )
  found = look('--config.mesh.fsdp=4', count=2)
  assert found.status == 'fault' and 'needs 4' in found.said
  found = look('--config.mesh.fdsp=4', count=2)
  assert found.status == 'fault' and 'fsdp' in found.said
  done = subprocess.CompletedProcess([], 0, '', '')
  monkeypatch.setattr(whole.subprocess, 'run', lambda *a, **k: done)
  assert look('--config.mesh.fsdp=2', count=2).status == 'ok'
  found = look('--config.mesh.fsdp=2', count=8)
  assert found.status == 'warning' and '6 without work' in found.said
  done = subprocess.CompletedProcess([], 2, '', 'note\nerror: no such file\n')
  found = look('--config.mesh.fsdp=2', count=2)
  assert found.status == 'fault' and found.said.endswith(': no such file')


@pytest.mark.long
def test_two_processes_find_each_other(tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  start = lambda number: subprocess.Popen(
    [sys.executable, '-m', 'posttrain_jax.doctor', '--workdir', str(tmp_path),
     '--json'],
    stdout=subprocess.PIPE, text=True, env=here(
      JAX_COORDINATOR_ADDRESS=f'localhost:{port}', JAX_NUM_PROCESSES='2',
      JAX_PROCESS_ID=str(number),
    ),
  )  # fmt: skip
  both = [start(0), start(1)]
  for one in both:
    out, _ = one.communicate(timeout=170)
    found = json.loads(out.splitlines()[-1])['findings']
    by_name = {x['name']: x for x in found}
    assert 'all 2 processes' in by_name['network']['said'], found
    assert by_name['all-reduce']['status'] == 'ok'
    assert by_name['clocks']['status'] == 'ok'


@pytest.mark.long
def test_a_process_that_does_not_come_is_named(tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  done = subprocess.run(
    [sys.executable, '-m', 'posttrain_jax.doctor', '--workdir', str(tmp_path),
     '--json', '--timeout', '1'],
    capture_output=True, text=True, env=here(
      JAX_COORDINATOR_ADDRESS=f'localhost:{port}', JAX_NUM_PROCESSES='2',
      JAX_PROCESS_ID='0',
    ),
  )  # fmt: skip
  last = json.loads(done.stdout.splitlines()[-1])['findings'][-1]
  assert done.returncode == 1 and last['status'] == 'fault'
  assert 'process 1' in last['said'] and 'did not come' in last['said']
