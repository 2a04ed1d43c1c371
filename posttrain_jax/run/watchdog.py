"""Says when a run stands still or lags, where, and which process holds it up.

A thread looks at how long the loop has been at one place. Beyond
`config.watchdog` seconds it writes the stacks of all threads to
`WORKDIR/stacks/process-N.txt` and a line to stderr. Of several processes each
puts its place into the store that `jax.distributed` keeps, and process 0 says
whom the others wait for: the one that is behind, or has given no sign of life.

Nothing is ended: who waits for a debugger, a slow file system or a compiler
wants to be told, not killed.
"""

import collections
import faulthandler
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

__all__ = ['PHASES', 'Place', 'Store', 'Watchdog', 'held_up']

FOLDER = 'stacks'
KEY = 'posttrain_jax/watchdog'
# Where a loop may be, in the order of a step.
PHASES = ('start', 'step', 'devices', 'evaluation', 'save')
DOING = {
  'start': 'before its first step',
  'step': 'giving its devices work (data, rewards, compiling)',
  'devices': 'waiting for its devices',
  'evaluation': 'evaluating',
  'save': 'saving',
}
BEAT = 5.0  # most seconds between two looks
# A step is an outlier at this many medians, and these seconds above it.
TIMES, ABOVE = 5.0, 5.0
FEWEST, KEPT = 10, 50  # steps that a median is of
QUIET = 60.0  # seconds between two lines about outliers
# A process lags whose own work takes this many medians of all, and this share
# of a step more.
LAG, SHARE = 2.0, 0.2


class Place(NamedTuple):
  """Where a process is.

  step   steps done
  phase  of PHASES
  age    seconds that it has been there
  beat   of its watchdog's looks so far
  host   its name
  own    seconds a step in which its devices wait for it, smoothed
  pace   seconds a step, smoothed
  """

  step: int
  phase: str
  age: float
  beat: int
  host: str
  own: float = 0.0
  pace: float = 0.0

  def order(self) -> tuple[int, int]:
    return self.step, PHASES.index(self.phase)

  def told(self) -> str:
    return f'after step {self.step}, {DOING[self.phase]}'


class Store:
  """The places of all processes, in the store of `jax.distributed`."""

  def __init__(self):
    from jax._src import distributed  # it has no public name

    self._client = distributed.global_state.client

  @staticmethod
  def made() -> 'Store | None':
    """None where there is one process, or no such store."""
    if jax.process_count() == 1:
      return None
    store = Store()
    return store if store._client is not None else None

  def put(self, process: int, place: Place) -> None:
    self._client.key_value_set(
      f'{KEY}/{process}', json.dumps(place), allow_overwrite=True
    )

  def all(self) -> dict[int, Place]:
    found = self._client.key_value_dir_get(KEY)
    return {
      int(key.rpartition('/')[2]): Place(*json.loads(value))
      for key, value in found
    }


def held_up(places: dict[int, Place], silent: dict[int, float]) -> str:
  """Whom a run waits for, in a sentence.

  places  of every process that has one
  silent  {process: seconds} of those without a sign of life
  """
  name = lambda p: f'process {p} ({places[p].host})' if p in places else (
    f'process {p}'
  )  # fmt: skip
  if silent:
    return '; '.join(
      f'{name(p)} has given no sign of life for {age:.0f} s'
      + (f', last {places[p].told()}' if p in places else '')
      for p, age in sorted(silent.items())
    )
  last = min(place.order() for place in places.values())
  behind = [p for p, place in sorted(places.items()) if place.order() == last]
  where = places[behind[0]].told()
  if len(behind) == len(places):
    return f'all processes are {where}' if len(places) > 1 else f'it is {where}'
  return f'waiting for {", ".join(map(name, behind))}: {where}'


def _lags(places: dict[int, Place]) -> str:
  """The process whose own work is what a step takes longer for, or ''."""
  if len(places) < 2:
    return ''
  own = {p: place.own for p, place in places.items()}
  slowest = max(own, key=lambda p: own[p])
  usual = statistics.median(own[p] for p in own if p != slowest)
  more = own[slowest] - usual
  if own[slowest] < LAG * usual or more < SHARE * places[slowest].pace:
    return ''
  return (
    f'process {slowest} ({places[slowest].host}) needs {own[slowest]:.2f} s a '
    f'step before its devices have work, the others {usual:.2f} s'
  )


def _tell(text: str) -> None:
  print(f'WARNING watchdog: {text}', file=sys.stderr, flush=True)


class Watchdog:
  """Watches one run's loop; a context manager.

  Args:
    seconds: at one place before it speaks; 0: it does nothing.
    workdir: where the stacks go.
    store: of the places of several processes; None: there is one.
    tell: what a line is given to.
  """

  def __init__(
    self,
    seconds: float,
    workdir: Path,
    store: Any = None,
    tell: Callable[[str], None] = _tell,
  ):
    self._seconds, self._workdir, self._tell = seconds, workdir, tell
    self._store, self._process = store, jax.process_index()
    self._mark = (0, 'start', time.monotonic())
    self._steps: collections.deque[float] = collections.deque(maxlen=KEPT)
    self._own = self._pace = 0.0
    self._began = 0.0
    self._beat, self._told = 0, 0.0
    self._seen: dict[int, tuple[int, float]] = {}
    self._named: set[int] = set()  # silent ones that were told
    self._quiet = {'outlier': 0.0, 'lag': 0.0}
    self._ended = threading.Event()
    self._thread: threading.Thread | None = None

  @classmethod
  def of(cls, seconds: float, workdir: Path) -> 'Watchdog':
    """That of a run, with the store of its processes."""
    return cls(seconds, workdir, Store.made())

  def __enter__(self) -> 'Watchdog':
    if self._seconds > 0:
      self._thread = threading.Thread(
        target=self._run, name='watchdog', daemon=True
      )
      self._thread.start()
    return self

  def __exit__(self, *exception: Any) -> None:
    self._ended.set()
    if self._thread is not None:
      self._thread.join(BEAT)

  def at(self, step: int, phase: str) -> None:
    """The loop is at a phase, after `step` steps."""
    now = time.monotonic()
    if phase == 'step':
      self._began = now
    elif self._mark[1] == 'step':
      self._own = self._smoothed(self._own, now - self._mark[2])
    self._mark = (step, phase, now)

  @staticmethod
  def _smoothed(old: float, new: float) -> float:
    return new if old == 0.0 else 0.9 * old + 0.1 * new

  def stepped(self, step: int, done: int) -> None:
    """Steps up to `step` were taken, `done` of them since the last 'step'."""
    seconds = (time.monotonic() - self._began) / done
    self._pace = self._smoothed(self._pace, seconds)
    if self._seconds > 0 and len(self._steps) >= FEWEST:
      usual = statistics.median(self._steps)
      if seconds > max(TIMES * usual, usual + ABOVE) and self._may('outlier'):
        self._tell(
          f'step {step} took {seconds:.1f} s, {seconds / usual:.0f} times the '
          f'median of the last {len(self._steps)} ({usual:.2f} s)'
        )
    self._steps.append(seconds)

  def _may(self, what: str) -> bool:
    """Whether it is long enough since a line of this kind."""
    now = time.monotonic()
    if now < self._quiet[what]:
      return False
    self._quiet[what] = now + QUIET
    return True

  def place(self) -> Place:
    """Where this process is."""
    step, phase, when = self._mark
    age = time.monotonic() - when
    return Place(
      step, phase, age, self._beat, socket.gethostname(), self._own, self._pace
    )

  def _run(self) -> None:
    while not self._ended.wait(min(BEAT, self._seconds / 4)):
      try:
        self.look()
      except Exception as error:  # a watchdog that dies is told of, once
        self._tell(f'it has ended: {type(error).__name__}: {error}')
        return

  def look(self) -> None:
    """One look: says what there is to be said."""
    self._beat += 1
    place = self.place()
    places = {self._process: place}
    if self._store is not None:
      self._store.put(self._process, place)
      if self._process == 0:
        places |= self._store.all()
    silent = self._silent(places)
    if self._process == 0 and not silent and self._lag(places):
      return
    stuck = place.age > self._seconds
    if not stuck and not silent:
      self._went_on()
      return
    since = max([place.age, *silent.values()])
    # It is said again at twice the time, or of one more that is silent.
    if since < 2 * self._told and silent.keys() <= self._named:
      return
    first, self._told = self._told == 0.0, since
    self._named |= silent.keys()
    where = self._stacks(place) if stuck and first else ''
    said = held_up(places, silent) if self._process == 0 else (
      f'process {self._process} is {place.told()}'
    )  # fmt: skip
    self._tell(f'nothing has moved for {since:.0f} s: {said}{where}')

  def _went_on(self) -> None:
    if self._told:
      self._tell(f'it goes on, after step {self._mark[0]}')
      self._told, self._named = 0.0, set()

  def _lag(self, places: dict[int, Place]) -> bool:
    told = _lags(places) if len(self._steps) >= FEWEST else ''
    if told and self._may('lag'):
      self._tell(told)
      return True
    return False

  def _silent(self, places: dict[int, Place]) -> dict[int, float]:
    """{process: seconds} of those whose watchdogs have stopped looking."""
    if self._store is None or self._process > 0:
      return {}
    now, out = time.monotonic(), {}
    for process in range(jax.process_count()):
      beat = places[process].beat if process in places else -1
      if self._seen.get(process, (None, 0.0))[0] != beat:
        self._seen[process] = (beat, now)
      age = now - self._seen[process][1]
      if process != self._process and age > self._seconds:
        out[process] = age
    return out

  def _stacks(self, place: Place) -> str:
    """Writes what every thread is doing; '; stacks in FILE'."""
    file = self._workdir / FOLDER / f'process-{self._process}.txt'
    try:
      file.parent.mkdir(parents=True, exist_ok=True)
      with file.open('a') as out:
        out.write(f'{time.strftime("%F %T")} {place.told()}\n')
        out.flush()
        faulthandler.dump_traceback(out, all_threads=True)
    except Exception as error:  # a bucket has no file to append to
      return f'; its stacks could not be written: {error}'
    return f'; stacks in {file}'
