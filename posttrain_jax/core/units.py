"""Numbers as people read them."""

__all__ = ['shown_bytes']


def shown_bytes(count: float, digits: int = 1) -> str:
  """Bytes in the largest unit of which there is one: '3.2 GiB'.

  digits  after the point; bytes alone have none
  """
  size = abs(count)
  for power, unit in ((4, 'TiB'), (3, 'GiB'), (2, 'MiB'), (1, 'KiB')):
    if size >= 1024**power:
      return f'{count / 1024**power:.{digits}f} {unit}'
  return f'{count:.0f} B'
