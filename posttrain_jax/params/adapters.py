"""Adapters: what is trained beside a model's matrices while those stand still.

Every function here is called the same way, and makes an `Adapter`:

  f(*, rank, alpha, targets, b_rate, base) -> Adapter

  rank     numbers between the two matrices of an adapter
  alpha    strength, as the method scales it
  targets  regular expressions; a matrix whose whole path ('layers/query',
           'embed/tokens') matches one of them gets an adapter. Or names as PEFT
           takes them, of modules in the files ('q_proj', 'mlp.down_proj',
           'embed_tokens'), and 'all-linear', which are those of the layers
  b_rate   learning rate of B over that of A: Hayou et al. (2024), LoRA+,
           https://arxiv.org/abs/2402.12354, take 16
  base     how the matrices with an adapter are stored: '' as they are, 'int8',
           or 'nf4' (Dettmers et al., 2023, QLoRA,
           https://arxiv.org/abs/2305.14314). Those of the layers: a table of
           embeddings and an output matrix stay as they are, as in QLoRA
  dropout  share of the inputs that what is trained does not see in an update;
           sampling and evaluation see all. Tokens that are looked up are not
           dropped

The table of embeddings [V, D] of a model that ties them is its output matrix,
too: its adapter is then that of both (PEFT's `ensure_weight_tying`).

What is frozen is held once: it is also the reference of a method that has one.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from posttrain_jax.core.names import nearest
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import hf_table, transformer
from posttrain_jax.models.adapted import NF4, Adapted, Int8
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.placed import specs

__all__ = ['dora', 'lora', 'rslora']

# Matrices that may have an adapter: (input axes, output axes), after that of
# the layers where they are stacked.
MATRICES = {
  'query': (1, 2),
  'key': (1, 2),
  'value': (1, 2),
  'output': (2, 1),
  'gate': (1, 1),
  'up': (1, 1),
  'down': (1, 1),
}
TABLE, UNEMBED = 'embed/tokens', 'unembed'
TOP = {TABLE: (1, 1), UNEMBED: (1, 1)}
EVERY = ('layers/(query|key|value|output|gate|up|down)',)
BASES = ('', 'int8', 'nf4')
ALL = 'all-linear'
Shapes = Mapping[str, tuple[int, ...]]


def lora(
  *,
  rank: int = 16,
  alpha: float = 32.0,
  targets: Sequence[str] = EVERY,
  b_rate: float = 1.0,
  base: str = '',
  dropout: float = 0.0,
) -> 'Adapter':
  """W + alpha / rank A B; B starts at zero.

  Reference: Hu et al. (2021), LoRA, https://arxiv.org/abs/2106.09685
  """
  return Adapter(
    rank, alpha / rank, tuple(targets), b_rate, base, dropout=dropout
  )


def rslora(
  *,
  rank: int = 16,
  alpha: float = 32.0,
  targets: Sequence[str] = EVERY,
  b_rate: float = 1.0,
  base: str = '',
  dropout: float = 0.0,
) -> 'Adapter':
  """W + alpha / sqrt(rank) A B, whose steps do not shrink with the rank.

  Reference: Kalajdzievski (2023), rsLoRA, https://arxiv.org/abs/2312.03732
  """
  scale = alpha / math.sqrt(rank)
  return Adapter(rank, scale, tuple(targets), b_rate, base, dropout=dropout)


def dora(
  *,
  rank: int = 16,
  alpha: float = 32.0,
  targets: Sequence[str] = EVERY,
  b_rate: float = 1.0,
  base: str = '',
  dropout: float = 0.0,
) -> 'Adapter':
  """LoRA of the directions of W's columns, and their lengths beside it.

  Reference: Liu et al. (2024), DoRA, https://arxiv.org/abs/2402.09353
  """
  return Adapter(
    rank, alpha / rank, tuple(targets), b_rate, base, True, dropout
  )


def _matrix(path: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
  """(input axes, output axes) of a parameter that may have an adapter."""
  axes = axes_of(path)
  fits = axes is not None and len(shape) == _lead(path) + sum(axes)
  return axes if fits else None


def axes_of(path: str) -> tuple[int, int] | None:
  """(input axes, output axes) of a matrix, by its path."""
  holder, _, name = path.rpartition('/')
  return MATRICES.get(name) if holder == 'layers' else TOP.get(path)


def _lead(path: str) -> int:
  """Axes before those of a matrix: that of the layers."""
  return int(path.startswith('layers/'))


def shapes_of(params: PyTree) -> dict[str, tuple[int, ...]]:
  """{path: shape} of a tree of arrays without adapters."""
  flat = traverse_util.flatten_dict(params, sep='/')
  return {path: tuple(x.shape) for path, x in flat.items()}


def shapes_in(model: ModelConfig) -> dict[str, tuple[int, ...]]:
  """{path: shape} of a model's parameters."""
  return {k: p.shape for k, p in transformer.param_table(model).items()}


def _modules() -> dict[str, set[str]]:
  """{name of a module in the files: matrices that it holds}, by each suffix.

  GPT-2's 'c_proj' is two modules, here as in PEFT.
  """
  found: dict[str, set[str]] = {}
  for row in hf_table.TABLE:
    if axes_of(row.path) is None or not row.key.endswith('.weight'):
      continue
    module = row.key.rpartition('{}.')[2].removesuffix('.weight')
    parts = module.split('.')
    for start in range(len(parts)):
      found.setdefault('.'.join(parts[start:]), set()).add(row.path)
  return found


MODULES = _modules()


def _names_of(matrices: Iterable[str]) -> list[str]:
  """Last names of modules that hold some of these."""
  there = set(matrices)
  return [k for k, held in MODULES.items() if '.' not in k and held & there]


@dataclasses.dataclass(frozen=True)
class Adapter:
  """Which matrices get an adapter, and of what kind.

  scale      of A B, a number or traced
  magnitude  whether the length of each column is trained apart (DoRA)
  The others are those of this room's functions.
  """

  rank: int
  scale: Array | float
  targets: tuple[str, ...]
  b_rate: Array | float = 1.0
  base: str = ''
  magnitude: bool = False
  dropout: float = 0.0

  def paths(self, shapes: Shapes) -> dict[str, tuple[int, int]]:
    """{path: (input axes, output axes)} of the matrices with an adapter.

    shapes  {path: shape} of all parameters

    Raises:
      ValueError: a pattern that matches no matrix, with what it could match; a
        rank that is more than a matrix has; a matrix that cannot be stored so.
    """
    every = {path: _matrix(path, shape) for path, shape in shapes.items()}
    matrices = {path: axes for path, axes in every.items() if axes}
    linear = [path for path in matrices if path not in TOP]
    chosen = set()
    for pattern in self.targets:
      named = linear if pattern == ALL else MODULES.get(pattern, ())
      if UNEMBED in {pattern, *named} and UNEMBED not in shapes:
        raise ValueError(
          f'adapter.targets: "{pattern}" is no matrix of its own in this '
          'model, whose output is its table of embeddings; nearest valid: '
          '"embed_tokens", which is an adapter of both'
        )
      found = [x for x in every if x in named or re.fullmatch(pattern, x)]
      if not found:
        raise ValueError(
          f'adapter.targets: "{pattern}" matches no parameter. Matrices: '
          f'{", ".join(sorted(matrices))}.'
          + nearest(pattern, [*matrices, *_names_of(matrices), ALL])
        )
      wrong = sorted(path for path in found if path not in matrices)
      if wrong:
        raise ValueError(
          f'adapter.targets: "{pattern}" matches {", ".join(wrong)}, which '
          'cannot have an adapter. Those that can: '
          + ', '.join(sorted(matrices))
        )
      chosen.update(found)
    if not chosen:
      raise ValueError(
        'adapter.targets is empty: nothing would be trained. Matrices: '
        + ', '.join(sorted(matrices))
      )
    for path in sorted(chosen):
      self._check(path, shapes[path], matrices[path])
    self._check_output(chosen, tied=UNEMBED not in shapes)
    return {path: matrices[path] for path in sorted(chosen)}

  def _check_output(self, chosen: set[str], tied: bool) -> None:
    """Refuses what would not be what it says of an output matrix."""
    if tied and TABLE in chosen and self.magnitude:
      raise ValueError(
        f'adapter.name="dora" of {TABLE}: in this model it is the output '
        'matrix, too, and DoRA takes the lengths of its columns in the one and '
        'of its rows in the other; nearest valid: adapter.name="lora"'
      )
    output = TABLE if tied else UNEMBED
    if self.dropout and output in chosen:
      raise ValueError(
        f'adapter.dropout={self.dropout} with adapter.targets of {output}: '
        'what an output matrix reads is not dropped here; nearest valid: '
        'adapter.dropout=0.0'
      )

  def _check(
    self, path: str, shape: tuple[int, ...], axes: tuple[int, int]
  ) -> None:
    first = _lead(path) + axes[0]
    inside = math.prod(shape[_lead(path) : first])
    outside = math.prod(shape[first:])
    if self.rank > min(inside, outside):
      raise ValueError(
        f'adapter.rank={self.rank} is more than {path} has, a matrix of '
        f'{inside} x {outside}; nearest valid: {min(inside, outside)}'
      )
    stored = self.base == 'nf4' and path not in TOP
    if stored and NF4.block(shape[axes[0]]) < 2:
      raise ValueError(
        f'adapter.base="nf4" stores two numbers a byte, and {path} has an odd '
        f'axis of {shape[axes[0]]}; nearest valid: "int8"'
      )

  def count(self, shapes: Shapes) -> int:
    """Numbers of adapters beside the matrices of all these parameters."""
    total = 0
    for path, (inner, _) in self.paths(shapes).items():
      lead = _lead(path)
      layers, sizes = math.prod(shapes[path][:lead]), shapes[path][lead:]
      inside, outside = math.prod(sizes[:inner]), math.prod(sizes[inner:])
      one = self.rank * (inside + outside) + self.magnitude * outside
      total += layers * one
    return total

  def attach(self, params: PyTree, key: Array) -> PyTree:
    """Parameters with fresh adapters, which change nothing yet.

    params  a tree of arrays; layers are stacked
    key     A is drawn from it and from its own path; B is zero

    A is uniform within 1 / sqrt(inputs), as PEFT draws it. Of a table of
    embeddings A is zero and B normal, so that what a token learns is not the
    smaller the more others there are.
    """
    flat = traverse_util.flatten_dict(params, sep='/')
    for path, axes in self.paths(shapes_of(params)).items():
      own = jax.random.fold_in(key, zlib.crc32(f'adapter/{path}'.encode()))
      flat[path] = self._fresh(path, flat[path], axes, own)
    return traverse_util.unflatten_dict(flat, sep='/')

  def _fresh(
    self, path: str, weight: Array, axes: tuple[int, int], key: Array
  ) -> Adapted:
    cut, inner = _lead(path), axes[0]
    layers = weight.shape[:cut]
    inside = weight.shape[cut : cut + inner]
    outside = weight.shape[cut + inner :]
    dtype = jnp.promote_types(weight.dtype, jnp.float32)
    a_shape, b_shape = (*inside, self.rank), (self.rank, *outside)
    if path == TABLE:
      a = jnp.zeros((*layers, *a_shape), dtype)
      b = jax.random.normal(key, (*layers, *b_shape), dtype)
    else:
      bound = 1.0 / math.sqrt(math.prod(inside))
      a = jax.random.uniform(key, (*layers, *a_shape), dtype, -bound, bound)
      b = jnp.zeros((*layers, *b_shape), dtype)
    base: Any = weight
    if self.base and path not in TOP:
      store = {'int8': Int8.of, 'nf4': NF4.of}[self.base]
      base = jax.vmap(lambda w: store(w, inner))(weight)
    node = Adapted(
      base=base,
      a=a,
      b=b,
      scale=jnp.full(layers, self.scale, jnp.float32),
      axes=inner,
      dropout=0.0 if path in TOP else float(self.dropout),
    )
    if self.magnitude:
      norm = Adapted.column_norm
      node = node.replace(magnitude=(jax.vmap(norm) if cut else norm)(node))
    return node

  def rebuilt(self, saved: PyTree, dtype: str) -> PyTree:
    """A tree of `attach`, from nested dicts of all its arrays.

    dtype  of the matrices before they were stored in few bits
    """
    flat = traverse_util.flatten_dict(saved, sep='/')
    for path in [name[:-2] for name in flat if name.endswith('/a')]:
      axes = axes_of(path)
      assert axes is not None  # It was attached.
      inner = axes[0]
      take = lambda name, path=path: flat.pop(f'{path}/{name}', None)
      base: Any = None
      if path in TOP:
        base = take('base')
      elif self.base == 'int8':
        base = Int8(take('base/values'), take('base/scale'), dtype)
      elif self.base == 'nf4':
        codes, scale = take('base/codes'), take('base/scale')
        base = NF4(codes, scale, inner, dtype)
      else:
        base = take('base')
      names = ('a', 'b', 'scale', 'magnitude')
      parts = {name: take(name) for name in names}
      dropout = 0.0 if path in TOP else float(self.dropout)
      flat[path] = Adapted(base=base, axes=inner, dropout=dropout, **parts)
    return traverse_util.unflatten_dict(flat, sep='/')

  def specs(self, model: ModelConfig) -> dict[str, P]:
    """{path: PartitionSpec} of what `attach` makes of a model's parameters."""
    table = transformer.param_table(model)
    out: dict[str, P] = {}
    for path, (inner, _) in self.paths(shapes_in(model)).items():
      lead = _lead(path)
      outer = len(table[path].shape) - lead - inner
      spec = tuple(table[path].spec)
      spec += (None,) * (lead + inner + outer - len(spec))
      parts = specs(P(*spec), inner, outer, self.base == 'nf4')
      out |= {f'{path}/{field}': part for field, part in parts.items()}
    return out

  def told(self, model: ModelConfig) -> str:
    """'rank 16 on layers/query, layers/value (int8)'."""
    stored = f' ({self.base})' if self.base else ''
    paths = ', '.join(self.paths(shapes_in(model)))
    return f'rank {self.rank} on {paths}{stored}'
