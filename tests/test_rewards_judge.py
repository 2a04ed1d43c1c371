"""Functions of one's own in worker processes: what they are told, and what
becomes of those that raise, hang, die or cannot be used."""

import re

import numpy as np
import pytest

from posttrain_jax.rewards import entries, functions, trl
from posttrain_jax.rewards.judge import Judge

MODULE = """
import os, sys, time

SEEN = {'jax': 'jax' in sys.modules}

def share(completions, **columns):
  return [t.count('a') / max(len(t), 1) for t in completions]

def told(prompts, completions, completion_ids, answer, scale=1.0):
  # Exactly these, by name.
  assert prompts == ['p', 'p'] and [len(i) for i in completion_ids] == [2, 3]
  return [scale * float(t == a) for t, a in zip(completions, answer)]

def facts(completions, finished, max_completion_length, **columns):
  assert set(columns) == {'prompts', 'completion_ids', 'answer', 'level'}
  return [max_completion_length if f else -1 for f in finished]

def group(completions, **columns):
  if 'bad' in completions:
    raise RuntimeError('one is bad')
  if 'slow' in completions and len(completions) > 1:
    time.sleep(60)
  best = max(map(len, completions))
  return [float(len(t) == best) for t in completions]

def odd(completions, **columns):
  out = []
  for t in completions:
    if t == 'raise':
      raise KeyError('no such thing')
    if t == 'hang':
      time.sleep(60)
    if t == 'die':
      os._exit(3)
    out.append({'none': None, 'nan': float('nan'), 'inf': float('inf'),
                'text': 'x', 'bool': True}.get(t, 1.0))
  return out

def short(completions, **columns):
  return [1.0]

def number(completions, **columns):
  return 1.0

def keys(completions, **columns):
  return {text: 1.0 for text in completions}

def scalar(completions, **columns):
  import numpy
  return numpy.ones(())

def noargs():
  return []

def blind(prompts, *answers):
  return [1.0] * len(prompts)

def singular(prompt, completion):
  return [1.0]

def turns(prompts, completions, **columns):
  return [float(c[0]['role'] == 'assistant' and p[-1]['role'] == 'user')
          for p, c in zip(prompts, completions)]

def light(completions, **columns):
  return [float(SEEN['jax'] or 'jax' in sys.modules)] * len(completions)

def needs(completions, level):
  return [level[0]] * len(completions)

def state(completions, trainer_state, **columns):
  return [1.0] * len(completions)

def prints(completions, **columns):
  print('seen', completions)
  return [1.0] * len(completions)

async def later(completions, **columns):
  return [1.0] * len(completions)

class Scorer:
  @staticmethod
  def score(completions, **columns):
    return [2.0] * len(completions)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('own')
  (path / 'own_rewards.py').write_text(MODULE)
  (path / 'broken_rewards.py').write_text('\nimport no_such_module\n')
  (path / 'bad_syntax.py').write_text('x = 1\ndef f(:\n')
  (path / 'inner_syntax.py').write_text('import bad_syntax\n')
  (path / 'raising.py').write_text('import outer_raise\n')
  (path / 'outer_raise.py').write_text('\n\n1 / 0\n')
  (path / 'ending.py').write_text('import sys\nsys.exit(3)\n')
  (path / 'parts').mkdir()
  (path / 'parts' / 'words.py').write_text('')
  return str(path)


@pytest.fixture
def make(folder):
  made = []

  def judge(*listed, timeout=5.0, **keys):
    listed = [x if isinstance(x, dict) else {'name': x} for x in listed]
    made.append(
      Judge(entries.read(listed), folder=folder, timeout=timeout, workers=1,
            limit=9, **keys)
    )  # fmt: skip
    return made[-1]

  yield judge
  for judge in made:
    judge.close()


def judged(judge, *groups, problems=None, given=None, finished=None):
  problems = problems or [{'prompt': 'p', 'answer': 'aa', 'level': 1}] * len(
    groups
  )
  ids = [[[1] * (len(text) or 1) for text in group] for group in groups]
  ended = np.ones((len(groups), len(groups[0]))) if finished is None else (
    np.array(finished)
  )  # fmt: skip
  return judge(problems, [list(g) for g in groups], ids, ended, given)


def seen(judge, *rows):
  """What `check` is given of records of a file."""
  found = judge.seen('file')
  for number, row in enumerate(rows):
    found.add(row, f'file:{number + 1}')
  return found


def test_what_a_function_prints_is_seen(make, capfd):
  judged(make('own_rewards:prints'), ['a', 'b'])
  assert "seen ['a', 'b']" in capfd.readouterr().err


@pytest.mark.parametrize('entry, told', [
  ({'name': 'own_rewards:share'}, True),
  ({'name': 'length'}, True),
  ({'name': 'own_rewards:share', 'verdict': True}, False),
  ({'name': 'exact_match'}, False),
])  # fmt: skip
def test_accuracy_of_no_verdict_is_told(entry, told, make, capsys):
  judge = make(entry)
  judge.check(seen(judge, {'answer': 'aa', 'level': 1}))
  judge.check(seen(judge, {'answer': 'aa', 'level': 1}))
  said = capsys.readouterr().err
  assert said.count('none of them is a verdict') == told


def test_what_functions_are_told(make):
  judge = make(
    'own_rewards:share', {'name': 'own_rewards:told', 'scale': 2.0},
    {'name': 'own_rewards:facts', 'weight': 0.5},
    {'name': 'own_rewards:group', 'weight': 0}, 'own_rewards:Scorer.score',
  )  # fmt: skip
  judge.check(seen(judge, {'answer': 'a', 'level': 1}))
  said = judged(judge, ['aa', 'aba'], finished=[[1.0, 0.0]])
  third = pytest.approx(2 / 3)
  assert said.scores['share'].tolist() == [[1.0, third]]
  assert said.scores['told'].tolist() == [[2.0, 0.0]]
  assert said.scores['facts'].tolist() == [[9.0, -1.0]]
  assert said.scores['group'].tolist() == [[0.0, 1.0]]
  assert said.scores['score'].tolist() == [[2.0, 2.0]]
  assert said.rewards.tolist() == [[9.5, pytest.approx(2 / 3 + 1.5)]]
  # No verdict among them: the first that is no length says what is right.
  assert said.correct.tolist() == [[1.0, 0.0]]
  assert said.rewards.dtype == np.float32 and set(judge.counts.values()) == {0}


def test_turns(make):
  problem = {'prompt': [{'role': 'user', 'content': 'hi'}]}
  completions = [[{'role': 'assistant', 'content': 'ho'}]]
  judge = make('own_rewards:turns')
  said = judge([problem], [completions], [[[1]]], np.ones((1, 1)))
  assert said.rewards.tolist() == [[1.0]]


def test_what_goes_wrong_costs_one_answer(make, capsys):
  judge = make('own_rewards:odd', 'own_rewards:light', timeout=1.0)
  said = judged(judge, ['a', 'raise', 'b', 'hang'], ['die', 'c', 'd', 'none'],
                ['nan', 'inf', 'text', 'bool'])  # fmt: skip
  nan = np.nan
  expected = [[1, nan, 1, nan], [nan, 1, 1, nan], [nan, nan, nan, 1]]
  np.testing.assert_array_equal(said.scores['odd'], expected)
  assert judge.counts['odd/errors'] == 5 and judge.counts['odd/timeouts'] == 1
  assert not said.scores['light'].any()  # no worker imports jax
  np.testing.assert_array_equal(said.rewards, np.nan_to_num(expected))
  assert not said.unscored.any()
  told = [x for x in capsys.readouterr().err.splitlines() if 'odd' in x]
  assert len(told) == 3  # once for each kind
  assert judge.counts['odd/alone'] == 8  # but for one that only says nonsense
  assert any("KeyError: 'no such thing' (own_rewards.py:" in x for x in told)
  assert any('no answer in 1 s; reward_pool.timeout' in x for x in told)
  # The worker that was ended has been replaced.
  assert judged(judge, ['a'] * 4).scores['odd'].tolist() == [[1.0] * 4]


def test_a_group_that_is_asked_one_by_one_is_told_and_counted(make, capsys):
  """A function of the whole group says 1 of each answer that is alone."""
  judge = make('own_rewards:group', timeout=1.0)
  where = lambda number: f'p.jsonl:{number + 1}'
  ask = lambda *groups: judge(
    [{'prompt': 'p'}] * len(groups), groups,
    [[[1]] * len(group) for group in groups],
    np.ones((len(groups), len(groups[0]))), None, where,
  ).scores['group']  # fmt: skip
  assert ask(['aa', 'a', '']).tolist() == [[1.0, 0.0, 0.0]]
  assert judge.counts['group/alone'] == 0
  found = ask(['aa', 'a', ''], ['aa', 'bad', ''], ['', 'slow', 'a'])
  expected = [[1.0, 0.0, 0.0], [1.0, np.nan, 1.0], [1.0, 1.0, 1.0]]
  np.testing.assert_array_equal(found, expected)
  assert judge.counts['group/alone'] == 6 and judge.counts['group/errors'] == 1
  told = [x for x in capsys.readouterr().err.splitlines() if 'one by one' in x]
  assert len(told) == 1 and '"own_rewards:group"' in told[0]
  assert 'p.jsonl:2: ' in told[0] or 'p.jsonl:3: ' in told[0]
  assert judge.faults['group'].startswith('p.jsonl:2: RuntimeError: one is bad')


def test_nothing_applies(make, capsys):
  judge = make('own_rewards:odd')
  said = judged(judge, ['none', 'a'])
  assert said.rewards.tolist() == [[0.0, 1.0]]
  assert said.unscored.tolist() == [[1.0, 0.0]]
  judged(judge, ['none', 'a'])
  assert capsys.readouterr().err.count('no entry gave a reward to 1 of 2') == 1


@pytest.mark.parametrize('name, message', [
  ('short', '1 reward for 3 completions'),
  ('number', 'float, not a list'),
  ('keys', 'dict, not a list'),
  ('scalar', 'ndarray, not a list'),
])  # fmt: skip
def test_no_list_of_rewards(make, capsys, name, message):
  judge = make(f'own_rewards:{name}')
  said = judged(judge, ['a', 'b', 'c'])
  # One row alone would get a list of one: it is not asked for.
  told = capsys.readouterr().err
  assert said.unscored.all() and judge.counts[f'{name}/alone'] == 0
  line = MODULE[: MODULE.index(f'def {name}(')].count('\n') + 1
  where = f'"own_rewards:{name}" (own_rewards.py:{line})'
  assert f'reward {where} returned {message}' in told
  assert 'server' not in told and judge.counts[f'{name}/errors'] == 3


@pytest.mark.parametrize('text', ['nan', 'inf', 'text'])
def test_what_is_no_finite_number_is_told_with_its_place(make, capsys, text):
  judge = make('own_rewards:odd')
  groups = [['a', 'none'], [text, text]]
  said = judge(
    [{'prompt': 'p'}] * 2, groups, [[[1], [1]]] * 2, np.ones((2, 2)), None,
    lambda number: f'p.jsonl:{number + 1}',
  )  # fmt: skip
  np.testing.assert_array_equal(
    said.scores['odd'], [[1.0, np.nan], [np.nan, np.nan]]
  )
  # None is no fault; and no answer is asked for again.
  assert judge.counts['odd/errors'] == 2 and judge.counts['odd/alone'] == 0
  told = [x for x in capsys.readouterr().err.splitlines() if 'gave no' in x]
  assert len(told) == 1
  shown = "'x'" if text == 'text' else text
  assert 'p.jsonl:2: reward "own_rewards:odd" (own_rewards.py:' in told[0]
  assert f'returned {shown}, no' in told[0]
  assert judge.faults['odd'] in told[0]


def test_rewards_of_models_and_verifiers_are_given(make):
  judge = make({'name': 'model', 'weight': 2.0}, 'verifier',
               {'name': 'soft_overlong', 'cache': 4})  # fmt: skip
  given = {'model': np.array([[0.5, 1.0]]), 'verifier': np.array([[1.0, 0.0]])}
  said = judged(judge, ['abcde', 'abcdefg'], given=given)
  assert said.rewards.tolist() == [[2.0, 1.5]]
  assert said.correct.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize('name, message', [
  ('own_reward:odd', '. Did you mean "own_rewards:odd"?'),
  ('own_rewards:noargs', 'does not take "completions", and would see no'),
  ('own_rewards:shar', 'no "shar" in own_rewards. Did you mean "share"?'),
  ('own_rewards:SEEN', 'is dict, no function'),
  ('own_rewards:later', 'is async: write a plain function'),
  ('own_rewards:needs', 'file: no column "level", which reward'),
  ('exact_match', 'file: no column "solution" or "answer", which reward'),
  ('unit_tests', 'file: no column "tests"'),
])  # fmt: skip
def test_what_cannot_be_used_is_refused(make, name, message):
  judge = make(name)
  with pytest.raises(ValueError, match=re.escape(message)):
    judge.check(seen(judge, {'lvl': 1}))


@pytest.mark.parametrize('name, message', [
  ('own_reward:odd', 'no module "own_reward" in '),
  ('own_reward:odd', '. Did you mean "own_rewards:odd"?'),
  ('parts.word:f', 'Did you mean "parts.words:f"?'),
  ('zzz:f', 'nor where Python looks for modules'),
  ('broken_rewards:f', 'broken_rewards cannot be imported: broken_rewards.py:2:'
   " ModuleNotFoundError: No module named 'no_such_module'"),
  ('bad_syntax:f', 'reward "bad_syntax:f": bad_syntax.py:2: invalid syntax'),
  ('inner_syntax:f', '": bad_syntax.py:2: invalid syntax'),
  ('raising:f', 'raising.py:1: ZeroDivisionError: division by zero '
   '(outer_raise.py:3)'),
  ('ending:f', 'ending.py:2: SystemExit: 3'),
  ('own_rewards:noargs', 'does not take "completions", and would'),
  ('own_rewards:noargs', 'It takes: (nothing)'),
  ('own_rewards:blind', 'It takes: prompts'),
  ('own_rewards:singular', 'It takes: prompt, completion'),
])  # fmt: skip
def test_what_cannot_be_loaded_is_named(folder, monkeypatch, name, message):
  monkeypatch.syspath_prepend(folder)
  with pytest.raises(ValueError, match=re.escape(message)) as caught:
    functions.load(name, folder)
  assert 'frozen' not in str(caught.value)


@pytest.mark.parametrize('name, message', [
  ('my_rewards.polite', 'as in "my_rewards:polite"'),
  ('a.b.polite', 'as in "a.b:polite"'),
  ('a/b:polite', 'as in "a.b:polite"'),
  ('a/b', 'as in "a.b:reward"'),
  ('my_rewards.py', 'as in "my_rewards:reward"'),
  ('exact.match', 'Did you mean "exact_match"?'),
  ('accuracy_reward', 'it is "math_verify" here'),
])  # fmt: skip
def test_names_that_are_no_import_paths(name, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    entries.read([name])


@pytest.mark.parametrize('keys, columns, message', [
  ({'name': 'own_rewards:told', 'scael': 2.0}, ['answer'],
   'no argument "scael" by name, and it is no key of an entry. '
   'Did you mean "scale"?'),
  ({'name': 'own_rewards:turns', 'wieght': 2.0}, ['answer'],
   '(own_rewards.py:'),
  ({'name': 'own_rewards:turns', 'wieght': 2.0}, ['answer'],
   'Did you mean "weight"? Valid: label, name, verdict, weight'),
  ({'name': 'own_rewards:state'}, ['answer'],
   'needs "trainer_state", which TRL gives from its own trainer'),
  ({'name': 'own_rewards:told', 'scale': 2.0}, ['answer', 'scale'],
   '"scale" is a column and a hyperparameter'),
])  # fmt: skip
def test_hyperparameters_of_ones_own(make, keys, columns, message):
  judge = make(keys)
  with pytest.raises(ValueError, match=re.escape(message)):
    judge.check(seen(judge, dict.fromkeys(columns, 1)))


def test_a_hyperparameter_goes_into_columns(make):
  """Where it is no slip of a key that is known."""
  judge = make({'name': 'own_rewards:turns', 'scale': 2.0})
  judge.check(seen(judge, {'answer': 1}))


@pytest.mark.parametrize('name', sorted(trl.NAMES))
def test_names_of_trl_are_told_ours(name):
  with pytest.raises(ValueError, match='is "(.*)" here') as told:
    entries.read([name])
  assert trl.NAMES[name] in entries.names()
  assert f'"{trl.NAMES[name]}" here' in str(told.value)


def test_votes(make):
  judge = make('length', 'numeric_match')
  assert judge.answer('so 12') == '12.0'
  assert make('own_rewards:share').answer('<answer>x</answer>') == 'x'
