"""The best step is kept, named, found again, and gone on from."""

import json

import pytest
from test_checkpoint import CONFIG, abstract, state_of

from posttrain_jax.run import best, checkpoint, stored


class Info:
  def __init__(self, step):
    self.step = step


def kept(keeper, *steps):
  stays = keeper.should_preserve([Info(s) for s in steps], context=None)
  return [step for step, stay in zip(steps, stays) if stay]


@pytest.mark.parametrize(
  'metric, lower',
  [
    ('eval/loss', True),
    ('eval/perplexity', True),
    ('eval/addition/truncated', True),
    ('eval/accuracy', False),
    ('eval/pass@8', False),
    ('eval/token_accuracy', False),
    ('eval/rewards/margins', False),
    ('eval/rewards/odd/none', True),
    ('eval/rewards/unscored', True),
    ('eval/rewards/none_wrong', False),
    ('eval/rewards/none', False),
    ('eval/rewards/unscored_ones', False),
  ],
)
def test_the_name_says_which_way_is_better(metric, lower):
  assert best.lower_is_better(metric) == lower


def test_the_best_stays_beside_the_newest(tmp_path):
  keeper = best.Keeper(tmp_path, 'eval/accuracy', keep=2)
  assert keeper.improves({'eval/accuracy': 0.5}, 1)
  assert keeper.improves({'eval/accuracy': 0.7}, 2)
  assert not keeper.improves({'eval/accuracy': 0.7}, 3)  # the first one stays
  assert not keeper.improves({'eval/accuracy': float('nan')}, 4)
  assert kept(keeper, 1, 2, 3, 4) == [2, 3, 4]
  assert kept(keeper, 2, 3, 4, 5) == [2, 4, 5]


def test_no_best_keeps_the_newest_and_zero_keeps_all(tmp_path):
  assert kept(best.Keeper(tmp_path, '', keep=1), 1, 2, 3) == [3]
  assert kept(best.Keeper(tmp_path, '', keep=0), 1, 2, 3) == [1, 2, 3]
  assert not best.Keeper(tmp_path, '', keep=1).improves({'eval/loss': 0.0}, 1)


def test_a_metric_that_is_not_there_names_the_nearest(tmp_path):
  keeper = best.Keeper(tmp_path, 'eval/accurcy', keep=1)
  with pytest.raises(ValueError, match='Did you mean "eval/accuracy"'):
    keeper.improves({'eval/accuracy': 0.5}, 1)


def test_a_run_goes_on_from_its_best_and_names_it(tmp_path):
  checkpoint.save_config(tmp_path, CONFIG)
  losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5}
  for steps in ((1, 2), (3, 4)):  # stopped in between
    with checkpoint.Checkpointer(tmp_path, 1, 'eval/loss') as saver:
      for step in steps:
        good = saver.keeper.improves({'eval/loss': losses[step]}, step)
        saver.save(step, state_of(step), best=good)
      saver.wait()
  assert checkpoint.steps(tmp_path) == [4, 2]
  assert json.loads((tmp_path / best.FILE).read_text()) == {
    'metric': 'eval/loss', 'value': 1.0, 'step': 2,
  }  # fmt: skip
  assert stored.run_folder(tmp_path / 'best') == (tmp_path, 2)
  params = checkpoint.load_params(tmp_path / 'best', abstract().params)
  assert float(params['final_norm'][0]) == 2.0
  with pytest.raises(ValueError, match='by "eval/loss", not by'):
    checkpoint.Checkpointer(tmp_path, 1, 'eval/accuracy')


def test_a_file_that_names_nothing_is_refused(tmp_path):
  (tmp_path / best.FILE).write_text('{"metric": "eval/loss"}')
  with pytest.raises(ValueError, match='best.json: not the best step'):
    best.read(tmp_path)
