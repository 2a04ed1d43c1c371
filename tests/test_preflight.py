"""What is told of a data file before a run, and to whom."""

import json

import pytest

from posttrain_jax import train
from posttrain_jax.data import formats, pipeline, tokenizers, train_tokenizer
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import feed, inputs

BYTE = tokenizers.ByteTokenizer()
OK = '{"prompt": "a", "completion": "b"}'


def dry(path, capsys, *items):
  flags = [f'--config.{item}' for item in items]
  status = train.main([
    '--config', 'configs/sft.py:data=jsonl,smoke', '--dry_run',
    f'--config.data.path={path}', '--config.tokenizer=byte', *flags,
  ])  # fmt: skip
  said = capsys.readouterr()
  return status, said.err


@pytest.mark.parametrize('content, items, message', [
  (OK + '\n' + '[' * 9999, (), 'x:2: nested'),
  (OK, ('data.max_length=0',), 'max_length=0'),
  (OK, ('data.max_length=2',), 'x:1: too long: 1 of 1 records'),
  ('{"messages": []}', (), 'x:1: column "messages": no turn'),
])  # fmt: skip
def test_the_command_says_one_line(content, items, message, tmp_path, capsys):
  (tmp_path / 'x').write_text(content)
  status, said = dry(tmp_path / 'x', capsys, *items)
  assert status == 2 and message in said
  assert said.startswith('error: ') and said.count('\n') == 1


def cut(count):
  """Records of 3 tokens, of 16 of which 5 are lost, and of a prompt of 60."""
  whole, part, none = (
    {'prompt': 'a' * size, 'completion': 'b' * answer}
    for size, answer in ((1, 1), (8, 12), (60, 1))
  )
  return [whole, part, *[none] * count]


def test_cut_answers_are_told_with_counts(tmp_path, capsys):
  path = tmp_path / 'x'
  path.write_text('\n'.join(map(json.dumps, cut(8))))
  items = ('data.max_length=16', 'data.overlong=truncate')
  status, said = dry(path, capsys, *items)
  assert status == 0
  assert said.splitlines() == [
    f'WARNING data: {line}; first: {path}:{first}, {path}:{first + 1}, '
    f'{path}:{first + 2}'
    for line, first in (
      ('9 of 10 records are too long: the end is cut off', 2),
      ('9 of 10 records lose answer tokens by that cut', 2),
      ('no token is trained for 8 of 10 records', 3),
    )
  ]
  # All of them: nothing would be trained.
  path.write_text('\n'.join(map(json.dumps, cut(2)[2:])))
  status, said = dry(path, capsys, *items)
  assert status == 2 and 'no token is trained for 2 of 2 records' in said
  assert said.startswith(f'error: {path}:1: ')


def test_what_was_not_tokenised_is_said(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(feed, 'TOKENISED', 0)
  monkeypatch.setattr(feed, 'LOOKED_AT', 2)
  (tmp_path / 'x').write_text('\n'.join([OK] * 4))
  status, said = dry(tmp_path / 'x', capsys)
  assert status == 0 and '2 of 4 records were tokenised' in said


@pytest.mark.parametrize('overlong', ['truncate', 'drop', 'error'])
def test_records_that_lose_tokens_by_kind(overlong):
  """Each kind, cut by one token; what a prompt loses is no answer's."""
  turns = [
    {'role': 'user', 'content': 'q'},
    {'role': 'assistant', 'content': 'abc'},
  ]
  pair = {'prompt': 'q', 'chosen': 'abc', 'rejected': 'a'}
  shown = {
    'text': {'text': 'qabc'},
    'messages': {'messages': turns},
    'completion': {'prompt': 'q', 'completion': 'abc'},
    'unpaired': {'prompt': 'q', 'completion': 'abc', 'label': True},
    'preference': pair,
    'prompt': {'prompt': 'qabcd'},
  }
  for kind, record in shown.items():
    whole = formats.tokenize(record, BYTE)
    part = whole['chosen'] if kind == 'preference' else whole
    trained = sum(w > 0 for w in part['loss_mask'])
    # The newline after a turn is not trained; the stop before it is.
    size = part['full_length'] - 1 - (kind == 'messages')
    report = pipeline.preflight(
      pipeline.ListSource([record]), BYTE, max_length=size, overlong=overlong
    )
    told = {'truncate': 'truncated', 'drop': 'dropped', 'error': 'errors'}
    assert report[told[overlong]] == 1, kind
    lost = overlong == 'truncate' and kind != 'prompt'
    assert report['cut_answers'] == lost, kind
    if lost and kind != 'preference':
      assert report['loss_tokens'] == trained - 1, kind


def test_equal_pairs_are_told():
  same = {'prompt': 'q', 'chosen': 'a', 'rejected': 'a'}
  other = {**same, 'rejected': 'b'}
  report = pipeline.preflight(
    pipeline.ListSource([other, same]), BYTE, max_length=8
  )
  assert report['equal_pairs'] == 1
  assert '1 of 2 records have a rejected answer' in pipeline.warnings(report)[0]


def test_a_preference_run_on_equal_pairs_is_refused(tmp_path):
  (tmp_path / 'x').write_text('{"prompt": "q", "chosen": "a", "rejected": "a"}')
  c = config_lib.load('configs/preference.py:data=jsonl,smoke', [
    ('data.path', str(tmp_path / 'x')), ('tokenizer', 'byte'),
  ])  # fmt: skip
  with pytest.raises(ValueError, match='x:1: 1 of 1 records have a rejected'):
    inputs.open_source(c, BYTE)


def test_a_file_is_looked_at_once_until_it_changes(tmp_path, monkeypatch):
  path, calls = tmp_path / 'x', []
  path.write_text(OK)
  c = config_lib.load('configs/sft.py:data=jsonl,smoke', [
    ('data.path', str(path)), ('tokenizer', 'byte'),
  ])  # fmt: skip
  preflight = pipeline.preflight

  def counted(*args, **options):
    calls.append(options['max_length'])
    return preflight(*args, **options)

  monkeypatch.setattr(pipeline, 'preflight', counted)
  for _ in range(3):
    inputs.open_source(c, BYTE)
  c.data.max_length = 99
  inputs.open_source(c, BYTE)
  path.write_text(OK + '\n' + OK)
  assert len(inputs.open_source(c, BYTE)) == 2
  assert calls == [256, 99, 99]


@pytest.mark.parametrize('record, expected', [
  ({'prompt': 'ab', 'completion': 'cd', 'x': 'no'}, ['ab', 'cd']),
  ({'messages': [{'role': 'assistant', 'content': 'ef'}]}, ['ef']),
  ({'prompt': [{'role': 'user', 'content': 'ab'}]}, ['ab']),
])  # fmt: skip
def test_texts_of_a_tokenizer_are_those_of_training(record, expected, tmp_path):
  (tmp_path / 'x').write_text(json.dumps(record))
  assert list(train_tokenizer.file_texts(str(tmp_path / 'x'))) == expected


@pytest.mark.parametrize('line', [
  '[' * 9999, r'{"prompt": "a\ud800", "completion": ""}', '{"prompt": 5}',
])  # fmt: skip
def test_a_tokenizer_is_not_trained_on_odd_files(line, tmp_path):
  (tmp_path / 'x').write_text(OK + '\n' + line)
  with pytest.raises(SystemExit, match='^error: .*x:2: '):
    train_tokenizer.main([
      '--jsonl', str(tmp_path / 'x'), '--vocab_size', '300',
      '--out', str(tmp_path / 'out'),
    ])  # fmt: skip
