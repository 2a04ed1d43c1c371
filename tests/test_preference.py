"""Preference losses: hand-computed values, a second implementation, padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_numpy_preference as reference

from posttrain_jax.losses import preference
from posttrain_jax.types import SequenceSignals

LN2 = np.log(2.0)
PAIRED = sorted(set(preference.__all__) - {'kto', 'bradley_terry'})


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
  args = (jnp.array([1.0]), jnp.array([0.0]))
  close(value('copg', at(2.0, -2.0), *args, beta=0.5)[0], 1.0)


def test_copg_gradient_is_the_contrastive_one():
  chosen, rejected, ref, _ = at(2.0, -2.0)

  def total(x, y):
    out = preference.copg(
      chosen.replace(logps=x),
      rejected.replace(logps=y),
      ref,
      ref,
      jnp.array([1.0]),
      jnp.array([0.0]),
      beta=0.5,
    )
    return out[0].sum()

  up, down = jax.grad(total, (0, 1))(chosen.logps, rejected.logps)
  # -(R_b(y) - R_b(y')) = 1, with the sign of each side.
  close([up[0], down[0]], [1.0, -1.0])


def test_copg_on_a_preference_is_ipo():
  quarter = jnp.array([0.25])
  for rho in (0.3, -2.0):
    ours, _ = value('copg', at(rho, 0.1), quarter, -quarter, beta=0.2)
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


# Against the NumPy form, and under transformations

LENGTHS = ((3, 2), (1, 4), (2, 2))
CASES = [
  ('sigmoid', {}, {}),
  ('dpo', {'beta': 0.3}, {'beta': 0.3}),
  ('sigmoid', {'label_smoothing': 0.2}, {'eps': 0.2}),
  ('ipo', {'length_normalized': False}, {'normalized': False}),
  *(
    ('f_dpo', {'divergence': name, 'alpha': 0.3}, {'divergence': name})
    for name in ('reverse_kl', 'forward_kl', 'js', 'alpha')
  ),
  ('bco_pair', {'shift': 0.2}, {'shift': 0.2}),
  ('rrhf', {'length_penalty': 0.8}, {}),
  *(
    (name, {}, {})
    for name in PAIRED
    if name not in ('sigmoid', 'dpo', 'aot', 'aot_unpaired', 'f_dpo', 'rrhf')
  ),
]


def make_tokens():
  """Per-token log-probabilities of three pairs, policy and reference."""
  rng = np.random.default_rng(7)
  draw = lambda n: -rng.uniform(0.1, 2.0, n)
  policy = [[draw(n), draw(m)] for n, m in LENGTHS]
  ref = [[draw(n), draw(m)] for n, m in LENGTHS]
  return policy, ref


def pack(pairs, which, size=4, padding=0.0):
  """SequenceSignals of one side; a fourth pair is padding on both sides."""
  tokens = np.full((len(pairs) + 1, size), padding)
  mask = np.zeros_like(tokens)
  for b, pair in enumerate(pairs):
    tokens[b, : len(pair[which])] = pair[which]
    mask[b, : len(pair[which])] = 1.0
  sums = np.where(mask, tokens, 0.0).sum(1)
  sums[-1] = padding
  return SequenceSignals(
    logps=jnp.asarray(sums),
    length=jnp.asarray(mask.sum(1)),
    token_logps=jnp.asarray(tokens),
    mask=jnp.asarray(mask),
  )


def collisions(size=4):
  rng = np.random.default_rng(9)
  return [-rng.uniform(0.1, 1.0, (len(LENGTHS) + 1, size)) for _ in range(2)]


REWARDS = np.array([[0.5, 0.1, -0.3, 0.0], [0.2, 0.9, 0.0, 0.0]])


def extras(name):
  if name == 'copg':
    return [jnp.asarray(x) for x in REWARDS]
  if name == 'wpo':
    return [jnp.asarray(x) for x in collisions()]
  return []


def run(name, hparams, chosen, rejected, ref_chosen, ref_rejected):
  """Loss, metrics and the gradient by the per-token log-probabilities."""

  def total(chosen_tokens, rejected_tokens):
    records = [
      record.replace(
        token_logps=tokens,
        # A padding row keeps its own, possibly poisoned, sum.
        logps=jnp.where(
          record.length > 0,
          jnp.sum(jnp.where(record.mask != 0, tokens, 0.0), axis=1),
          record.logps,
        ),
      )
      for record, tokens in (
        (chosen, chosen_tokens),
        (rejected, rejected_tokens),
      )
    ]
    out = getattr(preference, name)(
      *records, ref_chosen, ref_rejected, *extras(name), **hparams
    )
    return out[0].sum(), out

  gradient, (loss, metrics) = jax.grad(total, (0, 1), has_aux=True)(
    chosen.token_logps, rejected.token_logps
  )
  return loss, metrics, gradient


def second(name, other, policy, ref, frozen):
  """The NumPy losses of the three pairs."""
  losses = []
  for b in range(len(policy)):
    more = ()
    if name == 'copg':
      more = (REWARDS[:, b],)
    if name == 'wpo':
      more = ([x[b] for x in collisions()],)
    losses.append(
      getattr(reference, name)(policy[b], ref[b], frozen[b], *more, **other)
    )
  return np.array(losses)


@pytest.mark.parametrize('name, hparams, other', CASES)
def test_value_and_gradient_match_numpy(name, hparams, other):
  policy, ref = make_tokens()
  with jax.enable_x64(True):
    signals = [
      pack(pairs, which) for pairs in (policy, ref) for which in (0, 1)
    ]
    loss, _, gradient = jax.jit(functools.partial(run, name, hparams))(*signals)
    loss, gradient = np.asarray(loss), [np.asarray(g) for g in gradient]
  expected = second(name, other, policy, ref, policy)
  np.testing.assert_allclose(loss[:-1], expected, atol=1e-10)
  assert loss[-1] == 0
  for b, lengths in enumerate(LENGTHS):
    for which, length in enumerate(lengths):
      assert not gradient[which][b, length:].any()
      for t in range(length):
        ends = []
        for step in (1e-5, -1e-5):
          moved = [[x.copy() for x in pair] for pair in policy]
          moved[b][which][t] += step
          ends.append(second(name, other, moved, ref, policy).sum())
        numeric = (ends[0] - ends[1]) / 2e-5
        assert abs(gradient[which][b, t] - numeric) < 1e-7


@pytest.mark.parametrize('name', ['aot', 'aot_unpaired'])
def test_sorted_losses_match_numpy(name):
  policy, ref = make_tokens()
  signals = [pack(pairs, which) for pairs in (policy, ref) for which in (0, 1)]
  loss, _, _ = run(name, {'label_smoothing': 0.1}, *signals)
  p, r = ([[x.sum() for x in pair] for pair in side] for side in (policy, ref))
  (pw, pl), (rw, rl) = np.array(p).T, np.array(r).T
  if name == 'aot':
    d = np.sort(pw - pl) - np.sort(rw - rl)
  else:
    d = np.sort(pw - rw) - np.sort(pl - rl)
  expected = [-0.9 * reference.ls(0.1 * x) - 0.1 * reference.ls(-0.1 * x)
              for x in d]  # fmt: skip
  close(loss, [*expected, 0.0])


def test_every_loss_has_a_second_implementation_or_a_reason():
  # These are compared in tests of their own.
  own = {'aot', 'aot_unpaired', 'kto', 'bradley_terry'}
  assert {name for name, _, _ in CASES} | own == set(preference.__all__)


def signals32(padding=0.0):
  policy, ref = make_tokens()
  with np.errstate(invalid='ignore'):
    signals = [
      pack(pairs, which, padding=padding)
      for pairs in (policy, ref)
      for which in (0, 1)
    ]
  return [
    jax.tree.map(lambda x: np.array(x, np.float32), record)
    for record in signals
  ]


@functools.cache
def compiled(name):
  """One compilation per loss, on four variants at once, for the tests below."""
  return jax.jit(jax.vmap(functools.partial(run, name, {})))


@pytest.mark.parametrize('name', PAIRED)
def test_jit_of_vmap_equals_eager_and_padding_never_leaks(name):
  variants = [signals32(x) for x in (0.0, np.nan, np.inf, -np.inf)]
  stacked = jax.tree.map(lambda *x: np.stack(x), *variants)
  loss, metrics, gradient = compiled(name)(*stacked)
  eager, plain = getattr(preference, name)(*variants[0], *extras(name))
  for row in loss:
    close(row, eager)
  for key, array in metrics.items():
    for row in array:
      close(row, plain[key])
  for array in (loss, *metrics.values()):
    assert array.shape == (4, 4)
    assert not np.asarray(array)[:, -1].any()
  for array, record in zip(gradient, variants[0]):
    array = np.asarray(array)
    assert np.isfinite(array).all()
    assert not array[:, record.mask == 0].any()
    assert array.any()


@pytest.mark.parametrize('name', PAIRED)
def test_extreme_log_probabilities_stay_finite(name):
  def extreme(policy, other):
    """Chosen and rejected at the two given values per token, then swapped."""
    signals = signals32()
    for record, x in zip(signals, (policy, other, other, policy)):
      record.token_logps[:] = np.where(record.mask, x, 0.0)
      record.logps[:] = record.token_logps.sum(1)
    return signals

  ends = (0.0, -1e4)
  variants = [extreme(x, y) for x in ends for y in ends]
  stacked = jax.tree.map(lambda *x: np.stack(x), *variants)
  loss, metrics, gradient = compiled(name)(*stacked)
  for array in (loss, *metrics.values(), *gradient):
    assert np.isfinite(array).all()


@pytest.mark.parametrize(
  'name, key, values',
  [
    ('sigmoid', 'beta', [0.1, 1.0]),
    ('exo_pair', 'label_smoothing', [1e-3, 0.2]),
    ('f_dpo', 'beta', [0.1, 1.0]),
    ('ld_dpo', 'alpha', [0.0, 1.0]),
    ('alphapo', 'alpha', [0.0, 0.5]),
    ('rrhf', 'length_penalty', [0.0, 1.0]),
    ('discopop', 'tau', [0.05, 1.0]),
  ],
)
def test_hyperparameters_may_be_traced(name, key, values):
  signals = signals32()
  loss = lambda x: getattr(preference, name)(
    *signals, *extras(name), **{key: x}
  )[0]
  traced = jax.jit(jax.vmap(loss))(jnp.array(values))
  for row, x in zip(traced, values):
    close(row, loss(x))
  assert np.abs(traced[0] - traced[1]).max() > 1e-3
