"""Runs a model's Python code against tests, shut in.

Contained, with isolation 'namespaces' (Linux; as root, or where users may make
namespaces), by the kernel:

  network     a network namespace without any interface
  files       a root of its own: the system's libraries and programs (/usr,
              /lib, /lib64) and Python's own folder, read-only, three devices,
              and one empty folder of FILES bytes in memory, which is gone
              afterwards. No /proc, /etc, /home, /tmp; no environment
  processes   a process namespace: no other process is seen, signalled or
              traced; all that it started ends with it
  rights      an unprivileged user without capabilities, who cannot get any
  resources   CPU and wall time, address space of each process, number of
              processes, open files, sizes of files, output

Not contained: faults of the kernel itself (there is no seccomp filter), time on
the CPU below the limit, the timing of caches; what the system's programs and
Python's folder hold can be read. Tests that call functions run in the process
of the code that they test: code made to deceive them (an `__eq__` that is
always true, frames read for the key) can pass. Tests of input and output are
compared outside, and cannot be deceived so.

With isolation 'limits' only resources, environment and folder are: the code
reads and writes what the user may, and reaches the network. It is for machines
without namespaces, and for code that one trusts.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain_jax.core.names import nearest

__all__ = ['ISOLATION', 'Limits', 'Result', 'check', 'run_program', 'run_tests']

ISOLATION = ('namespaces', 'limits')
FILES = 2**24  # bytes that a program may write
OUTPUT = 2**20  # bytes of output that are read; then it is ended
START = 20.0  # seconds to start, on a busy machine
STARTED = {'started': True}
END = 5.0  # seconds to end
INSIDE = Path(__file__).with_name('inside.py')
_NUMBERS = itertools.count(os.getpid() * 1000)


class Limits(NamedTuple):
  """seconds of wall and CPU time, MiB of address space a process, processes
  or threads beside the first, one of ISOLATION."""

  seconds: float = 5.0
  memory: int = 512
  processes: int = 0
  isolation: str = 'namespaces'


USUAL = Limits()


class Result(NamedTuple):
  """What became of a program.

  status  'ok'; 'error': it raised, was ended or left; 'timeout'; 'output': it
          wrote too much
  errors  of each test, '' where it passed
  output  what it wrote, where that is asked for
  detail  the exception's last line
  """

  status: str
  errors: tuple[str, ...] = ()
  output: str = ''
  detail: str = ''


class _Program:
  """One program in its sandbox; a context manager that ends it."""

  def __init__(self, code: str, limits: Limits, stdin: str, main: bool):
    if limits.isolation not in ISOLATION:
      raise ValueError(
        f'unknown isolation "{limits.isolation}".'
        + nearest(limits.isolation, ISOLATION)
      )
    if sys.platform != 'linux':
      raise OSError(f'the sandbox is made of Linux, not of {sys.platform}')
    self._folder = tempfile.mkdtemp(prefix='sandbox-')
    self._results, theirs = os.pipe()
    try:
      self._process = subprocess.Popen(
        # -S -P: nothing but the standard library is found.
        [_python(), '-s', '-S', '-B', '-P', str(INSIDE), str(theirs)],
        pass_fds=[theirs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if main else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=self._folder,
        env={'LANG': 'C.UTF-8', 'PYTHONHASHSEED': '0'},
        start_new_session=True,
      )
    finally:
      os.close(theirs)
    self._deadline = time.monotonic() + START
    self._seconds = limits.seconds
    self._shut_in = limits.isolation == 'namespaces'
    self._began = False  # whether the code itself runs
    self.output = b''
    self._say({
      'code': code,
      'main': main,
      'stdin': stdin,
      'root': self._folder,
      'prefix': sys.base_prefix,
      'number': next(_NUMBERS) % 10**9,
      'cpu': math.ceil(limits.seconds),
      'memory': limits.memory * 2**20,
      'processes': limits.processes,
      'files': FILES,
      'isolation': limits.isolation,
    })  # fmt: skip

  def __enter__(self) -> '_Program':
    return self

  def __exit__(self, *exception) -> None:
    try:
      if self._shut_in:
        self._process.terminate()  # it ends all that is inside, and waits
        self._process.wait(END)
    except subprocess.TimeoutExpired:
      pass
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    for stream in (self._process.stdin, self._process.stdout):
      if stream is not None:
        with contextlib.suppress(OSError):
          stream.close()
    os.close(self._results)
    shutil.rmtree(self._folder, ignore_errors=True)

  def _say(self, value: Any) -> None:
    data = json.dumps(value).encode()
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(len(data).to_bytes(4, 'big') + data)
      self._process.stdin.flush()

  def tell(self, value: Any) -> None:
    """Sends a frame; the program's own time begins."""
    self._say(value)
    self._deadline = time.monotonic() + self._seconds

  def hear(self) -> dict[str, Any] | str:
    """The next frame; or 'timeout', 'output', or 'error' where it has gone.

    Raises:
      OSError: the sandbox cannot be made here.
    """
    frame = b''
    with selectors.DefaultSelector() as ready:
      ready.register(self._results, selectors.EVENT_READ, 'frame')
      if self._process.stdout is not None:
        ready.register(self._process.stdout, selectors.EVENT_READ, 'output')
      while True:
        size = 4 + int.from_bytes(frame[:4])
        if len(frame) >= size:
          value, frame = self._read(frame[4:size]), frame[size:]
          if value != STARTED or self._began:
            return value
          self._began = True
          self._deadline = time.monotonic() + self._seconds
          continue
        left = self._deadline - time.monotonic()
        if left <= 0:
          return 'timeout'
        for key, _ in ready.select(left):
          part = os.read(key.fd, 65536)
          if key.data == 'output':
            self.output += part
            if not part:
              ready.unregister(key.fd)
          elif not part:
            return 'error'
          else:
            frame += part
          if len(frame) > OUTPUT or len(self.output) > OUTPUT:
            return 'output'

  def _read(self, frame: bytes) -> dict[str, Any] | str:
    try:
      value = json.loads(frame)
    except ValueError:
      return 'error'  # what the program wrote there itself
    if not isinstance(value, dict):
      return 'error'
    if 'setup' in value:
      raise OSError(f'no sandbox: {value["setup"]}')
    return value

  def drain(self) -> None:
    """Reads what is left of the output of a program that is done."""
    stream = self._process.stdout
    os.set_blocking(stream.fileno(), False)
    while len(self.output) <= OUTPUT:
      try:
        part = os.read(stream.fileno(), 65536)
      except BlockingIOError:
        return
      if not part:
        return
      self.output += part


@functools.cache
def _python() -> str:
  """The interpreter outside of any virtual environment."""
  base = getattr(sys, '_base_executable', None) or sys.executable
  return str(Path(base).resolve())


def run_tests(
  code: str, tests: Sequence[str], limits: Limits = USUAL
) -> Result:
  """Runs code, and each test after it in its names, as `assert f(1) == 2`.

  The code has not seen its tests before it has run.

  Raises:
    OSError: no sandbox can be made on this machine.
    ValueError: an unknown isolation, with the nearest one.
  """
  key = secrets.token_hex(16)
  with _Program(code, limits, '', main=False) as program:
    began = program.hear()
    if isinstance(began, str):
      return Result(began, detail='before its tests')
    if began.get('ready') != '':
      return Result('error', detail=str(began.get('ready')))
    program.tell({'tests': list(tests), 'key': key})
    found = program.hear()
  if isinstance(found, str):
    return Result(found, detail='in its tests')
  errors = found.get('errors')
  # Another frame is the program's own.
  if found.get('key') != key or len(errors or ()) != len(tests):
    return Result('error', detail='left before its tests were done')
  status = 'error' if any(errors) else 'ok'
  return Result(status, tuple(map(str, errors)))


def run_program(code: str, stdin: str, limits: Limits = USUAL) -> Result:
  """Runs a program that reads `stdin`; its output is in the result.

  Raises:
    OSError: no sandbox can be made on this machine.
    ValueError: an unknown isolation, with the nearest one.
  """
  with _Program(code, limits, stdin, main=True) as program:
    found = program.hear()
    if isinstance(found, str):
      return Result(found)
    program.drain()
    if len(program.output) > OUTPUT:
      return Result('output')
    detail = str(found.get('error', 'no end'))
    output = program.output.decode('utf-8', 'replace')
    return Result('error' if detail else 'ok', output=output, detail=detail)


def check(limits: Limits) -> None:
  """Raises ValueError where this machine cannot make such a sandbox."""
  try:
    result = run_tests('x = 1', ['assert x == 1'], limits)
  except OSError as error:
    raise ValueError(
      f'unit_tests: isolation="{limits.isolation}" needs Linux namespaces '
      f'({error}); run as root or allow users to make them, or set isolation='
      '"limits", which keeps the code from no file and from no network'
    ) from error
  if result.status != 'ok':
    raise ValueError(
      f'unit_tests: a program of one line ends with {result.status} '
      f'{result.detail} under memory={limits.memory}, seconds='
      f'{limits.seconds}: raise them'
    )
