"""Own answers in place of the oracle's: a task that takes several forms."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from test_collect import (
  ADDITION,
  FIELDS,
  GROUP,
  R,
  Scripted,
  W,
  X,
  gold,
  prompts_of,
  run,
  texts,
)

from posttrain_jax.tasks import base, vocab


@dataclasses.dataclass(frozen=True)
class Lenient:
  """Addition whose answers may have leading zeros."""

  prompt_length = ADDITION.prompt_length
  completion_length = ADDITION.completion_length + 2

  def sample(self, key):
    return ADDITION.sample(key)

  def solve(self, example, key):
    return vocab.fit(ADDITION.solve(example, key), self.completion_length)

  def verify(self, example, completion, mask):
    value, ok = vocab.parse_number(base.final_text(completion, mask))
    right = ok & (value == example.answer['terms'].sum())
    return {'reward': right.astype(jnp.float32)}


class Zeros(Scripted):
  """Writes a zero before its answers, two after a hint."""

  def sample(self, state, sampler, examples, key, group_size, *, greedy=False):
    samples = super().sample(state, sampler, examples, key, group_size)
    count = 1 + (examples.prompt.shape[1] > self.task.prompt_length)
    shift = lambda x, fill: jnp.roll(x, count, -1).at[..., :count].set(fill)
    return samples.replace(
      completion=shift(samples.completion, vocab.ZERO),
      mask=shift(samples.mask, 1.0),
    )


def test_self_rehearsal_prefers_own_answers():
  # Own answers are right, wrong, right and empty; after a hint only that to
  # the second problem is.
  again = ((X,) * GROUP, (R,) * GROUP, (X,) * GROUP, (W,) * GROUP)
  world = Zeros(**{**FIELDS, 'task': Lenient()})
  for hint, second in ((True, '00'), (False, '')):
    zeros = ['0', second, '0', '']
    batch, metrics = run('self_rehearsal', world=world, again=again, hint=hint)
    prompts = prompts_of(batch, 1)
    expected = [before + gold(p) for before, p in zip(zeros, prompts)]
    assert [row[2] for row in texts(batch)] == expected
    np.testing.assert_allclose(metrics['frac_own'], 0.5)
    np.testing.assert_allclose(metrics.get('frac_paraphrased', 0), 0.25 * hint)
