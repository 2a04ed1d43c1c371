"""Columns that rewards read and in which there is nothing: refused before the
first step where that is so in all records, told where it is in some."""

import inspect
import re

import pytest

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

  def checked(name, values, *more, column='gold', judge=None):
    entry = {'name': name, **({'column': column} if column else {})}
    judge = judge or Judge(entries.read([entry]), workers=1)
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
  # It does not apply to such a record, where it is asked.
  calls = {'kwargs_column': 'kwargs'} if name == 'if_constraints' else {}
  given = {'gold': [empty], 'kwargs': [None]}
  if name != 'math_verify':
    found = getattr(texts, name)(['p'], ['x'], column='gold', **calls, **given)
    assert found == [None]


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


def test_solution_and_answer_are_taken_row_by_row(look, capsys):
  rows = [{'solution': 'a'}, {'answer': 'b', 'solution': None}, {'answer': 'c'}]
  look('exact_match', rows, column='')
  assert capsys.readouterr().err == ''
  columns = {'solution': ['a', None, ''], 'answer': [None, 'b', 'c']}
  said = texts.exact_match(['p'] * 3, ['a', 'b', 'x'], **columns)
  assert said == [1.0, 1.0, 0.0]
  with pytest.raises(ValueError, match='column "solution" or "answer", which'):
    look('exact_match', [{'solution': '', 'answer': None}], column='')


def test_null_among_right_answers_is_no_answer():
  said = texts.exact_match(
    ['p'] * 3, ['None', '', 'x'], answer=[[None, 'x', '']] * 3
  )
  assert said == [0.0, 0.0, 1.0]
