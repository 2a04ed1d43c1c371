"""Arithmetic of a plan's memory, and programs that are compiled once."""

import dataclasses

import pytest

from posttrain_jax.models import remat
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import memory, programs, show, topology
from posttrain_jax.run.plan.lowering import Before

SHAPES = 'configs/models/shapes/'


@pytest.fixture(scope='module')
def run():
  items = {
    'init_from': SHAPES + 'Qwen3-0.6B',
    'tokenizer': 'task',
    'prompts_per_step': 8,
    'group_size': 4,
    'max_new_tokens': 64,
    'slots': 0,
    'model.dtype': 'bfloat16',
  }
  pairs = [(key, str(value)) for key, value in items.items()]
  return build.build(
    config_lib.load('configs/rl.py:recipe=grpo,task=addition', pairs)
  )


def other(run, **values):
  model = dataclasses.replace(run.model, **values)
  return dataclasses.replace(run, models={**run.models, 'policy': model})


def mesh(**sizes):
  every = ('data', 'fsdp', 'tensor', 'sequence', 'expert')
  return topology.abstract_mesh({axis: sizes.get(axis, 1) for axis in every})


def test_what_recomputes_less_keeps_more(run):
  order = ['full', 'save_attention', 'save_branches', 'save_all_but_mlp',
           'save_all_but_up', 'dots_no_batch', 'dots', 'none']  # fmt: skip
  assert set(order) == set(remat.POLICIES)
  for attention in ('plain', 'splash'):
    sizes = [
      memory.activations(other(run, remat=name, attention=attention), mesh())
      for name in order
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes) - (attention == 'splash')


def test_what_a_layer_keeps_by_hand(run):
  full, saved = (
    memory.activations(other(run, remat=name, attention='splash'), mesh())
    for name in ('full', 'save_branches')
  )
  tokens = run.sizes.rows * run.sizes.row_tokens
  rows = run.sizes.microbatch_rows or run.sizes.minibatch_rows
  tokens = rows * run.sizes.row_tokens
  # What attention found, 16 heads of 128, and what the MLP reads, in bfloat16.
  assert saved - full == 28 * tokens * (16 * 128 + 1024) * 2


def test_a_kernel_holds_no_scores(run):
  plain, splash = (
    memory.activations(other(run, attention=name, remat='full'), mesh())
    for name in ('plain', 'splash')
  )
  rows = run.sizes.microbatch_rows or run.sizes.minibatch_rows
  length = run.sizes.row_tokens
  assert plain - splash == 2 * 2 * rows * length * 16 * length


@pytest.mark.parametrize('sizes', [{}, {'fsdp': 8}, {'fsdp': 4, 'tensor': 2}])
def test_a_cache_takes_as_much_in_one_array_as_in_many(run, sizes):
  over = mesh(**sizes)
  many, one = (
    memory.kv_cache(other(run, scan_decode=stacked), over)
    for stacked in (False, True)
  )
  prompts, answers = run.sizes.prompt_length * 8, 64 * 32
  # Keys and values of 8 heads of 128 in 28 layers, two bytes each.
  whole = 2 * 28 * 8 * 128 * 2 * (prompts + answers)
  assert many == one
  if not sizes.get('tensor'):
    assert one == whole // (8 if sizes else 1)


class Program:
  """A traced program that lowers to a text."""

  jaxpr = None

  def __init__(self, text):
    self.text = text

  def lower(self):
    return self

  def as_text(self):
    return self.text


@pytest.mark.parametrize('early', [False, True])
def test_a_program_is_compiled_once(early, monkeypatch):
  asked = []

  def compiled(name, flops, state, given):
    asked.append((name, given if early else given.as_text()))
    return programs.Compiled(name, flops)

  monkeypatch.setattr(programs, '_settled' if early else '_compiled', compiled)
  monkeypatch.setattr(programs, 'local_bytes', lambda tree: 0)
  monkeypatch.setattr(programs, 'count', lambda jaxpr, turns: None)
  known = {}
  for name, text in [('rollout', 'a'), ('learn', 'b'), ('rollout', 'a'),
                     ('learn', 'c'), ('rollout', 'a')]:  # fmt: skip
    apart = (lambda text=text: text) if early else None
    found = programs.compiled(name, Program(text), None, 1.0, known, apart)
    assert found.name == name
  assert asked == [('rollout', 'a'), ('learn', 'b'), ('learn', 'c')]


def test_what_is_too_large_is_enough():
  before = Before(limit=10)
  part = lambda total: programs.Compiled('step', None, temporaries=total)
  assert [before.enough(part(n)) for n in (9, 10, 11)] == [False, False, True]
  refused = programs.Compiled('step', None, exhausted=programs.Exhausted(9, 8))
  assert before.enough(refused) and not Before().enough(refused)


def test_the_largest_collectives_are_told_first():
  text = """HloModule m, num_partitions=4

ENTRY %main (x: f32[8]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  %small = f32[8]{0} all-reduce(%x), replica_groups=[1,4]<=[4], to_apply=%add, metadata={op_name="jit(step)/loss/sum"}
  ROOT %all = f32[32]{0} all-gather(%small), replica_groups=[1,4]<=[4], dimensions={0}, metadata={op_name="jit(step)/jit(main)/layers/mlp/gather"}
}
"""  # noqa: E501
  found = show._largest(programs.Compiled('step', None, text=text))
  assert [one['kind'] for one in found] == ['all-gather', 'all-reduce']
  assert found[0] == {
    'kind': 'all-gather', 'array': 'f32[32]', 'devices': 4, 'times': 1,
    'guessed': False, 'bytes': 96.0, 'source': 'layers/mlp/gather',
  }  # fmt: skip
  assert show._largest(programs.Compiled('step', None)) == []
