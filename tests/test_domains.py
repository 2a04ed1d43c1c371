"""Every value of every config has a domain, and what is outside is refused."""

import math

import jax
import ml_collections
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import recipes
from posttrain_jax import tasks, trainers
from posttrain_jax.core import domain as kinds
from posttrain_jax.core.resolve import hparams_of
from posttrain_jax.rollout import guides
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import domains, values
from posttrain_jax.run import tasks as run_tasks

PARADIGMS = trainers.KINDS
SPECS = [
  *(f'configs/{p}.py:recipe={r}' for p in PARADIGMS for r in recipes.rows(p)),
  *(f'configs/{p}.py:smoke' for p in PARADIGMS),
  'configs/sft.py:task=mixture',
  'configs/sft.py:data=jsonl',
]
HOW = (
  'has no domain: add it to posttrain_jax/run/domains.py, a key of the config '
  'to KEYS, a hyperparameter to PARTS as "name" (wherever it occurs), '
  '"room/name" or "room/function.name"'
)
# {key of the config: paradigm that has it}; its functions are all tried there.
PLACES = {
  'advantage': 'rl',
  'collect': 'sft',
  'contrastive': 'rl',
  'curriculum': 'rl',
  'decoder': 'rl',
  'entropy_controller': 'rl',
  'explore_controller': 'rl',
  'expert_loss': 'rl',
  'kl': 'rl',
  'loss': PARADIGMS,
  'hints_controller': 'rl',
  'prefix_controller': 'rl',
  'temperature_controller': 'rl',
  'reduce': 'rl',
  'sft_loss': 'rl',
  'sft_weights': 'rl',
  'token_rewards': 'rl',
  'value_loss': 'rl',
  'weights': 'sft',
}
# Weights of a task are as large as one likes.
WITHOUT_END = ('task.direct', 'task.reverse', 'task.columns', 'task.program')
IN_GRAPH = [name for name in tasks.__all__ if name != 'mixture']


def outside(domain):
  """Values that a domain must refuse, of every kind there is."""
  if isinstance(domain, kinds.Listed):
    return [5, 'abc', *([x] for x in outside(domain.of))]
  if isinstance(domain, kinds.Patterns):
    return [5, 'abc', [5], ['(']]
  if isinstance(domain, kinds.Word):
    return ['no such word', 5, None, ['a']]
  if isinstance(domain, kinds.Flag):
    return ['abc', 5, 0.5, None, [True]]
  if isinstance(domain, kinds.Text):
    return [5, 0.5, None, ['a']]
  if not isinstance(domain, kinds.Number):
    return []
  out = [math.nan, math.inf, -math.inf, 'abc', '1', [1], True]
  out = [x for x in out if x not in domain.also]
  out += [] if domain.none else [None]
  if domain.whole:
    out.append(2.5)
  for end, step, left_out in (
    (domain.low, -1, domain.above), (domain.high, 1, domain.below)
  ):  # fmt: skip
    if math.isfinite(end):
      near = (
        end + step if domain.whole else math.nextafter(end, step * math.inf)
      )
      out += [x for x in (near, end + step) if x not in domain.also]
      out += [end] if left_out and end not in domain.also else []
  return out


def put(config, key, value):
  *path, leaf = key.split('.')
  for name in path:
    config = config[name]
  if leaf in config:
    del config[leaf]  # else an int becomes a float where one stood
  config[leaf] = value


def assert_refuses(config, key, old, bad, check=values.check):
  """`check` names `key` for each of the `bad` values in its place."""
  for value in bad:
    put(config, key, value)
    with pytest.raises(ValueError) as caught:
      check(config)
    assert key.rpartition('.')[2] in str(caught.value), (key, value)
    assert '=' in str(caught.value) or ':' in str(caught.value)
  put(config, key, old)


@pytest.fixture(scope='module')
def known():
  """Keys and domains that were tried, so that recipes are not all alike."""
  return set()


@pytest.mark.parametrize('spec', SPECS)
def test_configs_and_recipes(spec, known):
  config = config_lib.load(spec)
  values.check(config)
  for key, value, domain in list(values.entries(config)):
    assert domain is not None, f'{key}={value!r} {HOW}'
    if (key, domain) not in known:
      known.add((key, domain))
      assert_refuses(config, key, value, outside(domain))


def test_the_quickstart_and_its_arms():
  arms = ('base', 'sft', 'grpo', 'own')
  config = config_lib.load('configs/quickstart.py')
  check = lambda config: values.check_arms(config, arms)
  check(config)
  for key, value in (('seed', -1), ('eval.shown', math.nan), ('eval.batch', 0),
                     ('base.num_steps', -1), ('grpo.loss.clip_low', math.nan),
                     ('own.guides', 5)):  # fmt: skip
    old = config_lib.flatten(config.to_dict())[key]
    assert_refuses(config, key, old, [value], check)
    put(config, key, value)
    with pytest.raises(ValueError, match=f'^{key}='):
      check(config)
    put(config, key, old)
  with pytest.raises(ValueError, match='has no arm "base"'):
    check(config_lib.load('configs/rl.py'))


def functions():
  for key, found in PLACES.items():
    for paradigm in (found,) if isinstance(found, str) else found:
      config = config_lib.load(f'configs/{paradigm}.py')
      rooms = [config_lib.room_of(config, key)]
      rooms += {
        config_lib.room_of(config, key, name)
        for row in recipes.rows(paradigm).values()
        for name in [row.get(key, {}).get('name', '')]
        if name not in ('', 'none')
      } - {*rooms, None}
      for room in rooms:
        for name in getattr(room, 'SELECTABLE', room.__all__):
          yield paradigm, key, name


# Controllers of temperatures and of shares.
TOLD = {
  f'{what}_controller' for what in ('explore', 'hints', 'prefix', 'temperature')
}


@pytest.mark.parametrize('paradigm, key, name', functions())
def test_every_function_of_every_room(paradigm, key, name):
  config = config_lib.load(f'configs/{paradigm}.py')
  config_lib.override(config, [(f'{key}.name', name)])
  for path, value, domain in list(values.entries(config)):
    # A controller of a temperature, or of a share, has to be told its values.
    try:
      domain.check(path, value)
    except ValueError:
      assert path.split('.')[0] in TOLD
      put(config, path, 0.9)
  values.check(config)
  for path, value, domain in list(values.entries(config)):
    if path.startswith(f'{key}.'):
      assert domain is not None, f'{path}={value!r} {HOW}'
      assert_refuses(config, path, value, outside(domain))


@pytest.mark.parametrize('name', guides.__all__)
def test_every_guide(name):
  config = config_lib.load('configs/sft.py')
  for knob, value in hparams_of(getattr(guides, name)).items():
    domain = domains.hyperparameter('guides', name, knob)
    assert domain is not None, f'guides/{name}.{knob} {HOW}'
    domain.check(knob, value)
    for bad in outside(domain):
      config.guides = ({'name': name, knob: bad},)
      with pytest.raises(ValueError, match=rf'guides\[0\]\.{knob}'):
        values.check(config)


@pytest.mark.parametrize('value', [5, 'abc', {'name': 'min_tokens'}])
def test_guides_are_a_list(value):
  config = config_lib.load('configs/sft.py')
  put(config, 'guides', value)
  with pytest.raises(ValueError, match='guides'):
    values.check(config)


def _check_task(config):
  values.check(config)
  run_tasks.make_task(config.task)


@pytest.mark.parametrize('name', IN_GRAPH)
def test_every_knob_of_every_task(name):
  """The table knows the types; the task itself, what sizes it can make."""
  config = config_lib.load(f'configs/sft.py:task={name}')
  _check_task(config)
  for key, value, domain in list(values.entries(config)):
    if not key.startswith('task.') or key == 'task.name':
      continue
    assert domain is not None, f'{key}={value!r}: a knob of no known type'
    bad = outside(domain)
    if isinstance(domain, kinds.Number):
      bad += [-1] if key in WITHOUT_END else [-1, 2**40]
    assert_refuses(config, key, value, bad, _check_task)


def test_text_tasks():
  entry = dict.fromkeys(domains.TEXT_TASK)
  config = config_lib.load('configs/sft.py')
  config.task = ml_collections.ConfigDict(
    {**entry, 'name': 'text:chain_sum', 'seed': 0, 'prompt_length': 0,
     'completion_length': 0, 'workers': 2, 'timeout': 10.0,
     'knobs': {'min_terms': 2}}
  )  # fmt: skip
  values.check(config)
  for key, value, domain in list(values.entries(config)):
    if key.startswith('task.'):
      bad = [math.nan, math.inf] if 'knobs' in key else outside(domain)
      assert_refuses(config, key, value, bad)


@settings(deadline=None, max_examples=300)
@given(
  st.floats(), st.floats(-9, 9), st.floats(0, 9), st.booleans(), st.booleans(),
  st.sampled_from([(), (0,), (math.inf,), (0, -1)]), st.booleans(),
)  # fmt: skip
def test_numbers_against_their_definition(x, low, width, above, below, also, w):
  if w:
    low, width = math.floor(low), math.floor(width)
    domain = kinds.Whole(low, low + width, above=above, below=below, also=also)
  else:
    domain = kinds.Number(low, low + width, above, below, also)
  high = low + width
  inside = x in also or (
    low <= x <= high and not (above and x == low) and not (below and x == high)
  )
  if w:
    inside = x in also  # a float is no whole number, unless it is named
  try:
    domain.check('a.b', x)
    assert inside
  except ValueError as error:
    assert not inside and str(error).startswith(f'a.b={x!r} is not ')
    if 'nearest valid: ' in str(error):
      near = float(str(error).rpartition('nearest valid: ')[2])
      assert low - 1e-4 <= near <= high + 1e-4 or near in also


def test_messages():
  def message(key, value, domain):
    with pytest.raises(ValueError) as caught:
      domain.check(key, value)
    return str(caught.value)

  keys = domains.KEYS
  assert message('optimizer.lr', math.nan, keys['optimizer.lr']) == (
    'optimizer.lr=nan is not "auto" or a finite number >= 0'
  )
  assert message('optimizer.lr', -1.0, keys['optimizer.lr']) == (
    'optimizer.lr=-1.0 is not "auto" or a finite number >= 0; nearest valid: 0'
  )
  assert message('mesh.data', 0, keys['mesh.data']) == (
    'mesh.data=0 is not -1 or a whole number >= 1; nearest valid: 1'
  )
  assert message('optimizer.b1', 2.0, keys['optimizer.b1']) == (
    'optimizer.b1=2.0 is not a finite number in [0, 1)'
  )
  dual = domains.hyperparameter('policy_gradient', 'ppo_clip', 'dual_clip')
  assert message('loss.dual_clip', 0.5, dual) == (
    'loss.dual_clip=0.5 is not 0 or a finite number > 1; nearest valid: 0'
  )
  assert message('seed', 2**64, keys['seed']) == (
    'seed=18446744073709551616 is not a whole number in 0..2**64-1; nearest '
    'valid: 2**64-1'
  )
  assert message('entropy_coef', 10**400, keys['entropy_coef']) == (
    'entropy_coef=inf is not a finite number'
  )
  assert 'Did you mean "cosine"' in message(
    'optimizer.schedule', 'cosin', keys['optimizer.schedule']
  )
  assert 'decoder "greedy"' in message(
    'decoder.temperature', 0.0,
    domains.hyperparameter('decoders', 'sample', 'temperature'),
  )  # fmt: skip


def test_what_recipes_mean_by_no_bound_stays():
  config = config_lib.load('configs/rl.py')
  for key, value in (('loss.clip_high', 1e9), ('loss.clip_low', math.inf),
                     ('optimizer.max_grad_norm', math.inf)):  # fmt: skip
    put(config, key, value)
  values.check(config)


def test_the_first_end_is_not_above_the_second():
  config = config_lib.load('configs/sft.py')
  config_lib.override(config, [('weights.name', 'threshold')])
  config.weights.low, config.weights.high = 0.7, 0.3
  with pytest.raises(ValueError, match=r'weights.low=0.7 is above'):
    values.check(config)


def test_scalar_arrays_are_numbers_and_traced_ones_pass():
  config = config_lib.load('configs/sft.py')
  put(config, 'optimizer.lr', jax.numpy.float32(-1))
  with pytest.raises(ValueError, match='optimizer.lr=-1.0'):
    values.check(config)

  def traced(x):
    put(config, 'optimizer.lr', x)
    values.check(config)
    return x

  jax.eval_shape(traced, 1.0)


@pytest.mark.parametrize('paradigm', PARADIGMS)
def test_a_config_of_another_paradigm_is_told_what_it_lacks(paradigm):
  for other in PARADIGMS:
    config = config_lib.load(f'configs/{other}.py')
    config.paradigm = paradigm
    lacks = set(config_lib.load(f'configs/{paradigm}.py')) - set(config)
    if lacks:
      with pytest.raises(ValueError, match=f'start from configs/{paradigm}.py'):
        values.check(config)


def test_a_key_that_nothing_reads_is_unknown():
  config = config_lib.load('configs/sft.py')
  config.mine = 3.0
  with pytest.raises(ValueError, match='unknown config key "mine"'):
    values.check(config)
