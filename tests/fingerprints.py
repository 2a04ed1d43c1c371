"""Fingerprints of the train steps' programs, at a tiny size.

  python tests/fingerprints.py --write

writes them anew into tests/goldens/fingerprints.json. A fingerprint is a hash
of the StableHLO of a step, without names and places, beside which the counts of
its operations stand: a change of either says which program is another one.
"""

import argparse
import collections
import hashlib
import importlib.metadata
import json
import os
import re
import sys
from pathlib import Path

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.state import abstract_state, state_shardings

PATH = Path(__file__).parent / 'goldens' / 'fingerprints.json'
# What writes a program beside this project.
MADE_BY = ('jax', 'optax')
COMMON = {
  'model.preset': 'depth-2',
  'model.scan_layers': 'True',
  'model.logit_chunk': '4',
  'prompts_per_step': '8',
  'max_new_tokens': '8',
  'mesh.data': '1',
}
TEACHER = {'others.teacher': 'tests/goldens/qwen3'}
GROUP = {'group_size': '4'}
TRAINERS = {
  'sft': ('configs/sft.py:smoke', {}),
  'dpo': ('configs/preference.py:recipe=dpo,smoke', {'group_size': '2'}),
  'distill': ('configs/distill.py:recipe=forward_kl,smoke', TEACHER),
  'grpo': ('configs/rl.py:recipe=grpo,smoke', GROUP),
  'ppo': ('configs/rl.py:recipe=ppo,smoke', GROUP),
}
MESHES = {'one': {}, 'mesh': {'fsdp': 2, 'tensor': 2, 'sequence': 2}}


def versions() -> dict[str, str]:
  """Of what writes a program."""
  return {name: importlib.metadata.version(name) for name in MADE_BY}


def program(trainer: str, mesh: str) -> str:
  """StableHLO of a step, for CPUs."""
  spec, items = TRAINERS[trainer]
  own = {f'mesh.{axis}': str(n) for axis, n in MESHES[mesh].items()}
  pairs = list((COMMON | items | own).items())
  run = build.build(config_lib.load(spec, pairs))
  over = sharding.make_mesh(run.config.mesh)
  like = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
  first = jax.tree.map(like, abstract_state(run), state_shardings(run, over))
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = like(key, NamedSharding(over, P()))
  with jax.set_mesh(over):
    return jax.jit(run.step).trace(first, key).lower(
      lowering_platforms=('cpu',)
    ).as_text()  # fmt: skip


def normal(text: str) -> str:
  """Without what says nothing of what is computed: the module's name, and the
  names of private functions, numbered as they come."""
  text = re.sub(r'module @\S+', 'module', text)
  names = dict.fromkeys(re.findall(r'func\.func (?:\w+ )?@([\w.]+)', text))
  number = {name: f'f{i}' for i, name in enumerate(names)}
  text = re.sub(
    r'@([\w.]+)', lambda x: '@' + number.get(x[1], x[1]), text
  )  # fmt: skip
  return '\n'.join(line.rstrip() for line in text.splitlines())


def taken(text: str) -> dict:
  """{'hash': of the program, 'operations': {name: how many}}."""
  text = normal(text)
  names = re.findall(r'\b((?:stablehlo|chlo|sdy|func)\.\w+)', text)
  return {
    'hash': hashlib.sha256(text.encode()).hexdigest()[:16],
    'operations': dict(sorted(collections.Counter(names).items())),
  }


def recorded() -> dict:
  """{'versions': ..., 'programs': {trainer: {mesh: what `taken` gave}}}."""
  return json.loads(PATH.read_text())


def changed(old: dict, new: dict) -> str:
  """'dot_general 41 -> 43, ...'; '' where the fingerprint is the same."""
  if old['hash'] == new['hash']:
    return ''
  before, after = old['operations'], new['operations']
  told = [
    f'{name} {before.get(name, 0)} -> {after.get(name, 0)}'
    for name in sorted({*before, *after})
    if before.get(name, 0) != after.get(name, 0)
  ]
  return ', '.join(told) or 'the same operations, of other shapes or order'


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--write', action='store_true', required=True)
  parser.parse_args(argv)
  old = recorded()['programs'] if PATH.exists() else {}
  programs = {
    trainer: {mesh: taken(program(trainer, mesh)) for mesh in MESHES}
    for trainer in TRAINERS
  }
  for trainer, meshes in programs.items():
    for mesh, new in meshes.items():
      known = old.get(trainer, {}).get(mesh)
      print(f'{trainer} {mesh}: {changed(known, new) if known else "new"}')
  made = {'versions': versions(), 'programs': programs}
  PATH.write_text(json.dumps(made, indent=1) + '\n')
  return 0


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)
  sys.exit(main(sys.argv[1:]))
