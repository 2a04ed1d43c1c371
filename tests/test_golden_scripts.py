"""Scripts that make fixtures with other projects' code still fit this one.

They run by hand, where those projects are installed. Here only their text is
read: what they import of the tests is there, and is called as it is defined.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SCRIPTS = sorted(
  path
  for path in (TESTS / 'goldens').glob('*.py')
  if path.stem.startswith(('make_', 'trl_'))
)


def module(name: str) -> Path | None:
  """The file of the tests that a dotted name imports."""
  path = TESTS.joinpath(*name.split('.')).with_suffix('.py')
  return path if path.is_file() else None


def defined(path: Path) -> dict[str, ast.AST]:
  """{name: what binds it} on a module's top level, in `if` and `try` too."""
  out: dict[str, ast.AST] = {}

  def look(body):
    for node in body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef):
        out[node.name] = node
      elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
          out[alias.asname or alias.name.partition('.')[0]] = node
      elif isinstance(node, ast.If | ast.Try | ast.With | ast.For):
        look(node.body)
      targets = getattr(node, 'targets', [getattr(node, 'target', None)])
      for target in filter(None, targets):
        for name in ast.walk(target):
          if isinstance(name, ast.Name):
            out[name.id] = node

  look(ast.parse(path.read_text(encoding='utf-8')).body)
  return out


def uses(path: Path):
  """(line, file of the tests, name in it, call or None) of all that is used."""
  tree = ast.parse(path.read_text(encoding='utf-8'))
  modules, names = {}, {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        if file := module(alias.name):
          modules[alias.asname or alias.name] = file
    elif isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        bound = alias.asname or alias.name
        if file := module(f'{node.module}.{alias.name}'):
          modules[bound] = file
        elif file := module(node.module):
          names[bound] = (file, alias.name)
          yield node.lineno, file, alias.name, None
  mine = {
    name: (path, name)
    for name, node in defined(path).items()
    if isinstance(node, ast.FunctionDef)
  }

  def of(node):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      file = modules.get(node.value.id)
      return file and (file, node.attr)
    if isinstance(node, ast.Name):
      return (mine | names).get(node.id)
    return None

  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and (found := of(node)):
      yield node.lineno, *found, None
    if isinstance(node, ast.Call) and (found := of(node.func)):
      yield node.lineno, *found, node


def fits(call: ast.Call, function: ast.FunctionDef) -> bool:
  """Whether a call gives a function what it takes, as far as text says."""
  args = function.args
  if any(isinstance(x, ast.Starred) for x in call.args):
    return True
  if any(keyword.arg is None for keyword in call.keywords):
    return True
  places = [x.arg for x in (*args.posonlyargs, *args.args)]
  given = {keyword.arg for keyword in call.keywords}
  if len(call.args) > len(places) and args.vararg is None:
    return False
  taken = set(places[: len(call.args)])
  alone = {x.arg for x in args.kwonlyargs}
  if given & taken or (not args.kwarg and given - set(places) - alone):
    return False
  needed = set(places[: len(places) - len(args.defaults)])
  needed |= {
    x.arg
    for x, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    if default is None
  }
  return needed <= taken | given


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_takes_of_the_tests_is_there(path):
  for line, file, name, call in uses(path):
    there = defined(file)
    assert name in there, f'{path.name}:{line}: no {name} in {file.name}'
    function = there[name]
    if call is not None and isinstance(function, ast.FunctionDef):
      assert fits(call, function), f'{path.name}:{line}: {ast.unparse(call)}'


def test_there_are_scripts_and_uses():
  assert len([x for x in SCRIPTS if x.stem.startswith('make_')]) >= 8
  assert sum(len(list(uses(path))) for path in SCRIPTS) > 100


@pytest.mark.parametrize('text, right', [
  ('f(1, 2)', True), ('f(1, b=2)', True), ('f(1)', False),
  ('f(1, 2, 3)', False),
  ('f(1, 2, c=3)', True), ('f(1, 2, d=3)', False), ('f(1, a=1, b=2)', False),
  ('f(*x)', True), ('f(**x)', True),
])  # fmt: skip
def test_calls_are_told_apart(text, right):
  function = ast.parse('def f(a, b, *, c=0): pass').body[0]
  assert fits(ast.parse(text).body[0].value, function) == right
