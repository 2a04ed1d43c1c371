"""What the rows of a step take is counted once, by every source."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from test_collect import FIELDS, MODEL, PROBLEMS

from posttrain_jax import collect, tasks
from posttrain_jax.collect.setting import Setting
from posttrain_jax.core.types import TrainState
from posttrain_jax.models import transformer
from posttrain_jax.tasks import conditioned

# Sources that never ask the oracle, with what makes them so.
OWN = {
  'best_of': {}, 'best_vs_worst': {}, 'counterfactual': {}, 'labelled': {},
  'rollouts': {}, 'feedback': {'oracle': False}, 'principle_pairs': {},
  'retries': {},
}  # fmt: skip
ASKING = {
  'feedback': {}, 'on_policy_mix': {}, 'oracle': {}, 'oracle_and_rollouts': {},
  'oracle_vs_rollout': {}, 'oracle_with_wrong': {}, 'question_free': {},
  'retries': {'pick': 'oracle'}, 'self_rehearsal': {},
}  # fmt: skip

BEHIND = {'feedback': 'feedback', 'retries': 'seen_answer'}  # conditions


def spent(name, **hparams):
  """What a source has counted once it is traced; nothing is computed."""
  setting = Setting(**FIELDS)
  if name in BEHIND:
    task = conditioned.wrap(setting.task, name=BEHIND[name])
    setting = dataclasses.replace(setting, task=task)
  if name == 'principle_pairs':
    task = tasks.make('attributes', segments=1, places='whole')
    setting = dataclasses.replace(
      setting, task=task, max_new_tokens=task.completion_length
    )
  setting = dataclasses.replace(setting, spent=collect.Spent())

  def source(key):
    params = transformer.init(key, MODEL)
    state = TrainState(
      jnp.int32(0), params, (), ref_params=params, others={'teacher': params}
    )
    return getattr(collect, name)(setting, state, key, **hparams)[0].tokens

  jax.eval_shape(source, jax.random.key(0))
  return setting.spent


def test_the_lists_are_whole():
  assert {*OWN, *ASKING} == set(collect.__all__)


@pytest.mark.long
@pytest.mark.parametrize('name', ASKING)
def test_a_demonstration_is_counted_once(name):
  assert spent(name, **ASKING[name]).demonstrations == PROBLEMS


@pytest.mark.long
@pytest.mark.parametrize('name', OWN)
def test_own_answers_are_no_demonstrations(name):
  found = spent(name, **OWN[name])
  assert found.demonstrations == 0
  assert found.verified >= PROBLEMS
