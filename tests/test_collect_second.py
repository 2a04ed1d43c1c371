"""Rows of second tries, and of answers without their questions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_collect import (
  ADDITION,
  FIELDS,
  PROBLEMS,
  E,
  R,
  Scripted,
  W,
  X,
  gold,
  run,
  scripted,
  texts,
)

from posttrain_jax import collect
from posttrain_jax.core import arrays
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.second_tries import Seen

FIRST = (R, W, R, E)
PLAN = tuple((kind, X, X) for kind in FIRST)
AGAIN = ((R, R, R), (W, R, X), (W, W, W), (W, X, E))


class Asked(Scripted):
  """Second tries are those whose prompt shows an answer."""

  def kinds(self, examples):
    shown = jnp.any(examples.prompt == vocab.token('|'), axis=1)
    ids = examples.prompt_id
    return jnp.where(shown[:, None], self.again[ids], self.plan[ids])


WORLD = Asked(**{**FIELDS, 'task': Seen(ADDITION, plain=0.5)})


def drawn(**hparams):
  batch, metrics = run(
    'retries', world=WORLD, plan=PLAN, again=AGAIN, **hparams
  )
  return batch, {k: float(x) for k, x in metrics.items()}


def test_second_tries_stand_behind_the_first():
  batch, metrics = drawn()
  assert batch.mask.shape[0] == 2 * PROBLEMS
  assert set(batch.extras) == set(arrays.from_rows('retries'))
  rows = texts(batch)
  for b, kind in enumerate(FIRST):
    prompt, answer, counted = rows[2 * b]
    assert answer == counted == scripted(prompt, kind)
    again, shown, counted = rows[2 * b + 1]
    assert again == prompt
    said = scripted(prompt, kind).removesuffix('<eos>')
    mark = '%' if kind == R else '?'
    best = R if b == 1 else AGAIN[b][0]
    second = scripted(prompt, best)
    assert shown == f'{said}{mark}|{second}'
    # Who was right is not asked to try again.
    assert counted == ('' if kind == R else second)
  scores = batch.extras['scores'].reshape(PROBLEMS, 2)
  np.testing.assert_array_equal(scores, [[1, 1], [0, 1], [1, 0], [0, 0]])
  assert metrics['reward'] == 0.5
  assert metrics['frac_rows_kept'] == 6 / 8
  assert metrics['frac_mended'] == 1 / 4


@pytest.mark.parametrize('keep, counted', [
  ('all', [1, 0, 1, 1, 1, 0, 1, 1]), ('better', [1, 0, 1, 1, 1, 0, 1, 0]),
  ('success', [1, 0, 0, 1, 1, 0, 0, 0]),
])  # fmt: skip
def test_which_tries_count(keep, counted):
  batch, _ = drawn(keep=keep)
  np.testing.assert_array_equal(batch.mask.any(axis=1), counted)


def test_the_oracle_may_try_the_second_time():
  batch, metrics = drawn(pick='oracle')
  for b in (1, 3):
    prompt, shown, counted = texts(batch)[2 * b + 1]
    assert counted == gold(prompt) and shown.endswith('|' + counted)
  assert metrics['frac_mended'] == 0.5


@pytest.mark.parametrize('name, found', [('retries', 4), ('question_free', 0)])
def test_what_is_written(name, found):
  assert collect.written_per_prompt(name, 3, 9) == found
  assert collect.rows_per_prompt(name, 3) == (2 if name == 'retries' else 1)


def test_answers_stand_alone():
  batch, _ = run('question_free')
  asked = run('oracle')[0]
  assert batch.mask.shape == asked.mask.shape
  assert set(batch.extras) == set(arrays.from_rows('question_free'))
  for row, whole in zip(range(PROBLEMS), texts(asked)):
    said = vocab.decode(batch.tokens[row], batch.segment_ids[row])
    assert said == whole[1]
    # All of it counts but the first token, before which nothing stands.
    counted = vocab.decode(batch.tokens[row], batch.mask[row])
    assert counted == said[1:]
  np.testing.assert_array_equal(batch.positions[:, 0], 0)
  np.testing.assert_array_equal(batch.starts, 0)


def test_a_share_of_answers_stands_alone():
  batch, _ = run('question_free', share=0.5)
  asked, _ = run('oracle')
  alone, _ = run('question_free')
  free = np.asarray(batch.starts) == 0
  assert 0 < free.sum() < PROBLEMS
  for x, y, z in zip(*(
    (b.tokens, b.mask, b.segment_ids, b.starts) for b in (batch, asked, alone)
  )):  # fmt: skip
    np.testing.assert_array_equal(x[~free], y[~free])
    np.testing.assert_array_equal(x[free], z[free])


@pytest.mark.parametrize('hparams, told', [
  ({'keep': 'al'}, 'unknown keep "al". Did you mean "all"'),
  ({'pick': 'best'}, 'unknown pick "best"'),
])  # fmt: skip
def test_second_tries_that_cannot_be(hparams, told):
  with pytest.raises(ValueError, match=told):
    collect.retries(WORLD, None, jax.random.key(0), **hparams)
  plain = dataclasses.replace(WORLD, task=ADDITION)
  with pytest.raises(ValueError, match='take condition.name="seen_answer"'):
    collect.retries(plain, None, jax.random.key(0))
