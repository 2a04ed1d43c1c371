"""Adapters: what trains, what a state holds, and what a config may ask for."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from test_adapters import BASE, KEY, KINDS, MODEL, close, fresh, moved

from posttrain_jax.core import sharding, trees
from posttrain_jax.core.types import TrainState
from posttrain_jax.models import adapted, transformer
from posttrain_jax.params import adapters, make_adapter
from posttrain_jax.run import accounting, auto, build
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers import optim, step


def test_without_adapters_all_is_trained_and_nothing_is_copied():
  assert adapted.trained(BASE) is BASE
  assert adapted.join(BASE, {'other': 1}) is BASE
  assert adapted.merged(BASE)['embed']['tokens'] is BASE['embed']['tokens']


def shapes(name, model=MODEL):
  init = lambda key: KINDS[name].attach(transformer.init(key, model), key)
  return jax.eval_shape(init, KEY)


def test_what_is_trained_by_path():
  params = shapes('dora', dataclasses.replace(MODEL, value_head=True))
  names = trees.names(adapted.trained(params))
  parts = [
    f'layers/{key}/{part}'
    for key in adapters.MATRICES
    for part in ('a', 'b', 'magnitude')
  ]
  heads = ['value_head/bias', 'value_head/kernel']
  assert sorted(names) == sorted([*parts, *heads])
  counted = KINDS['dora'].count(adapters.shapes_in(MODEL))
  assert trees.count(adapted.trained(params)) == counted + 8 + 1
  # A head that a tree lacks comes in with what is joined.
  bare = shapes('dora')
  assert 'value_head' in adapted.join(adapted.trained(params), bare)


def config_of(*items, spec='configs/sft.py:smoke'):
  tiny = [
    ('model.preset', 'depth-1'), ('task.num_digits', '1'),
    ('eval.num_problems', '0'), ('adapter.name', 'lora'),
    ('adapter.rank', '2'),
  ]  # fmt: skip
  names = dict(tiny) | dict(items)
  return config_lib.load(spec, list(names.items()))


def without(config):
  config = config.copy_and_resolve_references()
  config.adapter = {'name': 'none'}
  return config


DPO = 'configs/preference.py:smoke'
PAIRS = [('collect.name', 'oracle_vs_rollout'), ('group_size', '1')]


def test_a_step_moves_the_adapter_and_the_reference_is_the_base():
  items = [*PAIRS, ('optimizer.lr', '0.1'), ('optimizer.weight_decay', '0.1')]
  run = build.build(config_of(*items, spec=DPO))
  state = jax.jit(run.init)({'policy': fresh(run.model)}, KEY)
  assert isinstance(state.ref_params, adapted.Off)
  # Of the state, only these leaves are new.
  after, metrics = jax.jit(run.step)(state, KEY)
  assert metrics['loss'] == pytest.approx(math.log(2), abs=1e-6)
  assert metrics['grad_norm'] > 0
  for name, old, new in zip(
    trees.names(state.params),
    jax.tree.leaves(state.params),
    jax.tree.leaves(after.params),
  ):
    still = not name.endswith(('/a', '/b'))
    assert np.array_equal(old, new) == still, name
  moments = [n for n in trees.names(after.opt_state) if '/mu/' in n]
  assert len(moments) == 2 * len(adapters.MATRICES)
  close(after.model('ref'), adapted.off(state.params), rtol=0)
  assert after.model('policy') is after.params


def test_the_state_holds_the_base_once():
  """Bytes of a DPO state, whose reference is the policy as it starts."""
  config = config_of(spec=DPO)

  def held(config):
    run = build.build(config)
    start = lambda key: {'policy': transformer.init(key, run.model)}
    base = jax.eval_shape(start, KEY)
    state = jax.eval_shape(run.init, base, KEY)
    count = lambda x: sum(y.size * y.dtype.itemsize for y in jax.tree.leaves(x))
    return count(state), count(base), run

  lora, base, run = held(config)
  full, _, _ = held(without(config))
  beside = 4 * run.adapter.count(adapters.shapes_in(run.model))
  # Adapters and two moments of each; scales and counts are a few numbers.
  assert base + 3 * beside <= lora <= base + 3 * beside + 256
  assert 4 * base <= full and lora < 0.6 * full


def test_no_gradient_of_the_base_is_made():
  """Nothing in a step but its inputs and outputs is as large as the base."""
  run = build.build(config_of(('microbatch_rows', '4'), ('adapter.rank', '1')))
  start = lambda key: {'policy': transformer.init(key, run.model)}
  state = jax.eval_shape(run.init, jax.eval_shape(start, KEY), KEY)
  text = str(jax.make_jaxpr(run.step)(state, KEY))
  # The shapes of a gradient that would be summed over micro-batches.
  shape = lambda x: 'f32[' + ','.join(map(str, x.shape)) + ']'
  full = build.build(without(config_of(('microbatch_rows', '4'))))
  whole = jax.eval_shape(full.init, jax.eval_shape(start, KEY), KEY)
  theirs = str(jax.make_jaxpr(full.step)(whole, KEY))
  zeros = lambda x: f'{shape(x)} = broadcast_in_dim'
  up = state.params['layers']['up']
  assert zeros(up.base) in theirs and zeros(up.base) not in text
  assert zeros(up.a) in text


def test_a_reference_that_is_replaced_is_an_adapter():
  items = [('ref.refresh_every', '2')]
  spec = 'configs/preference.py:recipe=spin,smoke'
  run = build.build(config_of(*items, spec=spec))
  state = jax.jit(run.init)({'policy': fresh(run.model)}, KEY)
  assert isinstance(state.ref_params, adapted.Held)
  refresh = jax.jit(step.make_refresh(2, 1.0))
  changed = state.replace(params=moved(state.params))
  one = refresh(changed.replace(step=jnp.int32(1)))
  close(one.model('ref'), state.params, rtol=0)
  two = refresh(changed.replace(step=jnp.int32(2)))
  close(two.model('ref'), changed.params, rtol=0)


@pytest.mark.parametrize('rate', [1.0, 16.0])
def test_lora_plus_rates_and_decay(rate):
  """sgd on gradients of one: -lr (1 + decay x), of B `rate` times that; the
  lengths of columns do not decay."""
  config = config_of(
    ('optimizer.name', 'sgd'), ('optimizer.b1', '0.0'), ('optimizer.lr', '0.1'),
    ('optimizer.max_grad_norm', '0'), ('optimizer.warmup_updates', '0'),
    ('optimizer.schedule', 'constant'), ('optimizer.weight_decay', '0.5'),
  ).optimizer  # fmt: skip
  made = adapted.trained(shapes('dora'))
  ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), made)
  optimizer = optim.make_optimizer(config, ones, 10, b_rate=rate)
  take = lambda ones: optimizer.update(ones, optimizer.init(ones), ones)[0]
  updates = jax.jit(take)(ones)
  for name, x in zip(trees.names(updates), jax.tree.leaves(updates)):
    expected = -config.lr * (1.0 if name.endswith('magnitude') else 1.5)
    expected *= rate if name.endswith('/b') else 1.0
    np.testing.assert_allclose(x, expected, rtol=1e-6, err_msg=name)


# ---- Configs.


def test_every_array_has_a_spec_of_its_shape():
  for name, adapter in KINDS.items():
    specs = {**transformer.param_specs(MODEL), **adapter.specs(MODEL)}
    is_spec = lambda x: isinstance(x, P)
    known = {
      trees.path_name(path): spec
      for path, spec in jax.tree_util.tree_leaves_with_path(
        specs, is_leaf=is_spec
      )
    }
    made = shapes(name)
    for path, leaf in zip(trees.names(made), jax.tree.leaves(made)):
      if path.endswith('/scale') and '/base/' not in path:
        continue  # a number a layer
      assert len(known[path]) <= leaf.ndim, (name, path)
  mesh = sharding.make_mesh(dict(data=1, fsdp=2, tensor=2))
  state = TrainState(jnp.int32(0), made, ())
  place = sharding.state_shardings(state, specs, mesh).params['layers']
  assert place['query'].a.spec == P(None, 'fsdp', None)
  assert place['query'].b.spec == P(None, None, 'tensor', None)
  assert place['down'].a.spec == P(None, 'tensor', None)
  assert place['down'].base.codes.spec == P(None, 'tensor', 'fsdp')


BAD = {
  'targets=layers/qery': 'matches no parameter. Matrices: embed/tokens, '
  'layers/down, .*Did you mean "layers/query"',
  'targets=final_norm': 'matches final_norm, which cannot have an adapter',
  'targets=': 'adapter.targets is empty',
  'rank=33': 'adapter.rank=33 is more than layers/down has, a matrix of 128 x '
  '32; nearest valid: 32',
  'rank=0': 'adapter.rank=0',
  'alpha=0': 'adapter.alpha=0',
  'base=nf3': 'Did you mean "nf4"',
  'rnk=3': 'Did you mean "adapter.rank"',
  'name=lra': 'Did you mean "lora"',
}


@pytest.mark.parametrize('item', BAD)
def test_bad_values_are_named(item):
  key, _, value = item.partition('=')
  with pytest.raises(ValueError, match=BAD[item]):
    build.build(config_of((f'adapter.{key}', value)))


def test_a_mean_of_references_is_refused():
  spec = 'configs/preference.py:recipe=spin,smoke'
  items = [('ref.refresh_every', '1'), ('ref.mixup', '0.5')]
  with pytest.raises(ValueError, match='nearest valid: ref.mixup=1.0'):
    build.build(config_of(*items, spec=spec))


def test_odd_matrices_cannot_be_nf4():
  odd = dataclasses.replace(MODEL, mlp_dim=13)
  with pytest.raises(ValueError, match='layers/down has an odd axis of 13'):
    adapters.lora(rank=2, base='nf4').paths(adapters.shapes_in(odd))


def test_adapters_of_large_models_learn_faster():
  rate = lambda *x: auto.learning_rate('auto', 'sft', *x)[0]
  assert rate(10**9, 'lora') == 10 * rate(10**9)
  assert rate(10**6, 'lora') == rate(10**6) > rate(10**9, 'lora')
  assert rate(10**9, 'none') == rate(10**9)


def test_no_adapter_and_configs_older_than_adapters():
  assert make_adapter(None) is None and make_adapter({'name': 'none'}) is None
  made = make_adapter({'name': 'rslora', 'rank': 4, 'alpha': 6.0})
  assert made.scale == 3.0 and not made.magnitude


def test_flops_leave_out_the_frozen_gradient():
  config = config_of()
  run = build.build(config)
  found = accounting.step_flops(config, run.model, run.sizes)
  full = accounting.step_flops(without(config), run.model, run.sizes)
  assert 0.66 < found / full < 0.78
