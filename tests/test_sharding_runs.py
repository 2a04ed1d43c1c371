"""Any mesh trains as one device: losses, gradients, moments and parameters.

Cases are mesh x trainer x adapter. Some of them cover every pair of an axis
with a trainer and with an adapter; all of them are in the slow tests. Rollouts
are the same random tokens for all: `tests/test_slots.py` and the tests of
decoding have the sampler.
"""

import functools
import itertools
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sharding_cases import even, fixed

from posttrain_jax import rollout
from posttrain_jax.core import sharding, trees
from posttrain_jax.models import transformer
from posttrain_jax.models.adapted import trained
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.state import state_shardings
from posttrain_jax.tasks import addition

STEPS = 5
MESHES = {
  'data': dict(data=8),
  'fsdp': dict(fsdp=8),
  'fsdp-tensor': dict(fsdp=4, tensor=2),
  'data-fsdp-tensor': dict(data=2, fsdp=2, tensor=2),
  'data-tensor-sequence': dict(data=2, tensor=2, sequence=2),
  'fsdp-sequence-expert': dict(fsdp=2, sequence=2, expert=2),
  'fsdp-tensor-expert': dict(fsdp=2, tensor=2, expert=2),
  'data-sequence-expert': dict(data=2, sequence=2, expert=2),
}
TRAINERS = {
  'sft': ('configs/sft.py:smoke', {}),
  'dpo': ('configs/preference.py:recipe=dpo,smoke', {}),
  'grpo': ('configs/rl.py:recipe=grpo,smoke', dict(kl__coef=0.1)),
  'ppo': ('configs/rl.py:recipe=ppo,smoke', {}),
  'distill': (
    'configs/distill.py:recipe=forward_kl,smoke',
    dict(others__teacher='tests/goldens/qwen3'),  # another model
  ),
}
ADAPTERS = {
  'none': {},
  'lora': dict(adapter__name='lora', adapter__rank=4),
  'nf4': dict(adapter__name='lora', adapter__rank=4, adapter__base='nf4'),
  # Of a table that is read at both ends, and of two that are one each. B of a
  # table starts at 1: with alpha / rank of 8 rounding grows beyond the bound.
  'tied': dict(
    adapter__name='lora', adapter__rank=4, adapter__alpha=4,
    adapter__targets=('embed_tokens', 'v_proj'),
  ),
  'tables': dict(
    adapter__name='dora', adapter__rank=4, adapter__alpha=4,
    adapter__targets=('embed_tokens', 'lm_head', 'v_proj'),
  ),
}  # fmt: skip
MODELS = ('dense', 'experts')
# (mesh, trainer, adapter, model): a quick one, and those of the long tests.
QUICK = (('data-fsdp-tensor', 'sft', 'none', 'dense'),)
LONG = (
  ('data-fsdp-tensor', 'sft', 'tied', 'dense'),
  ('fsdp-sequence-expert', 'sft', 'nf4', 'dense'),
  ('data-sequence-expert', 'grpo', 'none', 'experts'),
)
REST = (
  ('data-tensor-sequence', 'dpo', 'lora', 'dense'),
  ('fsdp-tensor-expert', 'dpo', 'none', 'experts'),
  ('fsdp', 'dpo', 'nf4', 'dense'),
  ('data-fsdp-tensor', 'grpo', 'lora', 'dense'),
  ('data-tensor-sequence', 'ppo', 'none', 'dense'),
  ('fsdp-tensor-expert', 'ppo', 'lora', 'dense'),
  ('data', 'ppo', 'nf4', 'dense'),
  ('fsdp-tensor', 'distill', 'nf4', 'dense'),
  ('data-sequence-expert', 'distill', 'lora', 'dense'),
  ('data-tensor-sequence', 'grpo', 'tables', 'dense'),
  ('fsdp-tensor-expert', 'sft', 'tables', 'dense'),
  ('fsdp-sequence-expert', 'dpo', 'tied', 'dense'),
)
COVER = (*QUICK, *LONG, *REST)
EVERY = [
  (mesh, trainer, adapter, model)
  for mesh, trainer, adapter in itertools.product(MESHES, TRAINERS, ADAPTERS)
  for model in (MODELS if 'expert' in mesh else MODELS[:1])
]


@functools.cache
def shape(model: str, tied: bool) -> str:
  """A folder with the shape of a small model, with one table or two."""
  name = {'dense': 'qwen3', 'experts': 'families/qwen3_moe'}[model]
  fields = json.loads(Path(f'tests/goldens/{name}/config.json').read_text())
  fields |= dict(vocab_size=64, num_hidden_layers=2, tie_word_embeddings=tied)
  if model == 'experts':
    fields |= dict(mlp_only_layers=[])
  folder = Path(tempfile.mkdtemp())
  (folder / 'config.json').write_text(json.dumps(fields))
  return str(folder)


def begins_with(model: str, adapter: str) -> dict[str, str]:
  """What a run starts from: the preset, which is dense and has one table,
  unless it takes another."""
  if model == 'dense' and adapter != 'tables':
    return {}
  return {'init_from': shape(model, adapter == 'tied')}


def load(mesh: str, trainer: str, adapter: str, model: str):
  spec, items = TRAINERS[trainer]
  items = dict(
    model__preset='depth-2',
    model__scan_layers=True,
    model__logit_chunk=4,
    prompts_per_step=8,
    group_size=4 if trainer in ('dpo', 'grpo', 'ppo') else 1,
    max_new_tokens=8,
    # AdamW turns the rounding of a gradient that is all but zero into a step
    # of full size; beside this eps it stays rounding. Large steps would let
    # five of them double it again and again.
    optimizer__name='adamw',
    optimizer__eps=1e-3,
    optimizer__lr=1e-3,
    **{f'mesh__{axis}': size for axis, size in MESHES.get(mesh, {}).items()},
    **items,
    **ADAPTERS[adapter],
    **begins_with(model, adapter),
  )
  pairs = [(key.replace('__', '.'), str(x)) for key, x in items.items()]
  return config_lib.load(spec, pairs)


@pytest.fixture(autouse=True)
def _no_sampler(monkeypatch):
  monkeypatch.setattr(rollout, 'generate', fixed)
  monkeypatch.setattr(addition.Task, 'verify', even)


@functools.cache
def begun(trainer: str, adapter: str, model: str):
  """(The state before the first step, as NumPy; five steps on one device.)"""
  run = build.build(load('', trainer, adapter, model))

  def start(key):
    keys = {role: i for i, role in enumerate(sorted(run.models))}
    fresh = {
      role: transformer.init(jax.random.fold_in(key, keys[role]), config)
      for role, config in run.models.items()
      if run.adapter is None or role != 'ref'
    }
    return run.init(fresh)

  first = jax.jit(start)(jax.random.key(1))
  return jax.tree.map(np.asarray, first), five_steps(run, first)


def five_steps(run, state):
  """(state, metrics [5])."""
  keys = jax.random.split(jax.random.key(2), STEPS)
  return jax.jit(lambda state: jax.lax.scan(run.step, state, keys))(state)


def gap(one, many) -> float:
  """The largest difference of two arrays, over the largest number."""
  one, many = np.asarray(one, np.float64), np.asarray(many, np.float64)
  return float(np.abs(one - many).max() / max(np.abs(one).max(), 1e-8))


def check(mesh: str, trainer: str, adapter: str, model: str) -> None:
  first, (one, expected) = begun(trainer, adapter, model)
  config = load(mesh, trainer, adapter, model)
  run, over = build.build(config), sharding.make_mesh(config.mesh)
  if adapter in ('tied', 'tables'):
    assert run.model.tie_embeddings == (adapter == 'tied')
  with jax.set_mesh(over):
    placed = state_shardings(run, over)
    many, found = five_steps(run, jax.device_put(first, placed))
  assert len(jax.tree.leaves(many.params)[0].sharding.device_set) == 8
  for name in ('loss', 'grad_norm'):
    assert np.all(np.asarray(expected['grad_norm']) > 1e-4)
    np.testing.assert_allclose(found[name], expected[name], 1e-5, 1e-6, name)
  # The first moment is the gradient of each step, weighted.
  for what in ('params', 'opt_state', 'ref_params', 'others', 'control'):
    ours, theirs = getattr(one, what), getattr(many, what)
    if what == 'params':
      ours, theirs = trained(ours), trained(theirs)
    names = trees.names(ours)
    pairs = zip(names, jax.tree.leaves(ours), jax.tree.leaves(theirs))
    for path, a, b in pairs:
      if jnp.issubdtype(a.dtype, jnp.floating):
        assert gap(a, b) < 2e-5, (what, path)
  # The state stays where it was put.
  for path, a, b in zip(
    trees.names(many), jax.tree.leaves(many), jax.tree.leaves(placed)
  ):
    assert a.sharding.is_equivalent_to(b, a.ndim), path


@pytest.mark.parametrize('case', QUICK, ids='-'.join)
def test_a_mesh_trains_as_one_device(case):
  check(*case)


@pytest.mark.long
@pytest.mark.parametrize('case', LONG, ids='-'.join)
def test_more_meshes_train_as_one_device(case):
  check(*case)


@pytest.mark.slow
@pytest.mark.parametrize('case', REST, ids='-'.join)
def test_the_rest_of_those_that_cover(case):
  check(*case)


@pytest.mark.slow
@pytest.mark.parametrize(
  'case', [case for case in EVERY if case not in COVER], ids='-'.join
)
def test_every_other_mesh_trains_as_one_device(case):
  check(*case)


def test_every_trainer_and_adapter_is_a_config():
  for mesh, trainer, adapter, model in EVERY:
    if mesh == 'fsdp':
      load(mesh, trainer, adapter, model)  # every key is known


def test_these_cover_axes_trainers_and_adapters():
  axes = lambda case: {a for a, n in MESHES[case[0]].items() if n > 1}
  for of, values in ((1, TRAINERS), (2, ADAPTERS)):
    for value in values:
      met = {a for case in COVER if case[of] == value for a in axes(case)}
      missing = set(sharding.AXES) - met
      assert not missing, (value, missing)
  assert {case[:3] for case in COVER} <= {case[:3] for case in EVERY}
  assert {case[0] for case in COVER} == set(MESHES)
