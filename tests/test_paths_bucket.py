"""Paths in a bucket: what they do, and whole runs that live there."""

import json
import threading

import fake_gcs
import jax
import numpy as np
import pytest

from posttrain_jax import log
from posttrain_jax.core import paths
from posttrain_jax.data.bad_rows import BadRows
from posttrain_jax.log.header import make_header
from posttrain_jax.report.page import Report
from posttrain_jax.run import checkpoint, lease, loop
from posttrain_jax.run import config as config_lib


@pytest.fixture
def objects():
  with fake_gcs.served() as store:
    yield store


def both(tmp_path):
  """A folder on the disk, and one in the bucket."""
  return paths.path(tmp_path / 'x'), paths.path('gs://bucket/runs/x')


def test_a_bucket_does_what_a_disk_does(objects, tmp_path):
  for folder in both(tmp_path):
    folder.mkdir(parents=True, exist_ok=True)
    paths.write(folder / 'a.txt', 'one\n')
    paths.append(folder / 'a.txt', 'two\n')
    paths.append(folder / 'new.txt', 'é')
    (folder / 'deep' / 'er').mkdir(parents=True, exist_ok=True)
    with paths.written(folder / 'deep' / 'er' / 'b.bin') as file:
      file.write_bytes(b'\0\1')
    with paths.fetched(folder / 'deep' / 'er' / 'b.bin') as file:
      assert file.read_bytes() == b'\0\1'
    paths.create(folder / 'once', 'x')
    with pytest.raises(FileExistsError):
      paths.create(folder / 'once', 'y')
    assert (folder / 'a.txt').read_text() == 'one\ntwo\n'
    assert (folder / 'new.txt').read_text(encoding='utf-8') == 'é'
    assert (folder / 'a.txt').stat().st_size == 8
    names = sorted(
      '/'.join(f.relative_to(folder).parts)
      for f in folder.rglob('*')
      if not f.is_dir()
    )
    assert names == ['a.txt', 'deep/er/b.bin', 'new.txt', 'once']
    assert sorted(f.name for f in folder.iterdir()) == [
      'a.txt', 'deep', 'new.txt', 'once'
    ]  # fmt: skip
    assert [f.name for f in folder.glob('n*')] == ['new.txt']
    (folder / 'deep').rename(folder / 'moved')
    assert (folder / 'moved' / 'er' / 'b.bin').exists()
    assert not (folder / 'deep').exists()
    (folder / 'a.txt').replace(folder / 'once')
    assert (folder / 'once').read_text() == 'one\ntwo\n'
    assert not (folder / 'a.txt').exists()
    paths.remove_tree(folder / 'moved')
    paths.remove_tree(folder / 'never was')
    assert not (folder / 'moved').exists()
    with pytest.raises(FileNotFoundError):
      (folder / 'gone').read_text()
  assert all(key.startswith('bucket/runs/x/') for key in objects)


def test_other_urls_are_refused():
  with pytest.raises(ValueError, match='"ftp://" is not known; valid: gs://'):
    paths.path('ftp://there/x')
  assert str(paths.path('gs://b/x') / 'y') == 'gs://b/x/y'
  assert str(paths.path('gs://b/x/y').parent) == 'gs://b/x'
  assert paths.path('runs/x').parts == ('runs', 'x')


def test_metrics_and_bad_rows_in_a_bucket(objects):
  folder = 'gs://bucket/runs/m'
  header = make_header({'seed': 0})
  with log.Writer(folder, header, tensorboard=False) as writer:
    writer.write(1, {'loss': 1.0})
    writer.flush()
    assert len(log.read(folder)[1]) == 1
    writer.write(2, {'loss': 0.5})
  with log.Writer(folder, header, resume_step=1, tensorboard=False) as writer:
    writer.write(2, {'loss': 0.25})
  assert [row['loss'] for row in log.read(folder)[1]] == [1.0, 0.25]
  rows = BadRows('quarantine')
  rows.keep_in(folder)
  rows.take(0, 'a.jsonl:1: bad', lambda: 'x')
  rows.take(1, 'a.jsonl:2: bad', lambda: 'y')
  kept = objects['bucket/runs/m/quarantine.jsonl'].decode().splitlines()
  assert [json.loads(line)['line'] for line in kept] == [1, 2]
  report = Report('t', 's')
  report.write('gs://bucket/pages/index.html')
  assert b'<html' in objects['bucket/pages/index.html']


def test_one_writer_of_a_folder_in_a_bucket(objects):
  with lease.Lease('gs://bucket/runs/x') as held:
    with pytest.raises(ValueError, match='which is alive'):
      lease.Lease('gs://bucket/runs/x').__enter__()
    held.beat()
    held.check()
    objects['bucket/runs/x/lease.json'] = b'{"token": "other", "pid": 1}'
    with pytest.raises(lease.Lost):
      held.check()
  won, seven = [], [lease.Lease('gs://bucket/runs/y') for _ in range(7)]

  def take(one):
    try:
      one.__enter__()
      won.append(one)
    except ValueError:
      pass

  threads = [threading.Thread(target=take, args=(x,)) for x in seven]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(won) == 1
  won[0].__exit__()
  assert not any(key.startswith('bucket/runs/y') for key in objects)


def load(**items):
  return config_lib.load('configs/sft.py:smoke', [
    ('log.tensorboard', 'false'), ('eval.every', '2'),
    ('checkpoint.every', '1'), ('checkpoint.keep', '2'),
    ('checkpoint.best', 'eval/accuracy'),
    *((key.replace('__', '.'), value) for key, value in items.items()),
  ])  # fmt: skip


def rows_of(workdir):
  timed = ('time', 'perf/')
  return [
    {k: v for k, v in row.items() if not k.startswith(timed)}
    for row in log.read(workdir)[1]
  ]


@pytest.mark.long
def test_a_run_in_a_bucket_is_the_run_on_a_disk(objects, tmp_path, capsys):
  _, straight, _ = loop.train(load(), tmp_path / 'x')
  where = 'gs://bucket/runs/x'
  loop.train(load(num_steps='3'), where)
  # The newest step is cut off, and one was not finished: step 2 is gone on
  # from, and nothing of the rest is lost.
  wrong = [k for k in objects if '/checkpoints/3/' in k and '/d/' in k]
  objects[wrong[0]] = objects[wrong[0]][:-1]
  objects['bucket/runs/x/checkpoints/9/params/x'] = b'unfinished'
  _, resumed, _ = loop.train(load(), where)
  jax.tree.map(np.testing.assert_array_equal, straight.params, resumed.params)
  assert rows_of(where) == rows_of(tmp_path / 'x')
  said = capsys.readouterr().err
  assert 'its save was not finished' in said and 'step 2 is used' in said
  assert checkpoint.find(where)[1] == 4
  assert str(checkpoint.find(f'{where}/best')[0]) == where
  there = {key.split('/')[3] for key in objects if '/runs/x/' in key}
  assert there == {
    'best.json', 'checkpoints', 'config.json', 'damaged', 'metrics.jsonl'
  }  # fmt: skip
