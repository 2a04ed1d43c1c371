"""Environments: guides that answer the model, so that it acts in turns.

A turn is whatever an environment takes for one: a move, a line, a tool call.
The environment reads each token that the model writes and may react with an
observation: tokens that come next in the completion, forced, and that no loss
counts. All of it happens inside the decode loop.

A task in turns has two members more than others (`posttrain_jax.tasks`):

  task.guide             an `Environment`
  task.episode(example)  its state before the first token, from `begin`
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.rollout.guide import (
  Guide,
  chain,
  next_of,
  replay,
  spread,
)

__all__ = ['Environment', 'given', 'of', 'starts', 'steering']


@dataclasses.dataclass(frozen=True)
class Environment(Guide, abc.ABC):
  """What reacts to tokens.

  Its state is {'world', 'queue', 'at', 'end', 'done'}: the world, the answer
  and how much of it has come, whether all is over.

  Subclasses say how long an observation can be and how the world goes on.
  """

  forces: ClassVar[bool] = True

  @property
  @abc.abstractmethod
  def observation_length(self) -> int:
    """Tokens O of the longest observation."""

  @abc.abstractmethod
  def react(self, world: PyTree, token: Array) -> tuple[PyTree, Any, Array]:
    """The world after one token of the model, what it answers, whether it is
    over.

    The answer is (tokens [<= O], length []), as a `tasks.vocab.Text`; its
    length may be 0. A world that is over answers no more.
    """

  def begin(self, world: PyTree) -> PyTree:
    """The state of a completion whose world is `world`."""
    return {
      'world': world,
      'queue': jnp.zeros((self.observation_length,), jnp.int32),
      'at': jnp.int32(0),
      'end': jnp.int32(0),
      'done': jnp.bool_(False),
    }

  def start(self, prompt, prompt_mask):
    raise ValueError(
      f'{type(self).__name__}: an environment starts from its problem; give '
      'guide_state (`environments.steering`)'
    )

  def forced(self, state):
    return next_of(state['queue'], state['at'], state['end'])

  def read(self, state, token):
    answering = state['at'] < state['end']
    world, answer, done = self.react(state['world'], token)
    tokens, length = answer
    tokens = jnp.pad(
      tokens.astype(jnp.int32), (0, self.observation_length - tokens.shape[0])
    )
    reacted = {
      'world': world,
      'queue': tokens,
      'at': jnp.int32(0),
      'end': jnp.where(done, 0, length).astype(jnp.int32),
      'done': jnp.asarray(done, bool),
    }
    told = state | {'at': state['at'] + 1}
    keep = answering | state['done']
    return jax.tree.map(
      lambda old, new: jnp.where(keep, old, new), told, reacted
    )

  def ended(self, state):
    return state['done']


def of(task: Any) -> Environment | None:
  """The environment of a task in turns; None of others."""
  return getattr(task, 'guide', None)


def starts(task: Any, own: Guide | None, examples: Example) -> PyTree:
  """States [B, ...] of `chain(of(task), own)` before the first token."""
  states = []
  if of(task) is not None:
    states.append(jax.vmap(task.episode)(examples))
  if own is not None:
    states.append(jax.vmap(own.start)(examples.prompt, examples.prompt_mask))
  return tuple(states) if len(states) > 1 else states[0]


def steering(
  task: Any, examples: Example, group_size: int, own: Guide | None = None
) -> dict[str, Any]:
  """Arguments of `rollout.generate` for problems of a task: what steers the
  completions, and its states.

  own  a guide besides the task's environment

  Empty where there is neither.
  """
  guide = chain(of(task), own)
  if guide is None:
    return {}
  states = starts(task, own, examples)
  return {'guide': guide, 'guide_state': spread(states, group_size)}


def given(task: Any, examples: Example, tokens: Array) -> Array | None:
  """[B, C] 1.0 on tokens of completions [B, C] that the environment wrote.

  None where the task has no environment. What comes after a completion's end is
  of no meaning.
  """
  guide = of(task)
  if guide is None:
    return None
  forced = lambda example, row: replay(guide, task.episode(example), row)[1]
  return jax.vmap(forced)(examples, tokens).astype(jnp.float32)
