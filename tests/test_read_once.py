"""A record is read once on its way to tokens, and epochs are counted once."""

import collections
import json

import pytest

from posttrain_jax.data import pipeline, records, tokenizers
from posttrain_jax.data.bad_rows import BadRows
from posttrain_jax.data.unpaired import Unpaired
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import feed, opening

BYTE = tokenizers.ByteTokenizer()
CHAT = [
  {'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'},
]  # fmt: skip
ROWS = {
  'text': {'text': 'some text'},
  'messages': {'messages': CHAT},
  'completion': {'prompt': 'q', 'completion': 'a'},
  'preference': {'prompt': 'q', 'chosen': 'a', 'rejected': 'b'},
  'unpaired': {'prompt': 'q', 'completion': 'a', 'label': True},
  'prompt': {'prompt': 'q'},
}


@pytest.fixture
def reads(monkeypatch):
  """{kind: how often `records.read` ran}."""
  counts = collections.Counter()
  plain = records.read

  def read(record, kind, *args, **kwargs):
    counts[kind] += 1
    return plain(record, kind, *args, **kwargs)

  monkeypatch.setattr(records, 'read', read)
  return counts


def source_of(kind, count=6):
  return pipeline.ListSource([dict(ROWS[kind], id=i) for i in range(count)])


@pytest.mark.parametrize('kind', ROWS)
def test_a_look_reads_every_record_once(kind, reads):
  report = pipeline.preflight(source_of(kind), BYTE, max_length=32)
  assert report['kept'] == 6
  assert reads == {kind: 6}


@pytest.mark.parametrize('kind', ROWS)
def test_batches_read_every_record_once(kind, reads):
  batches = lambda bad: list(
    pipeline.make_iterator(
      source_of(kind), BYTE, batch_size=2, max_length=32, num_epochs=1, bad=bad
    )
  )
  assert len(batches(None)) == 3 and reads == {kind: 6}
  reads.clear()
  assert len(batches(BadRows('skip'))) == 3 and reads == {kind: 6}


def test_a_pair_is_read_once_for_its_two_answers(reads):
  source = Unpaired(source_of('preference'))
  report = pipeline.preflight(source, BYTE, max_length=32)
  assert report['kept'] == 12
  # Beside what tells the kind of the first record, and so of all.
  assert reads['preference'] <= 7 and reads['unpaired'] == 12
  good, bad = source[4], source[5]
  assert (good.columns['completion'], bad.columns['completion']) == ('a', 'b')
  assert good.columns['id'] == bad.columns['id'] == 2
  good.columns['completion'] = 'changed'
  assert source[4].columns['completion'] == 'a'


def config(path, **items):
  items = {
    'tokenizer': 'byte', 'data.path': path, 'data.max_length': 16,
    'num_steps': 0, 'data.num_epochs': 2, 'data.packing': 'true', **items,
  }  # fmt: skip
  return config_lib.load(
    'configs/sft.py:data=jsonl,smoke', [(k, str(v)) for k, v in items.items()]
  )


def test_packed_epochs_are_counted_once(tmp_path, reads):
  path = tmp_path / 'x.jsonl'
  write = lambda count: path.write_text(
    ''.join(
      json.dumps({'prompt': f'{i}', 'completion': 'ab'}) + '\n'
      for i in range(count)
    )
  )
  write(40)
  count = lambda c: feed.num_steps(feed.open_feed(c, BYTE))
  c = config(path)
  first = count(c)
  assert reads['completion'] == 40 + 2 * 40  # the look, and two epochs
  # Another build of the same run, as of the next seed of a sweep, reads none.
  opened = opening.open_records(c.data)
  assert opened is opening.open_records(c.data)
  assert count(config(path)) == first and reads['completion'] == 120
  for other in (
    config(path, **{'prompts_per_step': 4}),
    config(path, **{'data.num_epochs': 4}),
    config(path, **{'seed': 1}),
  ):
    before = reads['completion']
    assert count(other) and reads['completion'] > before
  assert first < count(config(path, **{'data.num_epochs': 4})) <= 2 * first
  write(80)  # another file
  assert first < count(config(path)) <= 2 * first
