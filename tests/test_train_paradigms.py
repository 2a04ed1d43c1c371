"""Whole runs of preference and distillation: resume, roles, eight devices."""

from pathlib import Path

import jax
import numpy as np
import pytest
from halves import cut

from posttrain_jax import log
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import loop

ROOT = Path(__file__).parent.parent
FAST = [
  ('eval.every', '0'), ('eval.num_problems', '0'),
  ('log.tensorboard', 'false'), ('task.num_digits', '1'),
]  # fmt: skip
RUNS = {
  # The reference moves, so it has to be saved, too.
  'spin': (
    'configs/preference.py:recipe=spin,smoke',
    [('ref.refresh_every', '1'), ('ref.mixup', '0.5'),
     ('minibatch_rows', '8'), ('updates_per_rollout', '2')],
  ),
  # The mean of all rewards so far is a part of the state.
  'bco': ('configs/preference.py:recipe=bco,smoke', []),
  'gkd': ('configs/distill.py:smoke', []),
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def load(name, **items):
  spec, pairs = RUNS[name]
  extra = [(key.replace('__', '.'), value) for key, value in items.items()]
  return config_lib.load(spec, FAST + pairs + extra)


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """The folder of a run that a student can learn from."""
  folder = tmp_path_factory.mktemp('teacher')
  c = config_lib.load('configs/sft.py:smoke', [*FAST, ('num_steps', '1')])
  loop.train(c, folder)
  return str(folder)


def losses(workdir):
  _, rows = log.read(workdir / 'metrics.jsonl')
  return [row['loss'] for row in rows if row['split'] == 'train']


@pytest.mark.parametrize(
  'name', ['spin', 'bco', pytest.param('gkd', marks=pytest.mark.slow)]
)
def test_two_steps_and_two_more_are_four(name, tmp_path, request):
  more = {}
  if name == 'gkd':
    more['others__teacher'] = request.getfixturevalue('teacher')
  _, straight, _ = loop.train(load(name, **more), tmp_path / 'straight')
  cut(tmp_path / 'straight', tmp_path / 'halves')
  _, resumed, _ = loop.train(load(name, **more), tmp_path / 'halves')
  same(straight, resumed)
  assert losses(tmp_path / 'halves') == losses(tmp_path / 'straight')
  frozen = resumed.others['teacher'] if name == 'gkd' else resumed.ref_params
  assert frozen is not None
  assert ('shift' in resumed.control) == (name == 'bco')
  if name == 'bco':
    assert resumed.control['shift']['count'] > 0


@pytest.mark.slow
def test_a_teacher_of_another_size(tmp_path, teacher):
  sizes = [('model.preset', 'depth-2')]
  c = config_lib.load('configs/sft.py:smoke', FAST + sizes)
  _, taught, _ = loop.train(c, tmp_path / 'teacher')
  where = {'others__teacher': str(tmp_path / 'teacher')}
  run, state, _ = loop.train(load('gkd', **where), tmp_path / 'student')
  same(state.others['teacher'], taught.params)
  assert run.models['teacher'].width == 64 and run.model.width == 32
  with pytest.raises(ValueError, match='others.teacher'):
    loop.train(load('gkd', others__teacher=teacher), tmp_path / 'student')


def test_eight_devices_train_as_one(tmp_path):
  assert jax.device_count() == 8
  items = {'num_steps': '2', 'optimizer__name': 'sgd', 'optimizer__lr': '0.1'}
  _, one, _ = loop.train(load('spin', **items), tmp_path / 'one')
  c = load('spin', mesh__data='2', mesh__fsdp='2', mesh__tensor='2', **items)
  _, many, _ = loop.train(c, tmp_path / 'many')
  query = many.ref_params['layers']['query']
  assert query.addressable_shards[0].data.size == query.size // 4
  np.testing.assert_allclose(
    losses(tmp_path / 'one'), losses(tmp_path / 'many'), rtol=2e-4
  )
  gap = jax.tree.map(
    lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
    (one.params, one.ref_params), (many.params, many.ref_params),
  )  # fmt: skip
  assert max(jax.tree.leaves(gap)) < 2e-5
