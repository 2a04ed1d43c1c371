"""Parts of the study of stages, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.stages import bench, contrast, design, probe, settings, tuned
from posttrain_jax import lab
from posttrain_jax.evals import in_graph
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.rollout import decoders
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import modular

FULL = settings.SCALES['full']


def test_rates_are_chosen_after_those_of_all_that_an_arm_rests_on():
  assert tuned.chain('rlvr') == ['sft', 'dpo', 'rlvr']
  assert tuned.chain('low_dpo') == ['sft', 'low_dpo']
  assert tuned.chain('uft') == ['sft', 'uft']
  assert tuned.chain('spin2') == ['few', 'spin']
  first, second, third = tuned.rounds_of(settings.STEPS)
  assert first == ['sft', 'chi2', 'hellinger', 'few'] and third == ['rlvr']
  assert {'dpo', 'low_dpo', 'aligned', 'uft', 'more', 'spin'} <= set(second)
  assert not {'low', 'spin2'} & {*first, *second}
  with pytest.raises(ValueError, match=r"\['rlvr'\] need \['dpo'\]"):
    tuned.rounds_of(['sft', 'rlvr'])


@pytest.mark.parametrize('scale', settings.SCALES.values())
def test_arms_of_a_mode_are_whole(scale):
  tuned.rounds_of(scale.arms)
  for name in scale.arms:
    own = settings.STEPS[name]
    before = scale.arms[: scale.arms.index(name)]
    assert {own.after, own.writer, own.rate_of} <= {'', *before}
    assert bool(own.writer) == settings.WAYS[own.way].writer
  # A grid's cells fill the program that the study's seeds are trained in.
  assert scale.places * len(scale.tune_seeds) == scale.seeds
  own = range(scale.first_seed, scale.first_seed + scale.seeds)
  assert not set(scale.tune_seeds) & set(own)


def rows(name):
  """Rows that an arm's stages read, its own models' not counted."""
  if not name:
    return 0
  own = settings.STEPS[name]
  way = settings.WAYS[own.way]
  config = bench.stage_config(way, FULL, 1)
  each = way.prompts * (2 if config.paradigm == 'preference' else way.group)
  return own.steps * FULL.steps * each + rows(own.after)


def test_every_stage_reads_as_many_rows():
  one = rows('sft')
  assert one == 2048
  for name in ('low', 'chi2', 'hellinger'):
    assert rows(name) == one
  for name in ('dpo', 'low_dpo', 'sft_aligned', 'chi2_dpo'):
    assert rows(name) == 2 * one
  # In one stage as many as SFT and DPO.
  assert rows('uft') == rows('aligned') == 2 * one
  assert rows('rlvr') == 3 * one
  assert rows('more') == rows('spin') == 3 * rows('few') == 0.75 * one
  # Every demonstration is read as often.
  assert rows('few') / FULL.few == one / FULL.demos == 8


@pytest.mark.parametrize('name', settings.WAYS)
def test_numbers_of_a_way_are_of_its_config(name):
  way = settings.WAYS[name]
  config = bench.stage_config(way, FULL, 8)
  known = config_lib.flatten(config.to_dict())
  asked = {settings.RATE, settings.COUNT, settings.DRAW, settings.SLIPS}
  asked |= set(dict(way.hparams))
  assert asked <= known.keys()
  assert way.writer == ('writer' in config.get('others', {}))
  assert not way.writer or config.collect.sampler == 'writer'
  assert config.task.wanted == 'columns'


def test_an_arm_shows_the_rates_of_all_its_stages():
  take = lambda rate: lab.Tuned({1e-3: None, 1e-2: None}, rate, True)
  chosen = tuned.Chosen(
    [
      {'sft': take(1e-3), 'chi2': take(1e-2), 'hellinger': take(1e-2)},
      {x: take(1e-2) for x in ('dpo', 'chi2_dpo', 'hellinger_dpo')},
    ],
    {
      'chi2_dpo': {1e-2: np.array([0.5, 0.7])},
      'hellinger_dpo': {1e-2: np.array([0.6, 0.7])},
    },
  )
  assert chosen.rates['sft'] == 1e-3
  entry = {'grid': [1e-3, 1e-2], 'chosen': 1e-2}
  assert chosen.entries('dpo') == {
    'rate of nll, round 1': {**entry, 'chosen': 1e-3},
    'rate of dpo, round 2': entry,
  }
  assert bench.rate_of('low', chosen.rates) == pytest.approx(5e-4)
  assert bench.rate_of('dpo', chosen.rates) == 1e-2
  assert chosen.best('best_f_dpo') == 'hellinger_dpo'
  assert chosen.best('best_f') == 'hellinger'


def test_claims_ask_of_arms_that_there_are():
  bandits = {'uniform', 'optimum', *contrast.METHODS}
  known = {'base', *settings.STEPS, *settings.BEST, *bandits}
  for claim in design.CLAIMS:
    asked = {
      claim.arm,
      claim.against,
      *(a for c in claim.checks for a in c.arms),
    }
    assert asked <= known, claim.name


def solved(problem):
  """The best policy's log-probabilities."""
  return jax.nn.log_softmax(problem.rewards / contrast.BETA)


def test_regret_by_hand():
  rewards = jnp.array([1.0, 0.0])
  even = jnp.log(jnp.array([0.5, 0.5]))
  best = 0.5 * np.log(0.5 * (np.exp(2.0) + 1.0))
  assert contrast.objective(even, rewards) == pytest.approx(0.5)
  assert contrast.regret(even, rewards) == pytest.approx(best - 0.5, rel=1e-5)
  at_best = jax.nn.log_softmax(rewards / 0.5)
  assert contrast.regret(at_best, rewards) == pytest.approx(0.0, abs=1e-6)


def test_only_copg_and_a_baseline_stand_still_at_the_best_policy():
  problem = contrast.paper_problem(jax.random.key(0))
  assert problem.shares.sum() == pytest.approx(1.0, rel=1e-5)
  slope = {
    name: float(jnp.abs(jax.grad(
      lambda logits, name=name: contrast.METHODS[name](
        jax.nn.log_softmax(logits), problem
      )
    )(solved(problem))).max())
    for name in contrast.METHODS
  }  # fmt: skip
  assert slope['copg'] < 1e-5 and slope['gradient_value'] < 1e-5
  assert slope['gradient'] > 0.1


def test_a_bandit_is_learnt_or_not():
  made = contrast.Contrast(problems=2, steps=400)
  found = jax.jit(made)(jax.random.key(1), jnp.full(3, 0.05))
  assert found['start/regret'] > 0.05
  assert found['copg/regret'] == pytest.approx(0.0, abs=1e-3)
  assert found['copg/paper'] == pytest.approx(0.0, abs=1e-3)
  assert found['gradient/regret'] > 0.05
  assert found['gradient/curve'].shape == (contrast.POINTS,)
  rewards, shares = made.problems_of(jax.random.key(1))
  assert len({row.tobytes() for row in np.asarray(rewards)}) == 2
  np.testing.assert_allclose(shares.sum((1, 2)), 1.0, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Even(modular.Task):
  """An answer is right whose first token is even: some of a random model."""

  def verify(self, example, completion, mask):
    return {'reward': (completion[0] % 2 == 0).astype(jnp.float32)}


def test_likelihoods_are_of_the_first_right_and_wrong_answers():
  model, task = make_config('depth-1'), Even()
  params = transformer.init(jax.random.key(0), model)
  own = probe.Likelihoods(model, task, 16, 0.125, 2, 'validation')
  key = jax.random.key(1)
  same = jax.jit(own)(params, params, key)
  assert same['chosen'] == same['rejected'] == 0.0
  # Without weights every token is as likely as any other.
  even = jax.jit(own)(jax.tree.map(jnp.zeros_like, params), params, key)
  drawn, rewards = in_graph.generate_and_verify(
    params, model, task, own.problems(key), jax.random.fold_in(key, 3),
    group_size=2, decoder=decoders.sample,
  )  # fmt: skip
  change = np.asarray(
    jnp.sum((-jnp.log(model.vocab_size) - drawn.logps) * drawn.mask, axis=-1)
  )
  moved = {1.0: [], 0.0: []}
  for own_change, row in zip(change, np.asarray(rewards)):
    if len(set(row)) == 2:
      for side, found in moved.items():
        found.append(own_change[list(row).index(side)])
  assert 0 < len(moved[1.0]) < 16
  assert even['pairs'] == same['pairs'] == len(moved[1.0]) / 16
  np.testing.assert_allclose(even['chosen'], np.mean(moved[1.0]), rtol=1e-4)
  np.testing.assert_allclose(even['rejected'], np.mean(moved[0.0]), rtol=1e-4)
