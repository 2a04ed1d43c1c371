"""Several processes of one run, on this machine: started, waited for, shown.

  with Hosts(2, devices=2) as hosts:
    hosts.start(['-m', 'posttrain_jax.train', ...])
    assert hosts.wait() == [0, 0], hosts.logs()

As a script it trains one run after the other in the same process, so that many
runs cost one start:

  python tests/hosts.py JOBS.json
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS = 900.0


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


class Hosts:
  """`count` processes with `devices` devices each; a context manager that ends
  what is left of them."""

  def __init__(self, count: int, devices: int = 1, **env: str):
    self.count, self.processes = count, []
    self._address = f'127.0.0.1:{free_port()}'
    self._folder = tempfile.TemporaryDirectory()
    flags = os.environ.get('XLA_FLAGS', '')
    forced = f'--xla_force_host_platform_device_count={devices}'
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    self._env = {
      # A busy machine may be given longer.
      'POSTTRAIN_START_TIMEOUT': '60',
      'POSTTRAIN_HEARTBEAT_TIMEOUT': '10',
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'{flags} {forced}',
      'PYTHONPATH': path,
      'PYTHONUNBUFFERED': '1',
      'TF_CPP_MIN_LOG_LEVEL': '2',
      **env,
    }

  def __enter__(self) -> 'Hosts':
    return self

  def __exit__(self, *exception) -> None:
    for process in self.processes:
      if process.poll() is None:
        process.kill()
        process.wait()
    self._folder.cleanup()

  def _log(self, number: int) -> Path:
    return Path(self._folder.name) / f'{number}.log'

  def start(self, arguments: list[str], cwd: Path = ROOT) -> None:
    """python ARGUMENTS, once for each process."""
    for number in range(self.count):
      self.start_one(number, arguments, cwd)

  def start_one(
    self, number: int, arguments: list[str], cwd: Path = ROOT
  ) -> subprocess.Popen:
    joined = {}
    if self.count > 1:
      joined = {
        'JAX_COORDINATOR_ADDRESS': self._address,
        'JAX_NUM_PROCESSES': str(self.count),
        'JAX_PROCESS_ID': str(number),
      }
    with self._log(number).open('w') as log:
      process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**self._env, **joined},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
      )
    self.processes.append(process)
    return process

  def wait(self, seconds: float = SECONDS) -> list[int]:
    """Exit statuses; fails with the logs where one does not end in time."""
    until = time.monotonic() + seconds
    statuses = []
    for process in self.processes:
      try:
        left = max(0.1, until - time.monotonic())
        statuses.append(process.wait(left))
      except subprocess.TimeoutExpired:
        raise AssertionError(
          f'not through after {seconds:g} s\n{self.logs()}'
        ) from None
    return statuses

  def until(self, there, seconds: float = SECONDS) -> None:
    """Waits until `there()`; fails with the logs where it does not come."""
    end = time.monotonic() + seconds
    while not there():
      over = all(p.poll() is not None for p in self.processes)
      if over or time.monotonic() > end:
        assert there(), f'it did not come\n{self.logs()}'
        return
      time.sleep(0.05)

  def log(self, number: int) -> str:
    return self._log(number).read_text(errors='replace')

  def logs(self) -> str:
    return '\n'.join(
      f'--- process {n}\n{self.log(n)[-6000:]}' for n in range(self.count)
    )

  def kill(self, number: int, how: int = signal.SIGKILL) -> None:
    self.processes[number].send_signal(how)


def train(
  jobs: list[dict], count: int, devices: int, cwd: Path = ROOT, **env: str
) -> None:
  """Trains runs one after the other on `count` processes; all have to end well.

  jobs  {'spec', 'items': [[key, value], ...], 'workdir'} of each
  """
  with (
    Hosts(count, devices, **env) as hosts,
    tempfile.TemporaryDirectory() as d,
  ):
    file = Path(d) / 'jobs.json'
    file.write_text(json.dumps(jobs))
    hosts.start([str(Path(__file__)), str(file)], cwd)
    statuses = hosts.wait()
    assert statuses == [0] * count, f'{statuses}\n{hosts.logs()}'


def _main(file: str) -> None:
  from posttrain_jax.run import config as config_lib
  from posttrain_jax.run import join, loop

  join.join()
  with join.leaving():
    for job in json.loads(Path(file).read_text()):
      config = config_lib.load(job['spec'], [tuple(x) for x in job['items']])
      loop.train(config, job['workdir'])


if __name__ == '__main__':
  _main(sys.argv[1])
