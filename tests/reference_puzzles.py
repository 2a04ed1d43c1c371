"""Puzzle verifiers again, in plain Python on text: `RIGHT[name](task, ...)`."""

import ast
from fractions import Fraction

STEP = {'u': (-1, 0), 'd': (1, 0), 'l': (0, -1), 'r': (0, 1)}


def make24_value(text):
  """(value, sorted numbers); None for what is no plain expression."""
  kinds = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
  }
  numbers = []

  def value(node):
    if isinstance(node, ast.BinOp):
      return kinds[type(node.op)](value(node.left), value(node.right))
    numbers.append(node.value)
    return Fraction(node.value)

  try:
    return value(ast.parse(text, mode='eval').body), sorted(numbers)
  except (SyntaxError, KeyError, AttributeError, ZeroDivisionError, TypeError):
    return None


def make24_right(task, prompt, text):
  faces = {'ten': (10, 10, 10), 'rank': (11, 12, 13)}[task.face_cards]
  faces = dict(zip('jqk', faces))
  cards = prompt[1 : prompt.index(']')].split(';')[-1].split(',')
  cards = sorted(faces.get(card) or int(card) for card in cards)
  target = int(prompt[prompt.index(']') + 1 : -1])
  return make24_value(text) == (target, cards)


def sudoku_right(task, prompt, text):
  clues = prompt[1:17]
  if task.answer == 'holes':
    if len(text) != clues.count('_'):
      return False
    digits = iter(text)
    text = ''.join(next(digits) if c == '_' else c for c in clues)
  if len(text) != 16 or any(c not in ('_', t) for c, t in zip(clues, text)):
    return False
  rows = [text[4 * i : 4 * i + 4] for i in range(4)]
  columns = [text[i::4] for i in range(4)]
  boxes = [text[i : i + 2] + text[i + 4 : i + 6] for i in (0, 2, 8, 10)]
  return all(sorted(unit) == list('1234') for unit in rows + columns + boxes)


def read_grid(prompt):
  return {
    (r, c): char
    for r, row in enumerate(prompt[1:-1].split('\n'))
    for c, char in enumerate(row)
  }


def ahead(cell, move):
  return cell[0] + STEP[move][0], cell[1] + STEP[move][1]


def lake_right(task, prompt, text):
  lake = read_grid(prompt)
  cell = next(cell for cell, char in lake.items() if char == 's')
  for move in text:
    if move not in STEP:
      return False
    if ahead(cell, move) in lake:
      cell = ahead(cell, move)
    if lake[cell] == 'o':
      return False
  return lake[cell] == 'g'


def sokoban_play(prompt, text):
  """(boxes, goals, number of pushes) after the moves; None if malformed."""
  level, count = read_grid(prompt), 0
  player = next(cell for cell, char in level.items() if char in 'p+')
  boxes = {cell for cell, char in level.items() if char in 'b*'}
  goals = {cell for cell, char in level.items() if char in '.*+'}
  for move in text:
    if move not in STEP:
      return None
    there = ahead(player, move)
    beyond = ahead(there, move)
    if level.get(there, '#') == '#':
      continue
    if there in boxes:
      if level.get(beyond, '#') == '#' or beyond in boxes:
        continue
      boxes, count = boxes - {there} | {beyond}, count + 1
    player = there
  return boxes, goals, count


def sokoban_right(task, prompt, text):
  played = sokoban_play(prompt, text)
  return played is not None and played[0] == played[1]


RIGHT = {
  'make24': make24_right,
  'sudoku': sudoku_right,
  'frozen_lake': lake_right,
  'sokoban': sokoban_right,
}
