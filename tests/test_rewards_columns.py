"""Columns that rewards read and in which there is nothing: refused before the
first step where that is so in all records that nothing else judges, told where
it is in some."""

import inspect
import re

import pytest

from posttrain_jax.core import hosts
from posttrain_jax.rewards import entries, texts
from posttrain_jax.rewards.judge import Judge

# A column's value that each reward can judge by.
GOOD = {
  'choice_letter': 'B', 'exact_match': 'x', 'math_verify': '2',
  'numeric_match': 'is 7', 'unit_tests': ['assert True'],
  'if_constraints': ['punctuation:no_comma'],
}  # fmt: skip
EMPTY = [None, '', '  \n', float('nan'), [], [None, '']]
# What is not empty, and nothing that an answer could be compared with.
USELESS = {
  'choice_letter': 'F', 'exact_match': '.', 'numeric_match': 'blue',
  'math_verify': '#### ',
}  # fmt: skip


def readers():
  """Every reward that reads a column of the file."""
  return sorted(
    name
    for name in texts.__all__
    if 'column' in inspect.signature(getattr(texts, name)).parameters
  )


@pytest.fixture
def look(monkeypatch):
  """(reward, values of its column) -> what `Judge.check` tells of them. What a
  function needs of this machine is of no interest here."""
  made = []

  def checked(name, values, *more, column='gold', judge=None, listed=None):
    entry = {'name': name, **({'column': column} if column else {})}
    judge = judge or Judge(entries.read(listed or [entry]), workers=1)
    made.append(judge)
    told = lambda *call, **_: type('Reply', (), {'status': 'ok', 'value': []})
    monkeypatch.setattr(judge._pool, 'call', told)
    seen = [judge.seen(f'p{n}.jsonl') for n in range(1 + len(more))]
    for one, rows in zip(seen, (values, *more)):
      for number, value in enumerate(rows, 1):
        row = value if isinstance(value, dict) else {column: value}
        one.add({'other': 1, **row}, f'{one.name}:{number}')
    judge.check(*seen)
    return judge

  yield checked
  for judge in made:
    judge.close()


def test_the_table_has_every_reward():
  assert set(readers()) == set(GOOD)
  assert set(texts.GOLDS) == set(USELESS)


@pytest.mark.parametrize('name', readers())
@pytest.mark.parametrize('empty', EMPTY, ids=repr)
def test_empty_in_all_records_is_refused(look, name, empty):
  said = f'p0.jsonl: column "gold", which reward "{name}" reads, is null'
  with pytest.raises(ValueError, match=re.escape(said)) as raised:
    look(name, [empty] * 3)
  assert 'in all 3 records' in str(raised.value)
  assert str(raised.value).endswith(
    'name another by its "column". Valid: other'
  )
  # It does not apply to such a record, where it is asked; a blank text is one
  # that no answer is.
  calls = {'kwargs_column': 'kwargs'} if name == 'if_constraints' else {}
  given = {'gold': [empty], 'kwargs': [None]}
  if name != 'math_verify':
    found = getattr(texts, name)(['p'], ['x'], column='gold', **calls, **given)
    blank = name == 'exact_match' and not texts.common.null(empty)
    assert found == [0.0 if blank else None]


@pytest.mark.parametrize('name', readers())
def test_empty_in_some_is_told_once(look, name, capsys):
  rows = [GOOD[name], None, GOOD[name], '']
  judge = look(name, rows)
  look(name, rows, judge=judge)
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and lines[0].startswith(
    f'WARNING rewards: p0.jsonl: column "gold", which reward "{name}" reads'
  )
  assert 'in 2 of 4 records' in lines[0] and lines[0].endswith('p0.jsonl:2')
  look(name, [GOOD[name]] * 4)
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize('name', sorted(USELESS))
def test_what_no_answer_can_equal_is_as_empty(look, name):
  with pytest.raises(ValueError, match='in all 2 records: no answer could be'):
    look(name, [USELESS[name]] * 2)


@pytest.mark.parametrize('name', readers())
def test_a_column_that_some_records_lack(look, name):
  rows = [GOOD[name], {}, GOOD[name], {}]
  said = (
    f'p0.jsonl: 2 of 4 records have no column "gold", which reward "{name}" '
    'reads; first: p0.jsonl:2'
  )
  with pytest.raises(ValueError, match=re.escape(said)):
    look(name, rows)
  with pytest.raises(ValueError, match='p0.jsonl: no column "gold", which'):
    look(name, [{}, {}])


def test_each_file_is_looked_at_by_itself(look):
  with pytest.raises(ValueError, match='p1.jsonl: column "gold"'):
    look('exact_match', ['a', 'b'], [None])
  look('exact_match', ['a', 'b'], [])


def test_the_first_column_is_read_in_all_rows(look, capsys):
  """`solution` where any record of any file has it: a run that was begun goes
  on by the same rewards."""
  rows = [{'solution': 'a', 'answer': 'a'}, {'answer': 'b', 'solution': None},
          {'solution': ' ', 'answer': 'c'}, {'answer': 'd'}]  # fmt: skip
  look('exact_match', rows, column='')
  said = capsys.readouterr().err.splitlines()
  assert said == [
    'WARNING rewards: p0.jsonl: column "solution", which reward "exact_match" '
    'reads, is missing, null or empty in 3 of 4 records: it finds no answer to '
    'them right, and does not read "answer" beside it; first: p0.jsonl:2'
  ]
  answers = {'completions': ['a', 'b', '4', 'x'],
             'solution': [None, '', '4', 'x'],
             'answer': ['a', 'b', '9', 'y']}  # fmt: skip
  said = texts.exact_match(['p'] * 4, **answers)
  assert said == [None, 0.0, 1.0, 1.0]
  with pytest.raises(ValueError, match='column "solution", which'):
    look('exact_match', [{'solution': '', 'answer': 'x'}], column='')
  # No column is in all records of both files.
  rows = [{'solution': 'a'}]
  with pytest.raises(ValueError, match='p1.jsonl: no column "solution", which'):
    look('exact_match', rows, [{'answer': 'a'}], column='')
  with pytest.raises(ValueError, match='1 of 2 records have no column "solut'):
    look('exact_match', [*rows, {'answer': 'a'}], column='')


KINDS = [{'name': 'exact_match', 'column': 'gold'},
         {'name': 'unit_tests', 'column': 'tests'}]  # fmt: skip
MATH = {'gold': '4', 'tests': None}
CODE = {'gold': None, 'tests': ['assert True']}
NONE = {'gold': None, 'tests': None}
FORM = {'name': 'regex', 'pattern': 'a'}
DECIDES = FORM | {'verdict': True}


@pytest.mark.parametrize('listed, train, held, told', [
  # One file of both kinds, one of either.
  (KINDS, [MATH, CODE], [MATH], '"tests", which reward "unit_tests" reads, is '
   'null or empty in the record: it finds no answer'),
  (KINDS, [MATH, CODE], [CODE], '"gold", which reward "exact_match" reads'),
  (KINDS, [MATH, MATH], [], 'p0.jsonl: column "tests", which reward'),
  (KINDS, [CODE, CODE], [MATH], 'p1.jsonl: column "tests", which reward'),
  ([DECIDES, KINDS[0]], [CODE], [], 'p0.jsonl: column "gold", which reward'),
  ([{'name': 'mine:own'}, KINDS[0]], [MATH], [CODE], 'p1.jsonl: column "gold'),
])  # fmt: skip
def test_one_of_several_kinds_is_told(listed, train, held, told, look, capsys):
  look('', train, held, listed=listed)
  assert told in capsys.readouterr().err


@pytest.mark.parametrize('listed, train, held, told', [
  # What says which answers are right says so of none.
  (KINDS, [CODE, CODE], [CODE], 'p0.jsonl: column "gold", which reward'),
  (KINDS, [MATH, CODE], [NONE], 'p1.jsonl: column "gold", which reward'),
  (KINDS[::-1], [MATH], [], 'p0.jsonl: column "tests", which reward'),
  # The rest is only measured, or looks at the form alone.
  ([KINDS[0], KINDS[1] | {'weight': 0}], [CODE], [MATH], 'column "gold"'),
  ([KINDS[0], FORM, {'name': 'length'}], [MATH], [CODE], 'p1.jsonl: column'),
  ([DECIDES | {'weight': 0}, KINDS[0]], [CODE], [], 'column "gold"'),
])  # fmt: skip
def test_what_nothing_else_judges_is_refused(listed, train, held, told, look):
  with pytest.raises(ValueError, match='no answer could be right') as raised:
    look('', train, held, listed=listed)
  assert told in str(raised.value)


def test_every_process_reads_and_one_tells(look, capsys, monkeypatch):
  rows = [GOOD['exact_match'], None]
  monkeypatch.setattr(hosts, 'first', lambda: False)
  look('exact_match', rows)
  assert capsys.readouterr().err == ''


def test_null_among_right_answers_is_no_answer():
  said = texts.exact_match(
    ['p'] * 3, ['None', '', 'x'], answer=[[None, 'x', '']] * 3
  )
  assert said == [0.0, 0.0, 1.0]
