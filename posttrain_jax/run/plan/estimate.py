"""How long a step may take: an estimate, from data sheets and one constant.

  update   the larger of arithmetic and links: XLA moves weights while it
           computes; their sum, where it hides nothing
  rollout  each token reads the weights and the cache once: the larger of that
           and arithmetic, and then its collectives, which nothing hides

Arithmetic is FLOPs over peak times `EFFICIENCY`. That constant is assumed and
was fitted to nothing: an estimate ranks settings of one chip, and is no claim
of a utilisation.
"""

import dataclasses

from posttrain_jax.run.plan.chips import Chip

__all__ = ['EFFICIENCY', 'Time', 'of_program', 'total']

# Of its peak, what a chip reaches in large products.
EFFICIENCY = 0.6


@dataclasses.dataclass(frozen=True)
class Time:
  """Seconds of one program.

  compute, memory, links  each alone
  seconds, serial         with what can overlap overlapped, and without
  """

  compute: float
  memory: float
  links: float
  seconds: float
  serial: float


def read_per_token(weights: int, cache: int) -> float:
  """Bytes of memory that a chip reads for one token of a rollout: the weights
  that it has; and half of a cache, which fills as it goes. Of experts all are
  read: many rows meet them.

  weights  bytes that a chip has while decoding (`memory.decode_weights`)
  cache    bytes of keys and values of a chip, full
  """
  return weights + cache / 2


def of_program(
  chip: Chip,
  *,
  flops: float,
  links: float,
  read: float = 0.0,
  samples: bool = False,
) -> Time:
  """The time of a program on one chip.

  flops    of the chip
  links    seconds of its collectives (`links.Moved`)
  read     bytes of memory, of a rollout
  samples  whether it is a rollout
  """
  compute = flops / (chip.peak * EFFICIENCY)
  memory = read / chip.bandwidth
  if samples:
    seconds = max(compute, memory) + links
    return Time(compute, memory, links, seconds, compute + memory + links)
  return Time(compute, memory, links, max(compute, links), compute + links)


def total(times: list[Time]) -> Time:
  """Programs one after another."""
  sums = [sum(column) for column in zip(*map(dataclasses.astuple, times))]
  return Time(*sums)
