"""Whoever decides by backend or devices asks `core.target`."""

import re
from pathlib import Path

import jax
import pytest

from posttrain_jax.core import sharding, target

ROOT = Path(__file__).parent.parent / 'posttrain_jax'
# What is about this process: its log, its runs side by side, its arrays.
OWN = ('core/target.py', 'log/', 'rollout/runs.py', 'sweep/', 'run/speed.py',
       'run/runtime.py', 'run/checkpoint.py', 'run/doctor/')  # fmt: skip


def test_nothing_else_asks_jax():
  asks = re.compile(r'jax\.(default_backend|device_count|devices)\(')
  found = [
    f'{path.relative_to(ROOT)}:{number}'
    for path in sorted(ROOT.rglob('*.py'))
    if not str(path.relative_to(ROOT)).startswith(OWN)
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if asks.search(line)
  ]
  # A plan is made for chips that jax does not have.
  assert found == [], 'ask core.target in place of jax'


def test_a_target_stands_in_for_the_devices_there_are():
  here = target.backend(), target.device_count(), target.devices()
  assert here == ('cpu', jax.device_count(), jax.devices())
  with target.aimed(target.Target('gpu', 3)):
    assert (target.backend(), target.device_count()) == ('gpu', 3)
    assert sharding.axis_sizes({'fsdp': -1})['fsdp'] == 3
    with pytest.raises(ValueError, match='no devices of 3 x gpu'):
      target.devices()
  few = tuple(jax.devices()[2:4])
  with target.aimed(target.Target('cpu', 2, few)):
    mesh = sharding.make_mesh({'data': -1})
  assert tuple(mesh.devices.flat) == few
  assert target.device_count() == jax.device_count()
