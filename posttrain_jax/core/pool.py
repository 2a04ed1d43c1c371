"""Python code in worker processes: one that hangs or dies costs one item.

  pool = Pool('package.module:Class', {'name': value}, workers=4)
  pool.call('method', *args, timeout=5.0) -> Reply(status, value)

A worker is a new interpreter that holds one `Class(**arguments)`. It is not a
fork, so it has none of this process's threads or devices, and it imports only
what that module imports. What is sent to it and back is pickled.
"""

import importlib
import math
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

__all__ = ['NoWorker', 'Pool', 'Reply']

STDERR = 2
START_TIMEOUT = 120.0  # seconds for a worker's imports, on a busy machine
GRACE = 5.0  # seconds after which a worker without a parent ends itself


class NoWorker(RuntimeError):
  """A worker process cannot be started."""


class Reply(NamedTuple):
  """What became of a call.

  status  'ok', 'error' (it raised), 'timeout' or 'crash'
  value   what the method returned, else what went wrong, as text
  """

  status: str
  value: Any


class _Worker:
  """One interpreter and the pipe to it."""

  def __init__(self, target: str, arguments: dict[str, Any], prints: bool):
    self._pipe, theirs = multiprocessing.Pipe()
    # Where stderr was closed, its number is another file's.
    prints &= sys.stderr is not None
    heard = STDERR if prints else subprocess.DEVNULL
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    self._process = subprocess.Popen(
      # -P: only the parent's own path, which PYTHONPATH repeats.
      [sys.executable, '-P', '-m', 'posttrain_jax.core.pool',
       str(theirs.fileno())],
      pass_fds=[theirs.fileno()],
      # The order of a set of strings is the same in every worker and run; what
      # is printed is there at once.
      env=os.environ
      | {'PYTHONPATH': path, 'PYTHONHASHSEED': '0', 'PYTHONUNBUFFERED': '1'},
      stdin=subprocess.DEVNULL,
      stdout=heard,
      stderr=heard,
      # Ctrl-C is the parent's: it still needs its workers to finish a step.
      start_new_session=True,
    )  # fmt: skip
    theirs.close()
    reply = self.call((target, arguments), START_TIMEOUT)
    if reply.status != 'ok':
      self.kill()
      raise NoWorker(
        f'worker {target} did not start ({reply.status}): {reply.value}'
      )

  def call(self, request: tuple, timeout: float) -> Reply:
    try:
      self._pipe.send((timeout, request))
      if not self._pipe.poll(timeout):
        return Reply('timeout', f'no answer in {timeout:g} s')
      return Reply(*self._pipe.recv())
    except (EOFError, OSError):
      return Reply('crash', f'exit status {self._process.wait()}')

  def kill(self) -> None:
    self._process.kill()
    self._process.wait()
    self._pipe.close()


def _kill_all(started: set[_Worker]) -> None:
  while started:
    started.pop().kill()


class Pool:
  """At most `workers` processes, started when a call needs one more.

  Thread-safe. They end with `close`, with the pool, or with this process. With
  `prints` what the class prints and logs goes to this process's stderr, else
  nowhere.
  """

  def __init__(
    self,
    target: str,
    arguments: dict[str, Any],
    workers: int,
    prints: bool = False,
  ):
    if workers < 1:
      raise ValueError(f'workers={workers} must be at least 1')
    self._target, self._arguments, self._prints = target, arguments, prints
    # Last in, first out: a running worker is taken before one is started.
    self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
    for _ in range(workers):
      self._idle.put(None)
    self._threads = ThreadPoolExecutor(workers, 'pool')
    self._started: set[_Worker] = set()
    self._finalizer = weakref.finalize(self, _kill_all, self._started)

  def call(self, method: str, *args: Any, timeout: float) -> Reply:
    """`method(*args)` in a worker; waits for a free one, then `timeout` s.

    Raises:
      NoWorker: no worker can be started, with what its module raised.
    """
    worker = self._idle.get()
    healthy = False
    try:
      if worker is None:
        worker = _Worker(self._target, self._arguments, self._prints)
        self._started.add(worker)
      reply = worker.call((method, args), timeout)
      healthy = reply.status in ('ok', 'error')
      return reply
    finally:
      if worker is not None and not healthy:
        self._started.discard(worker)
        worker.kill()
        worker = None
      self._idle.put(worker)

  def map(self, function: Callable[[Any], Any], items: Iterable) -> list:
    """[function(item)] in the order of the items, in this process's threads."""
    return list(self._threads.map(function, items))

  def close(self) -> None:
    """Ends the workers; a later call would start new ones."""
    size = self._idle.qsize()
    for _ in range(size):
      self._idle.get()
    _kill_all(self._started)
    for _ in range(size):
      self._idle.put(None)


def _serve(pipe: Connection) -> None:
  """A worker: makes its object, then answers calls until the pipe closes."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  server = None
  while True:
    try:
      timeout, (name, args) = pipe.recv()
    except EOFError:
      return
    # The parent kills a late worker; this is for when there is no parent.
    signal.alarm(math.ceil(timeout + GRACE))
    reply: tuple[str, Any]
    try:
      if server is None:
        module, _, attribute = name.partition(':')
        server = getattr(importlib.import_module(module), attribute)(**args)
        value = None
      else:
        value = getattr(server, name)(*args)
      reply = ('ok', value)
    except Exception as error:
      reply = ('error', f'{type(error).__name__}: {error}')
    signal.alarm(0)
    pipe.send(reply)


if __name__ == '__main__':
  _serve(Connection(int(sys.argv[1])))
