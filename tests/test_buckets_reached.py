"""Buckets that fail, and copies that several processes make."""

import concurrent.futures
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import chat_folders
import fake_gcs
import pytest
from front_door import command

from posttrain_jax.core import buckets, hub, paths
from posttrain_jax.data import sources, tokenizers
from posttrain_jax.log import board

AT = 'gs://bucket'
LINE = json.dumps({'prompt': 'a', 'completion': 'b'}).encode()


class HttpError(Exception):
  """As that of gcsfs: no OSError."""


def fails(*_, **__):
  raise HttpError('503, Service Unavailable\nmore')


@pytest.fixture
def objects(tmp_path, monkeypatch):
  monkeypatch.setenv(buckets.CACHE, str(tmp_path / 'cache'))
  buckets._folder.cache_clear()
  with fake_gcs.served() as store:
    yield store
  buckets._folder.cache_clear()


@pytest.fixture
def no_listing(objects, monkeypatch):
  for name in ('info', 'ls', 'isdir', 'exists'):
    monkeypatch.setattr(fake_gcs.FileSystem, name, fails)


def copies(tmp_path):
  root = tmp_path / 'cache' / buckets.FOLDER
  beside = (buckets.LOCKS, buckets.HALVES)
  return [x for x in root.glob('*/*') if x.parent.name not in beside]


@pytest.mark.parametrize(
  'read',
  [
    lambda: hub.folder(f'{AT}/a'),
    lambda: hub.tokenizer(f'{AT}/a/tokenizer.json'),
    lambda: buckets.local(f'{AT}/a'),
    lambda: buckets.local(f'{AT}/a/*.jsonl'),
    lambda: sources.open_source(f'{AT}/a:train'),
    lambda: sources.open_source(f'{AT}/a.jsonl'),
  ],
)
def test_what_a_listing_raises_has_the_url(no_listing, read):
  with pytest.raises(ValueError) as error:
    read()
  said = str(error.value)
  assert said.startswith(f'{AT}/a') and '\n' not in said
  assert said.endswith('cannot be read: 503, Service Unavailable')


COMMANDS = {
  'evaluate': ['--model', f'{AT}/a', '--data', f'{AT}/a.jsonl'],
  'show_data': ['--data', f'{AT}/a.jsonl'],
  'sample': ['--model', f'{AT}/a', '--prompt', 'x'],
  'export': ['--checkpoint', f'{AT}/a', '--out', 'out'],
  'train': command('sft', f'{AT}/a', f'{AT}/run') + ['--dry_run'],
  'compare': [
    '--models', f'{AT}/a', 'b', '--data', 'x.jsonl', '--out', f'{AT}/page'
  ],
}  # fmt: skip


def slow_to_import(names):
  """Names of commands as parameters; one draws figures."""
  long = pytest.mark.long
  return [pytest.param(x, marks=long) if x == 'compare' else x for x in names]


@pytest.mark.parametrize('name', slow_to_import(COMMANDS))
def test_commands_say_which_bucket_failed(
  no_listing, name, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  main = importlib.import_module(f'posttrain_jax.{name}').main
  try:
    assert main(COMMANDS[name]) == 2
  except SystemExit as ended:
    assert ended.code == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert said.startswith(f'error: {AT}/')
  assert 'cannot be read: 503, Service Unavailable' in said


def test_a_folder_of_plain_files_is_refused_before_it_is_copied(
  objects, tmp_path
):
  objects['bucket/data/a.jsonl'] = LINE
  objects['bucket/data/deep/state.json'] = b'{}'
  for spec in (f'{AT}/data', f'{AT}/data:train'):
    with pytest.raises(ValueError) as error:
      sources.open_source(spec)
    assert f'"{AT}/data" is a folder' in str(error.value)
    assert f'{AT}/data/*.jsonl' in str(error.value)
  assert not (tmp_path / 'cache').exists()
  # One that TFDS has prepared may lie deeper.
  objects['bucket/tfds/name/1.0.0/dataset_info.json'] = b'{}'
  assert buckets.local(f'{AT}/tfds') and len(copies(tmp_path)) == 1


def test_all_who_read_share_one_copy(objects, tmp_path, monkeypatch):
  """A lock is of whoever opened it: threads stand for processes here."""
  for name in 'ab':
    objects[f'bucket/data/{name}.jsonl'] = LINE
  copy, fetched = buckets._copy, []

  def slow(remote, source, target):
    fetched.append(str(source))
    time.sleep(0.1)
    copy(remote, source, target)

  monkeypatch.setattr(buckets, '_copy', slow)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(buckets.local, [f'{AT}/data/*.jsonl'] * 4))
  assert sorted(fetched) == [f'{AT}/data/{name}.jsonl' for name in 'ab']
  assert all(x == found[0] for x in found)
  assert sorted(x.name for x in copies(tmp_path)) == ['a.jsonl', 'b.jsonl']


def test_a_lock_goes_with_the_process_that_held_it(objects, tmp_path):
  objects['bucket/a.jsonl'] = LINE
  (place,) = buckets.local(f'{AT}/a.jsonl')
  os.remove(place)
  lock = tmp_path / 'cache' / buckets.FOLDER / buckets.LOCKS
  lock /= Path(place).parent.name
  held = (
    'import fcntl, sys, time; file = open(sys.argv[1]); '
    'fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); time.sleep(60)'
  )
  words = [sys.executable, '-c', held, str(lock)]
  with (
    concurrent.futures.ThreadPoolExecutor(1) as pool,
    subprocess.Popen(words, stdout=subprocess.PIPE) as other,
  ):
    try:
      other.stdout.readline()
      waits = pool.submit(buckets.local, f'{AT}/a.jsonl')
      time.sleep(0.2)
      assert not waits.done() and not copies(tmp_path)
    finally:
      other.kill()
    assert waits.result(30) == [place]
  assert Path(place).read_bytes() == LINE


def test_halves_of_the_killed_are_swept(objects, tmp_path, monkeypatch):
  objects['bucket/a.jsonl'] = LINE
  halves = tmp_path / 'cache' / buckets.FOLDER / buckets.HALVES
  halves.mkdir(parents=True)
  for name, age in (('old', 2 * buckets.STALE), ('new', 0)):
    (halves / name).write_bytes(b'half')
    then = time.time() - age
    os.utime(halves / name, (then, then))
  with monkeypatch.context() as patch:

    def breaks(remote, source, target):
      Path(target).write_bytes(b'half')
      raise HttpError('503')

    patch.setattr(buckets, '_copy', breaks)
    with pytest.raises(ValueError, match='cannot be copied to'):
      buckets.local(f'{AT}/a.jsonl')
  assert os.listdir(halves) == ['new'] and not copies(tmp_path)
  assert Path(*buckets.local(f'{AT}/a.jsonl')).read_bytes() == LINE
  assert os.listdir(halves) == ['new']


def test_a_copy_that_was_deleted_is_made_anew(objects):
  objects['bucket/model/config.json'] = b'{}'
  place = hub.folder(f'{AT}/model')
  os.remove(f'{place}/config.json')
  os.rmdir(place)
  assert hub.folder(f'{AT}/model') == place
  assert os.listdir(place) == ['config.json']


def test_a_tokenizer_by_its_file(objects, tmp_path):
  here = chat_folders.make('qwen2_5', tmp_path / 't')
  for file in filter(Path.is_file, here.iterdir()):
    objects[f'bucket/t/{file.name}'] = file.read_bytes()
  place = paths.path(f'{AT}/t/tokenizer.json')
  with pytest.raises(NotADirectoryError):
    list(place.iterdir())
  assert not list(place.rglob('*'))
  there = tokenizers.load(str(place))
  assert there.stops == tokenizers.load(here / 'tokenizer.json').stops
  with pytest.raises(ValueError, match=f'unknown tokenizer "{AT}/none.json"'):
    tokenizers.load(f'{AT}/none.json')


def test_events_are_sent_again(objects, monkeypatch, capsys):
  monkeypatch.setattr(paths.Grown, 'EVERY', 0.0)
  events = board.Board(f'{AT}/run', 0)
  with monkeypatch.context() as patch:
    patch.setattr(fake_gcs.FileSystem, '_open', fails)
    for step in (1, 2):
      events.add({'loss': 1.0}, step, 0.0)
  said = capsys.readouterr().err
  assert said.count('WARNING') == 1
  assert f'{AT}/run/tensorboard cannot be written: 503' in said
  assert not objects
  events.add({'loss': 1.0}, 3, 0.0)
  events.close()
  (sent,) = objects.values()
  assert sent.count(b'loss') == 3 and not capsys.readouterr().err


WRITERS = {
  'sample': ['--model', 'none', '--data', f'{AT}/a.jsonl', '--out', f'{AT}/o'],
  'export': ['--checkpoint', 'none', '--out', f'{AT}/o'],
  'compare': [
    '--models', 'a', 'b', '--data', f'{AT}/a.jsonl', '--out', f'{AT}/o'
  ],
}  # fmt: skip


@pytest.mark.parametrize('name', slow_to_import(WRITERS))
def test_a_bucket_is_tried_before_the_long_work(
  objects, name, monkeypatch, capsys
):
  buckets.writable(f'{AT}/o')
  assert not objects
  objects['bucket/a.jsonl'] = LINE
  opened = fake_gcs.FileSystem._open

  def read_only(self, path, mode='rb', **kwargs):
    return fails() if mode == 'wb' else opened(self, path, mode, **kwargs)

  monkeypatch.setattr(fake_gcs.FileSystem, '_open', read_only)
  main = importlib.import_module(f'posttrain_jax.{name}').main
  assert main(WRITERS[name]) == 2
  said = capsys.readouterr().err
  assert said.startswith(f'error: {AT}/o')
  assert 'cannot be written: 503, Service Unavailable' in said
