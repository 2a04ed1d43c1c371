"""One base for several seeds, and labs that share compiled programs."""

import dataclasses

import jax
import numpy as np
import pytest

from posttrain_jax import lab
from posttrain_jax.run import config as config_lib


def tiny():
  return config_lib.load(
    'configs/sft.py:smoke',
    [
      ('model.preset', 'depth-1'), ('task.num_digits', '1'),
      ('optimizer.schedule', 'constant'), ('optimizer.warmup_updates', '0'),
      ('num_steps', '2'), ('steps_per_call', '2'), ('prompts_per_step', '4'),
    ],
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mean:
  """A measurement that depends on the parameters and on the seed's key."""

  def __call__(self, params, base_params, key):
    total = sum(x.mean() for x in jax.tree.leaves(params))
    return {'mean': total, 'drawn': jax.random.uniform(key)}


@pytest.mark.long
def test_one_base_is_the_start_of_several_seeds(tmp_path):
  alone = lab.Lab(tmp_path, [5], brief=True)
  rate = {'optimizer.lr': 1e-2}
  base = alone.train('base', tiny(), hparams=rate)
  shared = base.for_seeds(2)
  assert len(shared.account) == 2 and shared.digest != base.digest
  for one, two in zip(
    jax.tree.leaves(base.params), jax.tree.leaves(shared.params)
  ):
    np.testing.assert_array_equal(np.repeat(one, 2, axis=0), two)
  runs = lab.Lab(tmp_path, [5, 6])
  found = runs.measure(shared, Mean())
  assert found['mean'][0] == found['mean'][1]
  assert found['drawn'][0] != found['drawn'][1]
  # What another number of seeds measured of it is not taken for this.
  more = lab.Lab(tmp_path, [5, 6, 7]).measure(base.for_seeds(3), Mean())
  assert more['drawn'][:2] == pytest.approx(found['drawn'])
  assert len(more['drawn']) == 3
  # Seeds part from one start, and a lab like another compiles nothing again.
  first = runs.train('on', tiny(), shared, rate)
  kernel = jax.tree.leaves(first.params)[0]
  assert not np.allclose(kernel[0], kernel[1])
  again = lab.Lab(tmp_path / 'other', [5, 6], like=runs)
  programs = dict(runs._programs)
  second = again.train('on', tiny(), shared, rate)
  assert again._programs == programs
  np.testing.assert_allclose(jax.tree.leaves(second.params)[0], kernel)


def test_what_is_not_alike_is_refused(tmp_path):
  runs = lab.Lab(tmp_path, [0, 1])
  with pytest.raises(ValueError, match='3 seeds cannot take .* one of 2'):
    lab.Lab(tmp_path, [0, 1, 2], like=runs)


def test_a_stage_of_several_seeds_is_not_shared(tmp_path):
  stage = lab.Trained(
    name='two', config=None, hparams={}, account=({}, {}), curves={},
    digest='d', commit='c', wall_seconds=0.0, path=tmp_path, snapshots={},
  )  # fmt: skip
  with pytest.raises(ValueError, match='stage "two" has 2 seeds'):
    stage.for_seeds(4)


def test_a_base_of_each_seeds_own_is_the_same_whichever_lab_asks(tmp_path):
  """The order of seeds is of the program, and so of its stage."""
  study = lab.Lab(tmp_path, range(4, 7))
  tuning = study.beside((100, 101, 100))  # two rates side by side
  found = [lab.of_all(x, (100, 101), range(4, 7)) for x in (study, tuning)]
  assert [x.seeds for x in found] == [(100, 101, 4, 5, 6)] * 2
  assert lab.own_rows(study, found[0]) == [2, 3, 4]
  assert lab.own_rows(tuning, found[1]) == [0, 1, 0]
  other = study.beside((7,))
  assert lab.of_all(other, (100,)).seeds == (100, 7)
  with pytest.raises(ValueError, match=r'no stage of seed 7, but of \[100'):
    lab.own_rows(other, found[0])
