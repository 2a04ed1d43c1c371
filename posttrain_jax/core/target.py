"""The devices that a run is made for: those there are, or others (`aimed`).

A plan builds a run for chips that are not on this machine. Whoever decides by
backend, or by the number of devices, asks here in place of jax.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

__all__ = ['Target', 'aimed', 'backend', 'device_count', 'devices']


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices of another machine.

  backend  'cpu', 'gpu' or 'tpu'
  count    of devices
  devices  those, as jax knows them; (): it does not, and only counts
  """

  backend: str
  count: int
  devices: tuple[Any, ...] = ()


_TARGET: contextvars.ContextVar[Target | None] = contextvars.ContextVar(
  'target', default=None
)


@contextlib.contextmanager
def aimed(target: Target) -> Iterator[None]:
  """Inside, the functions of this file speak of `target`."""
  token = _TARGET.set(target)
  try:
    yield
  finally:
    _TARGET.reset(token)


def backend() -> str:
  """'cpu', 'gpu' or 'tpu'."""
  target = _TARGET.get()
  return jax.default_backend() if target is None else target.backend


def device_count() -> int:
  """How many devices there are, of all hosts."""
  target = _TARGET.get()
  return jax.device_count() if target is None else target.count


def devices() -> list[Any]:
  """Those devices.

  Raises:
    ValueError: a target that jax has no devices of.
  """
  target = _TARGET.get()
  if target is None:
    return jax.devices()
  if not target.devices:
    raise ValueError(f'jax has no devices of {target.count} x {target.backend}')
  return list(target.devices)
