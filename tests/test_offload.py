"""State in the host's memory: the same numbers, moved where it is said."""

import jax
import numpy as np
import pytest
import recipe_runs

from posttrain_jax.core import sharding, trees
from posttrain_jax.run import build, offload
from posttrain_jax.run import state as state_lib
from posttrain_jax.run.drivers import make_chunk


def load(*items):
  return recipe_runs.load('preference', 'dpo', *recipe_runs.SIZES, *items)


ON = (('offload.ref', 'true'), ('offload.moments', 'true'))


def kinds(state):
  leaves = dict(zip(trees.names(state), jax.tree.leaves(state)))
  return {name: x.sharding.memory_kind for name, x in leaves.items()}


@pytest.mark.long
def test_steps_are_the_same_and_arrays_stay_where_they_were():
  def run(*items):
    config = load(*items)
    made = build.build(config)
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
      state = state_lib.initial_state(made, mesh, config)
      before = kinds(state)
      chunk = jax.jit(make_chunk(made.step, 2))
      state, metrics = chunk(state, jax.random.key(0), 2)
    assert kinds(state) == before
    return state, metrics, before

  plain, numbers, _ = run()
  found, seen, where = run(*ON)
  for name, kind in where.items():
    moved = (
      name.startswith(('ref_params', 'opt_state')) and name[-5:] != 'count'
    )
    assert kind == ('pinned_host' if moved else 'device'), name
  for name in numbers:
    np.testing.assert_array_equal(seen[name], numbers[name])
  for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(plain)):
    np.testing.assert_array_equal(mine, theirs)


def test_what_has_no_use_is_refused(monkeypatch):
  config = recipe_runs.load('sft', 'sft', ('offload.ref', 'true'))
  with pytest.raises(ValueError, match='has no frozen model'):
    build.build(config)
  # A device without that memory.
  monkeypatch.setattr(offload, 'KIND', 'attic')
  with pytest.raises(ValueError, match='no memory "attic", only device'):
    build.build(load(ON[1]))


def test_what_lies_where():
  config = load(ON[0])
  shapes = jax.eval_shape(
    lambda: {'ref_params': {'w': np.ones(3)}, 'opt_state': {'mu': np.ones(3)}}
  )
  mesh = sharding.make_mesh(config.mesh)
  place = sharding.state_shardings(shapes, {}, mesh)
  found = offload.placed(config, shapes, place)
  assert found['ref_params']['w'].memory_kind == 'pinned_host'
  assert found['opt_state']['mu'].memory_kind in ('device', None)
  assert offload.wrapped(sum, load()) is sum
