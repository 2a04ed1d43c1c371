"""In-graph tasks: one protocol for all of them.

What each task asks and answers is checked in test_task_answers.py.
"""

import dataclasses
import functools
import importlib
import importlib.util
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import tasks
from posttrain_jax.core.types import Example
from posttrain_jax.tasks import base, vocab

NUM_PROBLEMS = 64

# Settings besides the defaults; a task with a chain of thought is also tried
# with it, here or on its own.
SETTINGS = {
  'addition': [
    {'num_digits': 2, 'reverse': True, 'chain_of_thought': True},
  ],
  'multiplication': [{'num_digits': 4, 'chain_of_thought': True}],
  'modular': [{'modulus': 2, 'operations': '-', 'chain_of_thought': True}],
  'sorting': [
    {
      'length': 2,
      'max_value': 1000,
      'order': 'descending',
      'chain_of_thought': True,
    }
  ],
  'list_functions': [
    {'depth': 4, 'length': 1, 'functions': 'tew', 'chain_of_thought': True}
  ],
  'facts': [{'split': 'heldout', 'num_values': 700, 'table_seed': 3}],
  'catalogue': [{'items': 9, 'letters': 26, 'groups': 1, 'zipf': 0.0}],
  'entity_tracking': [
    {'num_boxes': 9, 'num_items': 5, 'num_moves': 1, 'chain_of_thought': True}
  ],
  'card_sums': [{'num_cards': 2, 'rules': '725|111', 'chain_of_thought': True}],
  'calculator': [{'num_operands': 5, 'num_digits': 1, 'max_calls': 4}],
  'dictionary': [{'num_words': 26, 'word_length': 1, 'reverse': True}],
}
# One right answer: any other text is wrong.
EXACT = ('addition', *(name for name in SETTINGS))


def settings(defaults_only: bool = False):
  for name in tasks.__all__:
    if importlib.util.find_spec(f'posttrain_jax.tasks.{name}') is None:
      reason = f'tasks/{name}.py is not written yet'
      yield pytest.param(name, {}, marks=pytest.mark.skip(reason), id=name)
      continue
    fields = dataclasses.fields(type(tasks.make(name)))
    yield pytest.param(name, {}, id=name)
    if defaults_only:
      continue
    knobs_think = any('chain_of_thought' in k for k in SETTINGS.get(name, []))
    if 'chain_of_thought' in [f.name for f in fields] and not knobs_think:
      yield pytest.param(name, {'chain_of_thought': True}, id=f'{name}-thought')
    for knobs in SETTINGS.get(name, []):
      yield pytest.param(name, knobs, id=f'{name}-knobs')


def uncut(prompt, answer, size):
  """As base.example, but the buffer holds whatever the prompt needs."""
  size = max(size, prompt.tokens.shape[0])
  prompt = vocab.fit(prompt, size)
  return Example(prompt.tokens, prompt.mask, jnp.uint32(0), answer)


def problem(task, key, noise):
  """One problem, its solution and the rewards of right and wrong completions.

  noise  [2] int32, where the answer is corrupted and by how much

  Returns (example, solution, length of the whole prompt, {case: components}).
  """
  sample_key, solve_key = jax.random.split(key)
  with mock.patch.object(base, 'example', uncut):
    example = task.sample(sample_key)
  prompt_length = example.prompt_mask.sum()
  example = example.replace(
    prompt=example.prompt[: task.prompt_length],
    prompt_mask=example.prompt_mask[: task.prompt_length],
  )
  solution = task.solve(example, solve_key)
  size = task.completion_length + 8
  tokens, length = vocab.fit(solution, size)
  index = jnp.arange(size)
  marker = (tokens == vocab.token('>')) & (index < length)
  start = jnp.max(jnp.where(marker, index, -1)) + 1
  position = start + noise[0] % jnp.maximum(length - 1 - start, 1)
  shift = 1 + noise[1] % (vocab.VOCAB_SIZE - 1)
  other = (tokens[position] + shift) % vocab.VOCAB_SIZE
  # No text can end, or an answer start, inside the garbage.
  garbage = (noise[0] + noise[1] * index) % 300 - 5
  harmless = (garbage != vocab.EOS) & (garbage != vocab.token('>'))
  cases = {
    'oracle': (tokens, length),
    'impossible token': (tokens.at[position].set(vocab.token('&')), length),
    'other token': (tokens.at[position].set(other), length),
    'no answer': (tokens.at[start].set(vocab.EOS), start + 1),
    'empty': (tokens.at[0].set(vocab.EOS), 1),
    'cut': (tokens, length - 2),
    'garbage': (jnp.where(harmless, garbage, vocab.token('&')), size),
    'EOS first': (jnp.roll(tokens, 1).at[0].set(vocab.EOS), length + 1),
    'all masked': (tokens, 0),
  }
  if not type(task).__module__.endswith(EXACT):
    del cases['other token']
  completions = jnp.stack([case[0] for case in cases.values()])
  lengths = jnp.array([case[1] for case in cases.values()])
  verify = lambda completion, length: task.verify(
    example, completion, (index < length).astype(jnp.float32)
  )
  verdicts = jax.vmap(verify)(completions, lengths)
  verdicts = {
    case: {name: value[i] for name, value in verdicts.items()}
    for i, case in enumerate(cases)
  }
  return example, solution, prompt_length, verdicts


# Compiling is what these tests cost: optimisation is not worth its time.
quick_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)


@functools.cache
def compiled(task):
  return quick_jit(jax.vmap(functools.partial(problem, task)))


def inputs():
  keys = jax.random.split(jax.random.key(0), NUM_PROBLEMS)
  noise = np.random.default_rng(0).integers(0, 2**20, (NUM_PROBLEMS, 2))
  return keys, jnp.asarray(noise, jnp.int32)


@functools.cache
def problems(task):
  return jax.device_get(compiled(task)(*inputs()))


def texts(task) -> list[tuple[str, str]]:
  """(prompt, completion without its EOS) of each problem."""
  example, solution, _, _ = problems(task)
  return [
    (
      vocab.decode(example.prompt[i], example.prompt_mask[i]),
      vocab.decode(solution.tokens[i, : solution.length[i] - 1]),
    )
    for i in range(NUM_PROBLEMS)
  ]


@pytest.mark.parametrize('name, knobs', settings())
def test_oracle_is_right(name, knobs):
  *_, verdicts = problems(tasks.make(name, **knobs))
  np.testing.assert_array_equal(verdicts['oracle']['reward'], 1.0)


@pytest.mark.parametrize('name, knobs', settings())
def test_nothing_wrong_is_rewarded(name, knobs):
  *_, verdicts = problems(tasks.make(name, **knobs))
  for case, components in verdicts.items():
    for component, values in components.items():
      assert np.isfinite(values).all(), (case, component)
      if component == 'reward' and case != 'oracle':
        assert (values < 1.0).all(), case


@pytest.mark.parametrize('name, knobs', settings())
def test_everything_fits(name, knobs):
  task = tasks.make(name, **knobs)
  example, solution, prompt_length, _ = problems(task)
  assert example.prompt.shape == (NUM_PROBLEMS, task.prompt_length)
  assert example.prompt.dtype == jnp.int32
  assert (prompt_length > 0).all()
  assert (prompt_length <= task.prompt_length).all()
  index = np.arange(task.prompt_length)[None, :]
  right_padded = index < prompt_length[:, None]
  np.testing.assert_array_equal(example.prompt_mask, right_padded)
  assert (example.prompt[right_padded] >= vocab.ZERO).all()
  assert solution.tokens.shape == (NUM_PROBLEMS, task.completion_length)
  last = solution.tokens[np.arange(NUM_PROBLEMS), solution.length - 1]
  np.testing.assert_array_equal(last, vocab.EOS)
  assert np.sum(solution.tokens == vocab.EOS) == NUM_PROBLEMS


@pytest.mark.parametrize('name, knobs', settings())
def test_a_problem_depends_on_its_key_only(name, knobs):
  task = tasks.make(name, **knobs)
  example, solution, *_ = problems(task)
  backwards = compiled(task)(*(x[::-1] for x in inputs()))
  for here, there in zip(
    jax.tree.leaves((example, solution)), jax.tree.leaves(backwards[:2])
  ):
    np.testing.assert_array_equal(here, there[::-1])
  if not knobs:
    # Of a catalogue the items differ: its prompts are a few groups of users.
    kinds = texts(task) if name == 'catalogue' else [x for x, _ in texts(task)]
    assert len(set(kinds)) > NUM_PROBLEMS // 4


def one(task, key):
  """One problem, unbatched, in a buffer of exactly completion_length."""
  sample_key, solve_key = jax.random.split(key)
  example = task.sample(sample_key)
  solution = task.solve(example, solve_key)
  verdict = task.verify(example, solution.tokens, solution.mask)
  return (example, solution), verdict['reward']


def check_first_problem(task, result):
  first, reward = result
  assert reward == 1.0
  for here, there in zip(
    jax.tree.leaves(first), jax.tree.leaves(problems(task)[:2])
  ):
    np.testing.assert_array_equal(here, there[0])


@pytest.mark.parametrize('name, knobs', settings(defaults_only=True))
def test_jit_without_vmap(name, knobs):
  task = tasks.make(name, **knobs)
  run = quick_jit(functools.partial(one, task))
  check_first_problem(task, run(inputs()[0][0]))


@pytest.mark.parametrize('name', ['modular', 'facts'])
def test_eager(name):
  # Two tasks stand for all: eager, each costs seconds of tiny compilations.
  task = tasks.make(name)
  check_first_problem(task, one(task, inputs()[0][0]))


@pytest.mark.parametrize(
  'name, knobs, message',
  [
    ('multiplication', {'num_digits': 5}, 'num_digits=5 is not in 1..4'),
    ('modular', {'modulus': 1}, 'modulus=1 is not in'),
    ('modular', {'operations': '+/'}, "operations='\\+/' must be"),
    ('modular', {'operations': ''}, 'each once'),
    ('sorting', {'length': 1}, 'length=1 is not in'),
    ('sorting', {'order': 'ascend'}, 'Did you mean "ascending"'),
    ('list_functions', {'functions': 'rr'}, 'each once'),
    ('list_functions', {'depth': 0}, 'depth=0 is not in'),
    ('facts', {'split': 'held'}, 'Did you mean "heldout"'),
    ('facts', {'split': 'heldout', 'heldout_fraction': 0.0}, 'is empty'),
    ('facts', {'num_entities': 2**15}, 'pairs, more than'),
    ('countdown', {'filler': 3}, 'which chain_of_thought=false leaves out'),
    ('facts', {'abstain': 1.0}, 'abstain=1.0 is not in 0..1, 1 left out'),
    ('entity_tracking', {'num_boxes': 1}, 'num_boxes=1 is not in 2..9'),
    ('sorting', {'lenght': 3}, 'no knob "lenght".*Did you mean "length"'),
    ('sortin', {}, 'unknown task "sortin".*Did you mean "sorting"'),
  ],
)
def test_bad_knobs_are_named(name, knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make(name, **knobs)


def test_defaults_hold_every_knob():
  assert tasks.defaults('modular', modulus=7) == {
    'name': 'modular',
    'modulus': 7,
    'operations': '+-*',
    'chain_of_thought': False,
  }
