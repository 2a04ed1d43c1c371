"""Parts of the study of second models, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from experiments.two_models import bench, design, exact, probe, settings, study
from posttrain_jax import lab, tasks
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.tasks import vocab

FULL = settings.SCALES['full']


@pytest.mark.parametrize('scale', settings.SCALES.values())
def test_arms_of_a_mode_are_whole(scale):
  # A grid's cells fill the program that the study's seeds are trained in.
  assert scale.places * len(scale.tune_seeds) == scale.seeds
  own = range(scale.first_seed, scale.first_seed + scale.seeds)
  assert not set(scale.tune_seeds) & set(own)
  made = {*scale.arms, *settings.EXACT, 'base', 'sft_cold', 'sft_less'}
  for claim in design.CLAIMS:
    assert {claim.arm, claim.against} <= made
    assert {x for check in claim.checks for x in check.arms} <= made


def test_an_arm_and_its_adversary_read_as_many_demonstrations():
  sft = bench.sft_config(FULL)
  judges = [bench.judge_config(FULL, FULL.first_steps)]
  judges += [bench.judge_config(FULL, FULL.judge_steps)] * FULL.turns
  read = sum(x.num_steps * x.prompts_per_step for x in judges)
  assert read == sft.num_steps * sft.prompts_per_step
  assert {x.collect.sampler for x in judges} == {'ref'}
  # One demonstration and one answer of the policy, each with its problem.
  assert {x.group_size for x in judges} == {2}


@pytest.mark.parametrize('name', settings.WAYS)
def test_ppo_has_the_adversary_alone(name):
  way = settings.WAYS[name]
  if way.kind:
    model, adversary = bench.policy_config(way.kind, FULL).rewards
    assert model['name'] == 'model' and model['weight'] == 0
    assert adversary['name'] == 'adversary' and adversary['kind'] == way.kind
  kinds = {x: settings.WAYS[x].kind for x in settings.WAYS}
  assert kinds == {'sft': '', 'reverse': 'logit', 'rlgaf': 'logit'}


def test_divergences_by_hand():
  policy, target = np.array([0.5, 0.5]), np.array([0.9, 0.1])
  found = exact.divergences(jnp.log(policy)[None], jnp.asarray(target)[None])
  kl = lambda p, q: np.sum(p * np.log(p / q))
  middle = (policy + target) / 2
  want = {
    'exact_forward': kl(target, policy),
    'exact_reverse': kl(policy, target),
    'exact_js': (kl(policy, middle) + kl(target, middle)) / 2,
  }
  assert found.keys() == settings.EXACT.keys()
  for name, value in want.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_each_optimum_has_the_least_of_its_divergence():
  keys = jax.random.split(jax.random.key(0), 2)
  every = exact.Exact(400)
  found = quick_jit(jax.vmap(lambda key: every(key, None)))(keys)
  for name in settings.EXACT:
    assert np.all(found[f'{name}/ahead'] > 0)
    assert np.all(np.abs(found[f'{name}/drop']) < 0.05)
  assert np.all(found['exact_forward/right'] < found['exact_reverse/right'])


def test_names_are_counted_out_at_every_temperature():
  """Of a model that says every letter alike, by hand."""
  task = tasks.make(**settings.NAMES)
  model = make_config('depth-1', vocab_size=vocab.VOCAB_SIZE)
  params = jax.tree.map(
    jnp.zeros_like, transformer.init(jax.random.key(0), model)
  )
  listed = probe.Listed(model, task, 2, (1.0, 0.5))
  found = quick_jit(lambda x: listed(x, None, None))(params)
  chance = vocab.VOCAB_SIZE**-4.0  # of three letters and the end
  np.testing.assert_allclose(found['right'], [200 * chance] * 2, rtol=1e-4)
  np.testing.assert_allclose(found['even'], [np.log(200.0)] * 2, rtol=1e-4)


def test_rows_that_others_are_compared_with():
  arm = lab.Arm('x', 'sft', '', {}, {'right': np.array([60.0, 25.0])}, [])
  less = study.less_arm(arm)
  np.testing.assert_allclose(less.values['right'], [57.0, 22.0])
  reverse = lab.Arm('y', 'rl', '', {}, {'even': [4.0, 5.0]}, [])
  heats = len(settings.HEATS)
  ramp = np.arange(2.0 * heats).reshape(2, heats)
  found = dict.fromkeys(('right', 'distinct', 'even', 'fit'), ramp)
  base = {'right': np.full((2, heats), 0.5)}
  cold = study.cold_arm(arm, found, settings.HEATS[1], base, reverse)
  np.testing.assert_allclose(cold.values['right'], [100.0, 100.0 * (heats + 1)])
  np.testing.assert_allclose(cold.values['gain'], [50.0, 100.0 * heats + 50.0])
  np.testing.assert_allclose(cold.values['apart'], [-3.0, heats - 4.0])
  assert cold.overrides == {'temperature': settings.HEATS[1]}
