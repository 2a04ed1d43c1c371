"""Scores of reasoning-gym's answers, with what its own scorers let through.

Some of the package's scorers (0.1.19) pay in full for nonsense, or run what a
model wrote as Python. Here such an answer earns nothing before the scorer sees
it, or the scorer is replaced; every other answer gets the task's own score,
with the partial credit that its author meant.

  every task               '' and, where the right answer has none of them, nan
                           and inf earn nothing
  complex_arithmetic       nan earned 1.0: min(1.0, nan) is 1.0
  coin_flip                0 earned 1.0 for chances below 1e-4
  countdown, puzzle24      were run by sympy, with its functions; puzzle24 took
                           any four numbers, and 24.9 for 24
  game_of_life_halting     any text earned 1.0
  gsm_symbolic             -93 earned 1.0 for 93
  polynomial_equations     any text without a number earned 1.0 for ''
  quantum_lock, sokoban    read the letters of their moves out of any text
  binary_matrix, n_queens, spiral_matrix, string_insertion
                           evaluated the answer
  *_integration, polynomial_multiplication
                           evaluated the answer with all of sympy, so that
                           `Integral(f, x)` was right for every f

Runs in worker processes, so nothing here may import jax.
"""

import ast
import cmath
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

__all__ = ['LEFT_OUT', 'score', 'unsolved']

# Tasks that cannot be used, and why.
LEFT_OUT = {
  'composite': 'it mixes other tasks, which its knobs cannot name',
}
_NO_NUMBER = re.compile(r'(?<![a-z])(nan|inf|infinity)(?![a-z])', re.IGNORECASE)
# What an antiderivative or a polynomial may be written with.
FUNCTIONS = re.compile(
  r'a?(sin|cos|tan|sec|csc|cot)h?|exp|log|ln|sqrt|cbrt|Abs|pi|erfi?|Si|Ci|Ei|'
  r'li|Shi|Chi|fresnel[sc]|gamma|(lower|upper)gamma|Rational'
)
_EXPRESSION = re.compile(r'[\w\s+\-*/().,]*')
_NAME = re.compile(r'[^\W\d]\w*')

Own = Callable[[str], float]  # the task's own scorer of one problem


def _literal(text: str) -> bool:
  """Whether text is a Python literal, which evaluates to itself."""
  try:
    ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    return False
  return True


def _arithmetic(text: str) -> tuple[Fraction, list[int]]:
  """(value, integers used) of an expression of integers and + - * /.

  Raises:
    ValueError, SyntaxError, ZeroDivisionError, RecursionError: it is none.
  """
  used: list[int] = []
  binary = {
    ast.Add: Fraction.__add__,
    ast.Sub: Fraction.__sub__,
    ast.Mult: Fraction.__mul__,
    ast.Div: Fraction.__truediv__,
  }

  def value(node: ast.AST) -> Fraction:
    match node:
      case ast.Constant(value=int(number)) if not isinstance(number, bool):
        used.append(number)
        return Fraction(number)
      case ast.BinOp(left=left, op=op, right=right) if type(op) in binary:
        return binary[type(op)](value(left), value(right))
      case ast.UnaryOp(op=ast.USub(), operand=operand):
        return -value(operand)
      case ast.UnaryOp(op=ast.UAdd(), operand=operand):
        return value(operand)
    raise ValueError(f'no arithmetic: {ast.dump(node)[:40]}')

  return value(ast.parse(text.strip(), mode='eval').body), used


def _reaches(text: str, entry: dict, target: int) -> bool | None:
  """Whether the problem's numbers make `target`; None: no arithmetic."""
  try:
    value, used = _arithmetic(text)
  except (ValueError, SyntaxError, ZeroDivisionError, RecursionError,
          MemoryError):  # fmt: skip
    return None
  return sorted(used) == sorted(entry['metadata']['numbers']) and (
    value == target
  )


def _puzzle24(text: str, entry: dict, own: Own) -> float:
  return 1.0 if _reaches(text, entry, 24) else 0.01


def _countdown(text: str, entry: dict, own: Own) -> float:
  right = _reaches(text, entry, entry['metadata']['target'])
  return 0.01 if right is None else 1.0 if right else 0.05


def _complex(text: str, entry: dict, own: Own) -> float:
  from reasoning_gym.algebra.complex_arithmetic import ComplexArithmeticDataset

  try:
    value = ComplexArithmeticDataset.parse_string_to_complex(text)
  except (ValueError, TypeError):
    return 0.0
  return own(text) if value is not None and cmath.isfinite(value) else 0.0


def _coin_flip(text: str, entry: dict, own: Own) -> float:
  try:
    value = Fraction(text.replace(',', ''))
  except (ValueError, ZeroDivisionError):
    return 0.0
  if not 0 <= value <= 1:
    return 0.0
  right = Fraction(entry['answer'].replace(',', ''))
  score = own(text)
  # Its tolerance is 1e-4, of chances that may be smaller.
  near = abs(value - right) <= right / 100
  return score if near or score < 1.0 else 0.0


def _halting(text: str, entry: dict, own: Own) -> float:
  return float(text.strip().lower() == str(entry['answer']).lower())


def _gsm(text: str, entry: dict, own: Own) -> float:
  score = own(text)
  number = re.search(r'(?<!\w)-?\d+(?:\.\d+)?', text)
  wrong = number is None or float(number[0]) != float(entry['answer'])
  return min(score, 0.01) if wrong else score


def _polynomial_equations(text: str, entry: dict, own: Own) -> float:
  if not entry['answer'].strip():  # no real solution
    return float(not text.strip())
  return own(text)


def _only(pattern: str) -> Callable[[str, dict, Own], float]:
  """Nothing unless the whole answer is of this form."""
  form = re.compile(pattern)
  return lambda text, entry, own: own(text) if form.fullmatch(text) else 0.0


def _no_code(text: str, entry: dict, own: Own) -> float:
  """Evaluates literals alone; any other text is right or wrong as it is."""
  if _literal(text):
    return own(text)
  right = entry['metadata'].get('valid_answers', [entry['answer']])
  return float(text.strip() in [answer.strip() for answer in right])


def _symbolic(text: str, entry: dict, own: Own) -> float:
  """Evaluates sums, products, powers and elementary functions alone."""
  if not _EXPRESSION.fullmatch(text) or '__' in text:
    return 0.0
  if re.search(r'\.\s*[^\W\d]|\)\s*\(', text):  # attributes, calls of calls
    return 0.0
  shared = set(_NAME.findall(entry['answer']))
  for name in set(_NAME.findall(text)) - shared:
    if len(name) > 1 and not FUNCTIONS.fullmatch(name):
      return 0.0
  return own(text)


CORRECTED: dict[str, Callable[[str, dict, Own], float]] = {
  'binary_matrix': _no_code,
  'coin_flip': _coin_flip,
  'complex_arithmetic': _complex,
  'countdown': _countdown,
  'game_of_life_halting': _halting,
  'gsm_symbolic': _gsm,
  'intermediate_integration': _symbolic,
  'n_queens': _no_code,
  'polynomial_equations': _polynomial_equations,
  'polynomial_multiplication': _symbolic,
  'puzzle24': _puzzle24,
  'quantum_lock': _only(r'[\sA-Ca-c,;→>\-\[\]\'"]*'),
  'simple_integration': _symbolic,
  'sokoban': _only(r'[\sLRUDlrud,]*'),
  'spiral_matrix': _no_code,
  'string_insertion': _no_code,
}


def unsolved(name: str, entry: dict[str, Any]) -> str:
  """Why a problem's own answer is none; '' where it is one."""
  if name == 'intermediate_integration' and 'Integral' in str(entry['answer']):
    return 'its answer is an integral that was not solved'
  return ''


def score(name: str, text: str, entry: dict[str, Any], own: Own) -> float:
  """The score of an answer, 1.0 if right, at most that.

  name   of the task
  text   the answer
  entry  the problem, as the task made it: answer, metadata
  own    text -> the task's own score
  """
  right = '' if entry['answer'] is None else str(entry['answer'])
  if not text.strip() and (right.strip() or entry['answer'] is None):
    return 0.0
  if _NO_NUMBER.search(text) and not _NO_NUMBER.search(right):
    return 0.0
  corrected = CORRECTED.get(name)
  value = float(corrected(text, entry, own) if corrected else own(text))
  return min(value, 1.0) if value == value else value
