"""A stream drawn from several sources side by side, in exact shares.

Which source the i-th record comes from is a fixed pattern: after any number of
records each of K sources has given its share of them, to within (K + 1) / 2. So
a batch holds the mixture, and a place in the stream is one number.

Each source is shuffled by itself and begins again, in another order, where it
ends. An epoch of the mixture lasts until each record of every source has come
at least once; those of a source that is small for its share come more often.
"""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from posttrain_jax.data.rows import Record, Source, attempt

__all__ = ['Mixture', 'Pattern', 'attempts']

PERIOD = 10_000  # records after which the pattern repeats
ENDLESS = 2**62
SEEDS = 2**32


class Pattern:
  """Which source gives the i-th record of a mixture, and which of its own.

  Shares are rounded to 1 / PERIOD; none is rounded to nothing.
  """

  def __init__(self, weights: Sequence[float]):
    """`weights`: one of each source, above 0; only their ratios count."""
    shares = np.asarray(weights, np.float64)
    # Scaled first: a sum of large weights may be inf.
    shares = shares / shares.max()
    counts = np.maximum(np.rint(shares / shares.sum() * PERIOD), 1).astype(int)
    self.counts = counts // np.gcd.reduce(counts)
    self.period = int(self.counts.sum())
    # The j-th record of a source with count c is due at (j + 1/2) / c.
    due = np.concatenate([(np.arange(c) + 0.5) / c for c in self.counts])
    source = np.repeat(np.arange(len(counts)), self.counts)
    rank = np.concatenate([np.arange(c) for c in self.counts])
    order = np.lexsort((source, due))
    self._source, self._rank = source[order], rank[order]

  def place(self, index: int) -> tuple[int, int]:
    """(source, how many records it gave before) of a record of the mixture."""
    rounds, at = divmod(index, self.period)
    source = int(self._source[at])
    return source, rounds * int(self.counts[source]) + int(self._rank[at])

  def length(self, sizes: Sequence[int], num_epochs: int = 1) -> int:
    """Records until source k has given `sizes[k] * num_epochs`, for every k."""
    last = 0
    for source, size in enumerate(sizes):
      rounds, rank = divmod(size * num_epochs - 1, int(self.counts[source]))
      at = np.flatnonzero((self._source == source) & (self._rank == rank))[0]
      last = max(last, rounds * self.period + int(at) + 1)
    return last


class Mixture:
  """The records of a mixture, by their number in the stream."""

  def __init__(
    self,
    parts: Sequence[Source],
    weights: Sequence[float],
    *,
    seed: int,
    shuffle: bool,
    num_epochs: int | None,
  ):
    """`num_epochs`: None is endless."""
    self._pattern = Pattern(weights)
    sizes = [len(part) for part in parts]
    self._starts = np.cumsum([0, *sizes])
    self._length = ENDLESS
    if num_epochs is not None:
      self._length = self._pattern.length(sizes, num_epochs)
    self._streams = []
    for number, part in enumerate(parts):
      # Sources of one length would otherwise come in the same order.
      words = np.random.SeedSequence([seed, number]).generate_state(1)
      stream = grain.MapDataset.source(_Attempts(part))
      stream = stream.seed(int(words[0]) % SEEDS)
      self._streams.append((stream.shuffle() if shuffle else stream).repeat())

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Any:
    source, at = self._pattern.place(int(index))
    found = self._streams[source][at]
    return found._replace(index=int(self._starts[source]) + found.index)


class _Attempts:
  """A source whose records are `Failed` where they cannot be read."""

  def __init__(self, source: Source):
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record | Any:
    return attempt(self._source, int(index))


def attempts(source: Source) -> _Attempts:
  """The source, with `Failed` in place of records that cannot be read."""
  return _Attempts(source)
