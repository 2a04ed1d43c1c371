"""The environments of tasks in turns again, in plain Python on text.

A game has `press(token) -> (answer, over)`; '$' stands for the EOS.
"""

import operator
import re

from reference_puzzles import STEP, ahead, read_grid

NUMBER = r'-?\d{1,9}'
CALL = re.compile(f'({NUMBER})([-+*])({NUMBER})]')
BEGUN = re.compile(f'-?|{NUMBER}|{NUMBER}[-+*]|{NUMBER}[-+*]-?|'
                   f'{NUMBER}[-+*]{NUMBER}')  # fmt: skip
APPLY = {'+': operator.add, '-': operator.sub, '*': operator.mul}
CLOCK = 'urdl'


def play(game, written):
  """(transcript of a model that writes `written`, whether all is over)."""
  out, over = '', False
  for token in written:
    out += token
    if not over:
      answer, over = game.press(token)
      out += '' if over else answer
  return out, over


class Calls:
  """What the tools share: calls in brackets, up to a '>' outside of them."""

  def __init__(self, max_calls):
    self.max_calls, self.calls, self.errors = max_calls, 0, 0
    self.text = self.answering = None

  def press(self, token):
    if token == '$':
      return '', True
    answer = '' if self.answering else self.told(token)
    self.errors += answer == '?|'
    return answer, False

  def told(self, token):
    if self.text is None:
      if token == '[' and self.calls == self.max_calls:
        return '?|'
      if token == '[':
        self.calls, self.text = self.calls + 1, ''
      self.answering = token == '>'
      return ''
    self.text += token
    answer = self.read(self.text)
    if answer:
      self.text = None
    return answer


class Calculator(Calls):
  def __init__(self, task, prompt):
    super().__init__(task.max_calls)
    self.value = str(eval(prompt[:-1]))

  def read(self, text):
    if call := CALL.fullmatch(text):
      value = APPLY[call[2]](int(call[1]), int(call[3]))
      return f'{value}|' if abs(value) < 10**9 else '?|'
    return '' if BEGUN.fullmatch(text) else '?|'

  def verdict(self, transcript):
    text = transcript.split('$')[0].split('>')[-1]
    return {
      'reward': text == self.value,
      'calls': self.calls,
      'errors': self.errors,
    }


class Dictionary(Calls):
  def __init__(self, task, prompt, words):
    super().__init__(task.max_calls)
    self.words, self.length = words, task.word_length
    order = -1 if prompt[-1] == '<' else 1
    asked = prompt[:-1].split(' ')[::order]
    self.value = ' '.join(words[word] for word in asked)

  def read(self, text):
    if text.endswith(']'):
      return self.words.get(text[:-1], '?') + '|'
    letters = re.fullmatch('[a-z]*', text) and len(text) <= self.length
    return '' if letters else '?|'

  verdict = Calculator.verdict


class Lake:
  """`lake` with its holes; `slips`: turns of each move, -1 left, 1 right."""

  def __init__(self, task, lake, slips):
    self.task, self.lake, self.slips = task, read_grid(lake), slips
    self.cell = next(c for c, char in self.lake.items() if char == 's')
    self.steps, self.over = 0, False

  def press(self, token):
    if token == '$':
      return '', True
    answer = '?'
    if token in STEP:
      turned = CLOCK.index(token) + self.slips[self.steps]
      way = CLOCK[turned % 4]
      there = ahead(self.cell, way)
      answer = '.' if way == token else way
      if there in self.lake:
        self.cell = there
      else:
        answer = '#'
    self.steps += 1
    if self.task.observe == 'none':
      near = [self.lake.get(ahead(self.cell, move)) for move in STEP]
      answer += str(near.count('o'))
    at = self.lake[self.cell]
    return answer, at in 'og' or self.steps == self.task.max_moves

  def verdict(self, _):
    at = self.lake[self.cell]
    return {'reward': at == 'g', 'steps': self.steps, 'fell': at == 'o'}


class Sokoban:
  def __init__(self, task, level):
    self.task, grid = task, read_grid(level)
    every = lambda chars: {c for c, char in grid.items() if char in chars}
    self.floor, self.goals = every('_b.*p+'), every('.*+')
    self.boxes, (self.player,) = every('b*'), every('p+')
    self.steps = 0

  def press(self, token):
    if token == '$':
      return '', True
    self.steps += 1
    answer = self.move(token) if token in STEP else '?'
    done = self.boxes == self.goals or self.steps == self.task.max_moves
    return answer, done

  def move(self, token):
    there = ahead(self.player, token)
    beyond = ahead(there, token)
    if there not in self.floor:
      return '#'
    if there in self.boxes:
      if beyond not in self.floor or beyond in self.boxes:
        return '#'
      self.boxes = self.boxes - {there} | {beyond}
      answer = '*' if beyond in self.goals else 'b'
    else:
      answer = '.'
    self.player = there
    return answer

  def verdict(self, _):
    home = len(self.boxes & self.goals)
    return {
      'reward': home == len(self.boxes),
      'steps': self.steps,
      'on_goal': home / len(self.boxes),
    }
