"""A guide: what steers a completion besides the model.

A guide reads a completion token by token. Before each token it may name the one
that must come (a forced prefix, an environment's observation) or change the
logits to draw from (a constraint, a penalty), and after each it may say that
the completion is complete (a stop sequence, the end of a game).

Guides are frozen dataclasses (static under jit); what changes is their state, a
pytree of arrays. Their methods see one completion and are vmapped:

  start(prompt [P], prompt_mask [P]) -> state before the first token
  forced(state) -> [] int32, the token that must come next; -1: the model's
  adjust(state, logits [V]) -> [V], the logits to draw from, -inf: impossible
  read(state, token) -> state after the token, forced ones included
  ended(state) -> [] bool, nothing comes after

A learner replays a guide over a finished completion (`replay`): it sees the
same logits that were drawn from, and leaves forced tokens out of its loss.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, PyTree, Rollout
from posttrain_jax.rollout.assemble import place

__all__ = [
  'Chain',
  'Guide',
  'chain',
  'context',
  'next_of',
  'replay',
  'spread',
  'start_rows',
]


@dataclasses.dataclass(frozen=True)
class Guide:
  """Steers nothing; what guides share.

  adjusts   whether `adjust` does anything, so that a learner has to replay it
  forces    whether `forced` does anything
  eos_ends  whether the model's own end token ends the completion
  """

  adjusts: ClassVar[bool] = False
  forces: ClassVar[bool] = False
  eos_ends: ClassVar[bool] = True

  def start(self, prompt: Array, prompt_mask: Array) -> PyTree:
    del prompt, prompt_mask
    return ()

  def forced(self, state: PyTree) -> Array:
    del state
    return jnp.int32(-1)

  def adjust(self, state: PyTree, logits: Array) -> Array:
    del state
    return logits

  def read(self, state: PyTree, token: Array) -> PyTree:
    del token
    return state

  def ended(self, state: PyTree) -> Array:
    del state
    return jnp.bool_(False)


@dataclasses.dataclass(frozen=True)
class Chain(Guide):
  """Several guides at once; the state is the tuple of their states.

  Logits pass through all of them in order; of the tokens that they force the
  first guide's is taken; one of them is enough to end a completion. What other
  guides say for their class it says for its parts.
  """

  parts: tuple[Guide, ...]

  @property
  def adjusts(self) -> bool:  # type: ignore[override]
    return any(part.adjusts for part in self.parts)

  @property
  def forces(self) -> bool:  # type: ignore[override]
    return any(part.forces for part in self.parts)

  @property
  def eos_ends(self) -> bool:  # type: ignore[override]
    return all(part.eos_ends for part in self.parts)

  def start(self, prompt, prompt_mask):
    return tuple(part.start(prompt, prompt_mask) for part in self.parts)

  def forced(self, state):
    token = jnp.int32(-1)
    for part, own in zip(self.parts, state):
      token = jnp.where(token >= 0, token, part.forced(own))
    return token

  def adjust(self, state, logits):
    for part, own in zip(self.parts, state):
      logits = part.adjust(own, logits)
    return logits

  def read(self, state, token):
    return tuple(part.read(own, token) for part, own in zip(self.parts, state))

  def ended(self, state):
    ended = [part.ended(own) for part, own in zip(self.parts, state)]
    return jnp.any(jnp.stack(ended))


def chain(*parts: Guide | None) -> Guide | None:
  """The guide that applies all of `parts`; None where there is none."""
  real = tuple(part for part in parts if part is not None)
  if len(real) < 2:
    return real[0] if real else None
  return Chain(real)


def next_of(tokens: Array, at: Array, end: Array) -> Array:
  """Token `at` of tokens [F], of which `end` count; -1: there are no more."""
  index = jnp.minimum(at, tokens.shape[-1] - 1)
  return jnp.where(at < end, tokens[index], -1)


def start_rows(
  guide: Guide, prompts: Array, prompt_mask: Array, group_size: int
) -> PyTree:
  """States [B, G, ...] of completions that have not begun."""
  states = jax.vmap(guide.start)(prompts, prompt_mask)
  return spread(states, group_size)


def spread(states: PyTree, group_size: int) -> PyTree:
  """[B, ...] -> [B, G, ...], the same for all completions of a prompt.

  None, no states, stays None.
  """
  return jax.tree.map(
    lambda x: jnp.broadcast_to(
      x[:, None], (x.shape[0], group_size, *x.shape[1:])
    ),
    states,
  )


def replay(
  guide: Guide, state: PyTree, tokens: Array
) -> tuple[PyTree, Array, PyTree]:
  """One completion [C] read again.

  Returns the states before each token [C, ...], which tokens were forced [C]
  bool, and the state after all of them.
  """

  def step(state, token):
    return guide.read(state, token), (state, guide.forced(state) >= 0)

  last, (states, forced) = jax.lax.scan(step, state, tokens)
  return states, forced, last


def context(
  guide: Guide, states: PyTree, samples: Rollout, starts: Array, total: int
) -> PyTree:
  """States before each token of the rows of a batch, for `decoders.view`.

  states  [B, G, ...] before the first token of each completion
  starts  [R] column of each completion's first token, R = B * G
  total   columns T

  Returns arrays [R, T, ...].
  """
  rows = starts.shape[0]
  flat = lambda x: x.reshape(rows, *x.shape[2:])
  tokens = flat(samples.completion)
  read = lambda state, row: replay(guide, state, row)[0]
  before = jax.vmap(read)(jax.tree.map(flat, states), tokens)
  return jax.tree.map(lambda x: place(x, starts, total), before)
