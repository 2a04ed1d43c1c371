"""Guides by name: constraints, penalties, forced prefixes, stop sequences.

Each function returns a `Guide` (`rollout.guide` says what that is).
Environments that answer the model are guides too (`rollout.environments`).
"""

import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.resolve import arrays_of, nearest, resolve
from posttrain_jax.core.stops import Ends, reached
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.rollout.guide import Guide, chain, next_of

__all__ = [
  'allowed_tokens',
  'automaton',
  'banned_tokens',
  'forced_prefix',
  'min_tokens',
  'repetition_penalty',
  'stop_sequences',
]


@dataclasses.dataclass(frozen=True)
class _AllowedTokens(Guide):
  adjusts: ClassVar[bool] = True
  tokens: tuple[int, ...]
  exclude: bool

  def adjust(self, state, logits):
    listed = np.zeros(logits.shape[-1], bool)
    listed[list(self.tokens)] = True
    return jnp.where(listed != self.exclude, logits, -jnp.inf)


def allowed_tokens(*, tokens: Sequence[int] = ()) -> Guide:
  """Only these tokens may be drawn (the end token too has to be listed).

  Raises:
    ValueError: no token is left.
  """
  if not tokens:
    raise ValueError('allowed_tokens: tokens=[] leaves nothing to draw')
  return _AllowedTokens(_ids('allowed_tokens', tokens), exclude=False)


def banned_tokens(*, tokens: Sequence[int] = ()) -> Guide:
  """These tokens are never drawn."""
  return _AllowedTokens(_ids('banned_tokens', tokens), exclude=True)


@dataclasses.dataclass(frozen=True)
class _MinTokens(Guide):
  adjusts: ClassVar[bool] = True
  count: int
  eos_id: Ends

  def start(self, prompt, prompt_mask):
    return jnp.int32(0)

  def adjust(self, state, logits):
    barred = reached(jnp.arange(logits.shape[-1]), self.eos_id) & (
      state < self.count
    )
    return jnp.where(barred, -jnp.inf, logits)

  def read(self, state, token):
    return state + 1


def min_tokens(*, eos_id: Ends, count: int = 1) -> Guide:
  """The end token cannot be drawn before `count` others."""
  return _MinTokens(int(count), eos_id)


@dataclasses.dataclass(frozen=True)
class _RepetitionPenalty(Guide):
  adjusts: ClassVar[bool] = True
  penalty: float
  vocab_size: int

  def start(self, prompt, prompt_mask):
    real = jnp.where(prompt_mask > 0, prompt, self.vocab_size)
    return jnp.zeros((self.vocab_size,), bool).at[real].set(True, mode='drop')

  def adjust(self, state, logits):
    less = jnp.where(logits > 0, logits / self.penalty, logits * self.penalty)
    return jnp.where(state, less, logits)

  def read(self, state, token):
    return state | (jnp.arange(self.vocab_size) == token)


def repetition_penalty(*, vocab_size: int, penalty: float = 1.2) -> Guide:
  """Makes tokens of the prompt and of the completion so far less likely.

  Positive logits are divided by `penalty`, negative ones multiplied.

  vocab_size  of the model: the state is one bit for each token

  Reference: Keskar et al. (2019), CTRL, https://arxiv.org/abs/1909.05858, in
  the form of transformers' `repetition_penalty`

  Raises:
    ValueError: a penalty that is not positive.
  """
  if penalty <= 0:
    raise ValueError(f'repetition_penalty: penalty={penalty} is not positive')
  return _RepetitionPenalty(float(penalty), int(vocab_size))


@dataclasses.dataclass(frozen=True)
class _StopSequences(Guide):
  sequences: tuple[tuple[int, ...], ...]

  @property
  def _longest(self) -> int:
    return max(map(len, self.sequences))

  def start(self, prompt, prompt_mask):
    return jnp.full((self._longest,), -1, jnp.int32)

  def read(self, state, token):
    return jnp.append(state[1:], token)

  def ended(self, state):
    hits = [
      jnp.all(state[-len(s) :] == np.asarray(s, np.int32))
      for s in self.sequences
    ]
    return jnp.any(jnp.stack(hits))


def stop_sequences(*, sequences: Sequence[Sequence[int]] = ()) -> Guide:
  """Ends a completion after any of some token sequences, which are kept.

  A sequence is looked for in the completion only, not across its beginning.

  Raises:
    ValueError: no sequence, or an empty one.
  """
  if not sequences or not all(len(s) for s in sequences):
    raise ValueError(
      f'stop_sequences: sequences={list(sequences)} has to list at least one '
      'sequence of at least one token'
    )
  return _StopSequences(
    tuple(_ids('stop_sequences', sequence) for sequence in sequences)
  )


@dataclasses.dataclass(frozen=True)
class _Automaton(Guide):
  adjusts: ClassVar[bool] = True
  table: tuple[tuple[int, ...], ...]
  begin: int

  def _transitions(self) -> np.ndarray:
    return np.asarray(self.table, np.int32)

  def start(self, prompt, prompt_mask):
    return jnp.int32(self.begin)

  def adjust(self, state, logits):
    return jnp.where(jnp.asarray(self._transitions())[state] >= 0, logits,
                     -jnp.inf)  # fmt: skip

  def read(self, state, token):
    after = jnp.asarray(self._transitions())[state, token]
    # A forced token may break the language; the automaton then stays.
    return jnp.where(after >= 0, after, state)


def automaton(
  *, table: Sequence[Sequence[int]] = ((0,),), begin: int = 0
) -> Guide:
  """Completions in the language of a deterministic finite automaton.

  table  [S, V] state after each token in each state; -1: the token cannot come
         there. The end token is a token like the others
  begin  state before the first token

  Reference: Willard and Louf (2023), https://arxiv.org/abs/2307.09702

  Raises:
    ValueError: rows of unequal length, a state that does not exist, or one
      without a token to go on with.
  """
  if len({len(row) for row in table}) != 1:
    raise ValueError('automaton: the rows of table are not of one length')
  array = np.asarray([list(map(int, row)) for row in table])
  if array.max() >= len(array) or not 0 <= begin < len(array):
    raise ValueError(
      f'automaton: begin={begin} and the entries of table (up to '
      f'{array.max()}) are no states of 0..{len(array) - 1}'
    )
  stuck = np.flatnonzero((array < 0).all(axis=1))
  if stuck.size:
    raise ValueError(f'automaton: no token can follow in state {stuck[0]}')
  return _Automaton(tuple(map(tuple, array.tolist())), int(begin))


@dataclasses.dataclass(frozen=True)
class _ForcedPrefix(Guide):
  forces: ClassVar[bool] = True

  def start(self, prompt, prompt_mask):
    raise ValueError(
      'forced_prefix: its state says what is forced; give guide_state='
      "{'tokens': [B, G, F], 'length': [B, G], 'at': 0 [B, G]} "
      '(`guides.prefix_state`)'
    )

  def forced(self, state):
    return next_of(state['tokens'], state['at'], state['length'])

  def read(self, state, token):
    return state | {'at': state['at'] + 1}


def forced_prefix() -> Guide:
  """Completions that begin with given tokens, as a demonstration's first ones.

  The state comes from `prefix_state`. Reference: prefixes of demonstrations in
  RL, Huang et al. (2025), https://arxiv.org/abs/2507.01679
  """
  return _ForcedPrefix()


def prefix_state(tokens: Array, lengths: Array) -> PyTree:
  """State of `forced_prefix`: the first `lengths` [...] of tokens [..., F]."""
  lengths = lengths.astype(jnp.int32)
  return {
    'tokens': tokens.astype(jnp.int32),
    'length': lengths,
    'at': jnp.zeros_like(lengths),
  }


def _ids(name: str, tokens: Sequence[int]) -> tuple[int, ...]:
  for token in tokens:
    if int(token) != token or token < 0:
      raise ValueError(f'{name}: {token} is no token id')
  return tuple(int(token) for token in tokens)


def _check_vocabulary(name: str, part: dict[str, Any], size: int) -> None:
  """Refuses what speaks of other tokens than the model's."""
  sequences = [part.get('tokens', ()), *part.get('sequences', ())]
  for token in itertools.chain(*sequences):
    if token >= size:
      raise ValueError(
        f'guides: {name}: the model has no token {token}, only 0..{size - 1}'
      )
  for row in part.get('table', ()):
    if len(row) != size:
      raise ValueError(
        f'guides: {name}: rows of table have {len(row)} entries, the model has '
        f'{size} tokens'
      )


def names(parts: Sequence[Any]) -> list[str]:
  """Names of a config's list of guides, for the checks of a run.

  Raises:
    ValueError: "forced_prefix", whose tokens no config has.
  """
  named = [str(x.get('name')) for x in parts if isinstance(x, Mapping)]
  if 'forced_prefix' in named:
    raise ValueError(
      'guides: "forced_prefix" needs the tokens; set prefix.per_prompt for '
      'beginnings of demonstrations, or call rollout.generate with guide_state '
      'from your own step'
    )
  return named


def make(
  parts: Sequence[Any], *, eos_id: Ends, vocab_size: int
) -> Guide | None:
  """The guide of a config's list of {name, **hparams}; None of an empty one.

  Raises:
    ValueError: an unknown guide or hyperparameter, with the nearest valid one.
  """
  known = {'eos_id': eos_id, 'vocab_size': vocab_size}
  made = []
  for part in parts:
    if not isinstance(part, Mapping):
      raise ValueError(
        f'guides: {part!r} is no {{"name": ...}}.' + nearest(part, __all__)
      )
    part = dict(part)
    if 'name' not in part:
      raise ValueError(f'guide {part} has no "name".' + nearest('', __all__))
    name = part.pop('name')
    function = resolve(sys.modules[__name__], name, **part)
    made.append(function(**{k: known[k] for k in arrays_of(function.func)}))
    _check_vocabulary(name, part, vocab_size)
  return chain(*made)
