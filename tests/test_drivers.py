"""Many steps in one dispatch: no host in between, and seeds side by side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import recipe_runs

from posttrain_jax import build, drivers
from posttrain_jax.models import transformer

SIZES = [('prompts_per_step', '4'), ('group_size', '4')]


@functools.cache
def run():
  return build.build(recipe_runs.load('rl', 'grpo', *SIZES))


def fresh(seed):
  params = transformer.init(jax.random.key(seed), run().model)
  return run().init({'policy': params})


def test_steps_of_one_call_touch_no_host():
  driver = drivers.InGraph(run().step, seed=0, steps_per_call=3)
  state, first, done = driver.advance(fresh(0), 0, 7)
  count = jax.device_put(jnp.int32(3))
  before = jax.tree.leaves(state.params)[0]
  with jax.transfer_guard('disallow'):
    state, metrics = driver._chunk(state, count)
    jax.block_until_ready((state, metrics))
  assert done == 3 and state.step == 6
  # The state was given away, not copied.
  assert before.is_deleted()
  assert metrics['loss'].shape == first['loss'].shape == (3,)


def test_runs_of_several_seeds_at_once_are_those_runs():
  """Whole steps mapped over (state, key): the same as one after the other."""

  def steps(state, key):
    return jax.lax.scan(run().step, state, jax.random.split(key, 2))

  states = [fresh(seed) for seed in range(3)]
  keys = jax.random.split(jax.random.key(5), 3)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
  together, metrics = jax.jit(jax.vmap(steps))(stacked, keys)
  alone = jax.jit(steps)
  for index, (state, key) in enumerate(zip(states, keys)):
    state, expected = alone(state, key)
    for name in ('loss', 'reward', 'grad_norm', 'completions/mean_length'):
      np.testing.assert_allclose(
        metrics[name][index], expected[name], rtol=1e-4, atol=1e-5
      )
    for mine, theirs in zip(
      jax.tree.leaves(together.params), jax.tree.leaves(state.params)
    ):
      np.testing.assert_allclose(mine[index], theirs, atol=2e-5)
  assert len(np.unique(metrics['entropy'])) == 6, 'seeds and steps differ'
