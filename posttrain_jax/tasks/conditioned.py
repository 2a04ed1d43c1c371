"""Tasks with a condition in front of the prompt: '+<sep>12+34=' -> '46'.

Each wraps a task and is one itself: the condition is one token and <sep>, the
rest of the prompt, the answers, the held-out split and the environment of a
task in turns are the inner task's.

  Feedback   says whether the answer that follows is good
  Direction  says what the reward weighs: being right, and being short
  Mode       says whether a long or a short chain of thought is asked for

And those of `second_tries`, which show an answer, or ask again.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.tasks import base, second_tries, split, vocab
from posttrain_jax.tasks.vocab import Text

__all__ = ['Direction', 'Feedback', 'evaluated', 'knobs', 'wrap']

PREFIX = 2  # tokens of a condition
GOOD, BAD = vocab.token('+'), vocab.token('-')
ARC = 45.0  # degrees to either side that a direction may lean


@dataclasses.dataclass(frozen=True)
class _Conditioned:
  """What the wrappers share; `task` is the inner task."""

  task: Any

  @property
  def prompt_length(self) -> int:
    return self.task.prompt_length + PREFIX

  @property
  def completion_length(self) -> int:
    return self.task.completion_length

  @property
  def guide(self) -> Any:
    """The inner task's environment; None where it has none."""
    return getattr(self.task, 'guide', None)

  def episode(self, example: Example) -> PyTree:
    return self.task.episode(self._inner(example))

  def _condition(self, example: Example, token: Array | int) -> Example:
    """The inner task's problem behind a condition."""
    head = jnp.stack([jnp.int32(token), jnp.int32(vocab.SEP)])
    return example.replace(
      prompt=jnp.concatenate([head, example.prompt]),
      prompt_mask=jnp.concatenate([jnp.ones(PREFIX), example.prompt_mask]),
    )

  def _inner(self, example: Example) -> Example:
    """The problem as the inner task knows it."""
    return example.replace(
      prompt=example.prompt[PREFIX:], prompt_mask=example.prompt_mask[PREFIX:]
    )

  def identity(self, example: Example) -> Array:
    """The inner task's: a condition makes no new problem."""
    return split.identity(self.task, self._inner(example))

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    return self.task.verify(self._inner(example), completion, mask)

  def solve(self, example: Example, key: Array) -> Text:
    return self.task.solve(self._inner(example), key)


@dataclasses.dataclass(frozen=True)
class Feedback(_Conditioned):
  """'+' before the prompt: the answer is good; '-': it is not.

  Problems ask for good answers, in training and in evaluation; `relabel` then
  writes what the verifier said, for training on right and wrong answers alike.

  References: Chen et al. (2024), feedback-aware fine-tuning,
  https://arxiv.org/abs/2408.06318; Wang et al. (2023), LeTI,
  https://arxiv.org/abs/2305.10314
  """

  def sample(self, key: Array) -> Example:
    return self._condition(self.task.sample(key), GOOD)

  def relabel(self, prompt: Array, verdict: Array) -> Array:
    """Prompts with another verdict; rows that begin with one will do as well.

    prompt   [..., P]
    verdict  [...], non-zero where the answer is good
    """
    return prompt.at[..., 0].set(jnp.where(verdict != 0, GOOD, BAD))


@dataclasses.dataclass(frozen=True)
class _Annotated(_Conditioned):
  """Its problems' `answer` is {'inner': the task's own, and what was drawn}."""

  def _inner(self, example: Example) -> Example:
    example = super()._inner(example)
    return example.replace(answer=example.answer['inner'])


@dataclasses.dataclass(frozen=True)
class Direction(_Annotated):
  """A direction v = (cos t, sin t) before the prompt; the reward is along it.

  buckets  tokens that tell angles apart, evenly from -45 to 45 degrees
  degrees  the angle of every problem; None draws one for each, uniformly

  reward = v . (the inner task's reward, brevity), both of them in [0, 1], where
  brevity falls from 1 for an empty text to 0 for one as long as the oracle's
  longest. At 0 degrees the reward is the inner task's.

  Reference: Wang et al. (2024), DPA, https://arxiv.org/abs/2402.18571 (a
  learned reward model's helpfulness and verbosity there, on a common scale)
  """

  buckets: int = 16
  degrees: float | None = None

  def __post_init__(self):
    most = len(vocab.CHARACTERS)
    base.check(
      2 <= self.buckets <= most,
      f'direction: buckets={self.buckets} is not in 2..{most}',
    )
    base.check(
      self.degrees is None or -ARC <= self.degrees <= ARC,
      f'direction: degrees={self.degrees} is not in -45..45',
    )

  def sample(self, key: Array) -> Example:
    problem_key, angle_key = jax.random.split(key)
    example = self.task.sample(problem_key)
    degrees = self.degrees
    if degrees is None:
      degrees = jax.random.uniform(angle_key, minval=-ARC, maxval=ARC)
    degrees = jnp.float32(degrees)
    bucket = jnp.floor((degrees / ARC + 1.0) / 2.0 * self.buckets)
    bucket = jnp.clip(bucket.astype(jnp.int32), 0, self.buckets - 1)
    # The reward takes the angle itself, as if the bucket were a rounded text.
    answer = {'inner': example.answer, 'angle': degrees * (math.pi / 180.0)}
    return self._condition(example, vocab.ZERO + bucket).replace(answer=answer)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """The reward along v; 'task_reward' and 'brevity', its components."""
    verdict = self.task.verify(self._inner(example), completion, mask)
    right = verdict['reward']
    length = jnp.sum(vocab.before_eos(completion, mask))
    brevity = 1.0 - jnp.minimum(length / (self.completion_length - 1), 1.0)
    angle = example.answer['angle']
    reward = jnp.cos(angle) * right + jnp.sin(angle) * brevity
    return {
      **verdict,
      'reward': reward,
      'task_reward': right,
      'brevity': brevity,
    }


LONG, SHORT, NEUTRAL = map(vocab.token, 'ls=')
ASKS = ('drawn', 'long', 'short', 'neutral')


@dataclasses.dataclass(frozen=True)
class Mode(_Annotated):
  """'l' or 's' before the prompt: the demonstration is long, or it is short,
  which keeps its steps and their order ('prune' of a task); '=' asks for none.

  share  of problems whose demonstration is short
  asks   'drawn': the mode of each demonstration; 'long' or 'short': that one,
         in prompt and demonstration; 'neutral': prompts say '=', and
         demonstrations are of both kinds

  Evaluation of 'drawn' asks for none, so that the model chooses.

  Reference: Yu et al. (2025), LS-Mixture, https://arxiv.org/abs/2505.03469
  """

  share: float = 0.5
  asks: str = 'drawn'

  def __post_init__(self):
    base.check(
      hasattr(self.task, 'prune'),
      'mode: the task has no knob "prune" for short demonstrations; take '
      'task=backtracking',
    )
    base.check(
      getattr(self.task, 'spelled', True),
      'mode: demonstrations are long with spelled=true alone, and all short '
      'with spelled=false',
    )
    base.check(
      isinstance(self.share, jax.core.Tracer) or 0.0 <= self.share <= 1.0,
      f'mode: share={self.share} is no share from 0 to 1',
    )
    base.check(
      self.asks in ASKS,
      f'mode: unknown asks="{self.asks}".{nearest(self.asks, ASKS)}',
    )

  def sample(self, key: Array) -> Example:
    problem_key, mode_key = jax.random.split(key)
    example = self.task.sample(problem_key)
    short = jax.random.uniform(mode_key) < self.share
    if self.asks in ('long', 'short'):
      short = jnp.bool_(self.asks == 'short')
    token = jnp.where(short, SHORT, LONG)
    if self.asks == 'neutral':
      token = NEUTRAL
    answer = {'inner': example.answer, 'short': short}
    return self._condition(example, token).replace(answer=answer)

  def solve(self, example: Example, key: Array) -> Text:
    prune = example.answer['short'].astype(jnp.float32)
    task = dataclasses.replace(self.task, prune=prune)
    return task.solve(self._inner(example), key)


CONDITIONS = {
  'feedback': Feedback,
  'direction': Direction,
  'mode': Mode,
  'seen_answer': second_tries.Seen,
  'retry': second_tries.Retry,
}


def knobs(name: str) -> dict[str, Any]:
  """The knobs of the condition called `name`, with their defaults.

  Raises:
    ValueError: unknown condition, with the nearest valid one.
  """
  choices = ('none', *CONDITIONS)
  if name not in choices:
    raise ValueError(f'unknown condition "{name}".{nearest(name, choices)}')
  if name == 'none':
    return {}
  fields = dataclasses.fields(CONDITIONS[name])
  return {field.name: field.default for field in fields if field.name != 'task'}


def wrap(task: Any, name: str = 'none', **changed) -> Any:
  """The task behind the condition called `name`; 'none': the task itself.

  Raises:
    ValueError: unknown condition or knob, with the nearest valid one.
  """
  known = knobs(name)
  for key in changed:
    if key not in known:
      raise ValueError(
        f'condition "{name}" has no knob "{key}".{nearest(key, known)}'
      )
  return task if name == 'none' else CONDITIONS[name](task, **changed)


def evaluated(task: Any) -> Any:
  """The task as evaluation asks it: drawn directions become 0 degrees, drawn
  modes none."""
  if isinstance(task, Direction) and task.degrees is None:
    return dataclasses.replace(task, degrees=0.0)
  if isinstance(task, Mode) and task.asks == 'drawn':
    return dataclasses.replace(task, asks='neutral')
  return task
