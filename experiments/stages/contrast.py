"""The bandit of CoPG: what is learnt of a fixed set of pairs that others drew.

Actions with known rewards, a uniform reference, and pairs of actions of which
one is drawn by each of two samplers that prefer bad actions, often enough. A
policy is a table of logits that starts at the reference and takes exact
gradients of the library's own losses on all pairs at once. What is sought is
the maximum of E[R] - BETA * KL(policy || reference), which is known: the regret
is what a policy is below it, and is BETA times its KL to the best one.

Reference: Flet-Berliac et al. (2024), https://arxiv.org/abs/2406.19185, section
5.1; its bandit of three actions is measured beside random ones of ten.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from posttrain_jax.core.types import Array, SequenceSignals
from posttrain_jax.losses import policy_gradient, preference

ACTIONS = 10
BETA = 0.5
PAIRS = 10_000
BEST = 2.5  # rewards of random bandits lie from 0 to this
SPREAD = 1.0  # of a sampler's logits, in random bandits
POINTS = 40  # of a learning curve


@dataclasses.dataclass(frozen=True)
class Problem:
  """A bandit: rewards [A], and how often each pair was drawn [A, A], as a share
  of all pairs."""

  rewards: Array
  shares: Array


def counted(rewards: Array, first: Array, second: Array, key: Array) -> Problem:
  """Pairs of one action of each sampler, whose logits are given [A]."""
  one, two = jax.random.split(key)
  drawn = [
    jax.nn.one_hot(jax.random.categorical(k, x, shape=(PAIRS,)), x.size)
    for k, x in ((one, first), (two, second))
  ]
  return Problem(rewards, drawn[0].T @ drawn[1] / PAIRS)


def random_problem(key: Array) -> Problem:
  """Ten actions, even rewards, samplers that say nothing of them."""
  keys = jax.random.split(key, 4)
  rewards = BEST * jax.random.uniform(keys[0], (ACTIONS,))
  logits = [SPREAD * jax.random.normal(k, (ACTIONS,)) for k in keys[1:3]]
  return counted(rewards, *logits, keys[3])


def paper_problem(key: Array) -> Problem:
  """The bandit of the paper."""
  return counted(
    jnp.array([2.5, 2.0, 1.0]),
    jnp.log(jnp.array([0.1, 0.2, 0.7])),
    jnp.log(jnp.array([0.05, 0.05, 0.9])),
    key,
  )


def _uniform(rewards: Array) -> Array:
  return jnp.full_like(rewards, -jnp.log(rewards.size))


def objective(logps: Array, rewards: Array) -> Array:
  """E[R] - BETA * KL(policy || reference) of log-probabilities [A]."""
  ratio = logps - _uniform(rewards)
  return jnp.sum(jnp.exp(logps) * (rewards - BETA * ratio))


def regret(logps: Array, rewards: Array) -> Array:
  """What a policy is below the best one."""
  best = BETA * jax.nn.logsumexp(_uniform(rewards) + rewards / BETA)
  return best - objective(logps, rewards)


def _one_token(logps: Array) -> SequenceSignals:
  ones = jnp.ones_like(logps)
  return SequenceSignals(logps, ones, logps[:, None], ones[:, None])


def copg(logps: Array, problem: Problem) -> Array:
  """Contrastive policy gradient on all pairs."""
  size = problem.rewards.size
  sides = lambda x: (jnp.repeat(x, size), jnp.tile(x, size))
  own, ref = sides(logps), sides(_uniform(problem.rewards))
  rewards = sides(problem.rewards)
  loss, _ = preference.copg(
    *map(_one_token, own),
    *map(_one_token, ref),
    chosen_rewards=rewards[0],
    rejected_rewards=rewards[1],
    beta=BETA,
  )
  return jnp.sum(loss * problem.shares.reshape(-1))


def _gradient(logps: Array, problem: Problem, baseline: Array) -> Array:
  """REINFORCE on every action of the pairs as if it were the policy's own, for
  rewards with the penalty."""
  scores = problem.rewards - BETA * (logps - _uniform(problem.rewards))
  scores = jax.lax.stop_gradient(scores - baseline)
  column = lambda x: x[:, None]
  loss, _ = policy_gradient.reinforce(
    column(logps), column(jax.lax.stop_gradient(logps)), column(scores),
    jnp.ones((logps.size, 1)),
  )  # fmt: skip
  drawn = (problem.shares.sum(0) + problem.shares.sum(1)) / 2.0
  return jnp.sum(loss[:, 0] * drawn)


def gradient(logps: Array, problem: Problem) -> Array:
  """The policy gradient without a baseline."""
  return _gradient(logps, problem, jnp.zeros(()))


def gradient_value(logps: Array, problem: Problem) -> Array:
  """The policy gradient with the policy's exact value as its baseline."""
  value = jax.lax.stop_gradient(objective(logps, problem.rewards))
  return _gradient(logps, problem, value)


METHODS = {
  'copg': copg, 'gradient': gradient, 'gradient_value': gradient_value,
}  # fmt: skip


def train(
  method: str, problem: Problem, rate: Array, steps: int
) -> tuple[Array, Array]:
  """(regret at the end, regret at POINTS steps) of Adam on a method's loss."""
  adam = optax.scale_by_adam()
  start = jnp.zeros_like(problem.rewards)

  def loss(logits):
    return METHODS[method](jax.nn.log_softmax(logits), problem)

  def step(carry, _):
    logits, opt = carry
    updates, opt = adam.update(jax.grad(loss)(logits), opt)
    return (logits - rate * updates, opt), None

  def stretch(carry, _):
    carry, _ = jax.lax.scan(step, carry, None, steps // POINTS)
    return carry, regret(jax.nn.log_softmax(carry[0]), problem.rewards)

  _, curve = jax.lax.scan(stretch, (start, adam.init(start)), None, POINTS)
  return curve[-1], curve


@dataclasses.dataclass(frozen=True)
class Contrast:
  """`probe(key, rates) -> {name: numbers}`, as `lab.look` asks for it.

  problems  random bandits of a seed
  steps     of Adam, a multiple of POINTS

  `rates` [methods] are their learning rates. Names: 'METHOD/regret' at the end,
  'METHOD/problems' [problems] that it is the mean of, 'METHOD/curve' [POINTS]
  on the way there, 'METHOD/paper' in the bandit of the paper; of 'start', the
  reference itself, the same but a curve.
  """

  problems: int
  steps: int

  def __call__(self, key: Array, rates: Array) -> dict[str, Array]:
    one = paper_problem(jax.random.fold_in(key, 1))
    rewards, shares = self.problems_of(key)
    found = {}
    for i, name in enumerate(METHODS):

      def of(rewards, shares, name=name, rate=rates[i]):
        return train(name, Problem(rewards, shares), rate, self.steps)

      end, curve = jax.vmap(of)(rewards, shares)
      found |= {
        f'{name}/regret': jnp.mean(end),
        f'{name}/problems': end,
        f'{name}/curve': jnp.mean(curve, axis=0),
        f'{name}/paper': of(one.rewards, one.shares)[0],
      }
    start = jax.vmap(lambda r: regret(_uniform(r), r))(rewards)
    return found | {
      'start/regret': jnp.mean(start),
      'start/problems': start,
      'start/paper': regret(_uniform(one.rewards), one.rewards),
    }

  def problems_of(self, key: Array) -> tuple[Array, Array]:
    """Rewards [problems, A] and shares of pairs [problems, A, A] of a seed."""

    def of(key):
      problem = random_problem(key)
      return problem.rewards, problem.shares

    return jax.lax.map(of, jax.random.split(key, self.problems))
