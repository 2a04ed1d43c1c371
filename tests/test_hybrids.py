"""Labels, held demonstrations, hints and second answers: numbers by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import advantages
from posttrain_jax.core.types import Batch, Rollout
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.vocab import Text
from posttrain_jax.trainers.rl import hard_buffer, hints, refined


def close(actual, expected, tolerance=1e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# ---- A label in the group.


def test_a_label_gives_way_to_an_answer_as_good():
  rewards = jnp.array([[0.0, 0, 0, 1], [1, 0, 0, 1], [0.5, 0, 0, 0.4]])
  found = advantages.label_in_group(rewards, epsilon=1e-9)
  # Nobody is as good: the mean is 1/4, the spread 1/2.
  close(found[0], [-0.5, -0.5, -0.5, 1.5])
  # One is: the label earns their mean, and its advantage is 0.
  group = np.array([1, 0, 0, 1 / 3])
  close(found[1], (group - 1 / 3) / group.std(ddof=1))
  assert found[1, 3] == 0
  group = np.array([0.5, 0, 0, 0.5 / 3])
  close(found[2], (group - 0.5 / 3) / group.std(ddof=1))


def test_a_label_that_does_not_give_way_goes_on_being_pushed():
  rewards = jnp.array([[1.0, 0, 0, 1]])
  found = advantages.label_in_group(rewards, smooth=False, epsilon=1e-9)
  close(found, [[0.5 / 0.57735027, -0.5 / 0.57735027] + [-0.5 / 0.57735027]
                + [0.5 / 0.57735027]])  # fmt: skip
  same = advantages.group_normalized(rewards, epsilon=1e-9)
  np.testing.assert_array_equal(found, same)


def test_what_a_label_cannot_teach_is_taken_off_before_it_is_compared():
  # 1.5 of which 0.5 are for a format; an answer with 1.0 is then as good.
  rewards = jnp.array([[1.0, 0, 0, 1.5], [0.9, 0, 0, 1.5]])
  found = advantages.label_in_group(rewards, docked=0.5, epsilon=1e-9)
  assert found[0, 3] == pytest.approx(0, abs=1e-7)
  group = np.array([0.9, 0, 0, 1.0])
  close(found[1], (group - group.mean()) / group.std(ddof=1))


# ---- Demonstrations that are held.


def row_batch(first, count, width=3):
  tokens = first + jnp.arange(count * width).reshape(count, width)
  return Batch(
    tokens=tokens,
    mask=jnp.ones((count, width)),
    segment_ids=jnp.ones((count, width), jnp.int32),
    positions=jnp.zeros((count, width), jnp.int32),
  )


def test_a_buffer_is_first_in_first_out():
  held = {**hard_buffer.empty(5, 3), 'opt_state': jnp.float32(7)}
  held, lost = hard_buffer.pushed(
    held, row_batch(0, 3), jnp.array([True, False, True])
  )
  assert held['held'] == 2 and lost == 0
  held, lost = hard_buffer.pushed(held, row_batch(100, 2), jnp.ones(2, bool))
  assert held['held'] == 4 and lost == 0
  first = held['held_tokens'][:, 0]
  np.testing.assert_array_equal(first, [0, 6, 100, 103, 0])
  rows, held = hard_buffer.popped(held, 3)
  np.testing.assert_array_equal(rows.tokens[:, 0], [0, 6, 100])
  np.testing.assert_array_equal(rows.positions, [[0, 1, 2]] * 3)
  assert held['held'] == 1 and held['opt_state'] == 7
  assert held['held_tokens'][0, 0] == 103
  # What comes next stands behind what is left, over what was taken out.
  held, _ = hard_buffer.pushed(held, row_batch(200, 1), jnp.array([True]))
  np.testing.assert_array_equal(held['held_tokens'][:2, 0], [103, 200])


def test_a_full_buffer_loses_what_comes_and_says_so():
  held = hard_buffer.empty(2, 3)
  held, lost = hard_buffer.pushed(held, row_batch(0, 3), jnp.ones(3, bool))
  assert held['held'] == 2 and lost == 1
  np.testing.assert_array_equal(held['held_tokens'][:, 0], [0, 3])


def test_problems_without_a_right_answer_are_kept():
  rewards = jnp.array([[0.0, 0.0], [0, 1], [0.5, 0.1], [0, 0]])
  there = jnp.array([1.0, 1, 1, 0])  # the last demonstration is too long
  key = jax.random.key(0)
  found = hard_buffer.chosen_problems(rewards, there, 'unsolved', key)
  np.testing.assert_array_equal(found, [True, False, True, False])


def test_the_control_keeps_as_many_of_any():
  rewards = jnp.concatenate([jnp.zeros((3, 2)), jnp.ones((5, 2))])
  there = jnp.ones(8).at[1].set(0.0)
  keys = jax.random.split(jax.random.key(1), 200)
  choose = hard_buffer.chosen_problems
  found = jax.vmap(lambda key: choose(rewards, there, 'random', key))(keys)
  found = np.asarray(found)
  # Two of the unsolved ones fit; each of the seven is as likely.
  np.testing.assert_array_equal(found.sum(axis=1), 2)
  share = found.mean(axis=0)
  assert share[1] == 0
  assert np.all(np.abs(share[there > 0] - 2 / 7) < 0.12), share


# ---- Hints.


def chunks(draw, chance, sizes, count=5, seeds=400):
  keys = jax.random.split(jax.random.key(3), seeds)
  sizes = jnp.full((seeds,), sizes, jnp.int32)
  return np.asarray(hints.told_chunks(draw, chance, sizes, count, keys))


def test_chunks_are_drawn_one_by_one():
  found = chunks('binomial', 0.3, 20)
  assert abs(found.mean() - 1.5) < 0.15
  assert abs(found.var() - 5 * 0.3 * 0.7) < 0.25
  # Of three tokens there are three chunks.
  few = chunks('binomial', 0.5, 3)
  assert few.max() == 3 and abs(few.mean() - 1.5) < 0.15
  np.testing.assert_array_equal(chunks('binomial', 0.0, 20), 0)
  np.testing.assert_array_equal(chunks('binomial', 1.0, 20), 5)
  np.testing.assert_array_equal(chunks('binomial', 1.0, 0), 0)


def test_any_number_of_chunks_is_as_likely():
  found = chunks('uniform', 0.0, 20)
  share = np.bincount(found, minlength=6) / len(found)
  assert np.all(np.abs(share - 1 / 6) < 0.07), share


def test_the_rounded_number_falls_with_the_chance():
  at = lambda chance: chunks('rounded', chance, 20, seeds=1)[0]
  # T / (n + 1) steps of each: the chance falls from 1 to 0 in a line.
  found = [at(1 - t / 12) for t in range(13)]
  assert found == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0, 0]


def test_lengths_of_hints_are_those_of_the_source():
  for size in range(1, 30):
    for limit in (1, 3, 5):
      number = min(limit, size)
      expected = [round(i / number * size) for i in range(number + 1)]
      found = hints.told_lengths(
        jnp.arange(number + 1), jnp.full(number + 1, size), limit
      )
      np.testing.assert_array_equal(found, expected, str((size, limit)))
  assert hints.told_lengths(jnp.array([0]), jnp.array([0]), 5) == 0


def test_hints_count_in_a_term_of_their_own():
  samples = Rollout(
    completion=jnp.array([[[5, 6, 7], [5, 8, 1]]]),
    mask=jnp.array([[[1.0, 1, 1], [1, 1, 0]]]),
    logps=jnp.zeros((1, 2, 3)),
    finished=jnp.ones((1, 2)),
    given=jnp.array([[[1.0, 0, 0], [1, 0, 0]]]),
  )
  batch = row_batch(0, 2, 5).replace(
    mask=jnp.array([[0.0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]),
    starts=jnp.array([2, 2]),
  )
  part = lambda coef: types.SimpleNamespace(
    hints=types.SimpleNamespace(chunks=2, coef=coef)
  )
  told = hints.told(part(0.1), batch, samples)
  np.testing.assert_array_equal(
    hints.mask_of(told), [[0, 0, 1, 0, 0], [0, 0, 1, 0, 0]]
  )
  np.testing.assert_array_equal(told.mask, [[0, 0, 1, 1, 1], [0, 0, 1, 1, 0]])
  assert hints.told(part(0.0), batch, samples) is batch
  assert not np.any(hints.mask_of(batch))
  seen = hints.seen(samples)
  close([seen['hints/mean_length'], seen['hints/frac_problems']], [1, 1])


# ---- Second answers.


def test_the_first_right_second_answer_is_the_guest():
  rewards = jnp.array(
    [[0.0, 1, 1], [0.1, 0.3, 0.3], [0.6, 0.9, 1.0], [0, 0, 0]]
  )
  np.testing.assert_array_equal(refined.chosen(rewards), [1, 1, 0, 0])


def text(written):
  tokens = vocab.encode(written)
  return Text(jnp.pad(jnp.asarray(tokens), (0, 2)), jnp.int32(len(tokens)))


@pytest.mark.parametrize(
  'feedback, right, expected',
  [
    ('verdict', False, '2+3=6?|'),
    ('verdict', True, '2+3=6%|'),
    ('truth', False, '2+3=6?5|'),
  ],
)
def test_a_second_prompt_says_what_was_wrong(feedback, right, expected):
  part = dict(feedback=feedback, right='%', wrong='?')
  c = types.SimpleNamespace(refine=types.SimpleNamespace(**part))
  size = refined.width_of(c, 6, 3)
  assert size == (11 if feedback == 'verdict' else 14)
  made = refined.second_prompt(
    c, text('2+3='), text('6'), jnp.bool_(right), text('5'), size
  )
  assert made.tokens.shape == (size,)
  assert vocab.decode(made.tokens, made.mask) == expected


@pytest.mark.parametrize(
  'marks, message',
  [
    (dict(right='ok', wrong='?'), "refine.right='ok' has to be one of the"),
    (dict(right='?', wrong='?'), 'are the same'),
    (dict(right='%', wrong='!'), "refine.wrong='!' has to be one of the"),
  ],
)
def test_marks_of_second_answers_are_characters(marks, message):
  class Part(dict):
    __getattr__ = dict.__getitem__

  with pytest.raises(ValueError, match=message.replace('(', r'\(')):
    refined.check(types.SimpleNamespace(refine=Part(marks)))
