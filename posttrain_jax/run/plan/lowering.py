"""From a config and a machine to the programs of a run, compiled."""

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Iterator
from typing import Any

import jax

from posttrain_jax.core import sharding
from posttrain_jax.core.types import TrainState
from posttrain_jax.run import build, model_folder, roles
from posttrain_jax.run.plan import early, gpus, memory, programs, topology
from posttrain_jax.run.plan.programs import Compiled
from posttrain_jax.run.plan.topology import Machine
from posttrain_jax.run.state import shaped_state

__all__ = ['Before', 'built', 'compile_all', 'mesh_of', 'turns_of', 'under']


@contextlib.contextmanager
def built(config: Any) -> Iterator[build.Run]:
  """The run of a config, as `train` builds it, for the target."""
  run = build.build(model_folder.settled(config))
  try:
    roles.check(run.config)
    yield run
  finally:
    judge = getattr(run.task, 'judge', None)
    if judge is not None:
      judge.close()
    close = getattr(run.batches, 'close', None)
    if close is not None:
      close()


def under(mesh: Any) -> Any:
  """The context of a mesh whose devices can compute nothing."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Before:
  """What was compiled already, and what to compile first.

  known  {machine: programs}, which `compile_all` adds to
  first  name of a program
  limit  bytes of a chip: where a program takes more, those after it are left
         out; 0: none is
  compiles  False: sizes by arithmetic, in place of compiling for a TPU
  early  each program in a process of its own, which is ended when XLA has
         settled what a plan reads (`early`): a tenth of the time
  """

  known: dict[str, programs.Known] = dataclasses.field(default_factory=dict)
  first: str = ''
  limit: int = 0
  compiles: bool = True
  early: bool = False

  def enough(self, part: Compiled) -> bool:
    """Whether a program says all that is asked."""
    refused = part.exhausted is not None
    return bool(self.limit) and (refused or part.total > self.limit)


def compile_all(
  run: build.Run, mesh: Any, machine: Machine, before: Before | None = None
) -> tuple[TrainState, tuple[Compiled, ...]]:
  """The state's shapes, and the programs of a step, compiled; of GPUs, or where
  nothing is to be compiled, by arithmetic."""
  before = before or Before()
  with contextlib.ExitStack() as stack:
    if machine.chip.backend == 'gpu':
      # Shapes alone are traced: one device will do.
      one = sharding.make_mesh({}, jax.local_devices(backend='cpu')[:1])
      stack.enter_context(under(one))
      traced = programs.traced(run, shaped_state(run, one))
      state = shaped_state(run, mesh)
      return state, gpus.sized(run, state, mesh, traced, turns_of(run))
    stack.enter_context(under(mesh))
    state = shaped_state(run, mesh)
    traced, done = programs.traced(run, state), []
    if not before.compiles:
      return state, gpus.sized(run, state, mesh, traced, turns_of(run))
    known = before.known.setdefault(machine.name, {})
    for name in sorted(traced, key=lambda name: name != before.first):
      _tell(f'compiling "{name}" for {machine.name} ...')
      given = name, traced[name], state, turns_of(run)
      apart = functools.partial(early.compiled, run.config, machine.name, name)
      ended = apart if before.early else None
      done.append(programs.compiled(*given, known, ended))
      if before.enough(done[-1]):
        break
    order = list(traced)
    return state, tuple(sorted(done, key=lambda x: order.index(x.name)))


def turns_of(run: build.Run) -> float:
  """Tokens that the slots of a rollout decode, one after another."""
  rows, sizes = memory.rollout_rows(run), run.sizes
  if not rows or not sizes.slots:
    return 1.0
  every = sizes.prompts_per_step * run.config.group_size
  return float(-(-every // rows) * sizes.max_new_tokens)


def mesh_of(config: Any, machine: Machine) -> Any:
  if machine.chip.backend == 'gpu':
    sizes = sharding.axis_sizes(config.mesh)
    count = math.prod(sizes.values())
    if count > machine.count:
      raise ValueError(
        f'mesh {sharding.shown_as(sizes)} needs {count} devices; '
        f'"{machine.name}" has {machine.count}'
      )
    return topology.abstract_mesh(sizes)
  return sharding.make_mesh(config.mesh)
