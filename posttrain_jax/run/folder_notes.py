"""What a run is told of the folders that it starts from."""

from pathlib import Path
from typing import Any

from posttrain_jax.core import hub
from posttrain_jax.data.stops import CHATML
from posttrain_jax.models import hf
from posttrain_jax.params import peft
from posttrain_jax.run import inputs, roles
from posttrain_jax.trainers.step import from_file

__all__ = ['dated', 'turns', 'weights']


def turns(run: Any) -> list[str]:
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


def weights(run: Any) -> list[str]:
  """Told where a file's text is given to a new model, or to none yet."""
  config, told = run.config, []
  if from_file(config) and not config.init_from:
    told.append(
      f'init_from is not set: a new model (model.preset={config.model.preset}) '
      f'begins, with tokenizer={config.tokenizer}'
    )
  for role in sorted(run.models):
    path = roles.path_of(config, role)
    if not path or hub.elsewhere(path):
      continue
    if not (roles.is_hf_folder(path) or peft.is_folder(path)):
      continue
    if not any(Path(path).glob('*.safetensors')):
      how = hf.pickled(path)
      told.append(
        f'{path} ({role}) has no *.safetensors: enough for --dry_run '
        f'and posttrain_jax.plan{how and f". {how}"}'
      )
  return told


def dated(run: Any) -> list[str]:
  """Told where a text depends on the day on which it is written."""
  found = run.tokenizer.template
  if found is None or not found.dated:
    return []
  return [
    f'the chat template of {run.config.tokenizer} writes the day of today: '
    'another day gives other tokens, in this run too. Its own variable for it, '
    'in a column chat_template_kwargs, keeps them equal'
  ]
