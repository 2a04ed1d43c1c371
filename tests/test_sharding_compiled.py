"""What the train steps of each trainer send, compiled for TPUs that are not
there (libtpu, the extra `tpu`): nothing beyond their layout, and no more bytes
than the formula of `run.traffic` says."""

import json
import math
import os

import jax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sharding_cases import fixed

from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.run import build, hlo, traffic
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.state import abstract_state, state_shardings

pytest.importorskip('libtpu')

VOCAB, WIDTH, MLP = 4096, 512, 1280
MODEL = {
  'architectures': ['Qwen3ForCausalLM'],
  'model_type': 'qwen3',
  'vocab_size': VOCAB,
  'hidden_size': WIDTH,
  'intermediate_size': MLP,
  'num_hidden_layers': 3,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 64,
  'max_position_embeddings': 4096,
  'tie_word_embeddings': True,
  'hidden_act': 'silu',
  'rms_norm_eps': 1e-6,
  'rope_theta': 10000.0,
  'eos_token_id': 1,
}
COMMON = dict(
  prompts_per_step=16,
  group_size=1,
  microbatch_rows=0,
  model__dtype='bfloat16',
  model__param_dtype='bfloat16',
  model__scan_layers=True,
  model__remat=True,
  model__logit_chunk=64,
)
TRAINERS = {
  'sft': ('configs/sft.py:smoke', {}),
  'dpo': ('configs/preference.py:recipe=dpo,smoke', dict(group_size=2)),
  'distill': ('configs/distill.py:recipe=forward_kl,smoke', {}),
  'grpo': ('configs/rl.py:recipe=grpo,smoke', dict(group_size=4)),
  'ppo': ('configs/rl.py:recipe=ppo,smoke', dict(group_size=4)),
}
MESHES = {
  'fsdp': dict(fsdp=8),
  'fsdp-tensor': dict(fsdp=4, tensor=2),
  'fsdp-sequence': dict(fsdp=4, sequence=2),
}


@pytest.fixture(scope='module')
def devices():
  for key, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-8'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    # Several test processes at once: none of them has a TPU.
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(key, value)
  from jax.experimental import topologies

  return topologies.get_topology_desc('v5e:2x4', 'tpu').devices


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('shape')
  (path / 'config.json').write_text(json.dumps(MODEL))
  return str(path)


def compiled(devices, folder, trainer, mesh, tokens=120, **more):
  """(run, text of its step's program) for the topology."""
  spec, items = TRAINERS[trainer]
  items = (
    COMMON | {'init_from': folder, 'max_new_tokens': tokens} | items | more
  )
  if trainer == 'distill':
    items['others__teacher'] = folder
  items |= {f'mesh__{axis}': size for axis, size in MESHES[mesh].items()}
  pairs = [(key.replace('__', '.'), str(x)) for key, x in items.items()]
  run = build.build(config_lib.load(spec, pairs))
  over = sharding.make_mesh(run.config.mesh, devices)
  like = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
  first = jax.tree.map(like, abstract_state(run), state_shardings(run, over))
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = like(key, NamedSharding(over, P()))
  with jax.set_mesh(over):
    step = jax.jit(run.step, donate_argnums=0)
    return run, step.lower(first, key).compile().as_text()


def unexplained(run, found: list[hlo.Collective]) -> list[hlo.Collective]:
  """Collectives of more than small arrays that the layout does not name."""
  sizes = sharding.axis_sizes(run.config.mesh)
  shards = math.prod(sizes[axis] for axis in sharding.SHARDS)
  weights = set()
  for param in transformer.param_table(run.model).values():
    whole = list(param.shape)
    for axis, names in enumerate(param.spec):
      if names == 'tensor' and whole[axis] % sizes['tensor'] == 0:
        whole[axis] //= sizes['tensor']
    if shards > 1 and any('fsdp' in sharding.names_of(x) for x in param.spec):
      weights |= {math.prod(whole), math.prod(whole[1:])}
  stream = read(run) * WIDTH // sharding.row_parts(sizes) // sizes['sequence']

  def named(one: hlo.Collective) -> bool:
    count = math.prod(one.shape)
    if one.bytes <= 2**15 or one.dtype in ('u32', 's32', 'pred'):
      return True  # counts, norms, tokens
    if one.kind == 'collective-permute':  # a step of a window: one shard
      return count * shards in weights
    if one.kind in ('all-gather', 'reduce-scatter'):
      return len(one.group) <= shards and count in weights
    if one.kind == 'all-reduce':
      # What heads, columns, or parts of V add up; and gradients that XLA finds
      # too small to scatter.
      of_tensor = len(one.group) == sizes['tensor'] and count <= stream
      return of_tensor or (count in weights and one.bytes <= 2**21)
    # Embedded tokens between columns and rows; what each device's rows add to
    # the gradient of the table.
    return one.kind == 'all-to-all' and (count <= stream or count in weights)

  return [one for one in found if not named(one)]


def read(run) -> int:
  """Columns that a model reads in one pass over the rows of a step."""
  sizes = run.sizes
  if not run.config.get('share_prompts', False):
    return sizes.rows * sizes.row_tokens
  prompts = sizes.prompts_per_step * sizes.prompt_length
  return prompts + sizes.rows * sizes.max_new_tokens


def shown(found: list[hlo.Collective]) -> str:
  return '\n'.join(
    f'{x.kind} {x.dtype}{list(x.shape)} of {len(x.group)} x{x.times} {x.source}'
    for x in found
  )


# What these programs still send beyond their layout, and how much.
BEYOND = {
  ('dpo', 'fsdp-tensor'): 'the table is gathered over tensor where tokens are '
                          'looked up, and so is its gradient (1 MiB)',
  ('grpo', 'fsdp'): 'gradients of prompts and completions are scattered apart: '
                    '1.45 times the formula',
  ('grpo', 'fsdp-tensor'): 'the gradient of the table is scattered over tensor '
                           'once, by itself (1 MiB)',
  ('ppo', 'fsdp-tensor'): 'the gradient of the table is scattered over tensor '
                          'once, by itself (1 MiB)',
  ('distill', 'fsdp-tensor'): 'logits of a chunk are gathered over tensor, '
                              'where teacher and student are compared',
}  # fmt: skip


def marks(trainer: str, mesh: str) -> list:
  suite = 'long' if (trainer, mesh) == ('sft', 'fsdp-tensor') else 'slow'
  found = [getattr(pytest.mark, suite)]
  if (trainer, mesh) in BEYOND:
    why = BEYOND[trainer, mesh]
    found.append(pytest.mark.xfail(reason=why, strict=True))
  return found


CASES = [
  pytest.param(trainer, mesh, marks=marks(trainer, mesh))
  for mesh in ('fsdp', 'fsdp-tensor')
  for trainer in TRAINERS
]  # fmt: skip


@pytest.mark.parametrize('trainer, mesh', CASES)
def test_a_step_sends_what_its_layout_names(
  trainer, mesh, devices, folder, monkeypatch
):
  # What a sampler sends is held to its own layout, in the tests of decoding.
  monkeypatch.setattr(rollout, 'generate', fixed)
  run, text = compiled(devices, folder, trainer, mesh)
  found = hlo.collectives(text)
  strange = unexplained(run, found)
  assert not strange, shown(strange)
  sizes = sharding.axis_sizes(run.config.mesh)
  arguments = run.model, sizes, 1, read(run)
  expected = traffic.of_update(*arguments)
  for _ in range(len(run.models) - 1 + (trainer == 'ppo')):
    expected += traffic.of_scoring(*arguments)
  sent = hlo.bytes_by_kind(found)
  total = sum(sent.values())
  # Windows send one shard more than they must, of 8 or 4: a third of the
  # gradients here, nothing to speak of in larger meshes.
  assert 0.8 * expected.total < total < 1.3 * expected.total, (sent, expected)
