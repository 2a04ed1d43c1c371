"""What a key of a config changes: programs, sizes, evaluation, what is told."""

import hashlib
import re

import jax

from posttrain_jax.core import sharding
from posttrain_jax.core.domain import Flag, Text, Word
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.run import build, values
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.feed import Feed
from posttrain_jax.run.loop import make_driver
from posttrain_jax.run.state import abstract_state, state_shardings

LISTED = {
  'cache_stages': 2,  # one is what 'auto' is here
  'token_buckets': 2,
  'eval.num_problems': 4,
  'eval.batch': 4,  # more than there are problems is as many
  'guides': ({'name': 'min_tokens', 'count': 2},),
  'optimizer.freeze': ('embed',),
  'model.preset': 'depth-2',
  'ref.path': 'tests/goldens/qwen3',
  'rewards': ({'name': 'exact_match', 'weight': 0.5},),
}
OWN = ('prompt_length', 'max_new_tokens')  # of answers that a run draws
_PLACE = re.compile(r'0x[0-9a-f]+')
# Read by the loop, by what feeds and saves it and by who watches it: no
# program, size or evaluator is another one by these.
HOST = (
  'checkpoint.', 'log.', 'watchdog', 'preemption', 'num_steps', 'seed',
  'eval.every', 'init_from', 'tokenizer', 'paradigm', 'data.path',
  'data.sources', 'data.source', 'data.name', 'data.on_bad_row',
  'data.on_change', 'data.overlong', 'data.eval_path', 'data.special_text',
  'data.after_stop', 'data.num_epochs', 'mesh.', 'others.', 'reward_pool.',
  'rewards', 'rollout_overlap', 'task.workers', 'task.timeout',
)  # fmt: skip


def _plain(value):
  """What an evaluator, or a part of one, is made of; without models."""
  if isinstance(value, (int, float, str, bool, type(None))):
    return value
  if isinstance(value, (list, tuple)):
    return [_plain(x) for x in value]
  if hasattr(value, '__dict__'):
    return {
      key: _plain(x) if type(x) in (int, float, str, bool) else type(x).__name__
      for key, x in sorted(vars(value).items())
    }
  return type(value).__name__


def _problems(task):
  """What a task that Python judges asks and answers; None of another."""
  if not isinstance(task, HostTask):
    return None
  found = task.problems(range(4))
  return [repr(sorted(task.columns(x).items())) for x in found]


def fingerprint(config):
  """A hash of what a config makes; what it is refused with."""
  try:
    run = build.build(config)
    mesh = sharding.make_mesh(run.config.mesh)
    like = lambda x, place: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=place
    )
    state = jax.tree.map(like, abstract_state(run), state_shardings(run, mesh))
    with jax.set_mesh(mesh):
      driver = make_driver(run, run.config)
      programs = {
        name: _PLACE.sub('', str(traced.jaxpr))
        for name, traced in driver.traced(state).items()
      }
  except (ValueError, TypeError, NotImplementedError) as error:
    return f'{type(error).__name__}: {error}', None
  held = {name: _plain(x) for name, x in run.evaluators.items()}
  if held:  # which decode with it, untraced here
    held['model'] = re.sub('long_rope=[^,]*', '', repr(run.model))
  on_file = run.on_file is not None and run.config.eval.batch
  sizes = run.sizes.to_dict()
  if isinstance(run.batches, Feed):  # whose rows say how long they are
    sizes = {k: x for k, x in sizes.items() if k not in OWN}
    sizes['records'] = len(run.batches.source)
  asked = _problems(run.task)
  parts = [programs, sizes, held, _plain(run.task), asked, on_file]
  return hashlib.sha256(repr(parts).encode()).hexdigest(), run


def other(config, key):
  """A value of a key beside the one that it has; None: there is none."""
  domain = dict((k, d) for k, _, d in values.entries(config)).get(key)
  value = config_lib.flatten(config.to_dict())[key]
  if isinstance(value, bool):
    return not value
  if key in LISTED:
    return LISTED[key]
  if isinstance(domain, Word):
    return next((x for x in reversed(domain.words) if x != value), None)
  if isinstance(value, int):
    return 3 * value or 3
  if isinstance(value, float):
    return value / 2 if value else 0.6
  if isinstance(domain, Text):
    return f'{value}x'
  if value == 'auto':
    return True if isinstance(domain, Flag) else 1
  return None
