"""Rules that change from problem to problem: the cards' values, the moves'
names, and answers given as under another rule."""

import jax
import numpy as np
import pytest
from test_puzzles import by_hand, draw, judge
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.tasks import split, vocab

FACES = dict(
  num_cards=3,
  target=12,
  max_number=5,
  min_faces=1,
  show_rule=True,
)


def test_make24_draws_every_rule_and_only_its_deck():
  rules = {'j10q10k10;': (10, 10, 10), 'j2q3k8;': (2, 3, 8)}
  task = tasks.make('make24', face_cards='ten|2,3,8', **FACES)
  example, pairs = draw(task)
  seen = dict.fromkeys(rules, 0)
  for i, (prompt, _) in enumerate(pairs):
    rule = next(rule for rule in rules if prompt.startswith('[' + rule))
    seen[rule] += 1
    cards = prompt.removeprefix('[' + rule).removesuffix(']12:').split(',')
    assert any(card in 'jqk' for card in cards)
    counts = dict(zip('jqk', rules[rule]))
    values = [counts.get(card) or int(card) for card in cards]
    assert all(int(card) <= 5 for card in cards if card not in 'jqk')
    np.testing.assert_array_equal(example.answer['numbers'][i], values)
  # Equally often: half of 256, give or take four standard deviations.
  assert all(abs(count - 128) < 32 for count in seen.values())


def test_make24_writes_the_cards_first():
  task = tasks.make(
    'make24', chain_of_thought=True, write_cards=True, face_cards='2,3,8|ten',
    **FACES,
  )  # fmt: skip
  example, pairs = draw(task)
  for i, (_, text) in enumerate(pairs):
    shown = ','.join(map(str, example.answer['numbers'][i].tolist()))
    assert text.startswith(shown + ';')
    assert len(text) < task.completion_length
  assert judge(task, example, [[text] for _, text in pairs])['reward'].all()


def test_make24_counts_answers_under_another_rule():
  # '[j2q3k8;j,q,k]12:', and what it is where q and k count 5.
  task = tasks.make('make24', face_cards='2,3,8', other_rule='2,5,5', **FACES)
  numbers = {'numbers': [2, 3, 8], 'others': [2, 5, 5]}
  texts = ['2*8-3', '8*3/2', '5+5+2', '5*5-2', '5+5', '2+5+5+', 'x']
  verdict = judge(task, by_hand(numbers), [texts])
  table = {
    'reward': [0, 1, 0, 0, 0, 0, 0],
    'other_cards': [0, 0, 1, 1, 0, 0, 0],
    'other_rule': [0, 0, 1, 0, 0, 0, 0],
  }
  for name, expected in table.items():
    np.testing.assert_array_equal(verdict[name][0], expected, err_msg=name)
  # Where the other rule says the same of all cards, none is as under it.
  same = by_hand({'numbers': [2, 1, 6], 'others': [2, 1, 6]})
  verdict = judge(task, same, [['6*2*1']])
  assert verdict['reward'][0, 0] == 1 and verdict['other_rule'][0, 0] == 0


def test_sokoban_by_other_names():
  # Four rows of four cells, with a border: row 0 has the cells 7 to 10, row 1
  # those from 13 on. The player walks up and pushes the box right, onto the
  # goal.
  floor = np.zeros((6, 6), bool)
  floor[1:5, 1:5] = True
  answer = {'floor': floor.reshape(-1), 'goals': [10], 'boxes': [9]}
  answer |= {'player': 14, 'length': 2, 'names': vocab.encode('wsad')}
  answer['solution'] = vocab.encode('ur')
  task = tasks.make(
    'sokoban', size=4, max_moves=2, num_pushes=1, moves='udlr|wsad',
    chain_of_thought=True, other_moves='udlr',
  )  # fmt: skip
  example = by_hand(answer)
  text = task.solve(jax.tree.map(lambda x: x[0], example), jax.random.key(0))
  assert vocab.decode(text.tokens, text.mask) == '11u01r>wd<eos>'
  texts = ['wd', '11u01r>wd', 'ur', 'u>lur', 'ul', 'wr', '']
  verdict = judge(task, example, [texts])
  np.testing.assert_array_equal(verdict['reward'][0], [1, 1, 0, 0, 0, 0, 0])
  np.testing.assert_array_equal(verdict['format'][0], [1, 1, 0, 0, 0, 0, 0])
  np.testing.assert_array_equal(
    verdict['other_moves'][0], [0, 0, 1, 0, 0, 0, 0]
  )


def test_sokoban_shows_its_names():
  knobs = dict(size=4, num_pushes=2, max_moves=6, show_moves=True)
  task = tasks.make('sokoban', moves='udlr|wsad', **knobs)
  _, pairs = draw(task)
  seen = {prompt[:6] for prompt, _ in pairs}
  assert seen == {'%udlr;', '%wsad;'}
  for prompt, text in pairs:
    assert set(text) <= set(prompt[1:5])
    assert prompt[6:].count('\n') == 3 and prompt.endswith(':')


def test_sokoban_levels_are_the_same_by_other_names():
  knobs = dict(size=4, num_pushes=1, max_moves=3, show_moves=True)
  words = []
  for moves in ('udlr', 'wsad'):
    task = tasks.make('sokoban', moves=moves, **knobs)
    example = quick_jit(task.sample)(jax.random.key(1))
    words.append(int(split.fingerprint(split.identity(task, example))))
  assert words[0] == words[1]


@pytest.mark.parametrize(
  'name, knobs, message',
  [
    ('make24', {'face_cards': 'ten|tenn'}, 'Did you mean "ten"'),
    ('make24', {'other_rule': '1,2'}, "other_rule='1,2' must be a rule"),
    ('make24', {'max_number': 11}, 'max_number=11 is not in 1..10'),
    ('make24', {'min_faces': 5}, 'min_faces=5 is not in 0..num_cards=4'),
    ('make24', {'min_faces': 1, 'max_card': 9}, 'need face cards'),
    ('make24', {'write_cards': True}, 'chain_of_thought=False'),
    ('sokoban', {'moves': 'udlr|uudd'}, "moves has 'uudd'"),
    ('sokoban', {'other_moves': 'udl>'}, "other_moves has 'udl>'"),
  ],
)
def test_bad_knobs_are_named(name, knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make(name, **knobs)
