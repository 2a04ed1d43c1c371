"""Preference losses: hand-computed values and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.types import SequenceSignals
from posttrain_jax.losses import preference

LN2 = np.log(2.0)


def side(*sums, length=1.0):
  """One-token answers with the given log-probabilities."""
  logps = jnp.array(sums, jnp.float32)
  mask = jnp.ones((len(sums), 1))
  return SequenceSignals(
    logps=logps,
    length=jnp.full(len(sums), length),
    token_logps=logps[:, None],
    mask=mask,
  )


def at(rho_w, rho_l, length=1.0):
  """Answers with these log-ratios: the reference is at -3 for both."""
  ref = side(-3.0, length=length)
  return (
    side(rho_w - 3.0, length=length),
    side(rho_l - 3.0, length=length),
    ref,
    ref,
  )


def value(name, signals, *args, **hparams):
  loss, metrics = getattr(preference, name)(*signals, *args, **hparams)
  assert loss.shape == (1,)
  return float(loss[0]), metrics


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# By hand


@pytest.mark.parametrize('name', ['sigmoid', 'dpo', 'spin', 'sigmoid_norm'])
def test_logistic_losses_at_zero_margin_are_log_two(name):
  close(value(name, at(0.7, 0.7))[0], LN2)


def test_dpo_by_hand_and_its_metrics():
  # beta D = ln 3: -log(3/4).
  loss, metrics = value('dpo', at(np.log(3.0), 0.0), beta=1.0)
  close(loss, np.log(4 / 3))
  close(metrics['rewards/chosen'], [np.log(3.0)])
  close(metrics['rewards/rejected'], [0.0])
  close(metrics['rewards/margins'], [np.log(3.0)])
  close(metrics['rewards/accuracies'], [1.0])
  smoothed, _ = value(
    'dpo', at(np.log(3.0), 0.0), beta=1.0, label_smoothing=0.25
  )
  close(smoothed, 0.75 * np.log(4 / 3) + 0.25 * np.log(4))


@pytest.mark.parametrize(
  'name, rho_w, rho_l, hparams, expected',
  [
    ('hinge', 2.0, 0.5, {'beta': 0.5}, 0.25),
    ('hinge', 9.0, 0.0, {'beta': 0.5}, 0.0),
    ('ipo', 2.0, 0.5, {'beta': 0.5}, 0.25),
    ('robust', np.log(3.0), 0.0, {'beta': 1.0}, None),
    ('nca_pair', 0.0, 0.0, {}, 2 * LN2),
    ('bco_pair', 0.0, 0.0, {}, 2 * LN2),
    ('bco_pair', 1.0, 1.0, {'beta': 1.0, 'shift': 1.0}, 2 * LN2),
    ('sppo_hard', 1.0, -2.0, {'beta': 0.5}, 0.0 + 1.0),
    ('apo_zero', np.log(3.0), np.log(3.0), {'beta': 1.0}, 0.25 + 0.75),
    ('apo_down', np.log(3.0), 0.0, {'beta': 1.0}, 0.75 + 0.25),
    ('discopop', 0.0, 0.0, {}, 0.5 * LN2 + 0.5),
    ('aot', np.log(3.0), 0.0, {'beta': 1.0}, np.log(4 / 3)),
    ('aot_unpaired', np.log(3.0), 0.0, {'beta': 1.0}, np.log(4 / 3)),
    ('ld_dpo', np.log(3.0), 0.0, {'beta': 1.0}, np.log(4 / 3)),
  ],
)
def test_by_hand(name, rho_w, rho_l, hparams, expected):
  if name == 'robust':
    expected = (-0.9 * np.log(0.75) + 0.1 * np.log(0.25)) / 0.8
  close(value(name, at(rho_w, rho_l), **hparams)[0], expected)


def test_exo_pair_is_zero_where_the_policy_has_the_smoothed_preference():
  loss, _ = value(
    'exo_pair', at(np.log(3.0), 0.0), beta=1.0, label_smoothing=0.25
  )
  close(loss, 0.0)
  loss, _ = value('exo_pair', at(0.0, 0.0), label_smoothing=0.25)
  close(loss, 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25))


def test_f_dpo_by_hand():
  # u_w = 2, u_l = 1/2. Forward KL: -1/2 + 2 = 3/2; JS: ln(2/3) - ln(1/3).
  signals = at(LN2, -LN2)
  loss, _ = value('f_dpo', signals, beta=1.0, divergence='forward_kl')
  close(loss, np.log1p(np.exp(-1.5)))
  loss, _ = value('f_dpo', signals, beta=1.0, divergence='js')
  close(loss, np.log(1.5))
  # alpha 1/2: -2 u^(-1/2).
  loss, _ = value('f_dpo', signals, beta=1.0, divergence='alpha')
  close(loss, np.log1p(np.exp(-(2 * 2**0.5 - 2 * 0.5**0.5))))


def test_f_dpo_limits():
  signals = at(0.4, -0.9)
  plain, _ = value('dpo', signals)
  close(value('f_dpo', signals, divergence='reverse_kl')[0], plain)
  close(value('f_dpo', signals, divergence='alpha', alpha=1.0)[0], plain)
  forward, _ = value('f_dpo', signals, divergence='forward_kl')
  close(value('f_dpo', signals, divergence='alpha', alpha=0.0)[0], forward)
  with pytest.raises(ValueError, match='forward_kl'):
    value('f_dpo', signals, divergence='kl')


def test_wpo_weighs_by_likelihood():
  # w = e^-3 * e^-3 at zero margin; with collision -3 they cancel: w = 1.
  loss, metrics = value('wpo', at(0.0, 0.0))
  close(loss, np.exp(-6.0) * LN2)
  close(metrics['weight'], [np.exp(-6.0)])
  collision = jnp.full((1, 1), -3.0)
  close(value('wpo', at(0.0, 0.0), collision, collision)[0], LN2)


def test_ld_dpo_discounts_the_longer_tail():
  def answer(*logps):
    mask = jnp.array([[1.0] * len(logps) + [0.0] * (3 - len(logps))])
    padded = jnp.array([[*logps] + [jnp.nan] * (3 - len(logps))])
    return SequenceSignals(
      logps=jnp.array([sum(logps)]),
      length=jnp.array([float(len(logps))]),
      token_logps=padded,
      mask=mask,
    )

  chosen, rejected = answer(-1.0, -2.0, -4.0), answer(-0.5)
  ref_chosen, ref_rejected = answer(-1.0, -1.0, -1.0), answer(-1.0)
  signals = (chosen, rejected, ref_chosen, ref_rejected)
  # D = (0 + alpha (-1 - 3)) - 0.5.
  for alpha, margin in ((0.0, -0.5), (0.5, -2.5), (1.0, -4.5)):
    loss, _ = value('ld_dpo', signals, beta=1.0, alpha=alpha)
    close(loss, np.log1p(np.exp(-margin)))


def test_aot_compares_sorted_margins():
  # Margins (2, 1) against reference margins (0, 2): sorted (1, 2) - (0, 2).
  chosen, rejected = side(2.0, 1.0), side(0.0, 0.0)
  ref_chosen, ref_rejected = side(0.0, 2.0), side(0.0, 0.0)
  loss, metrics = preference.aot(
    chosen, rejected, ref_chosen, ref_rejected, beta=1.0
  )
  close(loss, [np.log1p(np.exp(-1.0)), LN2])
  close(metrics['rewards/chosen'], [2.0, -1.0])


def test_orpo_by_hand():
  # p = 1/2 and 1/4: odds 1 and 1/3.
  chosen, rejected = side(np.log(0.5)), side(np.log(0.25))
  loss, _ = preference.orpo(chosen, rejected, beta=0.2)
  close(loss, [LN2 - 0.2 * np.log(0.75)])


@pytest.mark.parametrize(
  'name, hparams, expected',
  [
    ('cpo', {'beta': 1.0, 'nll_coef': 2.0}, np.log(1.5) + LN2),
    ('simpo', {'beta': 1.0, 'gamma_beta_ratio': 0.0}, np.log(1 + 0.5**0.5)),
    ('simpo', {'beta': 2.0, 'gamma_beta_ratio': LN2 / 2}, LN2),
    ('slic', {'delta': 1.0, 'nll_coef': 0.5}, 1 - LN2 + 0.5 * LN2),
    ('rrhf', {}, LN2 / 2),
    ('rrhf', {'length_penalty': 0.0, 'nll_coef': 0.0}, 0.0),
  ],
)
def test_reference_free_by_hand(name, hparams, expected):
  # Two tokens each: S = -ln 2 and -2 ln 2.
  signals = (side(-LN2, length=2.0), side(-2 * LN2, length=2.0))
  close(value(name, signals, **hparams)[0], expected)


def test_rrhf_hinge_counts_only_a_wrong_order():
  signals = (side(-2 * LN2), side(-LN2))
  loss, _ = value('rrhf', signals, rank_coef=3.0, nll_coef=0.0)
  close(loss, 3 * LN2)


def test_aligned_sft_is_binary_cross_entropy_on_likelihoods():
  # p = 1/2 and 1/4: ln 2 + (ln 2 - ln(3/4)).
  signals = (side(np.log(0.5)), side(np.log(0.25)))
  close(value('aligned_sft', signals)[0], 2 * LN2 - np.log(0.75))


def test_alphapo_by_hand_and_its_limit():
  # p = 1/2 and 1/4, alpha 1: rewards 1 - 2 and 1 - 4.
  signals = (side(np.log(0.5)), side(np.log(0.25)))
  loss, _ = value('alphapo', signals, alpha=1.0, beta=1.0, gamma_beta_ratio=0.0)
  close(loss, np.log1p(np.exp(-2.0)))
  close(value('alphapo', signals, alpha=0.0)[0], value('simpo', signals)[0])


def test_bradley_terry_by_hand():
  loss, metrics = preference.bradley_terry(
    jnp.array([2.0, 1.0]),
    jnp.array([1.0, 1.0]),
    jnp.array([1.0, 0.0]),
    center_coef=0.1,
  )
  close(loss, [LN2 + 0.9, LN2 + 0.4])
  close(metrics['rewards/margins'], [1.0, 0.0])
  close(metrics['rewards/accuracies'], [1.0, 0.0])


def test_copg_by_hand():
  # R_b: 1 - 0.5 * 2 = 0 and 0 - 0.5 * (-2) = 1.
  rewards = {
    'chosen_rewards': jnp.array([1.0]),
    'rejected_rewards': jnp.array([0.0]),
  }
  close(value('copg', at(2.0, -2.0), beta=0.5, **rewards)[0], 1.0)


def test_copg_gradient_is_the_contrastive_one():
  chosen, rejected, ref, _ = at(2.0, -2.0)

  def total(x, y):
    out = preference.copg(
      chosen.replace(logps=x),
      rejected.replace(logps=y),
      ref,
      ref,
      chosen_rewards=jnp.array([1.0]),
      rejected_rewards=jnp.array([0.0]),
      beta=0.5,
    )
    return out[0].sum()

  up, down = jax.grad(total, (0, 1))(chosen.logps, rejected.logps)
  # -(R_b(y) - R_b(y')) = 1, with the sign of each side.
  close([up[0], down[0]], [1.0, -1.0])


def test_copg_on_a_preference_is_ipo():
  quarter = jnp.array([0.25])
  for rho in (0.3, -2.0):
    ours, _ = value(
      'copg',
      at(rho, 0.1),
      chosen_rewards=quarter,
      rejected_rewards=-quarter,
      beta=0.2,
    )
    ipo, _ = value('ipo', at(rho, 0.1), beta=0.2, length_normalized=False)
    close(ours, 0.1 * ipo)


def test_kto_by_hand():
  # Mismatched log-ratios (2, 0): z0 = 1. rho = 1 + ln 3 and 1 - ln 3.
  answers, zeros = side(1 + np.log(3.0), 1 - np.log(3.0)), side(0.0, 0.0)
  loss, metrics = preference.kto(
    answers,
    zeros,
    side(2.0, 0.0),
    zeros,
    jnp.array([1.0, 0.0]),
    beta=1.0,
    undesirable_weight=2.0,
  )
  close(loss, [0.25, 2 * 0.25])
  close(metrics['kl'], [1.0, 1.0])
  close(metrics['rewards/chosen'], [1 + np.log(3.0), 0.0])
  close(metrics['rewards/rejected'], [0.0, 1 - np.log(3.0)])


def test_kto_reference_point_is_clamped_and_has_no_gradient():
  answers, zeros, label = side(0.0, 0.0), side(0.0, 0.0), jnp.ones(2)

  def total(x):
    return preference.kto(
      answers, zeros, side(0.0, 0.0).replace(logps=x), zeros, label
    )[0].sum()

  close(total(jnp.array([-5.0, 1.0])), 1.0)  # z0 = 0, each 1/2
  assert not jax.grad(total)(jnp.array([3.0, 1.0])).any()


def test_kto_leaves_padding_out():
  nan = jnp.array([0.5, jnp.nan])
  record = side(0.5, 0.0).replace(logps=nan, length=jnp.array([1.0, 0.0]))
  zeros = side(0.0, 0.0).replace(length=jnp.array([1.0, 0.0]))

  def total(x):
    loss, metrics = preference.kto(
      record.replace(logps=x), zeros, record, zeros, jnp.ones(2), beta=1.0
    )
    return loss.sum(), (loss, metrics)

  gradient, (loss, metrics) = jax.grad(total, has_aux=True)(nan)
  close(loss, [0.5, 0.0])  # rho = z0 = 0.5
  close(gradient, [-0.25, 0.0])
  close(metrics['kl'], [0.5, 0.5])
