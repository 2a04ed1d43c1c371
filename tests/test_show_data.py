"""The command that shows what a learner would see of a file."""

import io
import json

import chat_folders
import pytest
import test_sources
from rich.console import Console

from posttrain_jax import show_data, trainers
from posttrain_jax.data import formats, tokenizers
from posttrain_jax.run import config as config_lib

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
  (['--dat', 'x'], r'unknown flag "--dat". Did you mean "--data"'),
  (['--data', 'x', '--data', 'y'], '--data is given twice'),
  (['--data', 'x', '--num', '0'], '--num=0'), ([], '--data is missing'),
  (['--split', 'train'], '--split=train is of --data, which is missing'),
  (['--config.data.path=x'], '--config.data.path without a --config FILE'),
  (['--config', 'configs/sft.py'], 'rows of a task'),
  (['--config', 'configs/sft.py:data=jsonl'], 'needs data.path'),
  (['--config', 'configs/sf.py', '--data', 'x'], 'mean "configs/sft.py"'),
])  # fmt: skip
def test_flags_that_are_wrong(argv, message):
  with pytest.raises(SystemExit, match=message):
    show_data.main(argv)


# ---- As a run would make them.


def shown(argv, capsys):
  """(what is printed, what is told)."""
  console = Console(record=True, width=400, file=io.StringIO())
  show_data.main([*map(str, argv)], console)
  return console.export_text(), capsys.readouterr().err


@pytest.mark.parametrize('kind', KINDS)
def test_rows_are_as_a_run_on_their_kind_makes_them(kind, tmp_path, capsys):
  path = write(tmp_path / 'x', [KINDS[kind]] * 3)
  name = show_data.TRAINED_BY.get(kind, show_data.SFT)
  config = config_lib.load(name)
  takes = trainers.kind(config.paradigm).records(config)
  assert kind in (takes or ('prompt',))
  text, told = shown(['--data', path], capsys)
  data = config.data
  width = data.max_length if takes else data.max_prompt_length
  assert told.startswith(
    f'note: rows as {name} makes them: '
    f'max_length={width}, overlong={data.overlong}, packing=False, on_bad_row='
  )
  assert f'rows of {width or len(KINDS[kind]["prompt"]) + 1} are ' in text


def test_flags_and_a_config_replace_them(tmp_path, capsys):
  path = write(tmp_path / 'x', [{'text': 'a' * n} for n in (3, 30)])
  config = ['--config', 'configs/sft.py:data=jsonl']
  text, told = shown(
    [*config, f'--config.data.path={path}', '--config.data.max_length=20',
     '--config.data.packing=true'], capsys,
  )  # fmt: skip
  assert 'max_length=20, overlong=error, packing=True' in told
  # Where the run would stop is said, and what there is of it shown.
  assert 'WARNING 1 of 2 records are too long: the run will stop there' in text
  assert f'first: {path}:2' in text and 'aaa<eos>' in text
  with pytest.raises(SystemExit, match='x:2: 31 tokens do not fit max_length='):
    lines(capsys, '--data', path, '--max_length', '20')
  text, told = shown(
    [*config, '--data', path, '--max_length=20', '--overlong=drop'], capsys
  )
  assert 'max_length=20 (--max_length), overlong=drop (--overlong)' in told
  assert '1 kept' in text and '1 of 2 records are too long: dropped' in text
  # The tokenizer, and how it reads, are the run's too.
  model = chat_folders.make('qwen2_5', tmp_path / 'model')
  path = write(tmp_path / 'x', [{'text': 'a<|im_end|>b'}])
  flags = [*config, '--data', path, f'--config.tokenizer={model}']
  with pytest.raises(SystemExit, match='names a special token'):
    shown(flags, capsys)
  text, _ = shown([*flags, '--config.data.special_text=control'], capsys)
  assert '3 tokens trained' in text or '4 tokens trained' in text


def test_splits_of_data(tmp_path, capsys):
  rows = test_sources.RECORDS
  for split, count in (('train', 3), ('test', 1)):
    test_sources.write_saved(tmp_path / 'd' / split, rows[:count])
  (tmp_path / 'd' / 'dataset_dict.json').write_text(
    '{"splits": ["train", "test"]}'
  )
  folder = tmp_path / 'd'
  for split, count in (('train', 3), ('test', 1)):
    flags = ['--data', folder, '--split', split]
    assert f'{count} of {count} records' in shown(flags, capsys)[0]
    flags = ['--data', f'{folder}:{split}', '--split', split]
    assert f'{count} of {count} records' in shown(flags, capsys)[0]
  path = write(tmp_path / 'x', [KINDS['text']])
  for data, told in (
    (f'{folder}:test', f'--split=train and --data={folder}:test: leave one'),
    (path, 'has no splits, so no "train"'),
    (json.dumps([path]), 'here each entry has its own'),
  ):
    with pytest.raises(SystemExit) as caught:
      shown(['--data', data, '--split', 'train'], capsys)
    assert told in str(caught.value)


def test_records_of_two_kinds_are_told_without_a_config(tmp_path, capsys):
  path = write(tmp_path / 'x', [{**KINDS['completion'], 'messages': TURNS}])
  _, said = lines(capsys, '--data', path, '--model', 'byte')
  assert 'both messages and prompt, completion are there' in said
  path = write(tmp_path / 'y', [KINDS['messages']])
  _, said = lines(capsys, '--data', path, '--model', 'byte')
  assert 'are there' not in said


def test_a_conversation_without_a_turn_is_told(tmp_path, capsys):
  folder = chat_folders.make('qwen2_5', tmp_path / 'model')
  path = write(tmp_path / 'x', [{'messages': []}, KINDS['messages']])
  argv = ['--data', path, '--model', str(folder)]
  with pytest.raises(SystemExit, match='there is no turn'):
    show_data.main(argv)
