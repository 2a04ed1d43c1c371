"""Curricula inside RL: what is drawn, what a step tells them, whole runs."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from halves import cut

from configs import rl, sft
from posttrain_jax import curricula, sweep
from posttrain_jax.core.types import Batch, Rollout, TokenSignals, TrainState
from posttrain_jax.run import build, loop
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import tasks as run_tasks
from posttrain_jax.tasks import base
from posttrain_jax.trainers import curriculum
from posttrain_jax.trainers.rl import curriculum as of_rl
from posttrain_jax.trainers.rl.experience import Experience

PARTS = dict(
  a=dict(task='addition', num_digits=1),
  b=dict(task='modular', operations='+'),
  c=dict(task='modular', modulus=7, weight=0.0),
)
SMALL = [
  ('eval.every', '0'), ('eval.samples', '0'), ('eval.num_problems', '0'),
  ('log.tensorboard', 'false'), ('optimizer.name', 'sgd'),
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(Path(__file__).parent.parent)


def load(*items, mixed=True, kind=rl):
  config = kind.get_config('smoke')
  if mixed:
    config.task = sft.mixture(PARTS)
  config_lib.override(config, [*SMALL, *items])
  return config


def at(config, **state):
  control = {'curriculum': {k: jnp.asarray(x) for k, x in state.items()}}
  return TrainState(jnp.int32(0), {}, {}, control=control)


def test_picks_follow_weights_and_leave_out_zeros():
  weights = jnp.array([0.0, 3.0, 0.0, 1.0, 0.0])
  keys = jax.random.split(jax.random.key(0), 512)
  found = np.asarray(jax.vmap(base.pick, (0, None))(keys, weights))
  counts = np.bincount(found, minlength=5)
  assert set(np.flatnonzero(counts)) == {1, 3}
  assert abs(counts[1] / 512 - 0.75) < 0.08  # four standard deviations


def test_a_mixture_with_traced_weights_is_that_with_numbers():
  task = run_tasks.make_task(load().task)
  traced = dataclasses.replace(task, weights=jnp.array(task.weights))
  keys = jax.random.split(jax.random.key(1), 16)
  both = jax.jit(
    lambda keys: [jax.vmap(x.sample)(keys) for x in (task, traced)]
  )
  jax.tree.map(np.testing.assert_array_equal, *both(keys))


def test_problems_of_a_mixture_are_drawn_by_the_weights():
  config = load(
    ('curriculum.name', 'bandit'), ('curriculum.temperature', '.01')
  )
  task = run_tasks.make_task(config.task)
  draw = jax.jit(curriculum.make_draw(config, task, 24))
  # The third task is never drawn: it is no part.
  state = at(config, mean=[0.1, 0.5])
  examples, part = draw(state, jax.random.key(0))
  assert set(np.asarray(part)) == {1}
  assert np.array_equal(examples.answer['task'], part)
  assert np.array_equal(examples.prompt_id, np.arange(24))
  # Without a choice both come.
  _, part = draw(at(config, mean=[0.5, 0.5]), jax.random.key(0))
  assert set(np.asarray(part)) == {0, 1}


@pytest.mark.long
def test_problems_of_a_set_are_dropped():
  config = load(
    ('curriculum.name', 'informative'), ('problems.count', '5'), mixed=False
  )
  task = run_tasks.make_task(config.task)
  shown = run_tasks.training_task(config, task)
  drawn, solved = np.ones(5), np.zeros(5)
  solved[3] = 0.25  # all others were tried, and never right
  state = at(config, drawn=drawn, solved=solved)
  draw = jax.jit(curriculum.make_draw(config, shown, 6))
  examples, part = draw(state, jax.random.key(0))
  assert set(np.asarray(part)) == {3}
  expected = shown.problem(3)
  for row in examples.prompt:
    np.testing.assert_array_equal(row, expected.prompt)


def test_what_a_step_tells_a_curriculum():
  """Sizes of advantages by answers, not by tokens; parts by problems."""
  rewards = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.5]])
  mask = jnp.array([[1, 1, 1], [1, 0, 0]] * 3, jnp.float32)
  sizes = jnp.array([2.0, -1.0, 0.0, 0.0, 0.5, 0.25])
  samples = Rollout(*[mask.reshape(3, 2, 3)] * 3, jnp.ones((3, 2)))
  lived = Experience(
    prompts=mask, prompt_mask=mask, samples=samples, rewards=rewards,
    part=jnp.array([0, 2, 0]), right=jnp.array([[1.0, 0], [1, 1], [0, 0]]),
  )  # fmt: skip
  advantages = sizes[:, None] * mask
  batch = Batch(*[mask] * 4, advantages=advantages)
  config = load(('curriculum.name', 'bandit'))
  # Of three tasks the second is left out.
  config.task.parts.b.weight, config.task.parts.c.weight = 0.0, 3.0
  found = {}

  def keep(state, stats, step, num_steps):
    found.update(stats._asdict(), step=step, num_steps=num_steps)
    return state

  made = dataclasses.replace(curricula.bandit(), update=keep)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(curriculum, '_bound', lambda config: made)
    follow = of_rl.make_follow(config)
  _, metrics = follow({'mean': jnp.zeros(2)}, lived, batch, 2)
  np.testing.assert_allclose(found['drawn'], [2, 1])
  np.testing.assert_allclose(found['reward'], [0.375, 1])
  np.testing.assert_allclose(found['advantage'], [(1.5 + 0.375) / 2, 0])
  np.testing.assert_allclose(found['solved'], [0.25, 1])
  assert (found['step'], found['num_steps']) == (2, config.num_steps)
  shown = {k: round(float(x), 5) for k, x in metrics.items()}
  assert shown == {
    'curriculum/a': 0.25, 'curriculum/c': 0.75,
    'curriculum/entropy': 0.56234, 'curriculum/left': 1.0,
  }  # fmt: skip


@pytest.mark.parametrize('items, mixed, told', [
  ([], False, 'weighs the tasks of a mixture .* task.name="addition" is neith'),
  ([('problems.count', '4'), ('curriculum.name', 'stages')], False,
   'goes through parts in their order, and the problems.count=4 problems'),
  ([('condition.name', 'direction')], True, 'condition.name="direction"'),
])  # fmt: skip
def test_what_cannot_be_weighed(items, mixed, told):
  config = load(('curriculum.name', 'bandit'), *items, mixed=mixed)
  with pytest.raises(ValueError, match=told):
    curriculum.check(config)


@pytest.mark.parametrize('items, told', [
  ([], None),
  ([('curriculum.name', 'bandit')], 'goes by advantages, which SFT has none'),
  ([('data.source', 'jsonl'), ('curriculum.name', 'stages')],
   'draws problems of in-graph tasks'),
  ([('problems.count', '4'), ('curriculum.name', 'stages')],
   'goes through parts in their order'),
])  # fmt: skip
def test_what_sft_cannot_weigh(items, told):
  trainer, config = build.trainers.kind('sft'), load(*items, kind=sft)
  if told is None:
    assert trainer.check(config) is None and trainer.controllers(config) == {}
    return
  with pytest.raises(ValueError, match=told):
    trainer.check(config)


def test_what_a_step_of_sft_tells_a_curriculum(monkeypatch):
  """Rows: likeliest throughout, but for a token; likeliest where it counts;
  left out; of another part."""
  mask = jnp.array([[1, 1, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]], jnp.float32)
  top = jnp.array([[1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0]], jnp.float32)
  logps = -jnp.array([[1, 2, 3], [9, 1, 2], [9, 9, 9], [0.5, 1.5, 9.0]])
  found = TokenSignals(logps=logps * mask, is_top=top)
  monkeypatch.setattr(curriculum, 'score', lambda *args, **keys: found)
  config = load(('curriculum.name', 'skill_profile'), kind=sft)
  config.task.parts.b.weight, config.task.parts.c.weight = 0.0, 3.0
  made = {}

  def keep(state, stats, step, num_steps):
    made.update(stats._asdict(), step=step, num_steps=num_steps)
    return {'mean': stats.solved}

  own = dataclasses.replace(curricula.skill_profile(), update=keep)
  monkeypatch.setattr(curriculum, '_bound', lambda config: own)
  carry = curriculum.make_carry(config, None)
  batch = Batch(*[mask] * 4, extras={'part': jnp.array([0, 2, 2, 2])})
  state = TrainState(jnp.int32(3), {}, {})
  same, after, metrics = carry.enter({'mean': jnp.zeros(2)}, batch, state)
  assert same is batch and metrics['curriculum/c'] == 0.75
  np.testing.assert_allclose(made['drawn'], [1, 2])
  np.testing.assert_allclose(made['reward'], [-2, -(1.5 + 1) / 2])
  np.testing.assert_allclose(after['mean'], [0, 1])
  np.testing.assert_allclose(made['advantage'], [0, 0])
  assert (made['step'], made['num_steps']) == (4, config.num_steps)


@pytest.mark.parametrize('name, more', [
  ('none', 0), ('stages', 0), ('skill_profile', 1)
])  # fmt: skip
def test_sft_reads_its_rows_only_where_that_is_asked(name, more):
  config = load(('curriculum.name', name), kind=sft)
  sizes = SimpleNamespace(rows=8, row_tokens=9, prompts_per_step=8,
                          max_new_tokens=5)  # fmt: skip
  passes = build.trainers.kind('sft').forwards(config, sizes, ['policy'])
  assert passes.count((1.0, 'policy', 8, 9)) == more


@pytest.mark.long
@pytest.mark.parametrize('name, source', [
  ('stages', 'oracle'), ('skill_profile', 'rollouts')
])  # fmt: skip
def test_sft_draws_by_the_weights(name, source):
  config = load(
    ('curriculum.name', name), ('collect.name', source),
    ('group_size', '2' if source == 'rollouts' else '1'),
    kind=sft,
  )  # fmt: skip
  state, curves = jax.jit(sweep.make_train(config))(jax.random.key(0))
  assert curves['curriculum/a'].shape == (4,)
  if name == 'stages':  # one task after the other, of four steps two each
    np.testing.assert_allclose(curves['curriculum/a'], [1, 1, 0, 0])
    return
  # A fresh model writes hardly a row of its own likeliest tokens.
  mean = np.asarray(state.control['curriculum']['mean'])
  assert mean.shape == (2,) and np.all((mean >= 0) & (mean < 1))
  assert np.all(np.isfinite(curves['loss']))


@pytest.mark.long
def test_weights_are_resumed_to_the_bit(tmp_path):
  config = load(('curriculum.name', 'bandit'), ('curriculum.start', '1.0'))
  _, straight, _ = loop.train(config, tmp_path / 'straight')
  cut(tmp_path / 'straight', tmp_path / 'halves')
  _, resumed, _ = loop.train(config, tmp_path / 'halves')
  assert int(resumed.step) == 4
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)
  mean = np.asarray(resumed.control['curriculum']['mean'])
  assert mean.shape == (2,) and np.all(mean < 1.0)


@pytest.mark.long
@pytest.mark.parametrize('name, mixed, items', [
  ('bandit', True, []),
  ('informative', False, [('problems.count', '40'), ('task.num_digits', '1')]),
])  # fmt: skip
def test_seeds_side_by_side_have_their_own_weights(name, mixed, items):
  config = load(('curriculum.name', name), *items, mixed=mixed)
  run = sweep.make_train(config)
  keys = jnp.stack([jax.random.key(i) for i in range(2)])
  states, curves = jax.jit(jax.vmap(run))(keys)
  alone, curve = jax.jit(run)(keys[1])
  own = jax.tree.map(lambda x: x[1], states.control)
  for mine, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(alone.control)):
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
  left = 'curriculum/left'
  np.testing.assert_allclose(curves[left][1], curve[left], atol=1e-6)
  if name == 'informative':  # a fresh model is mostly wrong
    assert curve[left][0] == 1.0 and curve[left][-1] < 1.0


def test_without_one_there_is_nothing():
  config = load()
  assert curriculum.make_draw(config, None, 4) is None
  assert of_rl.make_follow(config) is None
  assert build.trainers.kind('rl').controllers(config) == {}
