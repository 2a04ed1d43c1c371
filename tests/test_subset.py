"""A limited number of problems: the same ones again, each with its answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import tasks as run_tasks
from posttrain_jax.tasks import split
from posttrain_jax.tasks.subset import Subset

TASK = tasks.make('modular', modulus=31)


def prompts(task, count=200):
  keys = jax.random.split(jax.random.key(3), count)
  return np.asarray(jax.jit(jax.vmap(task.sample))(keys).prompt)


def test_no_more_problems_than_asked_for_and_none_held_out():
  seen = prompts(Subset(TASK, 5, fraction=0.5))
  different = np.unique(seen, axis=0)
  assert 1 < len(different) <= 5
  again = np.unique(prompts(Subset(TASK, 5, fraction=0.5)), axis=0)
  np.testing.assert_array_equal(different, again)
  other = np.unique(prompts(Subset(TASK, 5, seed=1, fraction=0.5)), axis=0)
  assert different.tolist() != other.tolist()
  few = Subset(TASK, 5, fraction=0.5)
  drawn = jax.jit(jax.vmap(few.problem))(jnp.arange(5))
  held = jax.vmap(lambda x: split.is_heldout(TASK, x, 0.5))(drawn)
  assert not np.any(held)
  assert len(np.unique(prompts(TASK), axis=0)) > 50


def test_a_problem_has_one_demonstration_and_it_is_right():
  few = Subset(TASK, 3)
  example = jax.jit(few.problem)(1)
  solve = jax.jit(few.solve)
  one = solve(example, jax.random.key(0))
  two = solve(example, jax.random.key(9))
  np.testing.assert_array_equal(one.tokens, two.tokens)
  verdict = few.verify(example, one.tokens, one.mask)
  assert float(verdict['reward']) == 1.0
  assert few.completion_length == TASK.completion_length


def test_the_seed_may_be_traced():
  draw = lambda seed: Subset(TASK, 4, seed).problem(2).prompt
  found = jax.jit(jax.vmap(draw))(jnp.arange(3))
  np.testing.assert_array_equal(found[1], draw(1))


def test_the_count_may_be_traced():
  """One program for data sets of several sizes."""
  keys = jax.random.split(jax.random.key(3), 50)
  draw = lambda count: jax.vmap(Subset(TASK, count).sample)(keys).prompt
  found = jax.jit(jax.vmap(draw))(jnp.array([2.0, 7.0]))
  for index, count in enumerate((2, 7)):
    np.testing.assert_array_equal(found[index], draw(count))
  c = config_lib.load('configs/sft.py:smoke', [('problems.count', '4')])
  task = tasks.make('modular')

  def prompt(count):
    traced = config_lib.with_values(c, {'problems.count': count})
    few = run_tasks.training_task(traced, task)
    return few.sample(jax.random.key(1)).prompt

  expected = Subset(task, 9, c.problems.seed, c.heldout_fraction)
  np.testing.assert_array_equal(
    jax.jit(prompt)(9.0), expected.sample(jax.random.key(1)).prompt
  )


@pytest.mark.parametrize('paradigm', ['sft', 'rl', 'preference'])
def test_a_run_trains_on_them_and_is_judged_on_others(paradigm):
  c = config_lib.load(
    f'configs/{paradigm}.py:smoke',
    [('problems.count', '2'), ('task.num_digits', '2')],
  )
  run = build.build(c)
  key = jax.random.key(0)
  if paradigm != 'rl':
    start = {'policy': build.transformer.init(key, run.model)}
    batch, _ = jax.eval_shape(run.collect, run.init(start), key)
    assert batch.mask.shape[0] == run.sizes.rows
  assert not isinstance(run.evaluators[''].task, Subset)
  # At most two problems among all rows of many steps.
  shown = run_tasks.training_task(c, run.task)
  assert isinstance(shown, Subset)
  assert len(np.unique(prompts(shown), axis=0)) <= 2


@pytest.mark.parametrize(
  'spec, items, told',
  [
    (
      'configs/sft.py:smoke',
      [('problems.count', '-1')],
      'problems.count=-1 is not',
    ),
    (
      'configs/rl.py:smoke,task=text:chain_sum',
      [('problems.count', '8')],
      'is of in-graph tasks',
    ),
  ],
)
def test_counts_that_cannot_work_are_named(spec, items, told):
  with pytest.raises(ValueError, match=told):
    build.build(config_lib.load(spec, items))
