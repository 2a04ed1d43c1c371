"""A model that answers: loaded from whatever it is kept in, asked, written out.

  loaded = load('runs/x')                   a run (or a step of it), a folder of
                                            Hugging Face, or of PEFT
  tokens = ask(loaded, 'What is 2+2?')
  for group in answers(loaded, [tokens], key, ...): ...

What the commands that use a trained model share (`evaluate`, `sample`,
`compare`).
"""

import collections
import copy
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from posttrain_jax import rollout
from posttrain_jax.core import buckets, hub, paths
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.data import chat, formats, records, tokenizers
from posttrain_jax.data.host_task import Answers, padded
from posttrain_jax.data.rows import in_order
from posttrain_jax.data.sources import Record, Source, open_source
from posttrain_jax.evals import on_host, scores
from posttrain_jax.models import adapted
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params import peft
from posttrain_jax.rewards import entries
from posttrain_jax.rewards.judge import Judge
from posttrain_jax.run import (
  auto,
  checkpoint,
  literals,
  model_folder,
  notes,
  roles,
  values,
)

__all__ = ['Asked', 'Loaded', 'answers', 'ask', 'check_model',
           'check_parent', 'check_prompt', 'check_room', 'is_run', 'load',
           'make_decoder', 'make_judge', 'open_data', 'pieces',
           'read_prompts', 'with_our_stop']  # fmt: skip

# Prompts and completions that are decoded at a time.
ROWS = 32
UNKNOWN = tokenizers.UNKNOWN


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model that can be asked.

  name       where it was read from
  params     with adapters merged in, without a value head
  tokenizer  its `stops` end an answer
  turns      whether a question is a user's turn, and no plain text
  step       of a run; None: of a folder
  """

  name: str
  model: ModelConfig
  params: PyTree
  tokenizer: Any
  turns: bool
  step: int | None


class Asked(NamedTuple):
  """One prompt of a file: the record's columns, its tokens, its place."""

  columns: dict[str, Any]
  tokens: list[int]
  where: str


def check_parent(flag: str, place: str) -> None:
  """Raises ValueError for a file whose folder is not there, or whose folder or
  bucket cannot be written: said before the long work."""
  if paths.is_remote(place):
    buckets.writable(place)
    return
  folder = Path(place).absolute().parent
  if not folder.is_dir():
    raise ValueError(f'{flag}={place}: there is no folder {folder}')
  if not os.access(folder, os.W_OK):
    raise ValueError(f'{flag}={place}: {folder} cannot be written')


def check_model(path: str, tokenizer: str = '') -> None:
  """Raises ValueError for what `load` would refuse by what its small files
  say: no model there, no tokenizer, or one of another size."""
  path = hub.pinned(path)
  is_run(path)
  _fitting(path, tokenizer)


def _fitting(path: str, tokenizer: str) -> tuple[ModelConfig, Any]:
  """(sizes, tokenizer) of a model."""
  model = dataclasses.replace(roles.read_model(path), value_head=False)
  found = _tokenizer(path, tokenizer)
  if found.vocab_size > model.vocab_size:
    raise ValueError(
      f'the tokenizer has {found.vocab_size} tokens, the model of {path} only '
      f'{model.vocab_size}'
    )
  roles.check_answers(path, '--model')
  return model, found


def is_run(path: str) -> bool:
  """Whether a path is a run, and no folder of others.

  Raises:
    ValueError: it is nothing that has a model.
  """
  if peft.is_folder(path) or roles.is_hf_folder(path):
    return False
  try:
    checkpoint.run_folder(path)
  except ValueError as error:
    if not paths.path(path).exists():
      near = paths.hint(path, folders=True)
      raise ValueError(f'{path}: there is no such folder{near}') from None
    raise ValueError(
      f'{path} is no run, no model folder of Hugging Face and no adapter of '
      f'PEFT: {error}'
    ) from None
  return True


def _tokenizer(path: str, given: str) -> tokenizers.Tokenizer:
  name = given or model_folder.tokenizer_of(path)
  if not name:
    raise ValueError(
      f'{path} has no tokenizer (as tokenizer.json); give --tokenizer, a '
      'folder or a file that has one, or "byte"'
    )
  return with_our_stop(name)


def with_our_stop(name: str) -> tokenizers.Tokenizer:
  """A tokenizer that stops where turns may have been trained to."""
  found = copy.copy(tokenizers.load(name))
  if found.template is None:
    # Turns may have been trained as we write them, with a stop of their own.
    stops = dict.fromkeys([*found.stops, chat.our_stop(found)])
    found.__dict__['stops'] = tuple(stops)
  return found


def load(path: str, tokenizer: str = '') -> Loaded:
  """The model of a run, one of its steps, a folder of Hugging Face or of PEFT,
  or a name of the hub.

  tokenizer  a folder or file that has one, 'byte' or 'task'; '': its own

  Raises:
    ValueError: no model there, or one that cannot be read; no tokenizer, or one
      with more tokens than the model.
  """
  path = hub.pinned(path)
  of_run = is_run(path)
  model, found = _fitting(path, tokenizer)
  turns, step = found.template is not None, None
  if of_run:
    workdir, step, params = checkpoint.read_params(path)
    saved = checkpoint.load_config(workdir) or {}
    turns = turns or bool(saved.get('conversations'))
    # It may have been trained on another device.
    model = roles.decided(model, {'attention': auto.AUTO})
  else:
    # Nothing goes backward: nothing has to be computed again.
    asked = dict.fromkeys(roles.DECIDED, auto.AUTO) | {'remat': 'none'}
    model = roles.decided(model, asked)
    params = roles.read_params(path, model, None)
  params = adapted.merged(params)
  params = {k: v for k, v in params.items() if k != 'value_head'}
  return Loaded(str(path), model, params, found, turns, step)


def check_room(loaded: Loaded, tokens: int, flags: str) -> list[str]:
  """Lines of what is known of rows of so many tokens.

  flags  what sets how many they are

  Raises:
    ValueError: more than the model has positions.
  """
  model = loaded.model
  told = f'rows have up to {tokens:,} tokens, and the model of {loaded.name} '
  if 0 < model.position_limit < tokens:
    raise ValueError(
      f'{told}has no more than {model.position_limit:,} positions; {flags} '
      'says how long they may be'
    )
  if 0 < model.max_length < tokens:
    return [f'{told}was made for {model.max_length:,} positions']
  return []


def ask(loaded: Loaded, text: str, raw: bool = False) -> list[int]:
  """The tokens of a question: a user's turn where the model knows turns.

  raw  a text as it stands in any case

  Raises:
    ValueError: a text that cannot be tokenised, or of no token.
  """
  prompt: Any = text
  if loaded.turns and not raw:
    prompt = [{'role': 'user', 'content': text}]
  made = _made(loaded, {'prompt': prompt}, '--prompt')
  tell_written([made['notes']])
  return made['tokens']


def tell_written(prompts: Sequence[Sequence[str]]) -> None:
  """Tells how a chat template wrote prompts, of each its `Turns.notes`."""
  counts = collections.Counter(note for found in prompts for note in found)
  for note, count in sorted(counts.items()):
    n = f'{count:,} of {len(prompts):,} prompts'
    notes.tell([chat.TOLD[note].format(n=n)])


def _made(loaded: Loaded, columns: dict[str, Any], where: str) -> dict:
  found = loaded.tokenizer
  read = records.check(columns, 'prompt', where, found.template)
  made = formats.tokenize(columns, found, kind='prompt', where=where, read=read)
  if not made['tokens']:
    raise ValueError(f'{where}: an empty prompt')
  return made


def open_data(text: str) -> Source:
  """What --data names: a path, a glob, or a list or an entry as JSON."""
  if not text.lstrip().startswith(('[', '{')):
    return open_source(text, '--data')
  return open_source(_json('--data', text), '--data')


def _json(flag: str, text: str) -> Any:
  try:
    return json.loads(text)
  except ValueError as error:
    raise ValueError(f'{flag}={text[:60]} is no JSON: {error}') from None


def check_prompt(record: Record) -> None:
  """Raises ValueError for a record without a prompt, with its place."""
  if record.columns.get('prompt') is None:
    raise ValueError(
      f'{record.where}: no column "prompt".' + nearest('prompt', record.columns)
    )


def read_prompts(source: Source, loaded: Loaded) -> list[Asked]:
  """Every prompt of a source: a text as it stands, messages as turns.

  Raises:
    ValueError: a record that is no prompt, with its place.
  """
  out, told = [], []
  for record in in_order(source):
    check_prompt(record)
    columns, where = record.columns, record.where
    made = _made(loaded, columns, where)
    out.append(Asked(columns, made['tokens'], where))
    told.append(made['notes'])
  tell_written(told)
  return out


def make_decoder(temperature: float, top_p: float) -> Callable:
  """Greedy at temperature 0; else a draw from the most likely `top_p` mass."""
  return scores.drawing(temperature, top_p)


def make_judge(
  text: str, limit: int, read_scorers: Callable | None = None
) -> Judge:
  """The judge of what --rewards lists, as `config.rewards` of a run does.

  text   JSON of entries, or of one; or names with commas between
  limit  tokens that an answer may have
  read_scorers  of `run.reward_models`

  Raises:
    ValueError: no JSON, an entry that is none, or one that needs a run.
  """
  try:
    listed = literals.listed(text.strip())
  except (ValueError, SyntaxError, TypeError) as error:
    raise ValueError(f'--rewards={text[:60]} is no JSON: {error}') from None
  found = entries.read(
    [x for x in listed if not isinstance(x, str) or x.strip()]
  )
  if not found:
    raise ValueError(f'--rewards={text} judges nothing; leave it out')
  for index, entry in enumerate(found):
    where = f'rewards[{index}]'
    if entry.kind == entries.VERIFIER:
      raise ValueError(
        f'{where}: "{entry.name}" is of a run, not of a file of prompts here.'
        + nearest(entry.name, [
          x for x in entries.names() if x != entries.VERIFIER
        ])
      )  # fmt: skip
  values.check_listed('rewards', listed, entries.names())
  scorers = read_scorers(found) if read_scorers else {}
  return Judge(found, limit=limit, scorers=scorers)


def answers(
  loaded: Loaded,
  prompts: Sequence[Sequence[int]],
  key: Array,
  *,
  num_samples: int,
  max_new_tokens: int,
  decoder: Callable,
) -> Iterator[Answers]:
  """What a model says to each prompt: `Answers` of B prompts at a time.

  prompts  token ids; a prompt's number is its identity in the randomness, so
           that no answer depends on the prompts beside it
  """
  width = -(-max(map(len, prompts)) // 8) * 8
  batch = min(len(prompts), max(1, ROWS // num_samples))
  pad = loaded.tokenizer.pad_id

  @jax.jit
  def generate(params, tokens, mask, ids):
    return rollout.generate(
      params,
      loaded.model,
      tokens,
      mask,
      key,
      group_size=num_samples,
      max_new_tokens=max_new_tokens,
      decoder=decoder,
      eos_id=tokenizers.ends(loaded.tokenizer),
      pad_id=pad,
      prompt_ids=ids,
    )

  for start in range(0, len(prompts), batch):
    count = min(batch, len(prompts) - start)
    # The last batch is filled up with its last prompt.
    ids = start + np.minimum(np.arange(batch), count - 1)
    tokens, mask = padded([prompts[i] for i in ids], width, pad)
    made = jax.device_get(
      generate(loaded.params, tokens, mask, ids.astype(np.uint32))
    )
    made = jax.tree.map(lambda x, n=count: x[:n], made)
    yield on_host.answers_of(made, loaded.tokenizer)


def pieces(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
  """The text of tokens as they come; together it is the text of all of them.

  What ends an answer is left out, and a character that is not whole waits.
  """
  known: list[int] = []
  shown = ''
  for token in tokens:
    if token in tokenizer.stops:
      break
    known.append(token)
    text = tokenizer.decode(known)
    if not text.endswith(UNKNOWN):
      if piece := _new(text, shown):
        yield piece
      shown = text
  if piece := _new(tokenizer.decode(known), shown):
    yield piece


def _new(text: str, shown: str) -> str:
  """What a text has beyond what was shown of it; some tokenizers write what
  they wrote otherwise, after bytes that are no character."""
  return text[len(os.path.commonprefix([text, shown])) :]
