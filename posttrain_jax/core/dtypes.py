"""Names of number types, from whatever a caller may write for one."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest

__all__ = ['CACHE', 'FLOATS', 'STORED', 'check_available', 'name']

FLOATS = ('float32', 'bfloat16', 'float64')  # to compute with
CACHE = (*FLOATS, 'int8')  # of keys and values
STORED = ('float32', 'bfloat16', 'float16')  # of weights in a file


def name(
  dtype: Any, valid: Collection[str] = FLOATS, what: str = 'dtype'
) -> str:
  """'float32' of 'float32', jnp.float32, np.float32 or a dtype of these.

  Args:
    dtype: a name, a type or a dtype.
    valid: the names that are allowed; '' among them stands for itself.
    what: the argument, for the message.

  Raises:
    ValueError: another type, with the valid ones.
  """
  if isinstance(dtype, str) and dtype == '' and '' in valid:
    return ''
  try:
    found = jnp.dtype(dtype).name if dtype is not None else ''
  except TypeError:
    found = ''
  if not found or found not in valid:
    shown = found or (dtype if isinstance(dtype, str) else repr(dtype))
    raise ValueError(f'{what}="{shown}".{nearest(shown, filter(None, valid))}')
  return found


def check_available(dtype: str, what: str = 'dtype') -> None:
  """Raises ValueError for float64 where JAX would compute in float32."""
  if dtype == 'float64' and not jax.config.read('jax_enable_x64'):
    raise ValueError(
      f'{what}="float64": JAX computes in float32 unless JAX_ENABLE_X64=1 is '
      'set in the environment'
    )
