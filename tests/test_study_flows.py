"""Parts of the study of flows, by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.flows import bench, design, probes, run, settings, tuned
from posttrain_jax import lab, tasks
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab

FULL = settings.SCALES['full']


@pytest.mark.parametrize('scale', settings.SCALES.values())
def test_arms_of_a_mode_are_whole(scale):
  assert set(scale.arms) <= settings.WAYS.keys()
  assert {settings.WAYS[x].part for x in scale.arms} == set(settings.PARTS)
  # A grid's cells fill the program that the study's seeds are trained in.
  assert scale.places * len(scale.tune_seeds) == scale.seeds
  own = range(scale.first_seed, scale.first_seed + scale.seeds)
  assert not set(scale.tune_seeds) & set(own)
  # What the runner asks for by name.
  assert {'ppo', 'alike_ppo', 'names_sft'} <= set(scale.arms)
  assert set(settings.FLOWERS) & set(scale.arms)


@pytest.mark.parametrize('name', settings.WAYS)
def test_arms_differ_in_what_their_programs_have(name):
  way = settings.WAYS[name]
  config = bench.stage_config(way, FULL)
  known = config_lib.flatten(config.to_dict())
  assert {key for key, _ in way.hparams} <= known.keys()
  for key, value in way.task:
    assert config.task[key] == value
  base = bench.base_config(way.part, FULL)
  assert config.task.name == base.task.name
  assert config.model.preset == base.model.preset


def test_arms_of_a_part_take_as_many_tries_or_rows():
  rows = lambda way: way.rows * way.group
  for part in ('picks', 'alike'):
    own = {rows(x) for x in settings.WAYS.values() if x.part == part}
    assert own == {128}
  names = [x for x in settings.WAYS.values() if x.part == 'names']
  assert {x.rows for x in names} == {64}
  assert {rows(x) for x in names if x.family != 'sft'} == {128}


def test_chances_of_right_answers_by_hand():
  logps = jnp.log(jnp.array([0.5, 0.25, 0.0625, 0.0625]))
  found = probes.of_chances(logps, 2)
  np.testing.assert_allclose(found['right'], 0.875)
  # 1 - (1 - p)^2: 0.75, 0.4375, 0.12109375 twice.
  np.testing.assert_allclose(found['distinct'], 1.4296875, rtol=1e-6)
  given = np.array([4, 2, 0.5, 0.5]) / 7.0
  np.testing.assert_allclose(
    found['even'], -np.sum(given * np.log(given)), rtol=1e-6
  )
  # Of a quarter each, 0.25 + 0.25 + 0.0625 + 0.0625 are there.
  np.testing.assert_allclose(found['missed'], 0.375, rtol=1e-6)
  chances = np.array([0.5, 0.25, 0.0625, 0.0625])
  fit = np.mean(np.log(0.25 / chances))
  np.testing.assert_allclose(found['fit'], fit, rtol=1e-6)
  even = probes.of_chances(jnp.log(jnp.full(4, 0.25)), 2)
  np.testing.assert_allclose(even['missed'], 0.0, atol=1e-6)
  np.testing.assert_allclose(even['fit'], 0.0, atol=1e-6)


@pytest.fixture(scope='module')
def model():
  config = make_config('depth-1', vocab_size=vocab.VOCAB_SIZE)
  return config, transformer.init(jax.random.key(0), config)


def chances_of(model, prompt, mask, answer, heat=1.0):
  """Log-chance of an answer [C], one row, token by token."""
  config, params = model
  size = int(np.sum(mask))
  row = np.concatenate([np.asarray(prompt)[:size], np.asarray(answer)])
  logits, _ = transformer.apply(params, config, jnp.asarray(row[None]))
  logps = np.asarray(jax.nn.log_softmax(logits[0] / heat))
  return sum(logps[size - 1 + i, x] for i, x in enumerate(np.asarray(answer)))


def test_all_right_answers_are_counted_out(model):
  task = tasks.make('picks', min_count=2, max_count=2, shown=3, letters='abcd')
  probe = probes.RightAnswers(model[0], task, 2, 4, 0.0, 'test', 1.5)
  key = jax.random.key(1)
  examples = probe.problems(key)
  answers = np.asarray(probe.answers(examples))
  assert answers.shape == (2, 3, 3)
  tokens = [*vocab.encode('abcdz'), vocab.EOS]
  found = probe(model[1], None, key)
  totals = []
  for n in range(2):
    one = jax.tree.map(lambda x, n=n: x[n], examples)
    judge = lambda text, one=one: task.verify(
      one, jnp.asarray(text), jnp.ones(3)
    )['reward']
    texts = np.array(
      [
        x
        for x in itertools.product(tokens, repeat=3)
        if x[2] == vocab.EOS and vocab.EOS not in x[:2]
      ]
    )
    right = np.asarray(jax.vmap(judge)(texts)) > 0
    assert {*map(tuple, texts[right])} == {*map(tuple, answers[n])}
    totals.append(sum(
      np.exp(chances_of(model, one.prompt, one.prompt_mask, x, 1.5))
      for x in answers[n]
    ))  # fmt: skip
  np.testing.assert_allclose(found['right/problems'], totals, rtol=1e-4)
  np.testing.assert_allclose(found['right'], np.mean(totals), rtol=1e-4)


def test_measures_of_names_by_hand():
  held = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]))
  target = jnp.full((2, 3), 1 / 3)
  popularity = jnp.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
  found = probes.of_names(held, target, popularity, 1)
  entropy = 1.5 * np.log(2)
  np.testing.assert_allclose(found['entropy'], entropy, rtol=1e-6)
  np.testing.assert_allclose(found['kl'], np.log(3) - entropy, rtol=1e-5)
  back = np.mean([np.log(2), np.log(4), np.log(4)]) - np.log(3)
  np.testing.assert_allclose(found['kl_back'], back, rtol=1e-5)
  np.testing.assert_allclose(found['hit'], (0.6 + 0.1) / 2, rtol=1e-6)
  np.testing.assert_allclose(found['taken'], (0.4 + 0.275) / 2, rtol=1e-6)


def test_names_are_held_to_the_tree(model, monkeypatch):
  task = tasks.make('catalogue', items=4, name_length=2, letters=4, groups=2)
  seen = []
  monkeypatch.setattr(
    probes, 'of_names', lambda held, *_: seen.append(np.exp(held)) or {}
  )
  heats = (1.0, 1e6)
  found = probes.Names(model[0], task, 1, 4, heats)(model[1], None, None)
  for chances in seen:
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-5)
  # At a great heat every letter that a name goes on with is as likely.
  names = [tuple(x) for x in task.names]
  firsts = [x[0] for x in names]
  even = [1.0 / len(set(firsts)) / firsts.count(x) for x in firsts]
  np.testing.assert_allclose(seen[1], [even, even], rtol=1e-4)
  # Free, a name has the chance of its letters and of the end; held, of the
  # letters among those that go on.
  prompt = task.of_group(1, 0)
  ends = [np.append(x, vocab.EOS) for x in names]
  free = [
    np.exp(chances_of(model, prompt.prompt, prompt.prompt_mask, x))
    for x in ends
  ]
  other = task.of_group(0, 0)
  more = [
    np.exp(chances_of(model, other.prompt, other.prompt_mask, x)) for x in ends
  ]
  np.testing.assert_allclose(
    found['right'], (sum(free) + sum(more)) / 2, rtol=1e-4
  )


def cell(**measures):
  return {name: np.array([x, x]) for name, x in measures.items()}


def test_the_best_is_chosen_with_the_tuning_seeds():
  first, second = settings.FLOWERS
  one, two = (f'var_tb_{x:g}' for x in settings.FLOORS)
  weak, strong = (f'bonus_{x:g}' for x in settings.BONUSES)
  found = {
    one: cell(right=0.80, distinct=5.0),
    two: cell(right=0.78, distinct=6.0),
    weak: cell(right=0.80, distinct=5.0),
    strong: cell(right=0.70, distinct=6.0),
    'names_sft': cell(hit=0.40, kl=0.3, **{'kl@1.5': 0.1, 'kl@2': 0.2}),
    first: cell(hit=0.39, kl=0.2),
    second: cell(hit=0.37, kl=0.1),
  }
  for heat in settings.HEAT[1:]:
    found['names_sft'].setdefault(f'kl@{heat:g}', np.array([0.5, 0.5]))
  rates = {x: lab.Tuned({1e-4: None, 1e-3: None}, 1e-3, True) for x in found}
  hot = {1.0: cell(distinct=3.0), 1.3: cell(distinct=4.0)}
  tried = {k: {1e-3: x} for k, x in found.items()}
  tried[one][1e-4] = cell(right=0.3, distinct=7.0)
  chosen = tuned.Chosen(rates, tried, hot)
  # The second finds more and is as often right; the strong bonus is not.
  assert chosen.best('best_var_tb') == two
  assert chosen.best('best_bonus') == weak
  arm, most = chosen.most('most_var_tb')
  assert (arm, most.chosen, most.edge) == (one, 1e-4, True)
  # The second is nearer, and loses too many users.
  assert chosen.best_flower() == first
  assert chosen.heat('names_sft') == 1.5 and chosen.hot_ppo() == 1.3


def test_values_are_in_the_units_of_the_study():
  base, ppo = cell(right=0.2), cell(right=0.5)
  own = cell(right=0.6, distinct=3.0, even=1.0, missed=0.5, fit=2.0)
  found = run.values_of('picks', own, base, ppo)
  expected = dict(
    right=60, distinct=3, even=1, missed=50, fit=2, gain=40, ahead=10
  )
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], [value, value])
  assert found.keys() <= design.STUDY.measures.keys()
  alike = run.values_of('alike', own, base, ppo)
  assert alike.keys() == expected.keys() - {'right', 'distinct'} | {
    'listed', 'names',
  }  # fmt: skip
  np.testing.assert_allclose(alike['listed'], [60, 60])
  hot = cell(
    **{f'{x}@2': 0.5 for x in ('kl', 'kl_back', 'entropy', 'hit', 'taken')},
    listed=0.9,
  )
  named = run.values_of('names', hot, hot, heat=2.0)
  assert 'listed' not in named
  np.testing.assert_allclose(named['hit'], [50, 50])
  np.testing.assert_allclose(named['kl'], [0.5, 0.5])
