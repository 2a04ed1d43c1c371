"""Counts what is read of safetensors files; as a script, one process of several
that each load their parts of folders:

  python tests/read_parts.py FOLDER OUT

FOLDER has a folder for each model, OUT gets NUMBER.json: {model: bytes read} of
this process, what its devices hold, what it was told of a harmed folder.
"""

import json
import sys
from pathlib import Path

import jax
import ml_collections
import numpy as np
import safetensors

from posttrain_jax.core.sharding import mesh as meshes
from posttrain_jax.models import hf
from posttrain_jax.run import roles

HARMED = 'harmed'


class Counted:
  """Stands for `safetensors.safe_open`; `read` is the bytes of all files."""

  read = 0
  opened = 0

  def __init__(self, file, framework):
    self._handle = safetensors_open(file, framework=framework)
    Counted.opened += 1

  def __enter__(self):
    self._handle.__enter__()
    return self

  def __exit__(self, *exception):
    return self._handle.__exit__(*exception)

  def keys(self):
    return self._handle.keys()

  def get_tensor(self, name):
    return _count(self._handle.get_tensor(name))

  def get_slice(self, name):
    return Slice(self._handle.get_slice(name))


class Slice:
  def __init__(self, given):
    self._given = given
    self.get_shape, self.get_dtype = given.get_shape, given.get_dtype

  def __getitem__(self, index):
    return _count(self._given[index])


def _count(x):
  Counted.read += x.nbytes
  return x


safetensors_open = safetensors.safe_open


def mesh_of(**sizes):
  return meshes.make_mesh(ml_collections.ConfigDict(sizes))


def loaded(folder, mesh, **more):
  """(parameters in their shards, bytes read for them)."""
  config = hf.read_config(folder)
  before = Counted.read
  where = roles.placing(config, mesh)
  return hf.load(folder, where=where, **more)[1], Counted.read - before


def held(params):
  """Numbers that this process's devices hold; equal parts once."""
  found = 0
  for leaf in jax.tree.leaves(params):
    parts = {str(x.index): x.data.size for x in leaf.addressable_shards}
    found += sum(parts.values())
  return found


def assert_parts(params, whole):
  """Each shard is that part of the whole, bit for bit."""
  assert jax.tree.structure(params) == jax.tree.structure(whole)
  for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(whole)):
    theirs = np.asarray(theirs)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    for shard in ours.addressable_shards:
      part = np.ascontiguousarray(theirs[shard.index])
      assert np.asarray(shard.data).tobytes() == part.tobytes()


def _main(folder: Path, out: Path) -> None:
  safetensors.safe_open = Counted
  mesh = mesh_of(fsdp=-1)
  found: dict = {}
  for place in sorted(folder.iterdir()):
    if place.name == HARMED:
      continue
    params, count = loaded(place, mesh)
    assert_parts(params, hf.load(place)[1])
    found[place.name] = {'read': count, 'held': held(params)}
  try:
    loaded(folder / HARMED, mesh)
  except ValueError as error:
    found[HARMED] = str(error)
  (out / f'{jax.process_index()}.json').write_text(json.dumps(found))


if __name__ == '__main__':
  from posttrain_jax.run import join

  join.join()
  with join.leaving():
    _main(*map(Path, sys.argv[1:]))
