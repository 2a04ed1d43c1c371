"""Whether code passes its tests."""

import re
from collections.abc import Sequence
from typing import Any

from posttrain_jax.rewards.texts import common, sandbox

__all__ = ['check_tests', 'code_of', 'unit_tests']

_FENCED = re.compile(r'```[ \t]*(\w*)[^\n]*\n(.*?)```', re.DOTALL)


def code_of(text: str) -> str:
  """The code of an answer: its last fenced block of Python, else all of it."""
  text = common.spoken(text)
  blocks = [
    code for language, code in _FENCED.findall(text)
    if language.lower() in ('', 'python', 'python3', 'py')
  ]  # fmt: skip
  return blocks[-1] if blocks else text


def _cases(tests: Any) -> tuple[list[str], list[tuple[str, str]]]:
  """(programs to run after the code, [(input, expected output)]).

  Raises:
    ValueError: tests of another form, with those that there are.
  """
  if isinstance(tests, str):
    tests = [tests]
  if isinstance(tests, dict) and 'inputs' in tests and 'outputs' in tests:
    inputs, outputs = tests['inputs'], tests['outputs']
    for side in (inputs, outputs):
      if not isinstance(side, list | tuple):
        raise ValueError(f'"inputs" and "outputs" are lists, not {side!r}')
    if len(inputs) != len(outputs):
      raise ValueError(f'{len(inputs)} inputs for {len(outputs)} outputs')
    tests = [{'input': i, 'output': o} for i, o in zip(inputs, outputs)]
  forms = list(tests) if isinstance(tests, list | tuple) else []
  if forms and all(isinstance(x, str) and x.strip() for x in forms):
    return forms, []
  if forms and all(
    isinstance(x, dict)
    and isinstance(x.get('input'), str)
    and isinstance(x.get('output'), str)
    for x in forms
  ):
    return [], [(x['input'], x['output']) for x in forms]
  raise ValueError(
    f'tests {str(tests)[:60]!r} are neither Python (a text, or a list such as '
    '["assert f(1) == 2"]) nor a list of {"input": ..., "output": ...}'
  )


def check_tests(columns: dict[str, Any], *, column: str, **others: Any) -> None:
  """Raises ValueError unless a record's tests can be run; one without any is
  passed over."""
  del others
  if not common.empty(columns.get(column)):
    try:
      _cases(columns[column])
    except ValueError as error:
      raise ValueError(f'column "{column}": {error}') from None


def _same_output(said: str, expected: str) -> bool:
  """Line by line, without blanks at the ends."""
  lines = lambda text: [x.rstrip() for x in text.strip().splitlines()]
  return lines(said) == lines(expected)


def _passed(
  code: str, tests: Any, limits: sandbox.Limits, whole: bool
) -> Sequence[bool]:
  """Of each test; up to the first that fails where they count as a whole."""
  programs, cases = _cases(tests)
  if programs:
    result = sandbox.run_tests(code, programs, limits)
    return [x == '' for x in result.errors] or [False] * len(programs)
  passed = []
  for stdin, expected in cases:
    result = sandbox.run_program(code, stdin, limits)
    same = _same_output(result.output, expected)
    passed.append(result.status == 'ok' and same)
    if whole and not passed[-1]:
      break
  return passed


def unit_tests(
  prompts: list,
  completions: list,
  *,
  column: str = 'tests',
  seconds: float = 5.0,
  memory: int = 512,
  processes: int = 0,
  partial: bool = False,
  isolation: str = 'namespaces',
  **columns: Any,
) -> list[float | None]:
  """1.0 where the answer's Python code passes all of its tests, in a sandbox.

  The code is the last fenced block after the thoughts. Tests are Python that is
  run after it, in its name space (a text, or a list of texts such as
  'assert f(1) == 2'), or a list of {"input", "output"} of a whole program. None
  where a record has none. `sandbox` says what is contained, and what is not.

  Args:
    column: of the tests.
    seconds: of wall and CPU time for the code and its tests; of each case,
      where these are input and output.
    memory: MiB of a process.
    processes: further processes or threads that the code may start.
    partial: the share of tests that pass.
    isolation: 'namespaces', or 'limits': nothing is kept from the code but
      resources.
  """
  limits = sandbox.Limits(seconds, memory, processes, isolation)

  def one(text: str, tests: Any) -> float | None:
    if common.empty(tests):
      return None
    passed = _passed(code_of(text), tests, limits, not partial)
    return sum(passed) / len(passed) if partial else float(all(passed))

  texts = map(common.text_of, completions)
  return [one(*row) for row in zip(texts, columns[column])]
