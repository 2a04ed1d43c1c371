"""The quickstart from end to end, at a size that proves the path only."""

import json
from pathlib import Path

import pytest

from posttrain_jax import quickstart
from posttrain_jax.models import transformer
from posttrain_jax.run import accounting, build
from posttrain_jax.run import config as config_lib

ROOT = Path(__file__).parent.parent
KEYS = {
  'accuracy', 'accuracy_low', 'accuracy_high', 'accuracy_greedy', 'pass_at_8',
  'retention', 'kl_to_base', 'tokens', 'seconds',
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def test_all_four_arms_are_compared(tmp_path, capsys):
  argv = ['--config', 'configs/quickstart.py:smoke', '--workdir', str(tmp_path)]
  assert quickstart.main(argv) == 0
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert list(summary['arms']) == ['base', 'sft_start', 'grpo', 'more_sft']
  for arm in summary['arms'].values():
    assert set(arm) >= KEYS
    assert arm['accuracy_low'] <= arm['accuracy'] <= arm['accuracy_high']
  assert summary['arms']['base']['kl_to_base'] == pytest.approx(0, abs=1e-6)
  assert summary['arms']['sft_start']['kl_to_base'] > 0
  page = (tmp_path / 'report.html').read_text()
  assert 'more_sft' in page and (tmp_path / 'plots').is_dir()
  for arm in summary['arms']:
    assert (tmp_path / arm / 'metrics.jsonl').is_file()
    assert any((tmp_path / arm / 'tensorboard').iterdir())
    assert any((tmp_path / arm / 'checkpoints').iterdir())
  out = capsys.readouterr().out
  assert 'pass@8' in out and 'report.html' in out


def test_step_costs_by_hand():
  c = config_lib.load('configs/sft.py', [('prompts_per_step', '4')])
  run = build.build(c)
  model, sizes = run.model, run.sizes
  weights = transformer.param_count(model)
  scores = 2 * model.num_layers * model.num_heads * model.head_dim
  tokens = 4 * sizes.row_tokens
  forward = 2 * tokens * (weights + scores * sizes.row_tokens)
  assert accounting.step_flops(c, model, sizes) == pytest.approx(3 * forward)


def test_a_rollout_costs_its_prompts_once():
  c = config_lib.load('configs/rl.py', [])
  run = build.build(c)
  cost = accounting.step_flops(c, run.model, run.sizes)
  rows, length = run.sizes.rows, run.sizes.row_tokens
  update = 3 * accounting.forward_flops(run.model, rows, length)
  rollout = cost - update
  alone = accounting.forward_flops(run.model, rows, length)
  assert 0 < rollout < alone
  with_reference = config_lib.load('configs/rl.py', [('kl.coef', '0.1')])
  more = accounting.step_flops(with_reference, run.model, run.sizes)
  assert more == pytest.approx(cost + alone)
