"""The state of a run, laid out over its mesh."""

import warnings
from pathlib import Path
from typing import Any

import jax

from posttrain_jax.core import sharding, trees
from posttrain_jax.core.types import PyTree, TrainState
from posttrain_jax.models import adapted, transformer
from posttrain_jax.run import base, checkpoint, offload, roles
from posttrain_jax.run.build import Run

__all__ = ['abstract_state', 'first_state', 'initial_state', 'saved_state',
           'state_shardings']  # fmt: skip


def initial_state(run: Run, mesh, config: Any) -> TrainState:
  """The state before step 0, laid out over the mesh.

  What is loaded is never whole on one device of several, and becomes the state
  without a copy; what is not is made in place.
  """
  return _made(run, mesh, config, roles.read(config, run.models, mesh))


def _made(run: Run, mesh, config: Any, loaded: dict[str, PyTree]) -> TrainState:
  key = base.start_key(config)
  scorers, needed = roles.scorers(config), roles.apart(config)

  def start(loaded, key):
    begun = roles.complete(loaded, run.models, key, scorers, needed)
    return run.init(begun, key)

  place = state_shardings(run, mesh)
  with warnings.catch_warnings():
    # Roles that the run copies cannot be taken over.
    warnings.filterwarnings('ignore', 'Some donated buffers were not usable')
    return jax.jit(start, donate_argnums=0, out_shardings=place)(loaded, key)


def first_state(
  run: Run, mesh, config: Any, workdir: Path
) -> tuple[TrainState, dict[str, Any] | None]:
  """(`initial_state`, the entry "base" of the run's config.json): with adapters
  that says what they stand on, and is None without."""
  loaded = roles.read(config, run.models, mesh)
  if run.adapter is None:
    return _made(run, mesh, config, loaded), None
  source = roles.source_of(config)
  if not source:  # it lies nowhere yet: fresh, or merged from adapters
    models = {'policy': run.model}
    own = {role: x for role, x in loaded.items() if role == 'policy'}
    make = lambda own, key: roles.complete(own, models, key)['policy']
    loaded['policy'] = jax.jit(make)(own, base.start_key(config))
  entry = base.keep(workdir, source, loaded['policy'])
  return _made(run, mesh, config, loaded), entry


def saved_state(run: Run, mesh, config: Any, workdir: Path) -> TrainState:
  """What a checkpoint of a run is restored into: shapes and shardings, and
  with adapters the base itself.

  Raises:
    ValueError: the base is not there, or is another one.
  """
  shapes = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract_state(run),
    state_shardings(run, mesh),
  )
  saved = checkpoint.load_config(workdir) or {}
  if base.KEY not in saved:
    return shapes
  where = roles.placing(run.model, mesh)
  read = lambda path: roles.read_params(path, run.model, mesh)
  plain = base.load(workdir, saved[base.KEY], read, where)
  others = {role: x for role, x in run.models.items() if role != 'policy'}
  loaded = {**roles.read(config, others, mesh), 'policy': plain}
  began = _made(run, mesh, config, loaded)
  params = adapted.join(adapted.trained(shapes.params), began.params)
  return shapes.replace(params=params)


def abstract_state(run: Run) -> TrainState:
  """Shapes and dtypes of the state."""
  own = lambda role: role == 'policy' or roles.path_of(run.config, role)

  def fresh(key):
    return run.init(
      {
        role: transformer.init(key, model)
        for role, model in run.models.items()
        # With adapters, roles of the policy's base are not models of their own.
        if run.adapter is None or own(role)
      }
    )

  return jax.eval_shape(fresh, jax.random.key(0))


def state_shardings(run: Run, mesh) -> TrainState:
  """Sharding of every leaf of the state, and the memory it lies in."""
  # Other models may have more layers, so more paths; shapes decide the rest.
  specs: dict[str, Any] = {}
  for model in run.models.values():
    specs = trees.merged(specs, transformer.param_specs(model))
  if run.adapter is not None:
    specs = {**specs, **run.adapter.specs(run.model)}
  shapes = abstract_state(run)
  place = sharding.state_shardings(shapes, specs, mesh)
  return offload.placed(run.config, shapes, place)
