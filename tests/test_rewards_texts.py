"""Rewards of texts, against answers judged by hand."""

import pytest

from posttrain_jax.rewards import texts
from posttrain_jax.rewards.texts import common, constraints


def one(name, text, ids=(), **keys):
  """A reward's value of a single completion."""
  function = getattr(texts, name)
  columns = {k: [v] for k, v in keys.pop('row', {}).items()}
  (value,) = function(
    prompts=['p'], completions=[text], completion_ids=[list(ids)], **columns,
    **keys,
  )  # fmt: skip
  return value


@pytest.mark.parametrize('text, expected', [
  (r'\boxed{1} and \boxed{\frac{1}{2}}', r'\frac{1}{2}'),
  (r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
  (r'\boxed{7} and \boxed{8', '7'),
  ('<think>\\boxed{3}</think> so <answer> 4 </answer>', '4'),
  ('<think> no end, \\boxed{3}', ''),
  ('48 + 24 = 72\n#### 72', '72'),
  ('  plain ', 'plain'),
  ('<answer>a</answer><answer>\\fbox{b}</answer>', 'b'),
])  # fmt: skip
def test_what_an_answer_ends_with(text, expected):
  assert common.final(text) == expected


@pytest.mark.parametrize('text, expected', [
  ('72', [72]), ('-3', [-3]), ('\u22123', [-3]), ('5-3', [5, 3]),
  ('1,234,567.5', [1234567.5]), ('1,2', [1, 2]), ('$1,000', [1000]),
  ('1/2', [0.5]), (r'\frac{3}{4}', [0.75]), ('2e3 and .5', [2000.0, 0.5]),
  ('x = -7.', [-7]), ('(3) - 4', [3, 4]), ('1/0', []), ('nan inf', []),
  ('1e999', []), ('9' * 5000, []), ('12345678901234567891', [
    12345678901234567891]), ('', []),
])  # fmt: skip
def test_numbers(text, expected):
  assert common.numbers(text) == expected


GOLD = 'so 48 + 24 = 72\n#### 72'


@pytest.mark.parametrize('name, text, row, keys, expected', [
  ('exact_match', ' Paris. ', {'answer': 'Paris'}, {}, 1.0),
  ('exact_match', 'paris', {'answer': 'Paris'}, {}, 0.0),
  ('exact_match', 'paris', {'answer': 'Paris'}, {'ignore_case': True}, 1.0),
  ('exact_match', 'Paris.', {'answer': 'Paris'}, {'ignore_ends': False}, 0.0),
  ('exact_match', 'b', {'answer': ['a', 'b']}, {}, 1.0),
  ('exact_match', '', {'answer': ''}, {}, 0.0),
  ('exact_match', '', {'answer': 'x'}, {}, 0.0),
  ('exact_match', 'x', {'answer': None}, {}, None),
  ('exact_match', 'x  y', {'key': 'x\ny'}, {'column': 'key'}, 1.0),
  # A solution comes before an answer, as in TRL.
  ('exact_match', 's', {'answer': 'a', 'solution': 's'}, {}, 1.0),
  ('numeric_match', 'It is $72.00', {'answer': GOLD}, {}, 1.0),
  ('numeric_match', '72 - no, 73', {'answer': GOLD}, {}, 0.0),
  ('numeric_match', '-72', {'answer': GOLD}, {}, 0.0),
  ('numeric_match', 'nothing', {'answer': GOLD}, {}, 0.0),
  ('numeric_match', 'nan', {'answer': GOLD}, {}, 0.0),
  ('numeric_match', '72', {'answer': 'none'}, {}, None),
  ('numeric_match', '0.3333333', {'answer': '1/3'}, {}, 1.0),
  ('numeric_match', '0.333', {'answer': '1/3'}, {}, 0.0),
  ('numeric_match', '0.333', {'answer': '1/3'}, {'tolerance': 0.01}, 1.0),
  ('numeric_match', '1e-9', {'answer': 0}, {}, 0.0),
  ('numeric_match', '5', {'answer': [4, 5]}, {}, 1.0),
  ('choice_letter', 'B', {'answer': 'B'}, {}, 1.0),
  ('choice_letter', '(b) is wrong. The answer is (C).', {'answer': 'C'}, {},
   1.0),
  ('choice_letter', 'A man said so: D', {'answer': 'D'}, {}, 1.0),
  ('choice_letter', 'B) because of A', {'answer': '(B)'}, {}, 1.0),
  ('choice_letter', 'I think **Answer: A**', {'answer': 0}, {}, 1.0),
  ('choice_letter', r'\boxed{D}', {'answer': 3}, {}, 1.0),
  ('choice_letter', 'E', {'answer': 'E'}, {}, None),
  ('choice_letter', 'E', {'answer': 'E'}, {'choices': 'ABCDE'}, 1.0),
  ('choice_letter', '', {'answer': 'A'}, {}, 0.0),
  ('regex', 'a\nb', {}, {'pattern': 'a.b'}, 1.0),
  ('regex', 'xa', {}, {'pattern': 'a', 'whole': True}, 0.0),
  ('think_format', '<think>a</think>b', {}, {}, 1.0),
  ('think_format', '<think></think>b', {}, {}, 0.0),
  ('think_format', '<think>a</think> ', {}, {}, 0.0),
  ('think_format', 'x<think>a</think>b', {}, {}, 0.0),
  ('think_format', '<think>a<think>a</think>b', {}, {}, 0.0),
  ('think_format', 'a</think>b', {}, {}, 0.0),
  ('think_format', 'a</think>b', {}, {'opened': True}, 1.0),
  ('tag_format', '<think>a</think>\n<answer>b</answer>\n', {}, {}, 1.0),
  ('tag_format', '<answer>b</answer><think>a</think>', {}, {}, 0.0),
  ('tag_format', '<think>a</think>x<answer>b</answer>', {}, {}, 0.0),
  ('tag_format', '<think>a</think><answer> </answer>', {}, {}, 0.0),
  ('tag_format', '<think>a</think><answer>', {}, {'partial': True}, 0.75),
  ('tag_format', '<a>1</a>', {}, {'tags': ['a']}, 1.0),
])  # fmt: skip
def test_by_hand(name, text, row, keys, expected):
  assert one(name, text, row=row, **keys) == expected


def test_messages_are_judged_as_their_text():
  said = [{'role': 'assistant', 'content': '4'}]
  (value,) = texts.numeric_match(['p'], [said], answer=['4'])
  assert value == 1.0


@pytest.mark.parametrize('ids, keys, expected', [
  ([1, 2, 3, 4], {'ngram': 2}, 0.0),
  ([5, 5, 5, 5, 5], {'ngram': 2}, -0.75),
  ([5, 5], {}, 0.0),
  ([1, 2, 1, 2, 1], {'ngram': 2, 'penalty': -2.0}, -1.0),
])  # fmt: skip
def test_repetition(ids, keys, expected):
  assert one('repetition', '', ids, **keys) == pytest.approx(expected)


def test_no_right_answer_is_an_error():
  with pytest.raises(ValueError, match='no column "solution" or "answer"'):
    one('exact_match', 'x')


# {kind: (arguments, a text that follows, one that does not)}
FOLLOWED = {
  'change_case:capital_word_frequency': (
    {'capital_relation': 'at least', 'capital_frequency': 2},
    'A NEW day DAWNS', 'A new day'),
  'change_case:english_capital': ({}, 'ALL OF IT', 'All of it'),
  'change_case:english_lowercase': ({}, 'all of it.', 'All of it.'),
  'combination:repeat_prompt': (
    {'prompt_to_repeat': 'Say it.'}, 'say it. Now', 'Now say it.'),
  'combination:two_responses': ({}, 'one\n******\ntwo', 'one ****** one'),
  'detectable_content:number_placeholders': (
    {'num_placeholders': 2}, 'to [name] of [city]', 'to [name]'),
  'detectable_content:postscript': (
    {'postscript_marker': 'P.S.'}, 'Bye\nP.S. again', 'Bye psst'),
  'detectable_format:constrained_response': (
    {}, 'Well. My answer is no.', 'No.'),
  'detectable_format:json_format': ({}, '```json\n{"a": 1}\n```', '{a: 1}'),
  'detectable_format:multiple_sections': (
    {'section_spliter': 'Section', 'num_sections': 2},
    'Section 1 a Section 2 b', 'Section a'),
  'detectable_format:number_bullet_lists': (
    {'num_bullets': 2}, '* a\n- b\n', '* a\n* b\n* c'),
  'detectable_format:number_highlighted_sections': (
    {'num_highlights': 2}, '*one* and **two**', '*one* and two'),
  'detectable_format:title': ({}, '<<A title>>\ntext', '<<>>\ntext'),
  'keywords:existence': ({'keywords': ['Sun', 'sea']}, 'sun, SEA', 'sun'),
  'keywords:forbidden_words': (
    {'forbidden_words': ['cat']}, 'concatenate', 'a Cat'),
  'keywords:frequency': (
    {'keyword': 'so', 'frequency': 2, 'relation': 'at least'}, 'so So', 'so'),
  'keywords:letter_frequency': (
    {'letter': 'e', 'let_frequency': 2, 'let_relation': 'less than'},
    'One', 'Eel'),
  'length_constraints:nth_paragraph_first_word': (
    {'num_paragraphs': 2, 'nth_paragraph': 2, 'first_word': 'then'},
    'First a.\n\nThen b.', 'Then a.\n\nFirst b.'),
  'length_constraints:number_paragraphs': (
    {'num_paragraphs': 2}, 'a\n***\nb', 'a\n***\n***\nb'),
  'length_constraints:number_sentences': (
    {'relation': 'less than', 'num_sentences': 3}, 'One. Two!', 'A. B. C?'),
  'length_constraints:number_words': (
    {'relation': 'at least', 'num_words': 3}, 'one two three', 'one two'),
  'punctuation:no_comma': ({}, 'none here', 'one, here'),
  'startend:end_checker': (
    {'end_phrase': 'The end.'}, 'Bye. "the end."', 'The end. Bye'),
  'startend:quotation': ({}, ' "said" ', 'said"'),
}  # fmt: skip


def test_every_instruction_has_a_case():
  assert set(FOLLOWED) == set(constraints.KINDS)


@pytest.mark.parametrize('kind', sorted(FOLLOWED))
def test_instructions(kind):
  arguments, good, bad = FOLLOWED[kind]
  nulls = {'num_words': None, 'keyword': None}  # as tables fill their gaps
  row = {'instruction_id_list': [kind], 'kwargs': [{**nulls, **arguments}]}
  judge = lambda text: one('if_constraints', text, row=row)
  assert (judge(good), judge(bad), judge('')) == (1.0, 0.0, 0.0)
  # What is thought does not count.
  assert judge(f'<think>{bad}</think>{good}') == 1.0


def test_several_instructions():
  row = {
    'instruction_id_list': ['punctuation:no_comma', 'startend:quotation'],
    'kwargs': None,
  }
  assert one('if_constraints', 'no comma', row=row) == 0.0
  assert one('if_constraints', 'no comma', row=row, partial=True) == 0.5
  assert one('if_constraints', '"no comma"', row=row) == 1.0


@pytest.mark.parametrize('names, arguments, message', [
  (['punctuation:no_coma'], [{}], 'Did you mean "punctuation:no_comma"'),
  (['language:response_language'], [{}], 'unknown instruction'),
  (['length_constraints:number_words'], [{'relation': 'at least'}],
   'needs "num_words" as int, not None'),
  (['length_constraints:number_words'],
   [{'relation': 'at last', 'num_words': 3}], 'Did you mean "at least"'),
  (['punctuation:no_comma'], [{'num': 1}], 'takes no "num"'),
  (['punctuation:no_comma'], [{}, {}], 'a list of as many arguments'),
  (5, [], 'no list of instructions'),
  ('punctuation:no_comma', [{}], 'no list of instructions'),
])  # fmt: skip
def test_instructions_that_cannot_be_checked(names, arguments, message):
  row = {'instruction_id_list': names, 'kwargs': arguments}
  check = texts.CHECKS['if_constraints']
  with pytest.raises(ValueError, match=message):
    check(row, column='instruction_id_list', kwargs_column='kwargs')


MATH = [
  (r'so \boxed{\frac{1}{3}}', r'\frac{1}{3}', 1.0),
  (r'so \boxed{\frac{2}{6}}', r'$\frac{1}{3}$', 1.0),
  (r'so \boxed{0.5}', r'\frac{1}{2}', 1.0),
  (r'so \boxed{x^2 + 2x + 1}', r'(x+1)^2', 1.0),
  ('The answer is 72', GOLD, 1.0),
  ('<think>It is 72</think> The answer is 71', GOLD, 0.0),
  ('<answer>12</answer>', '12', 1.0),
  ('14', 12, 0.0),
  ('nan', '12', 0.0),
  ('', '12', 0.0),
  ('10', [10, 11], 1.0),
  ('11', ['11', 'x'], 1.0),
  ('12', [10, 11], 0.0),
  # To the letter: words, and LaTeX that is none.
  ('yes', 'yes', 1.0),
  ('no', 'yes', 0.0),
  (r'\boxed{banana}', 'banana', 1.0),
  ('x=', 'x=', 1.0),
  (r'\frac{1}{', r'\frac{1}{', 1.0),
  (r'\frac{1}{2}', r'\frac{1}{', 0.0),
  # Marks at an end are part of a number or of a name.
  *(
    (text, answer, 0.0)
    for text, answer in [
      ('5', '.5'),
      ('.5', '5'),
      (r'\boxed{.5}', '5'),
      ('75', '#### .75'),
      ("f'", 'f'),
      ('f', "f'"),
      (r'\boxed{n!}', 'n'),
    ]
  ),
]


@pytest.mark.parametrize('text, answer, expected', MATH)
def test_math_verify(text, answer, expected):
  pytest.importorskip('math_verify')
  assert one('math_verify', text, row={'solution': answer}) == expected


def test_math_verify_is_missing(monkeypatch):
  from posttrain_jax.rewards.texts import match

  monkeypatch.setitem(__import__('sys').modules, 'math_verify', None)
  match._math.cache_clear()
  with pytest.raises(ImportError, match=r'pip install "posttrain_jax\[math\]"'):
    one('math_verify', '1', row={'answer': '1'})
  match._math.cache_clear()


@pytest.mark.parametrize('name, text, params, expected', [
  ('choice_letter', 'The answer is B.', {'choices': 'ABCD'}, 'B'),
  ('numeric_match', 'so 12', {}, '12.0'),
  ('numeric_match', 'none', {}, ''),
  ('exact_match', '<answer>x</answer>', {}, 'x'),
])  # fmt: skip
def test_what_counts_in_a_vote(name, text, params, expected):
  assert texts.answer(name, text, params) == expected
