"""Train steps compiled for TPUs that are not there, and what they send.

  python tests/compiled_steps.py --write [TRAINER:MESH ...]

writes what the compiled steps send, of these cases or of all, into
tests/goldens/sent.json, to which `test_sharding_compiled.py` holds them.
"""

import argparse
import functools
import importlib.metadata
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import shapes
from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.run import build, hlo, traffic
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import early, programs, topology
from posttrain_jax.run.state import abstract_state, state_shardings

SENT = Path(__file__).parent / 'goldens' / 'sent.json'
MODEL = {**shapes.SHAPE, 'num_hidden_layers': 3}
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

CASES = [(trainer, mesh) for mesh in MESHES for trainer in TRAINERS]


@functools.cache
def devices():
  """Of v5e:2x4, by libtpu."""
  return topology.targets(topology.parse('v5e:2x4')).devices


@functools.cache
def folder() -> str:
  """With the shape of the model."""
  path = Path(tempfile.mkdtemp())
  (path / 'config.json').write_text(json.dumps(MODEL))
  return str(path)


def made(trainer: str, mesh: str, tokens: int = 120, **more):
  """The run of a case.

  more  {key, '__' in place of dots: value} of its config
  """
  spec, items = TRAINERS[trainer]
  items = (
    COMMON | {'init_from': folder(), 'max_new_tokens': tokens} | items | more
  )
  if trainer == 'distill':
    items['others__teacher'] = folder()
  items |= {f'mesh__{axis}': size for axis, size in MESHES[mesh].items()}
  pairs = [(key.replace('__', '.'), str(x)) for key, x in items.items()]
  return build.build(config_lib.load(spec, pairs))


def to_the_end(trainer: str, mesh: str, **more) -> None:
  """Compiles the step of a case for the topology, without a sampler: it is held
  to a layout of its own, in the tests of decoding."""
  from sharding_cases import fixed

  rollout.generate = fixed
  run = made(trainer, mesh, **more)
  over = sharding.make_mesh(run.config.mesh, devices())
  like = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
  first = jax.tree.map(like, abstract_state(run), state_shardings(run, over))
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = like(key, NamedSharding(over, P()))
  with programs.uncached(), jax.set_mesh(over):
    jax.jit(run.step, donate_argnums=0).lower(first, key).compile()


def compiled(trainer: str, mesh: str, **more):
  """(run, text of its step's program) for the topology, by a process that ends
  where XLA has settled it: machine code is not read."""
  case = json.dumps([trainer, mesh, more])
  with tempfile.TemporaryDirectory() as kept:
    words = [sys.executable, __file__, '--compile', case]
    # This checkout, as it is here.
    paths = os.pathsep.join(path for path in sys.path if path)
    there = {'PYTHONPATH': paths, 'JAX_PLATFORMS': 'cpu'}
    found, said = early.watched(words, Path(kept) / 'dump', **there)
  if found is None:
    raise RuntimeError(f'{trainer}:{mesh} was not compiled: {said}')
  return made(trainer, mesh, **more), found[0]


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
  stream = (
    read(run)
    * MODEL['hidden_size']
    // sharding.row_parts(sizes)
    // sizes['sequence']
  )
  columns = seen(run) // sharding.row_parts(sizes)
  heads = run.model.num_kv_heads * run.model.head_dim // sizes['tensor']
  keys = seen(run) * heads // sharding.row_parts(sizes)

  def named(one: hlo.Collective) -> bool:
    count = math.prod(one.shape)
    if one.bytes <= 2**15 or one.dtype in ('u32', 's32', 'pred'):
      return True  # counts, norms, tokens
    if one.kind == 'collective-permute':
      # A step of a window: one shard; or of a ring: a device's keys.
      return count * shards in weights or count * sizes['sequence'] <= keys
    if one.kind in ('all-gather', 'reduce-scatter'):
      of_keys = len(one.group) == sizes['sequence'] and count <= keys
      return of_keys or (len(one.group) <= shards and count in weights)
    if one.kind == 'all-reduce':
      # What heads, columns, or parts of V add up; and gradients that XLA finds
      # too small to scatter.
      of_tensor = len(one.group) == sizes['tensor'] and count <= stream
      # Values and rewards of tokens, which are followed along whole rows.
      of_rows = len(one.group) == sizes['sequence'] and count <= columns
      if of_rows and one.bytes <= 8 * 4 * columns:
        return True
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


def seen(run) -> int:
  """Columns that queries see: completions see copies of their prompt."""
  sizes = run.sizes
  if not run.config.get('share_prompts', False):
    return read(run)
  return read(run) + sizes.rows * sizes.prompt_length


def shown(found: list[hlo.Collective]) -> str:
  return '\n'.join(
    f'{x.kind} {x.dtype}{list(x.shape)} of {len(x.group)} x{x.times} {x.source}'
    for x in found
  )


def expected(run, trainer: str) -> traffic.Traffic:
  """What the step sends by the formula."""
  sizes = sharding.axis_sizes(run.config.mesh)
  arguments = run.model, sizes, 1, read(run)
  made = traffic.of_update(*arguments, keys=seen(run))
  for _ in range(len(run.models) - 1 + (trainer == 'ppo')):
    made += traffic.of_scoring(*arguments, keys=seen(run))
  return made


def version() -> str:
  """Of the compiler, on which the figures depend."""
  return importlib.metadata.version('libtpu')


def recorded() -> dict:
  """{'libtpu': version, 'bytes': {case: {kind: bytes of a chip and step}}}."""
  return json.loads(SENT.read_text())


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--write', action='store_true')
  what.add_argument('--compile', help='[TRAINER, MESH, {key: value}]')
  every = [f'{trainer}:{mesh}' for trainer, mesh in CASES]
  parser.add_argument('cases', nargs='*', choices=[*every, []])
  flags = parser.parse_args(argv)
  if flags.compile:
    trainer, mesh, more = json.loads(flags.compile)
    to_the_end(trainer, mesh, **more)
    return 0
  for case in flags.cases or every:
    run, text = compiled(*case.split(':'))
    sent = hlo.bytes_by_kind(hlo.collectives(text))
    old = recorded() if SENT.exists() else {}
    known = old['bytes'] if old.get('libtpu') == version() else {}
    known[case] = {kind: int(size) for kind, size in sent.items()}
    new = {'libtpu': version(), 'bytes': dict(sorted(known.items()))}
    SENT.write_text(json.dumps(new, indent=1) + '\n')
    formula = expected(run, case.split(':')[0]).total
    print(f'{case}: {sum(sent.values()) / formula:.3f} of the formula')
  return 0


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  sys.exit(main(sys.argv[1:]))
