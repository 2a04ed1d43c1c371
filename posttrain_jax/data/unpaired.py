"""Pairs as single answers with labels, for losses that train on these."""

from typing import Any

from posttrain_jax.data import records
from posttrain_jax.data.rows import Record, Source, View

__all__ = ['Unpaired']


class Unpaired(View):
  """Records 2i and 2i + 1 are the answers of pair i, chosen first."""

  def __init__(self, source: Source, template: Any = None):
    """`source`: of records of kind 'preference'; `template` of the model."""
    super().__init__(source)
    self._template = template
    self._last: tuple[int, list[dict]] | None = None
    self.num_bytes = getattr(source, 'num_bytes', 0)
    stamp = getattr(source, 'stamp', None)
    self.stamp = stamp if stamp is None else ('unpaired', stamp)

  def raw(self, index: int) -> str | None:
    return self._raw(index // 2)

  def __len__(self) -> int:
    return 2 * len(self._source)

  def __getitem__(self, index: int) -> Record:
    """Raises ValueError where the pair is none."""
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(index)
    record, last = self._source[index // 2], self._last
    # Whoever goes through all asks for both answers, one after the other.
    if last is None or last[0] != index // 2:
      found = records.check(
        record.columns, 'preference', record.where, self._template
      )
      self._last = last = index // 2, records.halves(found)
    return Record(dict(last[1][index % 2]), record.where, index)
