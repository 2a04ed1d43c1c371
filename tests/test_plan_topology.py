"""Names of machines, what XLA says of memory, and rings on a torus."""

import types

import jax
import jax.numpy as jnp
import pytest

from posttrain_jax.run.plan import links, programs, topology
from posttrain_jax.run.plan.chips import CHIPS, GIB

OOM = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used \
22.30G of 15.75G hbm. Exceeded hbm capacity by 6.55G.

Total hbm usage >= 22.55G:
    reserved        258.00M
    program          21.82G
    arguments       483.05M

Output size 483.05M; shares 483.05M with arguments.

Program hbm requirement 21.82G:
    global             4.0K
    HLO temp          21.82G (99.4% utilization: Unpadded (21.6G))

  Largest program allocations in hbm:

  1. Size: 9.27G
     Operator: op_name="jit(held)/while/body/transpose(jvp(score))/mul"
     Shape: f32[8,2048,151936]{2,1,0:T(8,128)}
     Unpadded size: 9.27G
     Allocation type: HLO temp
     ==========================

  2. Size: 512.50K
     Shape: bf16[8,2048]{1,0}
     Allocation type: HLO temp
     ==========================
"""


@pytest.mark.parametrize(
  'name, count',
  [
    ('v5e:2x4', 8),
    ('v5e:16x16', 256),
    ('v5p:4x4x4', 64),
    ('v4:4x4x12', 192),
    ('tpu7x:4x4x4', 128),  # two devices a chip
    ('2*v6e:16x16', 512),
    ('h100x8', 8),
    ('H200x1', 1),
  ],
)
def test_machines_have_their_devices(name, count):
  assert topology.parse(name).count == count


@pytest.mark.parametrize('name', topology.names())
def test_every_name_is_one(name):
  assert topology.parse(name).count > 0


@pytest.mark.parametrize(
  'name, near',
  [
    ('v5e:16x17', 'v5e:16x16'),
    ('v5:2x4', 'v5e:2x4'),
    ('v5p:4x4', 'v5p:4x4x4'),
    ('h100x16', 'h100x1'),
    ('h100', 'h100x1'),
    ('h300x8', 'h100x8'),
    ('0*v5e:2x4', 'v5e:2x4'),
    ('', 'v5e:2x4'),
  ],
)
def test_other_names_are_refused_with_near_ones(name, near):
  with pytest.raises(ValueError, match='unknown topology "') as error:
    topology.parse(name)
  assert f'"{name}"' in str(error.value) and near in str(error.value)


def test_without_libtpu_the_command_that_installs_it_is_said(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'libtpu', None)
  with pytest.raises(ImportError, match=r"pip install 'posttrain_jax\[tpu\]'"):
    topology.targets(topology.parse('v5e:2x4'))


def test_words_of_the_compiler_are_read():
  found = programs.exhausted(OOM)
  assert found.used == round(22.30 * GIB)
  assert found.limit == round(15.75 * GIB) == CHIPS['v5e'].hbm
  assert found.largest == (
    '9.27G f32[8,2048,151936] while/body/transpose(jvp(score))/mul',
    '512.50K bf16[8,2048]',
  )
  assert programs.exhausted('INVALID_ARGUMENT: no such thing') is None


def at(*coords, slice_index=0):
  return types.SimpleNamespace(coords=coords, slice_index=slice_index)


def test_a_ring_has_the_links_of_the_dimensions_it_spans():
  # 16 closes to a ring on v5e, 4 does not; of v5p 4 does.
  v5e = topology.parse('v5e:16x16')
  link = v5e.chip.ici
  row, both = [at(0, 0, 0), at(0, 5, 0)], [at(0, 0, 0), at(3, 5, 0)]
  assert links.bandwidth(v5e, row) == 2 * link
  assert links.bandwidth(v5e, both) == 4 * link
  assert links.bandwidth(topology.parse('v5e:2x4'), both) == 2 * link
  v5p = topology.parse('v5p:4x4x4')
  assert links.bandwidth(v5p, row) == 2 * v5p.chip.ici
  far = [at(0, 0, 0), at(0, 0, 0, slice_index=1)]
  assert links.bandwidth(topology.parse('2*v5e:16x16'), far) == v5e.chip.dcn


SMALLEST = ('v4:2x2x1', 'v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1')


@pytest.mark.long
@pytest.mark.parametrize('name', SMALLEST)
def test_the_compiler_has_the_limits_of_the_table(name):
  pytest.importorskip('libtpu')
  machine = topology.parse(name)
  device = topology.targets(machine).devices[0]
  place = jax.sharding.SingleDeviceSharding(device)
  rows = machine.chip.hbm // 2**12 * 2
  large = jax.ShapeDtypeStruct((rows, 1024), jnp.float32, sharding=place)
  with pytest.raises(jax.errors.JaxRuntimeError) as error:
    jax.jit(lambda x: x * 2).trace(large).lower().compile()
  assert programs.exhausted(str(error.value)).limit == machine.chip.hbm
