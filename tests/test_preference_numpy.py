"""Every paired loss against its NumPy form, under jit, vmap and padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_numpy_preference as reference

from posttrain_jax.losses import preference
from posttrain_jax.types import SequenceSignals


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


UNLIKE = {'bradley_terry', 'sft', *preference.UNPAIRED}
PAIRED = sorted(set(preference.__all__) - UNLIKE)
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
    sides = ('chosen_rewards', 'rejected_rewards')
    return dict(zip(sides, map(jnp.asarray, REWARDS)))
  if name == 'wpo':
    sides = ('chosen_collision', 'rejected_collision')
    return dict(zip(sides, map(jnp.asarray, collisions())))
  return {}


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
      *records, ref_chosen, ref_rejected, **extras(name), **hparams
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


def flat(logps):
  """One-token answers with these summed log-probabilities."""
  ones = jnp.ones(len(logps))
  return SequenceSignals(
    logps=logps, length=ones, token_logps=logps[:, None], mask=ones[:, None]
  )


def numeric_gradient(function, x):
  steps = 1e-5 * np.eye(len(x))
  return [
    (np.sum(function(x + s)) - np.sum(function(x - s))) / 2e-5 for s in steps
  ]


def test_kto_matches_numpy():
  rng = np.random.default_rng(1)
  rho, rest, ref = rng.normal(size=(3, 5))
  label = np.array([1.0, 0, 1, 0, 0])
  with jax.enable_x64(True):

    @jax.jit
    def run(x):
      zeros = flat(jnp.asarray(ref))
      loss, _ = preference.kto(
        flat(x + ref),
        zeros,
        flat(jnp.asarray(rest + ref)),
        zeros,
        jnp.asarray(label),
        beta=0.7,
        desirable_weight=1.5,
        undesirable_weight=0.8,
      )
      return loss.sum(), loss

    gradient, loss = jax.grad(run, has_aux=True)(jnp.asarray(rho))
    loss, gradient = np.asarray(loss), np.asarray(gradient)
  second = functools.partial(
    reference.kto, rest=rest, desirable=label, beta=0.7, weights=(1.5, 0.8)
  )
  np.testing.assert_allclose(loss, second(rho), atol=1e-10)
  expected = numeric_gradient(second, rho)
  np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_bradley_terry_matches_numpy():
  good, bad, margin = np.random.default_rng(2).normal(size=(3, 4))
  with jax.enable_x64(True):

    @jax.jit
    def run(x):
      loss, _ = preference.bradley_terry(
        x, bad, margin, center_coef=0.05, label_smoothing=0.2
      )
      return loss.sum(), loss

    gradient, loss = jax.grad(run, has_aux=True)(jnp.asarray(good))
    loss, gradient = np.asarray(loss), np.asarray(gradient)
  second = lambda x: reference.bradley_terry(x, bad, margin)
  np.testing.assert_allclose(loss, second(good), atol=1e-10)
  expected = numeric_gradient(second, good)
  np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_every_loss_has_a_second_implementation_or_a_reason():
  # These are compared in tests of their own.
  own = {'aot', 'aot_unpaired', *UNLIKE}
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
  eager, plain = getattr(preference, name)(*variants[0], **extras(name))
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
    *signals, **extras(name), **{key: x}
  )[0]
  traced = jax.jit(jax.vmap(loss))(jnp.array(values))
  for row, x in zip(traced, values):
    close(row, loss(x))
  assert np.abs(traced[0] - traced[1]).max() > 1e-3
