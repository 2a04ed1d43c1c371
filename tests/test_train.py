"""Whole runs: train, resume bitwise, interrupt, finish, eight devices."""

import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from halves import cut

from posttrain_jax import evaluate, log
from posttrain_jax.run import checkpoint, loop
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import addition, countdown

ROOT = Path(__file__).parent.parent
# Two steps a call and a checkpoint every second step; little to compile.
FAST = [
  ('eval.every', '0'), ('eval.samples', '0'), ('log.tensorboard', 'false'),
]  # fmt: skip
RUNS = {
  'sft': ('configs/sft.py:smoke', []),
  'grpo': ('configs/rl.py:smoke', [('kl.coef', '0.1')]),
  'ppo': (
    'configs/rl.py:smoke,recipe=ppo,task=countdown',
    [('minibatch_rows', '8'), ('microbatch_rows', '4'),
     ('updates_per_rollout', '2'), ('entropy_coef', '0.01')],
  ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def load(name, **items):
  spec, pairs = RUNS[name]
  extra = [(key.replace('__', '.'), value) for key, value in items.items()]
  return config_lib.load(spec, FAST + pairs + extra)


def rows_of(workdir, split='train'):
  _, rows = log.read(workdir / 'metrics.jsonl')
  return [
    {k: v for k, v in row.items() if not k.startswith(('time', 'perf/'))}
    for row in rows
    if row['split'] == split
  ]


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize('name', RUNS)
def test_two_steps_and_two_more_are_four(name, tmp_path):
  _, straight, scores = loop.train(load(name), tmp_path / 'straight')
  cut(tmp_path / 'straight', tmp_path / 'halves')
  _, resumed, again = loop.train(load(name), tmp_path / 'halves')
  same(straight.params, resumed.params)
  same(straight.opt_state, resumed.opt_state)
  assert scores == again and int(resumed.step) == 4
  expected = rows_of(tmp_path / 'straight')
  assert rows_of(tmp_path / 'halves') == expected
  assert [row['step'] for row in expected] == [1, 2, 3, 4]
  assert all(np.isfinite(row['loss']) for row in expected)
  if name != 'sft':
    assert all(row['rollout/logp_gap_max'] <= 1e-5 for row in expected)


def test_a_finished_run_says_so(tmp_path, capsys):
  loop.train(load('sft'), tmp_path)
  before = (tmp_path / 'metrics.jsonl').read_text()
  capsys.readouterr()
  loop.train(load('sft'), tmp_path)
  assert 'finished at step 4; nothing left to do' in capsys.readouterr().out
  assert (tmp_path / 'metrics.jsonl').read_text() == before


def test_another_config_does_not_continue_a_run(tmp_path):
  loop.train(load('sft'), tmp_path)
  with pytest.raises(ValueError, match=r'optimizer\.lr: 0\.002 -> 0\.5'):
    loop.train(load('sft', optimizer__lr='0.5'), tmp_path)
  assert (
    json.loads((tmp_path / 'config.json').read_text())['config']['seed'] == 0
  )


def test_sigterm_saves_and_the_run_goes_on(tmp_path, monkeypatch):
  real = loop.drivers.InGraph.advance

  def advance(self, state, first_step, count):
    if first_step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return real(self, state, first_step, 1)

  monkeypatch.setattr(loop.drivers.InGraph, 'advance', advance)
  items = {'checkpoint__every': '0'}
  with pytest.raises(loop.Interrupted, match='SIGTERM at step 3'):
    loop.train(load('sft', **items), tmp_path / 'stopped')
  monkeypatch.undo()
  monkeypatch.chdir(ROOT)
  assert checkpoint.find(tmp_path / 'stopped')[1] == 3
  _, resumed, _ = loop.train(load('sft', **items), tmp_path / 'stopped')
  _, straight, _ = loop.train(load('sft', **items), tmp_path / 'straight')
  same(straight.params, resumed.params)


@pytest.mark.long
def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
  with pytest.raises(FloatingPointError, match='not finite at step 1; the run'):
    loop.train(load('sft', optimizer__lr='1e39'), tmp_path)


def test_starting_from_another_run(tmp_path, capsys):
  first, _, scores = loop.train(load('sft'), tmp_path / 'sft')
  capsys.readouterr()
  where = ['--checkpoint', str(tmp_path / 'sft')]
  assert evaluate.main(where) == 0
  found = json.loads(capsys.readouterr().out)
  assert found.pop('step') == 4 and found == scores
  assert evaluate.main([*where, '--config.tsk.name=sorting']) == 2
  assert 'Did you mean "task.name"' in capsys.readouterr().err
  start = checkpoint.load_params(tmp_path / 'sft')
  c = load('grpo', init_from=str(tmp_path / 'sft'), optimizer__lr='0.0',
           num_steps='1')  # fmt: skip
  run, state, _ = loop.train(c, tmp_path / 'rl')
  same(state.params, start)
  same(state.ref_params, start)
  assert run.model == first.model
  # A critic is added to a model that has none.
  c = load('ppo', init_from=str(tmp_path / 'sft'), num_steps='1')
  run, state, _ = loop.train(c, tmp_path / 'ppo')
  assert run.model.value_head and 'value_head' in state.params


@pytest.mark.parametrize(
  'name',
  [
    'grpo',
    pytest.param('sft', marks=pytest.mark.slow),
    pytest.param('ppo', marks=pytest.mark.slow),
  ],
)
def test_eight_devices_train_as_one(name, tmp_path, monkeypatch):
  assert jax.device_count() == 8
  # A reward that a fresh model gets half of the time: there is a gradient.
  reward = lambda self, example, completion, mask: {
    'reward': (completion[0] % 2).astype(jnp.float32)
  }
  for task in (addition.Task, countdown.Task):
    monkeypatch.setattr(task, 'verify', reward)
  # Adam turns rounding into full steps where a gradient is all but zero.
  items = {
    'num_steps': '2',
    'optimizer__name': 'sgd',
    'optimizer__lr': '0.1',
    'model__preset': 'pico',  # whose two heads can be sharded
  }
  _, one, _ = loop.train(load(name, **items), tmp_path / 'one')
  c = load(name, mesh__data='2', mesh__fsdp='2', mesh__tensor='2', **items)
  _, many, _ = loop.train(c, tmp_path / 'many')
  query = many.params['layers']['query']
  assert len(query.sharding.device_set) == 8
  assert query.addressable_shards[0].data.size == query.size // 4
  for a, b in zip(rows_of(tmp_path / 'one'), rows_of(tmp_path / 'many')):
    for key in ('loss', 'grad_norm', 'entropy'):
      np.testing.assert_allclose(a[key], b[key], rtol=2e-4, atol=2e-6)
  gap = jax.tree.map(
    lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
    one.params, many.params,
  )  # fmt: skip
  assert max(jax.tree.leaves(gap)) < 2e-5
