"""Whole runs on a file of prompts: rewards, resuming, overlap, learning."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from halves import cut
from host_jobs import MODULE, REWARDS

from posttrain_jax import log
from posttrain_jax.run import build, loop
from posttrain_jax.run import config as config_lib

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  """A file of prompts, beside a module of rewards that the workers find."""
  folder = tmp_path_factory.mktemp('prompts')
  (folder / 'own_prompts.py').write_text(MODULE)
  rows = [{'prompt': f'{i}+1=', 'answer': i + 1} for i in range(40)]
  path = folder / 'prompts.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


@pytest.fixture(autouse=True)
def in_the_folder(monkeypatch, file):
  # Where the rewards are found; configs come with the package.
  monkeypatch.chdir(file.parent)


def load(path, *items, spec='configs/rl.py:data=jsonl,smoke'):
  return config_lib.load(spec, [
    ('data.path', str(path)), ('tokenizer', 'byte'), ('rewards', REWARDS),
    ('log.tensorboard', 'false'), ('eval.every', '0'), ('eval.samples', '0'),
    ('eval.num_problems', '4'), ('reward_pool.workers', '1'), *items,
  ])  # fmt: skip


def rows_of(workdir):
  _, rows = log.read(workdir / 'metrics.jsonl')
  return [
    {
      k: v
      for k, v in row.items()
      if k != 'time' and not k.startswith(('time/', 'perf/'))
    }
    for row in rows
    if row['split'] == 'train'
  ]


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def check_rows(rows):
  for row in rows:
    expected = (
      row['rewards/early/mean'] + 0.5 * row['rewards/near/mean']
      + 0.1 * row['rewards/soft_overlong/mean']
    )  # fmt: skip
    assert row['reward'] == pytest.approx(expected, abs=1e-5)
    assert row['rewards/early/std'] > 0 and row['grad_norm'] > 0
    counted = ('early/errors', 'early/timeouts', 'unscored', 'near/none')
    assert all(row[f'rewards/{name}'] == 0 for name in counted)


@pytest.mark.long
def test_a_run(file, tmp_path):
  c = load(file, ('num_steps', '2'), ('eval.num_problems', '0'))
  run, _, _ = loop.train(c, tmp_path / 'run')
  rows = rows_of(tmp_path / 'run')
  check_rows(rows)
  assert run.sizes.max_new_tokens == 16 and run.sizes.prompt_length == 8
  assert all(row['rollout/logp_gap_max'] <= 1e-5 for row in rows)
  assert all('rollout/staleness' not in row for row in rows)


@pytest.mark.parametrize('items', [
  pytest.param([], marks=pytest.mark.long),
  pytest.param([('slots', '4')], marks=pytest.mark.slow),
  pytest.param([('rollout_overlap', 'true')], marks=pytest.mark.slow),
  pytest.param([('rollout_overlap', 'true'), ('slots', '4')],
               marks=pytest.mark.slow),
])  # fmt: skip
def test_two_steps_and_two_more_are_four(file, tmp_path, items):
  _, straight, scores = loop.train(load(file, *items), tmp_path / 'straight')
  cut(tmp_path / 'straight', tmp_path / 'halves')
  _, resumed, again = loop.train(load(file, *items), tmp_path / 'halves')
  same(straight.params, resumed.params)
  same(straight.opt_state, resumed.opt_state)
  rows = rows_of(tmp_path / 'straight')
  assert rows_of(tmp_path / 'halves') == rows and scores == again
  assert scores['eval/accuracy'] == scores['eval/rewards/near']
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  check_rows(rows)


@pytest.mark.long
def test_overlap_is_the_same_run_whenever_it_is_saved(file, tmp_path):
  """Saved at every step and taken up after the first; or never saved."""
  items = [('rollout_overlap', 'true'), ('num_steps', '3'),
           ('eval.num_problems', '0')]  # fmt: skip
  often = load(file, *items, ('checkpoint.every', '1'))
  loop.train(load(file, *items, ('num_steps', '1')), tmp_path / 'often')
  _, resumed, _ = loop.train(often, tmp_path / 'often')
  _, seldom, _ = loop.train(
    load(file, *items, ('checkpoint.every', '0')), tmp_path / 'seldom'
  )
  same(resumed.params, seldom.params)
  rows = rows_of(tmp_path / 'seldom')
  assert rows_of(tmp_path / 'often') == rows
  check_rows(rows)
  assert [row['rollout/staleness'] for row in rows] == [0.0, 1.0, 1.0]
  # A stale answer's ratio is that of two policies; the first one's is 1.
  gaps = [row['rollout/logp_gap_max'] for row in rows]
  assert gaps[0] <= 1e-5 and min(gaps[1:]) > 1e-5


@pytest.mark.long
def test_the_mean_reward_rises(file, tmp_path):
  c = load(
    file, ('num_steps', '30'), ('prompts_per_step', '8'), ('group_size', '8'),
    ('rewards', '[{"name": "own_prompts:early"}]'), ('max_new_tokens', '8'),
    ('optimizer.lr', '1e-2'), ('eval.num_problems', '0'),
    ('checkpoint.every', '0'),
  )  # fmt: skip
  loop.train(c, tmp_path / 'run')
  rewards = [row['reward'] for row in rows_of(tmp_path / 'run')]
  first, last = rewards[:4], rewards[-4:]
  error = np.hypot(np.std(first), np.std(last)) / 2
  assert np.mean(last) > np.mean(first) + 3 * error
  assert np.mean(last) > np.mean(first) + 0.1


@pytest.mark.parametrize('items, message', [
  ([('rewards', '[]')], 'have no verifier of their own; set rewards'),
  ([('rewards', '[{"name": "verifier"}]')], 'is of tasks; a file has none'),
  ([('rewards', '[{"name": "model"}]')], 'role "reward", which is no role'),
  ([('rewards', '[{"name": "own_prompts:earl"}]')], 'Did you mean "early"'),
  ([('rewards', '[{"name": "regex"}]')], 'needs a "pattern"'),
  ([('rewards', '[{"name": "choice_letter", "column": "letter"}]')],
   'no column "letter", which reward "choice_letter" reads'),
  ([('data.path', '')], 'needs data.path'),
  ([('data.path', 'no.jsonl')], 'no file matches'),
  ([('data.eval_path', 'no.jsonl')], 'no file matches'),
  ([('data.overlong', 'truncate')], 'would cut prompts'),
  ([('data.max_prompt_length', '3')], 'no prompt is left'),
  ([('max_new_tokens', '0')], 'does not say how long an answer'),
  ([('heldout_fraction', '0')], 'no prompts to evaluate on'),
  ([('heldout_fraction', '0.0001')], 'none of 40 prompts is held out'),
  ([('reward_pool.timeout', '0')], 'reward_pool.timeout=0.0'),
  ([('problems.count', '5')], 'is of in-graph tasks'),
  ([('demos_per_prompt', '1'), ('sft_loss.coef', '0.1')],
   'which prompts of a file do not make'),
  ([('rollout_overlap', 'true'), ('old_logps', 'learner')],
   'old_logps="learner" forgets'),
  ([('rollout_overlap', 'true'), ('loss.name', 'reinforce')],
   'does not correct for'),
  ([('weights.name', 'srft_rollouts')], 'asks which answers are right'),
])  # fmt: skip
def test_impossible_runs_fail_before_compiling(file, items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(load(file, *items))


@pytest.mark.parametrize('spec, items, message', [
  ('rl.py:data=jsno', [], 'Did you mean "jsonl"'),
  ('rl.py', [('data.path', 'x.jsonl')], 'is of a file of prompts'),
  ('rl.py', [('rewards', '[{"name": "regex", "pattern": "a"}]')],
   'reads text, and in-graph tasks have tokens'),
  ('rl.py', [('rewards', '[{"name": "verifier", "part": "frmat"}]')],
   'finds no "frmat"'),
  pytest.param(  # reasoning-gym is slow to import
    'rl.py:task=text:chain_sum',
    [('rewards', '[{"name": "verifier", "part": "format"}]')],
    'finds no "format"; it has "reward" alone', marks=pytest.mark.long,
  ),
  ('rl.py', [('rewards', '[{"name": "verifier"}, {"name": "soft_overlong", '
              '"cache": 99}]')], 'cache=99 tokens, more than'),
  ('rl.py', [('rollout_overlap', 'true')], 'is of answers that Python judges'),
])  # fmt: skip
def test_other_runs_that_are_refused(spec, items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(config_lib.load(f'configs/{spec}', items))


def test_a_task_and_a_file():
  with pytest.raises(ValueError, match='prompts come from one of them'):
    config_lib.load('configs/rl.py:data=jsonl,task=countdown')
