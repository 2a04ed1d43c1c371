"""The study of the bandit: by hand and by identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bandit import bandit, design, gamble
from posttrain_jax import lab

SHAPE = (3, 4)


@pytest.fixture(scope='module')
def drawn():
  """Rewards of which some are closer than GAP, some alike."""
  rng = np.random.default_rng(0)
  rewards = np.array(
    [[0.1, 0.5, 0.55, 0.9], [0.3, 0.3, 0.35, 0.2], [0.7, 0.1, 0.1, 0.4]]
  )
  logps = [rng.uniform(-4.0, -0.5, SHAPE) for _ in range(3)]
  return bandit.Drawn(*(jnp.asarray(x, jnp.float32) for x in (rewards, *logps)))


def by_hand(drawn, gap):
  """DPO over a slow loop of pairs; (loss, pairs)."""
  losses = []
  log_ratio = np.asarray(drawn.logps) - np.asarray(drawn.ref_logps)
  rewards = np.asarray(drawn.rewards)
  for state in range(SHAPE[0]):
    for win, lose in np.ndindex(SHAPE[1], SHAPE[1]):
      if rewards[state, win] - rewards[state, lose] > gap:
        margin = log_ratio[state, win] - log_ratio[state, lose]
        losses.append(np.log1p(np.exp(-bandit.BETA * margin)))
  return np.mean(losses), len(losses)


def test_dpo_is_that_of_a_loop_over_pairs(drawn):
  far, few = by_hand(drawn, bandit.GAP)
  every, many = by_hand(drawn, 0.0)
  assert (few, many) == (10, 16)
  np.testing.assert_allclose(bandit.METHODS['dpo'](drawn), far, rtol=1e-5)
  np.testing.assert_allclose(bandit.METHODS['dpo_all'](drawn), every, rtol=1e-5)


def test_pairs_that_are_alike_teach_nothing(drawn):
  alike = bandit.Drawn(
    jnp.full(SHAPE, 0.8), drawn.logps, drawn.old_logps, drawn.ref_logps
  )
  for name in ('dpo', 'ipo', 'dpo_all'):
    assert bandit.METHODS[name](alike) == 0.0


def gradient(name, drawn):
  """[states, samples] of a method's loss by the policy's log-probabilities."""
  loss = lambda logps: bandit.METHODS[name](
    bandit.Drawn(drawn.rewards, logps, drawn.old_logps, drawn.ref_logps)
  )
  return np.asarray(jax.grad(loss)(drawn.logps))


def test_who_pushes_down():
  """Likelihoods and the positive part only raise; the others also lower."""
  rng = np.random.default_rng(1)
  some = [rng.uniform(-3.0, -1.0, (3, bandit.SAMPLES)) for _ in range(2)]
  drawn = bandit.Drawn(
    jnp.asarray(rng.uniform(0.0, 1.0, (3, bandit.SAMPLES)), jnp.float32),
    *(jnp.asarray(x, jnp.float32) for x in (some[0], some[0], some[1])),
  )
  for name in ('best_of_n', 'rwr', 'positive'):
    assert np.all(gradient(name, drawn) <= 0.0)
  for name in ('reinforce', 'ppo', 'dpo', 'ipo', 'dpo_all'):
    found = gradient(name, drawn)
    assert found.min() < 0.0 < found.max()
  # Only the best of each state.
  best = gradient('best_of_n', drawn)
  assert np.count_nonzero(best) == 3
  np.testing.assert_array_equal(
    np.argmin(best, axis=1), np.argmax(drawn.rewards, axis=1)
  )
  np.testing.assert_allclose(best.sum(), -1.0, rtol=1e-6)


def test_the_reference_is_the_papers():
  """tanh of a Cauchy variable; 4% of it lie where the far reward does."""
  probs = np.asarray(bandit.data_probs(), float)
  values = np.tanh(np.random.default_rng(0).standard_cauchy(10**6) * 0.4 - 0.7)
  seen = np.histogram(values, bandit.ACTIONS, (-1.0, 1.0))[0] / 10**6
  np.testing.assert_allclose(probs, seen, atol=1.5e-3)
  assert 0.03 < probs[60:81].sum() < 0.05
  network = jax.jit(bandit.reference)(jax.random.key(0))
  states = jax.random.uniform(jax.random.key(1), (8, bandit.STATE))
  fitted = np.exp(bandit.logps_of(network, states)).mean(axis=0)
  assert np.abs(fitted - probs).sum() < 0.1


def test_draws_follow_the_probabilities():
  probs = np.array([0.0, 0.5, 0.2, 0.0, 0.3])
  probs = np.pad(probs, (0, bandit.ACTIONS - len(probs)))
  logps = jnp.log(jnp.asarray(probs, jnp.float32))[None].repeat(2000, axis=0)
  actions = np.asarray(bandit.draw(logps, jax.random.key(0)))
  np.testing.assert_array_equal(actions.sum(axis=2), 1.0)
  seen = actions.mean(axis=(0, 1))
  assert np.all(seen[probs == 0.0] == 0.0)
  np.testing.assert_allclose(seen, probs, atol=0.02)  # 20,000 draws


@pytest.fixture(scope='module')
def train():
  start = jax.jit(bandit.reference)(jax.random.key(3))

  @functools.partial(jax.jit, static_argnums=1)
  def run(setting, name):
    number = jnp.int32(list(bandit.METHODS).index(name))
    return bandit.train(
      number, start, jax.random.key(5), bandit.POINTS, setting
    )

  return lambda name, **setting: run(setting, name)


def test_training_raises_the_reward_and_offline_ones_raise_it_less(train):
  common = dict(peak=70.0, reuse=1)
  _, still = train('reinforce', rate=0.0, refresh=1, **common)
  np.testing.assert_allclose(still, still[0], rtol=1e-5)
  _, own = train('reinforce', rate=1e-2, refresh=1, **common)
  _, others = train('reinforce', rate=1e-2, refresh=bandit.OFFLINE, **common)
  assert own[-1] > 0.9 > others[-1] > still[-1]
  # The first step is taken on the reference's samples by both.
  assert own[0] == others[0]


def test_every_method_of_the_bandit_is_named_and_used():
  assert set(design.METHODS) == set(bandit.METHODS)
  used = {method for _, _, method, _ in design.ARMS.values()}
  assert used == set(bandit.METHODS) - {'ppo'}  # PPO is in the figures alone
  for scale in design.SCALES.values():
    assert scale.steps % bandit.POINTS == 0
    assert {1, bandit.OFFLINE} <= set(scale.refresh)
    assert not set(scale.tuning_seeds) & set(range(scale.seeds))


def test_every_run_has_a_place_and_a_rate():
  spots = bandit.spots_of((1, 10, bandit.OFFLINE), (1, 50))
  assert spots == [
    ('far', 1, 1), ('far', 10, 1), ('far', bandit.OFFLINE, 1), ('far', 50, 50),
    ('near', 1, 1), ('near', bandit.OFFLINE, 1),
  ]  # fmt: skip


def test_rates_are_chosen_with_other_seeds_and_one_grid(tmp_path, monkeypatch):
  """Of numbers that only depend on the rate: the grid grows for all, the best
  is taken, and what is reported is of the run's own seeds."""
  best = {'dpo': 1e-1, 'ppo': 1e-2}
  asked = []

  def look(runs, name, probe, given=None, split='test'):
    asked.append((name, runs.seeds, split))
    if name == 'start':
      return {'far': [0.0] * 8, 'near': [0.0] * 8}
    found = {}
    for row, method in enumerate(bandit.METHODS):
      for column, spot in enumerate(probe.spots):
        gap = np.log(given[row][column] / best.get(method, 3e-2))
        name = bandit.name_of(method, *spot, 'mean')
        found[name] = [-abs(gap)] * len(runs.seeds)
    return found

  monkeypatch.setattr(lab, 'look', look)
  scale = design.SCALES['full']
  found = gamble.Gamble(lab.Lab(tmp_path, range(8)), scale)
  grid = sorted(found.tuned['ppo', 'far', 1, 1].tried)
  np.testing.assert_allclose(grid, [3e-3, 1e-2, 3e-2, 1e-1, 3.3e-1])
  for (method, *_), tuned in found.tuned.items():
    assert tuned.chosen == best.get(method, 3e-2) and not tuned.edge
  assert asked[-2:] == [('bandit', tuple(range(8)), 'test'),
                        ('start', tuple(range(8)), 'test')]  # fmt: skip
  assert {x[1:] for x in asked[:-2]} == {(scale.tuning_seeds, 'validation')}
  counts = found.counts(lab.Lab(tmp_path, range(8)))
  other = bandit.EVALUATED * len(scale.tuning_seeds)
  drawn = {'drawn': 512, 'test': 512, 'validation': other, 'shared': 0}
  assert counts == drawn
