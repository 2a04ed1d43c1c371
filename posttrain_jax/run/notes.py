"""What a run would else do without a word: said once, before its first step.

`notes` has a line for each; the commands print them to stderr, and `--dry_run`
beside the sizes. What cannot be split over the mesh at all is refused here.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from jax.sharding import PartitionSpec

from posttrain_jax.core import hosts, sharding, target
from posttrain_jax.models import attention, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import layout
from posttrain_jax.run import auto, file_notes, folder_notes, roles, unread
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers import optim

__all__ = [
  'chosen', 'notes', 'positions', 'tell', 'thin_parts', 'unsplit_parameters',
]  # fmt: skip

# Columns of a weight's part that XLA was seen to send whole on a TPU (4 and 16;
# experiments/plan), and those that it scattered (64 and more).
THIN, WIDE = 32, 64
LARGE_RATE = 0.1  # an update of Adam or Lion is of that size


def notes(run: Any) -> list[str]:
  """Lines that a user of a `build.Run` should read.

  Raises:
    ValueError: rows that the mesh cannot split, with the nearest sizes.
  """
  return [
    *_rows(run),
    *_parameters(run),
    *_parts(run),
    *_activations(run),
    *_attention(run),
    *positions(run),
    *file_notes.records(run),
    *folder_notes.dated(run),
    *folder_notes.turns(run),
    *folder_notes.weights(run),
    *_warmup(run),
    *_still(run),
    *_unjudged(run),
    *unread.notes(run),
  ]


def chosen(run: Any) -> list[str]:
  """'KEY VALUE: why' of what the config leaves to 'auto', sizes left out."""
  config, size = run.config, transformer.param_count(run.model)
  rate, why_rate = roles.rate_of(config, run.model)
  kind, why_kind = auto.dtype(config.model.dtype, size, target.backend())
  lines = [
    ('optimizer.lr', f'{rate}', why_rate),
    ('model.dtype', kind, why_kind),
  ]
  _, why = auto.attention(config.model.attention, run.model, target.backend())
  lines.append(('model.attention', run.model.attention, why))
  if config.model.remat == auto.AUTO:
    lines.append(('model.remat', f'{run.model.remat}', f'{size / 1e6:,.1f}M'))
  deep = f'{run.model.num_layers} layers'
  if config.model.scan_layers == auto.AUTO:
    lines.append(('model.scan_layers', f'{run.model.scan_layers}', deep))
  if config.model.scan_decode == auto.AUTO and run.model.scan_decode:
    lines.append(('model.scan_decode', 'True', f'{deep}, on TPU'))
  mesh = sharding.axis_sizes(config.mesh)
  if config.model.decode_weights == auto.AUTO and mesh['fsdp'] > 1:
    how = layout.decode_weights(run.model, mesh)
    there = layout.gathered_bytes(run.model, mesh) / 2**30
    told = f'{there:,.2f} GiB on a device, were they gathered over fsdp'
    lines.append(('model.decode_weights', how, told))
  return [f'{key:22} {value}: {why}' for key, value, why in lines if why]


def tell(lines: Iterable[str]) -> None:
  """Prints lines, such as `notes`, to stderr, on one process: equal ones
  once."""
  for line in dict.fromkeys(lines) if hosts.first() else ():
    print(f'note: {line}', file=sys.stderr)


def _parts(run: Any) -> list[str]:
  """Told where a TPU's compiler sends whole weights in place of parts."""
  if target.backend() != 'tpu':
    return []
  mesh = sharding.axis_sizes(run.config.mesh)
  told = ((r, thin_parts(m, mesh)) for r, m in sorted(run.models.items()))
  return [f'weights of {role}: {line}' for role, line in told if line]


def thin_parts(model: ModelConfig, mesh: Mapping[str, int]) -> str:
  """What to do where a mesh {axis: size} splits a model's columns so far that a
  part is thinner than a tile of a TPU; '': it does not."""
  shards = math.prod(mesh[axis] for axis in sharding.SHARDS)
  columns, times = model.width // shards, 1
  if shards == 1 or model.width % shards or columns >= THIN:
    return ''
  while columns * times < WIDE and mesh['fsdp'] % (2 * times) == 0:
    times *= 2
  line = (
    f'parts of {columns} of {model.width:,} columns are thinner than a tile of '
    'a TPU: its compiler may send them whole, as a sum over all devices'
  )
  if times == 1:
    return line
  near = {'data': mesh['data'] * times, 'fsdp': mesh['fsdp'] // times}
  better = ', '.join(f'mesh.{axis}={size}' for axis, size in near.items())
  return f'{line}; copies of wider parts: {better}'


def _multiples(of: int, near: int) -> str:
  below = near // of * of
  return ', '.join(str(x) for x in (below, below + of) if x)


def _rows(run: Any) -> list[str]:
  """Told where each device has all prompts; refused where it has all rows."""
  mesh = sharding.axis_sizes(run.config.mesh)
  parts, sizes = sharding.row_parts(mesh), run.sizes
  axes = [a for a in sharding.LOGICAL['rows'] if a != 'expert' or mesh[a] > 1]
  over = f'{" x ".join(axes)} = {parts} of the mesh {sharding.shown_as(mesh)}'
  per_prompt = parts // math.gcd(parts, sizes.rows // sizes.prompts_per_step)
  if sizes.rows % parts:
    raise ValueError(
      f'prompts_per_step={sizes.prompts_per_step}: the {sizes.rows} rows of a '
      f'step cannot be split over {over}; nearest valid: '
      + _multiples(per_prompt, sizes.prompts_per_step)
    )
  whole = sizes.rows
  for key in ('minibatch_rows', 'microbatch_rows'):
    size = getattr(sizes, key)
    if size % parts:
      valid = [d for d in range(parts, whole + 1, parts) if whole % d == 0]
      near = sorted(valid, key=lambda d, at=size: abs(d - at))[:3]
      raise ValueError(
        f'{key}={size} cannot be split over {over}; nearest valid: '
        + ', '.join(str(d) for d in sorted(near))
      )
    whole = size
  if sizes.prompts_per_step % parts:
    return [
      f'prompts_per_step={sizes.prompts_per_step} is not split over {over}: '
      'what is made or read for each problem lies whole on every device; '
      f'nearest that is: {_multiples(parts, sizes.prompts_per_step)}'
    ]
  return []


def _attention(run: Any) -> list[str]:
  """Told where attention on a GPU or TPU is not what its device is good at.

  Raises:
    ValueError: an implementation that the device, or the model, has not.
  """
  backend, told = target.backend(), []
  asked, mesh = run.config.model.attention, run.config.mesh
  for role, model in sorted(run.models.items()):
    name = model.attention
    if name == 'plain':
      _, why = auto.attention(auto.AUTO, model, backend)
      if asked == auto.AUTO and backend in auto.KERNELS:
        told.append(f'attention of {role} is the plain form: {why}')
      continue
    missing = attention.lacks(name, model)
    if name == 'ring':  # of any device
      if sharding.axis_sizes(mesh)['sequence'] == 1:
        missing = 'mesh.sequence=1, a ring of one device'
    elif auto.KERNELS.get(backend) != name:
      missing = f'here is a {backend.upper()}'
    if missing:
      raise ValueError(
        f'model.attention={name}: {missing}; nearest valid: '
        f'{auto.attention(auto.AUTO, model, backend)[0]}'
      )
  return told


def _parameters(run: Any) -> list[str]:
  """A line for each model with parameters that stay whole."""
  mesh, told = sharding.axis_sizes(run.config.mesh), {}
  for role, model in sorted(run.models.items()):
    whole = unsplit_parameters(model, mesh)
    if whole:
      told.setdefault(whole, []).append(role)
  return [
    f'parameters of {", ".join(of)} that stay whole on every device, as the '
    f'mesh does not divide them: {", ".join(whole)}'
    for whole, of in told.items()
  ]


def _activations(run: Any) -> list[str]:
  """A line for each model whose activations stay whole, and for an axis that
  is for experts."""
  mesh, told, lines = sharding.axis_sizes(run.config.mesh), {}, []
  for role, model in sorted(run.models.items()):
    whole = unsplit_activations(model, mesh, _lengths(run))
    if whole:
      told.setdefault(whole, []).append(role)
  lines = [
    f'activations of {", ".join(of)} that every device along an axis computes '
    f'whole, as the mesh does not divide them: {", ".join(whole)}'
    for whole, of in told.items()
  ]
  if mesh['expert'] > 1 and not any(m.num_experts for m in run.models.values()):
    lines.append(
      f'mesh.expert={mesh["expert"]}: no model has experts; rows and weights '
      'are split over it, as over fsdp'
    )
  return lines


def _lengths(run: Any) -> tuple[int, ...]:
  """Columns of the arrays that models read."""
  sizes = run.sizes
  if run.config.get('share_prompts', False):
    return sizes.prompt_length, sizes.max_new_tokens
  return (sizes.row_tokens,)


def unsplit_activations(
  model: ModelConfig, mesh: dict[str, int], lengths: tuple[int, ...]
) -> tuple[str, ...]:
  """'heads (tensor=2 over 3)' for each dimension of activations that the mesh
  {axis: size} leaves whole.

  lengths  columns of the arrays that the model reads
  """
  sizes = [
    ('heads', model.num_kv_heads),
    ('vocab', model.vocab_size),
    *(('length', length) for length in lengths),
  ]
  if model.num_experts == 0 or model.dense_layers:
    sizes.append(('mlp', model.mlp_dim))
  found = []
  for name, count in sizes:
    spec = PartitionSpec(sharding.LOGICAL[name])
    for whole in sharding.unsplit(spec, (count,), mesh):
      found.append(f'{name} ({whole})')
  return tuple(dict.fromkeys(found))


def unsplit_parameters(
  model: ModelConfig, mesh: dict[str, int]
) -> tuple[str, ...]:
  """'layers/key (tensor=2 over 3)' for each parameter that the mesh
  {axis: size} leaves whole in a dimension that it is meant to split."""
  found = []
  for path, param in transformer.param_table(model).items():
    whole = sharding.unsplit(param.spec, param.shape, mesh)
    if whole:
      found.append(f'{path} ({", ".join(whole)})')
  return tuple(found)


def _unjudged(run: Any) -> list[str]:
  """Told where an evaluation has fewer rewards than training."""
  judge = getattr(getattr(run, 'task', None), 'judge', None)
  if judge is None or not run.evaluators:
    return []
  models = [e.label for e in judge.entries if e.kind == 'model']
  return [
    f'eval/reward leaves out the reward model "{label}": an evaluation has the '
    'policy alone'
    for label in models
  ]


_LONG_ROPE = (
  ', or take the longer factors of its RoPE by --config.model.long_rope=True, '
  'for all rows'
)


def _long_rope(model: ModelConfig, tokens: int) -> bool:
  """Whether rows of that length are what long_rope is for."""
  scaling = model.rope_scaling
  kind = '' if scaling is None else scaling.kind
  return kind == 'longrope' and tokens <= model.max_length


def _length_keys(config: Any) -> str:
  """The keys of `config` that say how long rows are."""
  there = config_lib.keys(config)
  names = ('max_new_tokens', 'data.max_prompt_length', 'data.max_length')
  return ' or '.join(name for name in names if name in there)


def positions(run: Any) -> list[str]:
  """Told where rows are longer than what a model was made for.

  Raises:
    ValueError: so long that nothing exact is known (`position_limit`).
  """
  told, config = [], run.config
  for role, model in sorted(run.models.items()):
    path, tokens = roles.path_of(config, role), run.sizes.row_tokens
    if 0 < model.position_limit < tokens:
      raise ValueError(
        f'rows have up to {tokens} tokens, and the model of {path or role} has '
        f'no more than {model.position_limit} positions: set '
        f'{_length_keys(config)} to stay within'
        + (_LONG_ROPE if _long_rope(model, tokens) else '')
      )
    if not 0 < model.max_length < tokens:
      continue
    if path:
      told.append(
        f'rows have up to {tokens} tokens, and the model of {path} ({role}) '
        f'was made for {model.max_length} positions: what comes later it has '
        f'never seen. Set {_length_keys(config)} to stay within'
      )
    elif role == 'policy':
      told.append(
        f'rows have up to {tokens} tokens, and an exported folder will say '
        f'that the model was made for {model.max_length} positions'
      )
  return told


def _still(run: Any) -> list[str]:
  """Told where a rate is one at which nothing is learnt."""
  rate, name = run.config.optimizer.lr, run.config.optimizer.name
  if not isinstance(rate, int | float):
    return []
  if rate == 0:
    return ['optimizer.lr=0: no parameter moves']
  if rate >= LARGE_RATE and name != 'sgd':
    return [
      f'optimizer.lr={rate:g}: {name} moves every parameter by about that in '
      'an update, and most parameters are below 0.1 themselves; rates in use '
      'lie between 1e-7 and 1e-2'
    ]
  return []


def _warmup(run: Any) -> list[str]:
  """Told where the rate rises for most of a run."""
  if run.warmup:
    return [run.warmup]
  given, updates = run.config.optimizer, run.sizes.num_updates
  rising = optim.warmup_of(given, updates)
  if 2 * rising <= updates or 0 < given.warmup_ratio <= 0.5:
    return []
  key = 'warmup_ratio' if given.warmup_ratio > 0 else 'warmup_updates'
  return [
    f'optimizer.{key}={given[key]:g}: the learning rate rises for {rising:,} '
    f'of the {updates:,} updates of this run; optimizer.warmup_ratio=0.1 is a '
    'tenth of any'
  ]
