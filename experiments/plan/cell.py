"""Cells, planned in a process of their own.

  python -m experiments.plan.cell NAME ... [--tries N] [--arithmetic]

Prints the result of each as a line of JSON. --arithmetic compiles nothing.
"""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.plan import choose
from experiments.plan.cells import CELLS, TWICE, Cell
from posttrain_jax.core import target
from posttrain_jax.core.resolve import nearest
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import making, show, topology
from posttrain_jax.run.plan.lowering import built

# Plans of a cell that are compiled before the planner's own search.
ATTEMPTS = 3

# Records that make the programs' shapes; what they say does not matter.
RECORDS = {
  'rows.jsonl': {'prompt': 'One?', 'completion': 'One.'},
  'pairs.jsonl': {'prompt': 'One?', 'chosen': 'One.', 'rejected': 'Two.'},
  'prompts.jsonl': {'prompt': 'x' * 1000, 'answer': 'x'},
}


def write_records(folder: Path) -> None:
  """The files that cells name."""
  for name, record in RECORDS.items():
    # Each with a number of its own: equal prompts would be one.
    rows = [
      {**record, 'prompt': f'{number} {record["prompt"]}'}
      for number in range(1024)
    ]
    (folder / name).write_text('\n'.join(map(json.dumps, rows)))


def config_of(cell: Cell, folder: Path, values: dict[str, Any]) -> Any:
  """The config of a cell with further `values`."""
  every = {**cell.values, **values}
  every['data.path'] = folder / cell.values['data.path']
  items = [(key, str(value)) for key, value in every.items()]
  return config_lib.load(cell.config, items)


def _needs(plan: making.Plan, rollout: bool) -> int:
  """Bytes of the fullest program that decodes, or of those that do not; 0:
  there is none."""
  parts = [p.total for p in plan.parts if (p.name == 'rollout') == rollout]
  return max(parts, default=0)


def attempts(
  cell: Cell, folder: Path, tries: int
) -> tuple[making.Plan, dict[str, Any], list[dict[str, Any]]]:
  """(a plan, what it sets beside the cell's values, all plans that were made):
  one that fits, or the last one with what the planner finds.

  tries  of the planner's own search, where nothing here fits
  """
  machine = topology.parse(cell.topology)
  limit, made = machine.chip.hbm, []
  known: dict[str, Any] = {}
  aim = target.aimed(topology.targets(machine))
  with aim, built(config_of(cell, folder, {})) as run:
    updates = choose.choices(run)
    rollouts = choose.rollouts(run, limit)
  choice = (choose.following(updates, limit) or updates[-1:])[0]
  fitting: tuple[making.Plan, dict[str, Any]] | None = None
  for turn in range(ATTEMPTS):
    values = {**rollouts[0], **choice.values}
    last = turn == ATTEMPTS - 1
    plan = making.make(
      config_of(cell, folder, values), machine, tries=0, known=known, early=True
    )
    made.append({
      'values': values, 'estimate': choice.estimate,
      'total': plan.fullest.total, 'fits': not plan.over,
    })  # fmt: skip
    if fitting is not None:  # what keeps more fits as well, or it does not
      return (*(fitting if plan.over else (plan, values)), made)
    if not plan.over:
      used = _needs(plan, rollout=False)
      more = choose.keeping_more(updates, choice, limit, used)
      if plan.recomputed <= TWICE or turn or not more:
        return plan, values, made
      fitting, choice = (plan, values), more[0]
      continue
    update, before = _needs(plan, rollout=False), values
    if update > limit:
      less = [one for one in updates if one.estimate < choice.estimate]
      fit = choose.following(less, limit, (choice.estimate, update))
      choice = (fit or less[-1:] or [choice])[0]
    if _needs(plan, rollout=True) > limit:
      rollouts = rollouts[1:] or rollouts
    if last or {**rollouts[0], **choice.values} == before:
      break
  found = making.make(
    config_of(cell, folder, values),
    machine,
    tries=tries,
    known=known,
    early=True,
  )
  return found, values, made


def by_arithmetic(
  cell: Cell, folder: Path
) -> tuple[making.Plan, dict[str, Any], list[dict[str, Any]]]:
  """As `attempts`, and nothing is compiled: of all that a step may keep, the
  cheapest to compute of those that should fit."""
  machine = topology.parse(cell.topology)
  aim = target.aimed(topology.targets(machine))
  with aim, built(config_of(cell, folder, {})) as run:
    updates = choose.choices(run)
    rollouts = choose.rollouts(run, machine.chip.hbm)
  choice = (choose.following(updates, machine.chip.hbm) or updates[-1:])[0]
  values = {**rollouts[0], **choice.values}
  config = config_of(cell, folder, values)
  return making.make(config, machine, compiles=False), values, []


def result(cell: Cell, tries: int, arithmetic: bool) -> dict[str, Any]:
  """What is written of a cell."""
  began = _seconds()
  with tempfile.TemporaryDirectory() as folder:
    write_records(Path(folder))
    plan, values, made = (
      by_arithmetic(cell, Path(folder)) if arithmetic
      else attempts(cell, Path(folder), tries)
    )  # fmt: skip
  return {
    'cell': cell.name,
    'method': cell.method,
    'model': cell.model,
    'config': cell.config,
    'values': {**cell.values, **values},
    'plans': made,
    'cpu_seconds': round(_seconds() - began, 1),
    'plan': show.as_json(plan),
  }


def _seconds() -> float:
  """CPU seconds of this process and of those that it waited for."""
  total = 0.0
  for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
    used = resource.getrusage(who)
    total += used.ru_utime + used.ru_stime
  return total


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('names', nargs='+')
  parser.add_argument('--tries', type=int, default=4)
  parser.add_argument('--arithmetic', action='store_true')
  flags = parser.parse_args(argv)
  jax.config.update('jax_platforms', 'cpu')
  known = {cell.name: cell for cell in CELLS}
  for name in flags.names:
    if name not in known:
      print(f'error: no cell "{name}".{nearest(name, known)}', file=sys.stderr)
      return 2
  for name in flags.names:
    found = result(known[name], flags.tries, flags.arithmetic)
    print(json.dumps(found), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
