"""How sure pairs are, by whom, and which of them are turned round."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scorer_folders
from test_collect import MODEL, PROBLEMS, run
from test_tasks import quick_jit
from test_trainer_arrays import batch_of, params, state
from test_trainer_preference import SCORER, direct_values, scorer

from posttrain_jax import log
from posttrain_jax.data import tokenizers
from posttrain_jax.losses import reward_model
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import loop, model_folder, on_disk
from posttrain_jax.trainers import preference, scored_pairs, step

__all__ = ['params', 'scorer', 'state']  # fixtures

FLIP = 'configs/preference.py:recipe=reward_model_flip'
# Pairs 0, 1 and 3 count, of which the second is the weakest; 2 is padding.
SCORES = [5.0, 4.0, 1.0, 3.0, 0.0, 9.0, 7.0, 0.0]


def load(spec, *items):
  return config_lib.load(spec, items)


def flipped(fraction, scores=SCORES):
  c = load(FLIP, ('flip_fraction', str(fraction)))
  batch = batch_of().replace(extras={'scores': jnp.array(scores)})
  relabel = quick_jit(scored_pairs.make_relabel(c))
  return batch, *relabel(batch)


def test_the_weakest_pairs_that_count_are_turned_round_whole():
  before, after, metrics = flipped(0.4)  # of three pairs one
  order = [0, 1, 3, 2, 4, 5, 6, 7]
  expected = jax.tree.map(lambda x: x[jnp.array(order)], before)
  jax.tree.map(np.testing.assert_array_equal, after, expected)
  close = lambda name, x: np.testing.assert_allclose(metrics[name], x, 1e-6)
  close('flip/share', 1 / 3)
  close('flip/wrong', 1.0)  # the one that was turned was wrong
  close('flip/wrong_before', 1 / 3)
  close('flip/wrong_after', 0.0)


def test_answers_beside_a_pair_stay_in_their_order():
  """An odd one out stands at the end twice, and is to be read once."""
  c = load(FLIP, ('flip_fraction', '0.4'))
  beside = batch_of().replace(extras={})
  extras = {'scores': jnp.array(SCORES), 'meta': beside}
  batch = batch_of().replace(extras=extras)
  after, _ = quick_jit(scored_pairs.make_relabel(c))(batch)
  jax.tree.map(np.testing.assert_array_equal, after.extras['meta'], beside)
  np.testing.assert_array_equal(after.tokens[2], batch.tokens[3])


def test_what_is_turned_though_it_was_right_is_counted():
  right = [5.0, 4.0, 3.0, 1.0, 0.0, 9.0, 7.0, 0.0]
  before, after, metrics = flipped(0.4, right)
  np.testing.assert_array_equal(after.tokens[0], before.tokens[1])
  assert float(metrics['flip/wrong']) == 0.0
  np.testing.assert_allclose(metrics['flip/wrong_after'], 1 / 3, rtol=1e-6)


def test_a_share_below_one_pair_turns_none():
  before, after, metrics = flipped(0.3)
  jax.tree.map(np.testing.assert_array_equal, after, before)
  assert float(metrics['flip/share']) == 0.0


def test_the_strength_is_the_mean_gap_of_an_ensemble(scorer, state):
  """And says of the pairs what the verifier's scores would."""
  head = scorer['value_head']
  other = scorer | {'value_head': head | {'kernel': head['kernel'][::-1]}}
  c = load(FLIP, ('others.a', 'x'), ('others.b', 'y'), ('strength', 'a,b'))
  assert preference.scorers(c) == ('a', 'b')
  models = dict.fromkeys(('policy', 'ref', 'a', 'b'), SCORER)
  score = scored_pairs.make_score(c, models)
  batch = batch_of()
  judged = quick_jit(score)(
    state.replace(others={'a': scorer, 'b': other}), batch
  )
  values = [direct_values(x, batch) for x in (scorer, other)]
  gaps = jnp.array([v[::2] - v[1::2] for v in values])
  mean, _ = reward_model.preference_strength(gaps)
  assert np.abs(gaps[0] - gaps[1]).max() > 0.1
  np.testing.assert_allclose(scored_pairs.strength(judged), mean, atol=1e-4)
  # The verifier's own stay with the rows, for what is told of them.
  np.testing.assert_array_equal(judged.extras['scores'], batch.extras['scores'])


def test_rows_that_are_judged_stay_as_they_are_labelled(scorer, state):
  c = load(FLIP, ('flip_fraction', '0.4'))
  goal = preference.make_objective(c, {'policy': SCORER})
  batch = batch_of().replace(extras={'scores': jnp.array(SCORES)})
  seen = {}

  def update(state, batch, key):
    seen['learnt'] = batch
    return state, {}

  as_it_is = lambda state, batch: batch
  relabel = scored_pairs.make_relabel(c)
  learn = step.make_learn(update, as_it_is, lambda s: s, None, relabel)
  state = state.replace(params=scorer)
  _, metrics = learn(state, batch, jax.random.key(0))
  assert 'flip/share' in metrics
  np.testing.assert_array_equal(seen['learnt'].tokens[2], batch.tokens[3])
  judge = quick_jit(step.make_judge(goal, as_it_is))
  found = judge(state, batch, jnp.uint32(0))
  values = direct_values(scorer, batch)
  gap = (values[::2] - values[1::2])[[0, 1, 3]]
  np.testing.assert_allclose(
    found['sum/preference'], np.log1p(np.exp(-gap)).sum(), rtol=1e-4
  )


@pytest.mark.parametrize(
  'spec, items, message',
  [
    (
      FLIP,
      [('others.judge', 'x'), ('strength', 'jugde')],
      'unknown config key "others.judge". Did you mean "others.jugde"',
    ),
    (
      FLIP,
      [('strength', 'judge')],
      'strength names "judge", which is no model of config.others',
    ),
    (
      FLIP,
      [('collect.noise', '0')],
      'flip_fraction=0.2: the verifier decided these pairs',
    ),
    (
      'configs/preference.py:recipe=reward_model_soft_margin',
      [('flip_fraction', '0.2'), ('collect.noise', '0.2')],
      'turns the pairs round that loss "soft_margin" doubts',
    ),
    (
      'configs/preference.py:recipe=kto',
      [('flip_fraction', '0.2')],
      'loss "kto" reads single answers; leave flip_fraction=0',
    ),
    (
      'configs/preference.py:recipe=reward_model',
      [('strength', 'a'), ('others.a', 'x')],
      'loss "bradley_terry" does not ask how sure a pair is',
    ),
    (
      'configs/preference.py:recipe=sigmoid,data=jsonl',
      [('flip_fraction', '0.2'), ('data.packing', 'true')],
      'with data.packing=true a row has several answers',
    ),
  ],
)
def test_what_cannot_work_is_refused(spec, items, message):
  with pytest.raises(ValueError, match=message):
    preference.check(load(spec, *items))


def test_a_model_without_a_head_is_named_before_it_is_read(monkeypatch):
  c = load(FLIP, ('others.a', 'runs/sft'), ('strength', 'a'))
  run = types.SimpleNamespace(config=c, models={'a': None})
  monkeypatch.setattr(on_disk.roles, 'read_model', lambda path: MODEL)
  with pytest.raises(ValueError, match='^others.a=runs/sft has no value head'):
    on_disk._look(run)


def test_a_judge_reads_the_tokens_of_the_run(tmp_path):
  """A scorer of another tokenizer is read as text by RL, and refused here."""
  path = scorer_folders.make(tmp_path) / 'llama'
  c = load(
    'configs/preference.py:recipe=reward_model_soft_label,data=jsonl',
    ('others.a', str(path)), ('strength', 'a'), ('tokenizer', 'byte'),
  )  # fmt: skip
  ours = tokenizers.load('byte')
  with pytest.raises(ValueError, match='others.a=.* speaks other tokens'):
    model_folder.check_tokens(c, ours, {'a': str(path)})
  c.strength = ()
  model_folder.check_tokens(c, ours, {'a': str(path)})


def test_a_file_without_scores_asks_for_an_ensemble():
  spec = 'configs/preference.py:recipe=reward_model_soft_margin,data=jsonl'
  with pytest.raises(ValueError, match='needs the array "scores"'):
    preference.needs(load(spec), ())
  judged = load(spec, ('others.a', 'x'), ('strength', 'a'))
  preference.check(judged)
  assert preference.needs(judged, ()) == frozenset()


@pytest.mark.parametrize('noise, chance', [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_pairs_that_raters_err_in_are_turned_round_whole(noise, chance):
  turned = 0
  for seed in range(8):
    plain, _ = run('best_vs_worst', seed)
    batch, _ = run('best_vs_worst', seed, noise=noise)
    for i in range(0, 2 * PROBLEMS, 2):
      pair = lambda x, i=i: [x.tokens[i].tolist(), x.tokens[i + 1].tolist()]
      scores = lambda x, i=i: x.extras['scores'][i : i + 2].tolist()
      one, two = pair(plain), pair(batch)
      assert two in (one, one[::-1])
      # The rewards stay with their answers.
      if two != one:
        assert scores(batch) == scores(plain)[::-1]
      elif one[0] != one[1]:
        assert scores(batch) == scores(plain)
      turned += two != one
  distinct = 16  # two of the four pairs have the same answer twice
  assert abs(turned / distinct - chance) < (0.25 if 0 < chance < 1 else 1e-6)


@pytest.mark.long
def test_an_ensemble_of_runs_turns_the_pairs_of_another(tmp_path):
  """From a command line's config to the last metric."""
  small = (
    ('task.num_digits', '1'), ('log.tensorboard', 'false'),
    ('collect.sampler', 'policy'),
  )  # fmt: skip
  noisy = (*small, ('collect.noise', '0.2'))
  spec = 'configs/preference.py:recipe=reward_model,smoke'
  loop.train(load(spec, *noisy), tmp_path / 'a')
  config = load(
    f'{FLIP}_margin,smoke', *small, ('others.a', str(tmp_path / 'a')),
    ('strength', 'a'), ('flip_fraction', '0.5'),
  )  # fmt: skip
  _, state, _ = loop.train(config, tmp_path / 'flip')
  assert set(state.others) == {'a'}
  _, rows = log.read(tmp_path / 'flip' / 'metrics.jsonl')
  shares = [x['flip/share'] for x in rows if x['split'] == 'train']
  assert shares and all(0 <= x <= 0.5 for x in shares)
