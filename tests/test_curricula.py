"""Curricula: weights by hand, what they share, and a bandit at work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import curricula
from posttrain_jax.core.resolve import hparams_of, lookup, part, resolve

ALL = curricula.__all__
ORDER = curricula.ORDERED
NUMBERS = {
  name: {
    k: x for k, x in hparams_of(lookup(curricula, name)).items()
    if not isinstance(x, str)
  }
  for name in ALL
}  # fmt: skip


def close(actual, expected, tolerance=1e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def stats(count, reward=0.0, advantage=0.0, solved=0.0):
  count = np.asarray(count, np.float32)
  full = lambda x: np.broadcast_to(np.float32(x), count.shape)
  return curricula.Stats(count, full(reward), full(advantage), full(solved))


def weights(curriculum, seen, count, num_steps=None):
  """The weights of the first step, and of those after each of the stats."""
  state = curriculum.init(count)
  found = [np.asarray(curriculum.weights(state))]
  for step, given in enumerate(seen, 1):
    state = curriculum.update(state, given, step, num_steps or len(seen))
    found.append(np.asarray(curriculum.weights(state)))
  return found


NONE = stats([0, 0, 0])


@pytest.mark.parametrize('name, keys, expected', [
  ('fixed', {}, [[1, 1, 1]] * 4),
  ('stages', {}, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]),
  ('stages', {'keep': 0.25},
   [[1, 0, 0], [0.25, 1, 0], [0.25, 0.25, 1], [0.25, 0.25, 1]]),
  # The centre goes over 0, 2/3, 4/3 and 2.
  ('easy_to_hard', {},
   [[1, 0, 0], [1 / 3, 2 / 3, 0], [0, 2 / 3, 1 / 3], [0, 0, 1]]),
  ('easy_to_hard', {'width': 2.0},
   [[1, 0.5, 0], [2 / 3, 5 / 6, 1 / 3], [1 / 3, 5 / 6, 2 / 3], [0, 0.5, 1]]),
  ('falling_share', {},
   [[1, 0, 0], [2 / 3, 1 / 6, 1 / 6], [1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5]]),
  ('falling_share', {'start': 0.5, 'end': 0.5}, [[0.5, 0.25, 0.25]] * 4),
])  # fmt: skip
def test_weights_by_the_step(name, keys, expected):
  made = getattr(curricula, name)(**keys)
  close(weights(made, [NONE] * 3, 3), expected)
  assert not made.reads


def softmax(x):
  return np.exp(x) / np.exp(x).sum()


def test_bandit_by_hand():
  made = curricula.bandit(rate=0.5, temperature=0.4, floor=0.3)
  seen = [stats([2, 1], advantage=[0.8, 0.0]), stats([0, 3], advantage=[9, 1])]
  shared = lambda value: 0.7 * softmax(np.array(value) / 0.4) + 0.15
  # The first part is not drawn in the second step, and keeps its value.
  expected = [[0.5, 0.5], shared([0.4, 0.0]), shared([0.4, 0.5])]
  close(weights(made, seen, 2), expected)


def test_bandit_likes_what_is_right_half_of_the_time():
  """|advantage| of verdicts over their spread is 2 sqrt(p (1 - p))."""
  chances = np.array([0.02, 0.3, 0.5, 0.9])
  size = 2 * np.sqrt(chances * (1 - chances))
  found = weights(
    curricula.bandit(), [stats(np.ones(4), advantage=size)] * 9, 4
  )
  assert np.argmax(found[-1]) == 2
  close(found[-1], softmax(size * (1 - 0.5**9)), 1e-5)


def test_learnable_and_skill_profile_by_hand():
  seen = [stats([1, 1, 0], solved=[1.0, 0.5, 0.9])] * 2
  found = weights(curricula.learnable(floor=0.1), seen, 3)
  mean = np.array([0.875, 0.5, 0.5])  # from 1/2, half of the way twice
  close(found[0], [1.1] * 3)
  close(found[2], 4 * mean * (1 - mean) + 0.1)
  found = weights(curricula.skill_profile(rate=1.0, smoothing=0.25), seen, 3)
  close(found[2], [0.25, 0.75, 1.25])
  # All solved and no smoothing: nothing would be left to draw.
  sure = weights(
    curricula.skill_profile(rate=1.0, smoothing=0.0),
    [stats([1, 1], solved=1)],
    2,
  )
  close(sure[1], [1, 1])


@pytest.mark.parametrize('drop, tries, expected', [
  ('all_wrong', 1, [0, 1, 1, 1]),
  ('zero_variance', 1, [0, 1, 0, 1]),
  ('all_wrong', 2, [1, 1, 1, 1]),
])  # fmt: skip
def test_informative_drops_what_taught_nothing(drop, tries, expected):
  made = curricula.informative(drop=drop, tries=tries)
  seen = stats([1, 1, 1, 0], solved=[0.0, 0.5, 1.0, 0.0])
  first, after = weights(made, [seen], 4)
  close(first, [1] * 4)
  close(after, expected)


def test_informative_is_judged_by_all_its_tries():
  made = curricula.informative(drop='zero_variance', tries=2)
  seen = [stats([1, 1], solved=[0.0, 1.0]), stats([1, 1], solved=[0.125, 1.0])]
  close(weights(made, seen, 2)[-1], [1, 0])
  # All dropped: all come back.
  dull = stats([2, 2], solved=[0.0, 1.0])
  close(weights(made, [dull], 2)[-1], [1, 1])


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_was_not_drawn_or_is_not_finite_is_not_remembered(name, bad):
  made = getattr(curricula, name)()
  seen = stats([1, 1, 1], advantage=0.5, solved=0.5)
  spoiled = [stats([1, 1, 1], bad, bad, bad), stats([0, 0, 0], 9.0, 9.0, 9.0)]
  plain = weights(made, [seen] * 2, 3, num_steps=9)
  for other in spoiled:
    found = weights(made, [seen, other], 3, num_steps=9)
    assert np.all(np.isfinite(found))
    if made.reads:
      close(found[2], found[1])
    else:
      close(found, plain)


@pytest.mark.parametrize('name', ALL)
def test_a_whole_run_compiles_with_traced_numbers(name):
  make = getattr(curricula, name)
  rng = np.random.default_rng(0)
  seen = curricula.Stats(
    rng.integers(0, 3, (5, 4)).astype(np.float32),
    *rng.random((3, 5, 4)).astype(np.float32),
  )

  @jax.jit
  def run(hparams, seen, num_steps):
    made = make(**hparams)

    def step(carry, given):
      state, done = carry
      state = made.update(state, given, done + 1, num_steps)
      return (state, done + 1), made.weights(state)

    start = (made.init(4), jnp.int32(0))
    return jax.lax.scan(step, start, seen)[1]

  found = run(jax.tree.map(jnp.float32, NUMBERS[name]), seen, jnp.int32(5))
  each = [curricula.Stats(*(x[i] for x in seen)) for i in range(5)]
  close(found, weights(make(), each, 4)[1:], 1e-5)
  assert found.dtype == jnp.float32 and found.shape == (5, 4)
  assert np.all(found >= 0) and np.all(found.max(axis=1) > 0)


@pytest.mark.parametrize('name', ALL)
def test_curricula_are_parts_of_a_config(name):
  entry = part(curricula, name)
  assert entry.pop('name') == name
  made = resolve(curricula, name, **entry)()
  assert set(made.reads) <= set(curricula.Stats._fields)
  assert bool(made.reads) == (name not in ORDER and name != 'fixed')
  for count in (1, 3):
    state = made.init(count)
    shapes = {x.shape for x in jax.tree.leaves(state)}
    assert shapes == {(count,)} and made.weights(state).shape == (count,)
