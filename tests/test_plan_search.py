"""Which other settings are tried, and in what order."""

import types

import ml_collections

from configs import sft
from posttrain_jax.run import build
from posttrain_jax.run.plan import search


def run_of(**values):
  config = sft.get_config('task=addition')
  config.prompts_per_step = 16
  config.model.preset = 'depth-1'
  with config.model.ignore_type():
    config.microbatch_rows = 0
    for key, value in values.items():
      config.model[key] = value
  return build.build(config)


def judged(fits):
  """(judge, what it was asked): `fits` says which configs do."""
  asked = []

  def judge(config):
    asked.append((config.microbatch_rows, config.model.remat is True))
    return search.Verdict(1, fits(config))

  return judge, asked


def everything(changes):
  del changes
  return True


def test_rows_are_halved_until_they_fit():
  judge, asked = judged(lambda c: c.microbatch_rows == 4)
  fit, tried = search.search(run_of(remat=True), judge, everything, 3)
  assert [x.changes for x in fit] == [{'microbatch_rows': 4}]
  assert asked[:2] == [(8, True), (4, True)]
  assert fit[0].told == 'microbatch_rows=4'
  assert len(tried) == len(asked)


def test_every_knob_that_is_enough_alone_is_told():
  judge, _ = judged(lambda c: c.microbatch_rows == 8 or c.model.remat is True)
  fit, _ = search.search(run_of(), judge, everything, 9)
  assert [x.told for x in fit] == ['microbatch_rows=8', 'model.remat=True']


def test_knobs_are_turned_together_where_none_is_enough():
  judge, asked = judged(
    lambda c: c.microbatch_rows == 1 and c.model.remat is True
  )
  fit, _ = search.search(run_of(), judge, everything, 9)
  assert fit[-1].changes == {'microbatch_rows': 1, 'model.remat': True}
  assert asked[-1] == (1, True)


def test_what_arithmetic_rules_out_is_not_compiled():
  judge, asked = judged(lambda c: c.microbatch_rows == 2)
  hope = lambda changes: changes.get('microbatch_rows', 99) <= 2
  fit, _ = search.search(run_of(remat=True), judge, hope, 9)
  assert asked[0] == (2, True)
  assert fit[0].told == 'microbatch_rows=2'


def test_no_more_is_compiled_than_is_allowed():
  judge, asked = judged(lambda c: False)
  fit, tried = search.search(run_of(), judge, everything, 2)
  assert not fit and len(tried) == len(asked) == 2


def test_copies_become_shards():
  config = ml_collections.ConfigDict(
    {'mesh': {'data': 8, 'fsdp': 4}, 'optimizer': {}}
  )
  sizes = types.SimpleNamespace(
    microbatch_rows=32, minibatch_rows=32, row_tokens=64
  )
  model = types.SimpleNamespace(remat=True, logit_chunk=0, attention_chunk=0)
  run = types.SimpleNamespace(
    config=config, sizes=sizes, model=model, generate=None
  )
  assert search.knobs(run) == [
    [
      {'mesh.fsdp': 8, 'mesh.data': 4},
      {'mesh.fsdp': 16, 'mesh.data': 2},
      {'mesh.fsdp': 32, 'mesh.data': 1},
    ]
  ]
