"""Prompts of a file as a task: any that TRL's GRPO trainer takes.

  task = PromptsTask(source, tokenizer, judge)
  task.batch([0, 1])                   problems 0 and 1 of training
  task.judged([0, 1], answers)         what their answers earn

A record has `prompt`, a text or messages (with the columns that its chat
template reads); its other columns go to the reward functions. Problem i is a
function of (file, seed, i) alone: the records come once in every epoch, in an
order of its own.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain_jax.core import hosts
from posttrain_jax.data import chat, content, formats
from posttrain_jax.data.host_task import Answers, HostTask
from posttrain_jax.data.quoting import listed
from posttrain_jax.data.rows import Stored
from posttrain_jax.data.sources import Record, Source, in_order
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['OVERLONG', 'PromptsTask']

OVERLONG = ('drop', 'error')
KEPT = 8192  # tokenised prompts that are kept
PLACES = 3  # first places that are named
# Arguments of a reward function that no column may be called like.
TAKEN = ('prompts', 'completions', 'completion_ids', 'finished',
         'max_completion_length')  # fmt: skip


def _digest(prompt: Any) -> bytes:
  """Of a prompt's text or turns: equal prompts are of one split."""
  text = json.dumps(prompt, sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()


class _Split:
  """Numbers of a source's records that are used, and their order.

  seed  None: as in the file
  """

  def __init__(self, source: Source | None, seed: int | None):
    self.source, self.seed = source, seed
    self.numbers: list[int] = []
    self._order = functools.lru_cache(2)(self._make_order)

  def _make_order(self, epoch: int) -> np.ndarray:
    """The numbers in the order of an epoch."""
    numbers = np.asarray(self.numbers, np.int64)
    if self.seed is None:
      return numbers
    return np.random.default_rng((self.seed, epoch)).permutation(numbers)

  def __getitem__(self, index: int) -> Record:
    """The record of problem `index`, which has no end."""
    epoch, place = divmod(int(index), len(self.numbers))
    assert self.source is not None  # It has numbers.
    return self.source[int(self._order(epoch)[place])]


class PromptsTask(HostTask):
  """A file of prompts, and the rewards of their answers.

  source             records with `prompt`; None: there are only those of
                     `heldout`, and nothing to train on
  tokenizer          from `data.tokenizers`
  judge              of the answers (`rewards.judge.Judge`)
  name               of the task, for messages
  seed               of the order
  prompt_length      tokens; 0: of the longest prompt, to a multiple of 8
  completion_length  tokens
  overlong           what becomes of longer prompts: 'drop' (told, and counted)
                     or 'error'
  heldout_fraction   share of all prompts, by their hash, that are kept for
                     evaluation, where there is no `heldout`
  heldout            records for evaluation; their prompts are left out of
                     training, which is told
  on_change          'error' or 'warn': of a file that changes (`data.content`)

  `counts` has 'overlong', the prompts that were dropped.

  Raises:
    ValueError: a record that is no prompt or cannot be judged, with its place;
      a prompt that is too long ('error'); nothing to train on.
  """

  def __init__(
    self,
    source: Source | None,
    tokenizer: Tokenizer,
    judge: Any,
    *,
    completion_length: int,
    name: str = 'prompts',
    seed: int = 0,
    prompt_length: int = 0,
    overlong: str = 'drop',
    heldout_fraction: float = 0.0,
    heldout: Source | None = None,
    on_change: str = 'error',
  ):
    self.name, self.tokenizer, self.judge = name, tokenizer, judge
    self.completion_length = completion_length
    self.prompt_length = prompt_length
    self.counts = {'overlong': 0}
    self._overlong, self._places = overlong, []
    self._noted: dict[str, list[str]] = {}
    self._columns: tuple[str, ...] = ()
    self._splits = {
      False: _Split(source, seed),
      True: _Split(heldout if heldout is not None else source, None),
    }
    self._read(heldout, heldout_fraction)
    self.num_heldout = len(self._splits[True].numbers)
    self._cached = functools.lru_cache(KEPT)(self._find)
    self._on_change = on_change
    parts = [x for x in (source, heldout) if isinstance(x, Stored)]
    self._content = content.record({
      path: digest for part in parts for path, digest in part.content().items()
    })  # fmt: skip
    self._guards = [content.Guard(part, on_change) for part in parts]

  def _read(self, heldout: Source | None, fraction: float) -> None:
    """Looks at every record once: its split, its length, its columns."""
    train, held = self._splits[False], self._splits[True]
    names = (self.name, self.name if train.source is None else 'data.eval_path')
    seen, seen_held = map(self.judge.seen, names)
    longest, leaked = 0, 0
    known: set[bytes] = set()
    for record in in_order(heldout) if heldout is not None else ():
      size = self._looked_at(record, seen_held)
      if size:
        held.numbers.append(record.index)
        known.add(_digest(record.columns['prompt']))
        longest = max(longest, size)
    for record in in_order(train.source) if train.source is not None else ():
      size = self._looked_at(record, seen)
      if not size:
        continue
      digest = _digest(record.columns['prompt'])
      if digest in known:
        leaked += 1
        continue
      share = int.from_bytes(digest[:4], 'big') / 2**32
      kept = heldout is None and share < fraction
      (held if kept else train).numbers.append(record.index)
      longest = max(longest, size)
    self.prompt_length = self.prompt_length or -(-longest // 8) * 8
    total = seen.total + seen_held.total
    self._columns = tuple(sorted({*seen.columns(), *seen_held.columns()}))
    self._tell(total, leaked)
    if not (train if train.source is not None else held).numbers:
      raise ValueError(
        f'{self.name}: no prompt is left to train on, of {total:,}: '
        f'{self.counts["overlong"]:,} are too long, {len(held.numbers):,} are '
        'held out'
        + (
          f' (heldout_fraction={fraction}; 0 trains on all)'
          if held.numbers and heldout is None
          else ''
        )
      )
    self.judge.check(seen, seen_held)

  def _looked_at(self, record: Record, seen: Any) -> int:
    """Tokens of a record's prompt; 0 where it is left out."""
    where, columns = record.where, record.columns
    made = self._made(record)
    tokens = made['tokens']
    taken = [name for name in columns if name in TAKEN]
    if taken:
      raise ValueError(
        f'{where}: column "{taken[0]}" has the name of an argument that reward '
        f'functions are given ({listed(TAKEN)}): rename it'
      )
    try:
      seen.add({k: x for k, x in columns.items() if k != 'prompt'}, where)
    except ValueError as error:
      raise ValueError(f'{where}: {error}') from None
    if not tokens:
      raise ValueError(f'{where}: column "prompt": an empty prompt')
    if self.prompt_length and len(tokens) > self.prompt_length:
      if self._overlong == 'error':
        raise ValueError(
          f'{where}: the prompt has {len(tokens):,} tokens, more than '
          f'data.max_prompt_length={self.prompt_length:,}; raise it, or set '
          'data.overlong=drop'
        )
      self.counts['overlong'] += 1
      self._places.append(where)
      return 0
    for note in made['notes']:
      self._noted.setdefault(note, []).append(where)
    return len(tokens)

  def _tell(self, total: int, leaked: int) -> None:
    if not hosts.first():  # every process reads the same
      return
    dropped = self.counts['overlong']
    if dropped:
      print(
        f'WARNING data: {dropped:,} of {total:,} prompts have more than '
        f'data.max_prompt_length={self.prompt_length:,} tokens: dropped; '
        f'first: {", ".join(self._places[:PLACES])}',
        file=sys.stderr,
      )
    for note, places in sorted(self._noted.items()):
      told = chat.TOLD[note].format(n=f'{len(places):,} of {total:,} prompts')
      first = ', '.join(places[:PLACES])
      print(f'WARNING data: {told}; first: {first}', file=sys.stderr)
    if leaked:
      print(
        f'WARNING data: {leaked:,} prompts of {self.name} stand in '
        'data.eval_path, too: left out of training',
        file=sys.stderr,
      )

  def _made(self, record: Record) -> dict[str, Any]:
    made = formats.tokenize(
      record.columns, self.tokenizer, kind='prompt', where=record.where
    )
    assert made is not None  # Without a limit nothing is dropped.
    return made

  def _find(self, index: int, heldout: bool) -> dict[str, Any]:
    split = self._splits[heldout]
    if not split.numbers:
      raise ValueError(f'{self.name} has no held-out prompts')
    record = split[index]
    return {
      **dict.fromkeys(self._columns),
      **record.columns,
      'tokens': self._made(record)['tokens'],
    }

  def problem(self, index: int, heldout: bool = False) -> dict[str, Any]:
    """Problem `index` of a split: its record's columns and `tokens`.

    Columns that only other records have are None.
    """
    return self._cached(int(index), bool(heldout))

  def place(self, index: int, heldout: bool = False) -> str:
    return self._splits[heldout][index].where

  def content(self) -> list[list]:
    return self._content

  def check(self) -> None:
    for guard in self._guards:
      guard.check()

  def check_content(self, then: list[list]) -> None:
    content.check(then, self._content, self._on_change)

  def num_prompts(self) -> dict[str, int]:
    """How many there are of each split."""
    names = {False: 'train', True: 'heldout'}
    return {names[k]: len(x.numbers) for k, x in self._splits.items()}

  def _verify(
    self, indices: Sequence[int], completions: Sequence[str], heldout: bool
  ) -> np.ndarray:
    """Each counts as finished."""
    eos = self.tokenizer.eos_id
    answers = Answers(
      [[text] for text in completions],
      [[[*self.tokenizer.encode(text), eos]] for text in completions],
      np.ones((len(completions), 1), np.float32),
    )
    return self.judged(indices, answers, heldout).rewards[:, 0]
