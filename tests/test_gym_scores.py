"""Verifiers of text tasks: nonsense earns nothing, right answers earn all."""

import contextlib
import functools

import pytest

from posttrain_jax.data import gym, gym_scores

# Answers to no question. One that happens to be right is passed over.
NONSENSE = (
  'nan', 'NaN', 'inf', '-inf', '1e309', 'banana', '', '  ', 'None', 'null', '0',
  '1', '-1', '[]', '{}', '()', '""', 'True', 'False', 'yes', 'no', 'x', 'A',
  '[', '...', '0 0 0', 'unknown', '[nan]', '["NaN", "NaN"]', 'nan + nani',
)  # fmt: skip
FLOOR = 0.1  # what many tasks give for an answer of the right form
# Tasks whose author gives more than FLOOR to answers that are near, and why.
NEAR = {
  'calendar_arithmetic': 'by the relative error',
  'circuit_logic': 'a bit, of which half are right',
  'coin_flip': 'by the digits that agree',
  'complex_arithmetic': 'by the distance',
  'figlet_font': 'by the letters that agree',
  'futoshiki': 'by the cells that agree',
  'game_of_life': 'by the cells that agree',
  'knights_knaves': 'by the names that are right',
  'letter_jumble': 'by the words that agree',
  'mini_sudoku': 'by the cells that agree',
  'polynomial_equations': 'by the distance',
  'propositional_logic': 'a conclusion that is trivial',
  'quantum_lock': 'a sequence that is longer than it has to be',
  'rectangle_count': 'by the distance',
  'sentence_reordering': 'by the words that agree',
  'spell_backward': 'by the letters that agree',
  'sudoku': 'by the cells that agree',
  'time_intervals': 'by the distance',
  'tower_of_hanoi': 'by the number of moves',
  'word_sorting': 'by the words that agree',
}
# Tasks where the answer to another problem may be a solution of this one.
SEVERAL = (
  'jugs', 'knight_swap', 'n_queens', 'quantum_lock', 'shortest_path', 'sokoban',
  'tower_of_hanoi', 'word_ladder',
)  # fmt: skip
QUICK = sorted(
  {'acre', 'chain_sum', 'number_sorting', 'pool_matrix', 'tower_of_hanoi'}
  | gym_scores.CORRECTED.keys()
  - {'simple_integration', 'intermediate_integration', 'binary_matrix'}
)


def same(text, right):
  """Whether two answers are one, but for case, spaces and notation."""
  if text.strip().lower() == right.strip().lower():
    return True
  with contextlib.suppress(ValueError):
    return float(text) == float(right)
  return False


def credit(name, text, right):
  """The most that a wrong answer may earn."""
  if name in NEAR:
    return 0.999
  # The package's own rule: a text that holds the answer earns its share.
  return max(FLOOR, 1.01 * len(right) / len(text)) if right in text else FLOOR


@functools.lru_cache(32)
def server_of(name):
  return gym.Server(name, 0, gym.knobs(name))


def check(name, problems):
  server = server_of(name)
  known, number = {}, 0
  while len(known) < problems:
    with contextlib.suppress(ValueError):  # a problem that its author left open
      known[number] = server.generate(number)
    number += 1
    assert number < 20 * problems
  answers = {p['answer'] for p in known.values()} - {None}
  for number, problem in known.items():
    right = problem['answer']
    if right is not None:
      assert server.score(number, right) == 1.0, (right, problem['question'])
    others = () if name in SEVERAL else sorted(answers)
    for text in (*NONSENSE, problem['question'], *others):
      if right is not None and same(text, right):
        continue
      try:
        score = server.score(number, text)
      except Exception:  # the worker says 'error', and it earns nothing
        continue
      most = credit(name, text, right or '\0')
      assert 0.0 <= score <= most, (text[:80], right, problem['question'])
      if not text.strip():
        assert score == 0.0


@pytest.mark.parametrize('name', QUICK)
def test_nonsense_earns_nothing(name):
  check(name, 2)


@pytest.mark.slow
@pytest.mark.parametrize('name', gym.names())
def test_nonsense_earns_nothing_in_any_task(name):
  check(name, 2 if 'integration' in name else 8)


@pytest.mark.parametrize('name', [
  pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
  for name in gym.names()
])  # fmt: skip
def test_answers_are_not_run(name, tmp_path):
  """Answers that would write a file if anything ran them."""
  path = tmp_path / 'f'
  write = f"open('{path}', 'w')"
  for text in (
    write, f'[{write}]', f'"" + {write}.name', f'str({write})',
    f"().__class__.__base__.__subclasses__() or {write}",
    f"__import__('pathlib').Path('{path}').touch()",
    f"(lambda: __import__('pathlib').Path('{path}').touch())()",
    f"x + eval('{write[:4]}' + \"('{path}', 'w')\")",
  ):  # fmt: skip
    with contextlib.suppress(Exception):
      server_of(name).score(0, text)
  assert not path.exists()


# By hand


def scored(name, text, answer, **metadata):
  """The score where the task's own scorer says that all is right."""
  entry = {'answer': answer, 'metadata': metadata}
  return gym_scores.score(name, text, entry, lambda text: 1.0)


PUZZLE = functools.partial(scored, 'puzzle24', answer='?', numbers=[9, 9, 6, 4])
TARGET = functools.partial(
  scored, 'countdown', answer='?', numbers=[3, 7, 2], target=23
)


@pytest.mark.parametrize('text, score', [
  ('4*(9 - 9 + 6)', 1.0), ('6*4*9/9', 1.0), ('-(9 - 9) + 6*4', 1.0),
  ('24', 0.01), ('9*9*6*4', 0.01), ('6*4', 0.01), ('6*4*1*1', 0.01),
  ('4!', 0.01), ('6*4 + 9 - 9.0', 0.01), ('6*4 + (9 > 9)', 0.01),
  ('6*4/(9 - 9)', 0.01), ('(' * 9999, 0.01), ('(6 + 9/9)*4', 0.01),
  ('49/(9 - 6)*9', 0.01), ('banana', 0.01), ('', 0.0), ('nan', 0.0),
])  # fmt: skip
def test_puzzle24_uses_its_numbers(text, score):
  assert PUZZLE(text) == score


@pytest.mark.parametrize('text, score', [
  ('3*7 + 2', 1.0), ('2 + 7*3', 1.0), ('23', 0.05), ('3*7*2', 0.05),
  ('3 + 7 + 2', 0.05), ('21 + 2', 0.05), ('3*7 + sqrt(4)', 0.01), ('x', 0.01),
])  # fmt: skip
def test_countdown_uses_its_numbers(text, score):
  assert TARGET(text) == score


@pytest.mark.parametrize('name, answer, right, wrong', [
  ('game_of_life_halting', 'True', 'true', 'banana'),
  ('game_of_life_halting', 'False', 'False', 'True'),
  ('game_of_life_halting', 'False', 'false ', '0'),
  ('complex_arithmetic', '2.0 + 1.0i', '2 + i', 'nan'),
  ('complex_arithmetic', '4.00i', '4i', 'nani'),
  ('complex_arithmetic', '4.00i', '4.0i', '1e999'),
  ('complex_arithmetic', '4.00i', '4.0i', '3i + 2'),
  ('coin_flip', '3.051757812e-05', '1/32768', '0'),
  ('coin_flip', '3.051757812e-05', '3.05e-05', '-3.05e-05'),
  ('coin_flip', '0.109375', '0.1094', '0.1'),
  ('coin_flip', '1', '1.0', '1e309'),
  ('gsm_symbolic', '93', 'so 93', 'so -93'), ('gsm_symbolic', '-4', '-4', '4'),
  ('gsm_symbolic', '7', 'x-7', 'no number'),
  ('number_sorting', "['1', '2']", "['1', '2']", "['NaN', 'NaN']"),
  ('polynomial_equations', '', '', 'banana'),
  ('polynomial_equations', '0.5', '0.5', 'inf'),
  ('quantum_lock', 'A → B', 'a -> b', 'banana'),
  ('sokoban', 'LRUD', 'LR UD', 'Let it Run Up and Down'),
  ('string_insertion', 'ABA', 'ABA', "''.join('ABA')"),
  ('spiral_matrix', '1 2', '[1, 2]', 'map(int, "12")'),
  ('simple_integration', 'x**2 + C', 'x*x + 3', 'Integral(2*x, x)'),
  ('simple_integration', 'x**2 + C', 'x**2/1.0', 'integrate(2*x)'),
  ('intermediate_integration', 'exp(x)', 'exp(x) + C', 'exp(x).doit()'),
  ('intermediate_integration', 'log(x)', 'log(Abs(x))', 'x.__class__'),
  ('polynomial_multiplication', 'x**2', 'x**2', 'expand(x*x)'),
  ('chain_sum', '5', '5', 'nan'),
  ('chain_sum', '5', '5', ' \n'),
])  # fmt: skip
def test_corrections_by_hand(name, answer, right, wrong):
  """The task's own scorer would take both."""
  entry = {'answer': answer, 'metadata': {}}
  own = lambda text: 1.0
  assert gym_scores.score(name, right, entry, own) == 1.0
  assert gym_scores.score(name, wrong, entry, own) <= 0.01


def test_words_that_are_no_numbers():
  """Where the right answer holds such a word, it is one."""
  for answer in ('NAN TOOK INF', 'inf'):
    assert scored('caesar_cipher', answer, answer) == 1.0


def test_n_queens_takes_every_solution():
  boards = ['_ Q\nQ _', 'Q _\n_ Q']
  for text, score in ((boards[1], 1.0), ('_ _', 0.0), ('[["_"]]', 1.0)):
    assert scored('n_queens', text, boards[0], valid_answers=boards) == score


def test_a_score_is_at_most_one():
  entry = {'answer': '5', 'metadata': {}}
  assert gym_scores.score('chain_sum', '5', entry, lambda text: 1.2) == 1.0


@pytest.mark.long
def test_problems_that_their_author_left_open():
  """Some antiderivatives of this task's answers are integrals themselves."""
  server = server_of('intermediate_integration')
  made, refused = [], 0
  for number in range(8):
    try:
      made.append(server.generate(number)['answer'])
    except ValueError as error:
      assert 'not solved' in str(error)
      refused += 1
  assert refused and len(made) > 3
  assert not any('Integral' in answer for answer in made)


def test_a_task_that_is_left_out_says_why():
  for name, reason in gym_scores.LEFT_OUT.items():
    assert name not in gym.names()
    for call in (gym.knobs, lambda name: gym.make_config(name, {})):
      with pytest.raises(
        ValueError, match=f'text:{name}" is left out: {reason}'
      ):
        call(name)
