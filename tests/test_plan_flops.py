"""FLOPs of jaxprs, by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

from posttrain_jax.run.plan import flops
from posttrain_jax.trainers import guard

A = jax.ShapeDtypeStruct((4, 8), jnp.float32)
B = jax.ShapeDtypeStruct((8, 8), jnp.float32)
ONE = 2.0 * 4 * 8 * 8  # of A @ B


def counted(function, *shapes, turns=1.0):
  return flops.count(jax.make_jaxpr(function)(*shapes), turns)


def test_a_product_is_two_operations_a_number_and_term():
  assert counted(lambda a, b: a @ b, A, B).total == ONE


def test_batches_and_transposes_count_what_they_make():
  batched = jax.ShapeDtypeStruct((3, 4, 8), jnp.float32)
  made = counted(lambda a, b: jnp.einsum('xik,kj->xji', a, b), batched, B)
  assert made.total == 3 * ONE


def test_a_scan_counts_each_turn():
  def function(a, b):
    return jax.lax.scan(lambda x, _: (x @ b, None), a, None, length=7)[0]

  found = counted(function, A, B)
  assert (found.total, found.once) == (7 * ONE, ONE)


def test_loops_of_a_known_length_count_each_turn():
  fixed = lambda a, b: jax.lax.fori_loop(2, 9, lambda _, x: x @ b, a)
  assert counted(fixed, A, B).total == 7 * ONE

  def early(a, b):  # as a rollout: until all have stopped, at most 11 tokens
    going = lambda c: (c[0] < 11) & ~jnp.all(c[1] > 1e9)
    turn = lambda c: (c[0] + 1, c[1] @ b)
    return jax.lax.while_loop(going, turn, (jnp.int32(1), a))

  assert counted(early, A, B).total == 10 * ONE


def test_loops_one_after_another_begin_where_the_last_ended():
  def stages(a, b):
    carry = (jnp.int32(1), a)
    for end in (4, 9):
      going = lambda c, end=end: c[0] < end
      carry = jax.lax.while_loop(going, lambda c: (c[0] + 1, c[1] @ b), carry)
    return carry

  assert counted(stages, A, B).total == 8 * ONE
  assert counted(jax.jit(stages), A, B).total == 8 * ONE


def test_a_loop_of_a_turn_or_none_counts_once():
  held = lambda a, b, when: guard.once(when, lambda x, _: x @ b, a)
  when = jax.ShapeDtypeStruct((), jnp.bool_)
  found = counted(held, A, B, when, turns=99.0)
  assert (found.total, found.unknown) == (ONE, 0)


def test_a_loop_without_an_end_takes_the_turns_it_is_given():
  def slots(a, b):
    return jax.lax.while_loop(lambda x: ~jnp.all(x > 1), lambda x: x @ b, a)

  found = counted(slots, A, B, turns=5.0)
  assert (found.total, found.unknown) == (5 * ONE, 1)


def test_of_branches_the_largest_counts():
  def either(a, b, which):
    branches = [lambda a: a, lambda a: a @ b, lambda a: a @ b @ b]
    return jax.lax.switch(which, branches, a)

  which = jax.ShapeDtypeStruct((), jnp.int32)
  assert counted(either, A, B, which).total == 2 * ONE


@pytest.mark.parametrize('again', [False, True])
def test_a_gradient_is_two_more_products_and_recomputation_a_third(again):
  def loss(a, b):
    inner = lambda a: jnp.tanh(jnp.tanh(a @ b) @ b)
    return jnp.sum((jax.checkpoint(inner) if again else inner)(a))

  # With the loss: alone, what is computed again is all of the forward pass.
  found = counted(jax.value_and_grad(loss, argnums=(0, 1)), A, B)
  assert found.total == (6 + 2 * again) * ONE


@pytest.mark.parametrize('kept', [False, True])
def test_what_nothing_reads_is_not_counted(kept):
  """The policy keeps what the call finds: its product stays in the backward
  pass, in a call without results."""
  policies = jax.checkpoint_policies
  policy = policies.save_only_these_names('found')
  if not kept:
    policy = policies.nothing_saveable
  product = jax.jit(lambda a, b: checkpoint_name(a @ b, 'found'))

  def loss(a, b):
    inner = jax.checkpoint(lambda a: jnp.tanh(product(a, b)), policy=policy)
    return jnp.sum(jnp.sin(inner(a)))

  found = counted(jax.value_and_grad(loss), A, B)
  assert found.total == (2 if kept else 3) * ONE


def test_shards_are_counted_together():
  kinds = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((4,), ('x',), kinds, devices=jax.devices()[:4])
  spec, whole = jax.sharding.PartitionSpec('x'), jax.sharding.PartitionSpec()
  split = jax.shard_map(
    lambda a, b: a @ b, mesh=mesh, in_specs=(spec, whole), out_specs=spec
  )
  assert counted(split, A, B).total == ONE
  # Over one axis of two: inside, what the other splits is whole.
  mesh = jax.make_mesh((2, 2), ('x', 'y'), 2 * kinds, devices=jax.devices()[:4])
  part = jax.shard_map(
    lambda a, b: a @ b, mesh=mesh, in_specs=(spec, whole), out_specs=spec,
    axis_names={'x'},
  )  # fmt: skip
  with jax.set_mesh(mesh):
    assert counted(part, A, B).total == ONE


def test_experts_count_the_rows_they_are_given():
  rows = jax.ShapeDtypeStruct((6, 8), jnp.float32)
  experts = jax.ShapeDtypeStruct((3, 8, 5), jnp.float32)
  sizes = jax.ShapeDtypeStruct((3,), jnp.int32)
  found = counted(jax.lax.ragged_dot, rows, experts, sizes)
  assert found.total == 2.0 * 6 * 8 * 5
