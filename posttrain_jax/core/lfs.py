"""Pointers that Git LFS leaves where a large file has not been fetched."""

import os
from pathlib import Path

__all__ = ['MAGIC', 'pointer']

MAGIC = b'version https://git-lfs'
_MOST = 1024  # bytes; a pointer has three short lines


def pointer(file: str | os.PathLike) -> str:
  """What to do about a file that is a pointer; '': it is none.

  To be added behind the file's name, with ': '.
  """
  file = Path(file)
  try:
    if file.stat().st_size > _MOST:
      return ''
    with file.open('rb') as opened:
      if opened.read(len(MAGIC)) != MAGIC:
        return ''
  except OSError:
    return ''
  return (
    'is a Git LFS pointer, not the file itself: run "git lfs pull" in '
    f'{file.parent}'
  )
