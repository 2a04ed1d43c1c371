"""Runs that were cut short, for tests of what goes on from there."""

import shutil
from pathlib import Path


def cut(straight: Path, halves: Path, step: int = 2) -> None:
  """`halves` as the run `straight` was when it had saved `step`.

  A run of so many steps is not the same: the length of its schedule is a number
  of its program, by which a compiler may round otherwise (one did, on a CPU
  without AVX-512).
  """
  shutil.copytree(straight, halves)
  later = [
    x
    for x in (halves / 'checkpoints').iterdir()
    if x.name.isdigit() and int(x.name) > step
  ]
  assert later and (halves / 'checkpoints' / str(step)).is_dir()
  for folder in later:
    shutil.rmtree(folder)
