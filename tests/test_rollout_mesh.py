"""Rollouts on eight devices are those of one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import beam, decoders, guides, layout
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.state import state_shardings

SIZE, PROMPT = 7, 4
MODEL = ModelConfig(
  vocab_size=48, num_layers=2, width=32, num_heads=4, num_kv_heads=2,
  head_dim=8, mlp_dim=48, scan_layers=False,
)  # fmt: skip
KEY = jax.random.key(7)


def mesh_of(*sizes):
  return sharding.make_mesh(dict(zip(sharding.AXES, sizes)))


@functools.cache
def params_of(config):
  """Sharper than at the start, so that a different draw would show."""
  fresh = transformer.init(jax.random.key(0), config)
  return jax.tree.map(lambda x: 2.0 * x, fresh)


def prompts_of(count):
  prompts = jax.random.randint(jax.random.key(1), (count, PROMPT), 2, 48)
  lengths = 1 + jnp.arange(count) % PROMPT
  mask = (jnp.arange(PROMPT)[None] < lengths[:, None]).astype(jnp.float32)
  return prompts, mask


def generate(config, count, group, mesh=None, params=None, **kinds):
  """Completions on a mesh, of parameters that are split as in training."""

  def run(params, prompts, mask):
    # A temperature that is only known when the program runs: 1.
    heat = jnp.mean(params['final_norm']) / 2.0
    return rollout.generate(
      params, config, prompts, mask, KEY, group_size=group, eos_id=5,
      max_new_tokens=SIZE, **kinds,
      decoder=functools.partial(decoders.sample, temperature=heat),
    )  # fmt: skip

  params = params_of(config) if params is None else params
  asked = params, *prompts_of(count)
  if mesh is None:
    return jax.device_get(jax.jit(run)(*asked))
  with jax.set_mesh(mesh):
    specs = transformer.param_specs(config)
    placed = jax.device_put(
      params, sharding.state_shardings(params, specs, mesh)
    )
    return jax.device_get(jax.jit(run)(placed, *asked[1:]))


def same(found, expected, config, group):
  """The same tokens, but for draws that float32 cannot tell apart."""
  prompts, mask = prompts_of(found.completion.shape[0])
  keys = rollout.row_keys(
    KEY, jnp.arange(len(prompts), dtype=jnp.uint32), group
  )
  differ = found.completion != expected.completion
  for b, g in np.argwhere(differ.any(-1)):
    t = int(np.argmax(differ[b, g]))
    row = jnp.concatenate(
      [prompts[b, : int(mask[b].sum())], expected.completion[b, g, :t]]
    )
    logits = transformer.apply(params_of(config), config, row[None])[0][0, -1]
    noise = jax.random.gumbel(
      jax.random.fold_in(keys[b * group + g], t), logits.shape
    )
    best = np.sort(logits + noise)[-2:]
    assert best[1] - best[0] < 1e-4, (b, g, t)
  alike = ~differ.any(-1)
  assert alike.mean() > 0.8
  for name in ('completion', 'mask', 'finished'):
    np.testing.assert_array_equal(
      getattr(found, name)[alike], getattr(expected, name)[alike]
    )
  np.testing.assert_allclose(
    found.logps[alike], expected.logps[alike], atol=1e-5
  )


odd = dataclasses.replace(MODEL, num_heads=3, num_kv_heads=3, vocab_size=49)
split = dataclasses.replace(MODEL, decode_weights='split')
split_odd = dataclasses.replace(odd, decode_weights='split', mlp_dim=46)
experts = dataclasses.replace(
  MODEL, num_experts=4, experts_per_token=2, expert_dim=16, dense_layers=(0,)
)
one_kv = dataclasses.replace(MODEL, num_kv_heads=1)
CASES = {
  # Prompts as many as devices; fewer; rows that do not divide.
  'data 8': (MODEL, (8, 1, 1), 8, 2),
  'fsdp 8': (MODEL, (1, 8, 1), 4, 4),
  'fsdp 4 x tensor 2': (MODEL, (1, 4, 2), 3, 2),
  'data 2 x fsdp 2 x tensor 2': (MODEL, (2, 2, 2), 3, 6),
  'odd heads and vocabulary': (odd, (2, 2, 2), 4, 2),
  'one key head': (one_kv, (1, 4, 2), 4, 2),
  # Weights that stay split over all devices: columns and vocabulary alone, with
  # rows of the cache over them; and heads, too.
  'split columns': (split, (1, 4, 2), 3, 2),
  'split heads': (split, (4, 2, 1), 4, 2),
  'split nothing': (split_odd, (1, 4, 2), 4, 2),
  'experts': (experts, (2, 2, 2), 4, 2),
  # A token has one position, so that axis sequence has rows.
  'sequence': (MODEL, (1, 2, 2, 2), 3, 4),
  'axis of experts': (experts, (1, 4, 1, 1, 2), 4, 2),
  'split experts': (
    dataclasses.replace(experts, decode_weights='split'), (2, 2, 2), 4, 2,
  ),
}  # fmt: skip
# What is not in the slow tests: (case, slots).
QUICK = [('data 2 x fsdp 2 x tensor 2', 0)]
LONG = [
  ('data 2 x fsdp 2 x tensor 2', 3),
  ('data 8', 0),
  ('fsdp 8', 3),
  ('fsdp 4 x tensor 2', 0),
  ('split columns', 0),
  ('experts', 3),
]


def _marked(case):
  if case in QUICK:
    return pytest.param(*case)
  mark = pytest.mark.long if case in LONG else pytest.mark.slow
  return pytest.param(*case, marks=mark)


@pytest.mark.parametrize(
  'name, slots', [_marked((name, n)) for name in CASES for n in (0, 3)]
)
def test_completions_are_those_of_one_device(name, slots):
  config, axes, count, group = CASES[name]
  expected = generate(config, count, group)
  found = generate(config, count, group, mesh_of(*axes), slots=slots)
  assert expected.finished.mean() < 1
  same(found, expected, config, group)


def test_what_auto_gathers():
  sizes = dict(data=1, fsdp=8, tensor=2, expert=2)
  # Norms are whole, matrices in half, experts in quarters.
  norms = 5 * 32
  every = transformer.param_count(MODEL)
  assert layout.gathered_bytes(MODEL, sizes) == 4 * (
    (every - norms) // 2 + norms
  )
  assert layout.decode_weights(MODEL, sizes) == 'gathered'
  own = 3 * 4 * 32 * 16
  less = dataclasses.replace(experts, num_experts=2)
  gap = [layout.gathered_bytes(x, sizes) for x in (experts, less)]
  assert gap[0] - gap[1] == 4 * (own // 2 // 4 + 32 * 2)
  large = dataclasses.replace(MODEL, vocab_size=2**25)
  assert layout.decode_weights(large, sizes) == 'gathered'
  assert layout.decode_weights(large, dict(sizes, tensor=1)) == 'split'
  asked = dataclasses.replace(large, decode_weights='gathered')
  assert layout.decode_weights(asked, dict(sizes, tensor=1)) == 'gathered'


def test_rows_that_a_mesh_splits():
  for parts in (1, 2, 3, 4, 8):
    for count in range(1, 10):
      for group in range(1, 9):
        rows = _rows(parts, count, group)
        total = len(rows.prompts)
        assert total % parts == 0 and group % rows.group == 0
        assert len(rows.rows) == total * rows.group
        first = rows.rows[: count * group]
        np.testing.assert_array_equal(first, np.arange(count * group))
        of_row = rows.prompts[np.arange(len(rows.rows)) // rows.group]
        np.testing.assert_array_equal(of_row, rows.rows // group)
        # No more than have to be.
        assert len(rows.rows) - count * group < parts * group
        assert rows.moved == (total > count)


def _rows(parts, count, group):
  if parts == 1:
    return layout.rows_of(count, group, MODEL)
  devices = jax.devices()[:parts]
  mesh = sharding.make_mesh(dict(data=1, fsdp=parts, tensor=1), devices)
  with jax.set_mesh(mesh):
    return layout.rows_of(count, group, MODEL)


NAMES = {
  'greedy': {},
  'sample': {'temperature': 0.7},
  'top_k': {'k': 3},
  'top_p': {'p': 0.8},
  'min_p': {'p': 0.1},
  'typical': {'p': 0.6},
}


def _draws(logits, keys):
  out = {}
  for name, hparams in NAMES.items():
    out[name] = getattr(decoders, name)(logits, keys, **hparams)
  # More than a part of the vocabulary has.
  out['many'] = decoders.top_k(logits, keys, k=30)
  return out


@pytest.mark.parametrize('rows', [16, pytest.param(12, marks=pytest.mark.long)])
def test_decoders_over_parts_of_a_vocabulary(rows):
  logits = 2.0 * jax.random.normal(jax.random.key(3), (rows, 48))
  # Ties, also across parts.
  logits = jnp.round(logits, 1).at[:, 30].set(logits.max())
  keys = jax.random.split(jax.random.key(4), rows)
  expected = jax.device_get(jax.jit(_draws)(logits, keys))
  with jax.set_mesh(mesh_of(2, 2, 2)):
    found = jax.device_get(
      jax.jit(lambda x, k: _draws(sharding.constrain(x, 'rows', 'vocab'), k))(
        logits, keys
      )
    )
  for name, (tokens, logps) in expected.items():
    np.testing.assert_array_equal(found[name][0], tokens, err_msg=name)
    np.testing.assert_allclose(found[name][1], logps, atol=1e-5, err_msg=name)


@pytest.mark.long
def test_beams_are_those_of_one_device():
  params = params_of(MODEL)

  def search(params, prompts, mask):
    return beam.search(
      params, MODEL, prompts, mask, beams=3, max_new_tokens=SIZE, eos_id=5
    )

  asked = params, *prompts_of(3)
  expected = jax.device_get(jax.jit(search)(*asked))
  with jax.set_mesh(mesh_of(2, 2, 2)):
    found = jax.device_get(jax.jit(search)(*asked))
  np.testing.assert_array_equal(found[0].completion, expected[0].completion)
  np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


@pytest.mark.parametrize(
  'slots',
  [
    pytest.param(0, marks=pytest.mark.slow),
    pytest.param(3, marks=pytest.mark.long),
  ],
)
def test_guides_on_a_mesh(slots):
  """States of constraints and of forced tokens go with their rows."""
  guide = guides.chain(
    guides.repetition_penalty(vocab_size=48, penalty=1.5),
    guides.min_tokens(eos_id=5, count=2),
  )
  expected = generate(MODEL, 3, 2, guide=guide)
  found = generate(MODEL, 3, 2, mesh_of(2, 2, 2), guide=guide, slots=slots)
  np.testing.assert_array_equal(found.completion, expected.completion)
  np.testing.assert_allclose(found.logps, expected.logps, atol=1e-5)


def _stepped(task, axes, **items):
  """(metrics, parameters) of one step of GRPO on a mesh."""
  items = dict(
    model__preset='depth-2', prompts_per_step=3, group_size=8,
    max_new_tokens=8, optimizer__eps=1e-3, **items,
    **{f'mesh__{axis}': size for axis, size in axes.items()},
  )  # fmt: skip
  pairs = [(key.replace('__', '.'), str(x)) for key, x in items.items()]
  config = config_lib.load(
    f'configs/rl.py:recipe=grpo,task={task},smoke', pairs
  )
  run, over = build.build(config), sharding.make_mesh(config.mesh)
  fresh = {
    role: transformer.init(jax.random.key(1), model)
    for role, model in run.models.items()
  }
  with jax.set_mesh(over):
    state = jax.device_put(run.init(fresh), state_shardings(run, over))
    state, metrics = jax.jit(run.step)(state, jax.random.key(2))
  return jax.device_get((metrics, state.params))


@pytest.mark.parametrize(
  'task, slots',
  [
    pytest.param('addition', 0, marks=pytest.mark.long),
    pytest.param('calculator', 8, marks=pytest.mark.slow),
  ],
)
def test_a_step_of_grpo_is_that_of_one_device(task, slots):
  """Rows that are forced go with the others: calculator answers in turns."""
  expected, moved = _stepped(task, {}, slots=slots)
  found, params = _stepped(task, dict(data=2, fsdp=2, tensor=2), slots=slots)
  assert expected['rollout/logp_gap_max'] < 1e-5
  for name in ('reward', 'loss', 'grad_norm', 'completions/mean_length'):
    np.testing.assert_allclose(found[name], expected[name], 1e-5, 1e-6, name)
  assert found['rollout/logp_gap_max'] < 1e-5
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, moved
  )
