"""The compiled programs of a run, and what each takes on a chip.

Nothing is allocated: states and batches are shapes with shardings, and XLA
compiles for devices that are elsewhere.
"""

import contextlib
import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from posttrain_jax.core import sharding
from posttrain_jax.core.sharding.shapes import row_shapes
from posttrain_jax.core.types import PyTree, TrainState
from posttrain_jax.run import loop
from posttrain_jax.run.build import Run
from posttrain_jax.run.plan.chips import GIB
from posttrain_jax.run.plan.flops import Counted, count

__all__ = [
  'Compiled',
  'Exhausted',
  'brief',
  'compiled',
  'local_bytes',
  'traced',
  'uncached',
]


@dataclasses.dataclass(frozen=True)
class Exhausted:
  """Why a program was refused: XLA's own words, in bytes of one chip.

  used, limit  what it would need, and what there is
  largest      its largest arrays, in words; (): they are not said
  apart        whether `used` leaves out what the program is given: XLA gives up
               early where temporaries alone are too many
  """

  used: int
  limit: int
  largest: tuple[str, ...] = ()
  apart: bool = False


@dataclasses.dataclass(frozen=True)
class Compiled:
  """One program of a step, as XLA compiled it for one chip.

  name       'step', or of host RL 'rollout', 'scores', 'learn'
  flops      over all chips (`flops.count`)
  text       of the optimised program; '' where it was refused
  arguments, outputs, aliased, temporaries, code
             bytes; outputs that are aliased take the place of arguments
  resident   bytes of the state that are there and not among its arguments
  cost       FLOPs of a chip by XLA's count, which takes loops once; 0: unknown
  exhausted  why it was refused, or None
  """

  name: str
  flops: Counted
  text: str = ''
  arguments: int = 0
  outputs: int = 0
  aliased: int = 0
  temporaries: int = 0
  code: int = 0
  resident: int = 0
  cost: float = 0.0
  exhausted: Exhausted | None = None

  @property
  def total(self) -> int:
    """Bytes of a chip while it runs."""
    if self.exhausted is not None:
      return self.exhausted.used + self.resident
    own = self.arguments + self.outputs - self.aliased
    return own + self.temporaries + self.code + self.resident


def local_bytes(tree: PyTree) -> int:
  """Bytes of one chip of shapes with shardings; what lies in the host's memory
  takes none."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.shape
    if leaf.sharding is not None:
      if 'host' in (leaf.sharding.memory_kind or ''):
        continue
      shape = leaf.sharding.shard_shape(shape)
    total += math.prod(shape) * _itemsize(leaf.dtype)
  return total


def _itemsize(dtype: Any) -> int:
  if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
    return 8
  return np.dtype(dtype).itemsize


def traced(run: Run, state: TrainState) -> dict[str, Any]:
  """{name: jax.stages.Traced} of the programs of a step, in their order.

  RL in one program has its rollout beside it, which the step contains: what
  decoding takes can then be told apart.

  state  shapes with shardings, under their mesh without its devices
  """
  driver = loop.make_driver(run, run.config)
  parts = driver.traced(state)
  if run.generate is not None and 'rollout' not in parts:
    sizes = run.sizes
    prompts = jax.ShapeDtypeStruct(
      (sizes.prompts_per_step, sizes.prompt_length), np.int32
    )
    number = jax.ShapeDtypeStruct(prompts.shape[:1], np.uint32)
    mesh = state.step.sharding.mesh
    given = row_shapes((prompts, prompts, number), mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    part = lambda *given: sharding.rows(run.generate(*given))
    rollout = jax.jit(part).trace(state.params, *given, key)
    parts = {'rollout': rollout, **parts}
  return parts


Known = dict[tuple, 'Compiled']  # what one machine's were, by their texts


def compiled(
  name: str,
  program: Any,
  state: TrainState,
  turns: float,
  known: Known | None = None,
  early: Callable[[], Any] | None = None,
) -> 'Compiled':
  """A `Compiled` of a traced program.

  state  that the run holds, whether the program reads it or not
  turns  tokens that a slot decodes, where loops do not say (`flops.count`)
  known  programs that were compiled before: one of them is not compiled again,
         as a rollout where other settings change the update alone. This one is
         put there too
  early  compiles it in another process up to what a plan reads
         (`early.compiled`); None: here, and to its end

  Raises:
    jax.errors.JaxRuntimeError: XLA refuses it for another reason than memory.
  """
  lowered = program.lower()
  digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()
  key = name, local_bytes(state), turns, digest
  known = {} if known is None else known
  if key not in known:
    flops = count(program.jaxpr, turns)
    make = _compiled if early is None else _settled
    known[key] = make(name, flops, state, lowered if early is None else early())
  return known[key]


def _refused(
  name: str, flops: Counted, state: TrainState, error: str
) -> 'Compiled | None':
  """A program that XLA refused for its memory; None: it was for something
  else."""
  found = exhausted(error)
  if found is None:
    return None
  apart = local_bytes(state) if found.apart else _beside(name, state)
  return Compiled(name, flops, resident=apart, exhausted=found)


def _beside(name: str, state: TrainState) -> int:
  """Bytes of the state that a program is not given: a rollout is given the
  parameters alone. 0: not known by its name."""
  if name != 'rollout':
    return 0
  return local_bytes(state) - local_bytes(state.params)


def _compiled(
  name: str, flops: Counted, state: TrainState, lowered: Any
) -> 'Compiled':
  try:
    with uncached():
      done = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    refused = _refused(name, flops, state, str(error))
    if refused is None:
      raise
    return refused
  memory = done.memory_analysis()
  given = memory.argument_size_in_bytes
  cost = done.cost_analysis() or {}
  return Compiled(
    name,
    flops,
    text=done.as_text(),
    arguments=given,
    outputs=memory.output_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    resident=_beside(name, state) or max(local_bytes(state) - given, 0),
    cost=float(cost.get('flops', 0.0)),
  )


def _settled(
  name: str, flops: Counted, state: TrainState, found: Any
) -> 'Compiled':
  """Of what `early.compiled` gives."""
  if isinstance(found, dict):
    refused = _refused(name, flops, state, found['error'])
    if refused is None:
      raise RuntimeError(f'XLA refuses "{name}": {found["error"]}')
    return refused
  text, sizes = found
  given = sizes.arguments
  return Compiled(
    name,
    flops,
    text=text,
    arguments=given,
    outputs=sizes.outputs,
    aliased=sizes.aliased,
    temporaries=sizes.temporaries,
    resident=_beside(name, state) or max(local_bytes(state) - given, 0),
  )


@contextlib.contextmanager
def uncached() -> Iterator[None]:
  """Programs of absent chips are not kept: jax writes them into its compilation
  cache, and cannot read them from there."""
  was = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()  # it looks at that once
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', was)
    compilation_cache.reset_cache()


_UNITS = {'': 1, 'B': 1, 'K': 2**10, 'M': 2**20, 'G': GIB, 'T': 2**40}
_SIZE = r'([\d.]+)([BKMGT]?)'
_USED = re.compile(rf'Used {_SIZE}i?B? of {_SIZE}i?B? hbm')
_EARLY = re.compile(
  rf'HLO temporaries \({_SIZE}\) exceeds? available HBM \({_SIZE}\)'
)
_ENTRY = re.compile(
  rf'^\s*\d+\. Size: {_SIZE}(?P<rest>.*?)(?=^\s*=+|\Z)', re.M | re.S
)


def _bytes(number: str, unit: str) -> int:
  return round(float(number) * _UNITS[unit])


def exhausted(message: str) -> Exhausted | None:
  """What XLA's error says of memory; None: it is another error.

  It reads 'Ran out of memory in memory space hbm. Used 22.30G of 15.75G hbm.',
  and lists the largest allocations with their shapes and operations; or 'the
  total memory required for HLO temporaries (20.73G) exceeds available HBM
  (15.75G)'.
  """
  early, found = _EARLY.search(message), _USED.search(message)
  if early is not None:
    used, limit = _bytes(*early.groups()[:2]), _bytes(*early.groups()[2:])
    return Exhausted(used, limit, apart=True)
  if found is None:
    return None
  largest = []
  for entry in _ENTRY.finditer(message):
    shape = re.search(r'Shape: (\S+?)(?:\{|\s|$)', entry['rest'])
    where = re.search(r'op_name="([^"]*)"', entry['rest'])
    told = f'{entry[1]}{entry[2]}'
    if shape:
      told += f' {shape[1]}'
    if where:
      told += f' {brief(where[1])}'
    largest.append(told)
  return Exhausted(
    _bytes(*found.groups()[:2]), _bytes(*found.groups()[2:]), tuple(largest[:3])
  )


def brief(name: str) -> str:
  """The last words of an operation's name, which say what it is."""
  words = [x for x in name.split('/') if not x.startswith(('jit', 'pjit'))]
  return '/'.join(words[-4:])
