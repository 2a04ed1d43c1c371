"""A whole run as a function of its key and hyperparameters."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from posttrain_jax.core.keys import EVALUATION, START, STEPS
from posttrain_jax.core.types import Array, PyTree, TrainState
from posttrain_jax.rollout.runs import seed_mesh, spread
from posttrain_jax.run import build, drivers, roles
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.auto import AUTO
from posttrain_jax.trainers import guard

__all__ = ['Program', 'make_train', 'seed_mesh', 'spread', 'traceable']

Metrics = dict[str, Array]


def in_graph(run: build.Run) -> bool:
  """Whether a run's steps need nothing from the host."""
  return run.batches is None and callable(run.step)


def make_train(
  config: Any,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """`train(key, hparams={}, params=None) -> (TrainState, metrics [num_steps])`.

  The whole run of an in-graph task, from problems to the last update, jit-able;
  `jax.vmap(train)` trains many seeds and hyperparameters in one program, and
  row i of it is `train` of row i alone up to rounding. RL decodes faster with
  `axis_name=rollout.runs.AXIS`. A run whose step is not finite stands still
  from there on (`config.on_nonfinite`); metric `nonfinite/what` of a step is
  then not 0, and is for the caller to look at.

    key      `core.keys.seed_key(seed)` gives the run of `config.seed=seed`
    hparams  {dotted config key: number, may be traced}, as
             {'optimizer.lr': 1e-3}
    params   {role: parameters} to start from; by default what the config says:
             fresh ones, or those of `init_from`

  Raises:
    ValueError: a config that cannot work, or whose steps need the host.
  """
  config = config_lib.plain(config)
  run = build.build(config)
  if not in_graph(run):
    raise ValueError(
      f'task.name="{config.task.name}", data.source: this run reads from the '
      'host at every step; take an in-graph task, or posttrain_jax.train'
    )
  loaded = roles.read(config, run.models)

  def train(key: Array, hparams: Mapping | None = None, params: PyTree = None):
    run = build.build(config_lib.with_values(config, dict(hparams or {})))
    at_start = jax.random.fold_in(key, START)
    given = loaded if params is None else params
    scorers = roles.scorers(config)
    needed = roles.apart(config)
    params = roles.complete(given, run.models, at_start, scorers, needed)
    chunk = drivers.make_chunk(run.step, config.num_steps)
    steps_key = jax.random.fold_in(key, STEPS)
    state = run.init(params, at_start)
    return chunk(state, steps_key, jnp.int32(config.num_steps))

  return train


def traceable(config: Any, keys: Sequence[str]) -> tuple[str, ...]:
  """Those of `keys` that one program can serve all values of.

  A key cannot be traced where its value decides what is computed (a size, a
  name, a switch), or where the host needs it. Found by tracing a step, which
  computes nothing.
  """
  config = config_lib.plain(config)
  run = build.build(config)
  if not in_graph(run):
    return ()
  state = jax.eval_shape(
    lambda key: run.init(roles.complete({}, run.models, key)),
    jax.random.key(0),
  )

  def works(names: Sequence[str]) -> bool:
    def step(state, key, values):
      traced = config_lib.with_values(config, dict(zip(names, values)))
      return build.build(traced).step(state, key)

    numbers = [jnp.float32(0.5)] * len(names)
    try:
      jax.eval_shape(step, state, jax.random.key(0), numbers)
    except (jax.errors.JAXTypeError, TypeError):
      return False
    return True

  flat = config_lib.flatten(config.to_dict())
  # A rate that is left to 'auto' is a number once it is given.
  chosen = lambda key: key == config_lib.RATE and flat[key] == AUTO
  numbers = [key for key in keys if type(flat.get(key)) is float or chosen(key)]
  alone = [key for key in numbers if works([key])]
  return tuple(alone) if works(alone) else tuple(alone[:1])


class Program:
  """Runs of one config that differ in seed and in some numbers, together.

  Args:
    config: what they share; its in-graph steps are compiled once.
    names: dotted config keys whose values differ, of `traceable`.
    mesh: from `seed_mesh`; the devices then train their runs independently.
    bare: steps that are not finite are handed out, not held back (`guard`).

  Every array of states, keys and values has a leading axis of runs [S].
  """

  def __init__(
    self,
    config: Any,
    names: Sequence[str] = (),
    mesh: Mesh | None = None,
    bare: bool = False,
  ):
    self.config = config = config_lib.plain(config)
    self.run = build.build(config)
    self._names = tuple(names)
    self._bare = bare
    self._loaded = roles.read(config, self.run.models)
    of_all = functools.partial(spread, mesh=mesh)
    self._start = jax.jit(of_all(self._one_start, (0, 0, 0, None)))
    self._chunk = jax.jit(
      of_all(self._one_chunk, (0, 0, 0, None)), donate_argnums=0
    )
    self._evaluate = jax.jit(of_all(self._one_evaluation, (0, 0, 0)))

  def _built(self, values: Sequence[Array]) -> build.Run:
    given = dict(zip(self._names, values))
    return build.build(config_lib.with_values(self.config, given))

  def _one_start(self, params, key, values, loaded):
    at_start = jax.random.fold_in(key, START)
    given = loaded if params is None else params
    scorers = roles.scorers(self.config)
    needed = roles.apart(self.config)
    params = roles.complete(given, self.run.models, at_start, scorers, needed)
    return self._built(values).init(params, at_start)

  def _one_chunk(self, state, key, values, count):
    step = self._built(values).step
    step = guard.bare(step) if self._bare else step
    chunk = drivers.make_chunk(step, self.config.steps_per_call)
    return chunk(state, jax.random.fold_in(key, STEPS), count)

  def _one_evaluation(self, params, key, values):
    del values  # an evaluator reads no hyperparameter
    key = jax.random.fold_in(key, EVALUATION)
    return {
      name: evaluator(params, key)
      for name, evaluator in self.run.evaluators.items()
    }

  def start(
    self, keys: Array, values: Sequence[Array], params: PyTree = None
  ) -> TrainState:
    """States [S] before step 0; params {role: [S, ...]} as in `make_train`."""
    return self._start(params, keys, tuple(values), self._loaded)

  def advance(
    self, states: TrainState, keys: Array, values: Sequence[Array], count: int
  ) -> tuple[TrainState, Metrics, int]:
    """(states, metrics {name: [S, done]}, done <= count steps); the given
    states are used up."""
    count = min(count, self.config.steps_per_call)
    states, metrics = self._chunk(states, keys, tuple(values), jnp.int32(count))
    return states, {name: x[:, :count] for name, x in metrics.items()}, count

  def evaluate(
    self, params: PyTree, keys: Array, values: Sequence[Array]
  ) -> dict[str, Metrics]:
    """{evaluator: {metric: [S]}} on each run's own held-out problems."""
    return self._evaluate(params, keys, tuple(values))
