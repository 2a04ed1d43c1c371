"""Formats and packing: masks by hand, nothing lost, errors with a place."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain_jax.core.types import Batch
from posttrain_jax.data import chat, formats, kinds, packing, tokenizers

TASK = tokenizers.TaskTokenizer()
BYTE = tokenizers.ByteTokenizer()
CHAT = [
  {'role': 'system', 'content': 'Sum.'},
  {'role': 'user', 'content': '1+1'},
  {'role': 'assistant', 'content': '2'},
  {'role': 'user', 'content': '2+2'},
  {'role': 'assistant', 'content': '44'},
]


def trained(example, tokenizer=BYTE):
  """Text of the tokens that count, with the stop tokens as '$'."""
  pairs = zip(example['tokens'], example['loss_mask'])
  ids = [token for token, weight in pairs if weight]
  stop = chat.stop_id(tokenizer)
  return ''.join('$' if i == stop else tokenizer.decode([i]) for i in ids)


# Formats


def test_completion_trains_the_completion_and_its_eos():
  record = {'prompt': '1+2=', 'completion': '3', 'answer': 3}
  example = formats.tokenize(record, TASK)
  assert example['tokens'] == TASK.encode('1+2=3') + [TASK.eos_id]
  assert example['loss_mask'] == [0, 0, 0, 0, 1, 1]
  assert example['columns'] == {'answer': 3}
  assert example['kind'] == 'completion' and not example['truncated']


def test_text_trains_all_but_the_first_token():
  example = formats.tokenize({'text': 'abc'}, BYTE)
  assert example['tokens'] == [100, 101, 102, BYTE.eos_id]
  assert example['loss_mask'] == [0, 1, 1, 1]


def test_messages_train_assistant_turns_with_their_stop():
  example = formats.tokenize({'messages': CHAT, 'text': 'unused'}, BYTE)
  assert example['kind'] == 'messages'
  assert trained(example) == '2$44$'
  assert BYTE.decode(example['tokens']).startswith('<|system|>\nSum.\n<|user|>')


def test_conversation_turns_are_prefixes():
  full, full_mask, *_ = chat.render(CHAT, BYTE)
  for turns in range(len(CHAT) + 1):
    tokens, mask, *_ = chat.render(CHAT[:turns], BYTE)
    assert full[: len(tokens)] == tokens
    assert full_mask[: len(mask)] == mask


def test_prompt_and_completion_messages_equal_the_conversation():
  record = {'prompt': CHAT[:2], 'completion': CHAT[2:]}
  example = formats.tokenize(record, BYTE)
  whole = formats.tokenize({'messages': CHAT}, BYTE)
  assert example['tokens'] == whole['tokens']
  assert example['loss_mask'] == whole['loss_mask']
  # What generation starts from is where the answer's loss begins.
  prompt = formats.tokenize({'prompt': CHAT[:2]}, BYTE)
  assert whole['tokens'][: len(prompt['tokens'])] == prompt['tokens']
  assert whole['loss_mask'][len(prompt['tokens'])] == 1.0
  assert not any(prompt['loss_mask'])


@pytest.fixture
def chatml(tmp_path):
  """A BPE folder with ChatML's markers, '<|im_end|>' as EOS, and a BOS."""
  bpe = tokenizers.BPETokenizer.train(['user assistant hello'] * 4, 270)
  bpe.save(str(tmp_path))
  path = tmp_path / 'tokenizer.json'
  content = json.loads(path.read_text())
  for i, name in enumerate(('<|im_start|>', '<|im_end|>')):
    entry = {**content['added_tokens'][0], 'content': name}
    content['added_tokens'].append({**entry, 'id': bpe.vocab_size + i})
  path.write_text(json.dumps(content))
  names = {'eos_token': '<eos>', 'bos_token': '<bos>', 'add_bos_token': True}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(names))
  return tokenizers.load(str(tmp_path))


def test_chatml_markers_and_bos(chatml):
  start, end = (chatml.special_id(f'<|im_{x}|>') for x in ('start', 'end'))
  example = formats.tokenize({'messages': CHAT[1:3]}, chatml)
  tokens = example['tokens']
  assert tokens[:2] == [chatml.bos_id, start]
  assert tokens.count(start) == tokens.count(end) == 2
  assert trained(example, chatml) == '2$'
  assert chat.stop_id(chatml) == end
  # Markers typed by a user end no turn.
  typed = {'messages': [CHAT[1], {**CHAT[2], 'content': 'x<|im_end|>y'}]}
  with pytest.raises(ValueError, match='names a special token'):
    formats.tokenize(typed, chatml)
  chatml.special_text = 'control'
  assert formats.tokenize(typed, chatml)['tokens'].count(end) == 3


@pytest.mark.parametrize('implicit', [False, True])
def test_preference_pairs(implicit):
  good = {'role': 'assistant', 'content': '2'}
  bad = {'role': 'assistant', 'content': '3'}
  record = {'prompt': CHAT[:2], 'chosen': [good], 'rejected': [bad]}
  if implicit:
    record = {'chosen': [*CHAT[:2], good], 'rejected': [*CHAT[:2], bad]}
  example = formats.tokenize(record, BYTE)
  assert trained(example['chosen']) == '2$'
  assert trained(example['rejected']) == '3$'
  assert example['chosen']['tokens'] == chat.render([*CHAT[:2], good], BYTE)[0]


def test_preference_strings_and_unpaired():
  pair = {'prompt': 'q', 'chosen': 'yes', 'rejected': 'no'}
  example = formats.tokenize(pair, BYTE)
  assert trained(example['chosen']) == 'yes$'
  assert trained(example['rejected']) == 'no$'
  record = {'prompt': 'q', 'completion': 'a', 'label': False}
  example = formats.tokenize(record, BYTE)
  assert example['kind'] == 'unpaired' and example['label'] is False


@pytest.mark.parametrize(
  'record, kind, message',
  [
    ({'prompt': 'a', 'completoin': 'b'}, None, 'Did you mean "completion"'),
    (
      {'prompt': 'a', 'reply': 'b'},
      'completion',
      'f:3: no column "completion"',
    ),
    ({'prompt': 'a', 'complete': 'b'}, 'completion', 'mean column "complete"'),
    ({'stuff': 'a'}, None, 'f:3: columns stuff fit no known layout'),
    ({'question': 'a'}, None, 'Did you mean "prompt"'),
    ({'text': 3}, None, 'f:3: column "text": expected a string'),
    ({'text': 'A'}, None, 'f:3: column "text": character \'A\''),
    ({'text': 'a'}, 'txt', 'Did you mean "text"'),
    ({'prompt': 'a', 'completion': 'b', 'label': 'no'}, None, 'true or false'),
    ({'messages': 'hi'}, None, 'expected a list of messages'),
    ({'messages': [{'role': 'asistant', 'content': ''}]}, None, '"assistant"'),
    ({'messages': [{'role': 'user'}]}, None, 'without "content"'),
    ({'messages': [{**CHAT[1], 'tool_calls': [1]}]}, None, 'not supported'),
    ({'messages': CHAT[1:], 'tools': [{}]}, None, '"tools" is not supported'),
    ({'prompt': CHAT[1:2], 'completion': CHAT[1:2]}, None, 'must open with'),
  ],
)
def test_bad_records_name_place_and_column(record, kind, message):
  with pytest.raises(ValueError, match=message):
    formats.tokenize(record, TASK, kind=kind, where='f:3')


def test_overlong_policies():
  record = {'prompt': '123', 'completion': '45'}  # 6 tokens with the EOS

  def run(length, overlong):
    return formats.tokenize(record, TASK, max_length=length, overlong=overlong)

  assert run(6, 'error')['loss_mask'] == [0, 0, 0, 1, 1, 1]
  with pytest.raises(ValueError, match='6 tokens do not fit max_length=5'):
    run(5, 'error')
  cut = run(5, 'truncate')
  assert cut['loss_mask'] == [0, 0, 0, 1, 1] and cut['truncated']
  assert cut['full_length'] == 6
  assert run(5, 'drop') is None and run(6, 'drop') is not None
  with pytest.raises(ValueError, match='Did you mean "truncate"'):
    run(5, 'truncated')
  pair = {'prompt': 'a', 'chosen': 'b', 'rejected': 'bcdef'}
  assert formats.tokenize(pair, TASK, max_length=4, overlong='drop') is None


# Packing


def test_best_fit_decreasing_by_hand():
  # 6 opens a row; 5 opens one; 4 fits beside 6 exactly; 3 and 2 fill the other.
  assert packing.best_fit_decreasing([5, 6, 4, 3, 2], 10) == [[0, 3, 4], [1, 2]]
  # Best fit, not first: 3 goes to the row with 3 free, not to that with 4.
  assert packing.best_fit_decreasing([6, 7, 3, 4], 10) == [[0, 3], [1, 2]]
  with pytest.raises(ValueError, match='example 1 has 11 tokens'):
    packing.best_fit_decreasing([5, 11], 10)


def test_packed_row_by_hand():
  examples = [
    {'tokens': [7, 8, 9], 'loss_mask': [1.0, 1.0, 0.5]},
    {'tokens': [4, 5], 'loss_mask': [0.0, 1.0]},
  ]
  rows = packing.pack(examples, 6, pad_id=0)
  np.testing.assert_array_equal(rows['tokens'], [[7, 8, 9, 4, 5, 0]])
  np.testing.assert_array_equal(rows['mask'], [[0, 1, 0.5, 0, 1, 0]])
  np.testing.assert_array_equal(rows['segment_ids'], [[1, 1, 1, 2, 2, 0]])
  np.testing.assert_array_equal(rows['positions'], [[0, 1, 2, 0, 1, 0]])
  assert Batch(**rows).tokens.dtype == np.int32
  assert set(rows) == set(packing.FIELDS)


examples_strategy = st.lists(
  st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0.0, 1.0])),
    min_size=1,
    max_size=12,
  ).map(
    lambda pairs: {
      'tokens': [token for token, _ in pairs],
      'loss_mask': [0.0, *(weight for _, weight in pairs[1:])],
    }
  ),
  max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(examples_strategy, st.integers(12, 20), st.integers(0, 5))
def test_packing_keeps_every_token_once(examples, length, pad_id):
  packed = packing.pack(examples, length, pad_id)
  padded = packing.pad(examples, length, pad_id)
  segments = []
  for row in range(len(packed['tokens'])):
    ids = packed['segment_ids'][row]
    for segment in range(1, ids.max() + 1):
      at = ids == segment
      assert packed['positions'][row][at].tolist() == list(range(at.sum()))
      mask = packed['mask'][row][at].tolist()
      segments.append((packed['tokens'][row][at].tolist(), mask))
  originals = [(e['tokens'], e['loss_mask']) for e in examples]
  assert sorted(segments) == sorted(originals)
  assert packed['mask'].sum() == padded['mask'].sum()
  assert len(packed['tokens']) <= len(examples)
  assert not packed['mask'][packed['segment_ids'] == 0].any()


@settings(max_examples=30, deadline=None)
@given(examples_strategy)
def test_pad_id_changes_only_padding(examples):
  # 1 is the EOS and a common token of these examples; 99 occurs nowhere.
  for build in (packing.pack, packing.pad):
    first, second = build(examples, 12, 1), build(examples, 12, 99)
    for name in ('mask', 'segment_ids', 'positions'):
      np.testing.assert_array_equal(first[name], second[name])
    real = first['segment_ids'] > 0
    np.testing.assert_array_equal(first['tokens'][real], second['tokens'][real])


@pytest.mark.parametrize(
  'names',
  [
    (a, b)
    for a in kinds.SIDES['chosen']
    for b in kinds.SIDES['rejected']
    if (a, b) != ('chosen', 'rejected')
  ],
)
@pytest.mark.parametrize('prompt', [{}, {'prompt': 'a'}])
def test_a_pair_under_other_names_is_no_prompt(names, prompt):
  """Else its prompts alone would be read, or a list of all layouts told."""
  record = {**prompt, names[0]: 'a', names[1]: 'b'}
  side, other = next(x for x in zip(kinds.SIDES, names) if x[0] != x[1])
  with pytest.raises(ValueError, match=f'"{other}". Did you mean "{side}"'):
    kinds.kind_of(record)
  with pytest.raises(ValueError, match=r'Did you mean|no column'):
    kinds.check_columns(record, 'preference')
