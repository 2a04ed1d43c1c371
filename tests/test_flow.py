"""GFlowNet losses: values by hand, limits, and a flow that is in balance."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.losses import flow, reduce

# Row 0 has a hole, row 1 is one token, row 2 is padding.
LOGPS = jnp.array([[-1.0, -9.0, -2.0, -3.0], [-1.0, 0, 0, 0], [0, 0, 0, 0]])
FLOWS = jnp.array([[5.0, 9.0, 3.0, 2.0], [4.0, 0, 0, 0], [0, 0, 0, 0]])
MASK = jnp.array([[1.0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
REWARDS = jnp.array([1.0, 1.0, 0.0])
STOP = jnp.array([[-4.0, 7.0, -2.0, -3.0], [-1.0, 0, 0, 0], [0, 0, 0, 0]])
STATE = jnp.array([[1.0, 7.0, 1.0, 2.0], [5.0, 0, 0, 0], [0, 0, 0, 0]])
HEAD = ('trajectory_balance', 'detailed_balance', 'sub_trajectory_balance')


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def run(name, **hparams):
  if name.endswith('stop'):
    hparams |= {'stop_logps': STOP, 'state_log_rewards': STATE}
  return getattr(flow, name)(LOGPS, FLOWS, REWARDS, MASK, **hparams)


def test_trajectory_balance_by_hand():
  # 5 - 6 - 1 and 4 - 1 - 1: squares 4 and 4, over three tokens and one.
  loss, metrics = run('trajectory_balance')
  close(loss, [[4 / 3, 0, 4 / 3, 4 / 3], [4, 0, 0, 0], [0] * 4])
  close(metrics['residual'], [[-2, 0, -2, -2], [2, 0, 0, 0], [0] * 4])
  total, count = reduce.sequence_sum(loss, MASK)
  close(total / count, 4.0)


def test_detailed_balance_by_hand():
  # 5 - 1 - 3, 3 - 2 - 2, 2 - 3 - 1 and 4 - 1 - 1.
  loss, metrics = run('detailed_balance')
  close(metrics['residual'], [[1, 0, -1, -2], [2, 0, 0, 0], [0] * 4])
  close(loss, [[1, 0, 1, 4], [4, 0, 0, 0], [0] * 4])


def test_sub_trajectory_balance_by_hand():
  # Steps 1, -1, -2; two steps 0, -3; three -2. Weights 1, 1/2, 1/4.
  loss, metrics = run('sub_trajectory_balance', lam=0.5)
  close(loss[0].sum(), (6 + 9 / 2 + 4 / 4) / (3 + 1 + 1 / 4))
  close(loss[1].sum(), 4.0)
  close(metrics['residual'][0], [-2, 0, -3, -2])


def test_sub_trajectory_balance_between_its_limits():
  single, _ = run('detailed_balance')
  loss, _ = run('sub_trajectory_balance', lam=0.0)
  close(loss.sum(axis=1), single.sum(axis=1) / jnp.array([3.0, 1.0, 1.0]))
  even, _ = run('sub_trajectory_balance', lam=1.0)
  close(even[0].sum(), (6 + 9 + 4) / 6)


def test_detailed_balance_stop_by_hand():
  # Flows 5, 3, 5: 5 - 1 - 3 and 3 - 2 - 5; the stop token adds nothing.
  loss, metrics = run('detailed_balance_stop')
  close(metrics['residual'], [[1, 0, -4, 0], [0] * 4, [0] * 4])
  close(loss, [[1, 0, 16, 0], [0] * 4, [0] * 4])


def test_sub_trajectory_balance_stop_by_hand():
  # The steps above and both together; GFlowVLM's sum is three times this.
  loss, metrics = run('sub_trajectory_balance_stop')
  close(loss.sum(axis=1), [(1 + 16 + 9) / 3, 0, 0])
  close(metrics['residual'][0], [-3, 0, -4, 0])
  loss, _ = run('sub_trajectory_balance_stop', lam=0.5)
  close(loss[0].sum(), (17 + 9 / 2) / 2.5)


def test_the_stop_token_is_in_balance_by_definition():
  """Counting it with R and P(stop) as they are changes nothing."""
  flows = STATE - STOP
  logps = LOGPS.at[0, 3].set(STOP[0, 3]).at[1, 0].set(STOP[1, 0])
  rewards = jnp.array([STATE[0, 3], STATE[1, 0], 0.0])
  loss, _ = flow.detailed_balance(logps, flows, rewards, MASK)
  stopped, _ = flow.detailed_balance_stop(
    logps, None, None, MASK, stop_logps=STOP, state_log_rewards=STATE
  )
  close(loss, stopped, 1e-5)


def test_group_by_hand():
  logps = jnp.array([[-4.0], [-2.0], [-1.0], [0.0]])
  mask = jnp.array([[1.0], [1.0], [1.0], [0.0]])
  rewards = jnp.array([0.0, 2.0, 5.0, jnp.nan])
  loss, _ = flow.trajectory_balance_group(
    logps, None, rewards, mask, group_size=2
  )
  # zeta -4, -4 | -6 alone.
  close(loss, np.zeros((4, 1)))
  loss, metrics = flow.trajectory_balance_group(
    logps, None, rewards, mask, group_size=4
  )
  close(metrics['residual'][:, 0], np.array([2, 2, -4, 0]) / 3)
  close(loss[:, 0], np.array([4, 4, 16, 0]) / 9)


@pytest.mark.parametrize('size', [1, 2])
def test_group_needs_whole_groups(size):
  with pytest.raises(ValueError, match=f'group_size={size}.*3 rows'):
    run('trajectory_balance_group', group_size=size)


def test_group_does_not_see_a_constant_in_the_log_rewards():
  plain, _ = run('trajectory_balance_group', group_size=3)
  moved, _ = flow.trajectory_balance_group(
    LOGPS, None, REWARDS + 3.0, MASK, group_size=3
  )
  close(plain, moved, 1e-5)


# A policy in balance: three binary tokens, rewards of the eight answers.

ANSWERS = list(itertools.product((0, 1), repeat=3))
GOLD = dict(zip(ANSWERS, (1.0, 2.0, 0.5, 4.0, 0.1, 3.0, 1.0, 0.2)))


def mass(prefix):
  return sum(r for a, r in GOLD.items() if a[: len(prefix)] == prefix)


def balanced():
  """log p and log F of every answer under the policy p(answer) ~ reward."""
  masses = np.array([[mass(a[:t]) for t in range(4)] for a in ANSWERS])
  logs = jnp.asarray(np.log(masses), jnp.float32)
  return logs[:, 1:] - logs[:, :-1], logs[:, :-1], logs[:, -1]


@pytest.mark.parametrize('name', HEAD)
def test_the_policy_in_proportion_to_the_reward_has_no_loss(name):
  logps, flows, rewards = balanced()
  loss, _ = getattr(flow, name)(logps, flows, rewards, jnp.ones((8, 3)))
  close(loss, np.zeros((8, 3)), 1e-10)


def test_its_group_has_no_variance():
  logps, _, rewards = balanced()
  loss, _ = flow.trajectory_balance_group(
    logps, None, rewards, jnp.ones((8, 3)), group_size=8
  )
  close(loss, np.zeros((8, 3)), 1e-10)


@pytest.mark.parametrize('name', [*HEAD, 'trajectory_balance_group'])
def test_descent_finds_that_policy(name):
  """A table of logits and flows for every prefix, trained on all answers."""
  prefixes = sorted({a[:t] for a in ANSWERS for t in range(3)})
  nodes = {prefix: i for i, prefix in enumerate(prefixes)}
  at = np.array([[nodes[a[:t]] for t in range(3)] for a in ANSWERS])
  taken = jnp.asarray(ANSWERS)
  rewards = jnp.log(jnp.array([GOLD[a] for a in ANSWERS]))
  hparams = {'group_size': 8} if name.endswith('group') else {}
  loss_fn = getattr(flow, name)

  def paths(params):
    logps = jax.nn.log_softmax(params['logits'][at])
    return jnp.take_along_axis(logps, taken[..., None], axis=-1)[..., 0]

  def total(params):
    loss, _ = loss_fn(
      paths(params), params['flows'][at], rewards, jnp.ones((8, 3)), **hparams
    )
    return loss.sum() / 8

  def step(params, _):
    slope = jax.grad(total)(params)
    return jax.tree.map(lambda x, g: x - 0.2 * g, params, slope), None

  params = {'logits': jnp.zeros((7, 2)), 'flows': jnp.zeros(7)}
  params, _ = jax.jit(lambda p: jax.lax.scan(step, p, length=3000))(params)
  found = jnp.exp(paths(params).sum(axis=1))
  gold = np.array([GOLD[a] for a in ANSWERS])
  close(found, gold / gold.sum(), 2e-3)
