"""Whether a run's folder can be gone on with by a config, and as what."""

import json
from pathlib import Path
from typing import Any

from posttrain_jax.models import transformer
from posttrain_jax.run import auto, checkpoint, model_folder, roles
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.auto import AUTO

__all__ = ['check_continues', 'pinned']

# Keys that may be 'auto', and stay in a run what they were when it began.
PINNED = (*config_lib.DECIDED, 'model.dtype')
# Keys that may differ between a run and its continuation.
FREE_KEYS = ('num_steps', 'steps_per_call', 'on_nonfinite', 'eval.',
             'data.eval_path', 'data.on_bad_row', 'data.on_change',
             'checkpoint.', 'log.', 'mesh.', 'watchdog', 'preemption',
             'sampler.url', 'sampler.model', 'sampler.timeout', 'sampler.tries',
             'sampler.requests', 'sampler.reload')  # fmt: skip


def check_continues(config: Any, workdir: Path) -> None:
  """Raises ValueError if `workdir` holds a run of another config, or one whose
  config is not there."""
  saved = checkpoint.load_config(workdir)
  if saved is None:
    if checkpoint.steps(workdir):
      raise ValueError(
        f'{workdir} has checkpoints, and no {checkpoint.CONFIG} that says of '
        'what; put it back, or use another --workdir'
      )
    return
  config = model_folder.settled(config)
  old = model_folder.settled(config_lib.completed(saved['config'])).to_dict()
  old = config_lib.flatten(json.loads(json.dumps(old)))
  new = config_lib.flatten(json.loads(json.dumps(config.to_dict())))
  # How a step is cut up may be left to 'auto' on one side: it changes rounding.
  decided = {key for key in PINNED if AUTO in (old.get(key), new.get(key))}
  _resolve_rates(workdir, old, new)
  changed = [
    f'{key}: {old.get(key)!r} -> {new.get(key)!r}'
    for key in sorted((old.keys() | new.keys()) - decided)
    if old.get(key) != new.get(key) and not key.startswith(FREE_KEYS)
  ]
  if changed:
    raise ValueError(
      f'{workdir} holds a run of another config; use another --workdir, or '
      'undo: ' + '; '.join(changed)
    )


def _resolve_rates(workdir: Path, *configs: dict[str, Any]) -> None:
  """Puts the learning rate that 'auto' is for the model of a run's folder in
  its place, in flat configs."""
  key = config_lib.RATE
  if len({str(config.get(key)) for config in configs}) == 1:
    return
  size = transformer.param_count(roles.saved_model(workdir)[0])
  for config in configs:
    beside = config.get('adapter.name', 'none')
    config[key], _ = auto.learning_rate(
      config[key], config['paradigm'], size, beside
    )


def pinned(config: Any, workdir: Path) -> Any:
  """The config with what 'auto' was when the run of `workdir` began.

  A longer run, or another mesh, might choose otherwise: in the same run a step
  is cut up the same way to its end, so that it goes on bit for bit.
  """
  saved = checkpoint.load_config(workdir) or {}
  began = dict(saved.get('sizes', {}))
  if 'resolved_model' in saved:
    began |= {f'model.{k}': x for k, x in saved['resolved_model'].items()}
  asked = config_lib.flatten(config.to_dict())
  values = {k: began[k] for k in PINNED if asked.get(k) == AUTO and k in began}
  return config_lib.with_values(config, values) if values else config
