"""Commands in processes of their own, told by HF_ENDPOINT where the hub is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scorer_folders
from fake_hub import Hub

from posttrain_jax import log
from posttrain_jax.run import checkpoint

ROOT = Path(__file__).parent.parent
MODEL, REWARD, DATA = 'acme/tiny', 'acme/reward', 'acme/sums'


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
  """A model, a reward model and prompts; `revisions` of a tag each has."""
  where = scorer_folders.make(tmp_path_factory.mktemp('folders'))
  data = where / 'data'
  data.mkdir()
  (where / 'prompts.jsonl').rename(data / 'train.jsonl')
  with Hub() as fake:
    fake.commits = {
      MODEL: fake.add('models', MODEL, where / 'model'),
      REWARD: fake.add('models', REWARD, where / 'llama'),
      DATA: fake.add('datasets', DATA, data),
    }
    yield fake


def run(words, endpoint, home, cwd):
  """(status, standard output, what was said) of a command."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
  done = subprocess.run(
    [sys.executable, '-m', *words],
    cwd=cwd,
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
    env={
      **kept,
      'HF_ENDPOINT': endpoint,
      'HF_HOME': str(home),
      'NO_PROXY': '127.0.0.1',
      'PYTHONPATH': str(ROOT),
    },
  )
  return done.returncode, done.stdout, done.stderr


def grpo(workdir, **more):
  items = {
    'init_from': f'{MODEL}@main', 'data.path': f'{DATA}:train',
    'rewards': json.dumps([{'name': 'model', 'path': REWARD}]),
    'max_new_tokens': 8, 'prompts_per_step': 4, 'num_steps': 1,
    'eval.num_problems': 0, 'log.tensorboard': False, **more,
  }  # fmt: skip
  return [
    'posttrain_jax.train', '--config', 'configs/rl.py:data=jsonl,smoke',
    '--workdir', str(workdir), *(f'--config.{k}={v}' for k, v in items.items()),
  ]  # fmt: skip


def rows(workdir):
  timed = ('time', 'perf/')
  return [
    {k: v for k, v in row.items() if not k.startswith(timed)}
    for row in log.read(workdir)[1]
  ]


@pytest.mark.slow
def test_names_of_the_hub_from_the_first_start_to_one_without(hub, tmp_path):
  """Fetched once; then from the cache; then one sentence."""
  home, first = tmp_path / 'home', tmp_path / 'first'
  status, _, said = run(grpo(first), hub.url, home, tmp_path)
  assert status == 0, said
  assert any(path.endswith('/model.safetensors') for path in hub.asked)
  config = checkpoint.load_config(first)['config']
  at = {name: f'@{commit}' for name, commit in hub.commits.items()}
  model = MODEL + at[MODEL]
  assert config['init_from'] == config['tokenizer'] == model
  assert config['data']['path'] == f'{DATA}:train{at[DATA]}'
  assert config['others'] == {'reward': REWARD + at[REWARD]}
  header = json.dumps(log.read(first)[0])
  assert all(commit in header for commit in hub.commits.values())
  assert rows(first)[0]['rewards/model/mean'] != 0

  judge = [
    'posttrain_jax.evaluate', '--model', MODEL, '--data', f'{DATA}:train',
    '--rewards', json.dumps([{'name': 'model', 'path': REWARD}]),
    '--num_samples', '2', '--max_new_tokens', '4',
  ]  # fmt: skip
  status, out, said = run(judge, hub.url, home, tmp_path)
  assert status == 0, said
  assert json.loads(out)['model'] == model
  assert json.loads(out)['eval/rewards/model'] != 0

  # Nobody answers at this address: what is in the cache is enough.
  asked, nobody = len(hub.asked), 'http://127.0.0.1:9'
  second = tmp_path / 'second'
  status, _, said = run(grpo(second), nobody, home, tmp_path)
  assert status == 0 and len(hub.asked) == asked, said
  assert rows(second) == rows(first)
  assert checkpoint.load_config(second)['config'] == config

  empty = tmp_path / 'empty'
  for words in (grpo(tmp_path / 'no'), judge):
    status, _, said = run(words, nobody, empty, tmp_path)
    told = [line for line in said.splitlines() if line.startswith('error: ')]
    assert status == 2 and len(told) == 1 and 'Traceback' not in said, said
    assert f' here, nor all of it in {empty}' in told[0]
    assert f', and {nobody} did not give it (' in told[0]
    assert 'download it where there is a network, and give the path' in told[0]
  assert not (tmp_path / 'no').exists()
