"""Tries the devices and the other processes; a child of the doctor's.

  python -m posttrain_jax.run.doctor.probe

Writes JSON objects, one a line: {"at": what it does next}, and at the end
{"found": {...}}, or {"error": why, "kind": "absent", ...}. A driver that hangs
hangs this process alone, and its last line says where.
"""

import json
import os
import socket
import sys
import time
from typing import Any

SIZE = {'cpu': 512}
LARGE = 4096
BYTES = 8 * 2**20
TIMES = 5


def _say(**what: Any) -> None:
  print(json.dumps(what), flush=True)


def _seconds(call) -> float:
  """The least of some calls, the first of which compiled."""
  least = float('inf')
  for _ in range(TIMES):
    began = time.monotonic()
    call().block_until_ready()
    least = min(least, time.monotonic() - began)
  return least


def measured(device: Any) -> dict[str, Any]:
  """A product of matrices on one device; see `accelerators.compute`."""
  import jax
  import jax.numpy as jnp

  size = SIZE.get(device.platform, LARGE)
  dtype = jnp.float32 if device.platform == 'cpu' else jnp.bfloat16
  # Rows of 0, 1, 2, 0, ...: row i of the product is size * (i % 3), exact.
  left = jnp.broadcast_to((jnp.arange(size) % 3)[:, None], (size, size))
  left = jax.device_put(left.astype(dtype), device)
  ones = jax.device_put(jnp.ones((size, size), dtype), device)
  product = jax.jit(lambda x, y: (x @ y).astype(jnp.float32))
  began = time.monotonic()
  compiled = product.lower(left, ones).compile()
  took = time.monotonic() - began
  seconds = _seconds(lambda: compiled(left, ones))
  right = (compiled(left, ones)[:, 0] == size * (jnp.arange(size) % 3)).all()
  return {
    'device': str(device),
    'compile': took,
    'seconds': seconds,
    'flops': 2 * size**3 / seconds,
    'right': bool(right),
    'limit': (device.memory_stats() or {}).get('bytes_limit'),
  }


def together() -> dict[str, Any]:
  """What all processes measure with each other; see `hosts.checked_in`."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from jax.experimental import multihost_utils
  from jax.sharding import Mesh, NamedSharding, PartitionSpec

  count = jax.process_count()
  out: dict[str, Any] = {'count': count, 'index': jax.process_index()}
  if count == 1:
    return out
  name = socket.gethostname().encode()[:64]
  padded = np.zeros(64, np.uint8)
  padded[: len(name)] = np.frombuffer(name, np.uint8)
  multihost_utils.sync_global_devices('doctor')
  now = time.time()
  # Seconds and microseconds apart: float32 holds neither together.
  clock = np.array([int(now), int(now % 1 * 1e6)], np.int32)
  names, clocks = multihost_utils.process_allgather((padded, clock))
  out['hosts'] = [bytes(x).rstrip(b'\0').decode() for x in names]
  out['times'] = [float(a) + b / 1e6 for a, b in clocks.tolist()]
  devices = jax.devices()
  mesh = Mesh(np.array(devices), ('all',))
  split = NamedSharding(mesh, PartitionSpec('all'))
  whole = NamedSharding(mesh, PartitionSpec())
  add = jax.jit(lambda x: x.sum(0), out_shardings=whole)

  def ones(size: int) -> jax.Array:
    return jax.make_array_from_callback(
      (len(devices), size), split, lambda index: np.ones((1, size), np.float32)
    )

  large, small = ones(BYTES // 4), ones(1)
  shard = add(large).addressable_shards[0].data
  out['right'] = bool(jnp.all(shard == len(devices)))
  out |= {'bytes': BYTES, 'seconds': _seconds(lambda: add(large))}
  add(small)
  out['latency'] = _seconds(lambda: add(small))
  return out


def main() -> int:
  """Exit status 0 where something was found."""
  _say(at='importing jax')
  try:
    import jax

    from posttrain_jax.run import join

    _say(at='joining the other processes')
    try:
      join.join()
    except ValueError as error:
      _say(error=str(error), kind='absent')
      return 1
    _say(at='asking for the devices')
    mine = jax.local_devices()
    found = {
      'backend': jax.default_backend(),
      'kind': mine[0].device_kind,
      'local': len(mine),
      'count': jax.device_count(),
    }
    _say(at='multiplying matrices', **found)
    found['compute'] = [measured(device) for device in mine]
    _say(at='adding up over all devices')
    found['together'] = together()
  except Exception as error:  # of any driver
    lines = str(error).strip().splitlines() or ['']
    _say(error=f'{type(error).__name__}: {lines[0]}', kind='failed')
    return 1
  _say(found=found)
  # Others may still be at it: the end of a process is not waited for.
  sys.stdout.flush()
  if found['together']['count'] > 1:
    jax.distributed.shutdown()
  return 0


if __name__ == '__main__':
  os._exit(main())
