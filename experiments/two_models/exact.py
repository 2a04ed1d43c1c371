"""What each divergence is best served by, where a policy cannot fit all.

Contexts with right answers of their own, and a softmax whose logits are linear
in a few features of a context: too few to tell all of them apart. Adam goes
down the exact gradient of a divergence from what is demonstrated, an even draw
of the right answers; nothing is sampled, and no adversary has to be trained.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from experiments.flows.probes import of_chances
from experiments.two_models.settings import EXACT
from posttrain_jax.core.types import Array

CONTEXTS, ANSWERS, RIGHT, FEATURES = 32, 56, 8, 6
# Of demonstrations, any answer at all: without it a reverse KL is infinite.
SLIPS = 0.05
RATE = 0.02
TRIES = 16


def divergences(logps: Array, target: Array) -> dict[str, Array]:
  """{name of EXACT: mean over contexts, in nats}.

  logps   [N, A] of the policy
  target  [N, A] chances of demonstrations
  """
  chances, wanted = jnp.exp(logps), jnp.log(target)
  middle = jnp.log(0.5 * (chances + target))
  over = lambda p, gap: jnp.mean(jnp.sum(p * gap, axis=1))
  return {
    'exact_forward': over(target, wanted - logps),
    'exact_js': 0.5 * over(chances, logps - middle)
    + 0.5 * over(target, wanted - middle),
    'exact_reverse': over(chances, logps - wanted),
  }


def descend(
  name: str, start: Array, features: Array, target: Array, steps: int
) -> tuple[Array, Array]:
  """(weights [F, A] at the end, by how much the divergence fell in the last
  tenth of the steps) of Adam from `start`."""
  adam = optax.adam(RATE)
  said = lambda w: jax.nn.log_softmax(features @ w)
  loss = lambda w: divergences(said(w), target)[name]

  def step(carry, _):
    weights, state = carry
    updates, state = adam.update(jax.grad(loss)(weights), state)
    return (optax.apply_updates(weights, updates), state), None

  late = steps // 10
  carry, _ = jax.lax.scan(step, (start, adam.init(start)), None, steps - late)
  before = loss(carry[0])
  carry, _ = jax.lax.scan(step, carry, None, late)
  return carry[0], before - loss(carry[0])


def optima(
  features: Array, target: Array, steps: int
) -> dict[str, tuple[Array, Array]]:
  """{name of EXACT: (log-chances [N, A], by how much it fell at the end)}.

  All but the forward KL have several minima: each goes down from an even draw,
  then from where each of the three came to, and has the least of these.
  """
  even = jnp.zeros((features.shape[1], target.shape[1]))
  first = {x: descend(x, even, features, target, steps)[0] for x in EXACT}
  starts = jnp.stack(list(first.values()))
  found = {}
  for name in EXACT:
    again = jax.vmap(lambda w, x=name: descend(x, w, features, target, steps))
    weights, drops = again(starts)
    said = jax.nn.log_softmax(features @ weights)
    losses = jax.vmap(lambda x, y=name: divergences(x, target)[y])(said)
    best = jnp.argmin(losses)
    found[name] = said[best], drops[best]
  return found


@dataclasses.dataclass(frozen=True)
class Exact:
  """`probe(key, None) -> {'ARM/MEASURE': number}`, as `lab.look` asks for it,
  of every arm of EXACT.

  right, distinct, even  as of `of_chances`, means over contexts
  own                    its divergence
  ahead                  the least that another arm has of it, less its own
  drop                   by how much it fell in the last tenth of the steps
  """

  steps: int

  def __call__(self, key: Array, given: None) -> dict[str, Array]:
    del given
    one, two = jax.random.split(key)
    features = jax.random.normal(one, (CONTEXTS, FEATURES))
    noise = jax.random.uniform(two, (CONTEXTS, ANSWERS))
    _, right = jax.lax.top_k(noise, RIGHT)
    even = jnp.full((CONTEXTS, ANSWERS), SLIPS / ANSWERS)
    rows = jnp.arange(CONTEXTS)[:, None]
    target = even.at[rows, right].add((1.0 - SLIPS) / RIGHT)
    best = optima(features, target, self.steps)
    ends, found = {name: x for name, (x, _) in best.items()}, {}
    for name, (_, drop) in best.items():
      found[f'{name}/own'] = divergences(ends[name], target)[name]
      found[f'{name}/drop'] = drop
      taken = jnp.take_along_axis(ends[name], right, axis=1)
      seen = of_chances(taken, TRIES)
      for measure in ('right', 'distinct', 'even'):
        found[f'{name}/{measure}'] = jnp.mean(seen[measure])
    for name in EXACT:
      others = [
        divergences(x, target)[name] for other, x in ends.items()
        if other != name
      ]  # fmt: skip
      least = jnp.min(jnp.stack(others))
      found[f'{name}/ahead'] = least - found[f'{name}/own']
    return found
