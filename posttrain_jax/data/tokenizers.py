"""Text to token ids and back: the tasks' characters, bytes, byte-level BPE.

Every tokenizer is used the same way:

  encode(text) -> list[int]   plain text only: a special token's name inside
                              the text stays text, and nothing is added to it
  decode(ids) -> str          text of the ids; special tokens are left out
  special_id(name) -> id      of a special token such as '<|im_start|>', or None
  vocab_size, pad_id, eos_id, bos_id (None where there is none)
  add_bos                     whether its models expect sequences to open with
                              the BOS; whoever builds a sequence adds it

`pad_id` may equal `eos_id`: masks are data and never inferred from ids.
"""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import tokenizers as hf_tokenizers

from posttrain_jax.core.resolve import nearest
from posttrain_jax.tasks import vocab

__all__ = [
  'BPETokenizer',
  'ByteTokenizer',
  'TaskTokenizer',
  'Tokenizer',
  'load',
]

UNKNOWN = '\ufffd'  # what `decode` shows for an id that has no text


@runtime_checkable
class Tokenizer(Protocol):
  """What the rest of the code base asks of a tokenizer."""

  vocab_size: int
  pad_id: int
  eos_id: int
  bos_id: int | None
  add_bos: bool

  def encode(self, text: str) -> list[int]: ...

  def decode(self, ids: Sequence[int]) -> str: ...

  def special_id(self, name: str) -> int | None: ...


class TaskTokenizer:
  """The 64 characters that the in-graph tasks speak (`tasks.vocab`)."""

  vocab_size = vocab.VOCAB_SIZE
  pad_id = vocab.PAD
  eos_id = vocab.EOS
  bos_id = vocab.BOS
  add_bos = False

  def encode(self, text: str) -> list[int]:
    """Raises ValueError at a character outside the alphabet, naming it."""
    return vocab.encode(text).tolist()

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

  special = ('<pad>', '<eos>', '<bos>')
  vocab_size = 256 + len(special)
  pad_id, eos_id, bos_id = 0, 1, 2
  add_bos = False

  def encode(self, text: str) -> list[int]:
    """Raises UnicodeEncodeError (a ValueError) at a lone surrogate."""
    return [byte + len(self.special) for byte in text.encode('utf-8')]

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


def _content(token: str | dict | None) -> str | None:
  """The text of a token entry, which is a string or an AddedToken's dict."""
  return token.get('content') if isinstance(token, dict) else token


def _read_json(path: str) -> dict:
  if not os.path.exists(path):
    return {}
  with open(path, encoding='utf-8') as file:
    try:
      return json.load(file)
    except json.JSONDecodeError as error:
      raise ValueError(f'{path}:{error.lineno}: {error.msg}') from None


def _locate(path: str) -> tuple[str, str]:
  """(folder, tokenizer.json) of a path to either."""
  path = os.fspath(path)
  if path.endswith('.json'):
    return os.path.dirname(path) or '.', path
  return path, os.path.join(path, 'tokenizer.json')


class BPETokenizer:
  """Byte-level BPE, or any tokenizer.json of a Hugging Face model folder."""

  def __init__(
    self,
    tokenizer: hf_tokenizers.Tokenizer,
    *,
    eos: str,
    pad: str | None = None,
    bos: str | None = None,
    add_bos: bool = False,
  ):
    """Wraps a `tokenizers.Tokenizer`; its special tokens are given by name.

    pad defaults to eos, which is safe here: masks never look at ids.

    Raises:
      ValueError: a special token that the vocabulary does not have.
    """
    self._tokenizer = tokenizer
    # Otherwise '<eos>' typed by a user would become the control token.
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    self._names = {'eos': eos, 'pad': pad or eos, 'bos': bos}
    ids = {key: self._required(key, name) for key, name in self._names.items()}
    self.eos_id, self.pad_id, self.bos_id = ids['eos'], ids['pad'], ids['bos']
    self.add_bos = add_bos and bos is not None
    # Ids can have gaps; an embedding must hold the largest of them.
    self.vocab_size = 1 + max(tokenizer.get_vocab(True).values())

  def _required(self, key: str, name: str | None) -> int | None:
    if name is None:
      return None
    token_id = self._tokenizer.token_to_id(name)
    if token_id is None:
      raise ValueError(f'{key} token {name!r} is not in the vocabulary')
    return token_id

  @classmethod
  def train(cls, texts: Iterable[str], vocab_size: int) -> 'BPETokenizer':
    """Byte-level BPE on `texts`; ids 0, 1, 2 are pad, eos and bos.

    The result is smaller than `vocab_size` where the texts run out of pairs.

    Raises:
      ValueError: `vocab_size` below 259 (all bytes and the special tokens).
    """
    special = list(ByteTokenizer.special)
    if vocab_size < ByteTokenizer.vocab_size:
      raise ValueError(
        f'vocab_size={vocab_size} cannot hold 256 bytes and {special}; the '
        f'smallest is {ByteTokenizer.vocab_size}'
      )
    tokenizer = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE())
    tokenizer.pre_tokenizer = hf_tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False
    )
    tokenizer.decoder = hf_tokenizers.decoders.ByteLevel()
    trainer = hf_tokenizers.trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=special,
      initial_alphabet=hf_tokenizers.pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, eos, bos = special
    return cls(tokenizer, eos=eos, pad=pad, bos=bos)

  def save(self, path: str) -> None:
    """Writes tokenizer.json and tokenizer_config.json into folder `path`.

    A `path` that ends in .json names the first; the second lies beside it.
    """
    folder, file = _locate(path)
    os.makedirs(folder, exist_ok=True)
    self._tokenizer.save(file)
    config = {f'{key}_token': name for key, name in self._names.items()}
    config['add_bos_token'] = self.add_bos
    config['tokenizer_class'] = 'PreTrainedTokenizerFast'
    with open(
      os.path.join(folder, 'tokenizer_config.json'), 'w', encoding='utf-8'
    ) as out:
      json.dump(config, out, indent=2)

  @classmethod
  def load(cls, path: str) -> 'BPETokenizer':
    """Reads a folder with tokenizer.json, or that file.

    Special tokens come from tokenizer_config.json, then from
    special_tokens_map.json, both beside it.

    Raises:
      ValueError: no tokenizer.json, or no file names the EOS token.
    """
    folder, file = _locate(path)
    if not os.path.isfile(file):
      raise ValueError(f'no file {file}')
    try:
      tokenizer = hf_tokenizers.Tokenizer.from_file(file)
    except Exception as error:  # the library raises bare Exception
      raise ValueError(f'{file}: {error}') from None
    config = _read_json(os.path.join(folder, 'tokenizer_config.json'))
    special = _read_json(os.path.join(folder, 'special_tokens_map.json'))
    eos, pad, bos = (
      _content(config.get(key) or special.get(key))
      for key in ('eos_token', 'pad_token', 'bos_token')
    )
    if eos is None:
      raise ValueError(
        f'{folder}: neither tokenizer_config.json nor special_tokens_map.json '
        'names an "eos_token"'
      )
    # Some folders say it in the config, some only in the post-processor.
    add_bos = config.get('add_bos_token')
    if add_bos is None and bos is not None:
      opening = tokenizer.encode('', add_special_tokens=True).ids[:1]
      add_bos = opening == [tokenizer.token_to_id(bos)]
    return cls(tokenizer, eos=eos, pad=pad, bos=bos, add_bos=bool(add_bos))

  def encode(self, text: str) -> list[int]:
    """Raises UnicodeEncodeError (a ValueError) at a lone surrogate."""
    try:
      return self._tokenizer.encode(text, add_special_tokens=False).ids
    except TypeError:  # what the library says of text that UTF-8 cannot write
      text.encode('utf-8')
      raise

  def decode(self, ids: Sequence[int]) -> str:
    ids = [int(i) for i in ids]
    return self._tokenizer.decode(ids, skip_special_tokens=True)

  def special_id(self, name: str) -> int | None:
    added = self._tokenizer.get_added_tokens_decoder()
    return next(
      (i for i, token in added.items() if token.content == name), None
    )


def load(name: str) -> Tokenizer:
  """'task', 'byte', or a path to a tokenizer.json or a folder that has one.

  Raises:
    ValueError: neither a known name nor such a path.
  """
  builtin = {'task': TaskTokenizer, 'byte': ByteTokenizer}
  name = os.fspath(name)
  if name in builtin:
    return builtin[name]()
  if os.path.exists(name):
    return BPETokenizer.load(name)
  raise ValueError(
    f'unknown tokenizer "{name}".{nearest(name, builtin)}, or a path to a '
    'tokenizer.json or a folder that has one'
  )
