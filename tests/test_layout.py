"""Where things are, and who may import whom."""

import ast
from pathlib import Path

import pytest

from posttrain_jax import trainers

ROOT = Path(__file__).parent.parent / 'posttrain_jax'

# Rooms from left to right: each imports only from those to its left.
ORDER = (
  ('core',),
  ('losses', 'advantages', 'token_weights', 'controllers', 'curricula',
   'diagnostics', 'log', 'types'),
  ('models',),
  ('rollout',),
  ('tasks',),
  ('data', 'collect', 'rewards', 'params'),
  ('trainers',),
  ('evals',),
  ('run',),
  ('sweep', 'report'),
  ('lab',),
  ('train', 'evaluate', 'sample', 'compare', 'export', 'show_data',
   'doctor', 'quickstart', 'objectives', 'plan', 'lm_eval'),
)  # fmt: skip
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


def modules() -> dict[str, Path]:
  """{dotted name below the package: file}."""
  return {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix(
      '__init__'
    ).removesuffix('.'): path
    for path in ROOT.rglob('*.py')
  }  # fmt: skip


def imports(path: Path, known: dict[str, Path]) -> set[str]:
  """Modules of the package that a file imports, inside functions too."""
  out = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    for name in names:
      if name.split('.')[0] != 'posttrain_jax':
        continue
      name = name.partition('.')[2]
      while name not in known:
        name = name.rpartition('.')[0]
      out.add(name)
  return out


def graph() -> dict[str, set[str]]:
  known = modules()
  return {name: imports(path, known) for name, path in known.items()}


def room_of(module: str) -> str:
  return module.partition('.')[0]


@pytest.mark.parametrize('module', sorted(m for m in modules() if m))
def test_a_module_imports_only_what_stands_to_its_left(module):
  room = room_of(module)
  assert room in RANK, f'{room} has no place in ORDER'
  for other in imports(modules()[module], modules()):
    theirs = room_of(other)
    if theirs in ('', room):
      continue
    assert RANK[theirs] < RANK[room], f'{module} imports {other}'


def circles(edges: dict[str, set[str]]) -> list[str]:
  """What is left when all that imports nothing left is taken away."""
  left = dict(edges)
  while True:
    free = [name for name, out in left.items() if not out & left.keys()]
    if not free:
      return sorted(left)
    for name in free:
      del left[name]


def test_no_file_imports_itself_by_way_of_others():
  # A package's __init__ that gathers its own files is no way round.
  edges = {
    name: {
      other for other in out
      if other != name and not name.startswith(f'{other}.')
    }
    for name, out in graph().items()
  }  # fmt: skip
  assert circles(edges) == []


def test_circles_are_found():
  edges = {'a': {'b'}, 'b': {'c'}, 'c': {'a'}, 'd': {'a'}, 'e': set()}
  assert circles(edges) == ['a', 'b', 'c', 'd']


def test_every_room_of_the_order_that_is_there_is_a_room():
  there = {room_of(module) for module in modules()} - {''}
  assert there <= set(RANK)


def test_public_paths_stay():
  from posttrain_jax import types
  from posttrain_jax.core import types as core_types

  for name in ('Example', 'Rollout', 'Batch', 'TrainState', 'TokenSignals'):
    assert getattr(types, name) is getattr(core_types, name)


def test_nothing_outside_of_a_kind_of_trainer_asks_which_it_is():
  compared = [
    f'{name}:{node.lineno}'
    for name, path in modules().items()
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Compare)
    and 'paradigm' in ast.unparse(node)
    and any(f"'{kind}'" in ast.unparse(node) for kind in trainers.KINDS)
  ]
  assert compared == []


@pytest.mark.parametrize('name', trainers.KINDS)
def test_a_kind_of_trainer_has_all_that_is_asked_of_it(name):
  kind = trainers.kind(name)
  assert set(trainers.PROTOCOL) <= set(kind.__all__)
  assert all(hasattr(kind, part) for part in trainers.PROTOCOL)
  assert all(f'  {part}' in trainers.__doc__ for part in trainers.PROTOCOL)
