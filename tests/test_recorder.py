"""What the loop of a run says of its steps on the host."""

import types

import numpy as np
import pytest

from posttrain_jax.run import failed, loop, recorder
from posttrain_jax.trainers import guard


class Quiet:
  """A writer and a bar that take everything."""

  write_stacked = update = lambda *_: None


@pytest.mark.parametrize('alike, size, advantage, told', [
  (1.0, 4, 'group_normalized', 1), (0.75, 4, 'group_normalized', 0),
  # The compiled mean of 41 ones.
  (1.0 - 2.0**-23, 4, 'leave_one_out', 1), (1.0, 1, 'group_normalized', 0),
  (1.0, 4, 'gae', 0), (1.0, 4, 'batch_whitened', 0),
])  # fmt: skip
def test_steps_in_which_no_two_answers_differed(
  alike, size, advantage, told, capsys
):
  """Are told at the end, where all were so and a method compares them; of one
  answer none can differ."""
  speed = types.SimpleNamespace(metrics=lambda *_: {})
  watch = failed.Watch('stop', 4)
  made = recorder.Recorder(Quiet, Quiet, 0, watch, speed)
  for first in (1, 3):
    shares = np.array([1.0, alike])
    metrics = {recorder.UNIFORM: shares, 'num_tokens': np.ones(2)}
    metrics['reward'] = np.array([0.0, 0.25])
    made.push(first, metrics | {guard.WHAT: np.zeros(2)}, 2)
  made.drain()
  assert (made.grouped, made.alike) == (4, 2 + 2 * (alike > 0.9))
  keys = {'group_size': size, 'advantage': {'name': advantage}}
  loop._tell_end('runs/x', made, keys)
  said = capsys.readouterr().err
  assert said.count('in none of 4 steps did two answers to a problem') == told
  assert said.count('of the last they are 0.25 on average') == told
