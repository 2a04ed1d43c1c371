"""Many steps in one dispatch: no host in between."""

import functools

import jax
import jax.numpy as jnp
import recipe_runs

from posttrain_jax.models import transformer
from posttrain_jax.run import build, drivers

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
