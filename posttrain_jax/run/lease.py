"""One writer to a folder: a lease that its holder keeps fresh.

`lease.json` says who writes: host, process, a random token, and the time of the
last heartbeat. A holder that was killed leaves no dead lock: on its own machine
its process is gone, and elsewhere the heartbeat is old. No file locks, which
network file systems do not keep.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path

from posttrain_jax.core import hosts, paths

__all__ = ['FILE', 'Lease', 'Lost']

FILE = 'lease.json'
# Seconds between heartbeats, and after how many a heartbeat is old.
BEAT = 3.0
OLD = 30.0
# Seconds after which a network file system shows what another machine wrote.
SEEN = 60
# A clock of another machine may be wrong: what looks old is watched this long.
WATCH = 2.5 * BEAT


# Leases of this process that one thread keeps fresh.
_live: set['Lease'] = set()
_guard = threading.Lock()
_thread: threading.Thread | None = None


def _beat() -> None:
  """Runs while this process holds a lease."""
  global _thread
  while True:
    time.sleep(BEAT)
    with _guard:
      if not _live:
        _thread = None
        return
      held = list(_live)
    for lease in held:
      lease.beat()


def _keep_fresh(lease: 'Lease') -> None:
  global _thread
  with _guard:
    _live.add(lease)
    if _thread is None:
      _thread = threading.Thread(target=_beat, name='lease', daemon=True)
      _thread.start()


class Lost(ValueError):
  """Another process has taken the folder over."""


def _machine() -> str:
  """This machine since its last start, and which process numbers count."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    parts.append(Path('/proc/sys/kernel/random/boot_id').read_text().strip())
  with contextlib.suppress(OSError):
    parts.append(os.readlink('/proc/self/ns/pid'))
  return ' '.join(parts)


def _started(pid: int) -> str | None:
  """When a process of this machine began, '' where the system does not say;
  None if there is no such process."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return None
  except PermissionError:
    pass  # another user's
  try:
    stat = Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return ''
  # The name, in brackets, may have spaces.
  fields = stat.rpartition(')')[2].split()
  return None if fields[0] in 'ZX' else fields[19]


def _read(path: Path) -> dict | None:
  """The lease of a folder; {} if it cannot be read, None if there is none."""
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _age(path: Path, holder: dict) -> float:
  """Seconds since the last heartbeat."""
  when = holder.get('time')
  if not isinstance(when, (int, float)):
    try:
      when = path.stat().st_mtime
    except OSError:
      return 0.0
  return max(0.0, time.time() - when)


def _who(holder: dict) -> str:
  if not holder:
    return 'a process that its lease does not name'
  return f'process {holder.get("pid")} on {holder.get("host")}'


class Lease:
  """Holds a folder for this run while it is open; a context manager.

  Of several processes of one run, process 0 holds it for all.

  Args:
    workdir: the folder; it is made where it is not there.

  Raises:
    ValueError: the folder cannot be written, or another process holds it.
  """

  def __init__(self, workdir: str | Path):
    self._workdir = paths.path(workdir)
    self._path = self._workdir / FILE
    self._token = secrets.token_hex(8)
    # Between a heartbeat and the end: an ended lease must not come back.
    self._lock = threading.Lock()
    self._held = False

  def __enter__(self) -> 'Lease':
    hosts.together(self._enter, f'{self._workdir}')
    if hosts.several():
      self._check_shared()
    return self

  def _enter(self) -> None:
    if not hosts.first():
      return
    try:
      self._take()
    except OSError as caught:
      raise ValueError(
        f'{self._workdir} cannot be written: {caught.strerror or caught}'
      ) from None

  def foreseen(self) -> str:
    """What entering would take over, or ''; writes nothing.

    Raises:
      ValueError: the folder cannot be written, or another process holds it.
    """
    if paths.is_remote(str(self._workdir)):
      place = None
    else:
      place = self._workdir.absolute()
      while not place.exists():
        place = place.parent
    if place is not None and not place.is_dir():
      raise ValueError(f'{place} is a file, not a folder')
    if place is not None and not os.access(place, os.W_OK):
      raise ValueError(f'{self._workdir} cannot be written: {place} is closed')
    holder = _read(self._path)
    if holder is None:
      return ''
    return f'takes over from {_who(holder)}: {self._dead(holder)}'

  def _check_shared(self) -> None:
    """Raises where a process does not see what process 0 has written."""
    token = hosts.said(self._token)[0]

    def look() -> None:
      for _ in range(SEEN):
        if (_read(self._path) or {}).get('token') == token:
          return
        time.sleep(1.0)
      raise ValueError(
        f'{self._workdir} on {socket.gethostname()} is not the folder that '
        'process 0 writes: give all processes one that they share (NFS, '
        'Filestore, or gs://)'
      )

    try:
      hosts.together(look)
    except BaseException:
      self.__exit__()
      raise

  def __exit__(self, *exception) -> None:
    with _guard:
      _live.discard(self)
    with self._lock:
      if self._held and (_read(self._path) or {}).get('token') == self._token:
        with contextlib.suppress(OSError):
          self._path.unlink()
      self._held = False

  def check(self) -> None:
    """Raises `Lost` if another run has the folder; before every save, on all
    processes of this one."""
    hosts.together(self._check)

  def _check(self) -> None:
    if not self._held:  # another process of this run does
      return
    holder = _read(self._path)
    if holder is None:  # whoever took it is through, or it was deleted
      with contextlib.suppress(FileExistsError):
        self._create()
      holder = _read(self._path)
    if holder and holder.get('token') != self._token:
      raise Lost(
        f'{self._workdir} was taken over by {_who(holder)} while this process '
        'gave no sign of life; nothing more is written'
      )

  def beat(self) -> None:
    """Says that the holder is alive, if the lease is still its own."""
    # The loop finds out at its next save; a full disk heals by itself.
    with self._lock, contextlib.suppress(OSError):
      holder = _read(self._path)
      if self._held and (holder or {}).get('token') == self._token:
        paths.write(self._path, self._record())

  def _record(self) -> str:
    return json.dumps(
      {
        'host': socket.gethostname(),
        'pid': os.getpid(),
        'started': _started(os.getpid()),
        'machine': _machine(),
        'token': self._token,
        'time': time.time(),
        'command': ' '.join(sys.argv)[:500],
      },
      indent=1,
    )

  def _create(self) -> None:
    """Makes the file, in one operation; FileExistsError if it is there."""
    paths.create(self._path, self._record())

  def _take(self) -> None:
    if self._workdir.exists() and not self._workdir.is_dir():
      raise ValueError(f'{self._workdir} is a file, not a folder')
    self._workdir.mkdir(parents=True, exist_ok=True)
    for _ in range(5):
      try:
        self._create()
        break
      except FileExistsError:
        self._remove_dead()
    else:
      raise ValueError(f'{self._workdir}: others take its lease all the time')
    self._held = True
    _keep_fresh(self)

  def _remove_dead(self) -> None:
    """Takes a dead holder's lease out of the way.

    Raises:
      ValueError: the holder is alive.
    """
    holder = _read(self._path)
    if holder is None:
      return
    why = self._dead(holder)
    # Only one of several that find it dead can move it away.
    aside = self._path.with_name(f'{FILE}.{self._token}')
    try:
      self._path.replace(aside)
    except FileNotFoundError:
      return
    moved = _read(aside) or {}
    if moved.get('token') != holder.get('token'):  # a live one, made since
      with contextlib.suppress(OSError):
        aside.replace(self._path)
      raise ValueError(f'{self._workdir} is written by {_who(moved)}')
    aside.unlink()
    print(
      f'{self._workdir}: took over from {_who(holder)}: {why}',
      file=sys.stderr,
      flush=True,
    )

  def _dead(self, holder: dict) -> str:
    """Why the holder is known to be gone.

    Raises:
      ValueError: it is alive, or was a moment ago.
    """
    age = _age(self._path, holder)
    here = holder.get('machine') == _machine()
    if here and isinstance(holder.get('pid'), int):
      started = _started(holder['pid'])
      if started is None or started != (holder.get('started') or started):
        return 'that process is gone'
      raise ValueError(
        f'{self._workdir} is written by {_who(holder)}, which is alive; wait '
        'for it, stop it, or use another --workdir'
      )
    if age >= OLD:
      time.sleep(WATCH)
      if _read(self._path) == holder:
        return f'no sign of life for {age + WATCH:.0f} s'
    raise ValueError(
      f'{self._workdir} is written by {_who(holder)}, whose last sign of life '
      f'is {age:.0f} s old; wait for it, or use another --workdir (if it was '
      f'killed, its lease ends {OLD:.0f} s after the last sign)'
    )
