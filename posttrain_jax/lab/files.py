"""How what a lab measured is kept: whole files, with the commit of the code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ['commit_of', 'write_whole']


def write_whole(path: Path, text: str) -> None:
  """Writes a file that is there whole, or not at all."""
  made = path.with_name(f'.{path.name}')
  made.write_text(text)
  made.replace(path)


def commit_of(header: Mapping[str, Any]) -> str:
  """Seven digits of a header's commit, with '+' where files were changed."""
  git = header['git'] or {'commit': 'unknown', 'dirty': False}
  return git['commit'][:7] + ('+' if git['dirty'] else '')
