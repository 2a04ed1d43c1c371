"""How to call every public function of every room, on random ragged inputs.

A `Case` says what a function takes, what it promises and what it should equal:

  inputs = case.make(rng, rows, tokens)   {name: float64 or int NumPy array}
  outputs = case.call(inputs)             {'out': main output, more arrays}
  expected = case.twin(inputs, frozen)    the same in NumPy, one row at a time

`case.axes` names the axes of each input, one letter each: B rows, T tokens,
U tokens of a second answer, V vocabulary, G completions, S segments. With it a
test can pad, permute or spoil any input without knowing the function.

The cases live in `objective_cases_*.py`, one file per few rooms, and are found
by file name: a file with a list `CASES` is all that a new room needs.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import posttrain_jax.losses

# What a case may be, beside what its axes say.
TRAITS = {
  'label_last': 'the last of a group is no answer like the others',
  'whole_batch': "a row's output depends on the other rows of the batch",
  'sorted': 'entry i of the output is not about row i',
  'per_group': 'consecutive rows of one prompt are judged together',
  'needs_whole_rows': "a token's output depends on the rest of its row",
  'reward_shift_invariant': 'adding a constant to all rewards changes nothing',
  'reward_scale_invariant': 'nor does a positive factor, but for epsilon',
  'reward_scale_equivariant': 'the output grows with the rewards',
  'random': 'draws random numbers whose shape is that of the batch',
  'discontinuous': 'jumps where a threshold or a rank is crossed',
  'reads_logits': 'reads the whole vocabulary',
  'reads_tokens': 'reads token ids',
  'reads_width': 'depends on the number of columns',
  'float32_inside': 'computes in float32 whatever it is given',
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """One function of one room with one choice of hyperparameters.

  room, name  `posttrain_jax.<room>.<name>`
  variant     what sets this case apart from others of the same function
  make, call, twin, axes   see the module docstring. `twin` returns an array or
              a dict of arrays; one with fewer axes than the output is a sum
              over the missing ones. What a method detaches it reads from
              `frozen`, a copy of the inputs that finite differences leave alone
  out         axes of every output
  masks       {axis: name of the mask input} of the axes that have one
  gradient    inputs that carry a gradient
  detached    inputs that must not
  slope       gradient by hand: (inputs, cotangent of 'out') -> {name: array}
  rows        rows that `compare_with_twin` asks for
  traits      some of `TRAITS`
  """

  room: str
  name: str
  make: Callable
  call: Callable
  axes: dict[str, str]
  out: str
  variant: str = ''
  masks: dict[str, str] = dataclasses.field(
    default_factory=lambda: {'T': 'mask'}
  )
  gradient: tuple[str, ...] = ()
  detached: tuple[str, ...] = ()
  twin: Callable | None = None
  slope: Callable | None = None
  rows: int = 4
  traits: frozenset[str] = frozenset()

  def __post_init__(self):
    unknown = set(self.traits) - set(TRAITS)
    assert not unknown, f'{self.id}: unknown traits {sorted(unknown)}'
    named = set(self.gradient) | set(self.detached) | set(self.masks.values())
    missing = named - set(self.axes)
    assert not missing, f'{self.id}: no axes for {sorted(missing)}'

  @property
  def id(self) -> str:
    short = self.room.removeprefix('losses.')
    return f'{short}.{self.name}' + (
      f'[{self.variant}]' if self.variant else ''
    )

  def has(self, trait: str) -> bool:
    assert trait in TRAITS, trait
    return trait in self.traits


def ragged_mask(rng, rows: int, tokens: int, *, holes: bool = True):
  """[rows, tokens] float64: row 0 full, the last row (of several) empty.

  The others start and end anywhere, and have holes, but at least one token.
  """
  mask = np.zeros((rows, tokens))
  for b in range(rows):
    first = rng.integers(0, max(tokens // 3, 1))
    last = rng.integers(first, tokens) + 1
    mask[b, first:last] = 1.0
    if holes:
      mask[b] *= rng.random(tokens) < 0.75
    mask[b, first] = 1.0
  mask[0] = 1.0
  if rows > 1:
    mask[-1] = 0.0
  return mask


@functools.cache
def all_cases() -> tuple[Case, ...]:
  """Every case of every file `objective_cases_*.py` beside this one."""
  files = sorted(Path(__file__).parent.glob('objective_cases_*.py'))
  found = [
    case for file in files for case in importlib.import_module(file.stem).CASES
  ]
  ids = [case.id for case in found]
  twice = {i for i in ids if ids.count(i) > 1}
  assert not twice, f'cases with the same id: {sorted(twice)}'
  return tuple(found)


def first_cases() -> tuple[Case, ...]:
  """The first case of every function: its others differ in hyperparameters."""
  seen = {}
  for case in all_cases():
    seen.setdefault((case.room, case.name), case)
  return tuple(seen.values())


def public_names(room: str) -> list[str]:
  """Names in `__all__` and in the other lists of names (`LOGITS`, `TOKEN`)."""
  module = importlib.import_module(f'posttrain_jax.{room}')
  names = list(module.__all__)
  for key, value in vars(module).items():
    if key.isupper() and isinstance(value, list | tuple):
      names += [x for x in value if isinstance(x, str) and hasattr(module, x)]
  if room == 'losses.regularizers':
    names.append('l2_to_start')
  return list(dict.fromkeys(names))


def rooms() -> list[str]:
  """Modules of `posttrain_jax.losses` with an `__all__`, and three more."""
  found = [
    f'losses.{info.name}'
    for info in pkgutil.iter_modules(posttrain_jax.losses.__path__)
  ]
  has_names = lambda room: hasattr(
    importlib.import_module(f'posttrain_jax.{room}'), '__all__'
  )
  return [
    *filter(has_names, found), 'advantages', 'token_weights', 'rewards.arrays'
  ]  # fmt: skip


def uncovered() -> list[str]:
  """Public functions that no case calls, as 'room.name'."""
  covered = {(case.room, case.name) for case in all_cases()}
  return [
    f'{room}.{name}'
    for room in rooms()
    for name in public_names(room)
    if (room, name) not in covered
  ]


def to_jax(inputs: dict, dtype=None) -> dict:
  """The inputs as jax arrays, floating ones cast to `dtype`."""
  return {
    name: jnp.asarray(
      x, dtype if np.issubdtype(np.asarray(x).dtype, np.floating) else None
    )
    for name, x in inputs.items()
  }


# Our function against its twin


def _as_dict(x) -> dict:
  return x if isinstance(x, dict) else {'out': x}


def _summed(x, ndim: int):
  """`x` summed over its trailing axes until `ndim` are left."""
  return x.sum(tuple(range(ndim, x.ndim)))


@functools.cache
def _ours(case: Case, ndim: int):
  """Compiled: outputs, and the gradient of sum(out * cotangent)."""

  def weighted(moving, still, cotangent):
    outputs = case.call(still | moving)
    return (_summed(outputs['out'], ndim) * cotangent).sum(), outputs

  # Run a few times only: compiling quickly is worth more than fast code.
  options = {'xla_backend_optimization_level': 0}
  return jax.jit(jax.grad(weighted, has_aux=True), compiler_options=options)


def _numeric_gradient(case: Case, inputs: dict, cotangent) -> dict:
  """Central differences, extrapolated; short steps beside a kink.

  Where rows do not depend on each other all rows are moved at once.
  """
  by_row = not {'whole_batch', 'per_group', 'random'} & case.traits
  by_row &= case.out.startswith('B')

  def value(name, where, step):
    moved = inputs[name].copy()
    moved[where] += step
    out = _as_dict(case.twin(inputs | {name: moved}, inputs))['out']
    terms = np.asarray(out) * cotangent
    return terms.reshape(len(terms), -1).sum(1) if by_row else terms.sum()

  def slope(name, where, h):
    return (value(name, where, h) - value(name, where, -h)) / (2 * h)

  gradients = {}
  for name in case.gradient:
    x = inputs[name]
    gradients[name] = np.zeros(x.shape)
    for index in np.ndindex(x.shape[1:] if by_row else x.shape):
      where = (slice(None), *index) if by_row else index
      wide, narrow = (slope(name, where, h) for h in (2e-3, 1e-3))
      best = (4 * narrow - wide) / 3
      scale = 1e-4 * np.maximum(np.abs(narrow), 1.0)
      is_kink = np.abs(wide - narrow) > scale
      if np.any(is_kink):
        best = np.where(is_kink, slope(name, where, 1e-6), best)
      gradients[name][where] = best
  return gradients


def _difference(ours: dict, expected: dict) -> float:
  """Largest difference, in units of the largest expected number above 1."""
  worst = 0.0
  for name, number in expected.items():
    number = np.asarray(number)
    mine = _summed(np.asarray(ours[name]), number.ndim)
    assert mine.shape == number.shape, (name, mine.shape, number.shape)
    assert np.isfinite(number).all(), f'the twin of {name} is not finite'
    scale = max(np.abs(number).max(initial=0.0), 1.0)
    gap = np.abs(mine - number).max(initial=0.0) / scale
    worst = max(worst, float(np.nan_to_num(gap, nan=np.inf)))
  return worst


def compare_with_twin(case: Case, seed: int) -> dict:
  """Our function in float64 against its twin on one random batch.

  Returns {'value': .., 'gradient': .., 'gradient_by': ..}: largest differences
  relative to the largest number (or 1), the second None where nothing carries
  a gradient. `gradient_by` says what it was compared with: 'hand',
  'finite differences', 'zero' (all inputs are detached) or 'none'.
  """
  rng = np.random.default_rng([seed, *map(ord, case.id)])
  inputs = case.make(rng, case.rows, 5)
  expected = _as_dict(case.twin(inputs, inputs))
  shape = np.shape(expected['out'])
  cotangent = np.random.default_rng(seed).uniform(0.5, 1.5, shape)
  differentiated = (*case.gradient, *case.detached)
  with jax.enable_x64(True):
    arrays = to_jax(inputs)
    moving = {name: arrays.pop(name) for name in differentiated}
    gradient, outputs = _ours(case, len(shape))(moving, arrays, cotangent)
    gradient, outputs = jax.tree.map(np.asarray, (gradient, outputs))
  by, slopes = 'none', {}
  if case.gradient and case.slope:
    by, slopes = 'hand', case.slope(inputs, cotangent)
  elif case.gradient:
    by, slopes = (
      'finite differences',
      _numeric_gradient(case, inputs, cotangent),
    )
  elif case.detached:
    by = 'zero'
  slopes |= {name: np.zeros(inputs[name].shape) for name in case.detached}
  assert set(slopes) == set(differentiated), f'{case.id}: slope misses inputs'
  return {
    'value': _difference(outputs, expected),
    'gradient': _difference(gradient, slopes) if slopes else None,
    'gradient_by': by,
  }
