"""Tokenizers that are trained: byte-level BPE, and those of model folders."""

import difflib
import functools
import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence

import tokenizers as hf_tokenizers

from posttrain_jax.core import hosts, lfs
from posttrain_jax.core.names import nearest
from posttrain_jax.data import stops as ends_of
from posttrain_jax.data import template as templates

__all__ = ['SPECIAL', 'BPETokenizer']

SPECIAL = ('<pad>', '<eos>', '<bos>')  # of tokenizers that are made here
SMALLEST = 256 + len(SPECIAL)
LARGEST = 2**32  # ids that the library takes are below it
CONFIG, SPECIAL_MAP = 'tokenizer_config.json', 'special_tokens_map.json'
Places = list[tuple[int, int]]
_MAKING = threading.Lock()
_TOLD: set[str] = set()


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


def _added(tokenizer: hf_tokenizers.Tokenizer) -> dict[int, str]:
  """{id: name} of the special tokens."""
  found = tokenizer.get_added_tokens_decoder()
  return {i: found[i].content for i in sorted(found) if found[i].special}


def _no_token(tokenizer: hf_tokenizers.Tokenizer, name: str) -> str:
  """'"x" is no token of it', with the nearest special ones."""
  near = difflib.get_close_matches(name, _added(tokenizer).values(), n=8)
  names = near or list(_added(tokenizer).values())[:8]
  return f'"{name}" is no token of tokenizer.json.{nearest(name, names)}'


def _declared(tokenizer: hf_tokenizers.Tokenizer, folder: str) -> list[int]:
  """Ids of tokens that files of a folder declare to end an answer.

  What is no token is told, and left out: a model does not say it.
  """
  files = {
    path: _read_json(path)
    for path in (
      os.path.join(folder, name)
      for name in ('generation_config.json', 'config.json')
    )
  }
  file, ids, none = ends_of.declared(files)
  known = [
    i for i in ids if i < LARGEST and tokenizer.id_to_token(i) is not None
  ]
  none += [(file, i) for i in ids if i not in known]
  special = ', '.join(f'{i} {name}' for i, name in _added(tokenizer).items())
  for where, wrong in {file: i for file, i in reversed(none)}.items():
    told = (
      f'{where}: eos_token_id {json.dumps(wrong)[:80]} is no token of '
      f'tokenizer.json, whose special ones are {special[:200] or "none"}'
    )
    if told not in _TOLD and hosts.first():
      print(f'WARNING {told}: it ends no answer', file=sys.stderr)
    _TOLD.add(told)
  return known


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
    template: templates.Template | None = None,
    stops: Iterable[int] = (),
    special_text: str = 'refuse',
    after_stop: bool = False,
  ):
    """Wraps a `tokenizers.Tokenizer`; its special tokens are given by name.

    pad defaults to eos, which is safe here: masks never look at ids. `stops`
    are ids that its folder declares to end an answer; `special_text` and
    `after_stop` as in `load`.

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
    self.template = template
    self.special_text, self.after_stop = special_text, after_stop
    self._declared = list(stops)

  def _required(self, key: str, name: str | None) -> int | None:
    if name is None:
      return None
    token_id = self._tokenizer.token_to_id(name)
    if token_id is None:
      raise ValueError(f'{key}_token {_no_token(self._tokenizer, name)}')
    return token_id

  @property
  def eos(self) -> str:
    """The name of the EOS token."""
    return self._names['eos']

  def name(self, token_id: int) -> str:
    """A token as the vocabulary has it."""
    return self._tokenizer.id_to_token(token_id)

  @functools.cached_property
  def special_names(self) -> frozenset[str]:
    added = self._tokenizer.get_added_tokens_decoder().values()
    return frozenset(token.content for token in added if token.special)

  @functools.cached_property
  def stops(self) -> tuple[int, ...]:
    found = [self.eos_id]
    if self.template is not None:
      names = ends_of.written(self.template, self.special_names)
      ids = [self._tokenizer.token_to_id(name) for name in names]
      found = [*ids, *found]
    elif all(self.special_id(name) is not None for name in ends_of.CHATML):
      # Its turns are written as ChatML and end so, whatever its EOS is.
      found.append(self.special_id(ends_of.CHATML[1]))
    return tuple(dict.fromkeys([*found, *self._declared]))

  @functools.cached_property
  def _reading(self) -> hf_tokenizers.Tokenizer:
    """Reads special tokens by their names, and places tokens exactly.

    Post-processors cut the spaces off the places of tokens; what else they do,
    to add BOS and EOS, is not asked for here.
    """
    content = json.loads(self._tokenizer.to_str())
    content['post_processor'] = None
    return hf_tokenizers.Tokenizer.from_str(json.dumps(content))

  @classmethod
  def train(cls, texts: Iterable[str], vocab_size: int) -> 'BPETokenizer':
    """Byte-level BPE on `texts`; ids 0, 1, 2 are pad, eos and bos.

    The result is smaller than `vocab_size` where the texts run out of pairs.

    Raises:
      ValueError: `vocab_size` below 259 (all bytes and the special tokens).
    """
    special = list(SPECIAL)
    if vocab_size < SMALLEST:
      raise ValueError(
        f'vocab_size={vocab_size} cannot hold 256 bytes and {special}; the '
        f'smallest is {SMALLEST}'
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
    with open(os.path.join(folder, CONFIG), 'w', encoding='utf-8') as out:
      json.dump(config, out, indent=2)

  @classmethod
  def load(
    cls, path: str, special_text: str = 'refuse', after_stop: bool = False
  ) -> 'BPETokenizer':
    """Reads a folder with tokenizer.json, or that file.

    Special tokens come from tokenizer_config.json, then from
    special_tokens_map.json, the chat template from chat_template.jinja or the
    first of these, further stop tokens from generation_config.json or
    config.json; all lie beside it.

    Raises:
      ValueError: no tokenizer.json, no file names the EOS token, one names a
        token that is none, or a chat template that is none.
    """
    folder, file = _locate(path)
    if not os.path.isfile(file):
      raise ValueError(f'no file {file}{_instead(folder)}')
    try:
      tokenizer = hf_tokenizers.Tokenizer.from_file(file)
    except Exception as error:  # the library raises bare Exception
      raise ValueError(f'{file}: {lfs.pointer(file) or error}') from None
    read = lambda name: _read_json(os.path.join(folder, name))
    config, special = read(CONFIG), read(SPECIAL_MAP)
    stops = _declared(tokenizer, folder)
    named = {
      key: _content(config.get(key) or special.get(key))
      for key in templates.NAMED
    }
    for key in ('eos_token', 'pad_token', 'bos_token'):
      name = named[key]
      if name is not None and tokenizer.token_to_id(name) is None:
        source = CONFIG if config.get(key) else SPECIAL_MAP
        raise ValueError(
          f'{os.path.join(folder, source)}: {key} {_no_token(tokenizer, name)}'
        )
    eos, bos = named['eos_token'], named['bos_token']
    if eos is None and stops:
      eos = named['eos_token'] = tokenizer.id_to_token(stops[0])
    if eos is None:
      raise ValueError(
        f'{folder}: neither tokenizer_config.json nor special_tokens_map.json '
        'names an "eos_token"'
      )
    # The post-processor says it, as transformers 5 reads it; folders without
    # one may say it in the config.
    begins = tokenizer.encode('', add_special_tokens=True).ids[:1]
    add_bos = bos is not None and begins == [tokenizer.token_to_id(bos)]
    add_bos = add_bos or bool(config.get('add_bos_token'))
    found = templates.sources(folder, config)
    given = {key: name for key, name in named.items() if name is not None}
    return cls(
      tokenizer,
      eos=eos,
      pad=named['pad_token'],
      bos=bos,
      add_bos=add_bos,
      template=templates.Template(found, given, folder) if found else None,
      stops=stops,
      special_text=special_text,
      after_stop=after_stop,
    )

  def encode(self, text: str) -> list[int]:
    """Raises UnicodeEncodeError (a ValueError) at a lone surrogate."""
    try:
      return self._tokenizer.encode(text, add_special_tokens=False).ids
    except TypeError:  # what the library says of text that UTF-8 cannot write
      text.encode('utf-8')
      raise

  def read(self, text: str) -> tuple[list[int], Places]:
    """Raises UnicodeEncodeError (a ValueError) at a lone surrogate."""
    with _MAKING:  # threads of a pipeline; it is made once
      reading = self._reading
    try:
      found = reading.encode(text, add_special_tokens=False)
    except TypeError:
      text.encode('utf-8')
      raise
    return found.ids, found.offsets

  def decode(self, ids: Sequence[int]) -> str:
    ids = [int(i) for i in ids]
    return self._tokenizer.decode(ids, skip_special_tokens=True)

  def special_id(self, name: str) -> int | None:
    added = self._tokenizer.get_added_tokens_decoder()
    return next(
      (i for i, token in added.items() if token.content == name), None
    )


def _instead(folder: str) -> str:
  """What a folder without tokenizer.json has in its place."""
  others = ('tokenizer.model', 'spiece.model', 'vocab.json', 'vocab.txt')
  for name in others:
    if os.path.isfile(os.path.join(folder, name)):
      return (
        f'; {name} there is the older form of a tokenizer: load the folder '
        "with transformers' AutoTokenizer and save it again, which writes it"
      )
  return ''
