"""Compiling up to where a program's memory and collectives are settled.

Nine tenths of the time that XLA takes for a TPU go into machine code, which a
plan does not read. A process of its own compiles, and has XLA write down what
it has settled (`--xla_dump_to`): the optimised program and its buffers. When
these are there, it is ended. What XLA refuses for its memory it refuses before
that. Of such a program the size of its code is not known.
"""

import contextlib
import dataclasses
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
  'ASKED', 'FOUND', 'Buffers', 'buffers', 'compiled', 'settled', 'watched',
]  # fmt: skip

# What XLA writes: the program, its buffers, and then how it was asked.
TEXT = '.after_optimizations.txt'
BUFFERS = '.after_optimizations-buffer-assignment.txt'
LAST = '.debug_options'
ASKED, FOUND, DUMP = 'asked.pickle', 'found.json', 'dump'
POLL = 0.25  # seconds between looks


@dataclasses.dataclass(frozen=True)
class Buffers:
  """Bytes of a program in a chip's memory; aliased outputs are arguments."""

  arguments: int
  outputs: int
  aliased: int
  temporaries: int


_ALLOCATION = re.compile(
  r'^allocation \d+: size (\d+)(, color [1-9]\d*)?, (.*)$', re.M
)


def buffers(text: str) -> Buffers:
  """Sizes of a dumped buffer assignment; colours beside 0 are other memories.

  Raises:
    ValueError: it names no buffer.
  """
  sums = dict.fromkeys(('arguments', 'outputs', 'aliased', 'temporaries'), 0)
  every = list(_ALLOCATION.finditer(text))
  if not every:
    raise ValueError(f'no buffer assignment: {text[:80]!r}')
  for size, colour, kind in (found.groups() for found in every):
    if colour:
      continue
    given, left = kind.startswith('parameter'), 'maybe-live-out' in kind
    left |= kind.startswith('output')
    sums['arguments'] += int(size) * given
    sums['outputs'] += int(size) * left
    sums['aliased'] += int(size) * (given and left)
    sums['temporaries'] += int(size) * (not given and not left)
  return Buffers(**sums)


def settled(folder: Path) -> tuple[str, Buffers] | None:
  """(text, sizes) of the TPU's program that XLA wrote into a folder; None: not
  yet. Programs of this machine's CPU lie there too."""
  for last in folder.glob(f'*{LAST}'):
    stem = str(last)[: -len(LAST)]
    text, sizes = Path(stem + TEXT), Path(stem + BUFFERS)
    if text.exists() and sizes.exists():
      both = text.read_text(), sizes.read_text()
      if all(both):  # a file is there before what it says
        return both[0], buffers(both[1])
  return None


def compiled(
  config: Any, topology: str, name: str
) -> tuple[str, Buffers] | dict[str, Any]:
  """What became of one program of a config: (text, sizes), or what the process
  found where it came to an end: {'error': XLA's words}.

  name  of the program (`programs.traced`)

  Raises:
    RuntimeError: the process failed, with its last words.
  """
  with tempfile.TemporaryDirectory() as kept:
    folder = Path(kept)
    asked = {'config': config, 'topology': topology, 'name': name}
    (folder / ASKED).write_bytes(pickle.dumps(asked))
    words = [sys.executable, '-m', 'posttrain_jax.run.plan.apart', kept]
    found, said = watched(words, folder / DUMP)
    if found is not None:
      return found
    if (folder / FOUND).exists():
      return json.loads((folder / FOUND).read_text())
    raise RuntimeError(f'compiling "{name}" ended: {said}')


def watched(
  words: Sequence[str], folder: Path, **more: str
) -> tuple[tuple[str, Buffers] | None, str]:
  """(what XLA settled in a process of those words, its last line). The process
  is ended when that is there; None: it came to an end without.

  folder  that XLA writes into, made here
  more    of the process's environment
  """
  folder.mkdir()
  flags = os.environ.get('XLA_FLAGS', '')
  dump = f'--xla_dump_to={folder} --xla_dump_hlo_as_text'
  env = {**os.environ, **more, 'XLA_FLAGS': f'{flags} {dump}'.strip()}
  with tempfile.TemporaryFile('w+') as said:
    process = subprocess.Popen(
      words, env=env, stdout=said, stderr=said, start_new_session=True
    )
    found = before = None
    try:
      while found is None and process.poll() is None:
        time.sleep(POLL)
        now = settled(folder)
        # Twice the same: not half written.
        found, before = (now if now == before else None), now
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its workers too
      process.wait()
    said.seek(0)
    last = (said.read().strip() or 'no word').splitlines()[-1]
  return found or settled(folder), last
