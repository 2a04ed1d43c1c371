"""Rows that cannot be trained on: refused, left out or put aside, by rule."""

import itertools
import json

import pytest

from posttrain_jax.data import (
  bad_rows,
  pipeline,
  records,
  rows,
  tokenizers,
  unpaired,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import feed, opening

BYTE = tokenizers.ByteTokenizer()
USER, SAYS = {'role': 'user', 'content': 'q'}, {'role': 'assistant'}
GOOD = [{'prompt': 'p', 'completion': c} for c in 'abcdef']
# {what is wrong: (line, column that is told, part of the reason)}
BAD = {
  'no JSON': ('{"prompt": ', None, 'Expecting value'),
  'two equal keys': (
    '{"prompt": "p", "prompt": "q", "completion": "c"}', 'prompt', 'twice',
  ),
  'empty answer': (
    '{"prompt": "p", "completion": ""}', 'completion', 'an empty string',
  ),
  'column missing': ('{"prompt": "p"}', 'completion', 'needs'),
  'another kind': ('{"text": "p"}', 'prompt', 'needs'),
  'a label beside': (
    '{"prompt": "p", "completion": "c", "label": true}', None, 'one kind',
  ),
  'too long': (
    json.dumps({'prompt': 'p' * 99, 'completion': 'c'}), None, 'do not fit',
  ),
}  # fmt: skip


def write(path, lines):
  path.write_text(''.join(f'{line}\n' for line in lines))
  return path


@pytest.fixture
def path(tmp_path):
  """Good records with a bad one after each."""
  lines = itertools.zip_longest(
    map(json.dumps, GOOD), (line for line, _, _ in BAD.values())
  )
  flat = [line for pair in lines for line in pair if line is not None]
  return write(tmp_path / 'x.jsonl', flat)


def config(path, rule='skip', **items):
  return config_lib.load('configs/sft.py:data=jsonl,smoke', [
    ('data.path', str(path)), ('tokenizer', 'byte'), ('data.max_length', '32'),
    ('data.on_bad_row', rule),
    *((key.replace('__', '.'), value) for key, value in items.items()),
  ])  # fmt: skip


@pytest.fixture(params=['small', 'middle', 'large'])
def size(request, monkeypatch):
  """How much of a data set is looked at before a run."""
  if request.param != 'small':
    monkeypatch.setattr(feed, 'TOKENISED', 0)
  if request.param == 'large':
    monkeypatch.setattr(feed, 'CHECKED', 0)
    monkeypatch.setattr(feed, 'LOOKED_AT', 2)
  return request.param


def completions(batches, count):
  """Texts of the answers of the first `count` batches."""
  found = []
  for batch in itertools.islice(batches, count):
    for tokens, mask in zip(batch['tokens'], batch['mask']):
      found.append(BYTE.decode(tokens[mask > 0]))
  return found


@pytest.mark.parametrize('rule', ['skip', 'quarantine'])
def test_bad_rows_are_left_out_at_any_size(rule, size, path, tmp_path, capsys):
  c = config(path, rule, prompts_per_step='3')
  found = feed.open_feed(c, BYTE)
  found.keep_in(tmp_path)
  batches = found()
  assert sorted(completions(batches, 4)[:12]) == sorted(2 * 'abcdef')
  if found.watch is not None:
    found.watch.wait()
  feed.show(found.told)
  found.close()
  told = capsys.readouterr().err
  assert len(found.rows) == len(BAD)
  assert told.count('cannot be trained on') == 1
  assert f'{len(BAD)} of 13 records' in told
  if rule == 'skip':
    assert not (tmp_path / bad_rows.FILE).exists()
    return
  said = (tmp_path / bad_rows.FILE).read_text().splitlines()
  aside = {row['line']: row for row in map(json.loads, said)}
  assert sorted(aside) == [2, 4, 6, 8, 10, 12, 13]
  for number, (line, column, reason) in zip(sorted(aside), BAD.values()):
    row = aside[number]
    assert row['file'] == str(path) and row['row'] == line.strip()
    assert row['column'] == column and reason in row['reason']
  # What stands there is not written again when a run goes on.
  again = feed.open_feed(c, BYTE)
  again.keep_in(tmp_path)
  completions(again(), 4)
  again.close()
  assert (tmp_path / bad_rows.FILE).read_text().splitlines() == said


def test_a_run_ends_at_the_first_bad_row_by_default(size, path):
  write(path, [*map(json.dumps, 9 * GOOD), '{"prompt": '])
  c = config(path, 'error')
  with pytest.raises(ValueError, match=f'{path}:55: character'):
    found = feed.open_feed(c, BYTE)
    assert size == 'large'  # else it was found before
    batches = found()
    found.watch.wait()
    next(batches)


def test_what_the_look_finds_ends_the_run_before_it_comes(path, monkeypatch):
  monkeypatch.setattr(feed, 'TOKENISED', 0)
  monkeypatch.setattr(feed, 'CHECKED', 0)
  monkeypatch.setattr(feed, 'LOOKED_AT', 2)
  long = json.dumps({'prompt': 'p' * 99, 'completion': 'c'})
  write(path, [*map(json.dumps, 9 * GOOD), long, json.dumps(GOOD[0])])
  found = feed.open_feed(config(path, 'error'), BYTE)
  batches = found()
  found.watch.wait()
  with pytest.raises(pipeline.BadData, match=f'{path}:55: too long: 1 of 56'):
    next(batches)


def test_a_file_of_bad_rows_is_refused(size, path):
  write(path, [line for line, _, _ in BAD.values()] * 2)
  with pytest.raises(ValueError, match='x.jsonl:1: '):
    feed.open_feed(config(path), BYTE)


def test_the_order_does_not_depend_on_when_bad_rows_are_found(path):
  """Left out before or on the way: each run by itself goes on exactly."""
  for everything in (True, False):
    c = config(path, prompts_per_step='2')
    found = feed.open_feed(c, BYTE)
    if not everything:
      found = feed.Feed(**{
        **vars(found), 'source': opening.open_records(c.data),
        'bad': pipeline.BadRows('skip'),
      })  # fmt: skip
    batches = found()
    states = [batches.get_state()]
    seen = []
    for _ in range(5):
      seen.append(completions(batches, 1))
      states.append(batches.get_state())
    for stop, state in list(enumerate(states))[1::2]:
      again = found()
      again.set_state(state)
      assert [completions(again, 1) for _ in seen[stop:]] == seen[stop:]


def test_two_user_turns_are_solved_by_the_rule(tmp_path):
  good = {'messages': [USER, {**SAYS, 'content': 'a'}]}
  bad = {'messages': [USER, USER, {**SAYS, 'content': 'a'}]}
  path = write(tmp_path / 'x', map(json.dumps, [good, bad, good]))
  with pytest.raises(ValueError, match='x:2: column "messages"'):
    feed.open_feed(config(path, 'error'), BYTE)
  found = feed.open_feed(config(path), BYTE)
  assert len(found.source) == 2
  assert '1 of 3 records cannot be trained on: left out' in found.told[0]


def test_a_first_record_that_is_bad(tmp_path):
  path = write(tmp_path / 'x', ['{', *map(json.dumps, GOOD)])
  assert len(feed.open_feed(config(path), BYTE).source) == 6


def test_reports_of_messages():
  for message, where, expected in (
    ('a.jsonl:12: column "prompt": null', '', ('a.jsonl', 12, None, 'prompt')),
    ('a: b.pq[3]: too long', 'a: b.pq[3]', ('a: b.pq', None, 3, None)),
    ('nothing known', '', ('nothing known', None, None, None)),
  ):
    found = bad_rows.report(message, where)
    keys = ('file', 'line', 'row_number', 'column')
    assert tuple(found.get(key) for key in keys) == expected
  with pytest.raises(ValueError, match='"skpi".* mean "skip"'):
    bad_rows.BadRows('skpi')


# Pairs as single answers

PAIRS = [
  {'prompt': 'p', 'chosen': 'good', 'rejected': 'bad', 'id': 1},
  {
    'chosen': [USER, {**SAYS, 'content': 'yes'}],
    'rejected': [USER, {**SAYS, 'content': 'no'}],
  },
]


def test_pairs_become_labelled_answers():
  first, second = (records.unpair(pair, 'f:1') for pair in PAIRS)
  assert first == [
    {'prompt': 'p', 'completion': 'good', 'label': True, 'id': 1},
    {'prompt': 'p', 'completion': 'bad', 'label': False, 'id': 1},
  ]
  assert [r['prompt'] for r in second] == [[USER], [USER]]
  assert [r['completion'][0]['content'] for r in second] == ['yes', 'no']
  source = unpaired.Unpaired(pipeline.ListSource(PAIRS[:1]))
  assert [r.columns for r in source] == first
  assert [r.where for r in source] == ['records[0]'] * 2
  source = unpaired.Unpaired(
    pipeline.ListSource([{**PAIRS[0], 'rejected': ''}])
  )
  with pytest.raises(ValueError, match='column "rejected": an empty'):
    source[0]


def test_losses_on_labels_train_on_files_of_pairs(tmp_path):
  empty = {**PAIRS[0], 'rejected': ''}
  path = write(tmp_path / 'x', map(json.dumps, [PAIRS[0], empty, PAIRS[0]]))
  labels = write(tmp_path / 'y', [
    json.dumps({'prompt': 'p', 'completion': 'c', 'label': True})
  ])  # fmt: skip
  c = config_lib.load('configs/preference.py:data=jsonl,recipe=kto,smoke', [
    ('tokenizer', 'byte'), ('data.on_bad_row', 'skip'),
    ('data.sources', json.dumps([str(path), str(labels)])),
  ])  # fmt: skip
  found = feed.open_feed(c, BYTE)
  # A pair is one bad row, and both of its answers go.
  assert len(found.source) == 5 and len(found.rows) == 1
  batch = next(found())
  assert set(batch['label'].tolist()) == {0.0, 1.0}
  assert len(rows.leaves(found.source)) == 2
