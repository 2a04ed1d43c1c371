"""Controllers: values by hand, what they share, and control of a toy run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import controllers
from posttrain_jax.core.resolve import hparams_of, lookup, part, resolve

ALL = controllers.__all__


def close(actual, expected, tolerance=1e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def values(controller, metrics, num_steps=None):
  """The values of the first step and of those after each given metric."""
  state = controller.init()
  found = [float(controller.value(state))]
  for step, metric in enumerate(metrics, 1):
    given = {name: jnp.float32(metric) for name in controller.reads}
    state, value = controller.update(
      state, given, step, num_steps or len(metrics)
    )
    assert value == controller.value(state)
    found.append(float(value))
  return found


def test_fixed_and_linear_by_hand():
  close(values(controllers.fixed(value=0.3), [0.0] * 3), [0.3] * 4)
  line = controllers.linear(start=1.0, end=0.2)
  close(values(line, [0.0] * 4), [1.0, 0.8, 0.6, 0.4, 0.2])
  # Past the end of the run it stays.
  close(values(line, [0.0] * 3, num_steps=2), [1.0, 0.6, 0.2, 0.2])


def test_dynamic_kl_is_a_v():
  found = values(controllers.dynamic_kl(), [0.0] * 20)
  close(found[0], 0.07)
  close(found[3], 0.055)
  close(found[6], 0.04)
  close(found[13], 0.07)
  close(found[20], 0.1)
  assert np.all(np.diff(found[:7]) < 0) and np.all(np.diff(found[6:]) > 0)


@pytest.mark.parametrize(
  'turn, expected', [(0.0, [0.0, 0.5, 1.0]), (1.0, [0.5, 0.25, 0.0])]
)
def test_dynamic_kl_with_one_arm(turn, expected):
  found = controllers.dynamic_kl(low=0.0, high=1.0, turn=turn)
  close(values(found, [0.0, 0.0]), expected)


def test_warmup_cosine_by_hand():
  make = controllers.warmup_cosine
  # From the peak to the valley: at half of it, in the middle of both.
  found = values(make(peak=0.9, valley=0.1), [0.0] * 4)
  quarter = 0.1 + 0.4 * (1 + np.sqrt(0.5))
  close(found, [0.9, quarter, 0.5, 1.0 - quarter, 0.1])
  # Up to the peak at a quarter, down in a half, then level.
  found = values(make(peak=0.8, valley=0.2, warmup=0.25, decay=0.5), [0.0] * 8)
  close(found[:3], [0.0, 0.4, 0.8])
  root = np.sqrt(0.5)
  close(found[3:6], [0.5 + 0.3 * root, 0.5, 0.5 - 0.3 * root])
  close(found[6:], [0.2] * 3)


def test_warmup_cosine_without_a_decay_drops():
  found = controllers.warmup_cosine(peak=0.8, valley=0.2, warmup=0.5, decay=0.0)
  close(values(found, [0.0] * 4), [0.0, 0.4, 0.2, 0.2, 0.2])


def test_adaptive_kl_by_hand():
  controller = controllers.adaptive_kl(start=1.0, target=2.0, horizon=2.0)
  # Errors: +0.1; +2 counts as +0.2; 0; -1 counts as -0.2.
  expected = np.cumprod([1.0, 1.05, 1.1, 1.0, 0.9])
  close(values(controller, [2.2, 6.0, 2.0, 0.0]), expected)


def test_adaptive_kl_as_peers_count_it():
  """256 rows an update and a horizon of 10,000 rows."""
  coef = 0.2
  for kl in (9.0, 7.0, 1.0):
    error = np.clip(kl / 6.0 - 1, -0.2, 0.2)
    coef *= 1 + error * 256 / 10_000
  controller = controllers.adaptive_kl(horizon=10_000 / 256)
  close(values(controller, [9.0, 7.0, 1.0])[-1], coef)


def test_adaptive_entropy_by_hand():
  controller = controllers.adaptive_entropy(target=0.5, delta=0.01, high=0.02)
  entropies = [0.4, 0.5, 0.1, 0.6, 0.4, 0.9, 0.9, 0.9, 0.2]
  coefs = [0.01, 0.02, 0.02, 0.01, 0.02, 0.01, 0.0, 0.0, 0.01]
  on = [0.01, 0.02, 0.02, 0.0, 0.02, 0.0, 0.0, 0.0, 0.01]
  state = controller.init()
  for entropy, coef, value in zip(entropies, coefs, on):
    state, found = controller.update(state, {'entropy': entropy}, 1, 9)
    close(state['coef'], coef)
    close(found, value)


def test_entropy_temperature_by_hand():
  controller = controllers.entropy_temperature()
  close(values(controller, [0.2, 0.5, 0.9, 0.4]), [1.2, 1.2, 0.8, 0.8, 1.2])


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('metric', [np.nan, np.inf, -np.inf])
def test_a_bad_metric_is_not_remembered(name, metric):
  controller = lookup(controllers, name)()
  good = values(controller, [0.3, 0.4], num_steps=3)
  found = values(controller, [0.3, 0.4, metric], num_steps=3)
  assert np.isfinite(found[-1])
  if controller.reads:
    assert found[-1] == good[-1]


@pytest.mark.parametrize('name', ALL)
def test_a_whole_run_compiles_with_traced_hyperparameters(name):
  make = lookup(controllers, name)
  hparams = hparams_of(make)
  metrics = jnp.array([0.1, 0.7, 3.0, 9.0, 0.3])

  @jax.jit
  def run(hparams, num_steps):
    controller = make(**hparams)

    def step(carry, metric):
      state, done = carry
      given = {name: metric for name in controller.reads}
      state, value = controller.update(state, given, done + 1, num_steps)
      return (state, done + 1), value

    start = (controller.init(), jnp.int32(0))
    return jax.lax.scan(step, start, metrics)[1]

  found = run(jax.tree.map(jnp.float32, hparams), jnp.int32(5))
  assert found.dtype == jnp.float32
  close(found, values(make(), metrics)[1:])


@pytest.mark.parametrize('name', ALL)
def test_controllers_are_parts_of_a_config(name):
  entry = part(controllers, name)
  assert entry.pop('name') == name
  controller = resolve(controllers, name, **entry)()
  for leaf in jax.tree.leaves(controller.init()):
    assert leaf.shape == () and leaf.dtype == jnp.float32
  assert lookup(controllers, name).__doc__


@pytest.mark.parametrize('name', ALL)
def test_a_metric_that_is_not_there_is_named(name):
  controller = lookup(controllers, name)()
  if not controller.reads:
    controller.update(controller.init(), {}, 1, 2)
    return
  with pytest.raises(ValueError, match=f'{controller.reads[0]}.*reward'):
    controller.update(controller.init(), {'reward': 1.0}, 1, 2)


def test_adaptive_kl_settles_where_the_kl_is_the_target():
  """A run whose KL is 1 / coefficient."""
  controller = controllers.adaptive_kl(start=1.0, target=0.25, horizon=2.0)
  state = controller.init()
  for step in range(1, 200):
    kl = 1.0 / controller.value(state)
    state, value = controller.update(state, {'kl': kl}, step, 200)
  close(value, 4.0, 1e-3)


@pytest.mark.parametrize('start', [0.05, 2.0])
def test_entropy_temperature_holds_the_entropy_in_a_band(start):
  """Hot samples raise the entropy by a tenth, cold ones lower it."""
  controller = controllers.entropy_temperature(target=0.5)
  state, entropy = controller.init(), start
  for step in range(60):
    state, value = controller.update(state, {'entropy': entropy}, step, 60)
    entropy *= 1.1 if value > 1 else 0.9
  assert 0.4 < entropy < 0.6


def test_cosine_then_none_by_hand():
  found = controllers.cosine_then_none(high=0.9, low=0.1, until=0.5)
  # At half of the cosine the middle; from its end on nothing, not the low end.
  close(values(found, [0.0] * 4), [0.9, 0.5, 0.0, 0.0, 0.0])
  close(values(controllers.cosine_then_none(until=0.0), [0.0] * 2), [0.0] * 3)
  whole = controllers.cosine_then_none(high=1.0, low=0.5, until=1.0)
  close(values(whole, [0.0] * 4)[2], 0.75)


def test_entropy_at_by_hand():
  controller = controllers.entropy_at(
    target=0.5, gain=0.2, start=1.0, low=0.8, high=1.25
  )
  # Half of the target too low; on it; more than all of it too high, counted as
  # all of it; then down to the smallest temperature and up to the largest.
  found = values(controller, [0.25, 0.5, 1.6, 9.0, 9.0, 0.0, 0.0, 0.0])
  close(found[:4], [1.0, np.exp(0.1), np.exp(0.1), np.exp(-0.1)])
  close(found[4:], [0.8, 0.8, 0.8 * np.exp(0.2), 0.8 * np.exp(0.4), 1.25])


@pytest.mark.parametrize('start', [0.4, 1.9])
def test_entropy_at_finds_the_temperature_of_the_target(start):
  """A policy whose entropy is 0.3 T: the target is at T = 1.5."""
  controller = controllers.entropy_at(target=0.45, start=start)
  state = controller.init()
  for step in range(1, 200):
    entropy = 0.3 * controller.value(state)
    state, value = controller.update(state, {'entropy': entropy}, step, 200)
  close(value, 1.5, 1e-3)


def shares(controller, norms, num_steps):
  return values(controller, norms, num_steps)


def test_grad_switch_by_hand():
  # Two steps of ten are warm-up: norms 4 and 2, 3 on average.
  norms = [4.0, 2.0, 3.0, 1.0, 0.0, 9.0]
  found = values(controllers.grad_switch(warmup=0.2), norms, num_steps=10)
  close(found, [1.0, 1.0, 2 / 5, 1 / 2, 1 / 4, 0.0, 3 / 4])
  half = controllers.grad_switch(gamma=0.5, warmup=0.2)
  close(values(half, norms, num_steps=10)[3:5], [3 / 4.5, 1 / 2.5])
  found = controllers.grad_switch_clipped(warmup=0.2)
  found = values(found, norms, num_steps=10)
  close(found, [1.0, 1.0, 2 / 3, 1.0, 1 / 3, 0.0, 1.0])


def test_without_a_warm_up_the_first_step_is_what_is_compared_with():
  found = controllers.grad_switch(warmup=0.0)
  close(values(found, [2.0, 6.0, 2.0]), [1.0, 0.5, 0.75, 0.5])


def vectors(sft, rl, valid, entropy):
  """The metrics of gradients that are given as vectors."""
  found = {'entropy': entropy}
  named = {'rl': rl, 'sft': sft, 'valid': valid}
  for name, x in named.items():
    found[f'grad_norm/{name}'] = np.linalg.norm(x)
    for other, y in named.items():
      if name < other:
        found[f'grad_dot/{name}/{other}'] = np.dot(x, y)
  return found


def meta(seen, **hparams):
  controller = controllers.meta_share(**hparams)
  state, found = controller.init(), []
  for step, metrics in enumerate(seen, 1):
    state, value = controller.update(state, metrics, step, len(seen))
    found.append(float(value))
  return found


def test_meta_share_by_hand():
  only = dict(meta_rate=0.1, entropy_rate=0.0)
  # sft - rl = [3, 4]; along it, against it, across it, and no gradient at all.
  seen = [
    vectors([4, 4], [1, 0], valid, 0.5)
    for valid in ([6, 8], [-3, -4], [4, -3], [0, 0])
  ]
  close(meta(seen, **only), [0.6, 0.5, 0.5, 0.5])
  close(meta(seen[:1] * 2, **only, meta_every=2.0), [0.5, 0.6])
  close(meta(seen[:1], meta_rate=-0.1, entropy_rate=0.0), [0.4])
  # A quarter of a right angle's cosine: 3 / 5 of [1, 0].
  close(meta([vectors([4, 4], [1, 0], [1, 0], 0.5)], **only), [0.56])
  # Entropy: the first one is the target, or the one that is told.
  seen = [vectors([1, 0], [1, 0], [1, 0], x) for x in (0.5, 0.3, 0.9)]
  alone = dict(meta_rate=0.0, entropy_rate=0.5)
  close(meta(seen, **alone), [0.5, 0.6, 0.4])
  close(meta(seen, **alone, target=0.7), [0.6, 0.8, 0.7])
  close(meta(seen, **alone, target=3.0), [0.95, 0.95, 0.95])
  close(meta(seen, meta_rate=0.0, entropy_rate=-9.0, target=3.0), [0.05] * 3)


def test_meta_share_of_equal_gradients_is_told_nothing():
  seen = [vectors([1, 2], [1, 2], [3, -1], 0.5)]
  close(meta(seen, entropy_rate=0.0), [0.5])
