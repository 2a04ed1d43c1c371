"""What does not move in a run with adapters, and how it is found again.

The state of such a run holds its base once: `params` is the base with adapters,
and a frozen role that is the policy as the run starts is read from it
(`frozen`). Its checkpoints hold the adapters alone. `config.json` says where
the base came from, with a digest of every array:

  "base": {"source": "a Hugging Face folder, or runs/x/checkpoints/40",
           "arrays": {"layers/query": "0f3a...", ...}}

With source "" it is the file `base/arrays.safetensors` beside it, written once:
of a base that was drawn from the seed, or merged from adapters.
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from posttrain_jax.core import hosts, keys, paths
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import adapted
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params import adapters, make_adapter
from posttrain_jax.run import stored

__all__ = ['FILE', 'KEY', 'adapter_of', 'arrays', 'check_same', 'frozen',
           'keep', 'load', 'stands_apart', 'start_key']  # fmt: skip

KEY = 'base'  # of config.json
# In a folder of its own: a folder with weights in it is no run.
FILE = 'base/arrays.safetensors'
THREADS = 4


def start_key(config: Any, key: Array | None = None) -> Array:
  """The key of what is fresh as a run starts; by default its seed's."""
  if key is not None:
    return key
  return jax.random.fold_in(keys.seed_key(config.seed), keys.START)


def adapter_of(
  config: Any, policy: ModelConfig, held: set[str]
) -> adapters.Adapter | None:
  """The adapter of `config.adapter`, or None.

  held  frozen roles of the run

  Raises:
    ValueError: it does not fit the model, or what the config asks of the
      reference moves weights that do not move here.
  """
  adapter = make_adapter(config.adapter)
  if adapter is None:
    return None
  adapter.paths(adapters.shapes_in(policy))
  if 'ref' in held and config.ref.refresh_every:
    _check_moving(config)
  return adapter


def _check_moving(config: Any) -> None:
  """Refuses a moving reference that no adapter can stand for."""
  every = f'adapter.name="{config.adapter.name}", ref.refresh_every='
  every += str(config.ref.refresh_every)
  if config.ref.path:
    raise ValueError(
      f'{every}: the reference of ref.path="{config.ref.path}" has weights of '
      'its own, and here an adapter alone moves; leave ref.path empty'
    )
  if config.ref.mixup != 1.0:
    raise ValueError(
      f'{every}, ref.mixup={config.ref.mixup}: a mean of two adapters is none '
      'of this rank; nearest valid: ref.mixup=1.0, which replaces the reference'
    )


def frozen(
  config: Any, start: Mapping[str, PyTree], policy: PyTree, role: str
) -> PyTree:
  """What a state holds of a frozen role.

  start   {role: parameters}, 'policy' among them, without adapters
  policy  what is trained. With adapters, a role that is the policy as the run
          starts is that without them, and takes no memory; a reference that
          moves has an adapter of its own
  """
  if role in start or not adapted.has_adapters(policy):
    return jax.tree.map(jnp.copy, start.get(role, start['policy']))
  if role == 'ref' and config.ref.refresh_every:
    return adapted.Held(jax.tree.map(jnp.copy, adapted.trained(policy)))
  return adapted.Off()


def _flat(params: PyTree) -> dict[str, np.ndarray]:
  """{path: array} of a base; what trains whole is no part of it."""
  params = {k: x for k, x in params.items() if k not in adapted.WHOLE}
  flat = traverse_util.flatten_dict(params, sep='/')
  return {path: hosts.whole(flat[path]) for path in sorted(flat)}


def _digest(x: np.ndarray) -> str:
  found = hashlib.sha256(f'{x.dtype} {x.shape} '.encode())
  found.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
  return found.hexdigest()[:32]


def arrays(params: PyTree) -> dict[str, str]:
  """{path: digest} of a base's arrays, as they are before an adapter or a few
  bits come in."""
  flat = dict(sorted(_flat(params).items()))
  with ThreadPoolExecutor(THREADS) as pool:
    return dict(zip(flat, pool.map(_digest, flat.values())))


def keep(workdir: Path, source: str, params: PyTree) -> dict[str, Any]:
  """The entry "base" of config.json; writes the file that it names.

  source  where the base can be read again; '': it is written here
  """
  flat = {} if source else _flat(params)  # of all processes, or none

  def write() -> None:
    place = workdir / FILE
    place.parent.mkdir(parents=True, exist_ok=True)
    with paths.written(place) as made:
      safetensors.save_file(
        {path: np.ascontiguousarray(x) for path, x in flat.items()}, made
      )

  hosts.together(lambda: write() if flat and hosts.first() else None)
  return {'source': source, 'arrays': arrays(params)}


def check_same(workdir: Path, entry: Mapping[str, Any], params: PyTree) -> None:
  """Raises ValueError unless a base is the one that a run was trained on."""
  now, then = arrays(params), entry['arrays']
  differ = [
    path for path in sorted({*now, *then}) if now.get(path) != then.get(path)
  ]
  if differ:
    where = entry['source'] or workdir / FILE
    more = f' and {len(differ) - 3} more' if len(differ) > 3 else ''
    raise ValueError(
      f'{where} is not the base that the adapters of {workdir} were trained '
      f'on: {", ".join(differ[:3])}{more} differ; put the one of then back'
    )


def stands_apart(workdir: Path) -> bool:
  """Whether the checkpoints of a run with adapters hold those alone: all but
  those of runs that a sweep began, which keep a base each."""
  saved = stored.load_config(workdir) or {}
  return KEY in saved or not stored.steps(workdir)


def _read(file: Path, where: Any) -> dict[str, Array]:
  """{path: array} of a file; of each what the devices of this process hold."""
  with safe_open(file, framework='numpy') as handle:

    def one(path: str) -> Array:
      if where is None:
        return jax.device_put(handle.get_tensor(path))
      stored = handle.get_slice(path)
      shape = tuple(stored.get_shape())
      if not shape:
        return hosts.placed(handle.get_tensor(path), where(path, shape))
      cut = lambda ranges: stored[tuple(slice(*span) for span in ranges)]
      return hosts.made(shape, where(path, shape), cut)

    return {path: one(path) for path in list(handle.keys())}


def load(
  workdir: Path,
  entry: Mapping[str, Any],
  read: Callable[[str], PyTree],
  where: Callable[[str, tuple[int, ...]], Any] | None = None,
) -> PyTree:
  """The base of a run with adapters, checked to be the same; without heads.

  entry  as `keep` made it
  read   path -> parameters of a Hugging Face folder or a step of a run
  where  (path of a parameter, shape) -> its sharding; None: the default device

  Raises:
    ValueError: it is not there, or is another one.
  """
  source = entry['source']
  try:
    if not source:
      with paths.fetched(workdir / FILE) as file:
        flat = _read(file, where)
      params = traverse_util.unflatten_dict(flat, sep='/')
    else:
      params = read(source)
  except (OSError, SafetensorError, ValueError) as error:
    where = source or workdir / FILE
    raise ValueError(
      f'the base of {workdir} cannot be read from {where}: {error}'
    ) from error
  params = {k: x for k, x in params.items() if k not in adapted.WHOLE}
  check_same(workdir, entry, params)
  return params
