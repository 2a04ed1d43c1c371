"""Running sums, every step of which can be judged: '7+5+8=' -> '2,0,>0'.

A thought has the last digit of the total after each further digit; after '>'
the last one stands. Writers may err by one, and may stop to think early, so
that a policy can be right more often, or sooner.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text

WIDTH = 2  # tokens of an operand with its sign, and of a step with its comma


@dataclasses.dataclass(frozen=True)
class Task:
  """Last digit of the sum of `count` digits.

  count  of the digits
  most   the largest of them; the smallest is 0
  chain_of_thought  the oracle writes the totals and '>' before the sum

  slips  chance, in each step, that the writer of a demonstration counts one too
         many; what follows goes on from there
  cut    share of demonstrations whose thought ends early, after as many steps
         as is drawn, from none to all but one: who has seen some can answer
         when told to

  The steps are not judged by `verify`, but by `segments`. `slips` and `cut` may
  be traced.
  """

  count: int = 4
  most: int = 9
  chain_of_thought: bool = True
  slips: float = 0.0
  cut: float = 0.0

  def __post_init__(self):
    base.check(
      2 <= self.count <= 64,
      f'running_sums: count={self.count} is not in 2..64',
    )
    base.check(
      1 <= self.most <= 9, f'running_sums: most={self.most} is not in 1..9'
    )
    for name in ('slips', 'cut'):
      value = getattr(self, name)
      traced = isinstance(value, jax.core.Tracer)
      base.check(
        traced or 0.0 <= value <= 1.0,
        f'running_sums: {name}={value} is no share from 0 to 1',
      )
      base.check(
        self.chain_of_thought or (not traced and value == 0),
        f'running_sums: {name}={value} is of the steps, which '
        'chain_of_thought=false leaves out',
      )

  @property
  def prompt_length(self) -> int:
    return WIDTH * self.count

  @property
  def completion_length(self) -> int:
    thought = WIDTH * (self.count - 1) + 1 if self.chain_of_thought else 0
    return thought + 1 + 1

  def sample(self, key: Array) -> Example:
    return self.level(jax.random.randint(key, (self.count,), 0, self.most + 1))

  def level(self, digits: Array) -> Example:
    """The problem of `digits` [count]."""
    signs = jnp.full((self.count,), vocab.token('+'))
    signs = signs.at[-1].set(vocab.token('='))
    rows = jnp.stack([digits + vocab.ZERO, signs], axis=1)
    prompt = Text(rows.reshape(-1).astype(jnp.int32), jnp.int32(rows.size))
    return base.example(prompt, {'digits': digits}, self.prompt_length)

  def identity(self, example: Example) -> Array:
    """The digits in their order, which says what the steps are."""
    return example.answer['digits']

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    right = _last_digit(example.answer['digits'].sum())
    return base.exact_match(vocab.char(right), completion, mask, '>')

  def solve(self, example: Example, key: Array) -> Text:
    """The totals and the sum, as a writer says them who counts one too many now
    and then, and stops to think early now and then."""
    slip_key, cut_key, count_key = jax.random.split(key, 3)
    digits, steps = example.answer['digits'], self.count - 1
    slips = jax.random.bernoulli(slip_key, self.slips, (steps,))

    def add(total, step):
      total = total + sum(step)
      return total, total

    last, totals = jax.lax.scan(add, digits[0], (digits[1:], slips))
    answer = vocab.char(_last_digit(last))
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)
    early = jax.random.bernoulli(cut_key, self.cut)
    stop = jax.random.randint(count_key, (), 0, steps)
    commas = jnp.full((steps,), vocab.token(','))
    written = jnp.stack([_last_digit(totals), commas], axis=1)
    length = WIDTH * jnp.where(early, stop, steps)
    thought = Text(written.reshape(-1).astype(jnp.int32), length)
    text = vocab.join(thought, vocab.literal('>'), answer)
    return base.finish(text, self.completion_length)

  def segments(
    self, example: Example, completion: Array, mask: Array
  ) -> tuple[Array, Array]:
    """(1 or -1 for each step and for the answer [count], the column of its last
    token [count], -1 where there is no such segment).

    A step is right that adds its digit to the total before it, as that was
    written; one that is no step, and all after it, are wrong. The answer ends
    with the completion. What was not written earns nothing.
    """
    steps, size = self.count - 1, completion.shape[0]
    places = jnp.arange(size)
    text = vocab.before_eos(completion, mask) != 0
    marker = text & (completion == vocab.token('>'))
    last = jnp.max(jnp.where(marker, places, -1))
    right = self.verify(example, completion, mask)['reward'] > 0.5
    # Without a marker all of it is the answer, if it is one, else a thought.
    thought = jnp.where((last < 0) & right, 0, jnp.sum(text))
    thought = jnp.where(last < 0, thought, last)
    answered = jnp.any(mask != 0) & ((last >= 0) | right)

    room = WIDTH * steps
    tokens = vocab.fit(Text(completion, thought), room).tokens
    tokens = tokens.reshape(steps, WIDTH)
    said = tokens[:, 0] - vocab.ZERO
    formed = vocab.is_digit(tokens[:, 0]) & (tokens[:, 1] == vocab.token(','))
    # A thought that is longer has its last step run on.
    formed &= (jnp.arange(steps) < steps - 1) | (thought <= room)
    formed = jnp.cumprod(formed) == 1
    digits = example.answer['digits']
    before = jnp.concatenate([digits[:1], said[:-1]])
    fine = formed & (said == (before + digits[1:]) % 10)

    starts = WIDTH * jnp.arange(steps)
    ends = jnp.minimum(starts + WIDTH, thought)
    ends = ends.at[-1].set(thought)
    ends = jnp.where(starts < thought, ends - 1, -1)
    end = jnp.max(jnp.where(mask != 0, places, -1))
    graded = jnp.append(jnp.where(fine, 1.0, -1.0), jnp.where(right, 1.0, -1.0))
    ends = jnp.append(ends, jnp.where(answered, end, -1))
    return jnp.where(ends >= 0, graded, 0.0), ends


def _last_digit(values: Array) -> Array:
  """Tokens of the last digits of numbers."""
  return (values % 10 + vocab.ZERO).astype(jnp.int32)
