"""From a config and a machine to a plan."""

import dataclasses
import time
from typing import Any

import jax

from posttrain_jax.core import sharding, target
from posttrain_jax.core.types import TrainState
from posttrain_jax.models import transformer
from posttrain_jax.run import accounting, build, notes
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import (
  estimate,
  gpus,
  links,
  memory,
  programs,
  search,
  topology,
  trying,
)
from posttrain_jax.run.plan.lowering import (
  Before,
  built,
  compile_all,
  mesh_of,
  turns_of,
  under,
)
from posttrain_jax.run.plan.programs import Compiled
from posttrain_jax.run.plan.topology import Machine
from posttrain_jax.run.state import shaped_state

__all__ = ['Plan', 'make']

# A step without what is computed twice.
_ONCE = {
  'model.remat': False,
  'model.logit_chunk': 0,
  'model.attention_chunk': 0,
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a run takes on a machine.

  run        for that machine
  mesh       its devices; of GPUs, without them
  parts      the programs of a step
  hbm        {program: {component: bytes of a chip}}
  moved      {program: what its collectives send}; of a step that contains its
             rollout, as all that follows, without it
  times      {program: seconds}
  ideal      FLOPs of a step by the model's sizes: 6ND, attention, rollouts
  recomputed  share of the update's FLOPs that are done twice
  fits       other settings that fit, where this one does not
  tried      what was tried to find them
  notes      of `run.notes`
  seconds    that compiling took
  """

  machine: Machine
  run: build.Run
  mesh: Any
  parts: tuple[Compiled, ...]
  hbm: dict[str, dict[str, int]]
  moved: dict[str, links.Moved]
  times: dict[str, estimate.Time]
  ideal: float
  recomputed: float
  fits: tuple[search.Try, ...]
  tried: tuple[search.Try, ...]
  notes: tuple[str, ...]
  seconds: float

  @property
  def fullest(self) -> Compiled:
    """The program that takes most memory."""
    return max(self.parts, key=lambda part: part.total)

  @property
  def over(self) -> int:
    """Bytes of a chip that are missing; 0: it fits."""
    return max(self.fullest.total - self.limit, 0)

  @property
  def limit(self) -> int:
    """Bytes of a chip that a program may have: by XLA's word, where it gave
    it."""
    found = [p.exhausted.limit for p in self.parts if p.exhausted is not None]
    return min(found, default=self.machine.chip.hbm)

  @property
  def compiled(self) -> bool:
    """Whether XLA compiled its programs; else all is arithmetic."""
    return _compiled(self.parts)

  @property
  def flops(self) -> float:
    """FLOPs of a step, of all chips."""
    return sum(alone(self.parts).values())


def _compiled(parts: tuple[Compiled, ...]) -> bool:
  return any(part.text or part.exhausted is not None for part in parts)


def alone(parts: tuple[Compiled, ...]) -> dict[str, float]:
  """{program: FLOPs of all chips}; of a step, without its rollout."""
  out = {part.name: part.flops.total for part in parts}
  if 'step' in out and 'rollout' in out:
    out['step'] = max(out['step'] - out['rollout'], 0.0)
  return out


def make(
  config: Any,
  machine: Machine,
  *,
  tries: int = 6,
  known: dict[str, Any] | None = None,
  compiles: bool = True,
  early: bool = False,
) -> Plan:
  """The plan of a config on a machine.

  config  as `train` takes it
  tries   programs of other settings that may be compiled, where this one does
          not fit
  known   {machine: programs} of plans before this one, which adds its own: the
          same program is compiled once
  compiles  False: everything by arithmetic, in seconds; FLOPs are exact, what
          comes and goes in memory is not
  early   compiles up to what a plan reads (`lowering.Before`)

  Raises:
    ValueError: a config that cannot work, as `train` says it; or a mesh that
      is no part of the machine.
    ImportError: libtpu is needed and not installed.
  """
  began = time.monotonic()
  known = {} if known is None else known
  with target.aimed(topology.targets(machine)), built(config) as run:
    told = list(notes.notes(run))
    mesh = mesh_of(run.config, machine)
    if mesh.size < machine.count:
      told.append(
        f'the mesh has {mesh.size} of the {machine.count} devices of '
        f'"{machine.name}"; --config.mesh.fsdp=-1 takes what is left'
      )
    before = Before(known, compiles=compiles, early=early)
    state, parts = compile_all(run, mesh, machine, before)
    plan = _filled(run, mesh, machine, state, parts, tuple(told))
    if plan.over and tries and compiles:
      fits, tried = trying.other_settings(plan, tries, before)
      plan = dataclasses.replace(plan, fits=tuple(fits), tried=tuple(tried))
  return dataclasses.replace(plan, seconds=time.monotonic() - began)


def _filled(
  run: build.Run,
  mesh: Any,
  machine: Machine,
  state: TrainState,
  parts: tuple[Compiled, ...],
  told: tuple[str, ...],
) -> Plan:
  moved = _moved(run, mesh, machine, parts)
  others = {k: m for k, m in run.models.items() if k != 'policy'}
  return Plan(
    machine=machine,
    run=run,
    mesh=mesh,
    parts=parts,
    hbm={p.name: memory.components(run, state, p, mesh) for p in parts},
    moved=moved,
    times=_times(run, mesh, machine, parts, moved),
    ideal=accounting.step_flops(run.config, run.model, run.sizes, others),
    recomputed=_recomputed(run, parts),
    fits=(),
    tried=(),
    notes=told,
    seconds=0.0,
  )


def _moved(
  run: build.Run, mesh: Any, machine: Machine, parts: tuple[Compiled, ...]
) -> dict[str, links.Moved]:
  """{program: what it sends}; a step's rollout is counted on its own."""
  if not _compiled(parts):
    return {
      part.name: gpus.moved(run, mesh, machine, part.name) for part in parts
    }
  read = lambda part, unknown: links.of_text(part.text, machine, mesh, unknown)
  out, once = {}, {part.name: read(part, 1) for part in parts}
  for part in parts:
    out[part.name] = once[part.name]
    if part.name == 'rollout':  # its loops go on until all answers have ended
      turns = max(turns_of(run), float(run.sizes.max_new_tokens))
      out[part.name] = read(part, int(turns))
    elif part.name == 'step' and 'rollout' in once:
      out[part.name] = links.less(once['step'], once['rollout'])
  return out


def _times(
  run: build.Run,
  mesh: Any,
  machine: Machine,
  parts: tuple[Compiled, ...],
  moved: dict[str, links.Moved],
) -> dict[str, estimate.Time]:
  """{program: Time}."""
  flops, out = alone(parts), {}
  for part in parts:
    read = 0.0
    if part.name == 'rollout':
      per_token = estimate.read_per_token(
        memory.decode_weights(run, mesh), memory.kv_cache(run, mesh)
      )
      turns = max(turns_of(run), float(run.sizes.max_new_tokens))
      read = per_token * turns
    out[part.name] = estimate.of_program(
      machine.chip,
      flops=flops[part.name] / mesh.size,
      links=moved[part.name].seconds,
      read=read,
      samples=part.name == 'rollout',
    )
  return out


def _recomputed(run: build.Run, parts: tuple[Compiled, ...]) -> float:
  """Share of the update's FLOPs that its backward passes do again, beside those
  of a step that keeps everything."""
  flops = alone(parts)
  with built(config_lib.with_values(run.config, _ONCE)) as whole:
    one = sharding.make_mesh({}, jax.local_devices(backend='cpu')[:1])
    with under(one):
      traced = programs.traced(whole, shaped_state(whole, one))
  turns = turns_of(run)
  once = {
    name: programs.count(program.jaxpr, turns).total
    for name, program in traced.items()
  }
  name = 'learn' if 'learn' in once else 'step'
  plain = once[name]
  if name == 'step' and 'rollout' in once:
    plain -= once['rollout']
  return max(flops[name] / plain - 1.0, 0.0) if plain else 0.0


def describe(run: build.Run) -> dict[str, Any]:
  """What a plan was made of: sizes and the types of its numbers."""
  model = run.model
  moments = run.config.optimizer.get('moments', 'params')
  return {
    'parameters': transformer.param_count(model),
    'rows': run.sizes.rows,
    'microbatch_rows': run.sizes.microbatch_rows,
    'row_tokens': run.sizes.row_tokens,
    'weights': model.param_dtype,
    'moments': model.param_dtype if moments == 'params' else moments,
    'computation': model.dtype,
    'cache': model.cache_dtype or model.dtype,
    'remat': model.remat,
  }
