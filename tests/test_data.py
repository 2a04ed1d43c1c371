"""Sources, pipelines and what is shown of them: nothing lost, exact resume."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from posttrain_jax import show_data
from posttrain_jax.core.types import Batch
from posttrain_jax.data import formats, packing, pipeline, tokenizers

BYTE = tokenizers.ByteTokenizer()
CHAT = [
  {'role': 'user', 'content': '1+1'},
  {'role': 'assistant', 'content': '2'},
  {'role': 'user', 'content': '2+2'},
  {'role': 'assistant', 'content': '44'},
]


def write_jsonl(path, records):
  path.write_text('\n'.join(json.dumps(record) for record in records) + '\n')
  return str(path)


def numbered(count, size=3):
  """Text records of a letter each: 'aaa', 'bbb', ..; easy to tell apart."""
  return [{'text': chr(97 + i) * size} for i in range(count)]


def letters(batch):
  """The first letter of every segment in a batch."""
  first = (batch['segment_ids'] > 0) & (batch['positions'] == 0)
  return ''.join(BYTE.decode([t]) for t in batch['tokens'][first])


# Sources


def test_jsonl_source_reads_by_line(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(
    b'{"text": "one"}\n\n{"text": "tw\xc3\xb6"}'
  )
  write_jsonl(tmp_path / 'b.jsonl', [{'text': 'three'}])
  source = pipeline.JsonlSource(str(tmp_path / '*.jsonl'))
  assert len(source) == 3
  assert source[1].columns == {'text': 'twö'}
  assert source[1].where == f'{tmp_path}/a.jsonl:3'
  assert source[2].where == f'{tmp_path}/b.jsonl:1'


def test_jsonl_source_errors(tmp_path):
  path = tmp_path / 'train.jsonl'
  path.write_text('{"text": "a"}\n{"text": \n[1]\n')
  source = pipeline.JsonlSource(str(path))
  with pytest.raises(
    ValueError, match='train.jsonl:2: character 9: Expecting value'
  ):
    source[1]
  with pytest.raises(ValueError, match='train.jsonl:3: expected a JSON object'):
    source[2]
  with pytest.raises(ValueError, match='Did you mean ".*/train.jsonl"'):
    pipeline.JsonlSource(str(tmp_path / 'trian.jsonl'))
  path.write_text('\n')
  with pytest.raises(ValueError, match='no records in'):
    pipeline.JsonlSource(str(path))


# Pipelines


def make(records, **options):
  defaults = dict(batch_size=2, max_length=8)
  source = pipeline.ListSource(records)
  return pipeline.make_iterator(source, BYTE, **{**defaults, **options})


def test_batches_are_a_batch():
  batch = next(make(numbered(4), shuffle=False))
  Batch(**batch)
  np.testing.assert_array_equal(
    batch['tokens'],
    [[100, 100, 100, 1, 0, 0, 0, 0], [101, 101, 101, 1, 0, 0, 0, 0]],
  )
  np.testing.assert_array_equal(batch['mask'][0], [0, 1, 1, 1, 0, 0, 0, 0])


def test_every_epoch_has_every_example_once_in_another_order():
  seen = ''.join(letters(b) for b in make(numbered(6), num_epochs=3))
  epochs = [seen[i : i + 6] for i in (0, 6, 12)]
  assert len(seen) == 18
  assert all(sorted(epoch) == list('abcdef') for epoch in epochs)
  assert len(set(epochs)) > 1
  other = ''.join(letters(b) for b in make(numbered(6), num_epochs=3, seed=1))
  # Not the same orders shifted by an epoch, as seed + epoch would give.
  assert other != seen and other[:6] != epochs[1]


def test_last_batch_is_filled_with_padding():
  batches = list(make(numbered(3), num_epochs=1, shuffle=False))
  assert [letters(b) for b in batches] == ['ab', 'c']
  assert batches[1]['tokens'].shape == (2, 8)
  assert batches[1]['mask'][1].sum() == batches[1]['segment_ids'][1].sum() == 0


PIPELINES = {
  'padded': dict(records=numbered(7)),
  'ordered': dict(records=numbered(7), shuffle=False),
  'packed': dict(
    records=[{'text': chr(97 + i) * (1 + i % 5)} for i in range(11)],
    packing=True,
    packing_window=4,
  ),
  'drop': dict(
    records=[{'text': chr(97 + i) * (6 + i % 4)} for i in range(11)],
    overlong='drop',
  ),
}


@pytest.mark.parametrize('name', PIPELINES)
@pytest.mark.parametrize('num_epochs', [None, 2])
def test_resume_neither_replays_nor_skips(name, num_epochs):
  options = dict(PIPELINES[name], num_epochs=num_epochs)
  iterator = make(**options)
  states, batches = [iterator.get_state()], []
  for batch in iterator:
    batches.append(batch)
    states.append(iterator.get_state())
    if len(batches) == 9:  # beyond an epoch of each
      break
  for stop, state in enumerate(states):
    again = make(**options)
    if stop % 2:  # also into an iterator that has already moved on
      next(again)
    again.set_state(state)
    for expected in batches[stop:]:
      restored = next(again)
      for field in packing.FIELDS:
        np.testing.assert_array_equal(restored[field], expected[field])
  if num_epochs and len(batches) < 9:
    again.set_state(states[-1])
    with pytest.raises(StopIteration):
      next(again)


def test_exhausted_iterator_can_be_rewound():
  iterator = make(**PIPELINES['packed'], num_epochs=1)
  start = iterator.get_state()
  first = [letters(batch) for batch in iterator]
  end = iterator.get_state()
  iterator.set_state(start)
  assert [letters(batch) for batch in iterator] == first
  iterator.set_state(end)
  assert list(iterator) == []


def test_state_of_another_pipeline_is_refused():
  state = make(numbered(6)).get_state()
  with pytest.raises(ValueError, match='batch_size: 2 -> 3, seed: 0 -> 1'):
    make(numbered(6), batch_size=3, seed=1).set_state(state)


def test_packing_uses_fewer_rows_and_keeps_all():
  options = PIPELINES['packed']
  batches = list(make(**options, num_epochs=1))
  assert sorted(''.join(map(letters, batches))) == list('abcdefghijk')
  assert len(batches) < 6
  assert all(batch['tokens'].shape == (2, 8) for batch in batches)


KINDS_OF_ROWS = {
  **PIPELINES,
  'pairs': dict(
    records=[
      {'prompt': chr(97 + i), 'chosen': 'y' * (1 + i % 3), 'rejected': 'n'}
      for i in range(11)
    ]
  ),
  'packed pairs': dict(
    records=[
      {'prompt': chr(97 + i), 'chosen': 'y' * (1 + i % 3), 'rejected': 'n'}
      for i in range(11)
    ],
    packing=True,
    packing_window=4,
  ),
  'prompts': dict(
    records=[{'prompt': 'x' * i, 'answer': i} for i in range(1, 8)],
    kind='prompt',
  ),
}


def share(rows):
  """What one of several processes holds: some rows of every batch."""
  return lambda count: np.array([r for r in rows if r < count])


def flat(batch):
  return {'/'.join(map(str, k)): x
          for k, x in jax.tree_util.tree_leaves_with_path(batch)
          if isinstance(x, np.ndarray)}  # fmt: skip


@pytest.mark.parametrize(
  'name, num_epochs',
  [*((name, 2) for name in KINDS_OF_ROWS), ('padded', None), ('packed', None)],
)
def test_a_share_is_rows_of_the_batch_and_positions_go_anywhere(
  name, num_epochs
):
  options = dict(KINDS_OF_ROWS[name], num_epochs=num_epochs, batch_size=4)
  # Of two processes; of one of four; of one whose rows lie apart.
  shares = [[0, 1], [2, 3], [1], [0, 3]]
  if 'pairs' in name:  # a pair is two rows
    shares = [range(0, 4), range(4, 8), [1, 2, 3]]
  whole = make(**options)
  batches, states = [], [whole.get_state()]
  for batch in whole:
    batches.append(flat(batch))
    states.append(whole.get_state())
    if len(batches) == 6:
      break
  for rows in shares:
    stop = len(rows) % len(states)  # a place that the whole one was saved at
    own = make(**options, held=share(rows))
    own.set_state(states[stop])
    for expected, state in zip(batches[stop:], states[stop + 1 :]):
      got = flat(next(own))
      for key, x in expected.items():
        np.testing.assert_array_equal(got[key], x[own.part.records])
      assert json.loads(own.get_state()) == json.loads(state)
    if len(batches) < 6:
      assert next(own, None) is None


def test_unpaired_rows_are_whole_on_every_process():
  record = {'prompt': 'q', 'completion': 'a', 'label': True}
  own = make([record, {**record, 'label': False}], held=share([0]))
  assert own.part is None and next(own)['label'].shape == (2,)


def test_positions_of_one_of_several_processes_are_refused():
  state = json.loads(make(numbered(6)).get_state())
  state['identity'] |= {'process_index': 0, 'process_count': 2}
  with pytest.raises(ValueError, match='that of one of 2 processes'):
    make(numbered(6)).set_state(json.dumps(state))
  state['identity'] |= {'process_count': 1}
  make(numbered(6)).set_state(json.dumps(state))


def test_dropped_examples_are_passed_over():
  batches = list(make(**PIPELINES['drop'], num_epochs=1, shuffle=False))
  assert ''.join(map(letters, batches)) == 'abefij'
  with pytest.raises(ValueError, match='all 2 records are left out: longer'):
    next(make(numbered(2, size=9), overlong='drop'))


def test_errors_reach_the_caller_with_their_place():
  records = [*numbered(3), {'text': 'x' * 20}]
  with pytest.raises(ValueError, match=r'records\[3\]: 21 tokens do not fit'):
    list(make(records, shuffle=False, num_epochs=1))


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(batch_size=0), 'batch_size=0 must be at least 1'),
    (dict(overlong='cut'), 'unknown overlong "cut"'),
    (dict(kind='prompt'), 'no column "prompt"'),
  ],
)
def test_choices_that_do_not_go_together(options, message):
  with pytest.raises(ValueError, match=message):
    make(numbered(4), **options)


def test_other_kinds_of_batches():
  pair = {'prompt': 'q', 'chosen': 'yes', 'rejected': 'no'}
  batch = next(make([pair], num_epochs=1))
  assert batch['chosen']['mask'].sum(axis=1).tolist() == [4, 0]
  assert batch['rejected']['mask'].sum(axis=1).tolist() == [3, 0]

  record = {'prompt': 'q', 'completion': 'a', 'label': True}
  batch = next(make([record, {**record, 'label': False}], shuffle=False))
  assert batch['label'].tolist() == [1.0, 0.0]
  with pytest.raises(ValueError, match='not "unpaired"'):
    make([record], packing=True)

  prompts = [{'prompt': 'x' * i, 'answer': i} for i in range(1, 5)]
  for batch in make(prompts, num_epochs=1):
    # Prompt, identity and answer stay together through the shuffle.
    for row in range(2):
      size = int(batch['prompt_mask'][row].sum())
      assert batch['columns'][row] == {'answer': size}
      assert batch['prompt_id'][row] == size - 1


# Preflight and show_data


def test_preflight_counts():
  records = [
    {'prompt': 'ab', 'completion': 'c'},  # 4 tokens, 2 trained
    {'prompt': 'abcdefgh', 'completion': 'c'},  # 10 tokens: prompt only, cut
    {'prompt': 'a', 'completion': 'bcdefgh'},  # 9 tokens: 7 trained, cut
  ]
  source = pipeline.ListSource(records)

  def run(overlong):
    return pipeline.preflight(source, BYTE, max_length=8, overlong=overlong)

  report = run('truncate')
  assert (report['truncated'], report['empty_loss']) == (2, 1)
  assert (report['tokens'], report['loss_tokens']) == (4 + 8 + 8, 2 + 0 + 7)
  assert report['lengths'] == dict(min=4, p50=9, p90=10, p99=10, max=10)
  assert report['places']['empty_loss'] == ['records[1]']
  assert report['row_use']['padded'] == pytest.approx(20 / 24)
  assert run('drop')['dropped'] == run('error')['errors'] == 2
  assert run('drop')['kept'] == 1
  text = pipeline.format_report(json.loads(json.dumps(report)))
  assert (
    'WARNING no token is trained for 1 of 3 records; first: records[1]' in text
  )


def test_preflight_limit_is_spread():
  source = pipeline.ListSource(numbered(10))
  report = pipeline.preflight(source, BYTE, max_length=8, limit=5)
  assert (report['examples'], report['num_records']) == (5, 10)


def test_show_data_colours_trained_tokens():
  example = formats.tokenize({'prompt': 'q', 'completion': 'ab'}, BYTE)
  rows = packing.pad([example], 8, BYTE.pad_id)
  text = show_data.row_text({k: v[0] for k, v in rows.items()}, BYTE)
  assert text.plain == 'qab<eos> +4 padding'
  styles = {text.plain[s.start : s.end]: s.style for s in text.spans}
  assert styles['q'] == show_data.CONTEXT
  assert styles['a'] == styles['<eos>'] == show_data.TRAINED


@pytest.mark.parametrize('options', [[], ['--packing']])
def test_show_data_command(tmp_path, options):
  records = [{'messages': CHAT}, {'messages': CHAT[:2]}]
  path = write_jsonl(tmp_path / 'chat.jsonl', records)
  console = Console(record=True, width=200, file=io.StringIO())
  show_data.main(['--jsonl', path, '--num', '2', *options], console)
  text = console.export_text()
  assert '2 of 2 records looked at' in text
  assert ('next segment' in text) == bool(options)
  assert '44<eos>' in text


def test_show_data_error(tmp_path):
  path = write_jsonl(tmp_path / 'a.jsonl', [{'txt': 'a'}])
  with pytest.raises(SystemExit, match='a.jsonl:1: .*Did you mean "text"'):
    show_data.main(['--jsonl', path])
