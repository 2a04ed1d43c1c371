"""What a compiled program sends between devices, read from its text.

`collectives(compiled.as_text())` has a record of every collective: kind, shape,
bytes, the devices of a group, and how often a step runs it (loop bodies times
their trip counts). Ahead-of-time programs of a topology have the same text.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

from posttrain_jax.run import hlo_groups

__all__ = ['Collective', 'bytes_by_kind', 'collectives']

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-broadcast',
  'collective-permute',
)
BITS = {'pred': 8, 'bf16': 16, 'token': 0, 'opaque': 0}

_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+)(?: \(.*\))?(?: -> .*)? \{$')
# Not '}}, metadata=...': a kernel's instruction goes on over several lines.
_TAIL = re.compile(r'^\}(, execution_thread=.*)?$')
_LINE = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,<=]*)\]')
_NAME = re.compile(r'%([\w.\-]+)')
_TRIPS = re.compile(r'"?known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)"?\}')
_CALLS = re.compile(r'\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)')
_BRANCHES = re.compile(
  r'branch_computations=\{([^}]*)\}|'
  r'true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)'
)
_COUNT = re.compile(r'num_partitions=(\d+)')
_REPLICAS = re.compile(r'replica_count=(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of a program.

  kind     of KINDS
  dtype    of what is sent, as in HLO: 'bf16'
  shape    of the whole on one device: what an all-gather makes, what a
           reduce-scatter is given; of several arrays the largest
  bytes    of that, all arrays together
  group    device numbers of one group (the first)
  times    how often it runs when the program runs once
  guessed  whether a loop around it does not say how often it goes round
  source   the operation it was made for, as JAX names it
  serves   the kind that it is a step of, where a product and what is sent for
           it go hand in hand ('windowed'); else `kind`
  chain    of what goes on beside other work, a loop too: its clones share it
  """

  kind: str
  dtype: str
  shape: tuple[int, ...]
  bytes: int
  group: tuple[int, ...]
  times: int
  guessed: bool = False
  source: str = ''
  serves: str = ''
  chain: str = ''

  @property
  def sent(self) -> float:
    """Bytes that a device sends in one run of it, on a ring of the group."""
    share = 1.0 - 1.0 / max(1, len(self.group))
    if self.kind == 'collective-permute':
      return float(self.bytes)
    return (2.0 if self.kind == 'all-reduce' else 1.0) * share * self.bytes

  @property
  def total(self) -> float:
    """Bytes that a device sends for it in one run of the program."""
    return self.sent * self.times


@dataclasses.dataclass(frozen=True)
class _Op:
  """An instruction: its name, type, code, and what stands after it."""

  name: str
  type: str
  code: str
  operands: str
  rest: str


def collectives(
  text: str, unknown: int = 1, every_branch: bool = False
) -> list[Collective]:
  """The collectives of `compiled.as_text()`.

  unknown       trips of a loop that does not say how many it has
  every_branch  also of the branches of a conditional that are not its dearest

  A reduction that TPUs fuse with the cut of its result ('all-reduce-scatter')
  is a reduce-scatter. Pairs of -start and -done are one.
  """
  program = _Program(text, unknown, every_branch)
  found = program.of(program.entry)
  # The last step of a window is sent after its loop.
  windows = {x.source: x.serves for x in found if x.serves and x.source}
  return [
    dataclasses.replace(one, serves=one.serves or windows[one.source])
    if one.kind == 'collective-permute' and one.source in windows
    else dataclasses.replace(one, serves=one.serves or one.kind)
    for one in found
  ]


def bytes_by_kind(found: Iterable[Collective]) -> dict[str, float]:
  """{kind: bytes that a device sends in one run of the program}; steps of a
  window count as what they serve."""
  out: dict[str, float] = {}
  for one in found:
    kind = one.serves or one.kind
    out[kind] = out.get(kind, 0.0) + one.total
  return dict(sorted(out.items()))


def _arrays(text: str) -> list[tuple[str, tuple[int, ...]]]:
  """(dtype, shape) of every array of a type."""
  sizes = lambda dims: tuple(
    int(size.lstrip('<=')) for size in dims.split(',') if size
  )
  return [(dtype, sizes(dims)) for dtype, dims in _ARRAY.findall(text)]


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
  bits = BITS.get(dtype)
  if bits is None:
    bits = int(re.sub(r'^\D*(\d*).*', r'\1', dtype) or 8)
  return math.prod(shape) * bits // 8


def _closing(text: str, start: int) -> int:
  """The place after the bracket that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += {'(': 1, ')': -1}.get(text[place], 0)
    if depth == 0:
      return place + 1
  raise ValueError(f'no closing bracket in: {text[:200]}')


def _parsed(name: str, line: str) -> _Op | None:
  if line.startswith('('):
    end = _closing(line, 0)
  else:
    end = line.find(' ')
    # Layouts hold brackets, and no spaces.
    if end < 0:
      return None
  kind, after = line[:end], line[end:].lstrip()
  opening = after.find('(')
  if opening < 0:
    return None
  close = _closing(after, opening)
  return _Op(
    name, kind, after[:opening], after[opening + 1 : close - 1], after[close:]
  )


def _blocks(text: str) -> Iterator[tuple[str, bool, list[_Op]]]:
  """(name, whether it is the entry, instructions) of each computation."""
  name, entry = '', False
  ops: list[_Op] = []
  for line in text.splitlines():
    if not name:
      head = _HEAD.match(line)
      if head:
        name, entry, ops = head[2], bool(head[1]), []
    elif _TAIL.match(line):
      yield name, entry, ops
      name = ''
    else:
      found = _LINE.match(line)
      op = _parsed(found[1], found[2]) if found else None
      if op is not None:
        ops.append(op)


def _unchained(found: list[Collective]) -> list[Collective]:
  """Without the clones of a chain: its start, a part in each turn of a loop
  that it goes on beside, and its end are one, sent as often as it starts.

  Channels do not tell: all that a `shard_map` sends may be on one.
  """
  seen: dict[tuple, Collective] = {}
  for place, one in enumerate(found):
    key = (one.chain or place, one.kind)
    if key not in seen or one.times < seen[key].times:
      seen[key] = one
  return list(seen.values())


def _constants(ops: list[_Op]) -> dict[str, int]:
  return {
    op.name: int(op.operands)
    for op in ops
    if op.code == 'constant' and re.fullmatch(r'\d+', op.operands)
  }


def _copies(ops: list[_Op]) -> dict[str, str]:
  """{name of a copy: what it is a copy of}; counters are moved to where scalars
  are computed."""
  out: dict[str, str] = {}
  for op in ops:
    names = _NAME.findall(op.operands)
    if op.code in ('copy', 'bitcast') and names:
      out[op.name] = out.get(names[0], names[0])
  return out


def _elements(ops: list[_Op]) -> dict[str, int]:
  """{name: which element of the loop's tuple it is, or is a copy of}."""
  found = {}
  for op in ops:
    index = re.search(r'index=(\d+)', op.rest)
    if op.code == 'get-tuple-element' and index:
      found[op.name] = int(index[1])
  copies = _copies(ops)
  return found | {x: found[of] for x, of in copies.items() if of in found}


def _step(body: list[_Op], place: int) -> int:
  """What a loop's body adds to that element; 1 where it is not plain."""
  if not body or body[-1].code != 'tuple':
    return 1
  copies = _copies(body)
  results = [copies.get(x, x) for x in _NAME.findall(body[-1].operands)]
  numbers, places = _constants(body), _elements(body)
  for op in body:
    if op.code == 'add' and place < len(results) and op.name == results[place]:
      names = _NAME.findall(op.operands)
      added = [numbers[name] for name in names if name in numbers]
      if len(added) == 1 and any(places.get(n) == place for n in names):
        return max(1, added[0])
  return 1


class _Program:
  """The computations of a module, and what they send."""

  def __init__(self, text: str, unknown: int, every_branch: bool):
    self._ops: dict[str, list[_Op]] = {}
    self.entry = ''
    for name, entry, ops in _blocks(text):
      self._ops[name] = ops
      self.entry = name if entry else self.entry
    if not self.entry:
      raise ValueError('no ENTRY computation: this is no text of a module')
    header = text[: text.find('\n')]
    number = lambda regex: int((regex.search(header) or [0, '1'])[1])
    self._devices = number(_COUNT) * number(_REPLICAS)
    self._unknown, self._every = unknown, every_branch
    self._known: dict[str, list[Collective]] = {}

  def of(self, name: str) -> list[Collective]:
    """The collectives of one run of a computation."""
    if name not in self._known:
      self._known[name] = self._read(name)
    return self._known[name]

  def _read(self, name: str) -> list[Collective]:
    ops = self._ops.get(name, [])
    types = {op.name: op.type for op in ops}
    found: list[Collective] = []
    for op in ops:
      code = op.code.removesuffix('-start')
      if code in KINDS:
        found.append(self._made(op, code, types))
      elif code == 'while':
        found += self._looped(op)
      elif code == 'conditional':
        found += self._chosen(op)
      elif not code.endswith(('-done', '-update')):
        found += self._called(op)
    return _unchained(found)

  def _called(self, op: _Op) -> list[Collective]:
    out = []
    for name in _CALLS.findall(op.rest):
      inside = self.of(name)
      if name.startswith('all-reduce-scatter'):
        inside = [
          dataclasses.replace(one, kind='reduce-scatter')
          if one.kind == 'all-reduce'
          else one
          for one in inside
        ]
      for kind, mark in (('reduce-scatter', '_rs'), ('all-gather', '_ag')):
        if f'windowed_dot_general_body{mark}' in name:
          inside = [dataclasses.replace(one, serves=kind) for one in inside]
      out += inside
    return out

  def _looped(self, op: _Op) -> list[Collective]:
    trips = self._trips(op)
    times, guessed = (self._unknown, True) if trips is None else (trips, False)
    return [
      dataclasses.replace(
        one, times=one.times * times, guessed=one.guessed or guessed
      )
      for one in self._called(op)
    ]

  def _trips(self, op: _Op) -> int | None:
    known = _TRIPS.search(op.rest)
    if known:
      return int(known[1])
    names = dict(re.findall(r'\b(body|condition)=%?([\w.\-]+)', op.rest))
    part = lambda name: self._ops.get(names.get(name, ''), [])
    ops = part('condition')
    bounds, places = _constants(ops), _elements(ops)
    for x in ops:
      if x.code == 'compare' and 'direction=LT' in x.rest:
        counter, limit = [*_NAME.findall(x.operands), '', ''][:2]
        if limit in bounds and counter in places:
          return -(-bounds[limit] // _step(part('body'), places[counter]))
    return None

  def _chosen(self, op: _Op) -> list[Collective]:
    branches = _BRANCHES.search(op.rest)
    if branches is None:
      return []
    names = [branches[2], branches[3]]
    if branches[1]:
      names = [name.strip().lstrip('%') for name in branches[1].split(',')]
    each = [self.of(name) for name in names]
    if self._every:
      return [one for inside in each for one in inside]
    return max(each, key=lambda inside: sum(one.total for one in inside))

  def _made(self, op: _Op, kind: str, types: dict[str, str]) -> Collective:
    typed = _arrays(op.operands)
    if not typed:  # operands are printed without their types
      names = _NAME.findall(op.operands) or re.split(r',\s*', op.operands)
      typed = [x for name in names for x in _arrays(types.get(name, ''))]
    if kind == 'collective-permute':
      typed = typed[:1]
    group = hlo_groups.first(op.rest, self._devices)
    if kind == 'all-gather':
      typed = [self._joined(op, x, len(group)) for x in typed]
    dtype, shape = max(typed, key=lambda x: _bytes(*x))
    source = re.search(r'op_name="([^"]*)"', op.rest)
    chain = re.search(r'chain_id="([^"]*)"', op.rest)
    return Collective(
      kind=kind,
      dtype=dtype,
      shape=shape,
      bytes=sum(_bytes(*x) for x in typed),
      group=group,
      times=1,
      source=source[1] if source else '',
      chain=chain[1] if chain else '',
    )

  def _joined(self, op: _Op, array: tuple, parts: int) -> tuple:
    dtype, shape = array
    axis = re.search(r'dimensions=\{(\d+)', op.rest)
    at = int(axis[1]) if axis else 0
    return dtype, (*shape[:at], shape[at] * parts, *shape[at + 1 :])
