"""Parts of the study of budgets, by hand."""

import pytest

from experiments.budget import design as budget
from experiments.budget import run as budget_run


@pytest.mark.parametrize('name', budget.SETTINGS)
def test_every_share_spends_the_whole_budget(name):
  own = budget.SETTINGS[name]
  for share in budget.SHARES.values():
    demonstrations, pairs = own.counts(share)
    spent = own.price * demonstrations + pairs
    assert abs(spent - own.budget) <= 0.5 * (1.0 + own.price)
  assert own.counts(1.0) == (own.budget / own.price, 0)
  assert own.counts(0.0) == (0, own.budget)
  if own.tuned:
    assert budget.SETTINGS[own.tuned].task == own.task
    assert not budget.SETTINGS[own.tuned].tuned


def test_an_example_is_as_many_rows_in_either_stage():
  """Four epochs of demonstrations, two of pairs, which are two rows each."""
  scale = budget.SCALES['full']
  for count in (100, 1000, 10000):
    rows = {
      kind: scale.steps(kind, count) * budget.ROWS * each
      for kind, each in (('sft', 1), ('dpo', 2))
    }
    for seen in rows.values():
      assert abs(seen / (count * scale.epochs) - 1.0) < 0.1
  assert scale.steps('sft', 1) == scale.steps('dpo', 1) == 1


def test_who_writes_the_wrong_answers():
  """The base where they are plain, else a writer."""

  class Bench(budget_run.Bench):
    def __init__(self):
      self.scale, self._lab, self.roles = budget.SCALES['full'], self, None

    def train(self, name, config, start, hparams, roles):
      self.roles = roles

    def base(self, preset):
      return f'base {preset}'

    def writer(self, own):
      return f'writer of {own.task}'

  bench = Bench()
  for name, writer in (
    ('cot_4000', 'writer of cot'),
    ('cot_4000_plain', 'base pico'),
    ('cot_4000_dear_plain', 'base pico'),
    ('style_200', 'writer of style'),
  ):
    bench.dpo(budget.SETTINGS[name], None, 100, 1e-4)
    assert bench.roles == {'writer': writer}
