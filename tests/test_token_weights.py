"""Token weights: hand-computed values, what must hold for all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import token_weights
from posttrain_jax.core import resolve
from posttrain_jax.core.types import TokenSignals
from posttrain_jax.losses import supervised

LN2 = np.log(2.0)


def array(*rows):
  return jnp.array(rows, jnp.float32)


def signals(probs, **arrays):
  """TokenSignals from probabilities; rows are lists."""
  return TokenSignals(logps=jnp.log(array(*probs)), **arrays)


PROBS = [[0.5, 0.25, 0.8, 0.1], [0.9, 0.4, 0.1, 0.1]]
MASK = array([1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0])
HALF = signals([[0.5] * 4] * 2)


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# By hand


def test_uniform_is_the_mask():
  close(token_weights.uniform(HALF, MASK), MASK)


def test_prob_power():
  weights = token_weights.prob_power(signals(PROBS), MASK, alpha=2.0)
  close(weights, [[0.25, 0.0625, 0.64, 0.0], [0.81, 0.16, 0.0, 0.0]])


def test_prob_power_one_times_nll_is_dft():
  record = signals(PROBS)
  weights = token_weights.prob_power(record, MASK)
  loss, _ = supervised.nll(record, MASK)
  close(weights * loss, supervised.dft(record, MASK)[0])


def test_threshold_keeps_and_rescales():
  weights = token_weights.threshold(signals(PROBS), MASK, low=0.3, high=0.85)
  kept = np.array([[1.0, 0, 1, 0], [0, 1, 0, 0]])
  close(weights, kept * 5 / 3)
  plain = token_weights.threshold(
    signals(PROBS), MASK, low=0.3, high=0.85, normalize=False
  )
  close(plain, kept)


def test_threshold_equals_the_loss_of_the_same_name():
  record = signals(PROBS)
  weights = token_weights.threshold(record, MASK, low=0.3)
  loss, _ = supervised.prob_threshold(record, MASK, low=0.3)
  close(weights * supervised.nll(record, MASK)[0], loss)


def test_chord_phi():
  close(
    token_weights.chord_phi(signals(PROBS), MASK),
    [[0.25, 0.1875, 0.16, 0.0], [0.09, 0.24, 0.0, 0.0]],
  )


def test_high_entropy_over_the_batch_and_in_each_row():
  entropy = array([3.0, 1.0, 2.0, 9.0], [0.5, 0.7, 9.0, 9.0])
  record = HALF.replace(entropy=entropy)
  weights = token_weights.high_entropy(record, MASK, fraction=0.4)
  close(weights, [[1, 0, 1, 0], [0, 0, 0, 0]])  # 2 of 5
  weights = token_weights.high_entropy(
    record, MASK, fraction=0.4, scope='sequence'
  )
  close(weights, [[1, 0, 1, 0], [0, 1, 0, 0]])  # ceil(1.2), ceil(0.8)
  one = token_weights.high_entropy(record, MASK, fraction=0.2)
  close(one, [[1, 0, 0, 0], [0, 0, 0, 0]])  # 0.2 * 5 is 1, not 2


def test_ties_go_to_the_earlier_token():
  record = HALF.replace(entropy=jnp.ones((2, 4)))
  weights = token_weights.high_entropy(record, MASK, fraction=0.6)
  close(weights, [[1, 1, 1, 0], [0, 0, 0, 0]])


def test_prefix_only():
  close(
    token_weights.prefix_only(HALF, MASK, length=1, normalize=False),
    [[1, 0, 0, 0], [1, 0, 0, 0]],
  )
  weights = token_weights.prefix_only(
    HALF, MASK, jnp.array([1.0, 0.0]), length=1
  )
  close(weights, np.array([[1, 1, 1, 0], [1, 0, 0, 0]]) * 5 / 4)


def test_prefix_counts_tokens_of_the_loss_not_positions():
  mask = array([0.0, 0.0, 1.0, 1.0])
  record = signals([[0.5] * 4])
  weights = token_weights.prefix_only(record, mask, length=1, normalize=False)
  close(weights, [[0, 0, 1, 0]])


def test_talr_by_hand():
  # tau 1: weights 4 p / sum p = 4 p / 2.
  record, mask = signals([[0.5, 0.25], [0.25, 1.0]]), jnp.ones((2, 2))
  close(token_weights.talr(record, mask, tau=1.0), [[1, 0.5], [0.5, 2]])
  # Row means 1.5 ln 2 and ln 2: median 1.25 ln 2; l = k ln 2.
  raw = np.exp(-np.array([[1, 2], [2, 0]]) / 1.25)
  close(token_weights.talr(record, mask), 4 * raw / raw.sum())
  floored = token_weights.talr_floor(record, mask, floor=0.4)
  close(floored, np.maximum(raw, 0.4))


def test_talr_limits():
  record = signals(PROBS)
  close(token_weights.talr(record, MASK, tau=1e6), MASK, 1e-5)
  floorless = token_weights.talr_floor(record, MASK, tau=1.0, floor=0.0)
  close(floorless, token_weights.prob_power(record, MASK))


def test_srft_entropy():
  entropy = array([LN2, 0.0, 2 * LN2, 9.0], [0.0, 0.0, 9.0, 9.0])
  record = HALF.replace(entropy=entropy)
  close(
    token_weights.srft_entropy(record, MASK),
    [[0.25, 0.25, 0.25, 0.0], [0.5, 0.5, 0.0, 0.0]],
  )
  weights = token_weights.srft_entropy(record, MASK, scale=0.1, sign=1.0)
  close(weights[:, 0], [0.2, 0.1])


def test_srft_rollouts():
  entropy = array([LN2, 0.0, 2 * LN2, 9.0], [0.0, LN2, 9.0, 9.0])
  record = HALF.replace(entropy=entropy)
  weigh = functools.partial(token_weights.srft_rollouts, record, MASK)
  # Mean entropies ln 2 and ln 2 / 2.
  close(weigh(correct=jnp.array([1.0, 0.0])), [[0.2] * 3 + [0.0], [1, 1, 0, 0]])
  root = np.sqrt(2.0)
  close(
    weigh(correct=jnp.array([0.0, 1.0]), scale=0.5),
    [[1, 1, 1, 0], [0.5 * root] * 2 + [0.0] * 2],
  )


def test_rho1_keeps_what_the_reference_finds_easier():
  # Excess loss log(ref / p): row 0 ln(1, 2, 1), row 1 ln(1, 2).
  ref = jnp.log(array([0.5, 0.5, 0.8, 0.9], [0.9, 0.8, 0.9, 0.9]))
  record = signals(PROBS, ref_logps=ref)
  weights = token_weights.rho1(record, MASK, fraction=0.4)
  close(weights, np.array([[0, 1, 0, 0], [0, 1, 0, 0]]) * 2.5)


def test_rows_that_the_start_finds_easy_count_more():
  # Mean losses log 2 and log 8 under the reference: the median is log 4, so
  # the weights are exp(-1/2) and exp(-3/2); the policy's own losses are not
  # looked at.
  ref = jnp.log(array([0.5, 0.5, 0.5, 0.9], [0.5, 1 / 32, 0.9, 0.9]))
  record = signals(PROBS, ref_logps=ref)
  rows = np.exp([[-0.5], [-1.5]])
  close(token_weights.easy_rows(record, MASK), rows * MASK)
  # tau = log 2: weights 1/e and 1/e^3.
  weights = token_weights.easy_rows(record, MASK, tau=float(np.log(2.0)))
  close(weights, rows**2 * MASK)


def test_token_cleaning_ignores_the_policy():
  base = jnp.log(array([0.5, 0.5, 0.1, 0.1], [0.2, 0.5, 0.1, 0.1]))
  ref = jnp.log(array([0.6, 0.1, 0.9, 0.9], [0.8, 0.5, 0.9, 0.9]))
  record = HALF.replace(ref_logps=ref)
  weights = token_weights.token_cleaning(
    record, MASK, base_logps=base, fraction=0.6, normalize=False
  )
  close(weights, [[1, 0, 1, 0], [1, 0, 0, 0]])
  everything = token_weights.token_cleaning(
    record, MASK, base_logps=base, fraction=1.0
  )
  close(everything, MASK)


def test_ss_token_mixes_loss_and_attention():
  # Gains over the past model: 1, 0, 1/2 after scaling; attention 0, 1, 0.6.
  record = TokenSignals(logps=array([-1.0, -1.0, -1.0]))
  past = array([-3.0, -1.0, -2.0])
  attention = array([0.0, 1.0, 0.6])
  mask = jnp.ones((1, 3))
  hparams = {'fraction': 0.3, 'normalize': False}
  weigh = functools.partial(
    token_weights.ss_token, record, mask, history_logps=past
  )
  close(weigh(**hparams), [[1, 0, 0]])
  # gamma 1/2: 0.5, 0.5, 0.55.
  close(weigh(attention, **hparams), [[0, 0, 1]])
  close(weigh(attention, gamma=0.0, **hparams), [[0, 1, 0]])


def test_critical_tokens():
  critical = array([0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0])
  close(
    token_weights.critical_tokens(HALF, MASK, critical=critical),
    [[0, 5, 0, 0], [0, 0, 0, 0]],
  )


def test_rows_weigh_by_their_rewards():
  found = token_weights.reward_weighted(
    HALF, MASK, scores=jnp.array([np.log(2.0), -100.0]), temperature=0.5
  )
  close(found, MASK * np.array([[4.0], [np.exp(-200.0)]]))
  most = token_weights.reward_weighted(HALF, MASK, scores=jnp.array([1e9, 0.0]))
  close(most[0].max(), np.exp(80.0), 1e-5)
  close(most[1], MASK[1])


def test_shad_by_hand():
  # Row 0: tokens 0, 2 are reasoning, with mean loss ln 2 and 3 ln 2 -> 2 ln 2;
  # token 1 boilerplate, loss ln 2. w_r = sigmoid(ln 2) = 2/3 at tau 1.
  record = signals([[0.5, 0.5, 0.125, 0.1], [0.5] * 4])
  base = jnp.zeros((2, 4))
  shuffled = array([-1.0, 0.5, -2.0, -1.0], [0.0, 0.0, -1.0, -1.0])
  weigh = functools.partial(
    token_weights.shad,
    record,
    MASK,
    shuffled_logps=shuffled,
    base_logps=base,
  )
  weights = weigh(tau=1.0)
  # The second row has boilerplate only: plain NLL.
  close(weights, [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
  weights = weigh(tau=1e6)
  close(weights[0], [0.75, 1.5, 0.75, 0.0], 1e-5)


def test_fait_fades_as_the_policy_learns_the_difference():
  changed = array([0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
  wrong = array([-9.0, -0.5], [-9.0, -9.0])
  wrong_changed = array([0.0, 1.0], [0.0, 0.0])
  # s_right = mean(-1, -2) = -1.5 and s_wrong = -0.5: sigmoid(ln 3) at 1/ln 3.
  record = TokenSignals(logps=array([-7.0, -1.0, -2.0, -7.0], [-1.0] * 4))
  weights = token_weights.fait(
    record,
    MASK,
    changed=changed,
    wrong_logps=wrong,
    wrong_changed=wrong_changed,
    tau=1 / np.log(3.0),
  )
  close(weights, [[1.0, 2.5, 2.5, 0.0], [1.0, 1.0, 0.0, 0.0]])


def test_key_tokens_weigh_as_much_as_the_others():
  keys = array([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0])
  weights = token_weights.key_tokens(HALF, MASK, keys=keys)
  # Weight 2 on one of three, scaled by 3/4; more keys than others: all 1.
  close(weights, [[0.75, 1.5, 0.75, 0.0], [1.0, 1.0, 0.0, 0.0]])
  weights = token_weights.key_tokens(HALF, MASK, keys=keys, max_weight=1.0)
  close(weights, MASK)


# What must hold for all

# The arrays that a method asks for beside the signals: their names here.
EXTRA = {
  'base_logps': 'old',
  'changed': 'marks',
  'correct': 'correct',
  'critical': 'marks',
  'history_logps': 'other',
  'keys': 'marks',
  'scores': 'correct',
  'shuffled_logps': 'other',
  'wrong_changed': 'marks',
  'wrong_logps': 'other',
}


def make_arrays(poison=0.0):
  rng = np.random.default_rng(11)
  mask = np.array([[1.0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
  hide = lambda x: np.where(mask != 0, x, poison).astype(np.float32)
  logps, ref, other, old = -rng.uniform(0.1, 3.0, (4, *mask.shape))
  record = TokenSignals(
    logps=hide(logps),
    entropy=hide(rng.uniform(0.1, 2.0, mask.shape)),
    ref_logps=hide(ref),
  )
  more = {
    'other': hide(other),
    'old': hide(old),
    'marks': np.where(mask, rng.integers(0, 2, mask.shape), 0),
    # Row 2 is empty.
    'correct': np.array([1.0, 0.0, poison, 1.0], np.float32),
  }
  return record, mask.astype(np.float32), more


def run(name, record, mask, more, **hparams):
  arrays = resolve.arrays_of(getattr(token_weights, name))
  hparams |= {array: jnp.asarray(more[EXTRA[array]]) for array in arrays}
  return getattr(token_weights, name)(
    jax.tree.map(jnp.asarray, record), jnp.asarray(mask), **hparams
  )


@pytest.mark.parametrize(
  'name, hparams',
  [
    ('talr', {}),
    ('key_tokens', {}),
    ('rho1', {}),
    ('token_cleaning', {}),
    ('ss_token', {}),
    ('critical_tokens', {}),
    ('prefix_only', {'length': 1}),
    ('threshold', {'low': 0.3}),
    ('high_entropy', {'normalize': True}),
    ('q_tuning', {}),
  ],
)
def test_normalised_weights_sum_to_the_token_count(name, hparams):
  record, mask, more = make_arrays()
  weights = run(name, record, mask, more, **hparams)
  close(weights.sum(), mask.sum(), 1e-5)


@pytest.mark.parametrize(
  'name, key, values',
  [
    ('high_entropy', 'fraction', [0.2, 0.7]),
    ('prefix_only', 'length', [1, 3]),
    ('talr', 'tau', [0.0, 3.0]),
    ('easy_rows', 'tau', [0.0, 3.0]),
    ('reward_weighted', 'temperature', [0.4, 1.0]),
    ('threshold', 'low', [0.1, 0.5]),
    ('ss_token', 'fraction', [0.3, 0.9]),
    ('q_tuning', 'sample_fraction', [0.3, 1.0]),
  ],
)
def test_hyperparameters_may_be_traced(name, key, values):
  record, mask, more = make_arrays()
  weigh = lambda x: run(name, record, mask, more, **{key: x})
  traced = jax.jit(jax.vmap(weigh))(jnp.array(values))
  for row, value in zip(traced, values):
    close(row, weigh(value))
  assert np.abs(traced[0] - traced[1]).max() > 1e-3


@pytest.mark.parametrize(
  'name, missing',
  [
    ('high_entropy', 'entropy'),
    ('srft_entropy', 'entropy'),
    ('srft_rollouts', 'entropy'),
    ('q_tuning', 'entropy'),
    ('rho1', 'ref_logps'),
    ('easy_rows', 'ref_logps'),
    ('token_cleaning', 'ref_logps'),
  ],
)
def test_a_missing_signal_is_named(name, missing):
  record, mask, more = make_arrays()
  bare = TokenSignals(logps=record.logps)
  with pytest.raises(ValueError, match=f'signals.{missing}'):
    run(name, bare, mask, more)


def test_an_unknown_scope_lists_the_valid_ones():
  record, mask, more = make_arrays()
  with pytest.raises(ValueError, match='sequence'):
    run('rho1', record, mask, more, scope='row')
