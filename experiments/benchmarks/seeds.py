r"""Whole RL runs: eight seeds in one program, against eight runs in turn.

  python -m experiments.benchmarks.seeds --repetitions 7

A run is `--steps` whole GRPO steps (problems, rollout, verifier, advantage,
update) on 2-digit addition inside one compiled loop. 'spread' is what sweeps
and studies do: one program in which the seeds are vmapped and shared among the
devices, into which `runtime.divide_cpu` makes the CPU (two here; a GPU is one).
'vmapped' is the same on one device; 'in turn' calls the loop once a seed, each
of its operations split over all cores. Steps a second count all seeds. Nothing
is compared with a peer: no peer has it.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import common, ours, ours_steps
from posttrain_jax.core.types import Array, TrainState
from posttrain_jax.models import transformer
from posttrain_jax.rollout import runs
from posttrain_jax.run import runtime

# name -> (width, layers, heads, MLP size), as the presets of models.config.
SIZES = {'pico': (64, 3, 2, 256), 'depth-2': (64, 2, 2, 256)}
ours.SIZES.update(SIZES)
# name -> prompts and completions of each of a step
BATCHES = {'8x8': (8, 8), '32x8': (32, 8)}


def make_run(steps: ours_steps.Steps, count: int) -> Callable[..., TrainState]:
  """(state, key) -> the state `count` steps later, and the rewards [count]."""

  def run(state: TrainState, key: Array):
    def body(state, _):
      state, metrics = steps.step(state, jax.random.fold_in(key, state.step))
      return state, metrics['reward']

    return jax.lax.scan(body, state, None, length=count)

  return run


@dataclasses.dataclass
class Seeds:
  """Both ways to advance the runs of `seeds` seeds by `count` steps."""

  work: ours.Work
  seeds: int
  count: int

  def __post_init__(self):
    steps = ours_steps.grpo_on_task(
      self.work, 'addition', bonus=True, num_digits=2
    )
    self._run = make_run(steps, self.count)
    key = jax.random.key(0)
    self.keys = jax.random.split(key, self.seeds)
    params = lambda k: transformer.init(k, steps.model)
    self.states = jax.jit(jax.vmap(lambda k: steps.init(params(k))))(self.keys)
    self._one = jax.jit(self._run)
    self._all = jax.jit(runs.spread(self._run, (0, 0)))
    self.mesh = runs.seed_mesh(self.seeds)
    self._shared = jax.jit(runs.spread(self._run, (0, 0), self.mesh))
    self._there = self.states, self.keys
    if self.mesh is not None:
      rows = jax.sharding.NamedSharding(self.mesh, P(runs.SEED))
      self._there = jax.device_put(self._there, rows)

  def in_turn(self) -> float:
    """Steps done, one seed after the other."""
    self.last = []
    for index in range(self.seeds):
      state = jax.tree.map(lambda x, i=index: x[i], self.states)
      self.last.append(self._one(state, self.keys[index]))
      jax.block_until_ready(self.last[-1])
    return self.seeds * self.count

  def vmapped(self) -> float:
    """Steps done, all seeds at once on one device."""
    jax.block_until_ready(self._all(self.states, self.keys))
    return self.seeds * self.count

  def spread(self) -> float:
    """Steps done, all seeds at once on all devices."""
    self.together = jax.block_until_ready(self._shared(*self._there))
    return self.seeds * self.count

  def largest_difference(self) -> float:
    """Of a parameter after the steps, between the two ways."""
    worst = 0.0
    for index, (state, _) in enumerate(self.last):
      gaps = jax.tree.map(
        lambda a, b, i=index: jnp.abs(a - b[i]).max(),
        state.params,
        self.together[0].params,
      )
      worst = max(worst, float(np.max(jax.tree.leaves(gaps))))
    return worst


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument('--seeds', type=int, default=8)
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--sizes', nargs='+', default=list(SIZES), choices=SIZES)
  parser.add_argument(
    '--batches', nargs='+', default=list(BATCHES), choices=BATCHES
  )
  flags = parser.parse_args(argv)
  session = common.Session('seeds', flags)
  runtime.divide_cpu(flags.seeds)
  for size in flags.sizes:
    for batch in flags.batches:
      prompts, group = (2, 2) if flags.toy else BATCHES[batch]
      name = 'toy' if flags.toy else size
      work = ours.Work(name, prompts, 0, group, 0, 0.0)
      both = Seeds(work, flags.seeds, flags.steps)
      print(f'{size} {batch}')
      sides = {
        'spread': common.timed(both.spread),
        'vmapped': common.timed(both.vmapped),
        'in turn': common.timed(both.in_turn),
      }
      turns = common.alternate(sides, flags.repetitions, flags.warmup)
      session.results[f'{size} {batch}'] = {
        'sides': common.report(turns, 'steps'),
        'devices': both.mesh.size if both.mesh else 1,
        'spread_over_in_turn': common.ratio(turns, 'spread', 'in turn'),
        'vmapped_over_in_turn': common.ratio(turns, 'vmapped', 'in turn'),
        'params_differ_by': both.largest_difference(),
      }
  session.write()
  return session


if __name__ == '__main__':
  main()
