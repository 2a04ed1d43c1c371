"""Numbers of a config that a sweep may trace."""

from typing import Any

import jax

__all__ = ['active']


def active(coefficient: Any) -> bool:
  """Whether a coefficient takes part: all but zero, and every traced one.

  A sweep traces it, and then one program serves its values, zero among them.
  """
  return isinstance(coefficient, jax.core.Tracer) or bool(coefficient)
