"""The didactic bandit: who samples, and what pushes probability where.

A small network maps a state, which says nothing about the reward, to 100
actions. It starts as a reference whose mass lies around action 20; the reward
is a bump of width 10 around action 70 ('far': where the reference has 4% of its
mass) or around action 20 ('near'). Methods differ in the loss alone, which is
the library's own; two knobs are shared by all of them:

  refresh  steps until the sampler becomes the policy; 1 is on-policy, and
           OFFLINE leaves all samples to the reference
  reuse    steps taken on the same samples before new ones are drawn

Reference: Tajwar et al. (2024), https://arxiv.org/abs/2404.14367 section 4 and
https://github.com/Asap7772/understanding-rlhf; the network's hidden layers have
64 units (256 there), a state has 16 numbers (100 there), and the reference is
fitted to exact probabilities (there to a histogram).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from posttrain_jax import advantages
from posttrain_jax.core.types import (
  Array,
  PyTree,
  SequenceSignals,
  TokenSignals,
)
from posttrain_jax.losses import policy_gradient, preference, supervised

ACTIONS = 100
STATE = 16
SAMPLES = 10  # actions of each state
STATES = 10  # of each step
EVALUATED = 64  # states that are measured
PEAKS = {'far': 70.0, 'near': 20.0}
OFFLINE = 1_000_000
# Pairs whose rewards are closer are left out, as in the paper's code; and a gap
# that only leaves out equal ones.
GAP, NO_GAP = 0.2, 1e-6
# DPO's and IPO's: IPO then wants a difference of 10 of the log-ratios, as in
# the paper's code. RWR weighs by exp(reward / TEMPERATURE).
BETA = 0.05
TEMPERATURE = 0.1
POINTS = 50  # of a learning curve


def data_probs() -> Array:
  """[ACTIONS] of tanh(x), x Cauchy(-0.7, 0.4), in equal bins of [-1, 1]."""
  edges = jnp.arctanh(jnp.linspace(-1.0, 1.0, ACTIONS + 1))
  below = 0.5 + jnp.arctan((edges + 0.7) / 0.4) / jnp.pi
  return below[1:] - below[:-1]


def reward_of(action: Array, peak: Array) -> Array:
  """exp(-((action - peak) / 10)^2), in (0, 1]."""
  return jnp.exp(-jnp.square((action - peak) / 10.0))


def init(key: Array, hidden: int = 64) -> PyTree:
  """STATE -> 50, layer norm, two hidden layers, ACTIONS."""
  sizes = (STATE, 50, hidden, hidden, ACTIONS)
  keys = jax.random.split(key, len(sizes) - 1)
  return [
    {'w': jax.random.normal(k, (a, b)) / jnp.sqrt(a), 'b': jnp.zeros(b)}
    for k, a, b in zip(keys, sizes[:-1], sizes[1:])
  ]


def logps_of(params: PyTree, states: Array) -> Array:
  """[B, ACTIONS] log-probabilities in states [B, STATE]."""
  x = states
  for index, layer in enumerate(params):
    x = x @ layer['w'] + layer['b'][None]
    if index == 0:
      x = (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-5)
    if index < len(params) - 1:
      x = jax.nn.relu(x)
  return jax.nn.log_softmax(x)


def reference(key: Array, steps: int = 200) -> PyTree:
  """A network fitted to `data_probs`: where every method starts."""
  first, fit = jax.random.split(key)
  params, adam = init(first), optax.adam(0.01)
  target = jnp.log(data_probs())

  def loss(params, states):
    logps = logps_of(params, states)
    return jnp.mean(jnp.sum(jnp.exp(logps) * (logps - target[None]), axis=1))

  def step(carry, key):
    params, opt = carry
    grads = jax.grad(loss)(params, jax.random.uniform(key, (STATES, STATE)))
    updates, opt = adam.update(grads, opt)
    return (optax.apply_updates(params, updates), opt), None

  keys = jax.random.split(fit, steps)
  (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), keys)
  return params


def draw(logps: Array, key: Array) -> Array:
  """[B, SAMPLES, ACTIONS] one-hot actions, by the inverse of the cumulative
  probabilities: far fewer random numbers than one for each action."""
  below = jnp.cumsum(jnp.exp(logps), axis=1)
  chance = jax.random.uniform(key, (len(logps), SAMPLES)) * below[:, -1:]
  actions = jnp.sum(below[:, None] <= chance[:, :, None], axis=2)
  return jax.nn.one_hot(jnp.minimum(actions, ACTIONS - 1), ACTIONS)


def of(actions: Array, values: Array) -> Array:
  """[B, SAMPLES] the values [B or 1, ACTIONS] of one-hot actions."""
  return jnp.sum(actions * values[:, None], axis=2)


@dataclasses.dataclass(frozen=True)
class Drawn:
  """Samples of one step: rewards, and log-probabilities of each by the policy,
  the sampler and the reference, all [STATES, SAMPLES]."""

  rewards: Array
  logps: Array
  old_logps: Array
  ref_logps: Array


def _likelihood(drawn: Drawn, weights: Array) -> Array:
  """Mean of -weight * log p."""
  logps = drawn.logps.reshape(-1, 1)
  loss, _ = supervised.nll(TokenSignals(logps=logps), jnp.ones_like(logps))
  return jnp.mean(loss[:, 0] * weights.reshape(-1))


def best_of_n(drawn: Drawn) -> Array:
  """Maximum likelihood on the best sample of each state."""
  best = jnp.argmax(drawn.rewards, axis=1)
  return _likelihood(drawn, SAMPLES * jax.nn.one_hot(best, SAMPLES))


def rwr(drawn: Drawn) -> Array:
  """Reward-weighted regression: every sample, by exp(reward / temperature)."""
  return _likelihood(drawn, jnp.exp((drawn.rewards - 1.0) / TEMPERATURE))


def _gradient(drawn: Drawn, name: str, shift: bool = False) -> Array:
  """A policy-gradient loss on rewards whitened in each state."""
  scores = advantages.group_normalized(drawn.rewards, ddof=0.0)
  if shift:
    scores = scores - jnp.min(scores, axis=1, keepdims=True)
  row = lambda x: x.reshape(-1, 1)
  loss, _ = getattr(policy_gradient, name)(
    row(drawn.logps),
    row(drawn.old_logps),
    row(scores),
    jnp.ones((drawn.rewards.size, 1)),
  )
  return jnp.mean(loss)


def _pairs(drawn: Drawn, name: str, gap: float = GAP) -> Array:
  """A preference loss on all pairs of a state's samples that differ by more."""
  gaps = drawn.rewards[:, :, None] - drawn.rewards[:, None, :]
  live = (gaps > gap).reshape(-1).astype(jnp.float32)

  def sides(logps: Array) -> tuple[SequenceSignals, SequenceSignals]:
    winner = jnp.broadcast_to(logps[:, :, None], gaps.shape).reshape(-1)
    loser = jnp.broadcast_to(logps[:, None, :], gaps.shape).reshape(-1)
    return tuple(
      SequenceSignals(x, live, x[:, None], live[:, None])
      for x in (winner, loser)
    )

  loss = functools.partial(getattr(preference, name), beta=BETA)
  per_pair, _ = loss(*sides(drawn.logps), *sides(drawn.ref_logps))
  return jnp.sum(per_pair) / jnp.maximum(jnp.sum(live), 1.0)


METHODS = {
  'best_of_n': best_of_n,
  'rwr': rwr,
  'reinforce': functools.partial(_gradient, name='reinforce'),
  'ppo': functools.partial(_gradient, name='ppo_clip'),
  # Without a negative gradient: the least score of a state counts 0.
  'positive': functools.partial(_gradient, name='reinforce', shift=True),
  'dpo': functools.partial(_pairs, name='dpo'),
  'ipo': functools.partial(_pairs, name='ipo'),
  'dpo_all': functools.partial(_pairs, name='dpo', gap=NO_GAP),
}


def states_of(key: Array, steps: int) -> Array:
  """[EVALUATED, STATE] states that a run with this key is measured on."""
  return jax.random.uniform(jax.random.fold_in(key, steps), (EVALUATED, STATE))


def train(
  method: Array, start: PyTree, key: Array, steps: int, setting: dict
) -> tuple[PyTree, Array]:
  """Adam on a method's loss; (parameters, expected reward at POINTS steps).

  method   number of one of METHODS: all of them are one program
  setting  peak, rate, refresh, reuse: scalars, which may be traced
  """
  adam = optax.scale_by_adam()
  eval_states = states_of(key, steps)
  rewards = reward_of(jnp.arange(ACTIONS), setting['peak'])[None]

  def loss(params, states, actions, old_logps):
    branches = [
      lambda *arrays, f=f: f(Drawn(*arrays)) for f in METHODS.values()
    ]
    return jax.lax.switch(
      method,
      branches,
      of(actions, rewards),
      of(actions, logps_of(params, states)),
      of(actions, old_logps),
      of(actions, logps_of(start, states)),
    )

  def step(carry, index):
    params, opt, sampler = carry
    fresh = index % setting['refresh'] == 0
    sampler = jax.tree.map(
      lambda new, old: jnp.where(fresh, new, old), params, sampler
    )
    keys = jax.random.split(jax.random.fold_in(key, index // setting['reuse']))
    states = jax.random.uniform(keys[0], (STATES, STATE))
    old_logps = logps_of(sampler, states)
    actions = draw(old_logps, keys[1])
    grads = jax.grad(loss)(params, states, actions, old_logps)
    updates, opt = adam.update(grads, opt)
    updates = jax.tree.map(lambda x: -setting['rate'] * x, updates)
    return (optax.apply_updates(params, updates), opt, sampler), None

  def stretch(carry, indices):
    carry, _ = jax.lax.scan(step, carry, indices)
    probs = jnp.exp(logps_of(carry[0], eval_states))
    return carry, jnp.mean(probs @ rewards[0])

  indices = jnp.arange(steps).reshape(POINTS, -1)
  carry, curve = jax.lax.scan(
    stretch, (start, adam.init(start), start), indices
  )
  return carry[0], curve


def moved(params: PyTree, start: PyTree, key: Array, peak: Array) -> dict:
  """KL(policy || reference) in nats, and the mean change of log-probability of
  the winners and losers of the reference's own pairs."""
  state_key, action_key = jax.random.split(key)
  states = jax.random.uniform(state_key, (EVALUATED, STATE))
  new, old = logps_of(params, states), logps_of(start, states)
  actions = draw(old, action_key)
  rewards = of(actions, reward_of(jnp.arange(ACTIONS), peak)[None])
  live = rewards[:, :, None] - rewards[:, None, :] > GAP
  change = of(actions, new - old)
  count = jnp.maximum(jnp.sum(live), 1)
  mean = lambda x: jnp.sum(jnp.where(live, x, 0.0)) / count
  return {
    'kl': jnp.mean(jnp.sum(jnp.exp(new) * (new - old), axis=1)),
    'winner': mean(change[:, :, None]),
    'loser': mean(change[:, None, :]),
  }


# Where and with which knobs a method is tried: (place, refresh, reuse).
Spot = tuple[str, int, int]


def spots_of(refresh: Sequence[int], reuse: Sequence[int]) -> list[Spot]:
  """Each value of a knob with the other at 1, far; near, the two ends."""
  knobs = [(k, 1) for k in refresh]
  # Samples that are used again are the sampler's of that moment.
  knobs += [(k, k) for k in reuse if k > 1]
  ends = ((1, 1), (OFFLINE, 1))
  return [
    (place, *knob)
    for place in PEAKS
    for knob in knobs
    if place == 'far' or knob in ends
  ]


@dataclasses.dataclass(frozen=True)
class Bandit:
  """`probe(key, rates) -> {name: scalar}`, as `lab.look` asks for it.

  spots  what every one of METHODS is tried at, one entry a run
  steps  of Adam, a multiple of POINTS

  `rates` [methods, spots] holds the learning rate of each run. Names are
  'METHOD/PLACE/REFRESH/REUSE/WHAT': what is 'end' and 'mean' (expected reward
  after training and over it), 'kl', 'winner', 'loser' (`moved`), and '0', '1',
  ... of the learning curve. All but 'end' and 'mean' is measured at the far
  peak, with the sampler's knob at 1 or OFFLINE.
  """

  spots: tuple[Spot, ...]
  steps: int

  def __call__(self, key: Array, rates: Array) -> dict[str, Array]:
    fit_key, run_key, measure_key = jax.random.split(key, 3)
    start = reference(fit_key)
    places, refresh, reuse = zip(*self.spots)
    grid = {
      'peak': jnp.array([PEAKS[place] for place in places]),
      'refresh': jnp.array(refresh),
      'reuse': jnp.array(reuse),
    }

    def one(method, setting):
      policy, curve = train(method, start, run_key, self.steps, setting)
      found = moved(policy, start, measure_key, setting['peak'])
      found |= {'end': curve[-1], 'mean': jnp.mean(curve)}
      return found | {str(i): curve[i] for i in range(POINTS)}

    def of_method(given):
      number, own = given
      return jax.vmap(lambda s: one(number, s))(grid | {'rate': own})

    found = jax.lax.map(of_method, (jnp.arange(len(METHODS)), rates))
    return {
      name_of(method, *spot, what): values[row, column]
      for row, method in enumerate(METHODS)
      for column, spot in enumerate(self.spots)
      for what, values in found.items()
      if what in ('end', 'mean')
      or (spot[0] == 'far' and spot[1] in (1, OFFLINE))
    }


def name_of(
  method: str, place: str, refresh: int, reuse: int, what: str
) -> str:
  """The name of a number of `Bandit`."""
  return f'{method}/{place}/{refresh}/{reuse}/{what}'


@dataclasses.dataclass(frozen=True)
class Start:
  """As `Bandit`: the expected reward of the reference itself, by place, on the
  states that it is measured on.

  steps  as there
  """

  steps: int

  def __call__(self, key: Array, given: None) -> dict[str, Array]:
    del given
    fit_key, run_key, _ = jax.random.split(key, 3)
    states = states_of(run_key, self.steps)
    probs = jnp.exp(logps_of(reference(fit_key), states))
    return {
      place: jnp.mean(probs @ reward_of(jnp.arange(ACTIONS), peak))
      for place, peak in PEAKS.items()
    }
