"""Files of a run that change, or go, before it goes on or while it runs."""

import json
import os
import threading

import pytest

from posttrain_jax import train
from posttrain_jax.data import (
  bad_rows,
  content,
  files,
  prompts_task,
  sources,
  tokenizers,
  watching,
)
from posttrain_jax.rewards import entries
from posttrain_jax.rewards.judge import Judge
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import feed

BYTE = tokenizers.ByteTokenizer()


def rows(count):
  return [{'prompt': f'{i}+1=', 'completion': str(i)} for i in range(count)]


def write(path, records):
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return path


@pytest.fixture
def path(tmp_path):
  return write(tmp_path / 'x.jsonl', rows(20))


@pytest.fixture
def hurried(monkeypatch):
  """Looks at every batch, and waits for nothing."""
  monkeypatch.setattr(content, 'EVERY', 0.0)
  monkeypatch.setattr(content, 'PATIENCE', 0.0)
  monkeypatch.setattr(files, 'PAUSES', (0.0, 0.0))


def open_feed(path, **data):
  return feed.open_feed(
    config_lib.load('configs/sft.py:data=jsonl,smoke', [
      ('tokenizer', 'byte'), ('data.max_length', '16'),
      ('data.path', str(path)),
      *((f'data.{key}', value) for key, value in data.items()),
    ]),
    BYTE,
  )  # fmt: skip


def same_size(path):
  path.write_text(path.read_text().replace('"3"', '"7"'))


def longer(path):
  new = path.with_name('new.jsonl')
  write(new, [*rows(19), {'prompt': 'x', 'completion': 'another'}])
  with path.open('r+b') as file:  # never shorter, whoever reads meanwhile
    file.write(new.read_bytes())


def more(path):
  with path.open('a') as file:
    file.write(json.dumps({'prompt': 'x', 'completion': 'y'}) + '\n')


CHANGES = {
  more: 'x.jsonl ({} bytes then, {} now), 21 records, 20 then',
  same_size: 'x.jsonl (still {} bytes, of other content)',
  longer: 'x.jsonl ({} bytes then, {} now)',
}


def told(change, then, now):
  sizes = [f'{x:,}' for x in ((then,) if change is same_size else (then, now))]
  return CHANGES[change].format(*sizes)


@pytest.mark.parametrize('change', CHANGES)
def test_a_run_goes_on_only_with_its_files(change, path, capsys):
  iterator = open_feed(path)()
  next(iterator)
  state = iterator.get_state()
  open_feed(path)().set_state(state)
  then = path.stat().st_size
  change(path)
  said = told(change, then, path.stat().st_size)
  with pytest.raises(ValueError, match='not what it was when') as caught:
    open_feed(path)().set_state(state)
  assert said in str(caught.value) and 'on_change="warn"' in str(caught.value)
  assert capsys.readouterr().err == ''
  again = open_feed(path, on_change='warn')()
  again.set_state(state)
  assert said in capsys.readouterr().err
  next(again)


@pytest.mark.parametrize('packing', ['false', 'true'])
def test_fewer_records_than_were_read_are_told(packing, path, capsys):
  options = dict(num_epochs='1', on_change='warn', packing=packing)
  iterator = open_feed(path, **options)()
  state = iterator.get_state()
  for _ in iterator:
    state = iterator.get_state()
  write(path, rows(2))
  with pytest.raises(ValueError, match='the 2 records now: nothing is left'):
    open_feed(path, **options)().set_state(state)
  assert '2 records, 20 then' in capsys.readouterr().err


def test_a_touched_or_moved_file_is_the_same(path, capsys):
  iterator = open_feed(path)()
  next(iterator)
  state = iterator.get_state()
  expected = next(iterator)
  os.utime(path, (1, 1))
  other = path.rename(path.with_name('y.jsonl'))
  again = open_feed(other)()
  again.set_state(state)
  assert capsys.readouterr().err == ''
  assert (next(again)['tokens'] == expected['tokens']).all()


@pytest.mark.parametrize('rule', content.RULES)
@pytest.mark.parametrize('change', CHANGES)
def test_a_change_on_the_way_ends_the_run_or_is_told(
  change, rule, path, hurried, capsys
):
  iterator = open_feed(path, on_change=rule)()
  next(iterator)
  os.utime(path, (1, 1))  # its content is what it was
  next(iterator)
  change(path)
  os.utime(path, (2, 2))
  if rule == 'error':
    with pytest.raises(bad_rows.BadData, match='x.jsonl has changed while'):
      next(iterator)
    return
  next(iterator)
  next(iterator)
  assert capsys.readouterr().err.count('has changed while the run') == 1


@pytest.mark.parametrize('on_bad_row', bad_rows.RULES)
def test_a_file_that_goes_is_no_bad_row(on_bad_row, path, hurried):
  """Nothing is left out for it: the run ends, with the file's name."""
  iterator = open_feed(path, on_bad_row=on_bad_row)()
  next(iterator)
  path.unlink()
  with pytest.raises((bad_rows.BadData, files.Unreadable), match='any more'):
    for _ in range(20):
      next(iterator)


@pytest.mark.parametrize('harm', ['gone', 'cut'])
def test_reading_is_tried_again(harm, path, monkeypatch):
  source = sources.JsonlSource(str(path))
  expected, text = source[19], path.read_text()
  slept = []

  def back(seconds):
    if threading.current_thread() is not threading.main_thread():
      return  # a reader that an earlier test has left
    slept.append(seconds)
    if len(slept) == 2:
      path.write_text(text)

  monkeypatch.setattr(files.time, 'sleep', back)
  path.unlink() if harm == 'gone' else path.write_text(text[:-5])
  assert source[19] == expected and slept == list(files.PAUSES[:2])
  path.write_text(text[:-5])
  slept.clear()
  slept.extend([0] * 9)
  with pytest.raises(files.Unreadable, match=r'x\.jsonl:20: .* 5 bytes before'):
    source[19]


def test_a_look_that_dies_is_told():
  def look(pause):
    raise MemoryError('too much')

  watch = watching.Watch(look, lambda report: None)
  watch.start()
  watch.wait()
  with pytest.raises(bad_rows.BadData, match='ended early: MemoryError: too'):
    watch.check()


def test_prompts_of_a_file(path, hurried):
  def task(rule='error'):
    judge = Judge(entries.read([{'name': 'soft_overlong', 'cache': 2}]))
    return prompts_task.PromptsTask(
      sources.JsonlSource(str(path)),
      BYTE,
      judge,
      completion_length=8,
      on_change=rule,
    )

  first = task()
  then = json.loads(json.dumps(first.content()))
  first.check_content(then)
  first.check_content([])  # of a run that is older than the record
  first.check()
  longer(path)
  with pytest.raises(bad_rows.BadData, match='has changed while'):
    first.check()
  with pytest.raises(ValueError, match='not what it was when'):
    task().check_content(then)
  task('warn').check_content(then)


def test_very_many_files_are_one_digest(tmp_path):
  found = {f'{i}.jsonl': f'd{i}' for i in range(content.FILES + 1)}
  then = content.record(found)
  assert len(then) == 1
  with pytest.raises(ValueError, match='65 files'):
    content.check(then, content.record(found | {'3.jsonl': 'x'}), 'error')


@pytest.mark.parametrize('kind', ['sft', 'rl'])
def test_a_changed_file_is_foreseen(kind, path, tmp_path, capsys):
  """--dry_run says what the run would be refused for."""
  config = f'configs/{kind}.py:data=jsonl,smoke'
  flags = {'data.path': path, 'num_steps': 2, 'tokenizer': 'byte',
           'eval.num_problems': 0, 'checkpoint.every': 2}  # fmt: skip
  if kind == 'rl':
    write(path, [{'prompt': f'{i}+1=', 'answer': str(i)} for i in range(20)])
    flags |= {'rewards': 'exact_match'}
  argv = ['--config', config, '--workdir', str(tmp_path / 'run')]
  argv += [f'--config.{key}={value}' for key, value in flags.items()]
  assert train.main(argv) == 0
  longer = [x.replace('num_steps=2', 'num_steps=4') for x in argv]
  assert train.main([*longer, '--dry_run']) == 0
  assert 'goes on from step 2 to 4' in capsys.readouterr().out
  with path.open('a') as file:
    file.write(json.dumps({'prompt': 'x', 'completion': 'y', 'answer': 'y'}))
  for last in (['--dry_run'], []):
    assert train.main([*longer, *last]) == 2
    said = capsys.readouterr().err
    assert 'x.jsonl' in said and 'on_change="warn"' in said
  warned = [*longer, '--config.data.on_change=warn']
  assert train.main(warned) == 0
  assert 'the run goes on at its place' in capsys.readouterr().err
