"""The metrics file: order, resume, torn lines, strict JSON; live progress."""

import io
import json
import math
import re
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from posttrain_jax import log
from posttrain_jax.log import header as header_lib
from posttrain_jax.log import progress
from posttrain_jax.run import recorder

HEADER = {'config': {'lr': 0.1}, 'date_utc': 'Monday'}


def write_rows(workdir, steps, header=HEADER, **kwargs):
  kwargs.setdefault('tensorboard', False)
  with log.Writer(workdir, header, **kwargs) as writer:
    for step in steps:
      writer.write(step, {'loss': step / 2})


def test_rows_come_back_in_order_with_their_types(tmp_path):
  with log.Writer(tmp_path, HEADER, tensorboard=False) as writer:
    writer.write(1, {'loss': jnp.float32(0.1), 'count': np.int32(3)})
    writer.write_stacked(
      2, {'loss': jnp.arange(3.0), 'ok': np.array([True, False, True])}
    )
    writer.write(4, {'accuracy': jnp.bfloat16(0.5)}, 'eval')
  header, rows = log.read(tmp_path)
  assert header == HEADER
  times = [row.pop('time') for row in rows]
  assert times == sorted(times)
  assert rows == [
    {'step': 1, 'split': 'train', 'loss': 0.1, 'count': 3},
    {'step': 2, 'split': 'train', 'loss': 0.0, 'ok': True},
    {'step': 3, 'split': 'train', 'loss': 1.0, 'ok': False},
    {'step': 4, 'split': 'train', 'loss': 2.0, 'ok': True},
    {'step': 4, 'split': 'eval', 'accuracy': 0.5},
  ]
  assert type(rows[0]['count']) is int


class SlowScalar:
  """Like a device array whose value is not there yet."""

  shape = ()

  def __init__(self, value, ready):
    self.value, self.ready, self.copies = value, ready, 0

  def copy_to_host_async(self):
    self.copies += 1

  def __array__(self, dtype=None, copy=None):
    self.ready.wait(10)
    return np.asarray(self.value, np.float32)


def test_write_does_not_wait_and_keeps_the_order(tmp_path):
  ready = threading.Event()
  slow = SlowScalar(7.0, ready)
  writer = log.Writer(tmp_path, HEADER, tensorboard=False)
  writer.write(1, {'loss': slow})
  buffer = np.array([1.0, 2.0])
  writer.write_stacked(2, {'loss': buffer})
  buffer[:] = -1.0  # what was handed over must not change
  assert slow.copies == 1
  assert log.read(tmp_path)[1] == []
  ready.set()
  writer.flush()
  rows = log.read(tmp_path)[1]
  assert [(row['step'], row['loss']) for row in rows] == [
    (1, 7),
    (2, 1),
    (3, 2),
  ]
  writer.close()
  writer.close()
  with pytest.raises(ValueError, match='closed'):
    writer.write(4, {})


class LostScalar:
  """Like an array on a device that went away."""

  shape = ()

  def __array__(self, dtype=None, copy=None):
    raise RuntimeError('device lost')


def test_a_failure_in_the_thread_reaches_every_later_call(tmp_path):
  writer = log.Writer(tmp_path, HEADER, tensorboard=False)
  writer.write(1, {'loss': LostScalar()})
  for call in (
    writer.flush,
    lambda: writer.write(2, {'loss': 1.0}),
    writer.close,
  ):
    with pytest.raises(RuntimeError, match='device lost'):
      call()
  assert log.read(tmp_path)[1] == []


def test_the_loops_own_exception_is_not_masked(tmp_path):
  with (
    pytest.raises(KeyError, match='mine'),
    log.Writer(tmp_path, HEADER, tensorboard=False) as writer,
  ):
    writer.write(1, {'loss': LostScalar()})
    raise KeyError('mine')


def test_bad_metrics_are_named_at_the_call(tmp_path):
  with log.Writer(tmp_path, HEADER, tensorboard=False) as writer:
    with pytest.raises(ValueError, match=r'"loss" has shape \(2,\)'):
      writer.write(1, {'loss': jnp.ones(2)})
    with pytest.raises(ValueError, match='"loss" is text'):
      writer.write(1, {'loss': 'low'})
    with pytest.raises(ValueError, match='different lengths'):
      writer.write_stacked(1, {'a': np.ones(2), 'b': np.ones(3)})
    with pytest.raises(ValueError, match=r'\[K\] arrays'):
      writer.write_stacked(1, {'a': np.ones((2, 2))})
    with pytest.raises(ValueError, match='cannot be called "step"'):
      writer.write(1, {'step': 1.0})
    with pytest.raises(ValueError, match='Did you mean "train"'):
      writer.write(1, {}, 'trian')


def test_resume_drops_later_rows_and_a_torn_line(tmp_path):
  write_rows(tmp_path, [1, 2, 3, 4])
  path = tmp_path / 'metrics.jsonl'
  with path.open('a') as file:
    file.write('{"step": 5, "lo')
  assert [row['step'] for row in log.read(path)[1]] == [1, 2, 3, 4]
  # Another day, the same config: no second header.
  write_rows(tmp_path, [3], HEADER | {'date_utc': 'Friday'}, resume_step=2)
  header, rows = log.read(path)
  assert header == HEADER
  assert [row['step'] for row in rows] == [1, 2, 3]


def test_a_changed_config_adds_a_header(tmp_path):
  write_rows(tmp_path, [1])
  changed = {'config': {'lr': 0.2}, 'date_utc': 'Friday'}
  write_rows(tmp_path, [2], changed, resume_step=1)
  header, rows = log.read(tmp_path)
  assert header == HEADER | {'resumed_with': [changed]}
  assert len(rows) == 2
  first = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[0])
  assert first == {'header': HEADER}


def test_a_new_run_keeps_the_old_file_aside(tmp_path):
  write_rows(tmp_path, [1, 2])
  write_rows(tmp_path, [9])
  assert [row['step'] for row in log.read(tmp_path)[1]] == [9]
  old = log.read(tmp_path / 'metrics.old.jsonl')[1]
  assert [row['step'] for row in old] == [1, 2]


def test_non_finite_values_are_strict_json(tmp_path):
  values = {'a': math.nan, 'b': jnp.float32(jnp.inf), 'c': -math.inf}
  header = {'config': {'limit': math.inf}}
  with log.Writer(tmp_path, header, tensorboard=False) as writer:
    writer.write(1, values)

  def refuse(constant):
    raise AssertionError(constant)

  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line, parse_constant=refuse) for line in lines]
  assert records[1]['a'] == 'nan' and records[1]['c'] == '-inf'
  (row,) = log.read(tmp_path)[1]
  assert math.isnan(row['a'])
  assert (row['b'], row['c']) == (math.inf, -math.inf)


@pytest.mark.parametrize(
  'text, message',
  [
    ('{"step": 1}\n', ':1: the first line is not a header'),
    ('{"header": {}}\nnot json\n{"step": 2}\n', ':2: not JSON'),
    ('{"header": {}}\n{"loss": 2}\n', ':2: neither a header nor a row'),
    ('', ':1: the file is empty'),
  ],
)
def test_bad_files_are_named_with_the_line(tmp_path, text, message):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(text)
  with pytest.raises(ValueError, match=f'metrics.jsonl{message}'):
    log.read(path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='none.jsonl'):
    log.read(tmp_path / 'none.jsonl')


def test_header_says_what_ran():
  header = log.make_header({'seed': 3, 'function': len, 'shape': (1, 2)})
  assert json.loads(json.dumps(header, allow_nan=False)) == header
  assert header['seed'] == 3
  assert header['config']['shape'] == [1, 2]
  assert header['versions']['jax'] == jax.__version__
  assert header['devices']['platform'] == 'cpu'
  assert header['devices']['count'] == jax.device_count()
  assert header['date_utc'].endswith('+00:00')


def test_git_state_is_none_outside_a_checkout(tmp_path):
  source = tmp_path / 'module.py'
  source.write_text('')
  assert header_lib.git_state(source) is None


def test_tensorboard_events_are_written(tmp_path):
  with log.Writer(tmp_path, HEADER) as writer:
    writer.write(1, {'loss': 0.5})
    writer.write(1, {'eval/accuracy': 0.5}, 'eval')
  (events,) = (tmp_path / 'tensorboard').iterdir()
  content = events.read_bytes()
  assert b'train/loss' in content
  assert b'eval/accuracy' in content and b'eval/eval' not in content


def test_wandb_is_asked_for_by_name_when_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ImportError, match=r'posttrain_jax\[wandb\]'):
    log.Writer(tmp_path, HEADER, wandb_project='p')


def test_wandb_gets_the_rows_and_the_same_run_on_resume(tmp_path, monkeypatch):
  ids, logged = [], []
  run = types.SimpleNamespace(
    log=lambda row, step: logged.append((step, row)), finish=lambda: None
  )
  fake = types.SimpleNamespace(
    util=types.SimpleNamespace(generate_id=lambda: f'id{len(ids)}'),
    init=lambda **kwargs: ids.append(kwargs['id']) or run,
  )
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  write_rows(tmp_path, [1], wandb_project='p')
  write_rows(tmp_path, [2], wandb_project='p', resume_step=1)
  assert ids == ['id0', 'id0']
  assert logged == [(1, {'train/loss': 0.5}), (2, {'train/loss': 1.0})]


def test_progress_in_a_pipe_is_plain_lines():
  file = io.StringIO()
  with progress.Progress(file) as live:
    handle = live.task('sft [a]', 100)
    for step in range(100):
      live.update(handle, step + 1, {'completions/mean_length': 12.345})
  lines = file.getvalue().splitlines()
  assert len(lines) == 10
  assert lines[0].startswith('sft [a] 10/100  elapsed 0:00  left')
  assert lines[0].endswith('mean_length 12.3')
  assert 'done' in lines[-1] and '\x1b' not in file.getvalue()


def test_an_old_evaluation_is_shown_with_its_step():
  """Of the last one, what a run ends with is the line that ends it."""
  file = io.StringIO()
  with progress.Progress(file) as live:
    parts = [None, live, live.task('sft', 100), None, None]
    shown = recorder.Recorder(*parts)
    shown.show(0, {'eval/perplexity': 900.0})
    for step in range(1, 101):
      shown.show(step, {'loss': 0.5})
    shown.show(100, {'eval/perplexity': 7.0})
  lines = file.getvalue().splitlines()
  assert len(lines) == 11
  assert all(
    x.endswith('perplexity 900 (step 0) loss 0.500') for x in lines[:10]
  )
  assert '100/100' in lines[-1] and lines[-1].endswith(
    'perplexity 7 loss 0.500'
  )


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_progress_in_a_terminal_keeps_finished_bars(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '100')
  file = Terminal()
  with progress.Progress(file) as live:
    for name in ('first', 'second'):
      live.update(live.task(name, 5), 5, {'loss': 0.5})
  last_view = file.getvalue().split('\x1b[2K')[-2:]
  assert 'first' in ''.join(last_view) and 'second' in ''.join(last_view)
  assert '5/5' in file.getvalue() and 'loss 0.500' in file.getvalue()


def test_a_piped_table_keeps_its_rows_whole(monkeypatch):
  monkeypatch.setenv('FORCE_COLOR', '1')
  file = io.StringIO()
  progress.table('T', ['arm', 'tokens'], [['x' * 150, 1_234_567]], file)
  assert any(
    'x' * 150 in line and '1.23M' in line
    for line in file.getvalue().splitlines()
  )
  assert '\x1b' not in file.getvalue()


@pytest.mark.parametrize(
  'value, text',
  [
    (0, '0'), (0.12345, '0.123'), (12.0, '12'), (1234.5, '1,234'),
    (2.5e9, '2.50B'), (999_999, '999,999'), (1.5e-5, '1.50e-05'),
    (math.nan, 'nan'), (-0.5, '-0.500'), ('text', 'text'), (None, ''),
  ],
)  # fmt: skip
def test_short(value, text):
  assert progress.short(value) == text


def test_clock():
  assert progress.clock(59.6) == '1:00'
  assert progress.clock(3723) == '1:02:03'


def test_what_is_left_is_told_by_the_steps_of_this_session(monkeypatch):
  """Neither steps before a resume nor the call that compiles count."""
  out, now = io.StringIO(), [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  live = progress.Progress(out)
  handle = live.task('x', 100)  # goes on from step 60
  for step, seconds in ((61, 50.0), (71, 60.0), (81, 70.0)):
    now[0] = seconds
    live.update(handle, step)
  lines = out.getvalue().splitlines()
  assert 'left ?' in lines[0]
  assert 'left 0:29' in lines[1] and 'left 0:19' in lines[2]


def test_bars_say_what_lines_say(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '120')
  now, piped, terminal = [0.0], io.StringIO(), Terminal()
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  both = [progress.Progress(file) for file in (piped, terminal)]
  # One that goes on from step 60; updates between its lines count alike.
  handles = [live.task('x', 100) for live in both]
  steps = (61, 62, 66, 71, 81, 99, 100)
  for at, step in enumerate(steps):
    now[0] = 50.0 + 13.0 * at
    for live, handle in zip(both, handles):
      live.update(handle, step, {'loss': 0.5})
    bars = io.StringIO()
    view = both[1]._view._bars
    Console(file=bars, width=120).print(view.get_renderable())
    shown = re.search(r'elapsed \S+ +(left \S+|done)', bars.getvalue())[0]
    assert shown.split() == piped.getvalue().splitlines()[-1].split()[2:-2]
  assert 'done' in shown
  assert len(piped.getvalue().splitlines()) == len(steps)
