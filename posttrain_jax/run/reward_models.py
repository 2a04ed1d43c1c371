"""Reward models that `config.rewards` names by their path."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from posttrain_jax.core import hosts, hub, sharding
from posttrain_jax.models import adapted
from posttrain_jax.models.hf_config import is_scorer, read_json
from posttrain_jax.rewards import entries
from posttrain_jax.run import checkpoint, inference, model_folder, roles
from posttrain_jax.trainers.text_scorer import TextScorer

__all__ = ['of_roles', 'read_scorers']


def _scorer(path: str, role: str) -> tuple[TextScorer, Any]:
  """(scorer, its parameters) of a folder or a run.

  Raises:
    ValueError: no model there, or none that scores.
  """
  path = hub.pinned(path)
  model = roles.read_model(path)
  if not model.value_head:
    raise ValueError(
      f'{path} has no value head: a reward model is a run of '
      'configs/preference.py:recipe=reward_model, or a folder of a class '
      '...ForSequenceClassification'
    )
  name = model_folder.tokenizer_of(path)
  if not name:
    raise ValueError(f'{path} has no tokenizer')
  tokenizer = inference.with_our_stop(name)
  if inference.is_run(path):
    params = adapted.merged(checkpoint.read_params(path)[2])
    return TextScorer(role, path, model, tokenizer, as_run=True), params
  asked = {'dtype': 'auto', 'scan_layers': 'auto', 'remat': False}
  model = roles.decided(model, asked)
  params = roles.read_params(path, model, None)
  pad_id = None
  if is_scorer(hub.folder(path)):
    file = Path(hub.folder(path)) / 'config.json'
    pad_id = read_json(file).get('pad_token_id')
  return TextScorer(role, path, model, tokenizer, pad_id=pad_id), params


def read_scorers(
  found: Sequence[entries.Entry],
) -> dict[str, Callable[..., np.ndarray]]:
  """{label: `Judge` scorer} of the entries that are reward models.

  Raises:
    ValueError: one without a path, or whose path is no reward model.
  """
  out = {}
  for index, entry in enumerate(found):
    if entry.kind != entries.MODEL:
      continue
    where = f'rewards[{index}]'
    if not entry.params['path']:
      raise ValueError(
        f'{where}: "model" has a role of a run, and there is none here: give '
        'its "path", a run, a folder, or a name of the hub'
      )
    try:
      out[entry.label] = _bound(entry.params['path'], entry.params['role'])
    except ValueError as error:
      raise ValueError(f'{where}: {error}') from error
  return out


def _bound(path: str, role: str) -> Callable[..., np.ndarray]:
  scorer, params = _scorer(path, role)
  if not hosts.several():
    return lambda prompts, said: scorer(params, prompts, said)
  # Each process asks for its own answers, whenever it has some: the model is
  # whole on a device of each, and no program of all.
  params = jax.tree.map(lambda x: x.addressable_shards[0].data, params)
  device = jax.tree.leaves(params)[0].device
  mesh = sharding.make_mesh({}, [device])

  def alone(prompts: Sequence[Any], said: Sequence[Any]) -> np.ndarray:
    with jax.set_mesh(mesh):
      return scorer(params, prompts, said)

  return alone


def of_roles(
  found: Sequence[entries.Entry], paths: Mapping[str, str]
) -> dict[str, Callable[..., np.ndarray]]:
  """`read_scorers` of the entries of a run; what cannot be read is told.

  paths  {role: where its model is read from}
  """
  out = {}
  for entry in found:
    path = paths.get(entry.params.get('role', ''), '')
    if entry.kind != entries.MODEL or not path:
      continue
    try:
      out[entry.label] = _bound(path, entry.params['role'])
    except (ValueError, OSError) as error:
      checkpoint.tell(f'reward "{entry.label}" is left out: {error}')
  return out
