"""By arithmetic alone: GPUs, for which nothing here compiles, and TPUs where
nothing is to be compiled.

Memory is that of shapes and of `memory.arithmetic`; what is sent, of
`run.traffic`; FLOPs are counted as in programs that are compiled.
"""

from typing import Any

from posttrain_jax.core.types import TrainState
from posttrain_jax.rollout import layout
from posttrain_jax.run import traffic
from posttrain_jax.run.build import Run
from posttrain_jax.run.plan import links, memory
from posttrain_jax.run.plan.flops import count
from posttrain_jax.run.plan.links import Moved
from posttrain_jax.run.plan.programs import Compiled
from posttrain_jax.run.plan.topology import Machine

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
  """What a program sends, by `run.traffic`: over NVLink, or over the links of a
  TPU slice as a ring over all of it.

  Of a rollout every answer is taken to be as long as it may; scores of reward
  models are taken to send what one pass over the rows does.
  """
  sizes, places = run.sizes, dict(mesh.shape)
  read = lambda role: traffic.of_scoring(
    run.models.get(role, run.model), places, sizes.rows, sizes.row_tokens
  )
  if name == 'rollout':
    prompts = sizes.prompts_per_step
    how = layout.decode_weights(run.model, places)
    sent = traffic.of_scoring(run.model, places, prompts, sizes.prompt_length)
    sent += traffic.of_decoding(
      run.model, places, sizes.rows, sizes.max_new_tokens, how == 'split'
    )
  elif name == 'scores':
    sent = read('policy')
  else:
    micro = sizes.microbatch_rows or sizes.minibatch_rows
    rows = sizes.rows * sizes.updates_per_rollout
    sent = traffic.of_update(
      run.model, places, rows, sizes.row_tokens, passes=rows // micro
    )
    for role in run.models:
      if role != 'policy':
        sent += read(role)
  kinds = {
    'all-gather': sent.gather,
    'reduce-scatter': sent.scatter,
    'all-reduce': sent.reduce,
    'all-to-all': sent.swap,
  }
  moved = {kind: size for kind, size in kinds.items() if size}
  speed = machine.chip.ici
  if machine.chip.backend == 'tpu':
    speed = links.bandwidth(machine, list(mesh.devices.flat))
  return Moved(moved, sent.total / speed)
