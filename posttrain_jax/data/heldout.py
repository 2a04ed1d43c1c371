"""Records that a run is judged by and does not train on, by what they say.

A record goes by a digest of its prompt (of a conversation: of what comes before
the first answer; of plain text: of the text). So it stays on its side when a
file grows or is written in another order, and no prompt is on both sides.
"""

import hashlib
import json
from typing import Any

import numpy as np

from posttrain_jax.data.rows import Failed, Source, walk

__all__ = ['identity', 'is_heldout', 'overlap', 'split']

ANSWERS = ('assistant',)


def _opening(turns: Any) -> Any:
  """The turns before the first answer; all of them where that is none."""
  if not isinstance(turns, list):
    return turns
  said = []
  for turn in turns:
    if isinstance(turn, dict) and turn.get('role') in ANSWERS:
      break
    said.append(turn)
  return said or turns


def _shared(chosen: Any, rejected: Any) -> Any:
  """The turns that two conversations share."""
  if not isinstance(chosen, list) or not isinstance(rejected, list):
    return [chosen, rejected]
  shared = []
  for first, second in zip(chosen, rejected):
    if first != second:
      break
    shared.append(first)
  return _opening(shared) if shared else [chosen, rejected]


def identity(columns: dict[str, Any]) -> str:
  """What decides the side of a record, as JSON."""
  prompt = columns.get('prompt')
  if prompt is None and columns.get('messages') is not None:
    prompt = _opening(columns['messages'])
  if prompt is None and columns.get('chosen') is not None:
    prompt = _shared(columns['chosen'], columns.get('rejected'))
  if prompt is None:
    prompt = columns.get('text', columns)
  if isinstance(prompt, list):
    # A table gives every turn all columns; those that are null say nothing.
    prompt = [
      {k: v for k, v in turn.items() if v is not None}
      if isinstance(turn, dict)
      else turn
      for turn in prompt
    ]
  return json.dumps(prompt, sort_keys=True, default=str)


def _digest(columns: dict[str, Any]) -> bytes:
  return hashlib.blake2b(identity(columns).encode(), digest_size=8).digest()


def is_heldout(columns: dict[str, Any], fraction: float) -> bool:
  """Whether a record is among the share `fraction` that is held out."""
  return int.from_bytes(_digest(columns), 'big') < fraction * 2**64


def overlap(source: Source, heldout: Source) -> list[str]:
  """Places of held-out records whose prompt is one of `source`, too."""
  trained = {
    _digest(found.columns)
    for found in walk(source)
    if not isinstance(found, Failed)
  }
  return [
    found.where
    for found in walk(heldout)
    if not isinstance(found, Failed) and _digest(found.columns) in trained
  ]


def split(source: Source, fraction: float) -> tuple[np.ndarray, np.ndarray]:
  """Indices ([N] int64, ascending) that are trained on, and held-out ones.

  Records that cannot be read stay on the first side, where they are judged.

  Raises:
    ValueError: one side is empty.
  """
  held = np.zeros(len(source), bool)
  for found in walk(source):
    if not isinstance(found, Failed):
      held[found.index] = is_heldout(found.columns, fraction)
  if not held.any() or held.all():
    side = 'training' if held.all() else 'evaluation'
    raise ValueError(
      f'data.eval_fraction={fraction:g}: of {len(source):,} records none is '
      f'left for {side}: sides are chosen by prompt; give data.eval_path'
    )
  return np.flatnonzero(~held), np.flatnonzero(held)
