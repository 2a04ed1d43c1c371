"""Slots: few of them serve many completions, and nobody can tell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rollout import LENGTH, MODEL, USUAL, examples, params, run

from posttrain_jax import rollout
from posttrain_jax.rollout import decoders, runs
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

__all__ = ['examples', 'params']  # fixtures

GROUP = 4


@functools.cache
def program(slots, eos):
  return jax.jit(
    lambda params, e: rollout.generate(
      params, MODEL, e.prompt, e.prompt_mask, jax.random.key(7),
      group_size=GROUP, max_new_tokens=LENGTH, decoder=decoders.sample,
      eos_id=eos, prompt_ids=e.prompt_id, slots=slots,
    ),
    **USUAL,
  )  # fmt: skip


def same(found, expected):
  for name in ('completion', 'mask', 'finished'):
    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
  np.testing.assert_allclose(found.logps, expected.logps, atol=1e-5)


@pytest.fixture(scope='module')
def common(params, examples):
  """A token that ends many completions, some of them at once."""
  drawn = run(params, examples).completion
  return int(np.bincount(np.ravel(drawn)).argmax())


@pytest.mark.parametrize(
  'slots',
  [
    3,
    *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8, 23)),
  ],
)
def test_any_number_of_slots_gives_the_same(params, examples, common, slots):
  expected = run(params, examples, GROUP, eos=common)
  assert 4 < expected.finished.sum() < 24
  assert expected.mask[:, :, 1].sum() < 24
  same(program(slots, common)(params, examples), expected)


def test_slots_of_runs_side_by_side(params, examples, common):
  """Runs end at different steps, and each is what it is alone."""
  keys = jax.random.split(jax.random.key(3), 3)

  def sample(params, e, key, slots):
    return rollout.generate(
      params, MODEL, e.prompt, e.prompt_mask, key, group_size=GROUP,
      max_new_tokens=LENGTH, decoder=decoders.sample, eos_id=common,
      prompt_ids=e.prompt_id, slots=slots,
    )  # fmt: skip

  body = functools.partial(sample, slots=3)
  spread = jax.jit(runs.spread(body, (None, None, 0)), **USUAL)
  found = spread(params, examples, keys)
  alone = jax.jit(functools.partial(sample, slots=0), **USUAL)
  lengths = found.mask.sum((1, 2, 3))
  assert len(set(lengths.tolist())) == 3
  for i, key in enumerate(keys):
    same(jax.tree.map(lambda x, i=i: x[i], found), alone(params, examples, key))


def test_completions_that_never_end_or_end_at_once(params, examples):
  same(program(3, -1)(params, examples), run(params, examples, GROUP, eos=-1))
  always = lambda logits, keys: (
    jnp.full(keys.shape, 5, jnp.int32),
    jnp.zeros(keys.shape),
  )
  samples = jax.jit(
    lambda params, e: rollout.generate(
      params, MODEL, e.prompt, e.prompt_mask, jax.random.key(7),
      group_size=2, max_new_tokens=LENGTH, decoder=always, eos_id=5, slots=2,
    )
  )(params, examples)  # fmt: skip
  assert samples.mask.sum() == samples.finished.sum() == 12
  assert (samples.completion[:, :, 0] == 5).all()


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(order=st.permutations(range(6)))
def test_the_order_of_prompts_moves_with_them(params, examples, common, order):
  order = jnp.array(order)
  whole = program(3, common)(params, examples)
  moved = program(3, common)(params, jax.tree.map(lambda x: x[order], examples))
  same(moved, jax.tree.map(lambda x: x[order], whole))


def test_slots_on_a_mesh(params, examples, common):
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((4,), ('data',), axis_types=auto)
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  four = jax.tree.map(lambda x: x[:4], examples)
  placed = jax.device_put(four, rows)
  expected = program(8, common)(params, four)
  found = program(8, common)(jax.device_put(params, whole), placed)
  same(jax.device_get(found), jax.device_get(expected))


def test_slots_below_zero_are_refused():
  with pytest.raises(ValueError, match='slots=-1'):
    build.build(config_lib.load('configs/rl.py:smoke', [('slots', '-1')]))
