"""`best_of` by the score of a reward model: the verifier is not asked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_collect import FIELDS, GROUP, MODEL, PROBLEMS, WORLD, E, R, W, X
from test_tasks import quick_jit

from posttrain_jax import collect, sweep
from posttrain_jax.collect.setting import Setting
from posttrain_jax.core.types import TrainState
from posttrain_jax.evals.measures.ranking import ranked
from posttrain_jax.models import transformer
from posttrain_jax.rewards import answers
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers import sft

PLAN = jnp.array([(R, W, X), (W, R, R), (R, R, W), (E, W, R)])
SCORER = dataclasses.replace(MODEL, value_head=True)


def test_the_judge_chooses_whatever_the_verifier_says(monkeypatch):
  scores = jnp.array([(0.1, 0.3, 0.2), (-1, -3, -2), (5, 5, 4), (0, 1, 2.0)])
  monkeypatch.setattr(Setting, 'scored', lambda *args: scores)
  world = dataclasses.replace(WORLD, plan=PLAN, order=jnp.arange(PROBLEMS))

  @quick_jit
  def source(key):
    found = collect.best_of(world, None, key, judge='reward', threshold=-2.0)
    some, _ = collect.best_of(world, None, key, judge='reward')
    return *found, some.mask, world.answered(None, 'policy', key, GROUP)

  batch, seen, some, (examples, samples) = source(jax.random.key(0))
  np.testing.assert_allclose(batch.extras['scores'], [0.3, -1, 5, 2])
  assert seen['reward'] == pytest.approx(float(scores.mean()))
  best = [1, 0, 0, 2]
  for row, prompt in enumerate(examples.prompt):
    chosen = samples.completion[row, best[row]]
    assert np.array_equal(batch.tokens[row], np.append(prompt, chosen))
  assert np.array_equal(some.any(axis=1), [1, 0, 1, 1])


@pytest.mark.long
def test_a_score_is_that_of_rewards():
  world = Setting(**{**FIELDS, 'models': {'policy': MODEL, 'judge': SCORER}})
  params = transformer.init(jax.random.key(0), MODEL)
  scorer = jax.tree.map(
    lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape),
    transformer.init(jax.random.key(1), SCORER),
  )  # a head begins at 0
  state = TrainState(
    step=jnp.int32(0), params=params, opt_state=None, others={'judge': scorer}
  )

  @quick_jit
  def both(key):
    examples, samples = world.answered(state, 'policy', key, 2)
    found = world.scored(state, 'judge', examples, samples)
    return found, answers.answer_scores(scorer, SCORER, examples, samples)

  found, expected = both(jax.random.key(2))
  assert found.shape == (PROBLEMS, 2) and np.ptp(found) > 0
  np.testing.assert_allclose(found, expected, atol=1e-6)


def config(*items):
  found = config_lib.load('configs/sft.py:recipe=raft,smoke', items)
  found.others.reward = ''
  return found


def test_a_judge_is_a_model_of_the_run():
  found = config(('collect.judge', 'reward'))
  sft.check(found)
  assert sft.scorers(found) == ('reward',) and not sft.scorers(config())
  with pytest.raises(ValueError, match='collect.judge="reward.*Did you mean'):
    sft.check(config(('collect.judge', 'rewards')))


@pytest.mark.slow
def test_a_run_imitates_what_its_judge_prefers():
  found = config(('collect.judge', 'reward'), ('collect.threshold', '-1e9'))
  program = sweep.Program(found, [])
  assert program.run.models['reward'].value_head
  assert not program.run.models['policy'].value_head


def test_pairs_that_scores_rank_right():
  scores = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0], [4.0, 5.0, 6.0]])
  right = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
  # One of two, a tie and a loss, no pair: 1.5 of 4.
  assert ranked(scores, right) == pytest.approx(1.5 / 4)
  assert ranked(scores, jnp.ones((3, 3))) == 0.0
