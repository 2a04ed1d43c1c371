"""What tasks share: building an Example, checking knobs, exact-match verify."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.vocab import Text


class Task(Protocol):
  """An in-graph task: every method is jit- and vmap-able, of one problem.

  prompt_length      tokens that a prompt may have
  completion_length  tokens that an answer may have, its EOS among them
  """

  @property
  def prompt_length(self) -> int: ...

  @property
  def completion_length(self) -> int: ...

  def sample(self, key: Array) -> Example:
    """A problem."""
    ...

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Any]:
    """{'reward': scalar, ...} of an answer [C]."""
    ...

  def solve(self, example: Example, key: Array) -> Text:
    """The oracle's answer, with its chain of thought where it has one."""
    ...


def example(prompt: Text, answer: dict[str, Array], size: int) -> Example:
  """An Example with prompt_id 0; whoever samples a batch numbers the rows."""
  prompt = vocab.fit(prompt, size)
  return Example(
    prompt=prompt.tokens,
    prompt_mask=prompt.mask,
    prompt_id=jnp.uint32(0),
    answer=answer,
  )


def two_numbers(
  key: Array, num_digits: int, sign: str, least_digits: int = 1
) -> Example:
  """'27+5=' of two numbers of up to `num_digits` digits; answer {'terms'}."""
  # Uniform over lengths first, so that short operands are not rare.
  length_key, digit_key = jax.random.split(key)
  digits = jax.random.randint(length_key, (2,), least_digits, num_digits + 1)
  low = 10 ** (least_digits - 1) if least_digits > 1 else 0
  terms = jax.random.randint(digit_key, (2,), low, 10**digits)
  prompt = vocab.join(
    vocab.number(terms[0], num_digits),
    vocab.literal(sign),
    vocab.number(terms[1], num_digits),
    vocab.literal('='),
  )
  return example(prompt, {'terms': terms}, 2 * num_digits + 2)


def pick(key: Array, weights: Array) -> Array:
  """[] int32: an index drawn by `weights` [N], at least one of them positive;
  they may be traced. One of weight 0 is never drawn."""
  ends = jnp.cumsum(weights)
  point = jax.random.uniform(key) * ends[-1]
  last = jnp.max(jnp.where(weights > 0, jnp.arange(weights.shape[0]), 0))
  return jnp.minimum(jnp.sum(ends <= point), last).astype(jnp.int32)


def check(condition: bool, message: str) -> None:
  """Raises ValueError(message) unless `condition`; for difficulty knobs."""
  if not condition:
    raise ValueError(message)


def finish(text: Text, size: int) -> Text:
  """`text` and its EOS in a buffer of `size`."""
  return vocab.join(text, vocab.special(vocab.EOS), size=size)


def final_text(
  completion: Array, mask: Array, marker: str | None = None
) -> Text:
  """What a completion says before its EOS, after the last `marker` if any."""
  mask = vocab.before_eos(completion, mask)
  if marker is not None:
    mask = vocab.after_last(completion, mask, vocab.token(marker))
  return vocab.compact(completion, mask)


def exact_match(
  expected: Text, completion: Array, mask: Array, marker: str | None = None
) -> dict[str, Array]:
  """Reward 1.0 if the final text is `expected`, to the character."""
  right = vocab.equal(final_text(completion, mask, marker), expected)
  return {'reward': right.astype(jnp.float32)}
