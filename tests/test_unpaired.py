"""Preference losses on single answers and on the chosen side alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.types import SequenceSignals
from posttrain_jax.losses import preference

LN3 = np.log(3.0)


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def answers(logps, lengths=None):
  logps = jnp.asarray(logps)
  length = jnp.ones(len(logps)) if lengths is None else jnp.array(lengths)
  return SequenceSignals(
    logps=logps,
    length=length,
    token_logps=logps[:, None],
    mask=(length > 0).astype(jnp.float32)[:, None],
  )


def run(name, rho, desirable, lengths=None, **hparams):
  """The loss at these log-ratios: the reference is at -3."""
  rho = jnp.asarray(rho)
  return getattr(preference, name)(
    answers(rho - 3.0, lengths),
    answers(jnp.full(len(rho), -3.0), lengths),
    None,
    None,
    jnp.asarray(desirable),
    **hparams,
  )


def test_bco_by_hand():
  loss, metrics = run(
    'bco', [LN3 + 1, 1.0, 1 - LN3, 7.0], [1.0, 1.0, 0.0, 1.0],
    [1.0, 1.0, 1.0, 0.0], beta=1.0, delta=1.0,
  )  # fmt: skip
  close(loss, [np.log(4 / 3), np.log(2), np.log(4 / 3), 0.0])
  close(metrics['reward'], [LN3 + 1, 1.0, 1 - LN3, 0.0])
  close(metrics['rewards/chosen'], [LN3 + 1, 1.0, 0.0, 0.0])
  close(metrics['rewards/rejected'], [0.0, 0.0, 1 - LN3, 0.0])
  close(metrics['is_chosen'], [1.0, 1.0, 0.0, 0.0])


def test_bco_on_both_sides_is_bco_pair():
  ref = answers([-3.0])
  pair, _ = preference.bco_pair(
    answers([-2.5]), answers([-2.8]), ref, ref, beta=0.3, shift=0.2
  )
  loss, _ = run('bco', [0.5, 0.2], [1.0, 0.0], beta=0.3, delta=0.2)
  close(loss.sum(), pair[0])


def test_bco_delta_is_detached():
  slope = jax.grad(lambda d: run('bco', [1.0], [1.0], delta=d)[0].sum())(0.5)
  assert slope == 0.0


def test_apo_zero_unpaired_by_hand():
  loss, metrics = run(
    'apo_zero_unpaired', [LN3, LN3, jnp.nan], [1.0, 0.0, 1.0], [1, 1, 0],
    beta=1.0, desirable_weight=2.0, undesirable_weight=4.0,
  )  # fmt: skip
  close(loss, [2 * 0.25, 4 * 0.75, 0.0])
  assert metrics.keys() == run('bco', [0.0], [1.0])[1].keys()


def test_apo_zero_unpaired_is_kto_without_its_reference_point():
  rho, label = jnp.array([0.5, -1.0, 2.0]), jnp.array([1.0, 0.0, 0.0])
  still = answers([-3.0] * 3)
  moved, metrics = preference.kto(
    answers(rho - 3.0), still, still, still, label, beta=0.3
  )
  close(metrics['kl'], np.zeros(3))
  close(run('apo_zero_unpaired', rho, label, beta=0.3)[0], moved)


def test_apo_zero_unpaired_on_both_sides_is_apo_zero():
  ref = answers([-3.0])
  pair, _ = preference.apo_zero(answers([-2.5]), answers([-2.8]), ref, ref)
  loss, _ = run('apo_zero_unpaired', [0.5, 0.2], [1.0, 0.0])
  close(loss.sum(), pair[0])


@pytest.mark.parametrize('name', ['bco', 'apo_zero_unpaired'])
def test_extreme_log_ratios_stay_finite(name):
  label = jnp.array([1.0, 0.0, 1.0, 0.0])
  rho = jnp.array([1e5, 1e5, -1e5, -1e5])
  total = lambda x: run(name, x, label, beta=1.0)[0].sum()
  value, slope = jax.value_and_grad(total)(rho)
  assert np.isfinite(value) and np.all(np.isfinite(slope))


def test_sft_is_the_token_mean_of_the_chosen_side():
  chosen = answers([-1.0, -6.0, -50.0], [1.0, 3.0, 2.0])
  rejected = answers([-9.0, -9.0, -9.0], [5.0, 1.0, 0.0])
  loss, metrics = preference.sft(chosen, rejected, None, None)
  # Seven over four tokens, twice; the pair without a rejected side is padding.
  close(loss, [2 * 1 / 4, 2 * 6 / 4, 0.0])
  close(loss.sum() / 2, 7 / 4)
  close(metrics['rewards/chosen'], [-1.0, -6.0, 0.0])


TRL = {
  'dpo': 'sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot '
  'aot_unpaired apo_zero apo_down discopop sft sigmoid_norm',
  'cpo': 'sigmoid hinge ipo simpo alphapo',
  'kto': 'kto apo_zero_unpaired',
}


@pytest.mark.parametrize('trainer', TRL)
def test_every_loss_type_of_trl_is_a_name_here(trainer):
  assert set(TRL[trainer].split()) <= set(preference.__all__)


@pytest.mark.parametrize('name', ['hinge', 'ipo'])
def test_trl_cpo_forms_are_these_with_references_of_zero(name):
  lengths = [2.0, 4.0]
  chosen, rejected = answers([-1.0, -2.0], lengths), answers([-3.0, -1.0])
  zero = lambda n: answers([0.0, 0.0], n)
  loss, _ = getattr(preference, name)(
    chosen, rejected, zero(lengths), zero(None), beta=0.5
  )
  expected = {
    'hinge': [0.0, 1.5],
    'ipo': [(-0.5 + 3.0 - 1.0) ** 2, (-0.5 + 1.0 - 1.0) ** 2],
  }
  close(loss, expected[name])


def test_unpaired_names_are_functions_of_their_own_signature():
  for name in preference.UNPAIRED:
    arguments = getattr(preference, name).__annotations__
    assert 'desirable' in arguments
  others = set(preference.__all__) - set(preference.UNPAIRED)
  for name in others:
    assert 'desirable' not in getattr(preference, name).__annotations__
