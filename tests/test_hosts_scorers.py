"""Reward models that read text, asked by several processes, or on a mesh."""

import json

import jax
import numpy as np
import pytest
import scorer_folders
from host_jobs import close, rows_of
from hosts import Hosts, train
from read_parts import mesh_of

from posttrain_jax.data import tokenizers
from posttrain_jax.models import hf
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import loop, roles
from posttrain_jax.trainers import text_scorer
from posttrain_jax.trainers.text_scorer import TextScorer


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return scorer_folders.make(tmp_path_factory.mktemp('scorers'))


def questions(count):
  """Prompts and two answers to each, of many lengths; one gets no score."""
  prompts = [
    [{'role': 'user', 'content': f'{i}+1' + ' and' * (7 * i % 23)}]
    for i in range(count)
  ]
  said = [[str(i + 1), 'about ' * (i % 5) + 'that'] for i in range(count)]
  said[3][1] = '4<|im_end|>'
  return prompts, said


@pytest.mark.long
def test_a_mesh_scores_as_one_device(folders):
  """Batches of as many rows as there are parts of the mesh, and more."""
  folder = folders / 'llama'
  model, params = hf.load(folder)
  scorer = TextScorer('reward', 'llama', model, tokenizers.load(folder))
  prompts, said = questions(10)
  alone = scorer(params, prompts, said)
  assert alone.shape == (10, 2) and np.isnan(alone).sum() == 1
  mesh = mesh_of(fsdp=4, tensor=2)
  with jax.set_mesh(mesh):
    _, spread = hf.load(folder, where=roles.placing(model, mesh))
    found = scorer(spread, prompts, said, mesh)
  np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5)
  assert np.ptp(alone[~np.isnan(alone)]) > 0.1
  assert scorer(params, [], []).shape == (0, 0)


def test_batches_are_agreed_on(monkeypatch):
  """All take part in as many as the one with most answers has."""
  mesh = mesh_of(fsdp=8)
  monkeypatch.setattr(
    text_scorer.hosts, 'said', lambda mine: [mine, '[70, 3]', '[]']
  )
  assert text_scorer._agreed([5], mesh) == [70, 3]
  assert text_scorer._agreed([90, 1, 2], mesh) == [90, 3, 2]
  assert text_scorer._agreed([5], None) == [5]
  total, mine = text_scorer._batch_rows(mesh_of(fsdp=8))
  assert (total, mine.tolist()) == (16, list(range(16)))


def job(folders, workdir, **more):
  rewards = [{'name': 'model', 'path': str(folders / 'llama')},
             {'name': 'soft_overlong', 'weight': 0.5, 'cache': 4}]  # fmt: skip
  items = {
    'data.path': str(folders / 'prompts.jsonl'),
    'init_from': str(folders / 'model'), 'rewards': json.dumps(rewards),
    'max_new_tokens': '8', 'num_steps': '2', 'eval.num_problems': '0',
    'log.tensorboard': 'false', 'prompts_per_step': '8', **more,
  }  # fmt: skip
  return {
    'spec': 'configs/rl.py:data=jsonl,smoke', 'items': list(items.items()),
    'workdir': str(workdir),
  }  # fmt: skip


# Whose rows are whose; rows that both hold; rows that do not divide.
LAYOUTS = {
  'rows': {'mesh.data': '2'},
  'sharded': {'mesh.fsdp': '2', 'mesh.data': '1'},
  'both': {'mesh.tensor': '2', 'mesh.data': '1'},
  'odd': {'mesh.data': '2', 'prompts_per_step': '3'},
}


@pytest.mark.slow
def test_two_processes_are_rewarded_as_one(folders, tmp_path):
  """The one is this process, with one of its devices."""
  two = {n: tmp_path / n for n in LAYOUTS}
  train([job(folders, two[n], **LAYOUTS[n]) for n in LAYOUTS], 2, 1)
  for count, names in (('8', ('rows', 'sharded', 'both')), ('3', ('odd',))):
    one = tmp_path / f'one-{count}'
    found = job(folders, one, prompts_per_step=count, **{'mesh.data': '1'})
    loop.train(config_lib.load(found['spec'], found['items']), one)
    assert all(row['rewards/model/std'] > 0.01 for row in rows_of(one))
    for name in names:
      close(one, two[name], rtol=1e-5)


@pytest.mark.slow
def test_two_processes_evaluate_by_a_folder_as_one(folders, tmp_path):
  found = job(folders, tmp_path / 'run', num_steps='1')
  loop.train(config_lib.load(found['spec'], found['items']), tmp_path / 'run')
  held = folders / 'held.jsonl'
  held.write_text((folders / 'prompts.jsonl').read_text().replace('+1', '+2'))
  said = {}
  for count in (1, 2):
    with Hosts(count, 2 // count) as hosts:
      hosts.start([
        '-m', 'posttrain_jax.evaluate', '--model', str(tmp_path / 'run'),
        '--config.eval.num_problems=5', '--config.eval.samples=2',
        f'--config.data.eval_path={held}', '--config.mesh.data=-1',
      ])  # fmt: skip
      assert hosts.wait() == [0] * count, hosts.logs()
      text = hosts.log(0)
      said[count] = json.loads(text[text.index('{') : text.rindex('}') + 1])
  assert said[1].keys() == said[2].keys()
  assert said[1]['eval/rewards/model'] != 0
  for name, value in said[1].items():
    np.testing.assert_allclose(said[2][name], value, rtol=1e-5, err_msg=name)
