"""What a run would else do without a word: said once, before its first step.

`notes` has a line for each; the commands print them to stderr, and `--dry_run`
beside the sizes. What cannot be split over the mesh at all is refused here.
"""

import math
import sys
from collections.abc import Iterable
from typing import Any

import jax

from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.run import auto, roles

__all__ = ['chosen', 'notes', 'positions', 'tell', 'unsplit_parameters']


def notes(run: Any) -> list[str]:
  """Lines that a user of a `build.Run` should read.

  Raises:
    ValueError: rows that the mesh cannot split, with the nearest sizes.
  """
  return [*_rows(run), *_parameters(run), *positions(run)]


def chosen(run: Any) -> list[str]:
  """'KEY VALUE: why' of what the config leaves to 'auto', sizes left out."""
  config, size = run.config, transformer.param_count(run.model)
  rate, why_rate = auto.learning_rate(
    config.optimizer.lr, config.paradigm, size, config.adapter.name
  )
  kind, why_kind = auto.dtype(config.model.dtype, size, jax.default_backend())
  lines = [
    ('optimizer.lr', f'{rate}', why_rate),
    ('model.dtype', kind, why_kind),
  ]
  if config.model.scan_layers == auto.AUTO:
    deep = f'{run.model.num_layers} layers'
    lines.append(('model.scan_layers', f'{run.model.scan_layers}', deep))
  return [f'{key:22} {value}: {why}' for key, value, why in lines if why]


def tell(lines: Iterable[str]) -> None:
  """Prints lines, such as `notes`, to stderr: equal ones once."""
  for line in dict.fromkeys(lines):
    print(f'note: {line}', file=sys.stderr)


def _multiples(of: int, near: int) -> str:
  below = near // of * of
  return ', '.join(str(x) for x in (below, below + of) if x)


def _rows(run: Any) -> list[str]:
  """Told where each device has all prompts; refused where it has all rows."""
  mesh = sharding.axis_sizes(run.config.mesh)
  parts, sizes = mesh['data'] * mesh['fsdp'], run.sizes
  over = f'data x fsdp = {parts} of the mesh {sharding.shown_as(mesh)}'
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


def positions(run: Any) -> list[str]:
  """Told where rows are longer than what a model was made for."""
  told, config = [], run.config
  for role, model in sorted(run.models.items()):
    path, tokens = roles.path_of(config, role), run.sizes.row_tokens
    if not 0 < model.max_length < tokens:
      continue
    if path:
      told.append(
        f'rows have up to {tokens} tokens, and the model of {path} ({role}) '
        f'was made for {model.max_length} positions: what comes later it has '
        'never seen. Set max_new_tokens or data.max_length to stay within'
      )
    elif role == 'policy':
      told.append(
        f'rows have up to {tokens} tokens, and an exported folder will say '
        f'that the model was made for {model.max_length} positions'
      )
  return told
