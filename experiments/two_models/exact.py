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


def descend(name: str, features: Array, target: Array, steps: int) -> Array:
  """[2, N, A] log-chances after nine tenths of the steps, and after all."""
  adam = optax.adam(RATE)
  start = jnp.zeros((features.shape[1], target.shape[1]))
  said = lambda w: jax.nn.log_softmax(features @ w)
  loss = lambda w: divergences(said(w), target)[name]

  def step(carry, _):
    weights, state = carry
    updates, state = adam.update(jax.grad(loss)(weights), state)
    return (optax.apply_updates(weights, updates), state), None

  carry, late = (start, adam.init(start)), steps // 10
  found = []
  for count in (steps - late, late):
    carry, _ = jax.lax.scan(step, carry, None, count)
    found.append(said(carry[0]))
  return jnp.stack(found)


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
    ends, found = {}, {}
    for name in EXACT:
      before, ends[name] = descend(name, features, target, self.steps)
      own = divergences(ends[name], target)[name]
      found[f'{name}/own'] = own
      found[f'{name}/drop'] = divergences(before, target)[name] - own
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
