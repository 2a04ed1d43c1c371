"""Text to token ids and back: the tasks' characters, bytes, byte-level BPE.

Every tokenizer is used the same way:

  encode(text) -> list[int]   plain text only: a special token's name inside
                              the text stays text, and nothing is added to it
  read(text) -> ids, places   a whole text in which special tokens' names are
                              these tokens; places: (start, end) of each token
                              in characters of the text
  decode(ids) -> str          text of the ids; special tokens are left out
  special_id(name) -> id      of a special token such as '<|im_start|>', or None
  vocab_size, pad_id, eos_id, bos_id (None where there is none)
  add_bos                     whether its models expect sequences to open with
                              the BOS; whoever builds a sequence adds it
  stops                       ids that end what a model says, the main one first
  special_names               names that `read` reads as tokens
  template                    the folder's own chat template; None without one

`pad_id` may equal `eos_id`: masks are data and never inferred from ids.
"""

import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from posttrain_jax.core import hub, paths
from posttrain_jax.core.resolve import nearest
from posttrain_jax.data.bpe import SPECIAL, BPETokenizer
from posttrain_jax.data.template import Template
from posttrain_jax.tasks import vocab

__all__ = [
  'BPETokenizer',
  'ByteTokenizer',
  'TaskTokenizer',
  'Tokenizer',
  'ends',
  'load',
]

UNKNOWN = '\ufffd'  # what `decode` shows for an id that has no text
Places = list[tuple[int, int]]
SPECIAL_TEXT = ('refuse', 'control')


@runtime_checkable
class Tokenizer(Protocol):
  """What the rest of the code base asks of a tokenizer."""

  vocab_size: int
  pad_id: int
  eos_id: int
  bos_id: int | None
  add_bos: bool
  stops: tuple[int, ...]
  special_names: frozenset[str]
  template: Template | None

  def encode(self, text: str) -> list[int]: ...

  def read(self, text: str) -> tuple[list[int], Places]: ...

  def decode(self, ids: Sequence[int]) -> str: ...

  def special_id(self, name: str) -> int | None: ...


class TaskTokenizer:
  """The 64 characters that the in-graph tasks speak (`tasks.vocab`)."""

  vocab_size = vocab.VOCAB_SIZE
  pad_id = vocab.PAD
  eos_id = vocab.EOS
  bos_id = vocab.BOS
  add_bos = False
  stops = (vocab.EOS,)
  special_names: frozenset[str] = frozenset()
  template = None

  def encode(self, text: str) -> list[int]:
    """Raises ValueError at a character outside the alphabet, naming it."""
    return vocab.encode(text).tolist()

  def read(self, text: str) -> tuple[list[int], Places]:
    return self.encode(text), [(i, i + 1) for i in range(len(text))]

  def decode(self, ids: Sequence[int]) -> str:
    return ''.join(
      vocab.CHARACTERS[i - vocab.ZERO] if i < vocab.VOCAB_SIZE else UNKNOWN
      for i in map(int, ids)
      if i >= vocab.ZERO
    )

  def special_id(self, name: str) -> int | None:
    return vocab.SPECIAL.index(name) if name in vocab.SPECIAL else None


class ByteTokenizer:
  """The 256 bytes of UTF-8 after pad, eos and bos: no training, no loss."""

  special = SPECIAL
  vocab_size = 256 + len(special)
  pad_id, eos_id, bos_id = 0, 1, 2
  add_bos = False
  stops = (1,)
  special_names: frozenset[str] = frozenset()
  template = None

  def encode(self, text: str) -> list[int]:
    """Raises UnicodeEncodeError (a ValueError) at a lone surrogate."""
    return [byte + len(self.special) for byte in text.encode('utf-8')]

  def read(self, text: str) -> tuple[list[int], Places]:
    sizes = [len(character.encode('utf-8')) for character in text]
    places = [(i, i + 1) for i, size in enumerate(sizes) for _ in range(size)]
    return self.encode(text), places

  def decode(self, ids: Sequence[int]) -> str:
    """Bytes that are not UTF-8, as after a cut, show as U+FFFD."""
    offset, out = len(self.special), bytearray()
    for i in map(int, ids):
      if i >= self.vocab_size:
        out += UNKNOWN.encode()
      elif i >= offset:
        out.append(i - offset)
    return out.decode('utf-8', errors='replace')

  def special_id(self, name: str) -> int | None:
    return self.special.index(name) if name in self.special else None


def ends(tokenizer: Tokenizer) -> int | tuple[int, ...]:
  """What ends a completion, as `rollout.generate` takes it: one id, or all."""
  return tokenizer.stops if len(tokenizer.stops) > 1 else tokenizer.stops[0]


def load(
  name: str, special_text: str = 'refuse', after_stop: bool = False
) -> Tokenizer:
  """'task', 'byte', or a path to a tokenizer.json or a folder that has one,
  here or on the hub.

  special_text  what a special token's name in a record is: 'refuse' it, or the
                token itself ('control'), as transformers reads it
  after_stop    whether what a chat template writes after a stop token is
                trained, as TRL does

  Raises:
    ValueError: neither a known name nor such a path.
  """
  builtin = {'task': TaskTokenizer, 'byte': ByteTokenizer}
  name = os.fspath(name)
  if special_text not in SPECIAL_TEXT:
    raise ValueError(
      f'unknown special_text "{special_text}".'
      f'{nearest(special_text, SPECIAL_TEXT)}'
    )
  if name in builtin:
    return builtin[name]()
  name = hub.tokenizer(name)
  if os.path.exists(name):
    return BPETokenizer.load(name, special_text, after_stop)
  raise ValueError(
    f'unknown tokenizer "{name}".{nearest(name, builtin)}, or a path to a '
    f'tokenizer.json or a folder that has one; there is none in {os.getcwd()}'
    + (paths.hint(name) if os.sep in name else '')
  )
