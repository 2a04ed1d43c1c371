"""What 'auto' stands for in a config's sizes, rates and precision, and why.

Measured on two CPU cores (experiments/benchmarks, `grpo_auto`): XLA:CPU gives
memory back after every step and faults it in again, so that an update is faster
in micro-batches of one to two thousand tokens; a rollout whose answers differ
in length is faster in few slots; and an update on the real tokens alone is
faster than one on padded rectangles. Short or small runs are not worth the
programs that this takes to compile. Elsewhere nothing was measured, and all
rows are taken at a time.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from posttrain_jax.models import attention as attentions
from posttrain_jax.models import remat as names
from posttrain_jax.models.config import ModelConfig

__all__ = [
  'AUTO',
  'Choice',
  'Work',
  'attention',
  'choices',
  'dtype',
  'learning_rate',
  'remat',
  'scan_decode',
  'scan_layers',
  'warmup',
]

AUTO = 'auto'

# The most tokens of a micro-batch on a CPU.
MICRO_TOKENS = 1850
# Answers that may be longer than this differ in length: worth slots.
LONG_ANSWER = 32
SLOTS = 32
BUCKETS = 4
# Tokens of a step, and of a run, from which on it is worth compiling more.
STEP_TOKENS = 4096
RUN_TOKENS = 400_000
# Layers from which on one is compiled for all.
DEEP = 8
# Parameters up to which a model is small: it then learns at the rates that the
# studies here were run with, in float32.
SMALL = 30_000_000
# Learning rates of small models, by paradigm.
SMALL_RATES = {'sft': 2e-3, 'preference': 2e-4, 'rl': 3e-4, 'distill': 5e-4}
# Of larger ones: what TRL 1.x takes for SFT (2e-5), DPO and GRPO (1e-6), and
# for distillation (GKD) the rate of SFT, whose targets it shares.
LARGE_RATES = {'sft': 2e-5, 'preference': 1e-6, 'rl': 1e-6, 'distill': 2e-5}
# Updates in which the rate rises, by paradigm, and of a run that has fewer.
WARMUPS = {'sft': 20, 'preference': 10, 'rl': 0, 'distill': 10}
WARMUP_SHARE = 0.1
# Adapters of larger ones learn at this many times that, as TRL's guide to PEFT
# advises.
ADAPTER_RATE = 10


@dataclasses.dataclass(frozen=True)
class Work:
  """What a choice depends on.

  backend         of jax: 'cpu', 'gpu', 'tpu'
  devices         of the mesh
  rollouts        whether the step samples groups (RL)
  share_prompts   whether the update may read a group's prompt once
  rows, minibatch_rows, group_size, row_tokens, max_new_tokens, num_steps
                  as in `sizes.Sizes`
  """

  backend: str
  devices: int
  rollouts: bool
  share_prompts: bool
  rows: int
  minibatch_rows: int
  group_size: int
  row_tokens: int
  max_new_tokens: int
  num_steps: int


@dataclasses.dataclass(frozen=True)
class Choice:
  """Sizes of a run; `why` is a sentence for whoever asks."""

  slots: int
  token_buckets: int
  cache_stages: int
  microbatch_rows: int
  why: str


def _micro(work: Work) -> int:
  """The largest divisor of a minibatch, in whole groups, within MICRO_TOKENS;
  where no group is, one group."""
  sizes = [
    size
    for size in range(work.group_size, work.minibatch_rows + 1, work.group_size)
    if work.minibatch_rows % size == 0
  ]
  fit = [size for size in sizes if size * work.row_tokens <= MICRO_TOKENS]
  return max(fit, default=sizes[0])


def _options(work: Work) -> tuple[dict[str, tuple[int, ...]], str]:
  """({size: its values, best first}, why)."""
  plain = {
    'slots': (0,),
    'cache_stages': (1,),
    'microbatch_rows': (work.minibatch_rows,),
    'token_buckets': (1,),
  }
  if work.backend != 'cpu' or work.devices > 1:
    return plain, f'{work.devices} x {work.backend}'
  tokens = work.rows * work.row_tokens
  if tokens < STEP_TOKENS or tokens * work.num_steps < RUN_TOKENS:
    return plain, 'a small run, which compiles fastest so'
  if work.minibatch_rows % work.group_size:
    return plain, 'a CPU, minibatches that cut groups'
  long = work.rollouts and work.max_new_tokens > LONG_ANSWER
  best = dict(plain, microbatch_rows=(_micro(work), work.minibatch_rows))
  if long and work.rows >= 2 * SLOTS:
    best['slots'] = (SLOTS, 0)
  if long and work.share_prompts:
    best['token_buckets'] = (BUCKETS, 1)
  return best, 'a CPU'


def _said(work: Work, taken: dict[str, int], fixed: Mapping[str, int]) -> str:
  """What was taken where it was left to 'auto', in words."""
  parts = []
  if 'microbatch_rows' not in fixed:
    split = taken['microbatch_rows'] < work.minibatch_rows
    parts.append(
      'micro-batches that its cache holds' if split
      else 'all rows of an update at a time'
    )  # fmt: skip
  if 'slots' not in fixed and taken['slots']:
    parts.append('answers of many lengths in slots')
  if 'token_buckets' not in fixed and taken['token_buckets'] > 1:
    parts.append('updates on real tokens')
  return ', '.join(parts)


def choices(
  work: Work, fixed: Mapping[str, int] = MappingProxyType({})
) -> list[Choice]:
  """What 'auto' may stand for beside the sizes that are `fixed`, best first.

  A method that compares a whole minibatch, or whose groups micro-batches would
  cut, takes the first that its trainer allows.
  """
  options, where = _options(work)
  options |= {key: (value,) for key, value in fixed.items()}
  out = []
  for values in itertools.product(*options.values()):
    taken = dict(zip(options, values))
    said = _said(work, taken, fixed)
    out.append(Choice(**taken, why=f'{where}: {said}' if said else where))
  return out


def scan_layers(value: Any, num_layers: int) -> bool:
  """`config.model.scan_layers` as a bool: deep models compile one layer."""
  return num_layers > DEEP if value == AUTO else bool(value)


def scan_decode(value: Any, num_layers: int, backend: str) -> bool:
  """`config.model.scan_decode` as a bool.

  A loop over layers compiles as fast whatever their number. XLA:CPU copies a
  layer's weights and cache out of their stacks at every token; a TPU's products
  read them in place. On GPUs nothing was measured.
  """
  if value == AUTO:
    return num_layers > DEEP and backend == 'tpu'
  return bool(value)


def learning_rate(
  value: Any, paradigm: str, parameters: int, adapter: str = 'none'
) -> tuple[Any, str]:
  """(`config.optimizer.lr` as a number, why); '' where nothing was chosen.

  parameters  of the model
  adapter     `config.adapter.name`

  Raises:
    ValueError: none is known for the kind of trainer.
  """
  if not (isinstance(value, str) and value == AUTO):
    return value, ''
  small = parameters <= SMALL
  rate = (SMALL_RATES if small else LARGE_RATES).get(paradigm)
  if rate is None:
    raise ValueError(
      f'optimizer.lr=auto: no rate is usual for paradigm "{paradigm}"; give a '
      'number'
    )
  size = f'{parameters / 1e6:,.1f}M parameters'
  told = 'as in the studies here' if small else "TRL's default for larger ones"
  if adapter != 'none' and not small:
    rate, told = rate * ADAPTER_RATE, f'{ADAPTER_RATE} times {told}'
  return rate, f'{paradigm} of {size}, {told}'


def warmup(value: Any, paradigm: str, num_updates: int) -> tuple[Any, str]:
  """(`config.optimizer.warmup_updates` as a number, what to tell); '' where
  nothing gave way.

  num_updates  of the run
  """
  if not (isinstance(value, str) and value == AUTO):
    return value, ''
  usual = WARMUPS.get(paradigm, 0)
  if usual <= num_updates:
    return usual, ''
  taken = math.ceil(WARMUP_SHARE * num_updates)
  return taken, (
    f'optimizer.warmup_updates={usual}, the default, is more than the '
    f'{num_updates:,} updates of this run: {taken} is taken, a tenth'
  )


def dtype(value: str, parameters: int, backend: str) -> tuple[str, str]:
  """(`config.model.dtype` as a type's name, why); '' where nothing was chosen.

  Weights stay in `param_dtype`, float32 by default, whatever is computed in.
  """
  if value != AUTO:
    return value, ''
  if backend == 'cpu':
    return 'float32', 'a CPU, which is no faster in bfloat16'
  if parameters <= SMALL:
    return 'float32', f'a small model on {backend}'
  return 'bfloat16', f'a large model on {backend}'


# The implementation of attention without scores in memory, by backend.
KERNELS = {'tpu': 'splash', 'gpu': 'cudnn'}


def attention(value: str, model: ModelConfig, backend: str) -> tuple[str, str]:
  """(`config.model.attention` as a name, why); '' where nothing was chosen."""
  if value != AUTO:
    return value, ''
  name = KERNELS.get(backend)
  if name is None:
    return 'plain', f'a {backend.upper()}, for which there is no kernel'
  missing = attentions.lacks(name, model)
  if not missing:
    return name, f'a {backend.upper()}'
  chunk = model.attention_chunk
  memory = (
    f'scores of {chunk} queries at a time are in memory' if chunk
    else 'all scores are in memory, which attention_chunk=512 bounds'
  )  # fmt: skip
  return 'plain', f'{name} has no {missing}; {memory}'


def remat(value: Any, parameters: int) -> str:
  """`config.model.remat` as a name of `models.remat`: large models compute
  layers again in the backward pass, as TRL's do by default, in place of keeping
  them."""
  if value != AUTO:
    return names.word(value)
  return 'full' if parameters > SMALL else 'none'
