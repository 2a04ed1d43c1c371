"""Every recipe of configs/sft.py trains: its loss falls on its own rows."""

import pytest
import recipe_runs

from configs import recipes

# Losses that start every step from the same value say nothing over steps.
WATCHED = {'psft': 'nll'}
# Loops whose own answers get better: tested below, with their sampler.
LOOPS = {
  'nft': [],
  'raft': [],
  'expert_iteration': [('ref.refresh_every', '2')],
}
QUICK = ('sft', 'psft', 'una', 'nft')


def rows(names):
  return [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in names
  ]


@pytest.mark.parametrize('name', rows(recipes.SFT))
def test_the_loss_falls(name):
  if name == 'nft':
    pytest.skip('its loss is 0 at each first update; see the loops')
  found = recipe_runs.learn_on_one_batch('sft', name)
  watched = found[WATCHED.get(name, 'loss')]
  assert watched[-1] < watched[0], watched


@pytest.mark.parametrize('name', rows(LOOPS))
def test_own_answers_get_better(name):
  found = recipe_runs.repeat_step('sft', name, *LOOPS[name])
  assert found['reward'][-1] > found['reward'][0], found['reward']


def test_the_start_is_right_sometimes():
  """Else there would be nothing to choose from."""
  _, nll = recipe_runs.warm_start()
  assert nll[-1] < 0.5 * nll[0]
