"""Several processes that train one run: whose rows are whose, what all know.

Rows of a batch lie on devices, and every device belongs to one process. A
process makes, reads or judges the rows of its own devices; what every process
has to know (rewards, a signal, an error) is gathered. With one process every
function here is the identity.

  mesh of 4 devices in 2 processes, 8 rows:   process 0 has rows 0 to 3
  the same, 2 rows (they do not divide):      both hold both rows
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import (
  Mesh,
  NamedSharding,
  PartitionSpec,
  Sharding,
  SingleDeviceSharding,
)

from posttrain_jax.core import sharding
from posttrain_jax.core.types import PyTree

# Bytes of a text that processes send each other at once.
SHORT = 256

__all__ = ['Agreement', 'Elsewhere', 'by_rows', 'first', 'held', 'made',
           'merged', 'own', 'own_of', 'place_rows', 'placed', 'said', 'several',
           'together', 'whole']  # fmt: skip


class Elsewhere(ValueError):
  """Another process of the run has failed; says which, and with what."""


def several() -> bool:
  """Whether this run has more than one process."""
  return jax.process_count() > 1


def first() -> bool:
  """Whether this process is the one that writes and prints."""
  return jax.process_index() == 0


def _row_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, sharding.fit(sharding.ROWS, tuple(shape), mesh))


def _holders(count: int, place: Sharding) -> list[list[int]]:
  """For each of `count` rows, the processes with a device that holds it."""
  found: list[set[int]] = [set() for _ in range(count)]
  devices: Any = place.devices_indices_map((count,))
  for device, index in devices.items():
    for row in range(*index[0].indices(count)):
      found[row].add(device.process_index)
  return [sorted(x) for x in found]


def by_rows(tree: PyTree) -> PyTree:
  """`sharding.rows`, in-graph; of several processes, what does not divide the
  mesh is whole on each, so that `held` and `own` are always right."""
  mesh: Any = jax.sharding.get_abstract_mesh()
  if not several() or mesh.empty:
    return sharding.rows(tree)
  split = lambda x: jax.lax.with_sharding_constraint(
    x, sharding.fit(sharding.ROWS, x.shape, mesh)
  )
  return jax.tree.map(split, tree)


def held(count: int, mesh: Mesh) -> np.ndarray:
  """Numbers of the rows that this process's devices hold of `count` rows,
  ascending; all of them where they do not divide the mesh."""
  if not several():
    return np.arange(count)
  me = jax.process_index()
  holders = _holders(count, _row_sharding((count,), mesh))
  return np.array([i for i, x in enumerate(holders) if me in x], np.int64)


def own(count: int, mesh: Mesh) -> np.ndarray:
  """Those of `held` that no other process answers for: each of the `count` rows
  is one process's own. What several hold is dealt out in turn."""
  if not several():
    return np.arange(count)
  me = jax.process_index()
  holders = _holders(count, _row_sharding((count,), mesh))
  mine = [i for i, x in enumerate(holders) if x[i % len(x)] == me]
  return np.array(mine, np.int64)


def own_of(tree: PyTree, numbers: np.ndarray) -> PyTree:
  """[len(numbers), ...] NumPy rows of arrays that are split by rows alone.

  numbers  of `own` or `held`
  """
  return jax.tree.map(lambda x: _rows_of(x, numbers), tree)


def _rows_of(x: Any, numbers: np.ndarray) -> np.ndarray:
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return np.asarray(x)[numbers]
  if x.is_fully_replicated:
    return np.asarray(x.addressable_shards[0].data)[numbers]
  parts: dict[int, np.ndarray] = {}
  wanted = set(numbers.tolist())
  for shard in x.addressable_shards:
    rows = range(*shard.index[0].indices(x.shape[0]))
    if not wanted.intersection(rows) or rows.start in parts:
      continue
    if shard.data.shape[1:] != x.shape[1:]:
      raise ValueError(f'{x.sharding} splits more than the rows of {x.shape}')
    parts[rows.start] = np.asarray(shard.data)
  out = np.empty((len(numbers), *x.shape[1:]), x.dtype)
  for start, part in parts.items():
    inside = (numbers >= start) & (numbers < start + len(part))
    out[inside] = part[numbers[inside] - start]
  return out


def placed(
  x: np.ndarray, place: Sharding, rows: np.ndarray | None = None, count: int = 0
) -> jax.Array:
  """A global array from what this process has of it; no process sees the rest.

  x      all of it; with `rows`, those rows of it
  rows   their numbers, ascending
  count  of all rows
  """
  x = np.asarray(x)
  if not several():
    return jax.device_put(x, place)
  count = x.shape[0] if rows is None and x.ndim else count
  shape = (count, *x.shape[1:]) if x.ndim else ()

  def part(index: Any) -> np.ndarray:
    if rows is None:
      return x[index]
    numbers = np.arange(*index[0].indices(count))
    return x[(np.searchsorted(rows, numbers), *index[1:])]

  return jax.make_array_from_callback(shape, place, part)


def made(
  shape: Sequence[int],
  place: Sharding,
  read: Callable[[tuple[tuple[int, int], ...]], np.ndarray],
) -> jax.Array:
  """A global array of which this process makes its own devices' parts alone.

  read  (start, stop) of each axis -> that part; called once for each part,
        however many devices have it, and one part is on the host at a time
  """
  wanted: dict[tuple, list[jax.Device]] = {}
  indices = place.addressable_devices_indices_map(tuple(shape))
  for device, index in indices.items():
    assert index is not None
    ranges = tuple(x.indices(n)[:2] for x, n in zip(index, shape))
    wanted.setdefault(ranges, []).append(device)
  arrays = []
  for ranges, devices in wanted.items():
    part = read(ranges)
    for device in devices:
      there = SingleDeviceSharding(device, memory_kind=place.memory_kind)
      arrays.append(jax.device_put(part, there))
    del part
  return jax.make_array_from_single_device_arrays(tuple(shape), place, arrays)


def place_rows(
  x: np.ndarray, mesh: Mesh, rows: np.ndarray | None = None, count: int = 0
) -> jax.Array:
  """`placed`, split by rows over a mesh."""
  x = np.asarray(x)
  total = x.shape[0] if rows is None else count
  return placed(x, _row_sharding((total, *x.shape[1:]), mesh), rows, count)


def whole(tree: PyTree) -> PyTree:
  """NumPy arrays of global ones, on every process; all have to call it."""

  def one(x: Any) -> Any:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      if x.is_fully_replicated:
        return np.asarray(x.addressable_shards[0].data)
      return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)

  return jax.tree.map(one, tree)


def merged(x: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
  """[count, ...] of the rows that each process has; all have to call it.

  x        [len(numbers), ...]
  numbers  of `own`
  """
  x = np.asarray(x)
  if not several():
    return x
  # As bits: a sum of zeros and one number is that number, but not for NaN.
  sent = np.zeros((count, *x.shape[1:]), x.dtype)
  sent[numbers] = x
  mine = np.zeros(count, bool)
  mine[numbers] = True
  theirs, whose = multihost_utils.process_allgather((sent, mine))
  out = np.array(theirs[0])
  for part, rows in zip(theirs[1:], whose[1:]):
    out[rows] = part[rows]
  return out


def said(text: str) -> list[str]:
  """What each process says, in their order; all have to call it."""
  if not several():
    return [text]
  data = np.frombuffer(text.encode(), np.uint8)
  rows, sizes = _sent(data, SHORT)
  if sizes.max() > SHORT:
    # Few sizes, as each is a program of its own.
    rows, _ = _sent(data, 1 << int(sizes.max() - 1).bit_length())
  return [
    bytes(row[:size]).decode(errors='replace') for row, size in zip(rows, sizes)
  ]


def _sent(data: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """([process, size] the start of what each has, [process] all its bytes)."""
  padded = np.zeros(size, np.uint8)
  padded[: data.size] = data[:size]
  found = multihost_utils.process_allgather((padded, np.int32(data.size)))
  return np.asarray(found[0]), np.asarray(found[1])


def together(act: Callable[[], Any], what: str = '') -> Any:
  """What `act()` returns, once every process has done its own.

  Raises:
    Elsewhere: another process failed, and this one did not; says which, with
      `what` before it. What this one raises, it raises when all know.
  """
  if not several():
    return act()
  made, error = None, None
  try:
    made = act()
  except Exception as caught:
    error = caught
  told = said('' if error is None else str(error) or type(error).__name__)
  if error is not None:
    raise error
  for process, text in enumerate(told):
    if text:
      raise Elsewhere(f'{what}{what and ": "}process {process}: {text}')
  return made


class Agreement:
  """What any process has to say becomes what all know, without any waiting.

  `tell(numbers)` sends this process's numbers along with a step that was just
  dispatched: a maximum over all devices, queued behind that step. It returns
  what was agreed with the call before, whose step is over by then. So all
  processes learn of a signal or an error at the same step, one call late, and
  no host waits for another.

  Args:
    size: numbers that are agreed on, each at least 0.
    mesh: the run's; every process has devices in it.
  """

  def __init__(self, size: int, mesh: Mesh):
    self._size = size
    self._before: Any = None
    if not several():
      return
    axes = tuple(mesh.shape)
    self._place = NamedSharding(mesh, PartitionSpec(axes))
    self._devices = mesh.size
    most: Callable[[jax.Array], jax.Array] = lambda x: x.max(0)
    self._most = jax.jit(
      most, out_shardings=NamedSharding(mesh, PartitionSpec())
    )

  def tell(self, numbers: Sequence[int]) -> list[int]:
    """What all agreed on with the call before; zeros at the first."""
    if not several():
      return [int(x) for x in numbers]
    before = self._before
    mine = np.asarray([numbers], np.int32)
    given = jax.make_array_from_callback(
      (self._devices, self._size), self._place, lambda index: mine
    )
    self._before = self._most(given)
    if before is None:
      return [0] * self._size
    return np.asarray(before.addressable_shards[0].data).tolist()
