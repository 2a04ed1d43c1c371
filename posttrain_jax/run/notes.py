"""What a run would else do without a word: said once, before its first step.

`notes` has a line for each; the commands print them to stderr, and `--dry_run`
beside the sizes. What cannot be split over the mesh at all is refused here.
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from posttrain_jax.core import hosts, sharding
from posttrain_jax.data.stops import CHATML
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.run import auto, inputs, roles
from posttrain_jax.run.feed import Feed
from posttrain_jax.trainers.step import from_file

__all__ = ['chosen', 'notes', 'positions', 'tell', 'unsplit_parameters']


def notes(run: Any) -> list[str]:
  """Lines that a user of a `build.Run` should read.

  Raises:
    ValueError: rows that the mesh cannot split, with the nearest sizes.
  """
  return [
    *_rows(run),
    *_parameters(run),
    *positions(run),
    *_records(run),
    *_dated(run),
    *_turns(run),
    *_weights(run),
    *_unjudged(run),
  ]


def chosen(run: Any) -> list[str]:
  """'KEY VALUE: why' of what the config leaves to 'auto', sizes left out."""
  config, size = run.config, transformer.param_count(run.model)
  rate, why_rate = roles.rate_of(config, run.model)
  kind, why_kind = auto.dtype(config.model.dtype, size, jax.default_backend())
  lines = [
    ('optimizer.lr', f'{rate}', why_rate),
    ('model.dtype', kind, why_kind),
  ]
  if config.model.remat == auto.AUTO:
    lines.append(('model.remat', f'{run.model.remat}', f'{size / 1e6:,.1f}M'))
  if config.model.scan_layers == auto.AUTO:
    deep = f'{run.model.num_layers} layers'
    lines.append(('model.scan_layers', f'{run.model.scan_layers}', deep))
  return [f'{key:22} {value}: {why}' for key, value, why in lines if why]


def tell(lines: Iterable[str]) -> None:
  """Prints lines, such as `notes`, to stderr, on one process: equal ones
  once."""
  for line in dict.fromkeys(lines) if hosts.first() else ():
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
        f'no more than {model.position_limit} positions: set max_new_tokens or '
        'data.max_length to stay within'
        + (_LONG_ROPE if _long_rope(model, tokens) else '')
      )
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


def _records(run: Any) -> list[str]:
  """Told how many records of a file are trained on, for how long, and what is
  held out."""
  if not isinstance(getattr(run, 'batches', None), Feed):
    return []
  feed, config = run.batches, run.config
  told = [f'{len(feed.source):,} records to train on']
  if feed.heldout is not None:
    told[0] += f', {len(feed.heldout):,} to evaluate by'
  if config.data.num_epochs:
    told.append(
      f'data.num_epochs={config.data.num_epochs} of them are num_steps='
      f'{config.num_steps:,} steps'
    )
  return told


def _turns(run: Any) -> list[str]:
  """Told where conversations are written in a form that the model's folder
  does not say."""
  config, tokenizer = run.config, run.tokenizer
  if tokenizer.template is not None or not inputs.conversations(config):
    return []
  known = all(tokenizer.special_id(name) is not None for name in CHATML)
  how = 'as ChatML' if known else 'as lines of <|role|>'
  return [
    f'tokenizer={config.tokenizer} has no chat template: turns are written '
    f'{how}. A chat_template.jinja beside it is read instead'
  ]


def _weights(run: Any) -> list[str]:
  """Told where a file's text is given to a new model, or to none yet."""
  config, told = run.config, []
  if from_file(config) and not config.init_from:
    told.append(
      f'init_from is not set: a new model (model.preset={config.model.preset}) '
      f'begins, with tokenizer={config.tokenizer}'
    )
  for role in sorted(run.models):
    path = roles.path_of(config, role)
    if roles.is_hf_folder(path) and not any(Path(path).glob('*.safetensors')):
      told.append(f'{path} ({role}) has no *.safetensors: enough for --dry_run')
  return told


def _dated(run: Any) -> list[str]:
  """Told where a text depends on the day on which it is written."""
  found = run.tokenizer.template
  if found is None or not found.dated:
    return []
  return [
    f'the chat template of {run.config.tokenizer} writes the day of today: '
    'another day gives other tokens, in this run too. Its own variable for it, '
    'in a column chat_template_kwargs, keeps them equal'
  ]
