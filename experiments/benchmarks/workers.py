"""A side in a process of its own, for interpreters that cannot be shared.

The parent writes 'go' lines, the worker answers each with one JSON line: first
its versions when it is ready, then seconds and units of a turn. Whatever
libraries print goes to stderr.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable

from experiments.benchmarks import common


class Channel:
  """The worker's end; take it before anything else prints."""

  def __init__(self):
    self._out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)

  def send(self, message: dict) -> None:
    """One line to the parent."""
    self._out.write(json.dumps(message) + '\n')
    self._out.flush()

  def wait(self) -> bool:
    """Until the parent wants a turn; False when it wants no more."""
    return sys.stdin.readline().strip() == 'go'

  def serve(self, side: common.Side) -> None:
    """A turn for every 'go'."""
    self.send({'versions': common.versions()})
    while self.wait():
      sample = side()
      self.send({'seconds': sample.seconds, 'units': sample.units})


class Worker:
  """The parent's end: a side that another interpreter runs."""

  def __init__(self, python: str, module: str, *arguments: str):
    self._name = f'{python} -m {module}'
    self._process = subprocess.Popen(
      [python, '-m', module, *arguments],
      cwd=common.ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.versions = self._receive()['versions']

  def _receive(self) -> dict:
    line = self._process.stdout.readline()
    if not line:
      status = self._process.wait()
      raise RuntimeError(f'{self._name} ended with status {status}')
    return json.loads(line)

  def __call__(self) -> common.Sample:
    self._process.stdin.write('go\n')
    self._process.stdin.flush()
    return common.Sample(**self._receive())

  def close(self) -> None:
    """Ends the process and waits for it."""
    self._process.stdin.close()
    try:
      self._process.wait(timeout=20)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def has_modules(python: str, *modules: str) -> bool:
  """Whether an interpreter exists and finds the modules."""
  found = ' and '.join(f'find_spec({name!r})' for name in modules)
  code = (
    'from importlib.util import find_spec; import sys; '
    f'sys.exit(0 if {found} else 1)'
  )
  try:
    done = subprocess.run([python, '-c', code], capture_output=True)
  except OSError:
    return False
  return done.returncode == 0


def main_of(side: Callable[[], common.Side], threads: int) -> None:
  """What a worker module does when it is run."""
  channel = Channel()
  common.limit_threads(threads)
  common.keep_compiled()
  channel.serve(side())
