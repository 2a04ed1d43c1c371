"""What a recipe is held to: its paper's whole objective, written again.

A form is written from the paper or the authors' code, never from the parts
that the recipe names. It says everything that lies between rewards (or pairs,
or demonstrations) and one number: advantages, token loss, weights, reduction,
coefficients.
"""

import dataclasses
from collections.abc import Callable

__all__ = ['Form']


@dataclasses.dataclass(frozen=True)
class Form:
  """The objective of one recipe, in NumPy and float64.

  value    (live, frozen, data) -> the number that is minimised. `live` holds
           what the trained parameters decide, `frozen` a copy of it: whatever
           the source detaches reads from `frozen`, so that differences in
           `live` alone give the source's gradient
  source   address of the paper or the authors' code that was read
  where    the place in it: an equation, a file and a function
  differs  what the recipe does otherwise than the source, and why; '': nothing
  """

  value: Callable[..., float]
  source: str
  where: str
  differs: str = ''
