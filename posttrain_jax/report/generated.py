"""The made parts of pages that people write, between marks of their name."""

__all__ = ['filled']


def filled(content: str, name: str, made: str, where: str) -> str:
  """`content` with what stands between the two marks of `name` replaced.

  where  names the file in an error

  Raises:
    ValueError: not one mark of each kind, in this order.
  """
  first, last = f'<!-- {name} -->', f'<!-- /{name} -->'
  before, _, rest = content.partition(first)
  _, _, after = rest.partition(last)
  single = content.count(first) == content.count(last) == 1
  if not single or last not in rest:
    raise ValueError(f'{where}: needs one {first} and one {last} after it')
  return f'{before}{first}\n\n{made}\n\n{last}{after}'
