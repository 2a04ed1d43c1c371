"""GPUs, by arithmetic alone: nothing here compiles for them.

Memory is that of shapes and of `memory.arithmetic`, what is sent is
`formula.sent`; FLOPs are counted as for TPUs.
"""

from typing import Any

from posttrain_jax.core.types import TrainState
from posttrain_jax.run.build import Run
from posttrain_jax.run.plan import formula, memory
from posttrain_jax.run.plan.flops import count
from posttrain_jax.run.plan.programs import Compiled
from posttrain_jax.run.plan.topology import Machine
from posttrain_jax.run.plan.traffic import Moved

__all__ = ['moved', 'sized']


def sized(
  run: Run, state: TrainState, mesh: Any, traced: dict[str, Any], turns: float
) -> tuple[Compiled, ...]:
  """The programs of a step, with sizes by arithmetic.

  state   shapes with shardings over `mesh`, which has no devices
  traced  {name: jax.stages.Traced}
  turns   as `flops.count` takes it
  """
  own = sum(memory.held(state).values())
  return tuple(
    Compiled(
      name,
      count(program.jaxpr, turns),
      arguments=own,
      outputs=own,
      aliased=own,
      temporaries=memory.arithmetic(run, mesh, name) - own,
    )
    for name, program in traced.items()
  )


def moved(run: Run, mesh: Any, machine: Machine, name: str) -> Moved:
  """What a program sends, over NVLink."""
  if name == 'rollout':  # weights are gathered once, in what is computed in
    sent = formula.gathers(run, mesh, 1)
  elif name == 'scores':
    sent = {}
  else:
    sent = formula.sent(run, mesh)
  return Moved(sent, sum(sent.values()) / machine.chip.ici)
