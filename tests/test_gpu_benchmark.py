"""The benchmark of a GPU, without one: its parts, their limits, its file."""

import argparse
import json
import subprocess
import sys
import time

import pytest

from experiments.benchmarks import gpu, gpu_parts
from posttrain_jax.models.hf_config import read_config

SCRIPT = gpu.ROOT / 'experiments' / 'benchmarks' / 'gpu.sh'
# Of nine minutes, what is left for installing.
INSTALLING = 120


def flags(**values):
  given = {'until': 0.0, 'toy': True, 'peer_python': '', **values}
  return argparse.Namespace(**given)


def part(limit=30.0, peer=False):
  return gpu.Part('grpo', limit, 'of a test', {}, peer)


def runs(monkeypatch, code):
  monkeypatch.setattr(gpu, 'command', lambda *_: [sys.executable, '-c', code])


def test_all_parts_and_installing_take_nine_minutes(capsys):
  assert gpu.main(['--dry_run']) == 0
  told = capsys.readouterr().out
  assert all(name in told for name in gpu.PARTS)
  assert sum(x.limit for x in gpu.PARTS.values()) + INSTALLING <= 540
  assert set(gpu.TOY) == set(gpu.PARTS)
  assert set(gpu_parts.RUNS) == {n for n, x in gpu.PARTS.items() if not x.peer}
  for name, x in gpu.PARTS.items():
    assert set(gpu.TOY[name]) == set(x.sizes), name


def test_the_script_prints_what_it_would_run():
  told = lambda *words: subprocess.run(
    ['bash', str(SCRIPT), *words], capture_output=True, text=True, check=False,
    env={'PATH': '/usr/bin:/bin', 'PYTHON': sys.executable},
  )  # fmt: skip
  done = told('--dry_run', '--toy')
  assert done.returncode == 0, done.stderr
  names = [x for x in gpu.PARTS if f'{x} ' in done.stdout]
  assert names == list(gpu.PARTS)
  assert 'venv .venv-gpu' in done.stdout and '--toy' in done.stdout
  done = told('--dryrun')
  assert done.returncode == 2 and 'there are --dry_run' in done.stderr


def test_a_part_that_is_cut_keeps_its_last_whole_line(monkeypatch):
  code = "print('{\"x\": 1}', flush=True); print('{\"x\"', end='', flush=True)"
  runs(monkeypatch, f'import time; {code}; time.sleep(60)')
  found = gpu.run_part(part(limit=2.0), flags())
  assert found['status'] == 'cut' and found['x'] == 1


def test_a_part_that_fails_says_why_and_keeps_what_it_has(monkeypatch):
  runs(monkeypatch, "print('{\"x\": 1}'); raise ValueError('no such thing')")
  found = gpu.run_part(part(), flags())
  assert found['status'] == 'failed' and found['x'] == 1
  assert 'no such thing' in found['why']


def test_what_cannot_end_in_time_is_not_begun(monkeypatch):
  runs(monkeypatch, "print('{}')")
  found = gpu.run_part(part(), flags(until=time.time() + 5))
  assert found['status'] == 'left out' and 's were left' in found['why']
  assert gpu.run_part(part(peer=True), flags())['why'] == 'no --peer_python'
  assert gpu.run_part(part(), flags())['status'] == 'done'


def test_the_file_is_written_after_each_part(monkeypatch, tmp_path):
  asked = []

  def ran(one, flags):
    path = tmp_path / 'gpu_toy.json'
    asked.append(sorted(json.loads(path.read_text())['results'])
                 if path.exists() else [])  # fmt: skip
    return {'status': 'done', 'steps_per_second': 1.0 + len(asked)}

  monkeypatch.setattr(gpu, 'run_part', ran)
  command = ['--toy', '--out', str(tmp_path), '--parts']
  assert gpu.main([*command, 'decode_0.6b', 'grpo']) == 0
  # A second call of the same run, for the peer.
  assert gpu.main([*command, 'grpo_trl']) == 0
  assert asked == [[], ['decode_0.6b'], ['decode_0.6b', 'grpo']]
  found = json.loads((tmp_path / 'gpu_toy.json').read_text())
  assert found['compared'] == {'grpo_ours_over_trl': 3.0 / 4.0}
  assert all(x['commit'] and x['date_utc'] for x in found['results'].values())


def test_flops_are_those_of_prime_rls_figures():
  model = read_config(gpu_parts.SHAPES / 'Qwen3-0.6B')
  for tokens, (rate, mfu) in gpu_parts.PRIME_RL.items():
    flops = gpu_parts.flops_per_token(model, tokens)
    assert rate * flops / 989e12 == pytest.approx(mfu, rel=0.01)


def test_bytes_of_a_token_by_hand():
  model = read_config(gpu_parts.SHAPES / 'Qwen3-0.6B')
  assert model.tie_embeddings
  model = gpu_parts.dataclasses.replace(model, dtype='bfloat16')
  one = 2 * 28 * 8 * 128 * 2  # keys and values of a token
  found = gpu_parts.decode_bytes(model, rows=4, prompt=10, new=6)
  assert found == 2 * 596_049_920 + 4 * one * (10 + 3)


@pytest.mark.slow
def test_our_parts_run_at_a_tiny_size(tmp_path):
  names = [name for name, x in gpu.PARTS.items() if not x.peer]
  assert gpu.main(['--toy', '--out', str(tmp_path), '--parts', *names]) == 0
  found = json.loads((tmp_path / 'gpu_toy.json').read_text())['results']
  for name in names:
    assert found[name]['status'] == 'done', found[name]
  assert found['decode_0.6b']['2 rows']['tokens_per_second'] > 0
  assert found['sft_8k']['tokens_per_second'] > 0
  assert found['grpo']['steps_per_second'] > 0
