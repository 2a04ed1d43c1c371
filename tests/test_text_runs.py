"""Whole runs on text: host tasks, files, TFDS; what they refuse."""

import json
import re
from pathlib import Path

import chat_folders
import jax
import numpy as np
import pytest
from halves import cut

from posttrain_jax import evaluate, log
from posttrain_jax.data import (
  task_builder,
  task_problems,
  text_task,
  train_tokenizer,
)
from posttrain_jax.data.tokenizers import load
from posttrain_jax.run import build, loop
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import state as state_lib

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture
def fake(monkeypatch):
  """Makes every new TextTask score by `fake_server`."""
  monkeypatch.setattr(text_task, 'SERVER', 'fake_server:Server')


FAST = [
  ('eval.every', '0'), ('eval.samples', '0'), ('eval.num_problems', '4'),
  ('log.tensorboard', 'false'), ('task.workers', '1'),
]  # fmt: skip


def rows_of(workdir):
  _, rows = log.read(workdir / 'metrics.jsonl')
  return [
    {k: v for k, v in row.items() if not k.startswith(('time', 'perf/'))}
    for row in rows
    if row['split'] == 'train'
  ]


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_rl_two_steps_and_two_more_are_four(fake, tmp_path):
  """The fake verifier rewards ASCII, so that a new model's rewards differ."""

  def load_run(**items):
    return config_lib.load(
      'configs/rl.py:task=text:chain_sum,smoke',
      [*FAST, ('task.knobs.max_terms', '2'), ('task.knobs.max_digits', '1'),
       *items.items()],
    )  # fmt: skip

  _, straight, scores = loop.train(load_run(), tmp_path / 'straight')
  cut(tmp_path / 'straight', tmp_path / 'halves')
  run, resumed, again = loop.train(load_run(), tmp_path / 'halves')
  same(straight.params, resumed.params)
  same(straight.opt_state, resumed.opt_state)
  assert scores == again and 'eval/reward' in scores
  expected = rows_of(tmp_path / 'straight')
  assert rows_of(tmp_path / 'halves') == expected
  assert [row['step'] for row in expected] == [1, 2, 3, 4]
  assert all(row['reward_std'] > 0 and row['grad_norm'] > 0 for row in expected)
  assert all(row['rollout/logp_gap_max'] <= 1e-5 for row in expected)
  assert run.sizes.row_tokens == 72 + 8


def losses(c, steps):
  """Losses of `steps` SFT steps, without the rest of a run."""
  run = build.build(c)
  mesh = loop.sharding.make_mesh(c.mesh)
  with jax.set_mesh(mesh):
    state = state_lib.initial_state(run, mesh, c)
    driver = loop.make_driver(run, c)
    out = []
    for step in range(steps):
      state, found, _ = driver.advance(state, step, 1)
      out.append(float(found['loss'][0]))
  run.task.close()
  return run, out


@pytest.mark.parametrize(
  'tokenizer', [pytest.param('byte', marks=pytest.mark.slow), 'bpe']
)
def test_sft_on_answers_learns(tokenizer, tmp_path, capsys):
  items = [
    *FAST, ('optimizer.lr', '3e-3'), ('optimizer.schedule', 'constant'),
    ('task.prompt_length', '256'),
  ]  # fmt: skip
  if tokenizer == 'bpe':
    train_tokenizer.main([
      '--task', 'text:gsm_symbolic', '--num_problems', '100',
      '--vocab_size', '320', '--out', str(tmp_path / 'bpe'),
    ])  # fmt: skip
    assert '320 tokens' in capsys.readouterr().out
    items.append(('tokenizer', str(tmp_path / 'bpe')))
  c = config_lib.load('configs/sft.py:task=text:gsm_symbolic,smoke', items)
  run, found = losses(c, 8)
  assert np.mean(found[-2:]) < 0.8 * found[0]
  assert run.model.vocab_size == load(run.config.tokenizer).vocab_size
  # The rows are the records: the first batch holds problem 0.
  batch = next(run.batches())
  record = run.task.records()[0]
  row = batch['tokens'][0][batch['segment_ids'][0] > 0]
  assert run.tokenizer.decode(row) == record['prompt'] + record['completion']
  trained = batch['tokens'][0][batch['mask'][0] > 0]
  assert run.tokenizer.decode(trained) == record['completion']
  assert trained[-1] == run.tokenizer.eos_id


@pytest.fixture
def jsonl(tmp_path):
  path = tmp_path / 'examples.jsonl'
  records = [{'prompt': f'{i} and one is ', 'completion': str(i + 1)}
             for i in range(24)]  # fmt: skip
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return path


def on_file(path, *items):
  return config_lib.load('configs/sft.py:data=jsonl,smoke', [
    *FAST[:-1], ('tokenizer', 'byte'), ('data.path', str(path)),
    ('data.max_length', '32'), *items,
  ])  # fmt: skip


def test_sft_on_a_file_resumes(jsonl, tmp_path):
  run, straight, scores = loop.train(on_file(jsonl), tmp_path / 'straight')
  loop.train(on_file(jsonl, ('num_steps', '2')), tmp_path / 'halves')
  _, resumed, _ = loop.train(on_file(jsonl), tmp_path / 'halves')
  rows = rows_of(tmp_path / 'straight')
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  assert rows[-1]['loss'] < rows[0]['loss']
  assert scores == {} and run.task is None  # nothing to evaluate it by
  # The learning rate depends on the whole length, so only the rows compare.
  halves = rows_of(tmp_path / 'halves')
  assert [r['num_tokens'] for r in halves] == [r['num_tokens'] for r in rows]
  assert halves[:1] == rows[:1] and int(resumed.step) == 4


def test_packed_file(jsonl):
  run = build.build(on_file(jsonl, ('data.packing', 'true')))
  batch = next(run.batches())
  assert batch['tokens'].shape == (8, 32)
  assert batch['segment_ids'].max() == 2


def test_tfds_in_the_tasks_vocabulary_is_evaluated_in_graph(tmp_path):
  task_builder.build(
    task_problems.Problems(task='addition', num_train=16, num_test=1),
    str(tmp_path),
  )
  c = config_lib.load('configs/sft.py:data=tfds,smoke', [
    ('data.path', str(tmp_path)), ('data.name', 'task_problems:train'),
    ('data.max_length', '16'),
  ])  # fmt: skip
  run = build.build(c)
  batch = next(run.batches())
  row = run.tokenizer.decode(batch['tokens'][0])
  first, second, total = map(int, re.split('[+=]', row))
  assert first + second == total
  assert list(run.evaluators) == [''] and run.sizes.row_tokens == 16
  c.data.name = 'task_problems:trian'
  with pytest.raises(ValueError, match='Did you mean "train"'):
    build.build(c)


@pytest.mark.long
def test_a_folder_is_evaluated_on_a_task_that_is_named(tmp_path, capsys):
  pytest.importorskip('reasoning_gym')
  folder = chat_folders.make('qwen2_5', tmp_path / 'model')
  chat_folders.add_weights(folder, width=16)
  keys = [
    '--config.task.name=text:gsm_symbolic', '--config.eval.num_problems=5',
    '--config.eval.samples=2', '--config.max_new_tokens=4',
    '--config.task.workers=1',
  ]  # fmt: skip
  assert evaluate.main(['--model', str(folder), *keys]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['model'] == str(folder)
  assert found['eval/accuracy'] == 0 and found['eval/length'] == 4
  assert 'eval/pass@2' in found
  assert evaluate.main(['--model', str(folder), *keys[1:]]) == 2
  assert '--config.task.name=text:gsm' in capsys.readouterr().err
  own = ['--model', str(folder), '--config.task.name=addition']
  assert evaluate.main(own) == 2
  assert 'tokenizer' in capsys.readouterr().err


@pytest.mark.parametrize('spec, items, message', [
  ('sft.py:data=jsonl', {}, 'needs data.path'),
  ('sft.py:data=jsno', {}, 'Did you mean "jsonl"'),
  ('sft.py:data=jsonl', {'data.path': 'nothing.jsonl'}, 'no file matches'),
  ('sft.py:data=tfds', {'data.name': 'addition'}, 'BUILDER:SPLIT'),
  ('sft.py', {'data.packing': 'true'}, 'is for data.source'),
  ('sft.py', {'tokenizer': 'byte'}, 'in-graph tasks speak'),
  ('rl.py:task=text:chain_sum', {'tokenizer': 'task'}, 'use "byte"'),
  ('rl.py:task=text:chain_sum', {'tokenizer': 'bite'}, 'Did you mean "byte"'),
  ('rl.py:task=text:chain_sum', {'task.knobs.max_terms': '1'}, 'max_terms'),
  ('rl.py:task=text:chain_sum', {'task.workers': '0'}, 'workers=0'),
  ('rl.py:task=text:chain_sum', {'task.timeout': '0'}, 'task.timeout=0.0'),
  ('sft.py:task=text:rush_hour', {'task.completion_length': '8'},
   'no oracle answers'),
])  # fmt: skip
def test_impossible_runs_fail_before_compiling(spec, items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(config_lib.load(f'configs/{spec}', list(items.items())))


@pytest.mark.parametrize('record, items, message', [
  ({'prompt': 'p', 'chosen': 'a', 'rejected': 'b'}, [], 'kind "preference"'),
  ({'prompt': 'p' * 40, 'completion': 'c'}, [], 'too long'),
  ({'prompt': 'p' * 40, 'completion': 'c'}, [('data.overlong', 'truncate')],
   'no token is trained'),
  ({'prompt': 'é', 'completion': 'c'}, [('tokenizer', 'task')], 'jsonl:1'),
])  # fmt: skip
def test_bad_files_fail_before_compiling(record, items, message, tmp_path):
  path = tmp_path / 'bad.jsonl'
  path.write_text(json.dumps(record) + '\n')
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(on_file(path, *items))
