"""The command `posttrain_jax.plan`: GPUs by arithmetic, TPUs compiled."""

import dataclasses
import json
import math

import pytest

from posttrain_jax import plan
from posttrain_jax.core import sharding, target
from posttrain_jax.models.hf_config import read_config
from posttrain_jax.run import accounting, build, traffic
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import chips

MODEL = {
  'architectures': ['Qwen3ForCausalLM'],
  'model_type': 'qwen3',
  'vocab_size': 2048,
  'hidden_size': 256,
  'intermediate_size': 640,
  'num_hidden_layers': 3,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 32,
  'max_position_embeddings': 8192,
  'tie_word_embeddings': True,
  'hidden_act': 'silu',
  'rms_norm_eps': 1e-6,
  'rope_theta': 10000.0,
  'eos_token_id': 1,
}


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'shape'
  path.mkdir()
  (path / 'config.json').write_text(json.dumps(MODEL))
  for name, key in (('rows', 'completion'), ('prompts', 'answer')):
    rows = [{'prompt': f'{i}?', key: f'{i}.'} for i in range(64)]
    text = '\n'.join(map(json.dumps, rows))
    (tmp_path / f'{name}.jsonl').write_text(text)
  return tmp_path


def arguments(folder, spec, **values):
  values = {
    'init_from': folder / 'shape',
    'tokenizer': 'byte',
    'data.path': folder / 'rows.jsonl',
    'model.dtype': 'bfloat16',
    'model.scan_layers': True,
    **values,
  }
  return ['--config', spec, *(f'--config.{k}={x}' for k, x in values.items())]


def planned(capsys, argv, status=0):
  """The object that --json prints last."""
  assert plan.main([*argv, '--json']) == status
  out = capsys.readouterr().out.splitlines()
  found = json.loads(out[-1])
  assert ('does not fit' if status else 'fits: ') in out[-2]
  for name in found['programs']:
    parts = dict(found['programs'][name]['hbm_bytes'])
    assert parts.pop('total') == sum(parts.values())
  return found


SFT = 'configs/sft.py:data=jsonl'


def test_gpus_are_planned_by_arithmetic(folder, capsys):
  values = {
    'prompts_per_step': 16,
    'data.max_length': 128,
    'mesh.fsdp': 8,
    'model.param_dtype': 'bfloat16',
    'microbatch_rows': 8,
  }
  argv = [*arguments(folder, SFT, **values), '--topology', 'h100x8']
  found = planned(capsys, argv)
  count = 256 * 2048 + 3 * (256 * 32 * (8 + 4 + 4 + 8) + 3 * 256 * 640)
  norms = 3 * (2 * 256 + 2 * 32) + 256  # whole on every device
  assert found['hbm_bytes']['parameters'] == 2 * (count // 8 + norms)
  assert found['hbm_bytes']['gradients'] == 2 * 2 * (count // 8 + norms)
  assert found['method'] == 'arithmetic' and found['mfu'] is None
  model = read_config(folder / 'shape')
  whole = 3 * accounting.forward_flops(model, 16, 128)
  assert found['flops']['ideal'] == whole
  assert found['flops']['counted'] == pytest.approx(whole, rel=0.01)
  assert found['flops']['recomputed'] == 0
  sent = traffic.of_update(model, {'fsdp': 8}, 16, 128, passes=2)
  assert sum(found['collective_bytes'].values()) < sent.total


def test_what_is_auto_is_decided_for_the_chip_of_the_topology():
  values = [('init_from', 'configs/models/shapes/SmolLM2-135M')]
  values += [('tokenizer', 'task'), ('mesh.fsdp', '-1')]
  config = config_lib.load('configs/sft.py', values)
  here = build.build(config_lib.load('configs/sft.py', values[:2]))
  with target.aimed(target.Target('tpu', 32)):
    there = build.build(config)
    assert sharding.axis_sizes(there.config.mesh)['fsdp'] == 32
  assert (here.model.dtype, there.model.dtype) == ('float32', 'bfloat16')
  assert there.sizes.why.startswith('32 x tpu')
  assert not here.sizes.why.startswith('32 x tpu')


@pytest.mark.parametrize(
  'argv, told',
  [
    (['--topology', 'v5e:3x3'], 'Did you mean "v5e:2x4"'),
    (['--topology', 'h100x8', '--topolgy', 'x'], 'Did you mean "--topology"'),
    (['--topology', 'h100x8', '--config.mesh.fsdp=9'], 'needs 9 devices'),
    (['--topology', 'h100x8', '--tries=-1'], 'nearest valid: 0'),
  ],
)
def test_what_cannot_work_is_said_in_one_line(argv, told, capsys):
  argv = ['--config', 'configs/sft.py', '--config.prompts_per_step=72', *argv]
  assert plan.main(argv) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('error: ') and told in error


@pytest.mark.long
def test_a_step_is_compiled_for_a_slice(folder, capsys):
  pytest.importorskip('libtpu')
  values = {
    'prompts_per_step': 16,
    'data.max_length': 128,
    'mesh.fsdp': 4,
    'mesh.tensor': 2,
    'model.param_dtype': 'bfloat16',
    'model.remat': True,
    'model.logit_chunk': 64,
  }
  argv = [*arguments(folder, SFT, **values), '--topology', 'v5e:2x4']
  found = planned(capsys, argv)
  assert found['method'] == 'compiled' and found['devices'] == 8
  assert found['hbm_bytes']['limit'] == round(15.75 * 2**30)
  assert 0.25 < found['flops']['recomputed'] < 0.4
  sizes = {'fsdp': 4, 'tensor': 2}
  model = build.build(config_lib.load(SFT, [
    (flag[9:].partition('=')[0], flag.partition('=')[2])
    for flag in argv if flag.startswith('--config.')
  ])).model  # fmt: skip
  formula = traffic.of_update(model, sizes, 16, 128).total
  moved = sum(found['collective_bytes'].values())
  assert formula / 1.2 < moved < 1.2 * formula
  assert math.isfinite(found['step_seconds'])


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_what_does(folder, capsys, monkeypatch):
  pytest.importorskip('libtpu')
  # A chip of 48 MiB: larger programs take minutes to be refused.
  small = dataclasses.replace(chips.CHIPS['v5e'], hbm=48 * 2**20)
  monkeypatch.setitem(chips.CHIPS, 'v5e', small)
  one = {**MODEL, 'num_hidden_layers': 1}
  (folder / 'shape' / 'config.json').write_text(json.dumps(one))
  values = {
    'prompts_per_step': 64,
    'data.max_length': 512,
    'mesh.fsdp': 8,
    'model.remat': True,
    'model.logit_chunk': 128,
  }
  argv = [*arguments(folder, SFT, **values), '--topology', 'v5e:2x4']
  found = planned(capsys, [*argv, '--tries', '1'], status=1)
  assert found['over_bytes'] > 0 and not found['fits']
  (tried,) = found['tried']
  assert tried['fits'] and tried['total'] <= small.hbm
  assert found['fitting'] == [tried['changes']]
  assert tried['changes']['microbatch_rows'] in (8, 16, 32)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['in-graph', 'host'])
def test_rollout_and_update_of_rl_are_told_apart(kind, folder, capsys):
  pytest.importorskip('libtpu')
  values = {
    'prompts_per_step': 8,
    'group_size': 4,
    'max_new_tokens': 64,
    'mesh.fsdp': 8,
    'eval.num_problems': 0,
  }
  spec = 'configs/rl.py:data=jsonl'
  if kind == 'in-graph':
    spec = 'configs/rl.py'
    values |= {'tokenizer': 'task', 'data.path': ''}
  else:
    values |= {
      'data.path': folder / 'prompts.jsonl',
      'rewards': '[{"name": "exact_match"}]',
    }
  argv = [*arguments(folder, spec, **values), '--topology', 'v5e:2x4']
  found = planned(capsys, argv)
  assert list(found['programs']) == [
    'rollout', 'step' if kind == 'in-graph' else 'learn'
  ]  # fmt: skip
  rollout = found['programs']['rollout']
  # Three layers of keys and values of 4 heads of 32, in bfloat16.
  each = 3 * 2 * 4 * 32 * 2
  assert rollout['hbm_bytes']['kv_cache'] > each * 32 * 64 / 8
  assert rollout['seconds']['memory'] > 0
  assert rollout['hbm_bytes']['moments'] > 0
