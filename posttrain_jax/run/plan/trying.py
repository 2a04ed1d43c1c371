"""Other settings of a plan that does not fit: tried on its machine, and on
larger slices of the same chip."""

import dataclasses
from typing import Any

from posttrain_jax.core import sharding, target
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import notes
from posttrain_jax.run.plan import memory, search, topology
from posttrain_jax.run.plan.lowering import (
  Before,
  built,
  compile_all,
  mesh_of,
)
from posttrain_jax.run.plan.topology import Machine

__all__ = ['other_settings']


def _judged(
  config: Any, machine: Machine, limit: int, before: Before
) -> search.Verdict:
  """What comes of a config: its programs compiled, up to one that is too
  large."""
  try:
    with built(config) as run:
      notes.notes(run)
      mesh = mesh_of(run.config, machine)
      _, parts = compile_all(run, mesh, machine, before)
  except ValueError as error:
    return search.Verdict(0, False, str(error))
  total = max(part.total for part in parts)
  fits = total <= limit and not any(part.exhausted for part in parts)
  return search.Verdict(total, fits)


class _Arithmetic:
  """How much of a plan's memory another config would take, roughly."""

  def __init__(self, plan: Any):
    self._plan, self._name = plan, plan.fullest.name
    self._now = memory.arithmetic(plan.run, plan.mesh, self._name)

  def leaves_hope(self, config: Any) -> bool:
    """Whether a config might fit."""
    plan = self._plan
    try:
      with built(config) as run:
        mesh = topology.abstract_mesh(sharding.axis_sizes(run.config.mesh))
        share = memory.arithmetic(run, mesh, self._name) / self._now
    except ValueError:
      return False
    return plan.fullest.total * share <= plan.limit * search.SLACK


def _larger(plan: Any) -> list[Machine]:
  """Machines of the same chip with a multiple of the devices, smallest
  first."""
  chip, own = plan.machine.chip, plan.machine.count
  same = [topology.parse(name) for name in topology.names()]
  more = [
    x for x in same
    if x.chip == chip and x.count > own and x.count % own == 0
  ]  # fmt: skip
  return sorted(more, key=lambda machine: machine.count)


def spread(run: Any, count: int, machine: Machine) -> dict[str, Any]:
  """{key: value} that a run needs on a machine with more devices than the
  `count` it is for: all along fsdp, and a row of a micro-batch for each."""
  places = sharding.axis_sizes(run.config.mesh, count)
  places['fsdp'] *= machine.count // count
  changes = {'mesh.fsdp': places['fsdp'], 'mesh.data': places['data']}
  parts, rows = sharding.row_parts(places), run.sizes.microbatch_rows
  if rows and rows % parts:
    changes['microbatch_rows'] = -(-rows // parts) * parts
  return changes


def other_settings(
  plan: Any, tries: int, before: Before
) -> tuple[list[search.Try], list[search.Try]]:
  """(what fits, all that was tried), of at most `tries` compilations.

  before  what was compiled already, and how

  Where nothing fits on the machine, the smallest slice that does, with its
  further devices along fsdp.
  """
  config, hope = plan.run.config, _Arithmetic(plan)
  before = dataclasses.replace(
    before, first=plan.fullest.name, limit=plan.limit
  )
  fit, tried = search.search(
    plan.run,
    lambda other: _judged(other, plan.machine, plan.limit, before),
    lambda changes: hope.leaves_hope(config_lib.with_values(config, changes)),
    tries,
    plan.fullest.total,
  )
  left = 1 + tries - len(tried)
  for machine in [] if fit else _larger(plan):
    changes = spread(plan.run, plan.machine.count, machine)
    other = config_lib.with_values(config, changes)
    with target.aimed(topology.targets(machine)):
      if left <= 0 or not hope.leaves_hope(other):
        continue
      verdict = _judged(other, machine, plan.limit, before)
    left -= not verdict.refused
    told = {k: x for k, x in changes.items() if k != 'mesh.data'}
    tried.append(search.Try({'--topology': machine.name, **told}, verdict))
    if verdict.fits:
      fit.append(tried[-1])
      break
  return fit, tried
