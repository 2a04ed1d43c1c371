"""The command that shows what a learner would see of a file."""

import io
import json

import pytest
from rich.console import Console

from posttrain_jax import show_data
from posttrain_jax.data import formats, tokenizers

BYTE = tokenizers.ByteTokenizer()
TURNS = [
  {'role': 'user', 'content': '1+1'}, {'role': 'assistant', 'content': '2'},
]  # fmt: skip
KINDS = {
  'text': {'text': 'ab'},
  'messages': {'messages': TURNS},
  'completion': {'prompt': 'q', 'completion': 'a'},
  'preference': {'prompt': 'q', 'chosen': 'yes', 'rejected': 'no'},
  'unpaired': {'prompt': 'q', 'completion': 'a', 'label': False},
  'prompt': {'prompt': 'q'},
}


def write(path, records):
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return str(path)


def lines(capsys, *argv):
  show_data.main([*argv, '--json'])
  said = capsys.readouterr()
  return [json.loads(line) for line in said.out.splitlines()], said.err


@pytest.mark.parametrize('kind', KINDS)
def test_json_holds_the_tokens_of_every_record(kind, tmp_path, capsys):
  # More than a batch of them, and a last batch that is filled.
  path = write(tmp_path / 'x', [KINDS[kind]] * (show_data.ROWS + 3))
  found, _ = lines(capsys, '--data', path, '--model', 'byte')
  example = formats.tokenize(KINDS[kind], BYTE)
  sides = ('chosen', 'rejected') if kind == 'preference' else ('',)
  for side in sides:
    part = example[side] if side else example
    row = found[0][side] if side else found[0]
    assert row['tokens'] == part['tokens'] and row['mask'] == part['loss_mask']
  assert found == [found[0]] * (show_data.ROWS + 3)
  assert found[0].get('label') == KINDS[kind].get('label')


def test_json_of_some_of_packed_and_of_bad_rows(tmp_path, capsys):
  records = [{'text': chr(97 + i) * 3} for i in range(6)]
  path = write(tmp_path / 'x', records)
  found, _ = lines(capsys, '--jsonl', path, '--tokenizer', 'byte', '--num', '2')
  assert [BYTE.decode(row['tokens']) for row in found] == ['aaa', 'bbb']
  found, _ = lines(capsys, '--data', path, '--packing', '--max_length', '8')
  assert len(found) == 3 and found[0]['segment_ids'] == [1] * 4 + [2] * 4
  write(tmp_path / 'x', [*records, {'text': ''}])
  with pytest.raises(SystemExit, match='x:7: column "text": an empty string'):
    show_data.main(['--data', path, '--max_length', '8'], Console(quiet=True))
  found, err = lines(capsys, '--data', path, '--on_bad_row', 'skip')
  assert len(found) == 6 and '1 records cannot be trained on' in err


def test_what_is_shown_of_a_mixture(tmp_path):
  first = write(tmp_path / 'x', [KINDS['text']] * 3)
  second = write(tmp_path / 'y', [KINDS['completion'], {'prompt': 'p'}])
  spec = json.dumps([
    {'path': first, 'weight': 1}, {'path': second, 'weight': 2},
  ])  # fmt: skip
  console = Console(record=True, width=200, file=io.StringIO())
  show_data.main(['--data', spec, '--on_bad_row', 'skip'], console)
  text = console.export_text()
  assert 'row 2: 2 tokens trained' in text
  assert (
    '4 of 5 records looked at, kind "completion+text": 4 kept, 1 bad' in text
  )
  assert 'WARNING 1 of 5 records cannot be trained on: left out; first:' in text


@pytest.mark.parametrize('argv, message', [
  (['--data', '[{"path": 1}]'], r'--data\[0\].path=1 is no text'),
  (['--data', '[{'], 'is no JSON'), (['--data', 'nowhere'], 'no file matches'),
  (['--data', 'x', '--model', 'bite'], 'no file matches'),
  (['--data', 'x', '--num', '0'], '--num=0'),
])  # fmt: skip
def test_flags_that_are_wrong(argv, message):
  with pytest.raises(SystemExit, match=message):
    show_data.main(argv)
