"""Which other settings are tried, and in what order."""

import dataclasses
import types

import ml_collections

from configs import sft
from posttrain_jax.run import build
from posttrain_jax.run.plan import search, topology, trying


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


def test_what_takes_no_less_is_not_turned_together_with_others():
  # Moments in int8 cost more than they save here; two others save too little.
  sizes = {'optimizer.moments': 120, 'offload.moments': 60, 'microbatch': 80}
  taken = []

  def judge(config):
    turned = {
      'optimizer.moments': config.optimizer.moments == 'int8',
      'offload.moments': config.offload.moments,
      'microbatch': config.microbatch_rows == 1,
    }
    taken.append({name for name, on in turned.items() if on})
    total = min([sizes[name] for name in taken[-1]], default=100)
    return search.Verdict(total, len(taken[-1]) > 1)

  run = run_of(remat=True)
  run.config.optimizer.name = 'adamw'
  fit, _ = search.search(run, judge, everything, 20, 100)
  assert {'optimizer.moments'} in taken and fit
  assert all('optimizer.moments' not in one.changes for one in fit)
  taken.clear()
  fit, _ = search.search(run, judge, everything, 20)
  assert 'optimizer.moments' in fit[0].changes  # nothing was said of it


def test_a_kernel_has_no_scores_to_cut():
  keys = lambda run: {key for one in search.knobs(run) for key in one[0]}
  run = run_of(attention_chunk=0)
  sizes = dataclasses.replace(run.sizes, row_tokens=2048)
  for attention, cut in (('plain', True), ('splash', False)):
    model = dataclasses.replace(run.model, attention=attention)
    other = dataclasses.replace(run, models={'policy': model}, sizes=sizes)
    assert ('model.attention_chunk' in keys(other)) == cut


def test_more_devices_are_shards_and_each_has_a_row():
  run = run_of()
  run.config.mesh.fsdp = 8
  sizes = dataclasses.replace(run.sizes, microbatch_rows=8)
  run = dataclasses.replace(run, sizes=sizes)
  spread = lambda name: trying.spread(run, 8, topology.parse(name))
  shards = {'mesh.fsdp': 16, 'mesh.data': 1}
  assert spread('v5e:4x4') == {**shards, 'microbatch_rows': 16}
  whole = dataclasses.replace(run.sizes, microbatch_rows=16)
  run = dataclasses.replace(run, sizes=whole)
  assert spread('v5e:4x4') == shards


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
  model = types.SimpleNamespace(
    remat=True, logit_chunk=0, attention_chunk=0, attention='plain'
  )
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
