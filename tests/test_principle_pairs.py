"""Pairs that a principle decides: by hand, and on strings of attributes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_collect import FIELDS, WORLD
from test_tasks import quick_jit

from posttrain_jax import collect, tasks
from posttrain_jax.collect import principles
from posttrain_jax.collect.setting import Setting
from posttrain_jax.core import arrays
from posttrain_jax.core.types import Rollout
from posttrain_jax.tasks import vocab

TASK = tasks.make('attributes', segments=1, places='whole')
SIZE = TASK.completion_length


def test_the_principle_that_tells_most_decides():
  gaps = np.array([[0.5, 0.1, 1.0], [-0.5, 0.3, 0.0], [0.5, 0.0, -1.0]])
  # Mean squares 1/4, 1/30 and 2/3: of the first pair 2, 3 and 1.5 with all.
  wanted = np.array([[1, 1, 1], [-1, -1, 0], [0, 1, 0]])
  score, which = principles.decisive(jnp.asarray(gaps), jnp.asarray(wanted))
  np.testing.assert_allclose(score, [3, -9, 0], rtol=1e-5)
  np.testing.assert_array_equal(which, [1, 1, 0])
  score, which = principles.decisive(
    jnp.asarray(gaps), jnp.asarray([[1, 0, -1], [-1, 0, 0], [0, 0, -1]])
  )
  np.testing.assert_allclose(score, [2, 2, 1.5], rtol=1e-5)
  np.testing.assert_array_equal(which, [0, 0, 2])


# Problems, and two answers to each: '-' is none that can be read.
PROBLEMS = (
  ((1, 0, 0), 'aeio', 'bcdf'), ((-1, 0, 0), 'aeio', 'bcdf'),
  ((0, -1, 0), 'abab', 'xyxy'), ((0, 1, 0), 'aeio', 'aeio'),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Given(Setting):
  """Those problems, and those answers to them."""

  __hash__ = object.__hash__

  def attempts(self, state, sampler, key, group_size, *, fixed=False):
    assert group_size == 2 and sampler in self.models
    level = lambda w: self.task.level(jnp.broadcast_to(w, (1, 3)))
    examples = jax.vmap(level)(jnp.array([p[0] for p in PROBLEMS]))
    count = len(PROBLEMS)
    examples = examples.replace(prompt_id=jnp.arange(count, dtype=jnp.uint32))
    rows = [[[*vocab.encode(x), vocab.EOS] for x in p[1:]] for p in PROBLEMS]
    tokens = jnp.array(rows, jnp.int32)
    ones = jnp.ones(tokens.shape)
    samples = Rollout(tokens, ones, 0.0 * ones, ones[..., 0])
    return examples, samples, self.verify(examples, tokens, ones)


def drawn(**hparams):
  fields = FIELDS | dict(task=TASK, num_prompts=4, max_new_tokens=SIZE)
  make = lambda key: collect.principle_pairs(
    Given(**fields), None, key, **hparams
  )
  return jax.device_get(quick_jit(make)(jax.random.key(0)))


def texts(batch):
  return [
    vocab.decode(x, m).removesuffix('<eos>')
    for x, m in zip(batch.tokens, batch.mask)
  ]


def test_what_is_chosen_follows_the_prompt():
  batch, metrics = drawn(noise=0.0)
  assert set(batch.extras) == set(arrays.from_rows('principle_pairs'))
  assert texts(batch) == [
    'aeio', 'bcdf', 'bcdf', 'aeio', 'xyxy', 'abab', '', ''
  ]  # fmt: skip
  np.testing.assert_allclose(
    batch.extras['scores'][:6], [1, 0, 0, -1, 0, -1], atol=1e-6
  )
  assert metrics['frac_rows_kept'] == 0.75
  first = batch.tokens[0][batch.segment_ids[0] > 0]
  assert vocab.decode(first) == '+v:aeio<eos>'


def test_pairs_are_turned_round():
  batch, _ = drawn(noise=1.0)
  assert texts(batch)[:6] == ['bcdf', 'aeio', 'aeio', 'bcdf', 'abab', 'xyxy']


def test_principles_of_segments():
  task = tasks.make('attributes', segments=2)
  example = task.level(jnp.array([[0, 0, -1], [1, 0, 0]]))
  tokens = jnp.asarray(vocab.encode('zyxwaezz'))
  found, wanted = task.degrees(example, tokens, jnp.ones(8))
  np.testing.assert_allclose(found, [0.0, 0.5])
  np.testing.assert_array_equal(wanted, [-1, 1])


def test_a_task_without_principles():
  with pytest.raises(ValueError, match='take task=attributes'):
    collect.principle_pairs(WORLD, None, jax.random.key(0))
