"""An audit between rounds of training: MPO's loop, with a rule as the judge of
the rubric."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import lab, tasks
from posttrain_jax.core.types import Rollout
from posttrain_jax.evals import in_graph, measures
from posttrain_jax.evals.measures import audit as audits
from posttrain_jax.models.config import make_config
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab

MODEL = make_config('pico', num_layers=1)
TASK = tasks.make('attributes', segments=1, places='whole', most=1)
FEATURES = ('vowels', 'rising')
NAMES = tuple(f'weight/{name}' for name in FEATURES)


def made(**keys):
  given = dict(
    model=MODEL, task=TASK, features=FEATURES, before=(0.5, 0.25),
    num_problems=2, samples=3,
  )  # fmt: skip
  return measures.Audit(**{**given, **keys})


@pytest.mark.parametrize('keys, told', [
  ({'features': ('vowls', 'rising')}, 'finds no "vowls". Did you mean "vowels'),
  ({'gold': 'god'}, 'finds no "god"'),
  ({'before': (1.0,)}, 'an audit of 2 features with weights before'),
])  # fmt: skip
def test_what_the_verifier_does_not_find(keys, told):
  with pytest.raises(ValueError, match=told):
    made(**keys)


@pytest.mark.long
def test_weights_are_of_all_answers(monkeypatch):
  said = [['aeio', 'bcdf', 'ezez'], ['aaaa', 'zyxw', 'bcdf']]
  rows = [[[*vocab.encode(x), vocab.EOS] for x in group] for group in said]
  tokens = jnp.array(rows, jnp.int32)
  ones = jnp.ones(tokens.shape)
  samples = Rollout(tokens, ones, ones, ones[..., 0])
  monkeypatch.setattr(
    in_graph, 'generate_and_verify', lambda *args, **keys: (samples, None)
  )
  found = made(gold='vowels')(None, None, jax.random.key(0))
  vowels = np.array([1, 0, 0.5, 1, 0, 0])
  rising = np.array([3, 3, 2, 3, 0, 3]) / 3
  assert found['gold'] == pytest.approx(vowels.mean())
  assert found['weight/vowels'] == pytest.approx(1.0, abs=1e-5)
  expected = np.corrcoef(vowels, rising)[0, 1]
  assert found['weight/rising'] == pytest.approx(expected, abs=1e-5)
  assert audits.in_graph is in_graph


@pytest.mark.long
def test_answers_that_are_alike_leave_the_weights(monkeypatch):
  row = jnp.asarray([*vocab.encode('aeio'), vocab.EOS])
  tokens = jnp.broadcast_to(row, (2, 3, 5))
  ones = jnp.ones(tokens.shape)
  samples = Rollout(tokens, ones, ones, ones[..., 0])
  monkeypatch.setattr(
    in_graph, 'generate_and_verify', lambda *args, **keys: (samples, None)
  )
  found = made()(None, None, jax.random.key(0))
  assert [float(found[x]) for x in NAMES] == [0.5, 0.25]


def test_an_audit_may_leave_test_problems_alone():
  task = tasks.make('attributes', segments=3)  # 216 problems
  keys = dict(task=task, num_problems=8, heldout_fraction=0.5)
  key = jax.random.key(0)
  drawn = {part: made(part=part, **keys).problems(key).prompt
           for part in ('', 'test', 'validation')}  # fmt: skip
  want = in_graph.problems(task, key, 8, 0.5, 'validation').prompt
  np.testing.assert_array_equal(drawn['validation'], want)
  asked = {part: {tuple(x) for x in np.asarray(prompts).tolist()}
           for part, prompts in drawn.items()}  # fmt: skip
  assert not asked['test'] & asked['validation']


@functools.cache
def config():
  c = config_lib.load(
    'configs/rl.py:recipe=grpo,task=attributes,smoke',
    [
      ('task.segments', '1'), ('task.places', 'whole'), ('task.most', '1'),
      ('model.preset', 'depth-1'), ('num_steps', '2'), ('steps_per_call', '2'),
      ('optimizer.schedule', 'constant'), ('optimizer.warmup_updates', '0'),
    ],
  )  # fmt: skip
  c.rewards = (
    {'name': 'verifier', 'weight': 0},
    *({'name': 'verifier', 'part': x, 'weight': 0} for x in FEATURES),
    {'name': 'audited', 'of': list(FEATURES), 'weights': [1.0, 1.0]},
  )
  return c


@pytest.mark.slow
def test_a_policy_is_paid_by_the_last_audit(tmp_path):
  runs = lab.Lab(tmp_path, range(2), brief=True)
  base = runs.train('base', config())
  model = next(iter(runs._programs.values())).run.model
  look = measures.Audit(
    model, TASK, FEATURES, (1.0, 1.0), gold='vowels', num_problems=16
  )
  names = [f'rewards.audited.weights.{i}' for i in range(2)]
  seen = lab.rounds(
    runs,
    [
      lab.Look('policy', look, dict(zip(FEATURES, NAMES))),
      lab.Train('policy', config(), hparams=dict(zip(names, FEATURES))),
    ],
    times=2,
    carry=lab.Carry({'policy': base}),
  )
  last = seen[-1]
  assert len(runs._programs) == 2  # the base's, without inputs, and theirs
  for i, name in enumerate(FEATURES):
    given = last.models['policy'].hparams[names[i]]
    assert given == last.numbers[name] and len(given) == 2
  curves = last.models['policy'].curves
  vowels, rising = (curves[f'rewards/{x}/mean'] for x in FEATURES)
  weights = np.array([last.numbers[x] for x in FEATURES])[:, :, None]
  total = (weights * np.stack([vowels, rising])).sum(0)
  total = total / np.abs(weights).sum(0)
  # Of what answers have, less 1 for those without an end.
  cut = curves['rewards/audited/mean'] - total
  assert np.all(cut <= 1e-4) and np.all(cut >= -1 - 1e-4)
