"""Tasks that ask again: an answer in the prompt, or one's own in turns.

Each wraps a task and is one itself, as those of `conditioned`, which has them
under their names.

  Seen   '12+34=41?|' -> '46': an answer is in the prompt, with or without a
         mark that says whether it is right ('?' wrong, '%' right)
  Retry  '12+34=' -> '41|?46|': each try ends with '|', and a wrong one is
         told so while there are tries left
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.rollout.environments import Environment
from posttrain_jax.tasks import base, split, vocab
from posttrain_jax.tasks.parts import turns
from posttrain_jax.tasks.vocab import Text

__all__ = ['END', 'FEEDBACK', 'RIGHT', 'WRONG', 'Retry', 'Seen', 'again']

END, RIGHT, WRONG = '|', '%', '?'
# What is told of an answer: nothing, its mark, or the oracle's answer too.
FEEDBACK = ('none', 'verdict', 'truth')


def again(
  prompt: Text,
  answer: Text,
  mark: Text | None,
  truth: Text | None,
  size: int,
) -> Text:
  """The prompt of a second answer: prompt, answer, mark, truth, '|'.

  answer, truth  without their ends
  mark, truth    None: not told
  """
  told = [text for text in (mark, truth) if text is not None]
  return vocab.join(prompt, answer, *told, vocab.literal(END), size=size)


def said_in(tokens: Array, mask: Array) -> Text:
  """What a completion [C] says before its end."""
  return vocab.compact(tokens, vocab.before_eos(tokens, mask))


def said(text: Text) -> Text:
  """What an answer says before its end."""
  return said_in(text.tokens, text.mask)


def _check_alone(task: Any, name: str) -> None:
  base.check(
    getattr(task, 'guide', None) is None,
    f'{name}: the task answers in turns already; take one that does not',
  )


@dataclasses.dataclass(frozen=True)
class Seen:
  """Problems that show an answer, which may be wrong; a better one is asked.

  task      the inner task, not in turns
  wrong     share of shown answers that are of another problem; the others are
            the oracle's own
  plain     share of problems that show none: those of the inner task
  feedback  'none', 'verdict' (the mark that the verifier gives it), or 'truth'
            (and the oracle's answer)

  Prompts are those of `trainers.rl.refined`, so that a model learns here to
  read them. Problems, verdicts and the held-out split are the inner task's.

  References: Zhang et al. (2025), https://arxiv.org/abs/2506.03106; Qu et al.
  (2024), RISE, https://arxiv.org/abs/2407.18219; Ma et al. (2024), CORY,
  https://arxiv.org/abs/2410.06101, whose second reader sees the first's answer
  """

  task: Any
  wrong: float = 0.5
  plain: float = 0.0
  feedback: str = 'verdict'

  def __post_init__(self):
    _check_alone(self.task, 'seen_answer')
    for name in ('wrong', 'plain'):
      value = getattr(self, name)
      base.check(
        isinstance(value, jax.core.Tracer) or 0.0 <= value <= 1.0,
        f'seen_answer: {name}={value} is no share from 0 to 1',
      )
    base.check(
      self.feedback in FEEDBACK,
      f'seen_answer: unknown feedback="{self.feedback}".'
      + nearest(self.feedback, FEEDBACK),
    )

  @property
  def _told(self) -> int:
    """Tokens of an answer that is shown, at most."""
    return self.task.completion_length - 1

  @property
  def prompt_length(self) -> int:
    truth = self._told if self.feedback == 'truth' else 0
    mark = 0 if self.feedback == 'none' else 1
    return self.task.prompt_length + self._told + mark + truth + 1

  @property
  def completion_length(self) -> int:
    return self.task.completion_length

  def sample(self, key: Array) -> Example:
    own_key, other_key, solve_key, kind_key = jax.random.split(key, 4)
    example = self.task.sample(own_key)
    other = self.task.sample(other_key)
    is_wrong, is_plain = jax.random.uniform(kind_key, (2,)) < jnp.stack(
      [jnp.asarray(self.wrong), jnp.asarray(self.plain)]
    )
    truth = self.task.solve(example, solve_key)
    theirs = self.task.solve(other, jax.random.fold_in(solve_key, 1))
    shown = vocab.where(is_wrong, theirs, truth)
    return self.level(example, said(shown), said(truth), is_plain)

  def level(
    self, example: Example, shown: Text, truth: Text, plain: Array | bool
  ) -> Example:
    """The inner task's problem beside an answer.

    shown, truth  without their ends
    """
    verdict = self.task.verify(example, shown.tokens, shown.mask)['reward']
    right = verdict >= 1.0
    mark = vocab.where(right, vocab.literal(RIGHT), vocab.literal(WRONG))
    bare = vocab.compact(example.prompt, example.prompt_mask)
    prompt = again(
      bare,
      shown,
      None if self.feedback == 'none' else mark,
      truth if self.feedback == 'truth' else None,
      self.prompt_length,
    )
    prompt = vocab.where(jnp.asarray(plain), bare, prompt)
    answer = {
      'inner': example.answer,
      'length': bare.length,
      'seen_right': right & ~jnp.asarray(plain),
      'seen': ~jnp.asarray(plain),
    }
    return base.example(prompt, answer, self.prompt_length)

  def bare(self, example: Example) -> Example:
    """The problem without an answer."""
    blank = Text(jnp.zeros((1,), jnp.int32), jnp.int32(0))
    shown = self.level(self._inner(example), blank, blank, True)
    return shown.replace(prompt_id=example.prompt_id)

  def show(
    self, example: Example, tokens: Array, mask: Array, key: Array
  ) -> Example:
    """The problem beside another answer, a completion [C] that was given to
    it; `key` is that of the oracle, whose answer may be told."""
    inner = self._inner(example)
    answer = vocab.fit(said_in(tokens, mask), self._told)
    shown = self.level(inner, answer, said(self.task.solve(inner, key)), False)
    return shown.replace(prompt_id=example.prompt_id)

  def _inner(self, example: Example) -> Example:
    """The problem as the inner task knows it."""
    size = self.task.prompt_length
    mask = (jnp.arange(size) < example.answer['length']).astype(jnp.float32)
    prompt = jnp.where(mask > 0, example.prompt[:size], vocab.PAD)
    return example.replace(
      prompt=prompt, prompt_mask=mask, answer=example.answer['inner']
    )

  def identity(self, example: Example) -> Array:
    """The inner task's: an answer that is shown makes no new problem."""
    return split.identity(self.task, self._inner(example))

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """The inner task's verdict; 'kept' 1.0 where a right answer that was shown
    stayed right, 'mended' where one that was wrong became right."""
    found = self.task.verify(self._inner(example), completion, mask)
    right = found['reward'] >= 1.0
    shown = example.answer
    mended = right & shown['seen'] & ~shown['seen_right']
    return {
      **found,
      'kept': (right & shown['seen_right']).astype(jnp.float32),
      'mended': mended.astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    return self.task.solve(self._inner(example), key)


@dataclasses.dataclass(frozen=True)
class Judge(Environment):
  """Reads tries, and says of each wrong one that it is.

  task   whose verifier decides
  tries  of an episode
  size   tokens that a try may have; more are read and not kept, so that it is
         wrong
  """

  task: Any
  tries: int
  size: int

  @property
  def observation_length(self) -> int:
    return 1

  def fresh(self, example: Example) -> PyTree:
    """Before the first try at an (inner) problem."""
    return {
      'problem': example,
      'tokens': jnp.zeros((self.size,), jnp.int32),
      'length': jnp.int32(0),
      'tries': jnp.int32(0),
      'right': jnp.bool_(False),
      'first': jnp.bool_(False),
    }

  def react(self, world, token):
    ends = token == vocab.token(END)
    text = Text(world['tokens'], jnp.minimum(world['length'], self.size))
    found = self.task.verify(world['problem'], text.tokens, text.mask)
    fits = world['length'] <= self.size
    right = ends & (found['reward'] >= 1.0) & fits
    tries = world['tries'] + ends
    place = jnp.where(ends, self.size, world['length'])
    written = world['tokens'].at[place].set(token, mode='drop')
    after = world | {
      'tokens': jnp.where(ends, jnp.zeros_like(written), written),
      'length': jnp.where(ends, 0, world['length'] + 1),
      'tries': tries,
      'right': world['right'] | right,
      'first': world['first'] | (right & (world['tries'] == 0)),
    }
    over = right | (tries >= self.tries) | (token == vocab.EOS)
    told = vocab.literal(WRONG)
    return after, Text(told.tokens, told.length * ends), over


@dataclasses.dataclass(frozen=True)
class Retry:
  """The inner task in up to `tries` turns; it is over with a right answer.

  task   the inner task, not in turns, whose answers have no '|'
  tries  answers that may be given
  slips  chance of the oracle to give another problem's answer first, at each
         try but the last

  The reward is 1 where any of the tries is right; an EOS ends the episode.

  Reference: Qu et al. (2024), RISE, https://arxiv.org/abs/2407.18219
  """

  task: Any
  tries: int = 2
  slips: float = 0.5

  def __post_init__(self):
    _check_alone(self.task, 'retry')
    base.check(
      1 <= self.tries <= 16, f'retry: tries={self.tries} is not in 1..16'
    )
    base.check(
      isinstance(self.slips, jax.core.Tracer) or 0.0 <= self.slips <= 1.0,
      f'retry: slips={self.slips} is no share from 0 to 1',
    )

  @property
  def prompt_length(self) -> int:
    return self.task.prompt_length

  @property
  def completion_length(self) -> int:
    # Each try ends with a '|' where it has its EOS alone, and '?' comes after
    # all but the last.
    return self.tries * self.task.completion_length + self.tries - 1

  @property
  def guide(self) -> Judge:
    return Judge(self.task, self.tries, self.task.completion_length)

  def episode(self, example: Example) -> PyTree:
    judge = self.guide
    return judge.begin(judge.fresh(example.replace(prompt_id=jnp.uint32(0))))

  def sample(self, key: Array) -> Example:
    return self.task.sample(key)

  def identity(self, example: Example) -> Array:
    """The inner task's."""
    return split.identity(self.task, example)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right in the end or not; 'first' whether the first try was, and 'tries',
    how many there were."""
    world, faithful = turns.replayed(self, example, completion, mask)
    reward = (world['right'] & faithful).astype(jnp.float32)
    return {
      'reward': reward,
      'first': reward * world['first'],
      'tries': world['tries'].astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    """The transcript of a writer who slips, and mends it."""
    written = []
    for number in range(self.tries):
      own = jax.random.fold_in(key, number)
      slip_key, other_key, solve_key = jax.random.split(own, 3)
      text = said(self.task.solve(example, solve_key))
      if number < self.tries - 1:
        other = self.task.sample(other_key)
        theirs = said(self.task.solve(other, solve_key))
        slips = jax.random.uniform(slip_key) < self.slips
        text = vocab.where(slips, theirs, text)
      written.append(vocab.join(text, vocab.literal(END)))
    whole = vocab.join(*written)
    # The world is over with the first right one: what comes after is not read.
    return self._cut(example, whole)

  def _cut(self, example: Example, written: Text) -> Text:
    """The transcript, without what stands after the end of the episode."""
    text = turns.transcript(self, example, written, self.completion_length)

    def step(state, token):
      after = self.guide.read(state, token)
      return after, ~state['done']

    _, live = jax.lax.scan(step, self.episode(example), text.tokens)
    live = live & (jnp.arange(self.completion_length) < text.length)
    return vocab.compact(text.tokens, live.astype(jnp.float32))
