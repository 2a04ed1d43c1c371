"""Benchmarks of programs that are compiled and not run."""

import json
import math

import pytest

from experiments.benchmarks import collective_scaling, compile_layers, shapes
from posttrain_jax.run.plan import topology


def took(trace, compiling):
  return {'trace_cpu_seconds': trace, 'compile_cpu_seconds': compiling}


def test_growth_is_of_cpu_seconds_from_the_fewest_layers_to_the_most():
  found = compile_layers.growth({
    8: took(1.0, 9.0), 2: took(1.0, 4.0), 32: took(2.0, 4.0),
  })  # fmt: skip
  assert found == {'layers': [2, 32], 'times': 1.2, 'flat': True}
  found = compile_layers.growth({2: took(1, 4), 8: took(1, 9)})
  assert found == {'layers': [2, 8], 'times': 2.0, 'flat': False}


def test_slices_divide_the_shapes_of_their_benchmark():
  for chips, name in collective_scaling.SLICES.items():
    assert topology.parse(name).count == chips
    for layout in collective_scaling.LAYOUTS:
      mesh = collective_scaling.mesh_of(chips, layout)
      assert math.prod(mesh.values()) == chips
      for width in collective_scaling.WIDTHS:
        assert width % mesh['fsdp'] == 0
      assert shapes.SHAPE['num_key_value_heads'] % mesh['tensor'] == 0


@pytest.mark.slow
def test_compile_layers_at_a_tiny_size(tmp_path):
  compile_layers.main(['--toy', '--out', str(tmp_path)])
  found = json.loads((tmp_path / 'compile_layers.json').read_text())
  parts = found['results']['sft, cpu, unrolled']['by_layers']
  assert parts['3']['lines'] > parts['2']['lines']
  loop = found['results']['sft, cpu, loop']['by_layers']
  assert loop['3']['lines'] == loop['2']['lines']


@pytest.mark.slow
def test_bytes_of_a_small_slice_are_those_of_the_formula(tmp_path):
  pytest.importorskip('libtpu')
  collective_scaling.main(['--toy', '--out', str(tmp_path)])
  found = json.loads((tmp_path / 'collective_scaling.json').read_text())
  assert (
    0.9 < found['results']['width 512, fsdp, 8 chips']['over_formula'] < 1.3
  )
