"""What tasks in turns share: the oracle's transcript, and reading one again.

A transcript is a completion in which the tokens of the model and the answers of
a task's environment (`rollout.environments`) follow one another.
"""

from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.vocab import Text


def transcript(task: Any, example: Example, written: Text, size: int) -> Text:
  """What comes of a model that writes `written`, in a buffer of `size`.

  Its tokens all come, those after the end of the episode too (such as an EOS),
  and every answer of the environment comes where it would force it.
  """
  guide, last = task.guide, written.tokens.shape[0] - 1

  def step(carry, _):
    state, index = carry
    forced = guide.forced(state)
    own = forced < 0
    token = jnp.where(own, written.tokens[jnp.minimum(index, last)], forced)
    real = ~own | (index < written.length)
    after = guide.read(state, token)
    state = jax.tree.map(lambda a, b: jnp.where(real, a, b), after, state)
    return (state, index + own), (jnp.where(real, token, vocab.PAD), real)

  start = (task.episode(example), jnp.int32(0))
  _, (tokens, real) = jax.lax.scan(step, start, length=size)
  return Text(tokens, jnp.sum(real).astype(jnp.int32))


def replayed(
  task: Any, example: Example, completion: Array, mask: Array
) -> tuple[PyTree, Array]:
  """The world after one completion [C], and whether it is a transcript.

  [] bool: False where something else stands in the place of an answer, which
  a sampled completion never has.
  """
  guide = task.guide

  def step(carry, item):
    state, faithful = carry
    token, counts = item
    forced = guide.forced(state)
    forged = (forced >= 0) & (forced != token)
    after = (guide.read(state, token), faithful & ~forged)
    return jax.tree.map(
      lambda a, b: jnp.where(counts != 0, a, b), after, carry
    ), None

  start = (task.episode(example), jnp.bool_(True))
  (state, faithful), _ = jax.lax.scan(step, start, (completion, mask))
  return state['world'], faithful
