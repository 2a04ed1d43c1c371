"""Numbers of speed and memory, and the trace of some steps."""

import numpy as np
import pytest

from posttrain_jax.run import auto, build, profile, speed
from posttrain_jax.run import config as config_lib


@pytest.mark.parametrize(
  'kind, peak',
  [
    ('TPU v5 lite', 197e12),
    ('TPU v5', 459e12),
    ('TPU v6 lite', 918e12),
    ('NVIDIA H100 80GB HBM3', 989e12),
    ('NVIDIA A100-SXM4-40GB', 312e12),
    ('NVIDIA H1000', None),
    ('cpu', None),
  ],
)
def test_peaks_are_those_of_the_device(kind, peak):
  assert speed._peak(kind) == peak


def test_metrics_of_steps():
  made = speed.Speed(flops=6e12, peak=24e12)
  found = made.metrics(np.array([100.0, 50.0]), seconds=0.5)
  np.testing.assert_allclose(found['perf/tokens_per_second'], [200, 100])
  np.testing.assert_allclose(found['perf/flops_per_second'], [12e12] * 2)
  np.testing.assert_allclose(found['perf/mfu'], [0.5] * 2)
  assert found['perf/peak_memory'][0] > 1e7  # this process has jax in it
  assert 'perf/mfu' not in speed.Speed(6e12, None).metrics(np.ones(1), 1.0)


@pytest.mark.parametrize('text', ['10', '3:3', '5:4', 'a:b', '1:2:3', '-1:2'])
def test_windows_that_are_none(text):
  with pytest.raises(ValueError, match='FIRST:LAST'):
    profile.window(text)


def test_the_trace_is_of_the_steps_asked_for(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(
    'jax.profiler.start_trace', lambda path: said.append(('start', path))
  )
  monkeypatch.setattr('jax.profiler.stop_trace', lambda: said.append(('stop',)))
  with profile.Profiler('2:4', tmp_path) as profiler:
    stops = [profiler.next_stop(s) for s in (0, 1, 2, 3, 4)]
    assert stops == [2, 2, 4, 4, None]
    for step, count in ((0, 0), (2, 1), (3, 1), (4, 2), (5, 2)):
      profiler.at(step)
      assert len(said) == count
  assert said == [('start', str(tmp_path / 'profile')), ('stop',)]


def test_a_run_that_ends_early_ends_its_trace(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr('jax.profiler.start_trace', lambda path: None)
  monkeypatch.setattr('jax.profiler.stop_trace', lambda: said.append('stop'))
  with profile.Profiler('2:40', tmp_path) as profiler:
    profiler.at(2)
  assert said == ['stop']


@pytest.mark.parametrize('paradigm', sorted(auto.SMALL_RATES))
def test_rates_by_method_and_size(paradigm):
  small, why = auto.learning_rate('auto', paradigm, 10**6)
  assert small == auto.SMALL_RATES[paradigm] and '1.0M' in why
  large, why = auto.learning_rate('auto', paradigm, 494_000_000)
  assert large == auto.LARGE_RATES[paradigm] < small and '494.0M' in why
  assert auto.learning_rate(0.5, paradigm, 10**9) == (0.5, '')


def test_precision_by_size_and_device():
  kind = lambda *given: auto.dtype(*given)[0]
  assert kind('auto', 10**9, 'cpu') == 'float32'
  assert kind('auto', 10**6, 'tpu') == 'float32'
  assert kind('auto', 10**9, 'gpu') == 'bfloat16'
  assert kind('float16', 10**9, 'gpu') == 'float16'


def test_what_auto_takes_is_what_runs_take():
  """The rate in a run's metrics is the one that --dry_run prints."""
  config = config_lib.load('configs/sft.py:smoke')
  assert config.optimizer.lr == 'auto' and config.model.dtype == 'auto'
  run = build.build(config)
  assert run.model.dtype == 'float32'
  given = config_lib.load('configs/sft.py:smoke', [('optimizer.lr', '0.002')])
  assert given.optimizer.lr == 0.002


@pytest.mark.parametrize(
  'key, value, told',
  [
    ('checkpoint.best', 'eval/accuracy', 'eval.every=0'),
    ('log.profile_steps', '7', 'FIRST:LAST'),
    ('optimizer.lr', '-1', 'optimizer.lr'),
    ('model.dtype', 'floaty', 'model.dtype'),
  ],
)
def test_refused_before_anything_runs(key, value, told):
  config = config_lib.load(
    'configs/sft.py:smoke', [('eval.every', '0'), (key, value)]
  )
  with pytest.raises(ValueError, match=told):
    build.build(config)
