"""A disk that is full: one sentence, and what was stored is as it was."""

import errno
import os

import pytest
from fault_tools import contents, noise, small_files

from posttrain_jax import log
from posttrain_jax.core import units
from posttrain_jax.log import board
from posttrain_jax.run import checkpoint, saving, stored
from posttrain_jax.run.saving import NoRoom, Saver


def test_a_save_that_finds_no_room(tmp_path):
  with Saver(tmp_path, keep=0) as saver:
    saver.save(1, noise(1))
    saver.wait()
  before = contents(tmp_path / checkpoint.FOLDER / '1')
  with (
    pytest.raises(NoRoom) as caught,
    Saver(tmp_path, keep=0) as saver,
    small_files(2**14),
  ):
    saver.save(2, noise(2))
    saver.wait()
  said = str(caught.value)
  assert said.startswith('no room for the checkpoint of step 2: the disk of ')
  assert ' left, and it takes about ' in said and '\n' not in said
  assert 'step 1 is as it was' in said
  assert contents(tmp_path / checkpoint.FOLDER / '1') == before
  assert os.listdir(tmp_path / checkpoint.FOLDER) == ['1']
  with Saver(tmp_path, keep=0) as saver:  # room again
    saver.save(2, noise(2))
  assert checkpoint.find(tmp_path) == (tmp_path, 2)


def test_a_save_is_not_begun_where_there_is_too_little(tmp_path, monkeypatch):
  with Saver(tmp_path, keep=0) as saver:
    assert saver.needed(noise(1)) == 2**18 + 4 + 16
    saver.save(1, noise(1))
    saver.wait()
    taken = saver.needed(None)
    assert 2**17 < taken < 2**19
    monkeypatch.setattr(saving, 'free_bytes', lambda folder: taken - 1)
    with pytest.raises(NoRoom, match='KiB left, and it takes about'):
      saver.save(2, noise(2))
    monkeypatch.setattr(saving, 'free_bytes', lambda folder: taken)
    saver.save(2, noise(2))
  assert stored.steps(tmp_path) == [2, 1]


def test_too_little_room_is_told_before_a_run(tmp_path, monkeypatch, capsys):
  with Saver(tmp_path, keep=0) as saver:
    saver.tell_room(noise(1))
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(saving, 'free_bytes', lambda folder: 100)
    saver.tell_room(noise(1))
  assert 'has 100 B left, and a checkpoint takes about 256.0 KiB' in (
    capsys.readouterr().err
  )


def test_sizes_and_full_disks_are_read():
  shown = [units.shown_bytes(x) for x in (0, 1023, 1024, 3.25 * 2**30, 2**50)]
  assert shown == ['0 B', '1023 B', '1.0 KiB', '3.2 GiB', '1024.0 TiB']
  inner = ValueError('...: No space left on device [file]')
  try:
    raise RuntimeError('save failed') from inner
  except RuntimeError as outer:
    assert saving.is_full(outer)
  assert saving.is_full(OSError(errno.EDQUOT, 'x'))
  assert not saving.is_full(ValueError('no space in the vocabulary'))


def test_metrics_that_find_no_room_are_told_and_whole(tmp_path):
  writer = log.Writer(tmp_path, {'config': {}}, tensorboard=False)
  writer.write(1, {'loss': 1.0})
  writer.flush()
  real = writer._file
  writer._file = open('/dev/full', 'w')  # noqa: SIM115
  writer.write(2, {'loss': 2.0})
  with pytest.raises(OSError, match='No space left'):
    writer.flush()
  with pytest.raises(OSError, match='No space left'):
    writer.close()
  real.close()
  assert [row['step'] for row in log.read(tmp_path)[1]] == [1]


def test_events_that_find_no_room_end_alone(tmp_path, capsys):
  """They are told, and nobody waits for them."""
  with log.Writer(tmp_path, {'config': {}}) as writer:
    inner = writer._board._writer._py_recordio_writer
    inner._writer = open('/dev/full', 'wb', buffering=0)  # noqa: SIM115
    for step in range(30):
      writer.write(step, {'loss': 1.0})
      writer.flush()
  said = capsys.readouterr().err
  assert said.count('gets no more events: No space left') == 1
  assert len(log.read(tmp_path)[1]) == 30
  assert board.FOLDER in said
