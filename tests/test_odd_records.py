"""What a record may not say, in every kind and every column of turns."""

import pytest

from posttrain_jax.data import chat, formats, pipeline, records, tokenizers

BYTE = tokenizers.ByteTokenizer()
USER = {'role': 'user', 'content': 'x'}


def says(text):
  return {'role': 'assistant', 'content': text}


CHATS = {
  'messages': {'messages': [USER, says('y')]},
  'completion': {'prompt': [USER], 'completion': [says('y')]},
  'preference': {
    'prompt': [USER],
    'chosen': [says('y')],
    'rejected': [says('z')],
  },
  'shared': {'chosen': [USER, says('y')], 'rejected': [USER, says('z')]},
  'unpaired': {'prompt': [USER], 'completion': [says('y')], 'label': True},
  'prompt': {'prompt': [USER]},
}
STRINGS = {
  'text': {'text': 'x'},
  'completion': {'prompt': 'x', 'completion': 'y'},
  'preference': {'prompt': 'x', 'chosen': 'y', 'rejected': 'z'},
  'unpaired': {'prompt': 'x', 'completion': 'y', 'label': False},
  'prompt': {'prompt': 'x'},
}
ALL = [(f'chat {k}', r) for k, r in CHATS.items()] + list(STRINGS.items())
# Every list of turns of every kind.
TURNS = [
  pytest.param(record, column, id=f'{kind}-{column}')
  for kind, record in CHATS.items()
  for column, value in record.items()
  if isinstance(value, list)
]


def refused(record, kind=None):
  with pytest.raises(ValueError) as caught:
    formats.tokenize(record, BYTE, kind=kind, where='f:7')
  message = str(caught.value)
  assert message.startswith('f:7: ') and len(message) < 400
  return message


def changed(record, column, place, **keys):
  """The record with some keys of one of its turns replaced."""
  turns = [dict(turn) for turn in record[column]]
  turns[place] |= keys
  return {**record, column: turns}


@pytest.mark.parametrize('name, record', ALL)
def test_what_is_not_refused_is_tokenised(name, record):
  kind = formats.tokenize(record, BYTE)['kind']
  assert kind == records.kind_of(record)
  records.check(record, kind)
  # Other columns travel along; empty ones of those refused say nothing.
  empty = dict(zip(records.UNSUPPORTED, [None, [], {}, ''] * 3))
  more = {**record, **empty, 'id': 7, 'tool': 'x'}
  example = formats.tokenize(more, BYTE)
  assert example['columns'] == {**empty, 'id': 7, 'tool': 'x'}


@pytest.mark.parametrize('column', records.UNSUPPORTED)
@pytest.mark.parametrize('name, record', ALL)
def test_columns_that_change_the_text(name, record, column):
  value = [{'type': 'function', 'function': {'name': 'f'}}]
  message = refused({**record, column: value})
  assert message == f'f:7: column "{column}" is not supported'
  with pytest.raises(ValueError, match=column):
    pipeline.preflight(
      pipeline.ListSource([{**record, column: value}]), BYTE, max_length=99
    )


@pytest.mark.parametrize('key', chat.UNSUPPORTED)
@pytest.mark.parametrize('record, column', TURNS)
def test_keys_that_change_a_turn(record, column, key):
  for place in range(len(record[column])):
    message = refused(changed(record, column, place, **{key: [1]}))
    assert f'"{key}" is not supported' in message
    assert f'column "{column}"[{place}]' in message
    # Said to be absent.
    formats.tokenize(changed(record, column, place, **{key: None}), BYTE)


@pytest.mark.parametrize('content, told', [
  (None, 'must be a string, not None'), (5, 'not 5'), ({}, 'not {}'),
  ([{'type': 'text', 'text': 'x'}], 'not a list of content parts'),
  ('a\ud800', 'character 2 is half of one'),
])  # fmt: skip
@pytest.mark.parametrize('record, column', TURNS)
def test_content_that_is_no_text(record, column, content, told):
  for place in range(len(record[column])):
    message = refused(changed(record, column, place, content=content))
    assert told in message and f'column "{column}"[{place}]' in message


@pytest.mark.parametrize('role, told', [
  ('developer', 'Did you mean "system"?'), ('human', 'Did you mean "user"?'),
  ('gpt', 'Did you mean "assistant"?'), ('asistant', 'mean "assistant"?'),
  ('', 'Valid: '), (None, 'Valid: '), (['user'], 'Valid: '),
  ('z' * 9999, 'Valid: '),
])  # fmt: skip
@pytest.mark.parametrize('record, column', TURNS)
def test_roles_that_are_unknown(record, column, role, told):
  for place in range(len(record[column])):
    message = refused(changed(record, column, place, role=role))
    assert 'unknown role' in message and told in message
    assert f'column "{column}"[{place}]' in message


@pytest.mark.parametrize('turn, told', [
  ({'from': 'human', 'value': 'x'}, 'rename its "from"'),
  ({'role': 'user', 'value': 'x'}, 'without "content".*rename its "value"'),
  ({'role': 'user'}, 'without "content"; it has role'), ({}, 'without "role"'),
  ('hello', "expected {role, content}, got 'hello'"), (None, 'got None'),
  ([USER], 'expected {role, content}'),
])  # fmt: skip
@pytest.mark.parametrize('record, column', TURNS)
def test_turns_that_are_none(record, column, turn, told):
  for place in range(len(record[column])):
    turns = list(record[column])
    turns[place] = turn
    with pytest.raises(ValueError, match=told):
      formats.tokenize({**record, column: turns}, BYTE)


@pytest.mark.parametrize('kind, record', CHATS.items())
def test_turns_where_a_string_is_and_the_other_way_round(kind, record):
  """The column that is wrong is the one that is named."""
  answers = [c for c in record if c not in ('prompt', 'label', 'messages')]
  for column in answers:
    if kind != 'shared':
      message = refused({**record, column: 'y'})
      assert f'column "{column}": expected a list of messages' in message
  if 'prompt' in record and kind != 'prompt':
    # A text before answers that are turns is what the user says.
    ours = formats.tokenize({**record, 'prompt': 'x'}, BYTE)
    assert ours == formats.tokenize(record, BYTE)
    if kind in ('completion', 'unpaired'):
      late = {**record, 'prompt': 'x', answers[0]: [USER, says('y')]}
      assert '[0]: the answer to a prompt must open with' in refused(late)
  for value in (5, {}, True):
    for column in record:
      if column != 'label' and kind != 'shared':
        message = refused({**record, column: value})
        assert f'column "{column}": expected' in message


ORDERS = {
  'two users': ([USER, USER, says('y')], 1, '"user" after "user"'),
  'two answers': ([USER, says('y'), says('z')], 2, '"assistant" after "assis'),
  'late system': ([USER, {**USER, 'role': 'system'}, says('y')], 1, '"system"'),
  'tool first': ([{**USER, 'role': 'tool'}, says('y')], 0, 'at the start'),
  'tool of a user': (
    [USER, {**USER, 'role': 'tool'}],
    1,
    '"tool" after "user"',
  ),
}


@pytest.mark.parametrize('name', ORDERS)
def test_turns_out_of_order(name):
  turns, place, told = ORDERS[name]
  message = refused({'messages': turns})
  assert f'column "messages"[{place}]: role' in message and told in message
  message = refused({'prompt': turns}, kind='prompt')
  assert f'column "prompt"[{place}]' in message
  both = {'chosen': turns, 'rejected': [*turns[:-1], says('other')]}
  assert f'column "chosen"[{place}]' in refused(both)


def test_turns_in_every_order_that_is_one():
  system, tool = {**USER, 'role': 'system'}, {**USER, 'role': 'tool'}
  for turns in (
    [system, USER, says('y'), USER, says('z')],
    [USER, says('call'), tool, tool, says('z')],
    [says('hello'), USER, says('y')],
    [system, says('hello')],
  ):
    records.check({'messages': turns}, 'messages')


def test_an_answer_comes_after_its_prompt():
  after = {'prompt': [USER, says('y')], 'completion': [says('z')]}
  assert 'column "prompt"[1]: a prompt must not end' in refused(after)
  first = {'prompt': [USER], 'completion': [USER, says('z')]}
  assert 'column "completion"[0]: the answer' in refused(first)
  again = {'prompt': [USER], 'completion': [says('y'), says('z')]}
  assert 'column "completion"[1]: role "assistant" after' in refused(again)


def test_conversations_with_a_prompt_as_text():
  """The layout of UltraFeedback: a prompt beside whole conversations."""
  record = {'prompt': 'x', **CHATS['shared']}
  ours = formats.tokenize(record, BYTE)
  assert ours == formats.tokenize(CHATS['preference'], BYTE)
  assert 'column "prompt": \'w\' is not the last' in refused(
    {**record, 'prompt': 'w'}
  )
  other = [{**USER, 'content': 'w'}, says('z')]
  assert 'share no turn' in refused({**record, 'rejected': other})
  # Equal conversations have an equal answer, not none.
  same = formats.tokenize({'chosen': [USER, says('y')]} | {
    'rejected': [USER, says('y')]
  }, BYTE)  # fmt: skip
  assert same['chosen'] == same['rejected'] == ours['chosen']


EMPTY = {
  'messages': [
    {'messages': []},
    {'messages': [USER]},
    {'messages': [USER, says('')]},
  ],
  'text': [{'text': ''}],
  'completion': [
    {'prompt': '', 'completion': 'y'},
    {'prompt': 'x', 'completion': ''},
    {'prompt': [], 'completion': [says('y')]},
    {'prompt': [USER], 'completion': []},
    {'prompt': [USER], 'completion': [says('')]},
  ],
  'preference': [
    {'prompt': 'x', 'chosen': '', 'rejected': 'z'},
    {'prompt': 'x', 'chosen': 'y', 'rejected': ''},
    {'chosen': [], 'rejected': []},
    {'chosen': [USER], 'rejected': [USER, says('z')]},
  ],
  'unpaired': [{'prompt': 'x', 'completion': '', 'label': True}],
  'prompt': [{'prompt': ''}, {'prompt': []}],
}


@pytest.mark.parametrize('kind', EMPTY)
def test_records_that_say_nothing(kind):
  for record in EMPTY[kind]:
    with pytest.raises(ValueError, match=r'^f:7: column'):
      records.check(record, kind, 'f:7')


@pytest.mark.parametrize('label', [None, 2, -1, 'yes', [], float('nan')])
def test_labels_that_are_none(label):
  message = refused({**STRINGS['unpaired'], 'label': label}, kind='unpaired')
  assert 'column "label"' in message


@pytest.mark.parametrize('key', ['weight', 'train'])
@pytest.mark.parametrize('record, column', TURNS)
def test_turns_that_are_not_trained(record, column, key):
  """OpenAI's `weight`, and `train`: of what the assistant says, 0 or 1."""
  for place, turn in enumerate(record[column]):
    plain = formats.tokenize(record, BYTE)
    zero = formats.tokenize(changed(record, column, place, **{key: 0}), BYTE)
    own = column if column in plain else 'chosen'
    left = zero.get(own, zero)['loss_mask']
    trained = plain.get(own, plain)['loss_mask']
    said = turn['role'] == 'assistant'
    assert left == ([0.0] * len(trained) if said else trained)
    message = refused(changed(record, column, place, **{key: 0.5}))
    assert f'"{key}" must be 0 or 1' in message
    one = changed(record, column, place, **{key: 1})
    if said:
      assert formats.tokenize(one, BYTE) == plain
    else:
      assert 'only what the assistant says is trained' in refused(one)


def test_texts_that_share_their_prompt():
  """TRL's implicit prompt of texts; a space belongs to the answers."""
  record = {'chosen': 'Sum: 2 yes', 'rejected': 'Sum: 2 no'}
  ours = formats.tokenize(record, BYTE)
  explicit = {'prompt': 'Sum: 2', 'chosen': ' yes', 'rejected': ' no'}
  assert ours == formats.tokenize(explicit, BYTE)
  for column in ('promt', 'question', 'instruction'):
    assert 'Did you mean "prompt"?' in refused({**record, column: 'Sum: 2'})
  assert 'share no beginning' in refused({'chosen': 'yes', 'rejected': 'no'})
  # Equal answers have one character, not none.
  same = formats.tokenize({'chosen': 'abc', 'rejected': 'abc'}, BYTE)
  assert sum(same['chosen']['loss_mask']) == 2


def test_a_pair_is_two_labelled_answers():
  for record in (STRINGS['preference'], CHATS['preference'], CHATS['shared']):
    good, bad = records.unpair({**record, 'id': 7})
    assert (good['label'], bad['label']) == (True, False)
    assert good['id'] == bad['id'] == 7
    pair = formats.tokenize(record, BYTE)
    for side, one in (('chosen', good), ('rejected', bad)):
      assert records.kind_of(one) == 'unpaired'
      ours = formats.tokenize(one, BYTE)
      assert ours['tokens'] == pair[side]['tokens']
      assert ours['loss_mask'] == pair[side]['loss_mask']
