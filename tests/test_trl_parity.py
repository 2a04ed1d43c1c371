"""Our objectives are TRL's: the same loss and gradients through a model.

The expected numbers are those of TRL's own trainers on the checkpoint in
goldens/qwen2 and a ragged batch, made by `goldens/make_trl_goldens.py`. Which
parts of ours are the same objective is in `goldens/trl_cases*.py`, in the terms
of `goldens/trl_entries.py`.
"""

import functools
import json

import numpy as np
import pytest
from goldens import trl_batch, trl_cases, trl_ours

CONTENT, BATCH = trl_ours.load()
ENTRIES = CONTENT['entries']
TOLERANCE = 1e-4


@functools.cache
def model():
  return trl_ours.Model(BATCH)


@pytest.mark.parametrize('name', ENTRIES)
def test_loss_and_gradients_are_those_of_trl(name):
  entry = ENTRIES[name]
  ours = model().run(entry)
  if trl_ours.has_value(entry):
    np.testing.assert_allclose(ours['loss'], entry['loss'], rtol=TOLERANCE)
  for key in ('grad_norm', 'named_grad_norms'):
    assert entry[key], f'{name} has no gradient: it proves nothing'
  np.testing.assert_allclose(
    ours['grad_norm'], entry['grad_norm'], rtol=TOLERANCE
  )
  for key, norm in entry['named_grad_norms'].items():
    assert norm > 0
    np.testing.assert_allclose(
      ours['named_grad_norms'][key], norm, rtol=TOLERANCE, err_msg=key
    )


def test_entries_are_those_of_the_table():
  table = json.loads(json.dumps(trl_cases.cases()))
  assert set(table) == set(ENTRIES)
  for name, entry in table.items():
    assert {key: ENTRIES[name][key] for key in entry} == entry, name


def test_batch_is_ragged_and_off_policy():
  lengths = BATCH['completion_length']
  assert len(lengths) == trl_batch.ROWS and len(set(lengths)) > 4
  assert len(set(BATCH['prompt_length'])) == 4
  truncated = lengths == trl_batch.COMPLETION
  last = BATCH['tokens'][
    np.arange(trl_batch.ROWS), BATCH['prompt_length'] + lengths - 1
  ]
  np.testing.assert_array_equal(last == trl_batch.EOS, ~truncated)
  assert set(np.sign(BATCH['advantages'])) == {-1, 0, 1}
  logps = np.asarray(model().said(1.0).logps * model().mask)
  ratio = np.exp(logps - BATCH['old_logps'])[np.asarray(model().mask) > 0]
  assert (ratio < 0.8).sum() > 3 and (ratio > 1.28).sum() > 3


def test_fixture_is_what_its_own_rule_makes():
  made = trl_batch.make()
  for key in set(made) & set(BATCH):
    np.testing.assert_array_equal(made[key], BATCH[key], err_msg=key)
  mask = trl_batch.mask_of(made['prompt_length'], made['completion_length'])
  noise = (BATCH['old_logps'] - np.asarray(model().said(1.0).logps)) * mask
  np.testing.assert_allclose(noise, made['old_noise'] * mask, atol=1e-4)


@pytest.mark.parametrize(
  'name, change',
  [
    ('grpo/dapo', {'clip_high': 0.2}),
    ('grpo/grpo, delta', {'delta': 0.0}),
    ('dpo/sigmoid', {'beta': 0.11}),
    ('dpo/sigmoid, js', {'divergence': 'reverse_kl'}),
    ('sft/label_smoothing', {'smoothing': 0.11}),
    ('iw_opd/beta 0.0, top 8, bucket', {'tail': 'renormalize'}),
    ('iw_opd/beta 1.0, top 8, renormalize', {'k': 7}),
    ('online_dpo/ipo', {'length_normalized': True}),
  ],
)
def test_a_wrong_hyperparameter_shows(name, change):
  entry = json.loads(json.dumps(ENTRIES[name]))
  entry['ours'][0]['hparams'].update(change)
  ours = model().run(entry)
  gaps = [
    trl_ours.difference(ours[key], entry[key]) for key in ('loss', 'grad_norm')
  ]
  assert max(gaps) > 10 * TOLERANCE


@pytest.mark.parametrize(
  'name, objective',
  [
    ('dpo/aot', 'losses.preference.sigmoid'),
    ('dpo/aot_unpaired', 'losses.preference.sigmoid'),
    ('grpo/grpo, off-policy sequence mask', 'losses.policy_gradient.ppo_clip'),
    ('kto/kto', 'losses.preference.apo_zero_unpaired'),
    ('grpo/grpo, beta', 'losses.policy_gradient.reinforce'),
    ('iw_opd/beta 0.0, top 8, bucket', 'losses.distillation.top_k_student'),
  ],
)
def test_a_wrong_objective_shows(name, objective):
  entry = json.loads(json.dumps(ENTRIES[name]))
  entry['ours'][0]['objective'] = objective
  entry['ours'][0]['hparams'].pop('threshold', None)
  if objective.endswith('reinforce'):
    entry['ours'][0]['hparams'] = {}
  ours = model().run(entry)
  assert trl_ours.difference(ours['grad_norm'], entry['grad_norm']) > 1e-3
