"""Rules that change from problem to problem: the cards' values, the moves'
names, and answers given as under another rule; and the study of them."""

import jax
import numpy as np
import pytest
from test_puzzles import by_hand, draw, judge
from test_tasks import quick_jit

from experiments.sft_generalisation import design
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
    ('card_sums', {'num_cards': 12}, 'num_cards=12 is not in 1..11'),
    ('card_sums', {'min_faces': 5}, 'min_faces=5 is not in 0..num_cards=4'),
    ('card_sums', {'rules': '725|72'}, "rules has '72', which is not three"),
    ('card_sums', {'other_rule': '770'}, "other_rule has '770'"),
    ('sokoban', {'moves': 'udlr|uudd'}, "moves has 'uudd'"),
    ('sokoban', {'other_moves': 'udl>'}, "other_moves has 'udl>'"),
  ],
)
def test_bad_knobs_are_named(name, knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make(name, **knobs)


def test_card_sums_by_hand():
  # 'j7q2k5:3jk9=', where q does not lie: 3 + 7 + 5 + 9.
  answer = {'cards': [3, 10, 12, 9], 'faces': [7, 2, 5]}
  example = by_hand(answer)
  one = jax.tree.map(lambda x: x[0], example)
  task = tasks.make('card_sums', chain_of_thought=True, other_rule='222')
  text = task.solve(one, jax.random.key(0))
  said = '3303j710k5159924>24'
  assert vocab.decode(text.tokens, text.mask) == said + '<eos>'
  short = tasks.make('card_sums').solve(one, jax.random.key(0))
  assert vocab.decode(short.tokens, short.mask) == '24<eos>'
  # Under 222 it is 16.
  texts = ['24', said, '16', '3303>16', '024', '24>', '2', '']
  verdict = judge(task, example, [texts])
  np.testing.assert_array_equal(verdict['reward'][0], [1, 1] + 6 * [0])
  np.testing.assert_array_equal(
    verdict['other_rule'][0], [0, 0, 1, 1, 0, 0, 0, 0]
  )
  # Where both rules say the same, no answer is as under the other.
  same = by_hand({'cards': [3, 11, 3, 3], 'faces': [7, 2, 5]})
  verdict = judge(task, same, [['11']])
  assert verdict['reward'][0, 0] == 1 and verdict['other_rule'][0, 0] == 0


def test_card_sums_draws_every_rule_and_its_faces():
  task = tasks.make('card_sums', rules='725|111', num_cards=3, min_faces=2)
  example, pairs = draw(task)
  seen = dict.fromkeys(('j7q2k5', 'j1q1k1'), 0)
  for prompt, text in pairs:
    rule, hand = prompt.rstrip('=').split(':')
    seen[rule] += 1
    counts = dict(zip('jqk', rule[1::2]))
    assert len(hand) == 3 and sum(card in 'jqk' for card in hand) >= 2
    assert int(text) == sum(int(counts.get(card, card)) for card in hand)
  assert all(abs(count - len(pairs) // 2) < 32 for count in seen.values())


def test_card_sums_are_one_problem_in_any_order_and_under_any_rule():
  task = tasks.make('card_sums', num_cards=3)
  rows = [([3, 10, 12], [7, 2, 5]), ([12, 3, 10], [1, 1, 1])]
  words = [
    np.asarray(task.identity(jax.tree.map(
      lambda x: x[0], by_hand({'cards': cards, 'faces': faces})
    )))
    for cards, faces in rows
  ]  # fmt: skip
  np.testing.assert_array_equal(words[0], words[1])


def test_rules_of_the_study_are_apart():
  lists = {'fixed': {design.FIXED}, 'unseen': set(design.UNSEEN)}
  lists |= {'diverse': set(design.DIVERSE) - {design.FIXED}}
  lists |= {'base': set(design.BASE)}
  assert [len(x) for x in lists.values()] == [1, 16, 7, 64]
  assert len(set().union(*lists.values())) == 88
  # No face counts what it does under the fixed rule.
  for rule in design.UNSEEN:
    assert not any(a == b for a, b in zip(rule, design.FIXED))
