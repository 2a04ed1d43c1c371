"""Environments in Python: compiled turns, and the host between them.

What cannot run inside the decode loop (a shell, a browser, a game server)
answers between calls of one compiled program. Each call replays what has been
said as a forced prefix and goes on from there, so the record of a completion is
that of an in-graph environment: its randomness depends on its identity and its
position alone, not on how often the host was asked.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.stops import Ends, reached
from posttrain_jax.core.types import PyTree, Rollout
from posttrain_jax.rollout.guide import Guide, next_of
from posttrain_jax.rollout.guides import prefix_state

__all__ = ['Reaction', 'Turn', 'play', 'turn']


class Turn(NamedTuple):
  """What the host is asked: completion `sample` of prompt `prompt`, which says
  `tokens` so far (environment's answers included) and has just ended a turn."""

  prompt: int
  sample: int
  tokens: np.ndarray


class Reaction(NamedTuple):
  """What it answers: tokens that come next; or that the completion is over, and
  then no token comes any more."""

  tokens: Sequence[int] = ()
  done: bool = False


@dataclasses.dataclass(frozen=True)
class _Turn(Guide):
  forces: ClassVar[bool] = True
  ends: tuple[int, ...]

  def start(self, prompt, prompt_mask):
    raise ValueError('a turn starts from a transcript: call host_turns.play')

  def forced(self, state):
    return next_of(state['tokens'], state['at'], state['length'])

  def read(self, state, token):
    own = state['at'] >= state['length']
    listed = np.asarray(self.ends, np.int32)
    return state | {
      'at': state['at'] + 1,
      'ended': own & jnp.any(token == listed),
    }

  def ended(self, state):
    said = state['at'] >= state['length']
    return state['ended'] | (state['over'] & said)


def turn(turn_ends: Sequence[int]) -> Guide:
  """The guide of one turn, for `rollout.generate`; `play` gives its states.

  turn_ends  tokens that end a turn when the model writes them; its end token
             ends the whole completion

  Raises:
    ValueError: no token would ever hand over to the host.
  """
  if not turn_ends:
    raise ValueError('turn_ends=[]: no token hands over to the environment')
  return _Turn(tuple(int(token) for token in turn_ends))


def play(
  generate: Callable[[PyTree], Rollout],
  react: Callable[[list[Turn]], Sequence[Reaction]],
  shape: tuple[int, int, int],
  *,
  eos_id: Ends,
  pad_id: int = 0,
) -> Rollout:
  """Completions [B, G, C] of models and an environment on the host.

  generate  guide_state [B, G, ...] -> Rollout: a compiled `rollout.generate`
            with `guide=turn(...)`, `eos_id` and always the same key
  react     answers all completions that wait, in their order; called until
            none does
  shape     B, G, C

  Returns a Rollout of host arrays: `given` marks the answers; a completion is
  finished when the model ended it or the environment said so.

  Raises:
    ValueError: another number of reactions than of turns.
  """
  b, g, size = shape
  tokens = np.full(shape, pad_id, np.int32)
  logps, given = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
  length = np.zeros((b, g), np.int32)
  over, finished = np.zeros((b, g), bool), np.zeros((b, g), np.float32)
  columns = np.arange(size)
  while not over.all():
    state = {
      **prefix_state(jnp.asarray(tokens), jnp.asarray(length)),
      'over': jnp.asarray(over),
      'ended': jnp.zeros((b, g), bool),
    }
    samples = jax.device_get(generate(state))
    said = samples.mask.sum(-1).astype(np.int32)
    # A completion that is over may be empty, and one token is always drawn.
    fresh = (columns >= length[..., None]) & (columns < said[..., None])
    fresh &= ~over[..., None]
    tokens = np.where(fresh, samples.completion, tokens)
    logps = np.where(fresh, samples.logps, logps)
    length = np.where(over, length, said)
    last = np.take_along_axis(tokens, length[..., None] - 1, axis=-1)[..., 0]
    ended = ~over & reached(last, eos_id)
    finished[ended] = 1.0
    over |= ended | (length >= size)
    places = np.argwhere(~over)
    if not len(places):
      break
    turns = [Turn(int(i), int(j), tokens[i, j, : length[i, j]].copy())
             for i, j in places]  # fmt: skip
    reactions = react(turns)
    if len(reactions) != len(turns):
      raise ValueError(
        f'react gave {len(reactions)} reactions to {len(turns)} turns'
      )
    for (i, j), reaction in zip(places, reactions):
      if reaction.done:
        over[i, j], finished[i, j] = True, 1.0
        continue
      room = slice(length[i, j], min(length[i, j] + len(reaction.tokens), size))
      tokens[i, j, room] = list(reaction.tokens)[: room.stop - room.start]
      given[i, j, room] = 1.0
      length[i, j] = room.stop
      over[i, j] = room.stop >= size
  mask = (columns < length[..., None]).astype(np.float32)
  host: tuple[Any, ...] = tokens, mask, logps, finished, given
  return Rollout(*host)
