"""A method that compares two models refuses one model in both places."""

import inspect

import jax
import pytest

from configs import recipes
from posttrain_jax import sweep, token_weights, train
from posttrain_jax.core import arrays
from posttrain_jax.losses import distillation, supervised
from posttrain_jax.run import build, roles
from posttrain_jax.run import config as config_lib

ROOMS = (distillation, supervised, token_weights)
# Recipes that name a model of their own, and what each has to be given.
GIVEN = {
  'token_cleaning': ('ref.path', 'others.base'),
  'forgetting': ('ref.path', 'others.base'),
  'shad': ('others.shuffled', 'others.base'),
  'rho1': ('ref.path', 'init_from'),
  'poft': ('others.teacher', 'init_from'),
  'teacher_samples': ('others.teacher', 'init_from'),
  **dict.fromkeys(recipes.DISTILL, ('others.teacher', 'init_from')),
}


def load(name, *items):
  paradigm = 'distill' if name in recipes.DISTILL else 'sft'
  return config_lib.load(f'configs/{paradigm}.py:recipe={name}', items)


@pytest.mark.parametrize('room', ROOMS)
def test_rooms_name_their_own_functions(room):
  assert set(room.APART) <= set(room.__all__)
  for first, other, what in room.APART.values():
    assert first != other and what


def test_whoever_reads_a_named_model_says_so():
  """Arrays that a role of `config.others` makes mark the methods."""
  theirs = {n for n, role in arrays.scored_by().items() if role not in OWN}
  for room in (supervised, token_weights):
    for name in room.__all__:
      wanted = set(inspect.signature(getattr(room, name)).parameters)
      if wanted & theirs:
        assert name in room.APART, name
  assert set(distillation.APART) == set(distillation.__all__)


OWN = ('policy', 'ref')


@pytest.mark.parametrize('name', GIVEN)
def test_an_empty_role_is_refused(name):
  key, other = GIVEN[name]
  with pytest.raises(ValueError, match=f'give --config.{key}=RUN_OR_FOLDER'):
    roles.check(load(name))
  roles.check(load(name, (key, 'runs/one')))
  # One path in both places is one model.
  with pytest.raises(ValueError, match='both are "runs/one"'):
    roles.check(load(name, (key, 'runs/one'), (other, 'runs/one')))
  roles.check(load(name, (key, 'runs/one'), (other, 'runs/two')))
  # With the other of two frozen ones given, this one may be the start.
  if other != 'init_from':
    roles.check(load(name, (other, 'runs/two')))


@pytest.mark.parametrize(
  'paradigm, name',
  [
    (paradigm, name)
    for paradigm in ('sft', 'preference', 'rl', 'distill')
    for name in recipes.rows(paradigm)
    if name not in (*GIVEN, 'rlhf')
  ],
)
def test_a_reference_may_be_the_start(paradigm, name):
  roles.check(config_lib.load(f'configs/{paradigm}.py:recipe={name}'))


def test_a_reward_model_has_to_be_there():
  c = config_lib.load('configs/rl.py:recipe=rlhf')
  with pytest.raises(ValueError, match='others.reward is empty; give a reward'):
    roles.check(c)


@pytest.mark.parametrize('flags', [['--dry_run'], ['--workdir', 'x']])
def test_the_command_refuses_before_it_compiles(flags, capsys):
  argv = ['--config', 'configs/sft.py:recipe=poft', *flags]
  assert train.main(argv) == 2
  assert 'give --config.others.teacher=RUN' in capsys.readouterr().err


def test_a_run_that_is_given_its_models_needs_no_paths():
  c = load('poft', ('model.preset', 'depth-1'), ('eval.num_problems', '0'))
  run = build.build(c)

  def start(key, given):
    return roles.complete(given, run.models, key, needed=roles.apart(c))

  key = jax.random.key(0)
  with pytest.raises(ValueError, match='"poft" needs two models'):
    jax.eval_shape(start, key, {})
  params = jax.eval_shape(
    lambda key: build.transformer.init(key, run.model), key
  )
  assert 'teacher' in jax.eval_shape(start, key, {'teacher': params})
  with pytest.raises(ValueError, match='"poft" needs two models'):
    jax.eval_shape(sweep.make_train(c), key)
