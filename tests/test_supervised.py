"""Supervised losses: hand-computed values, identities, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.types import TokenSignals
from posttrain_jax.losses import supervised

MASK = jnp.array([[1.0, 1.0, 0.0]])
LOGPS = jnp.log(jnp.array([[0.5, 0.25, 0.1]]))
ONE = jnp.ones((1, 1))
LN2 = np.log(2.0)


def signals(logps=LOGPS, **arrays):
  return TokenSignals(logps=jnp.asarray(logps), **arrays)


def one(p, **arrays):
  """A single token of probability p."""
  return signals(jnp.log(jnp.array([[p]])), **arrays)


def grad(loss, logps=LOGPS, mask=MASK, arrays=None, **hparams):
  def total(x):
    out = loss(signals(x, **(arrays or {})), mask, **hparams)
    return out[0].sum()

  return jax.jit(jax.grad(total))(logps)


def close(actual, expected, tolerance=1e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# By hand


def test_nll_is_minus_logps():
  loss, _ = supervised.nll(signals(), MASK)
  close(loss, [[LN2, 2 * LN2, 0.0]])


def test_label_smoothing_by_hand():
  # p = (3/4, 1/4), target 0: 0.8 * ln(4/3) + 0.2 * (ln(4/3) + ln 4) / 2.
  logits = jnp.log(jnp.array([[[3.0, 1.0]]]))
  loss, _ = supervised.label_smoothing(
    one(0.75, logits=logits), ONE, smoothing=0.2
  )
  close(loss, [[0.9 * np.log(4 / 3) + 0.1 * np.log(4)]])


def test_dft_value_and_gradient():
  loss, metrics = supervised.dft(signals(), MASK)
  close(loss, [[0.5 * LN2, 0.5 * LN2, 0.0]])
  close(metrics['weight'], [[0.5, 0.25, 0.0]])
  # d(1 - p) / d log p = -p.
  close(grad(supervised.dft), [[-0.5, -0.25, 0.0]])


def test_prob_alpha_by_hand():
  loss, _ = supervised.prob_alpha(signals(), MASK, alpha=2.0)
  close(loss, [[(1 - 0.25) / 2, (1 - 0.0625) / 2, 0.0]])
  loss, _ = supervised.prob_alpha(signals(), MASK, alpha=-1.0)
  close(loss, [[1.0, 3.0, 0.0]])  # 1/p - 1


def test_prob_alpha_one_has_the_gradient_of_dft():
  ours = grad(supervised.prob_alpha, alpha=1.0)
  close(ours, grad(supervised.dft))


@pytest.mark.parametrize('alpha', [0.0, 1e-3])
def test_prob_alpha_tends_to_nll(alpha):
  loss, _ = supervised.prob_alpha(signals(), MASK, alpha=alpha)
  close(loss, supervised.nll(signals(), MASK)[0], 2e-3)
  close(grad(supervised.prob_alpha, alpha=alpha), -MASK, 2e-3)


def test_prob_threshold_keeps_and_rescales():
  # Only p = 0.5 is kept: its loss counts for both counted tokens.
  loss, metrics = supervised.prob_threshold(signals(), MASK, low=0.3)
  close(loss, [[2 * LN2, 0.0, 0.0]])
  close(metrics['kept'], [[1.0, 0.0, 0.0]])
  low, _ = supervised.prob_threshold(
    signals(), MASK, low=0.0, high=0.3, alpha=1.0
  )
  close(low, [[0.0, 2 * 0.75, 0.0]])
  nothing, _ = supervised.prob_threshold(signals(), MASK, low=0.9)
  close(nothing, [[0.0, 0.0, 0.0]])


def test_ift_by_hand():
  # l = (ln 2, 2 ln 2), gamma 1/2: c = (2, 2) ln 2, so w = (1, 1) at these.
  loss, metrics = supervised.ift(signals(), MASK, gamma=0.5)
  close(metrics['weight'], [[1.0, 1.0, 0.0]])
  close(loss, [[LN2, 2 * LN2, 0.0]])
  # gamma 1: c = (3, 2) ln 2, w = (6/5, 4/5).
  loss, _ = supervised.ift(signals(), MASK, gamma=1.0)
  close(loss, [[1.2 * LN2, 1.6 * LN2, 0.0]])


def test_ift_gamma_zero_is_nll_and_zero_loss_is_finite():
  loss, _ = supervised.ift(signals(), MASK, gamma=0.0)
  close(loss, supervised.nll(signals(), MASK)[0])
  close(grad(supervised.ift, logps=jnp.zeros((1, 3))), -MASK)


def test_asft_by_hand_in_both_directions():
  p, q = np.array([0.5, 0.5]), np.array([0.8, 0.2])
  arrays = {'logits': jnp.log(jnp.asarray(p, jnp.float32))[None, None]}
  ref = jnp.log(jnp.asarray(q, jnp.float32))[None, None]
  for direction, kl in (
    ('forward', (q * np.log(q / p)).sum()),
    ('reverse', (p * np.log(p / q)).sum()),
  ):
    loss, metrics = supervised.asft(
      one(0.5, **arrays),
      ONE,
      ref_logits=ref,
      kl_coef=0.3,
      direction=direction,
    )
    close(metrics['kl'], [[kl]])
    close(loss, [[0.5 * LN2 + 0.3 * kl]])


@pytest.mark.parametrize('direction', ['forward', 'reverse'])
def test_asft_has_the_gradient_of_dft_at_the_base_model(direction):
  z = jnp.array([[[0.3, -1.0, 2.0]]])
  gather = lambda x: jax.nn.log_softmax(x)[..., 0]

  def ours(x):
    record = signals(gather(x), logits=x)
    loss, _ = supervised.asft(
      record, ONE, ref_logits=z, kl_coef=5.0, direction=direction
    )
    return loss.sum()

  plain = lambda x: supervised.dft(signals(gather(x)), ONE)[0].sum()
  close(jax.jit(jax.grad(ours))(z), jax.jit(jax.grad(plain))(z))


def test_psft_clips_only_above():
  old = jnp.log(jnp.array([[0.25, 0.5, 0.1]]))
  # R = (2, 0.5): the first is clipped at 1.28 and stops learning.
  loss, metrics = supervised.psft(signals(old_logps=old), MASK)
  close(loss, [[-1.28, -0.5, 0.0]])
  close(metrics['clip_ratio/high_mean'], [[1.0, 0.0, 0.0]])
  gradient = grad(supervised.psft, arrays={'old_logps': old})
  close(gradient, [[0.0, -0.5, 0.0]])


def test_psft_on_its_own_policy_has_the_gradient_of_sft():
  gradient = grad(supervised.psft, arrays={'old_logps': LOGPS})
  close(gradient, grad(supervised.nll))


def test_iw_sft_by_hand():
  ref = jnp.log(jnp.array([[0.25, 0.5, 0.7]]))
  record = signals(ref_logps=ref)
  # Log-ratios (ln 2, -ln 2): their mean is 0, so the row's weight is 1.
  _, metrics = supervised.iw_sft(record, MASK)
  close(metrics['weight'], [[1.0, 1.0, 0.0]])
  loss, metrics = supervised.iw_sft(
    record, MASK, level='token', low=0.6, high=1.8
  )
  close(metrics['weight'], [[1.8, 0.6, 0.0]])
  close(loss, [[1.8 * LN2, 1.2 * LN2, 0.0]])


@pytest.mark.parametrize('level', ['sequence', 'token'])
def test_iw_sft_at_the_reference_is_sft(level):
  loss, _ = supervised.iw_sft(signals(ref_logps=LOGPS), MASK, level=level)
  close(loss, supervised.nll(signals(), MASK)[0])


@pytest.mark.parametrize(
  'divergence, value, slope',
  [
    ('total_variation', 0.5, 1.0),
    ('chi2', 0.5 - 0.0625, 0.75),
    ('hellinger', 1 / 3, 1 / 2.25),
    ('js', np.log(2 - np.exp(-0.5)), 1 / (2 * np.exp(0.5) - 1)),
    ('reverse_kl', -np.exp(-1.5), np.exp(-1.5)),
  ],
)
def test_f_sft_by_hand(divergence, value, slope):
  # u = 0.5 with beta 1: log-ratios 0.2 and 0.3.
  arrays = {'ref_logps': LOGPS - jnp.array([[0.2, 0.3, 9.0]])}
  loss, _ = supervised.f_sft(
    signals(**arrays), MASK, divergence=divergence, beta=1.0
  )
  close(loss, [[-value / 2, -value / 2, 0.0]])
  gradient = grad(
    supervised.f_sft, arrays=arrays, divergence=divergence, beta=1.0
  )
  close(gradient, -slope * MASK)


def test_f_sft_total_variation_is_sft_for_any_beta():
  arrays = {'ref_logps': LOGPS - 3.0}
  for beta in (0.01, 2.0):
    gradient = grad(
      supervised.f_sft,
      arrays=arrays,
      divergence='total_variation',
      beta=beta,
    )
    close(gradient, grad(supervised.nll))


def test_f_sft_is_a_line_below_the_floor():
  # Hellinger at u = -1 is a pole; from -1/2 on: phi = -1, slope 4.
  arrays = {'ref_logps': LOGPS + 0.5}
  loss, _ = supervised.f_sft(
    signals(**arrays), MASK, divergence='hellinger', beta=1.0
  )
  close(loss.sum(), -(-1.0 + 4.0 * -0.5))
  gradient = grad(
    supervised.f_sft, arrays=arrays, divergence='hellinger', beta=1.0
  )
  close(gradient, -4.0 * MASK)


def test_poft_by_hand():
  # s = -1.5 ln 2 = s_ref: margin gamma; the loss is spread over two tokens.
  scores = jnp.array([-1.5 * LN2])
  loss, _ = supervised.poft(signals(), MASK, ref_scores=scores)
  close(loss, [[LN2 / 2, LN2 / 2, 0.0]])
  # d/ds = -1/2, and s is a mean of two.
  close(grad(supervised.poft, ref_scores=scores), [[-0.25, -0.25, 0.0]])
  loss, _ = supervised.poft(signals(), MASK, ref_scores=scores, gamma=1.0)
  close(loss.sum(), np.log1p(np.exp(-1.0)))


def test_una_by_hand():
  # r = ln 3, q = 3/4.
  arrays = {'ref_logps': LOGPS - jnp.array([[np.log(3.0), 0.0, 0.0]])}
  scores = jnp.array([0.25])
  loss, _ = supervised.una(signals(**arrays), MASK, scores=scores, beta=1.0)
  close(loss, [[0.125, 0.125, 0.0]])
  loss, _ = supervised.una(
    signals(**arrays), MASK, scores=scores, beta=1.0, link='bce'
  )
  close(loss.sum(), -0.25 * np.log(0.75) - 0.75 * np.log(0.25))
  loss, _ = supervised.uft_implicit(signals(**arrays), MASK, beta=1.0)
  close(loss.sum(), 0.0625)


def test_uft_implicit_starts_as_sft_times_a_quarter_of_beta():
  gradient = grad(
    supervised.uft_implicit, arrays={'ref_logps': LOGPS}, beta=0.4
  )
  # Spread over the row, the sum's gradient reaches each token in full.
  close(gradient, -0.4 / 4 * MASK)


def test_unlikelihood_by_hand():
  # Row a b a c over {a, b, c, d}, uniform. Earlier tokens without the target:
  # {}, {a}, {b}, {a, b}; each costs -log(3/4).
  tokens = jnp.array([[0, 1, 0, 2]])
  logits = jnp.zeros((1, 4, 4))
  record = signals(jnp.full((1, 4), -np.log(4.0)), logits=logits)
  loss, metrics = supervised.unlikelihood(
    record, jnp.ones((1, 4)), tokens=tokens, coef=2.0
  )
  cost = np.log(4 / 3)
  close(metrics['unlikelihood'], [[0.0, cost, cost, 2 * cost]])
  close(loss, np.log(4.0) + 2 * cost * np.array([[0, 1, 1, 2]]))


def test_unlikelihood_negative_by_hand():
  negative = jnp.array([[0.0, 1.0, 1.0]])
  loss, _ = supervised.unlikelihood_negative(
    signals(), MASK, negative=negative, coef=3.0
  )
  close(loss, [[LN2, -3 * np.log(0.75), 0.0]])
  # d/d log p of -log(1 - p) is p / (1 - p).
  gradient = grad(supervised.unlikelihood_negative, negative=negative, coef=3.0)
  close(gradient, [[-1.0, 1.0, 0.0]])


def test_unlikelihood_of_a_certain_token_still_learns():
  negative = jnp.ones((1, 1))

  def total(z):
    logps = jax.nn.log_softmax(z)[..., 0]
    return supervised.unlikelihood_negative(
      signals(logps), ONE, negative=negative
    )[0].sum()

  # 1 - p = 4e-7, above the clamp: d/dz -log(1 - p) = p.
  gradient = jax.jit(jax.grad(total))(jnp.array([[[14.7, 0.0]]]))
  assert 0.3 < gradient[0, 0, 0] < 1.5


def test_forgetting_means_have_their_own_denominators():
  negative = jnp.array([[0.0, 1.0, 1.0]])
  loss, metrics = supervised.forgetting(
    signals(), MASK, negative=negative, ascent=0.1
  )
  close(metrics['weight'], [[2.0, -0.2, 0.0]])
  # Mean over both tokens: ln 2 - 0.1 * 2 ln 2.
  close(loss.sum() / 2, 0.8 * LN2)


def test_nft_by_hand():
  # R = 1 everywhere: losses 0, gradients -w and +w r / (1 - r).
  logps = jnp.zeros((2, 1)) - 1.0
  args = {
    'correct': jnp.array([1.0, 0.0]),
    'correct_rate': jnp.array([0.2, 0.2]),
  }
  gradient = grad(
    supervised.nft,
    **args,
    logps=logps,
    mask=jnp.ones((2, 1)),
    arrays={'old_logps': logps},
  )
  close(gradient, [[-0.8], [0.8 * 0.25]])


def test_nft_sqrt_weight_is_grpo_on_policy():
  # Group of 4 with 1 right: rewards (1, 0, 0, 0), population z-scores.
  rewards = np.array([1.0, 0.0, 0.0, 0.0])
  advantages = (rewards - rewards.mean()) / rewards.std()
  logps = jnp.full((4, 1), -0.7)
  gradient = grad(
    supervised.nft,
    correct=jnp.asarray(rewards, jnp.float32),
    correct_rate=jnp.full(4, 0.25),
    logps=logps,
    mask=jnp.ones((4, 1)),
    arrays={'old_logps': logps},
    prompt_weight='sqrt',
  )
  close(gradient[:, 0], -advantages)


def test_nft_clamps_the_value_but_not_the_gradient():
  # R = 2, r = 0.5: (1 - r R) / (1 - r) = 0, clamped to 1: log 1 = 0 and the
  # gradient is w r R / (1 - r) / 1 = 0.5 * 2.
  logps = jnp.full((1, 1), -1.0)
  arrays = {'old_logps': logps - LN2}
  args = {'correct': jnp.zeros(1), 'correct_rate': jnp.full(1, 0.5)}
  loss, metrics = supervised.nft(signals(logps, **arrays), ONE, **args)
  close(loss, [[0.0]])
  close(metrics['ratio'], [[2.0]])
  gradient = grad(supervised.nft, **args, logps=logps, mask=ONE, arrays=arrays)
  close(gradient, [[1.0]])


def test_irl_discriminator_by_hand():
  values = jnp.array([[np.log(3.0)], [np.log(3.0)]])  # D = 3/4
  record = signals(jnp.zeros((2, 1)), values_after=values)
  loss, metrics = supervised.irl_discriminator(
    record,
    jnp.ones((2, 1)),
    expert=jnp.array([1.0, 0.0]),
    smoothing=0.0,
  )
  close(loss, [[np.log(4 / 3)], [np.log(4)]])
  close(metrics['accuracy'], [[1.0], [0.0]])
