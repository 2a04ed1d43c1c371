"""Whole runs with adapters: every paradigm, resume, devices, folders."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from halves import cut

from posttrain_jax import evaluate, export, log, sweep, train
from posttrain_jax.core import trees
from posttrain_jax.models import adapted, hf, transformer
from posttrain_jax.run import base, checkpoint, failed, loop
from posttrain_jax.run import config as config_lib
from posttrain_jax.sweep import replay

ROOT = Path(__file__).parent.parent
GOLDENS = Path(__file__).parent / 'goldens'
FAST = {
  'eval.every': '0', 'eval.samples': '0', 'eval.num_problems': '0',
  'log.tensorboard': 'false', 'model.preset': 'depth-1',
  'adapter.name': 'lora', 'adapter.rank': '2',
}  # fmt: skip
PAIRS = {
  'task.num_digits': '1', 'collect.name': 'oracle_vs_rollout',
  'group_size': '1',
}  # fmt: skip
RUNS = {
  'sft': (
    'configs/sft.py:smoke',
    {'task.num_digits': '1', 'adapter.dropout': '0.25'},
  ),
  'tables': (
    'configs/sft.py:smoke',
    {'task.num_digits': '1', 'adapter.base': 'int8',
     'adapter.targets': '("embed_tokens", "v_proj")'},
  ),
  'dpo': (
    'configs/preference.py:smoke',
    {**PAIRS, 'adapter.name': 'dora', 'adapter.base': 'nf4'},
  ),
  'grpo': (
    'configs/rl.py:smoke',
    {'kl.coef': '0.1', 'entropy_coef': '0.01', 'adapter.base': 'int8'},
  ),
  'ppo': (
    'configs/rl.py:smoke,recipe=ppo,task=countdown',
    {'minibatch_rows': '8', 'microbatch_rows': '4', 'adapter.name': 'dora',
     'updates_per_rollout': '2', 'entropy_coef': '0.01',
     'adapter.b_rate': '4'},
  ),
  'spin': (
    'configs/preference.py:recipe=spin,smoke',
    {'task.num_digits': '1', 'ref.refresh_every': '1'},
  ),
  'kto': (
    'configs/preference.py:recipe=kto,smoke',
    {'task.num_digits': '1', 'adapter.name': 'rslora'},
  ),
  'orpo': (
    'configs/preference.py:recipe=orpo,smoke',
    {**PAIRS, 'adapter.base': 'nf4'},
  ),
  'reward_model': (
    'configs/preference.py:recipe=reward_model,smoke',
    {**PAIRS, 'adapter.base': 'int8'},
  ),
  'gkd': (
    'configs/distill.py:smoke',
    {'task.num_digits': '1', 'adapter.name': 'dora'},
  ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def load(name, **items):
  spec, own = RUNS[name]
  more = {key.replace('__', '.'): value for key, value in items.items()}
  return config_lib.load(spec, list((FAST | own | more).items()))


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def rows_of(workdir):
  _, rows = log.read(workdir / 'metrics.jsonl')
  return [
    {k: v for k, v in row.items() if not k.startswith(('time', 'perf/'))}
    for row in rows
    if row['split'] == 'train'
  ]


def size_of(folder):
  return sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())


# Those of a kind with what others have in common.
TRAINED = [
  pytest.param(n, marks=getattr(pytest.mark, 'long' if n == 'ppo' else 'slow'))
  for n in RUNS
]


@pytest.mark.parametrize('name', TRAINED)
def test_two_steps_and_two_more_are_four(name, tmp_path, request):
  own = {}
  if name == 'gkd':
    own['others__teacher'] = str(request.getfixturevalue('trained')[0])
  config = load(name, **own)
  _, straight, _ = loop.train(config, tmp_path / 'straight')
  cut(tmp_path / 'straight', tmp_path / 'halves')
  run, resumed, _ = loop.train(config, tmp_path / 'halves')
  same(straight, resumed)
  expected = rows_of(tmp_path / 'straight')
  assert rows_of(tmp_path / 'halves') == expected
  assert [row['step'] for row in expected] == [1, 2, 3, 4]
  assert all(row['grad_norm'] > 0 for row in expected)
  if name in ('grpo', 'ppo'):  # sampler and learner are one function
    assert all(row['rollout/logp_gap_max'] <= 1e-5 for row in expected)
  # What is read of it elsewhere is the same policy.
  found = checkpoint.read_params(tmp_path / 'halves')[2]
  same(found, resumed.params)
  moved = trees.distance(
    adapted.merged(resumed.params), adapted.off(resumed.params, dense=True)
  )
  assert moved > 0 and run.adapter is not None


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """(folder, state) of a short SFT run from fresh weights."""
  folder = tmp_path_factory.mktemp('lora') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    run, state, _ = loop.train(load('sft', num_steps='2'), folder)
  return folder, run, state


def test_checkpoints_hold_the_adapter_alone(trained):
  folder, run, state = trained
  saved = json.loads((folder / 'config.json').read_text())[base.KEY]
  assert saved['source'] == ''
  # The base lies beside them once, with a digest of each array.
  bare = adapted.off(state.params)
  assert saved['arrays'] == base.arrays(bare)
  assert set(saved['arrays']) == set(transformer.param_table(run.model))
  item = folder / checkpoint.FOLDER / '2' / 'params'
  assert size_of(item) < 0.5 * size_of(folder / 'base')
  names = trees.names(dict(checkpoint.ocp.StandardCheckpointer().metadata(
    item.absolute()).item_metadata))  # fmt: skip
  assert names and all(name[-2:] in ('/a', '/b') for name in names)


def test_another_base_is_refused_by_name(trained, tmp_path):
  folder = Path(shutil.copytree(trained[0], tmp_path / 'run'))
  place = folder / base.FILE
  flat = base.safetensors.load_file(place)
  flat['layers/up'] = flat['layers/up'] + 1e-3
  base.safetensors.save_file(flat, place)
  wrong = 'is not the base that the adapters of .* layers/up differ'
  with pytest.raises(ValueError, match=wrong):
    loop.train(load('sft', num_steps='3'), folder)
  with pytest.raises(ValueError, match='is not the base'):
    checkpoint.read_params(folder)
  place.unlink()
  with pytest.raises(ValueError, match='cannot be read from'):
    checkpoint.read_params(folder)


@pytest.mark.long
def test_a_folder_is_the_base(tmp_path, capsys):
  """A Hugging Face folder is read again; one that has changed is refused."""
  source = Path(shutil.copytree(GOLDENS / 'qwen2', tmp_path / 'qwen2'))
  items = {'init_from': str(source), 'num_steps': '1'}
  _, state, _ = loop.train(load('sft', **items), tmp_path / 'run')
  assert not (tmp_path / 'run/base').exists()
  loop.train(load('sft', **items | {'num_steps': '2'}), tmp_path / 'run')
  _, params = hf.load(source)
  same(adapted.off(state.params), params)
  report = export.export(tmp_path / 'run', tmp_path / 'out', adapter=True)
  assert report[0].startswith('wrote step 2')
  named = json.loads((tmp_path / 'out/adapter_config.json').read_text())
  assert named['base_model_name_or_path'] == str(source)
  changed = hf.load(source)
  shutil.rmtree(source)
  more = jax.tree.map(lambda x: x + 1, changed[1])
  hf.save(source, changed[0], more)
  with pytest.raises(ValueError, match=f'{source} is not the base'):
    loop.train(load('sft', **items | {'num_steps': '3'}), tmp_path / 'run')


@pytest.mark.long
def test_export_and_start_again(trained, tmp_path, capsys):
  folder, run, state = trained
  merged = adapted.merged(state.params)
  out = ['--checkpoint', str(folder), '--out']
  assert export.main([*out, str(tmp_path / 'merged'), '--merge']) == 0
  assert 'merged: the adapters' in capsys.readouterr().out
  _, found = hf.load(tmp_path / 'merged')
  same(found, merged)
  assert export.main([*out, str(tmp_path / 'adapter'), '--adapter']) == 0
  assert 'wrote its base' in capsys.readouterr().out
  # Each of them is where another run may begin, with adapters of its own.
  for start in (folder, tmp_path / 'merged', tmp_path / 'adapter'):
    c = load('sft', init_from=str(start), num_steps='1')
    _, again, _ = loop.train(c, tmp_path / f'from-{start.name}')
    begun = adapted.off(again.params)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), begun, merged
    )
  assert (tmp_path / f'from-{folder.name}/base').is_dir()
  assert not (tmp_path / 'from-merged/base').exists()
  assert export.main([*out, str(tmp_path / 'adapter'), '--adapter']) == 2
  assert 'exists' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    export.main([*out, 'x', '--adapter', '--merge'])


@pytest.mark.slow
def test_a_run_without_adapters_has_none_to_export(tmp_path, capsys):
  c = config_lib.load('configs/sft.py:smoke', [
    ('num_steps', '1'), ('model.preset', 'depth-1'), ('eval.every', '0'),
    ('eval.num_problems', '0'), ('task.num_digits', '1'),
    ('log.tensorboard', 'false'),
  ])  # fmt: skip
  loop.train(c, tmp_path / 'run')
  out = ['--checkpoint', str(tmp_path / 'run'), '--out', str(tmp_path / 'out')]
  assert export.main([*out, '--adapter']) == 2
  assert 'has no adapters; leave out --adapter' in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate(trained, capsys):
  where = ['--checkpoint', str(trained[0])]
  items = ['--config.eval.num_problems=4', '--config.eval.batch=4']
  assert evaluate.main([*where, *items]) == 0
  assert 'eval/accuracy' in json.loads(capsys.readouterr().out)


def test_a_dry_run_says_what_trains():
  told = train.describe(load('ppo'))
  assert 'of 18,' in told and '%' in told
  assert 'rank 2 on layers/down' in told and 'all of value_head' in told


@pytest.mark.parametrize(
  'kind',
  [
    pytest.param('', marks=pytest.mark.long),
    pytest.param('nf4', marks=pytest.mark.slow),
  ],
)
def test_eight_devices_train_as_one(kind, tmp_path):
  assert jax.device_count() == 8
  items = {'num_steps': '2', 'optimizer__name': 'sgd', 'optimizer__lr': '0.1',
           'adapter__base': kind, 'adapter__name': 'lora'}  # fmt: skip
  _, one, _ = loop.train(load('dpo', **items), tmp_path / 'one')
  c = load('dpo', mesh__data='2', mesh__fsdp='2', mesh__tensor='2', **items)
  _, many, _ = loop.train(c, tmp_path / 'many')
  node = many.params['layers']['up']
  leaf = node.base.codes if kind else node.base
  assert leaf.addressable_shards[0].data.size == leaf.size // 4
  assert node.a.addressable_shards[0].data.size == node.a.size // 2
  losses = lambda d: [row['loss'] for row in rows_of(tmp_path / d)]
  np.testing.assert_allclose(losses('one'), losses('many'), rtol=2e-4)
  gap = jax.tree.map(
    lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
    adapted.trained(one.params), adapted.trained(many.params),
  )  # fmt: skip
  assert max(jax.tree.leaves(gap)) < 2e-5
  # A run may go on with another mesh.
  c = load('dpo', **items | {'num_steps': '3'})
  loop.train(c, tmp_path / 'many')


@pytest.mark.slow
def test_seeds_side_by_side_are_runs_alone(tmp_path):
  c = load('sft', optimizer__name='sgd', num_steps='2')
  run = sweep.make_train(c)
  keys = jnp.stack([jax.random.key(i) for i in range(2)])
  hparams = {'adapter.alpha': jnp.array([8.0, 16.0]),
             'adapter.b_rate': jnp.array([1.0, 4.0])}  # fmt: skip
  assert set(sweep.traceable(c, list(hparams))) == set(hparams)
  states, _ = jax.jit(jax.vmap(run))(keys, hparams)
  alone = load('sft', optimizer__name='sgd', num_steps='2', seed='1',
               adapter__alpha='16.0', adapter__b_rate='4.0')  # fmt: skip
  _, state, _ = loop.train(alone, tmp_path)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-6),
    states.params,
    state.params,
  )
  # Merged over layers and runs.
  one = jax.tree.map(lambda x: x[1], adapted.merged(states.params))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    one,
    adapted.merged(jax.tree.map(lambda x: x[1], states.params)),
  )


@pytest.mark.slow
def test_a_step_that_was_not_finite_is_taken_again(tmp_path):
  c = load('sft', optimizer__lr='1e39', adapter__base='int8')
  with pytest.raises(failed.NonFinite, match='not finite'):
    loop.train(c, tmp_path)
  step, path = failed.newest(tmp_path)
  found = replay.replay(failed.read(path))
  assert found.not_finite and not found.differing
  assert all('/base' not in name for name in found.arrays)
  # The record has its own base.
  params = checkpoint.read_params(path.parent)[2]
  assert adapted.has_adapters(params)
