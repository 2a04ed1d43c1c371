"""Data files of every odd form: read, or one short line that says where."""

import bz2
import json
import lzma
import os
import re
import subprocess
import sys
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain_jax.data import (
  formats,
  json_lines,
  kinds,
  pipeline,
  records,
  tokenizers,
)

BYTE = tokenizers.ByteTokenizer()
BPE = tokenizers.BPETokenizer.train(['hello'], 300)
OK = '{"prompt": "a", "completion": "b"}'


def told(path, kind=None, tokenizer=BYTE, **options):
  """What a file is refused with; fails where it is not, or at length."""
  options = {'max_length': 64, **options}
  with pytest.raises(ValueError) as caught:
    source = pipeline.JsonlSource(str(path))
    pipeline.preflight(source, tokenizer, kind=kind, **options)
  message = str(caught.value)
  assert len(message) < 700 and '\n' not in message, message[:2000]
  return message


def completion(**columns):
  return json.dumps({'prompt': 'a', 'completion': 'b', **columns})


# A line, and what is said of it after 'FILE:LINE: '.
LINES = {
  'deep array': ('[' * 100_000, 'nested too deeply'),
  'deep object': ('{"a":' * 100_000, 'nested too deeply'),
  'deep column': (
    '{"prompt": ' + '[' * 99_000 + ']' * 99_000 + '}',
    'nested too deeply',
  ),
  'array': (f'[{OK}]', 'expected a JSON object, got an array of 1'),
  'number': ('3', 'expected a JSON object, got 3'),
  'null': ('null', 'expected a JSON object, got None'),
  'text': ('"' + 'a' * 9999 + '"', "expected a JSON object, got 'aaaa"),
  'cut off': (OK[:-5], 'character 30: Expecting value at the end'),
  'pretty': ('{', 'character 2: Expecting .*one whole record a line'),
  'two': (OK + OK, 'character 35: Extra data, found .*"prompt"'),
  'comma': (OK[:-1] + ',}', r"character 35: Expecting .*, found '}'"),
  'quotes': (OK.replace('"', "'"), 'character 2: Expecting'),
  'carriage returns': (OK + '\r' + OK, 'character 36: .*CR alone'),
  'NUL': ('{"prompt": "\0"}', 'character 13: a NUL byte'),
  'NULs': ('\0' * 9999, 'character 1: a NUL byte'),
  'NaN': (OK[:-1] + ', "x": NaN}', 'NaN is not JSON'),
  'Infinity': (OK[:-1] + ', "x": [-Infinity]}', '-Infinity is not JSON'),
  'digits': (OK[:-1] + ', "x": ' + '1' * 9999 + '}', 'Exceeds the limit'),
  'twice': (OK[:-1] + ', "prompt": "c"}', 'key "prompt" stands twice'),
  'twice inside': (
    OK[:-1] + ', "x": {"k": 1, "k": 2}}',
    'key "k" stands twice',
  ),
  'latin-1': (OK.encode() + b'\xe9', 'byte 35 .0xe9. is not UTF-8'),
  'UTF-16': (OK.encode('utf-16-le'), 'character 2: '),
  'surrogate': (
    r'{"prompt": "ab\ud800", "completion": "b"}',
    r'column "prompt": character 3 is half of one .*U\+D800',
  ),
  'surrogate in an answer': (
    r'{"prompt": "a", "completion": "\udfff"}',
    r'column "completion": character 1 is half of one .*U\+DFFF',
  ),
  'prompt 5': (completion(prompt=5), 'column "prompt": expected a string or'),
  'prompt {}': (completion(prompt={}), 'column "prompt": expected a string or'),
  'completion 5': (completion(completion=5), 'column "completion": .* got 5'),
  'completion []': (
    completion(completion=[]),
    r'column "completion"\[0\]: the answer to a prompt must open with role',
  ),
  'long value': (
    completion(completion=['c' * 9999] * 99),
    'column "completion"',
  ),
  'null column': (completion(completion=None), 'column "completion" is null'),
  'missing': ('{"prompt": "a"}', 'no column "completion"'),
  'misspelt': (
    '{"prompt": "a", "completoin": "b"}',
    'no column .* Did you mean column "completoin"',
  ),
  'empty object': ('{}', r'no column "prompt".*\(none\)'),
  'many columns': (
    json.dumps({f'column {i}': i for i in range(9999)}),
    'no column "prompt".* and 9991 more',
  ),
  'another kind': (
    completion(label=True),
    'kind "unpaired" .* kind "com',
  ),
  'misspelt kind': (completion(lable=True), 'unknown column "lable".*"label"'),
  'empty prompt': (completion(prompt=''), 'column "prompt": an empty string'),
  'empty answer': (completion(completion=''), 'column "completion": an empty'),
  'tools': (completion(tools=[{}]), 'column "tools" is not supported'),
}


@pytest.mark.parametrize('number', [2, 1502])
@pytest.mark.parametrize('name', LINES)
def test_a_bad_line_wherever_it_is(name, number, tmp_path):
  line, message = LINES[name]
  line = line if isinstance(line, bytes) else line.encode()
  path = tmp_path / 'x.jsonl'
  path.write_bytes((OK + '\n').encode() * (number - 1) + line + b'\n')
  # A tenth are tokenised; all are read.
  found = told(path, limit=max(1, number // 10))
  assert found.startswith(place_of(path, number))
  found = found.removeprefix(place_of(path, number))
  assert re.match(message, found), found


def place_of(path, number):
  return f'{path}:{number}: '


@pytest.mark.parametrize('tokenizer', [BYTE, BPE], ids=['byte', 'bpe'])
def test_half_a_character_is_refused_by_every_tokenizer(tokenizer, tmp_path):
  with pytest.raises(ValueError):
    tokenizer.encode('a\ud800')
  path = tmp_path / 'x'
  path.write_text(r'{"text": "a\ud800"}')
  assert 'x:1: column "text": character 2' in told(path, tokenizer=tokenizer)


# Whole files


def archive(path):
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('a.jsonl', OK)


FILES = {
  'folder': (os.mkdir, 'is a folder; give a file, or a glob such as'),
  'pipe': (os.mkfifo, 'is no regular file'),
  'empty': (lambda p: p.write_text(''), 'no records in'),
  'blank': (lambda p: p.write_text('\n \r\n\n'), 'no records in'),
  'bom alone': (lambda p: p.write_bytes(b'\xef\xbb\xbf\n'), 'no records in'),
  'bzip2': (lambda p: p.write_bytes(bz2.compress(OK.encode())), 'bunzip2'),
  'xz': (lambda p: p.write_bytes(lzma.compress(OK.encode())), 'unxz'),
  'zip': (archive, 'unzip'),
  'parquet': (lambda p: p.write_bytes(b'PAR1\0\0'), 'of kind "parquet"'),
  'UTF-16': (lambda p: p.write_text(OK, encoding='utf-16'), 'UTF-16 text'),
  'random': (lambda p: p.write_bytes(bytes(range(128, 256)) * 99), 'not UTF-8'),
  'array': (
    lambda p: p.write_text(json.dumps([json.loads(OK)] * 20_000)),
    'x:1: expected a JSON object, got an array of 20000; write one record',
  ),
  'array over lines': (
    lambda p: p.write_text(json.dumps([json.loads(OK)] * 9, indent=1)),
    'x:1: character 2: .*one whole record a line',
  ),
}


@pytest.mark.parametrize('name', FILES)
def test_files_that_are_none(name, tmp_path):
  make, message = FILES[name]
  make(tmp_path / 'x')
  assert re.search(message, told(tmp_path / 'x'))
  if name not in ('empty', 'blank', 'bom alone'):  # one of several is told too
    (tmp_path / 'a').write_text(OK)
    assert re.search(message, told(tmp_path / '*'))


def test_files_that_are_not_there(tmp_path):
  (tmp_path / 'train.jsonl').write_text(OK)
  meant = f'Did you mean "{tmp_path / "train.jsonl"}"'
  assert meant in told(tmp_path / 'trian.jsonl')
  assert 'no file matches' in told(tmp_path / '*.json')
  assert 'No folder' in told(tmp_path / 'nowhere' / '*.jsonl')
  for i in range(2000):
    (tmp_path / f'{i}.txt').touch()
  assert meant in told(tmp_path / 'train.json')


@pytest.mark.skipif(not os.path.exists('/proc/self/mem'), reason='Linux')
def test_a_file_that_cannot_be_read():
  assert 'cannot be read: ' in told('/proc/self/mem')


def test_a_line_without_an_end(tmp_path, monkeypatch):
  monkeypatch.setattr(json_lines, 'MAX_LINE', 50)
  (tmp_path / 'x').write_text(OK + '\n' + json.dumps([OK] * 9))
  assert re.search(
    r'x:2: a line of more than 50 bytes: .* array', told(tmp_path / 'x')
  )


@pytest.mark.parametrize('name, content', [
  ('bom', '\ufeff{0}\n{0}'), ('crlf', '{0}\r\n{0}\r\n'),
  ('bom and crlf', '\ufeff{0}\r\n\ufeff{0}\r\n'), ('blank', '\n\n{0}\n \n{0}'),
  ('spaces', '  {0}\t\n {0} '), ('nulls', '{1}\n{0}\n'),
])  # fmt: skip
def test_files_that_are_read_as_if_plain(name, content, tmp_path):
  nulls = completion(label=None, messages=None, text=None)
  (tmp_path / 'x').write_bytes(content.format(OK, nulls).encode())
  source = pipeline.JsonlSource(str(tmp_path / 'x'))
  report = pipeline.preflight(source, BYTE, max_length=8)
  assert (report['kind'], report['kept']) == ('completion', 2)
  rows = [formats.tokenize(r.columns, BYTE)['tokens'] for r in source]
  assert rows == [[100, 101, 1]] * 2
  assert [r.index for r in source] == [0, 1]
  assert list(source) == [source[0], source[1]]


@pytest.mark.parametrize('length', [1, 0, -1])
def test_lengths_that_hold_nothing(length, tmp_path):
  (tmp_path / 'x').write_text(OK)
  assert f'max_length={length}' in told(tmp_path / 'x', max_length=length)
  with pytest.raises(ValueError, match=f'max_length={length}'):
    pipeline.make_iterator(
      pipeline.JsonlSource(str(tmp_path / 'x')), BYTE, batch_size=1,
      max_length=length,
    )  # fmt: skip


# Anything at all

VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
      st.sampled_from(['role', 'content', 'x']) | st.text(max_size=3),
      inner | st.sampled_from(['user', 'assistant']),
      max_size=3,
    )
  ),
  max_leaves=8,
)
COLUMNS = st.sampled_from([*kinds.KNOWN, *records.UNSUPPORTED])
TURNS = st.lists(
  st.fixed_dictionaries(
    {
      'role': st.sampled_from(['system', 'user', 'assistant', 'tool', 'bot']),
      'content': st.text(max_size=5),
    }
  ),
  max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
  st.dictionaries(COLUMNS, VALUES | TURNS | st.text(max_size=9), max_size=4)
)
def test_any_record_is_tokenised_or_refused(record):
  try:
    kind = records.kind_of(record, 'f:1')
    records.check(record, kind, 'f:1')
  except ValueError as error:
    assert str(error).startswith('f:1: ') and len(str(error)) < 600
    return
  for tokenizer in (BYTE, BPE):
    example = formats.tokenize(record, tokenizer)
    assert example['kind'] == kind


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode()))
def test_any_line_is_read_or_refused(line):
  try:
    assert isinstance(json_lines.parse(line, 'f:1'), dict)
  except ValueError as error:
    assert str(error).startswith('f:1: ') and len(str(error)) < 400


@pytest.mark.parametrize('content, message', [
  ('', 'cannot be read: '), ('garbage', 'cannot be read: '),
  ('[1]', 'cannot be read: '), ('{}', 'cannot be read: '),
  ('{"name": "x", "version": "1.0.0"}', 'cannot be read: '),
])  # fmt: skip
def test_harmed_tfds_folders(content, message, tmp_path):
  (tmp_path / 'dataset_info.json').write_text(content)
  with pytest.raises(ValueError, match=message) as caught:
    pipeline.TfdsSource(str(tmp_path), 'train')
  assert str(tmp_path) in str(caught.value)
  assert '\n' not in str(caught.value)
  with pytest.raises(ValueError, match='cannot be read: Parsing'):
    pipeline.TfdsSource('no such set', 'train')


@pytest.mark.parametrize('mark', [',', '\t', ';'])
@pytest.mark.parametrize('quote', ['', '"'])
def test_a_table_says_how_it_is_converted(tmp_path, mark, quote):
  """The sentence's own command makes records of it."""
  cell = lambda text: f'{quote}{text}{quote}'
  rows = [['prompt', 'completion'], ['two plus two', 'four']]
  path = tmp_path / 'x.csv'
  path.write_text('\ufeff' + '\n'.join(mark.join(map(cell, r)) for r in rows))
  with pytest.raises(ValueError, match='no JSON but a table') as told:
    pipeline.open_source(str(path))[0]
  command = str(told.value).partition('python -c "')[2].partition('" >')[0]
  done = subprocess.run(
    [sys.executable, '-c', command],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert json.loads(done.stdout) == dict(zip(*rows)), done.stderr
