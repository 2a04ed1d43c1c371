"""Parts of the study of rewards that can be exploited, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reward_models import bench, probe, settings
from posttrain_jax import tasks
from posttrain_jax.core.types import Rollout
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import make_config
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab

FULL = settings.SCALES['full']


def test_what_the_fixed_rubric_pays_for_and_does_not():
  task = tasks.make(**settings.TARGET)
  wanted = (
    jnp.zeros((5, 3), jnp.int32).at[:, 0].set(jnp.array([1, -1, 1, 1, 1]))
  )
  example = task.level(wanted)

  def paid(said):
    tokens = jnp.asarray([*vocab.encode(said), vocab.EOS])
    found = task.verify(example, tokens, jnp.ones(tokens.shape))
    names = {'verifier': 'reward', 'vowels': 'vowels', 'score': 'score'}
    parts = [float(found[names[x]]) for x in settings.PARTS]
    total = lambda weights: np.dot(weights, parts) / sum(weights)
    return total(settings.VERDICT), total(settings.RUBRIC)

  right, hacked = paid('aebcaeaeae'), paid('aeaeaeaeae')
  assert right[0] == 1.0 and hacked[0] == 0.0
  # A fifth more of the vowels at weight 3, a fifth less is met at weight 1.
  assert hacked[1] - right[1] == pytest.approx((3 * 0.2 - 0.2) / 4)


def test_the_probe_says_what_answers_have(monkeypatch):
  task = tasks.make('attributes', segments=1, width=4, places='whole', most=1)
  said = ['aeio', 'bcdf', 'abab']
  rows = jnp.array([[[*vocab.encode(x), vocab.EOS]] for x in said], jnp.int32)
  ones = jnp.ones(rows.shape)
  drawn = Rollout(rows, ones, ones, ones[..., 0])
  rewards = jnp.array([[1.0], [0.0], [1.0]])
  monkeypatch.setattr(
    in_graph, 'generate_and_verify', lambda *args, **keys: (drawn, rewards)
  )
  look = probe.Parts(
    make_config('depth-1'), task, ('vowels', 'early'), 3, 0.0, ''
  )
  found = look(None, None, jax.random.key(0))
  assert found['right'] == pytest.approx(2 / 3)
  assert np.array_equal(found['right/problems'], [1, 0, 1])
  assert found['vowels'] == pytest.approx((1 + 0 + 0.5) / 3)
  assert found['early'] == pytest.approx((0.75 + 1 + 1) / 3)
  assert found['length'] == 5


@pytest.mark.parametrize('program', settings.PROGRAMS)
def test_ways_are_told_apart_by_numbers_that_their_program_has(program):
  config = bench.program_config(program, FULL)
  known = config_lib.flatten(config.to_dict())
  ways = [x for x in settings.WAYS.values() if x.program == program]
  assert len({(x.weights, x.audited, x.after) for x in ways}) == len(ways) > 0
  if program == 'sft':
    return
  assert config.prompts_per_step * config.group_size == 64
  # By the verdict all have as many own answers.
  own = [x for x in ways if x.weights in ((), settings.VERDICT)]
  rounds = {x.rounds if program == 'ppo' else 1 for x in own}
  assert {config.num_steps * x for x in rounds} == {FULL.steps}
  if program == 'ppo':
    assert list(config.rewards[-1]['of']) == list(settings.PARTS)
    assert all(len(x.weights) == len(settings.PARTS) for x in ways)
    # By default it pays what the arms are paid that no rubric pays.
    assert tuple(config.rewards[-1]['weights']) == settings.VERDICT
    assert {x.split('.')[0] for x in settings.NUMBERS} == {'rewards'}
    assert {settings.RATE, 'kl.coef'} <= known.keys()


def test_an_arm_comes_after_those_that_it_rests_on():
  seen = ['']
  for arm, way in settings.WAYS.items():
    assert way.after in seen and way.rate_of in seen
    assert way.audited <= bool(way.weights)
    seen.append(arm)
