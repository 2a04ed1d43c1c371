"""Training steps: `step(state, key_or_batch) -> (state, metrics)`, all pure.

A kind of trainer is a room: `sft`, `preference`, `distill` or `rl`, found by
`config.paradigm`. Every kind has the same functions, and nothing outside
compares paradigms:

  LABEL                           what messages call it
  loss_room(name)                 the room that `config.loss.name` is of
  records(config)                 kinds of records of a file that it trains on;
                                  () where it samples its rows itself
  sources(config)                 (names of `collect` that make its rows, for
                                  whom); ((), '') where it samples them itself
  check(config)                   ValueError for parts that cannot work together
  check_sizes(config, sizes)      the same, of rows, once they are known
  needs(config, provided)         arrays that frozen models have to give
  roles(config, needs, provided)  frozen models that a run holds
  scorers(config)                 roles whose scores are rewards
  value_head(config)              whether the model has a scalar head
  rows_per_prompt(config)         rows of one problem or record
  controllers(config)             {what: Controller} of numbers that move, or
                                  {what: step.Carry} of what is remembered
  memories(config, sizes)         {what: (the optimizer's first state) -> value}
                                  of what else a state keeps in `control`
  forwards(config, sizes, roles)  passes of a step beside its updates
  counts(config, sizes)           what a step shows and compares, of a file
  make_step(setup)                `step.Setup` -> `step.Steps`

A fifth kind is one file here and its name in `KINDS`. `update.py` is the one
place where gradients are taken; `objective.py` turns the losses a config names
into what it sums; `step.py` is the step of all kinds that are given their rows.
"""

import importlib
from types import ModuleType

from posttrain_jax.core.resolve import nearest

__all__ = ['KINDS', 'PROTOCOL', 'kind']

KINDS = ('sft', 'preference', 'rl', 'distill')
# What each of them has, as described above.
PROTOCOL = (
  'LABEL', 'check', 'check_sizes', 'controllers', 'counts', 'forwards',
  'loss_room', 'make_step', 'memories', 'needs', 'records', 'roles',
  'rows_per_prompt', 'scorers', 'sources', 'value_head',
)  # fmt: skip


def kind(paradigm: str) -> ModuleType:
  """The room of a kind of trainer.

  Raises:
    ValueError: no such kind, with the nearest one.
  """
  if paradigm not in KINDS:
    raise ValueError(
      f'unknown paradigm "{paradigm}".{nearest(paradigm, KINDS)}'
    )
  return importlib.import_module(f'posttrain_jax.trainers.{paradigm}')
