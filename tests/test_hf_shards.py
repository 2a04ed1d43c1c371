"""What is read of a folder of weights: what devices hold, and the same."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import read_parts
import safetensors
from families import FAMILIES, FOLDER, arrays
from hosts import Hosts
from read_parts import Counted, assert_parts, held, loaded, mesh_of
from safetensors.numpy import load_file, save_file

from posttrain_jax.core import hosts
from posttrain_jax.models import hf, hf_pieces, hf_read

MESHES = {
  'tensor': dict(fsdp=4, tensor=2),
  'copies': dict(data=2, fsdp=2, tensor=2),
  'experts': dict(fsdp=2, tensor=2, expert=2),
  'sequence': dict(data=2, sequence=4),
}
# Fused queries, keys and values of all kinds, stacks of experts, tied tables.
SOME = ('gpt2', 'pythia', 'phi3', 'qwen3_moe', 'gemma3')


@pytest.fixture
def counted(monkeypatch):
  monkeypatch.setattr(safetensors, 'safe_open', Counted)


def stored_as(folder, name, kind):
  """A folder of a family with its weights in a dtype."""
  config, params = arrays(FOLDER / name)
  params = jax.tree.map(lambda x: x.astype(jnp.dtype(kind)), params)
  hf.save(folder, config, params)
  return folder


@pytest.mark.parametrize('name', FAMILIES)
def test_any_box_of_a_parameter_is_read_alone(name, counted):
  """Boxes that no mesh would ask for, too: parts of a head, odd columns."""
  config, params = arrays(FOLDER / name)
  expected, rng = hf_pieces.pieces(config), np.random.default_rng(5)
  found = hf._open(FOLDER / name, config, expected)
  with hf_read.Weights(found, config) as weights:
    for row in hf.rows(config):
      sources = [
        hf_read.Source(key, piece, made_of)
        for key, made_of in expected.items()
        for piece in made_of
        if piece.row == row
      ]
      whole = params
      for part in row.path.split('/'):
        whole = whole[part]
      for _ in range(3):
        starts = [int(rng.integers(size)) for size in whole.shape]
        ranges = [
          (start, int(rng.integers(start + 1, size + 1)))
          for start, size in zip(starts, whole.shape)
        ]
        Counted.read = 0
        box = weights.part(sources, ranges)
        np.testing.assert_array_equal(
          box, whole[tuple(slice(*x) for x in ranges)], row.path
        )
        assert Counted.read == box.size * 4, row.path


@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.parametrize(
  'name',
  [
    x if x in SOME else pytest.param(x, marks=pytest.mark.long)
    for x in FAMILIES
  ],
)
def test_devices_read_their_parts_once(name, mesh, counted):
  mesh = mesh_of(**MESHES[mesh])
  params, count = loaded(FOLDER / name, mesh)
  assert_parts(params, hf.load(FOLDER / name)[1])
  assert count == held(params) * 4
  assert max(len(x.sharding.device_set) for x in jax.tree.leaves(params)) == 8


@pytest.mark.parametrize('kind', ['bfloat16', 'float16', 'float32'])
@pytest.mark.parametrize('ours', ['bfloat16', 'float32'])
def test_dtypes_are_cast_part_by_part(kind, ours, tmp_path, counted):
  folder = stored_as(tmp_path, 'gpt2', kind)
  mesh = mesh_of(**MESHES['tensor'])
  params, count = loaded(folder, mesh, param_dtype=ours)
  assert_parts(params, hf.load(folder, param_dtype=ours)[1])
  assert count == held(params) * jnp.dtype(kind).itemsize


def test_files_are_opened_few_times(counted):
  """Not once for each of the experts."""
  Counted.opened = 0
  hf.load(FOLDER / 'qwen3_moe')
  assert Counted.opened == 2  # for its names, and to be read


def test_a_long_reading_lets_go_of_what_it_has_read(counted, monkeypatch):
  monkeypatch.setattr(hf_read, 'OPEN_BYTES', 10_000)
  Counted.opened = Counted.read = 0
  hf.load(FOLDER / 'llama2')
  assert 2 < Counted.opened <= Counted.read // 10_000 + 2
  # Columns lie on the pages of whole rows.
  before, Counted.opened = Counted.opened, 0
  loaded(FOLDER / 'llama2', mesh_of(fsdp=4, data=2))
  assert Counted.opened > 2 * before


@pytest.mark.parametrize('change', [0, 1])
def test_a_tied_matrix_written_twice_is_compared_in_parts(
  change, tmp_path, counted
):
  folder = shutil.copytree(FOLDER / 'smollm2', tmp_path / 'twice')
  tensors = load_file(folder / hf.WEIGHTS)
  twin = tensors['model.embed_tokens.weight'].copy()
  twin[-1, -1] += change
  save_file({**tensors, 'lm_head.weight': twin}, folder / hf.WEIGHTS)
  mesh = mesh_of(**MESHES['tensor'])
  if change:
    with pytest.raises(ValueError, match='"lm_head.weight" differs from'):
      loaded(folder, mesh)
    return
  params, count = loaded(folder, mesh)
  assert_parts(params, hf.load(FOLDER / 'smollm2')[1])
  assert count == (held(params) + held(params['embed'])) * 4


def test_the_head_of_a_reward_model_is_placed(tmp_path):
  folder = FOLDER.parent / 'scorers' / 'qwen2'
  params, _ = loaded(folder, mesh_of(fsdp=8))
  assert_parts(params, hf.load(folder)[1])
  assert not params['value_head']['kernel'].is_fully_replicated


def test_a_part_is_made_once_for_all_its_devices():
  x, calls = np.arange(24.0).reshape(4, 6), []
  mesh = mesh_of(data=2, fsdp=4)
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))

  def read(ranges):
    calls.append(ranges)
    return x[tuple(slice(*span) for span in ranges)]

  made = hosts.made(x.shape, place, read)
  np.testing.assert_array_equal(made, x)
  assert sorted(calls) == [((i, i + 1), (0, 6)) for i in range(4)]
  assert made.sharding == place


@pytest.mark.long
def test_two_processes_read_a_half_each(tmp_path):
  folder, out = tmp_path / 'folders', tmp_path / 'out'
  out.mkdir()
  for name in SOME:
    shutil.copytree(FOLDER / name, folder / name)
  stored_as(folder / 'half', 'phi3', 'bfloat16')
  bad = shutil.copytree(FOLDER / 'phi3', folder / read_parts.HARMED)
  tensors = load_file(bad / hf.WEIGHTS)
  key = 'model.layers.1.self_attn.qkv_proj.weight'
  tensors[key][3, -1] = np.inf  # among the columns of the last device
  save_file(tensors, bad / hf.WEIGHTS)
  with Hosts(2, devices=2) as both:
    both.start([read_parts.__file__, str(folder), str(out)])
    assert both.wait() == [0, 0], both.logs()
  first, second = (json.loads((out / f'{n}.json').read_text()) for n in (0, 1))
  for name in (*SOME, 'half'):
    size = 2 if name == 'half' else 4
    total = sum(x.size for x in jax.tree.leaves(arrays(folder / name)[1]))
    for said in (first[name], second[name]):
      assert said['read'] == said['held'] * size
      # All but what every device has whole, as norms.
      assert total / 2 <= said['held'] < 0.6 * total, name
  told = f'tensor "{key}" has NaN or infinite numbers'
  assert second[read_parts.HARMED].endswith(told)
  assert first[read_parts.HARMED].startswith('process 1: ')
  assert first[read_parts.HARMED].endswith(told)
