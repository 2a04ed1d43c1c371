"""Adapters trained by two processes: what one trains, saved once, and either
number goes on with what the other began."""

import json

import chat_folders
import jax
import numpy as np
import pytest
from host_jobs import close, rows_of, write_files
from hosts import train

from posttrain_jax.core import trees
from posttrain_jax.models import adapted
from posttrain_jax.run import base, checkpoint, loop
from posttrain_jax.run import config as config_lib

ITEMS = {
  'adapter.name': 'lora', 'adapter.rank': '2', 'checkpoint.every': '2',
  'eval.every': '0', 'eval.num_problems': '0',
  'optimizer.schedule': 'constant', 'optimizer.warmup_updates': '0',
  'log.tensorboard': 'false', 'mesh.data': '1', 'mesh.fsdp': '2',
}  # fmt: skip
REWARDS = '[{"name": "verifier"}, {"name": "length", "low": 2}]'
SFT = 'configs/sft.py:data=jsonl,smoke'


@pytest.fixture(scope='module')
def kinds(tmp_path_factory):
  """{name: (spec, items)}."""
  where = write_files(tmp_path_factory.mktemp('data'))
  chat_folders.make('qwen2_5', where / 'model')
  chat_folders.add_weights(where / 'model', width=16)
  file = {'data.path': str(where / 'answers.jsonl'), 'prompts_per_step': '8',
          'data.eval_fraction': '0'}  # fmt: skip
  return {
    'folder': (SFT, {**file, 'init_from': str(where / 'model'),
                     'data.max_length': '48', 'adapter.name': 'rslora'}),
    'drawn': (SFT, {**file, 'tokenizer': 'byte', 'data.max_length': '16',
                    'adapter.dropout': '0.25'}),
    # Hardly any first answer is right: those that end early earn more.
    'grpo': ('configs/rl.py:smoke', {
      'kl.coef': '0.1', 'adapter.base': 'int8', 'rewards': REWARDS,
      'optimizer.name': 'sgd', 'optimizer.lr': '0.1',
    }),
  }  # fmt: skip


def job(kinds, name, workdir, steps):
  spec, own = kinds[name]
  items = {**ITEMS, **own, 'num_steps': str(steps)}
  return {'spec': spec, 'items': list(items.items()), 'workdir': str(workdir)}


def train_here(found):
  """By this process, on two of its devices."""
  loop.train(config_lib.load(found['spec'], found['items']), found['workdir'])


def check_saved(workdir, name):
  """Adapters alone, in one checkpoint a step, on a base that is there once."""
  assert checkpoint.steps(workdir) == [4, 2]
  entry = json.loads((workdir / 'config.json').read_text())[base.KEY]
  apart = (workdir / base.FILE).exists()
  assert apart == (name != 'folder') == (not entry['source'])
  item = workdir / checkpoint.FOLDER / '4' / 'params'
  metadata = checkpoint.ocp.StandardCheckpointer().metadata(item.absolute())
  names = trees.names(dict(metadata.item_metadata))
  assert names and all(x.endswith(('/a', '/b')) for x in names)
  return entry['arrays']


@pytest.mark.slow
def test_one_and_two_processes_go_on_with_each_others_adapters(kinds, tmp_path):
  places = ('one', 'two', 'two-one', 'one-two')
  where = {(p, k): tmp_path / p / k for p in places for k in kinds}
  some = lambda place, steps: [
    job(kinds, k, where[place, k], steps) for k in kinds
  ]
  train([*some('two', 4), *some('two-one', 2)], 2, 1)
  for found in (*some('one', 4), *some('two-one', 4), *some('one-two', 2)):
    train_here(found)
  train(some('one-two', 4), 2, 1)
  rows = rows_of(where['one', 'grpo'])[1:]  # of the first step none ends early
  assert all(row['reward_std'] > 0 for row in rows)
  for name in kinds:
    digests = check_saved(where['one', name], name)
    params = checkpoint.read_params(where['one', name])[2]
    for place in places[1:]:
      close(where['one', name], where[place, name])
      assert check_saved(where[place, name], name) == digests
      theirs = checkpoint.read_params(where[place, name])[2]
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, atol=1e-6),
        adapted.trained(params), adapted.trained(theirs),
      )  # fmt: skip
    moved = trees.distance(
      adapted.merged(params), adapted.off(params, dense=True)
    )
    assert moved > 0
