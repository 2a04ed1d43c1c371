"""What a person sees while a run runs: bars in a terminal, lines in a log.

  with progress.Progress() as live:
    handle = live.task('grpo', 300)
    for step in range(300):
      ...
      live.update(handle, step + 1, {'reward': reward})

In a terminal each task is a bar that stays when it is done. Elsewhere (a pipe,
CI) it is a plain line at each tenth of the way, or every ten seconds where
that comes first.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

__all__ = ['Progress', 'clock', 'short', 'table']

LINE_SECONDS = 10.0
LINE_FRACTION = 0.1


def short(value: Any) -> str:
  """Three significant digits: 0.0123, 45.6, 78,900, 1.23M; text stays."""
  if isinstance(value, (str, bool)) or value is None:
    return '' if value is None else str(value)
  value = float(value)
  if not math.isfinite(value):
    return str(value)
  for unit, suffix in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M')):
    if unit <= abs(value) < 1000 * unit:
      return f'{value / unit:#.3g}'.rstrip('.') + suffix
  if value != 0.0 and not 1e-3 <= abs(value) < 1e6:
    return f'{value:.2e}'
  if value == int(value) or abs(value) >= 100:
    return f'{value:,.0f}'
  return f'{value:#.3g}'


def clock(seconds: float) -> str:
  """Seconds as m:ss or h:mm:ss."""
  minutes, seconds = divmod(int(round(seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02d}:{seconds:02d}'
  return f'{minutes}:{seconds:02d}'


class Progress:
  """Live progress of one or more tasks; a context manager.

  Args:
    file: where to show it; standard output by default. Bars if it is a
      terminal, plain lines if not.
  """

  def __init__(self, file: TextIO | None = None):
    file = file or sys.stdout
    self._view = _Bars(file) if file.isatty() else _Lines(file)
    self._paces: dict[int, _Pace] = {}

  def __enter__(self) -> 'Progress':
    self._view.start()
    return self

  def __exit__(self, *exception) -> None:
    self._view.stop()

  def task(self, name: str, total: int) -> int:
    """Adds a task of `total` steps; returns the handle for `update`."""
    handle = self._view.task(name, total)
    self._paces[handle] = _Pace(total)
    return handle

  def say(self, text: str) -> None:
    """A sentence on a line of its own, above the bars."""
    self._view.say(text)

  def update(
    self,
    handle: int,
    completed: int,
    metrics: Mapping[str, float | str] | None = None,
  ) -> None:
    """Shows that `completed` steps are done, and metrics as of now.

    Args:
      handle: what `task` returned.
      completed: steps done since the task began (not since the last call).
      metrics: numbers on the host, or texts; 'a/b' is shown as 'b'.
    """
    shown = ' '.join(
      f'{name.rsplit("/", 1)[-1]} {short(value)}'
      for name, value in (metrics or {}).items()
    )
    left = self._paces[handle].left(completed)
    self._view.update(handle, completed, left, shown)


class _Pace:
  """How long the rest of a task takes, by the steps of this session."""

  def __init__(self, total: int):
    self._total = max(total, 1)
    self._first: tuple[int, float] | None = None

  def left(self, completed: int) -> str:
    """'left 1:05', 'left ?' where nothing says yet, 'done'."""
    now = time.monotonic()
    # What was done before this session, and the call that compiles, say nothing
    # of how fast steps are.
    if self._first is None:
      self._first = (completed, now)
    done, at = self._first
    if completed >= self._total:
      return 'done'
    if completed <= done:
      return 'left ?'
    each = (now - at) / (completed - done)
    return f'left {clock(each * (self._total - completed))}'


class _Elapsed(rich_progress.ProgressColumn):
  """The time since a task began, as lines have it."""

  def render(self, task: rich_progress.Task) -> Text:
    elapsed = task.finished_time if task.finished else task.elapsed
    return Text(f'elapsed {clock(elapsed or 0.0)}', style='dim')


class _Bars:
  """Bars by rich."""

  def __init__(self, file: TextIO):
    self._bars = rich_progress.Progress(
      rich_progress.TextColumn('{task.description}', markup=False),
      rich_progress.BarColumn(bar_width=14),
      rich_progress.MofNCompleteColumn(),
      _Elapsed(),
      rich_progress.TextColumn('{task.fields[left]}', markup=False),
      rich_progress.TextColumn(
        '{task.fields[shown]}',
        markup=False,
        table_column=Column(ratio=1, no_wrap=True, overflow='ellipsis'),
      ),
      console=Console(file=file),
      expand=True,
      get_time=lambda: time.monotonic(),
    )
    self.start, self.stop = self._bars.start, self._bars.stop

  def say(self, text: str) -> None:
    self._bars.console.print(Text(text))

  def task(self, name: str, total: int) -> int:
    return self._bars.add_task(name, total=total, left='left ?', shown='')

  def update(self, handle: int, completed: int, left: str, shown: str) -> None:
    fields = {'left': left} | ({'shown': shown} if shown else {})
    self._bars.update(handle, completed=completed, **fields)


class _Lines:
  """Plain lines, for a log that people scroll through later."""

  def __init__(self, file: TextIO):
    self._file = file
    self._tasks: list[dict[str, Any]] = []

  def start(self) -> None:
    pass

  def stop(self) -> None:
    self._file.flush()

  def say(self, text: str) -> None:
    print(text, file=self._file, flush=True)

  def task(self, name: str, total: int) -> int:
    now = time.monotonic()
    self._tasks.append(
      {
        'name': name,
        'total': total,
        'began': now,
        'at': now,
        'done': 0,
        'shown': '',
      }
    )
    return len(self._tasks) - 1

  def update(self, handle: int, completed: int, left: str, shown: str) -> None:
    task, now = self._tasks[handle], time.monotonic()
    total = max(task['total'], 1)
    if not (
      now - task['at'] >= LINE_SECONDS
      or completed - task['done'] >= LINE_FRACTION * total
      # What is known when all is done, as of a last evaluation, is shown too.
      or (
        completed >= total and (total > task['done'] or shown != task['shown'])
      )
    ):
      return
    task['at'], task['done'], task['shown'] = now, completed, shown
    print(
      f'{task["name"]} {completed}/{task["total"]}',
      f'elapsed {clock(now - task["began"])}',
      left,
      *([shown] if shown else []),
      sep='  ',
      file=self._file,
      flush=True,
    )


def table(
  title: str,
  columns: Sequence[str],
  rows: Sequence[Sequence[Any]],
  file: TextIO | None = None,
) -> None:
  """Prints a table; numbers get three significant digits.

  A terminal's width is respected. Elsewhere every row stays on one line,
  however wide: what is piped is read by grep or in an editor.
  """
  file = file or sys.stdout
  grid = Table(
    title=Text(title, style='bold'), box=box.SIMPLE_HEAD, title_justify='left'
  )
  for index, column in enumerate(columns):
    is_text = any(isinstance(row[index], str) for row in rows)
    grid.add_column(Text(column), justify='left' if is_text else 'right')
  for row in rows:
    grid.add_row(*(Text(short(value)) for value in row))
  is_terminal = file.isatty()
  width = None if is_terminal else 10_000
  # Without a terminal: no colours, whatever FORCE_COLOR says.
  Console(
    file=file, width=width, force_terminal=is_terminal, no_color=not is_terminal
  ).print(grid)
