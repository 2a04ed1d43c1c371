"""A mixture of tasks is a task: it draws, verifies and solves by part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import tasks
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.mixture import Mixture

ROWS = 64


@dataclasses.dataclass(frozen=True)
class Echo:
  """'?7' -> '7', with a component of the reward that other tasks lack."""

  prompt_length = 2
  completion_length = 2

  def sample(self, key):
    digit = jax.random.randint(key, (), 0, 10)
    prompt = vocab.join(vocab.literal('?'), vocab.number(digit, 1))
    return base.example(prompt, {'digit': digit}, 2)

  def verify(self, example, completion, mask):
    # The prompt must come back in its own size.
    assert example.prompt.shape == (2,)
    right = base.exact_match(
      vocab.number(example.answer['digit'], 1), completion, mask
    )
    return right | {'format': vocab.is_digit(completion[0]).astype(jnp.float32)}

  def solve(self, example, key):
    del key
    return base.finish(vocab.number(example.answer['digit'], 1), 2)


MIXTURE = Mixture(
  tasks=(
    tasks.make('modular', operations='+'),
    Echo(),
    tasks.make('modular', modulus=7, operations='+', chain_of_thought=True),
    tasks.make('multiplication'),
  ),
  weights=(1, 2.0, 1, 0),
)


@pytest.fixture(scope='module')
def drawn():
  def run(key):
    example = MIXTURE.sample(key)
    solution = MIXTURE.solve(example, key)
    wrong = solution.tokens.at[solution.length - 2].add(1)
    verify = lambda tokens: MIXTURE.verify(example, tokens, solution.mask)
    return (
      example,
      solution,
      jax.vmap(verify)(jnp.stack([solution.tokens, wrong])),
    )

  keys = jax.random.split(jax.random.key(0), ROWS)
  return jax.device_get(jax.jit(jax.vmap(run))(keys))


def test_sizes_are_maxima():
  parts = MIXTURE.tasks
  assert MIXTURE.prompt_length == max(task.prompt_length for task in parts)
  assert MIXTURE.completion_length == max(
    task.completion_length for task in parts
  )


def test_tasks_are_drawn_by_weight(drawn):
  counts = np.bincount(drawn[0].answer['task'], minlength=4)
  # 1/4, 1/2, 1/4 of 64; four standard deviations are 14 to 16.
  assert abs(counts[0] - 16) <= 14 and abs(counts[1] - 32) <= 16
  assert abs(counts[2] - 16) <= 14 and counts[3] == 0


def test_prompt_and_solution_are_of_the_drawn_task(drawn):
  example, solution, _ = drawn
  for i, task in enumerate(example.answer['task']):
    prompt = vocab.decode(example.prompt[i], example.prompt_mask[i])
    text = vocab.decode(solution.tokens[i, : solution.length[i] - 1])
    if task == 1:
      assert text == prompt[1]
    else:
      assert prompt.endswith({0: ')%97=', 2: ')%7='}[int(task)])
      assert int(text.split('>')[-1]) == eval(prompt[:-1])
      assert ('>' in text) == (task == 2)


def test_answers_of_other_tasks_are_zero(drawn):
  answer = drawn[0].answer
  assert set(answer) == {
    'task',
    '0_modular',
    '1_test_mixture',
    '2_modular',
    '3_multiplication',
  }
  np.testing.assert_array_equal(answer['3_multiplication']['terms'], 0)
  others = answer['task'] != 0
  np.testing.assert_array_equal(answer['0_modular']['terms'][others], 0)
  assert answer['0_modular']['terms'][~others].any()


def test_verdicts(drawn):
  example, _, verdicts = drawn
  np.testing.assert_array_equal(verdicts['reward'][:, 0], 1.0)
  np.testing.assert_array_equal(verdicts['reward'][:, 1], 0.0)
  # Only one task has this component; it is 0 for the others.
  np.testing.assert_array_equal(
    verdicts['format'][:, 0], example.answer['task'] == 1
  )


def test_without_vmap_the_same_problem_is_drawn(drawn):
  key = jax.random.split(jax.random.key(0), ROWS)[5]
  example = jax.jit(MIXTURE.sample)(key)
  for here, there in zip(jax.tree.leaves(example), jax.tree.leaves(drawn[0])):
    np.testing.assert_array_equal(here, there[5])


@pytest.mark.parametrize(
  'parts, weights, message',
  [
    ((), (), 'tasks is empty'),
    ((Echo(),), (1.0, 2.0), '2 weights for 1 tasks'),
    ((Echo(), Echo()), (1.0, -1.0), 'not negative'),
    ((Echo(),), (0.0,), 'at least one positive'),
    ((Echo(),), (float('nan'),), 'finite'),
  ],
)
def test_bad_mixtures_are_refused(parts, weights, message):
  with pytest.raises(ValueError, match=message):
    Mixture(tasks=parts, weights=weights)
