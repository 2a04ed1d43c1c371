"""A further kind of trainer is a file of its own and its name in `KINDS`."""

import sys
import types

import numpy as np
import pytest

from posttrain_jax import trainers
from posttrain_jax.core.keys import seed_key
from posttrain_jax.lab import alike
from posttrain_jax.models import transformer
from posttrain_jax.run import build, domains, drivers
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.domains import Word

ITEMS = [
  ('model.preset', 'depth-1'), ('task.num_digits', '1'), ('num_steps', '2'),
  ('prompts_per_step', '4'), ('eval.num_problems', '0'),
  ('optimizer.lr', '0.001'), ('optimizer.warmup_updates', '0'),
]  # fmt: skip


@pytest.fixture
def echo(monkeypatch):
  """SFT under another name, as a file beside it would have it."""
  sft = vars(trainers.kind('sft'))
  own = types.ModuleType('posttrain_jax.trainers.echo')
  vars(own).update({name: sft[name] for name in trainers.PROTOCOL})
  monkeypatch.setitem(sys.modules, own.__name__, own)
  # What the one line changes, where it was read when this was imported.
  kinds = (*trainers.KINDS, 'echo')
  monkeypatch.setattr(trainers, 'KINDS', kinds)
  monkeypatch.setitem(domains.KEYS, 'paradigm', Word(kinds))


def losses(*more):
  config = config_lib.load('configs/sft.py', [*ITEMS, *more])
  run = build.build(config)
  alike.learns(run.config)
  params = transformer.init(seed_key(0), run.model)
  driver = drivers.InGraph(run.step, seed=0, steps_per_call=2)
  _, metrics, _ = driver.advance(run.init({'policy': params}), 0, 2)
  return np.asarray(metrics['loss'])


def test_a_fifth_kind_trains(echo):
  found = losses(('paradigm', 'echo'))
  np.testing.assert_array_equal(found, losses())
  # What is usual for a kind nobody knows of a new one.
  with pytest.raises(ValueError, match='optimizer.lr.*echo'):
    losses(('paradigm', 'echo'), ('optimizer.lr', 'auto'))
