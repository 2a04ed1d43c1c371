"""Tasks in turns: their knobs, behind conditions and in mixtures."""

import jax
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.rollout import environments
from posttrain_jax.tasks import conditioned
from posttrain_jax.tasks.mixture import Mixture


def test_mixtures_refuse_tasks_in_turns():
  parts = tasks.make('addition'), tasks.make('calculator')
  with pytest.raises(ValueError, match='"1_calculator" is played in turns'):
    Mixture(parts, (1.0, 1.0))


# Conditions that a task in turns may have; the others refuse one.
PASSED_ON = ('feedback', 'direction')


@pytest.mark.parametrize(
  'condition', sorted(set(conditioned.CONDITIONS) - set(PASSED_ON))
)
def test_other_conditions_refuse_turns(condition):
  refused = 'no knob "prune"' if condition == 'mode' else 'in turns already'
  with pytest.raises(ValueError, match=f'^{condition}: .*{refused}'):
    conditioned.wrap(tasks.make('frozen_lake_game'), condition)


@pytest.mark.parametrize('condition', PASSED_ON)
def test_conditions_pass_environments_on(condition):
  plain = conditioned.wrap(tasks.make('addition'), condition)
  assert getattr(plain, 'guide', None) is None
  inner = tasks.make('frozen_lake_game')
  task = conditioned.wrap(inner, condition)
  assert task.guide == inner.guide

  @quick_jit
  def run(key):
    example = task.sample(key)
    text = task.solve(example, key)
    verdict = task.verify(example, text.tokens, text.mask)
    one = jax.tree.map(lambda x: x[None], (example, text.tokens))
    return text, verdict, environments.given(task, *one)

  text, verdict, given = run(jax.random.key(0))
  right = verdict.get('task_reward', verdict['reward'])
  assert right == 1.0 and verdict['steps'] == text.length // 2
  # Moves and answers take turns; none follows the last move.
  expected = (np.arange(text.tokens.size) % 2 == 1) & (
    np.arange(text.tokens.size) < int(text.length) - 1
  )
  np.testing.assert_array_equal(given[0], expected)


@pytest.mark.parametrize(
  'name, knobs, message',
  [
    ('calculator', {'num_operands': 1}, 'num_operands=1 is not in 2..16'),
    ('calculator', {'num_digits': 0}, 'num_digits=0 is not in 1..9'),
    ('calculator', {'num_digits': 4}, 'values of 12 digits, more than 9'),
    ('calculator', {'operators': '+/'}, r"operators='\+/' must be some"),
    ('calculator', {'max_calls': 1}, 'max_calls=1 is not in num_operands-1=2'),
    ('calculator', {'max_call': 4}, 'Did you mean "max_calls"'),
    ('dictionary', {'word_length': 6}, 'word_length=6 is not in 1..5'),
    ('dictionary', {'num_words': 27, 'word_length': 1}, 'is not in 1..26'),
    ('dictionary', {'sentence_length': 0}, 'sentence_length=0 is not in'),
    ('dictionary', {'max_calls': 2}, 'max_calls=2 is not in sentence_length=3'),
    ('frozen_lake_game', {'observe': 'nine'}, 'Did you mean "none"'),
    ('frozen_lake_game', {'slippery': 1.5}, 'slippery=1.5 is not in 0..1'),
    ('frozen_lake_game', {'size': 7}, r'max_moves=12 is not in 2\*size=14'),
    ('frozen_lake_game', {'size': 13}, 'size=13 is not in 2..12'),
    ('sokoban_game', {'num_pushes': 17}, 'num_pushes=17 is not in 1..max_mov'),
  ],
)  # fmt: skip
def test_bad_knobs_are_named(name, knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make(name, **knobs)
