"""Keys of seeds: as ever up to 32 bits, and different beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain_jax.core import keys

WORDS = st.integers(0, 2**32 - 1)


def data(key):
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


@settings(deadline=None, max_examples=50)
@given(WORDS)
def test_seeds_of_one_word_have_the_key_that_they_always_had(seed):
  assert data(keys.seed_key(seed)) == data(jax.random.key(seed))
  run = jax.random.fold_in(jax.random.key(seed), 0)
  assert data(keys.run_key(seed)) == data(run)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, keys.MOST), st.integers(0, keys.MOST))
def test_seeds_that_differ_have_keys_that_differ(a, b):
  same = data(keys.run_key(a)) == data(keys.run_key(b))
  assert same == (a == b)


@settings(deadline=None, max_examples=50)
@given(WORDS, st.integers(1, 2**32 - 1), st.integers(0, 100))
def test_the_high_word_counts(low, high, step):
  long = keys.seed_key(low + (high << 32))
  short = keys.seed_key(low)
  # Nor is it a key that the short seed's run uses for something else.
  used = [short, *(jax.random.fold_in(short, i) for i in (0, 1, 2, step, high))]
  assert data(long) not in [data(key) for key in used]


@pytest.mark.parametrize('seed', [-1, -(2**31), 2**64])
def test_what_is_no_seed(seed):
  with pytest.raises(ValueError, match='is not in 0..2\\*\\*64-1; nearest'):
    keys.run_key(seed)


def test_arrays_and_traced_seeds_are_those_of_one_word():
  expected = data(jax.random.key(7))
  assert data(keys.seed_key(jnp.int32(7))) == expected
  assert data(keys.seed_key(np.uint32(7))) == expected
  traced = jax.jit(lambda seed: jax.random.key_data(keys.seed_key(seed)))
  assert tuple(traced(jnp.uint32(7)).tolist()) == expected
