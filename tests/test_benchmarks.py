"""The benchmarks: statistics by hand, fair turns, and our sides at toy size."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.benchmarks import (
  common,
  generate_hf,
  grpo_auto,
  logp_gap,
  long_rows,
  ours,
  ours_steps,
  profile_decode,
  scaling,
  workers,
)
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config

# Turns of 1 s each, so that units are rates.
turns_of = lambda *rates: [common.Sample(1.0, rate) for rate in rates]


def test_summary_by_hand():
  found = common.summary([4.0, 1.0, 3.0, 2.0])
  assert found == {
    'median': 2.5,
    'min': 1.0,
    'max': 4.0,
    'q1': 1.75,
    'q3': 3.25,
    'iqr': 1.5,
    'count': 4,
  }


def test_gaps_are_told_apart_by_how_sure_the_model_was():
  gap = np.array([1.0, 3.0, 5.0, 7.0, 9.0])
  surprise = np.array([0.0, 5e-4, 0.05, 4.0, 6.0])
  found = logp_gap.by_surprise(gap, surprise)
  assert list(found.values()) == [
    {'tokens': 2, 'mean': 2.0, 'max': 3.0},
    {'tokens': 1, 'mean': 5.0, 'max': 5.0},
    {'tokens': 1, 'mean': 7.0, 'max': 7.0},
    {'tokens': 1, 'mean': 9.0, 'max': 9.0},
  ]
  empty = logp_gap.by_surprise(gap[:0], surprise[:0])
  assert all(
    x == {'tokens': 0, 'mean': None, 'max': None} for x in empty.values()
  )


def test_rate_is_units_over_seconds():
  assert common.Sample(seconds=0.5, units=3.0).rate == 6.0


def test_ratio_is_taken_within_each_round():
  turns = {'ours': turns_of(4, 10, 6), 'peer': turns_of(2, 10, 2)}
  found = common.ratio(turns, 'ours', 'peer')
  assert (found['min'], found['median'], found['max']) == (1.0, 2.0, 3.0)


def test_compare_takes_the_best_of_each_side():
  turns = {
    'ours': turns_of(8, 8),
    'ours slots=2': turns_of(9, 9),
    'peer a': turns_of(3, 3),
    'peer b': turns_of(2, 2),
  }
  found = common.compare(turns, 'tokens')
  assert found['best_ours'] == 'ours slots=2'
  assert found['best_peer'] == 'peer a'
  assert found['ours_over_peer']['median'] == 3.0
  assert found['sides']['ours']['tokens_per_second']['median'] == 8.0


def test_compare_without_a_peer():
  found = common.compare({'ours': turns_of(8)}, 'tokens')
  assert found['best_peer'] is None
  assert found['ours_over_peer'] is None


@pytest.mark.long
def test_sides_take_turns_in_both_orders_and_warm_up_is_dropped():
  order = []

  def side(name, units):
    def work():
      order.append(name)
      return units

    return common.timed(work)

  sides = {'a': side('a', 1), 'b': side('b', 2)}
  turns = common.alternate(sides, repetitions=2, warmup=1, rest=0.0)
  assert ''.join(order) == 'ba' + 'ab' + 'ba'
  assert [sample.units for sample in turns['b']] == [2.0, 2.0]
  with pytest.raises(ValueError, match='repetitions=0'):
    common.alternate(sides, repetitions=0, warmup=0)


def test_missing_names_only_what_is_not_installed():
  assert common.missing('jax', 'no_such_module') == ['no_such_module']
  assert workers.has_modules(sys.executable, 'json')
  assert not workers.has_modules(sys.executable, 'no_such_module')
  assert not workers.has_modules('/no/such/python', 'json')


def test_costs_are_relative_to_the_best_point():
  assert scaling.costs({1: 10.0, 2: 40.0, 4: 20.0}) == {1: 4.0, 2: 1.0, 4: 2.0}


def test_stop_token_has_exactly_its_chance():
  logits = jax.random.normal(jax.random.key(0), (256, ours.VOCAB))
  keys = jax.random.split(jax.random.key(1), 256)
  tokens, logps = ours.with_stop(0.25)(logits, keys)
  stopped = np.asarray(tokens == ours.EOS)
  assert 30 < stopped.sum() < 98  # 64 expected, standard deviation 7
  np.testing.assert_allclose(
    np.asarray(logps)[stopped], np.log(0.25), rtol=1e-5
  )
  tokens, _ = ours.with_stop(0.0)(logits, keys)
  assert not (tokens == ours.EOS).any()


def test_prompts_are_sums_of_their_length(key):
  work = ours.Work('toy', 3, 6, 1, 1, 0.0)
  text = [ours.vocab.decode(row) for row in ours.sum_prompts(key, work)]
  for prompt in text:
    first, second = prompt.rstrip('=').split('+')
    assert prompt.endswith('=') and len(first) == 2 and len(second) == 2
    assert (first + second).isdigit()
  with pytest.raises(ValueError, match='prompt_length=5'):
    ours.sum_prompts(key, work._replace(prompt_length=5))


def test_long_rows_say_what_a_program_needs():
  model = dataclasses.replace(long_rows.TOY, num_layers=1, scan_layers=False)
  sizes = []
  for chunk in (0, 64):
    own = dataclasses.replace(model, attention_chunk=chunk)
    found = long_rows.needed(own, 1024, jax.devices()[0])
    assert found['fits']
    sizes.append(found['temporary_bytes'])
  assert sizes[1] < sizes[0]


def test_reward_is_for_an_early_three():
  three, other = ours.WANTED, ours.WANTED + 1
  reward = lambda tokens, mask: float(
    ours.has_digit(None, jnp.array(tokens), jnp.array(mask))['reward']
  )
  ones = [1.0] * 5
  assert reward([other, other, other, three, other], ones) == 1.0
  assert reward([other, other, other, other, three], ones) == 0.0
  assert reward([other, three, other, other, other], [1.0, 0, 0, 0, 0]) == 0.0


def test_full_rows_score_all_but_the_first_token():
  batch = ours_steps.full_rows(jnp.ones((2, 5), jnp.int32))
  np.testing.assert_array_equal(batch.mask, [[0, 1, 1, 1, 1]] * 2)


def test_sizes_are_those_of_the_readme():
  count = lambda size: transformer.param_count(ours.model_config(size))
  assert count('1m') == 1_059_456
  assert round(count('0.4m'), -4) == 450_000


def test_our_side_of_generation_at_toy_size():
  session = SimpleNamespace(results={}, notes=[])
  flags = SimpleNamespace(toy=True, peers=(), repetitions=2, warmup=1)
  generate_hf.measure('b', session, flags)
  found = session.results['b']
  assert set(found['sides']) == {
    f'ours {how}{compiler}'
    for how in ('stages=1', 'stages=2', 'slots=4')
    for compiler in ('', ' without YNNPACK')
  }
  turns = {name: side['turns'] for name, side in found['sides'].items()}
  # The same keys give the same completions, however they are decoded.
  units = {
    name: sorted(turn['units'] for turn in some) for name, some in turns.items()
  }
  expected = units.pop('ours stages=1')
  assert all(found == expected for found in units.values())
  assert all(0 < count <= 2 * 4 * 6 for count in expected)


HLO = """HloModule m

FunctionNames
1 "generate"
2 "decode"
3 "layers.attend"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1}
2 {file_name_id=1 function_name_id=2 line=2}
3 {file_name_id=1 function_name_id=3 line=3}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

ENTRY %main {
  %dot.1 = f32[2,2] dot(%x, %y), lhs_contracting_dims={1}
  %mul.2 = f32[2] multiply(%dot.1, %z), metadata={stack_frame_id=3}
  %loop.3 = (f32[2], s32[]) while(%t), metadata={stack_frame_id=2}
  ROOT %add.4 = f32[2] add(%mul.2, %mul.2), metadata={stack_frame_id=1}
}
"""


def test_ops_are_put_into_kinds_by_their_call_stack():
  assert profile_decode.stacks(HLO)[3] == ('attend', 'decode', 'generate')
  assert profile_decode.op_kinds(HLO) == {
    'dot.1': 'decode: attention',  # of its user: it has no source itself
    'mul.2': 'decode: attention',
    'add.4': 'before the loop',
  }


@pytest.mark.slow  # two whole steps are compiled
def test_the_step_is_the_one_that_build_makes(monkeypatch):
  """What the benchmarks put together is what a user trains with."""
  from posttrain_jax.run import build
  from posttrain_jax.run import config as config_lib

  config = config_lib.load('configs/rl.py:task=addition', [])
  config.task.num_digits = 1
  config.prompts_per_step, config.group_size = 2, 2
  config.model.preset = 'depth-1'
  config.optimizer.lr, config.optimizer.b2 = ours.LEARNING_RATE, 0.999
  config.num_steps = 1000
  run = build.build(config)
  monkeypatch.setattr(ours, 'model_config', lambda size: run.model)
  work = ours.Work('', 2, 0, 2, 0, 0.0)
  mine = ours_steps.grpo_on_task(work, 'addition', num_digits=1)
  assert run.model.width == make_config('depth-1').width
  params = transformer.init(jax.random.key(0), run.model)
  # The reward of an untrained model is 0: what moves is what is compared in
  # the metrics of the rollout, the loss and the scored tokens.
  _, theirs = jax.jit(run.step)(run.init({'policy': params}), jax.random.key(1))
  _, ours_ = jax.jit(mine.step)(mine.init(params), jax.random.key(1))
  # Only `build` logs the schedule.
  assert set(theirs) - {'learning_rate'} == set(ours_)
  for name, value in ours_.items():
    np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_auto_is_held_against_the_best_of_the_grid():
  turns = {
    'auto': turns_of(9, 9),
    'all rows': turns_of(5, 5),
    'micro=16': turns_of(10, 10),
  }
  found = grpo_auto.of_best(turns)
  assert found['best'] == 'micro=16'
  assert found['of_best']['median'] == 0.9
  chosen = grpo_auto.chosen(grpo_auto.WORKS['a'])
  assert chosen.micro == 16 and chosen.slots == 32
  assert grpo_auto.sides_of('a', grpo_auto.TOY['a']).keys() >= {'auto'}
