"""Public functions are held to the shapes that their docstrings give."""

import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import objective_cases
import pytest

from posttrain_jax import advantages, diagnostics, rollout
from posttrain_jax.core import rooms, shapes
from posttrain_jax.core.types import SequenceSignals, TokenSignals
from posttrain_jax.losses import policy_gradient, preference, supervised
from posttrain_jax.rewards.arrays import Facts, weighted
from posttrain_jax.trainers import arrays

# No two axes are alike.
SIZES = dict(zip('BTUVDGCSMN', range(2, 12), strict=True))
# Neither arrays of rows or tokens, nor hyperparameters.
NO_ARRAYS = {'key', 'keys', 'params', 'start_params', 'fraction', 'k'}
TREES = {('flip', 'chosen'), ('flip', 'rejected')}


def functions():
  for room in [*objective_cases.rooms(), 'rollout.decoders']:
    for name in objective_cases.public_names(room):
      if name != 'l2_to_start':  # of parameters alone
        yield getattr(rooms.load(room), name)
  for name in ('rollout_metrics', 'logp_gap', 'pass_at_k'):
    yield getattr(diagnostics, name)


FUNCTIONS = list(dict.fromkeys(functions()))
every = pytest.mark.parametrize(
  'function', FUNCTIONS, ids=lambda x: f'{x.__module__[14:]}.{x.__name__}'
)


def lengths(letters):
  return (2, 3, 4) if letters == '*' else tuple(SIZES[x] for x in letters)


def build(axes):
  """An argument of the right shape, as its annotation wants it."""
  if isinstance(axes, str):
    return np.ones(lengths(axes), np.float32)
  if shapes.ANY in axes:
    return {name: build(axes[shapes.ANY]) for name in ('right', 'score')}
  fields = {field: build(letters) for field, letters in axes.items()}
  if 'token_logps' in fields:
    return SequenceSignals(**fields)
  return (
    Facts(**fields, limit=9)
    if 'finished' in fields
    else (TokenSignals(**fields))
  )


def places(function):
  """(argument, field or None, letters) of each array."""
  for name, axes in shapes.of(function).axes.items():
    if isinstance(axes, str):
      yield name, None, axes
    elif shapes.ANY in axes:
      yield from ((name, x, axes[shapes.ANY]) for x in ('right', 'score'))
    else:
      yield from ((name, field, letters) for field, letters in axes.items())


def replaced(argument, field, array):
  if field is None:
    return array
  if isinstance(argument, dict):
    return argument | {field: array}
  replace = getattr(argument, '_replace', None) or argument.replace
  return replace(**{field: array})


def read(argument, field):
  if field is None:
    return argument
  return (
    argument[field]
    if isinstance(argument, dict)
    else (getattr(argument, field))
  )


def seen(function):
  """What reaches the function's own code, by argument."""
  inside = functools.wraps(function.__wrapped__)(lambda **named: named)
  return shapes.held(inside, function.__name__, shapes.of(function))


@every
def test_no_array_is_left_out(function):
  found = shapes.of(function).axes
  for name, parameter in inspect.signature(function).parameters.items():
    is_hparam = parameter.kind is parameter.KEYWORD_ONLY
    is_hparam &= parameter.default is not parameter.empty
    known = is_hparam or name in NO_ARRAYS or name in found
    assert known or (function.__name__, name) in TREES, name


@every
def test_another_shape_is_refused_by_name(function):
  right = {x: build(y) for x, y in shapes.of(function).axes.items()}
  call, owner = seen(function), {}
  for name, field, letters in places(function):
    shape = lengths(letters)
    label = f'{name}.{field}' if field else name
    wrong = [(*shape, 1), (1, *shape)]
    if letters == '*' and not owner:
      wrong = []  # the first may have any
    elif len(shape) > 1:
      wrong += [shape[1:], shape[:-1], shape[::-1]]
    for axis, letter in enumerate(letters if letters != '*' else ()):
      if letter in owner:
        changed = list(shape)
        changed[axis] += 1
        wrong.append(tuple(changed))
      owner.setdefault(letter, label)
    if letters == '*':
      owner.setdefault('*', label)
    for other in wrong:
      if other == shape or (other == shape[::-1] and len(owner) <= len(shape)):
        continue  # nothing says yet which axis is which
      given = right | {name: replaced(right[name], field, np.ones(other))}
      with pytest.raises(ValueError) as error:
        call(**given)
      said = f'{function.__name__}: {label} has shape {other}; it must be ['
      assert str(error.value).startswith(said)


@every
def test_lists_and_truth_values_are_arrays(function):
  right = {x: build(y) for x, y in shapes.of(function).axes.items()}
  for convert in (lambda x: x.tolist(), lambda x: x > 0):
    given = dict(right)
    for name, field, _ in places(function):
      array = convert(read(right[name], field))
      given[name] = replaced(given[name], field, array)
    got = seen(function)(**given)
    for name, field, _ in places(function):
      array = read(got[name], field)
      assert array.dtype in (np.float32, np.int32)
      np.testing.assert_array_equal(array, read(right[name], field))


@every
def test_one_stands_for_all(function):
  """Where an axis is 1, or for a single number, what reaches the function is
  the array written out."""
  call, known = seen(function), set()
  right = {x: build(y) for x, y in shapes.of(function).axes.items()}
  for name, field, letters in places(function):
    if letters == '*':
      continue
    full = lengths(letters)
    narrow = [tuple(1 if x in known else SIZES[x] for x in letters)]
    narrow += [()] * (set(letters) <= known)
    known |= set(letters)
    for shape in narrow:
      array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
      given = right | {name: replaced(right[name], field, array)}
      if (field or name).endswith(('logps', 'logits')) and shape != full:
        with pytest.raises(ValueError, match='has shape'):
          call(**given)
        continue
      got = read(call(**given)[name], field)
      np.testing.assert_array_equal(got, np.broadcast_to(array, full))


def test_cases_agree_on_the_axes():
  """The table of shapes, and how the cases of the twins call the functions."""
  compared = 0
  for case in objective_cases.all_cases():
    function = getattr(rooms.load(case.room), case.name)
    if case.name == 'l2_to_start':
      continue
    for name, axes in shapes.of(function).axes.items():
      if isinstance(axes, str) and name in case.axes:
        if case.name == 'preference_strength':  # its rows are last
          axes = axes[::-1]
        expected = case.axes[name].replace('K', 'G')
        assert axes == expected, f'{case.id}: {name}'
        compared += 1
  assert compared > 200


@every
def test_it_is_pickled_by_its_name(function):
  assert pickle.loads(pickle.dumps(function)) is function


def test_two_names_of_one_function_stay_one():
  assert preference.dpo is preference.sigmoid


# What people meet first


@pytest.mark.parametrize('call, said', [
  (lambda: advantages.group_normalized([1, 0, 1, 0]),
   'rewards has shape (4,); it must be [B, G] (one prompt is rewards[None]'),
  (lambda: advantages.group_normalized([[1, 0], [1]]), 'rewards is a list'),
  (lambda: advantages.group_normalized('1010'), 'rewards is a str'),
  (lambda: pg(advantages=np.ones(3)),
   'one number a row is advantages[:, None]'),
  (lambda: pg(advantages=np.ones(5)), 'one row is advantages[None]'),
  (lambda: pg(mask=np.ones((5, 3))), '[B, T] = (3, 5), by the shape of logps'),
  (lambda: pg(old_logps=None), 'old_logps is None'),
  (lambda: preference.dpo(*[np.ones(3)] * 4),
   'it must be a posttrain_jax.types.SequenceSignals of logps'),
  (lambda: supervised.nll({'logps': 1.0}, np.ones((2, 3))),
   'signals is a dict'),
  (lambda: weighted(np.ones((2, 3)), Facts(1, 1, 9)), 'parts is an array'),
  (lambda: rollout.decoders.greedy(np.ones(4), None),
   'logits has shape (4,)'),
])  # fmt: skip
def test_the_sentence_helps(call, said):
  with pytest.raises(ValueError) as error:
    call()
  assert said in str(error.value)


def pg(**changed):
  names = ('logps', 'old_logps', 'advantages', 'mask')
  return policy_gradient.ppo_clip(
    **{name: np.ones((3, 5), np.float32) for name in names} | changed
  )


def test_an_advantage_a_row_goes_along_its_row():
  logps = -jnp.ones((3, 3))
  rows = jnp.array([1.0, 2.0, 3.0])
  loss, _ = pg(logps=logps, old_logps=logps, advantages=rows[:, None],
               mask=jnp.ones((3, 3)))  # fmt: skip
  np.testing.assert_allclose(loss, -np.repeat([[1], [2], [3]], 3, 1))
  with pytest.raises(ValueError, match='advantages'):
    pg(logps=logps, old_logps=logps, advantages=rows, mask=jnp.ones((3, 3)))


def test_what_a_function_reads_is_seen_as_before():
  read = lambda name: arrays.signals_read_by(getattr(supervised, name))
  assert read('nll') == {'logps'}
  assert read('psft') == {'logps', 'old_logps'}


def test_it_costs_nothing_once_compiled():
  text = lambda f: (
    jax.jit(f).lower(*[np.ones((3, 5), np.float32)] * 4).as_text()
  )
  bare = policy_gradient.ppo_clip.__wrapped__
  assert text(policy_gradient.ppo_clip) == text(bare)


def test_it_sees_what_a_transformation_shows():
  x = jnp.ones((4, 3, 5))
  total = lambda *given: policy_gradient.ppo_clip(*given)[0].sum()
  slopes = jax.vmap(jax.grad(total))
  assert slopes(-x, -x, x, x).shape == x.shape
  with pytest.raises(ValueError, match='advantages has shape'):
    slopes(-x, -x, x[:, 0], x)
  step = lambda carry, given: (carry, total(*given))
  assert jax.lax.scan(step, 0, (-x, -x, x, x))[1].shape == (4,)
  with pytest.raises(ValueError, match='mask has shape'):
    jax.lax.scan(step, 0, (-x, -x, x, x[:, :, 0]))
  with pytest.raises(ValueError, match='rewards has shape'):
    jax.jit(jax.vmap(advantages.group_normalized))(x[0])
