"""The models of a run and the parameters that they start from.

A run trains one model, 'policy'. Further roles are frozen: 'ref', and those of
`config.others` ('teacher', 'base', ...). A role with a path is read from there;
without one it is the policy as the run starts. A method that compares two
models refuses to start with the same one in both places (`apart`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from posttrain_jax import collect, trainers
from posttrain_jax.core import hub, sharding, target, trees
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.losses import reward_model
from posttrain_jax.models import adapted, hf, transformer
from posttrain_jax.models.config import ModelConfig, RopeScaling, make_config
from posttrain_jax.models.hf_config import is_scorer, read_config
from posttrain_jax.params import make_adapter, peft
from posttrain_jax.run import auto, checkpoint
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers import meta

__all__ = [
  'Apart',
  'SCORER',
  'Start',
  'apart',
  'check',
  'check_answers',
  'complete',
  'decided',
  'is_hf_folder',
  'make_model',
  'make_models',
  'model_fields',
  'path_of',
  'placing',
  'rate_of',
  'read',
  'read_model',
  'read_params',
  'saved_model',
  'scorers',
  'source_of',
]

# {role: parameters}; 'policy' is always there
Start = dict[str, PyTree]

# What a model that is read from disk says itself.
SHAPE = ('preset', 'sliding_window')
# What may be 'auto', and depends on the device or the size.
DECIDED = ('scan_layers', 'scan_decode', 'dtype', 'remat', 'attention')


def model_fields(saved: dict[str, Any]) -> dict[str, Any]:
  """ModelConfig fields of a JSON dict."""
  fields = dict(saved)
  if fields.get('rope_scaling'):
    fields['rope_scaling'] = RopeScaling(**fields['rope_scaling'])
  return fields


def is_hf_folder(path: str) -> bool:
  """Whether weights lie in a folder, and not in the steps of a run."""
  return bool(path) and hf.is_folder(hub.folder(path))


def read_model(path: str) -> ModelConfig:
  """The model saved at a path: a run, a Hugging Face folder, or PEFT's; any of
  the folders may be a name of the hub, here and below."""
  if peft.is_folder(path):
    path = peft.base_of(path)
  if is_hf_folder(path):
    return read_config(Path(hub.folder(path)))
  return saved_model(checkpoint.run_folder(path)[0])[0]


def check_answers(path: str, what: str) -> None:
  """Raises ValueError where a path is a reward model, which cannot answer.

  what  names the path, for the message
  """
  if is_hf_folder(path) and is_scorer(hub.folder(path)):
    raise ValueError(
      f'{what}={path}: a reward model scores texts and writes none; it goes '
      'into config.rewards, as [{"name": "model", "path": "' + path + '"}]'
    )


def saved_model(workdir: Path) -> tuple[ModelConfig, dict[str, Any]]:
  """(the model, all of its saved config) of a run's folder.

  Raises:
    ValueError: its config is missing, or no config of a run.
  """
  saved = checkpoint.load_config(workdir)
  where = f'{workdir / checkpoint.CONFIG}: not a run of train.py'
  if saved is None or 'resolved_model' not in saved:
    raise ValueError(where)
  try:
    model = ModelConfig(**model_fields(saved['resolved_model']))
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where}: {error}') from error
  return model, saved


def _split(config: Any) -> tuple[dict, dict, dict]:
  """(shape, other fields, what may be 'auto') of `config.model`."""
  fields = dict(config.model)
  taken = lambda names: {key: fields.pop(key) for key in names}
  return taken(SHAPE), fields, taken(DECIDED)


def decided(model: ModelConfig, asked: dict[str, Any]) -> ModelConfig:
  """The model with what may be 'auto' decided.

  asked  DECIDED of a `config.model`; what it has not stays
  """
  asked = {name: getattr(model, name) for name in DECIDED} | asked
  layers, backend = model.num_layers, target.backend()
  size = transformer.param_count(model)
  model = dataclasses.replace(
    model,
    scan_layers=auto.scan_layers(asked['scan_layers'], layers),
    scan_decode=auto.scan_decode(asked['scan_decode'], layers, backend),
    dtype=auto.dtype(asked['dtype'], size, backend)[0],
    remat=auto.remat(asked['remat'], size),
    attention='plain',
  )
  name, _ = auto.attention(asked['attention'], model, backend)
  return dataclasses.replace(model, attention=name)


def make_model(
  config: Any, vocab_size: int, value_head: bool = False
) -> ModelConfig:
  """The model that a run trains: the preset's, or that of `init_from`.

  Raises:
    ValueError: unknown preset; no model at `init_from`; a tokenizer with more
      tokens than the model.
  """
  shape, fields, asked = _split(config)
  fields['value_head'] = value_head
  if not config.init_from:
    made = make_config(vocab_size=vocab_size, **shape, **fields)
    return decided(made, asked)
  room = trainers.kind(config.paradigm).loss_room(config.loss.name)
  if room is not reward_model:  # that is trained from a model or from a scorer
    check_answers(config.init_from, 'init_from')
  found = dataclasses.replace(read_model(config.init_from), **fields)
  found = decided(found, asked)
  if vocab_size > found.vocab_size:
    raise ValueError(
      f'tokenizer "{config.tokenizer}" has {vocab_size} tokens, the model of '
      f'{config.init_from} only {found.vocab_size}'
    )
  return found


def rate_of(config: Any, policy: ModelConfig) -> tuple[Any, str]:
  """`auto.learning_rate` of a run that trains `policy`."""
  return auto.learning_rate(
    config.optimizer.lr,
    config.paradigm,
    transformer.param_count(policy),
    config.adapter.name,
  )


def path_of(config: Any, role: str) -> str:
  """Where a role's model is read from; '': it is not."""
  if role == 'policy':
    return config.init_from
  if role == 'ref':
    return config.ref.path
  return dict(config.get('others', {})).get(role, '')


def make_models(
  config: Any, policy: ModelConfig, roles: set[str]
) -> dict[str, ModelConfig]:
  """{role: ModelConfig} of 'policy', 'ref' and `roles`.

  Raises:
    ValueError: no model at a role's path.
  """
  _, fields, asked = _split(config)
  models = {'policy': policy}
  for role in sorted(roles | {'ref'}):
    path = path_of(config, role)
    models[role] = policy
    if path:
      read = dataclasses.replace(read_model(path), **fields)
      models[role] = decided(read, asked)
    scores = role in scorers(config)
    if path and not scores:
      check_answers(path, 'ref.path' if role == 'ref' else f'others.{role}')
    if path or scores:
      models[role] = dataclasses.replace(models[role], value_head=scores)
  return models


class Apart(NamedTuple):
  """Two roles of a run that one of its methods needs to be different models.

  who    name of the method
  first  a role, which may be the policy as the run starts
  other  the role that is then another model
  what   what that model is
  """

  who: str
  first: str
  other: str
  what: str


def apart(config: Any) -> tuple[Apart, ...]:
  """What the methods of a config say of it: the `APART` of their rooms, and a
  source whose rows another model writes."""
  found = []
  for key, entry in config.items():
    name = entry.get('name') if hasattr(entry, 'get') else None
    if isinstance(name, str):
      room = config_lib.room_of(config, key, name)
      named = getattr(room, 'APART', {})
      found += [Apart(name, *named[name])] if name in named else []
  if 'collect' in config:
    who = f'collect.{config.collect.name}'
    for role in sorted(collect.roles(config.collect) - {'ref'}):
      found.append(Apart(who, 'policy', role, 'the model that writes rows'))
  for role in sorted(meta.roles(config) - {'ref'}):
    found.append(Apart('meta', 'policy', role, 'the model that answers'))
  return tuple(found)


def _refuse_same(needed: Sequence[Apart], models: Mapping[str, str]) -> None:
  """Raises ValueError where two roles that have to differ are one model.

  models  {role: what its model is called}; '' and no entry: the policy's start
  """
  start = models.get('policy', '')
  for who, first, other, what in needed:
    one, two = (models.get(role) or start for role in (first, other))
    if one == two:
      key = lambda role: 'ref.path' if role == 'ref' else f'others.{role}'
      shown = 'the policy' if first == 'policy' else key(first)
      same = f'"{two}"' if models.get(other) else 'that of the start'
      raise ValueError(
        f'"{who}" needs two models for {shown} and {key(other)}, and both are '
        f'{same}: give --config.{key(other)}=RUN_OR_FOLDER, {what}'
      )


def check(config: Any) -> None:
  """Raises ValueError for a role without a path where a method needs one.

  Runs that are given their roles' parameters (a study's stages) are judged by
  `complete` alone.
  """
  needed = apart(config)
  named = {role for pair in needed for role in (pair.first, pair.other)}
  paths = {role: path_of(config, role) for role in {'policy', *named}}
  _refuse_same(needed, paths)
  for role in scorers(config):
    if not path_of(config, role):
      raise ValueError(_NO_SCORER.format(role=role, fault='is empty'))


# What can be the judge of a run, for messages.
SCORER = (
  'give a reward model, a run of configs/preference.py:recipe=reward_model or '
  'a folder of ...ForSequenceClassification'
)
_NO_SCORER = 'a reward model is asked for: others.{role} {fault}; ' + SCORER


def scorers(config: Any) -> tuple[str, ...]:
  """Roles whose scores are rewards of a run."""
  return trainers.kind(config.paradigm).scorers(config)


def source_of(config: Any) -> str:
  """Where the policy's parameters can be read again, with the step of a run;
  '': nowhere, as they are fresh, or made of adapters."""
  path = config.init_from
  if not path or peft.is_folder(path):
    return ''
  if is_hf_folder(path):
    return path if hub.elsewhere(path) else str(Path(path).absolute())
  workdir, step = checkpoint.find(path)
  saved = checkpoint.load_config(workdir) or {}
  if make_adapter(saved.get('config', {}).get('adapter')):
    return ''
  return str((workdir / checkpoint.FOLDER / str(step)).absolute())


def placing(
  model: ModelConfig, mesh: Mesh | None
) -> Callable[[str, tuple[int, ...]], jax.sharding.Sharding]:
  """(path of a parameter, shape) -> its sharding; no mesh: one device."""
  table = transformer.param_table(model)

  def where(name: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
    if mesh is None:
      return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # What the model does not have is dropped later.
    spec = table[name].spec if name in table else PartitionSpec()
    return NamedSharding(mesh, sharding.fit(spec, shape, mesh))

  return where


def read_params(path: str, model: ModelConfig, mesh: Mesh | None) -> PyTree:
  """Parameters on disk, each straight into its shards of a mesh."""
  where = placing(model, mesh)
  if peft.is_folder(path):
    return peft.load(path, param_dtype=model.param_dtype, where=where)[1]
  if not is_hf_folder(path):
    return checkpoint.read_params(path, where=where)[2]
  folder = hub.folder(path, weights=True)
  return hf.load(folder, param_dtype=model.param_dtype, where=where)[1]


def read(
  config: Any, models: dict[str, ModelConfig], mesh: Mesh | None = None
) -> Start:
  """What is on disk: parameters of each role that has a path.

  models  the roles that the run holds, 'policy' among them
  mesh    that they are split over; None: they are on the first device
  """
  paths = {role: path_of(config, role) for role in models}
  return {
    role: read_params(path, models[role], mesh)
    for role, path in paths.items()
    if path
  }


def complete(
  loaded: Start,
  models: dict[str, ModelConfig],
  key: Array,
  scorers: Sequence[str] = (),
  needed: Sequence[Apart] = (),
) -> Start:
  """Parameters of the policy and of each role in `loaded`: fresh ones where
  nothing was loaded.

  A value head that a loaded model does not have starts fresh (zeros); roles
  that the run does not hold are left out. Adapters of a loaded model are merged
  into its weights.

  scorers  roles of reward models, whose heads have to be loaded
  needed  roles that have to be different models

  Raises:
    ValueError: a loaded array has another shape than the model's; a reward
      model is not there, or has no value head; a role is not there that has to
      differ from the policy.
  """
  for role in scorers:
    if 'value_head' not in loaded.get(role, {}):
      found = 'has no value head' if role in loaded else 'is empty'
      raise ValueError(_NO_SCORER.format(role=role, fault=found))
  _refuse_same(needed, {role: role for role in loaded if role != 'policy'})
  start = {}
  loaded = {role: adapted.merged(x) for role, x in loaded.items()}
  for role in {'policy': None, **loaded}:
    if role not in models:
      continue
    model, given = models[role], loaded.get(role, {})
    shapes = jax.eval_shape(lambda k, m=model: transformer.init(k, m), key)
    there = {k: x for k, x in given.items() if k in shapes}
    # What is loaded is not made first.
    start[role] = {**transformer.init(key, model, skip=set(there)), **there}
    wanted = jax.tree_util.tree_leaves_with_path(shapes)
    for (path, ours), theirs in zip(wanted, jax.tree.leaves(start[role])):
      if ours.shape != theirs.shape:
        raise ValueError(
          f'"{role}" has {trees.path_name(path)} of shape {theirs.shape}, the '
          f'model of this run needs {ours.shape}'
        )
  return start
