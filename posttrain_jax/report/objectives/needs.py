"""What a function has to be given, found from its signature and its program.

A parameter that the function ignores is no need: `del` in its body says so, or
its traced program, in which the loss does not depend on it.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import arrays as named
from posttrain_jax.core import shapes
from posttrain_jax.core.resolve import arrays_of, hparams_of
from posttrain_jax.core.types import SequenceSignals
from posttrain_jax.trainers import arrays

__all__ = [
  'NEEDS',
  'models_named',
  'needs_of',
  'optional_of',
  'parameters_read',
]

# Every need that can be filtered by, and what it means.
NEEDS = {
  'demonstrations': 'given answers that are imitated',
  'rollouts': 'answers that a policy of this run sampled',
  'rewards': 'rewards, verdicts or scores of answers',
  'pairs': 'a chosen and a rejected answer to one prompt',
  'labels': 'single answers marked good or bad, or rated',
  'reference policy': 'a frozen model, usually the start',
  'old policy': 'log-probabilities under the policy before the update',
  'value head': 'a scalar head on the model',
  'whole vocabulary': 'logits, not only those of the taken token',
  'entropy': 'entropy of each token',
  'teacher': 'another model that scores or writes answers',
  'other models': 'more frozen models by role',
  'hidden states': 'embeddings of answers',
  'extra arrays': 'arrays by name that come with the rows',
  'task oracle': 'a task that can solve its own problems',
  'task verifier': 'a task that can check an answer',
  'metrics': 'numbers that the step before measured',
  'whole batch': 'rows depend on each other: micro-batches change the result',
  'whole rows': 'tokens depend on their row: no packing',
}

_COLLECT = 'posttrain_jax.collect'
_ROLES = {'ref': 'reference policy', 'policy': 'old policy'}


def _positional(function: Callable) -> list[inspect.Parameter]:
  return [
    p
    for p in inspect.signature(function).parameters.values()
    if p.kind is p.POSITIONAL_OR_KEYWORD
  ]


def optional_of(function: Callable) -> list[str]:
  """Arrays that may be given and need not be, and that are read."""
  read = parameters_read(function)
  return [
    p.name
    for p in _positional(function)
    if p.default is not p.empty and p.name in read
  ]


def _deleted(function: Callable) -> set[str]:
  """Names that the body deletes: how the rooms say that they ignore one."""
  tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
  return {
    target.id
    for node in ast.walk(tree)
    if isinstance(node, ast.Delete)
    for target in node.targets
    if isinstance(target, ast.Name)
  }


_SIZES = dict(B=2, T=3, U=3, V=5, D=4, G=2, C=3, S=2, M=2, N=2)


def _example(axes: Any) -> Any:
  """Something to trace with in place of a loss's argument."""
  if isinstance(axes, str):
    shape = tuple(_SIZES[letter] for letter in axes)
    return jax.ShapeDtypeStruct(shape, jnp.float32)
  return SequenceSignals(**{name: _example(x) for name, x in axes.items()})


def _live(jaxpr: Any) -> set[Any]:
  """Variables that the outputs of a program depend on."""
  live = {v for v in jaxpr.outvars if not hasattr(v, 'val')}
  for equation in reversed(jaxpr.eqns):
    if live & set(equation.outvars):
      live |= {v for v in equation.invars if not hasattr(v, 'val')}
  return live


def _traced(function: Callable) -> set[str] | None:
  """Parameters that the loss depends on, or None where tracing failed."""
  axes = shapes.of(function).axes
  examples = {name: _example(x) for name, x in axes.items()}

  def loss(given):
    out = function(**given)
    return out[0] if isinstance(out, tuple) else out  # without its metrics

  try:
    closed = jax.make_jaxpr(loss)(examples)
  except (TypeError, ValueError):
    return None  # wants more than arrays: the signature has to do
  live = _live(closed.jaxpr)
  paths = jax.tree_util.tree_flatten_with_path(examples)[0]
  return {
    path[0].key
    for (path, _), variable in zip(paths, closed.jaxpr.invars)
    if variable in live
  }


_TRACED_ROOMS = (
  'losses.policy_gradient',
  'losses.preference',
  'losses.regularizers',
  'losses.value',
  'losses.flow',
)


def parameters_read(function: Callable) -> set[str]:
  """Arrays of a function's signature that its main result depends on."""
  named = {p.name for p in _positional(function)} | set(arrays_of(function))
  named -= _deleted(function)
  room = function.__module__.removeprefix('posttrain_jax.')
  if room.startswith(_TRACED_ROOMS):
    traced = _traced(function)
    named = named if traced is None else named & traced
  return named


def _called(function: Callable) -> set[str]:
  """Names that a function calls, itself or through helpers of its package."""
  tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
  names = {
    getattr(node.func, 'attr', getattr(node.func, 'id', ''))
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
  }
  helpers = [function.__globals__.get(name) for name in names]
  for helper in helpers:
    module = getattr(helper, '__module__', '')
    if inspect.isfunction(helper) and module.startswith(_COLLECT):
      names |= _called(helper)
  return names


def _collects(function: Callable) -> set[str]:
  """What a source of rows asks of the task and of models."""
  called = _called(function)
  needs = set()
  if called & {'solve', 'demonstrations'}:
    needs.add('task oracle')
  if called & {'attempts', 'sample'}:
    needs.add('rollouts')
  if called & {'attempts', 'verify'}:
    needs.add('task verifier')
  return needs | models_named(hparams_of(function).values())


def models_named(values: Iterable[Any]) -> set[str]:
  """The needs that stand for the roles among some hyperparameters."""
  named = {value for value in values if isinstance(value, str)}
  roles = {'ref': 'reference policy', 'teacher': 'teacher'}
  return {need for role, need in roles.items() if role in named}


def needs_of(room: str, function: Callable, module: Any) -> tuple[str, ...]:
  """Some of `NEEDS`, in that order.

  Args:
    room: such as 'losses.preference'.
    function: one of its public functions.
    module: the room.
  """
  name = function.__name__
  read = parameters_read(function)
  if 'signals' in read:
    read |= arrays.signals_read_by(function)
  needs = {need for array in read for need in named.needs(array)}
  scored_by = named.scored_by()
  for array in read & scored_by.keys():
    role = scored_by[array]
    known = _ROLES.get(role, role)
    needs.add(known if known in NEEDS else 'other models')
  extra = set(arrays_of(function)) & read
  if 'chosen_rewards' in read:  # given, or what a reward model says
    needs.add('rewards' if 'chosen_rewards' in extra else 'value head')
  if room == 'losses.reward_model' and 'rewards' in needs:
    needs = needs - {'rewards'} | {'value head'}
  unnamed = {array for array in extra if not named.needs(array)}
  if unnamed - scored_by.keys() - set(named.inside_update()):
    needs.add('extra arrays')
  if (
    room == 'losses.supervised' and not needs & {'rewards'} or 'expert' in read
  ):
    needs.add('demonstrations')
  if room == 'losses.policy_gradient':
    needs.add('rollouts')
  if room == 'losses.distillation':
    needs.add('whole vocabulary')
  if room == 'collect':
    needs = _collects(function)
  if room == 'rewards.arrays':
    needs = {'rollouts', *(['rewards'] if 'parts' in read else [])}
  if room in ('controllers', 'curricula'):
    needs = {'metrics'} if function().reads else set()
  if room == 'rollout.decoders':
    needs = set()
  for key, need in (
    ('WHOLE_BATCH', 'whole batch'),
    ('WHOLE_ROWS', 'whole rows'),
  ):
    if name in getattr(module, key, ()):
      needs.add(need)
  return tuple(need for need in NEEDS if need in needs)
