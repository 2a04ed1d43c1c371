"""Parts of the study of lengths, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lengths import bench, design, numbers, run, settings, tuned
from experiments.lengths import probe as probes
from posttrain_jax import lab, tasks
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import conditioned, vocab

FULL = settings.SCALES['full']


def test_rates_of_grpo_are_chosen_after_those_of_sft():
  assert tuned.chain('long_cut') == ['long', 'long_cut']
  assert tuned.chain('qfft') == tuned.chain('qfft_low') == ['long']
  assert bench.rate_of('qfft_low', {'long': 1e-3}) == pytest.approx(1e-4)
  sft, rl = tuned.rounds_of(settings.STEPS)
  assert set(rl) == {'few_cut', 'middle_cut', 'long_cut', 'long_plain'}
  assert 'qfft' not in sft and {'few', 'long', 'mix', 'wrong'} <= set(sft)
  with pytest.raises(ValueError, match=r"long_cut needs \['long'\]"):
    tuned.rounds_of(['few', 'long_cut'])


@pytest.mark.parametrize('scale', settings.SCALES.values())
def test_arms_of_a_mode_are_whole(scale):
  tuned.rounds_of(scale.arms)
  for name in scale.arms:
    own = settings.STEPS[name]
    before = scale.arms[: scale.arms.index(name)]
    assert {own.after, own.rate_of} <= {'', *before}
    assert bool(own.after) == settings.WAYS[own.way].rl
  # A grid's cells fill the program that the study's seeds are trained in.
  assert scale.places * len(scale.tune_seeds) == scale.seeds
  own = range(scale.first_seed, scale.first_seed + scale.seeds)
  assert not set(scale.tune_seeds) & set(own)
  # Fewer passes are snapshots of the last ones.
  first, second, last = (scale.sft_steps(i) for i in range(3))
  assert 0 < first < second < last == scale.sft_steps()


@pytest.mark.parametrize('name', settings.WAYS)
def test_numbers_of_a_way_are_of_its_config(name):
  way = settings.WAYS[name]
  config = bench.stage_config(way, FULL, 8)
  known = config_lib.flatten(config.to_dict())
  asked = {settings.RATE, settings.COUNT, settings.DRAW, *dict(way.hparams)}
  assert asked <= known.keys()
  assert config.paradigm == ('rl' if way.rl else 'sft')
  assert config.task.spelled and config.condition.name == 'mode'
  alone = config.get('collect', {}).get('name') == 'question_free'
  assert alone == name.startswith(settings.STEPS['qfft'].way)
  # Rewards of length are all that the control lacks.
  names = [x['name'] for x in config.get('rewards', ()) if x.get('weight', 1)]
  lengths = {x for x in names if x.endswith('length')}
  assert bool(lengths) == (name == 'shaped')


def test_claims_ask_of_arms_and_measures_that_there_are():
  known = {'base', 'floor', 'qfft_others', *settings.STEPS}
  for claim in design.CLAIMS:
    asked = {
      claim.arm,
      claim.against,
      *(a for c in claim.checks for a in c.arms),
    }
    assert asked <= known, claim.name
    what = {claim.measure, *(c.measure for c in claim.checks)}
    assert what <= design.STUDY.measures.keys(), claim.name
  assert set(run.CLEAN) <= known


def test_kappa_by_hand():
  said = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
  truth = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]
  # All, as by chance, never, and one that always says the same.
  assert probes.kappa(said, truth).tolist() == [1.0, 0.0, -1.0, 0.0]
  # 3 of 4 agree; (3/4)(2/4) + (1/4)(2/4) by chance.
  assert probes.kappa([[1, 1, 1, 0]], [[1, 1, 0, 0]]) == pytest.approx(0.5)


def answers(right, length):
  right, length = np.array([right], float), np.array([length], float)
  tight = right * (length <= settings.BUDGET)
  return {
    'right': right, 'length': length, 'tight': tight,
    'finished': np.ones_like(right), 'spelled': (length > 15) * 1.0,
  }  # fmt: skip


def test_measures_by_hand():
  base = answers([1, 1, 0, 0], [10, 10, 12, 12])
  long = answers([1, 0, 1, 1], [20, 20, 30, 30])
  found = answers([1, 1, 1, 0], [10, 12, 28, 30])
  made = numbers.of_answers(found, base, long, found)
  expected = {
    'accuracy': 75, 'tight': 50, 'length': 20, 'of_long': 80, 'cut': 0,
    'finished': 100, 'spelled': 50, 'easy': 11, 'hard': 29,
    'easy_of_long': 55, 'rak': 1,
  }  # fmt: skip
  assert made.keys() == expected.keys() <= design.STUDY.measures.keys()
  for name, value in expected.items():
    assert made[name] == pytest.approx(value), name
  after = numbers.of_answers(found, base, long, long)
  assert after['cut'] == pytest.approx(20.0)
  # Nothing is easy for a base that has nothing right.
  none = answers([0, 0, 0, 0], [10, 10, 12, 12])
  assert np.isnan(numbers.of_answers(found, none, long, found)['easy'])


def test_arms_that_are_others_read_anew():
  own = answers([1, 1, 0, 0], [10, 10, 12, 12])
  worse = answers([1, 0, 0, 0], [10, 10, 12, 12])
  found = run.measured(
    {'base': own, 'long': own, 'others': worse, 'qfft': worse}, {}
  )
  assert found['floor']['accuracy'] == 50.0 - settings.LESS
  assert found['others']['lost'] == 25.0
  assert found['qfft_others']['lost'] == 0.0
  assert found['qfft_others']['accuracy'] == found['qfft']['accuracy'] == 25.0


def test_fewer_passes_are_the_same_run_as_it_was_then(tmp_path):
  scale = settings.SCALES['reduced']
  runs = lab.Lab(tmp_path, (1, 2))
  trained = []

  class Recorded(bench.Bench):
    def base(self):
      return None

  def train(name, config, start, hparams, snapshots):
    trained.append((name, config.num_steps, hparams, tuple(snapshots)))
    steps = {x: f'{name} after {x}' for x in snapshots}
    made = type('Made', (), {'snapshots': steps})()
    return made

  runs.train = train
  own = Recorded(runs, scale)
  assert own.stage('few', 1e-3, {}) == 'long after 2'
  assert own.stage('middle', 1e-3, {}) == 'long after 4'
  assert own.stage('long', 1e-3, {}).snapshots
  assert own.stage('short', 1e-3, {}).snapshots == {}
  few, middle, long, short = trained
  assert few == middle == long and few[:2] == ('long', 8)
  assert short[:2] == ('short', 8) and short[3] == ()
  assert few[2] | {settings.SHARE: 1.0} == short[2]


def test_answers_are_long_where_they_say_what_is_added():
  model = make_config('depth-1')
  params = transformer.init(jax.random.key(0), model)
  task = conditioned.wrap(
    tasks.make(**settings.NEW), 'mode', asks='neutral', share=0.0
  )
  own = probes.Lengths(model, task, 16, 0.125, 'validation')
  found = jax.jit(own)(params, None, jax.random.key(1))
  assert {x.shape for x in found.values()} == {(16,)}
  assert jnp.all(found['length'] <= task.completion_length)
  assert jnp.all((found['finished'] == 1) | (found['length'] == 31))
  # A model that always says '=' is long and never ends; one that ends at once
  # is short.
  for token, long in ((probes.SAYS, 1.0), (vocab.EOS, 0.0)):
    tilted = jax.tree.map(jnp.zeros_like, params)
    ones = jnp.ones_like(params['embed']['tokens'])
    tilted['embed']['tokens'] = ones.at[token].set(2.0)
    tilted['final_norm'] = jnp.ones_like(params['final_norm'])
    found = jax.jit(own)(tilted, None, jax.random.key(1))
    assert jnp.all(found['spelled'] == long)
    assert jnp.all(found['finished'] == 1.0 - long)
    assert jnp.all(found['length'] == (31 if long else 1))
