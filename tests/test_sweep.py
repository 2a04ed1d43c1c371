"""Sweeps: run i of many is run i alone; grids, lists, draws; resuming."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import log, sweep
from posttrain_jax.rollout import runs
from posttrain_jax.run import accounting, build, loop
from posttrain_jax.run import config as config_lib
from posttrain_jax.sweep import __main__ as command
from posttrain_jax.sweep import runner

SMOKE = (
  '--config', 'configs/sft.py:smoke', '--config.model.preset=depth-2',
  '--config.task.num_digits=1', '--config.log.tensorboard=false',
  '--config.eval.every=0', '--config.eval.samples=0',
  '--config.optimizer.schedule=constant', '--config.optimizer.warmup_updates=0',
)  # fmt: skip


def load(spec, *items):
  tiny = [
    ('model.preset', 'depth-2'), ('task.num_digits', '1'),
    ('eval.num_problems', '0'), ('num_steps', '3'),
  ]  # fmt: skip
  return config_lib.load(spec, [*tiny, *items])


def differ(a, b):
  gaps = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)
  return max(jax.tree.leaves(gaps))


@functools.cache
def rl_run():
  """A tiny RL run as a function, compiled; plain gradient steps, since Adam
  divides by the gradient's size and so makes rounding visible."""
  c = load('configs/rl.py:smoke', ('optimizer.name', 'sgd'))
  return c, jax.jit(sweep.make_train(c))


def test_run_i_of_many_is_run_i_alone(tmp_path):
  c, run = rl_run()
  keys = jnp.stack([jax.random.key(i) for i in range(3)])
  rates = jnp.array([1e-3, 1e-2, 1e-1])
  one_of = lambda k, lr: run(k, {'optimizer.lr': lr})
  # Named or not, the runs are the same; named, their loops share a counter.
  together = jax.jit(jax.vmap(one_of, axis_name=runs.AXIS))
  states, curves = together(keys, rates)
  assert curves['loss'].shape == (3, 3)
  state, curve = run(keys[1], {'optimizer.lr': rates[1]})
  one = jax.tree.map(lambda x: x[1], states.params)
  assert differ(one, state.params) < 1e-5
  np.testing.assert_allclose(curves['entropy'][1], curve['entropy'], atol=1e-5)
  # Others are others.
  assert differ(jax.tree.map(lambda x: x[2], states.params), one) > 1e-4
  # And it is the run that train.py makes of that seed and rate.
  own = {'seed': 1, 'optimizer.lr': float(rates[1])}
  alone = config_lib.with_values(c, own)
  _, trained, _ = loop.train(alone, tmp_path / 'alone')
  assert differ(state.params, trained.params) < 1e-5


def test_starts_from_given_parameters():
  c, run = rl_run()
  model = build.build(c).model
  given = build.transformer.init(jax.random.key(9), model)
  still = {'optimizer.lr': jnp.float32(0.0)}
  state, _ = run(jax.random.key(0), still, {'policy': given})
  assert differ(state.params, given) == 0.0


def test_traced_numbers_reach_the_program():
  c = load('configs/rl.py:smoke,recipe=grpo_kl')
  names = sweep.traceable(
    c, ['kl.coef', 'decoder.temperature', 'loss.clip_high', 'optimizer.b2']
  )
  assert len(names) == 4
  run = build.build(c)
  start = {'policy': build.transformer.init(jax.random.key(0), run.model)}

  def step(values):
    traced = config_lib.with_values(c, dict(zip(names, values)))
    return build.build(traced).step(run.init(start), jax.random.key(1))

  jaxpr = jax.make_jaxpr(step)([jnp.float32(0.1)] * len(names)).jaxpr
  used = {x for e in jaxpr.eqns for x in e.invars if not hasattr(x, 'val')}
  for name, variable in zip(names, jaxpr.invars):
    assert variable in used, f'{name} is read and changes nothing'


def test_traceable_names_numbers_that_one_program_serves():
  c = load('configs/rl.py:smoke,recipe=grpo_kl')
  asked = ('optimizer.lr', 'kl.coef', 'group_size', 'loss.name', 'entropy_coef')
  found = sweep.traceable(c, asked)
  assert found == ('optimizer.lr', 'kl.coef', 'entropy_coef')
  # A switch in the optimizer's chain goes in turn.
  assert sweep.traceable(c, ['optimizer.max_grad_norm']) == ()
  noise = ('collect.noise', 'collect.slips')
  assert sweep.traceable(load('configs/sft.py:smoke'), noise) == noise


def test_host_runs_have_no_train_function():
  c = config_lib.load('configs/rl.py:smoke,task=text:chain_sum')
  with pytest.raises(ValueError, match='reads from the host'):
    sweep.make_train(c)
  with pytest.raises(ValueError, match='Did you mean "optimizer.lr"'):
    sweep.make_train(load('configs/sft.py:smoke'))(
      jax.random.key(0), {'optimizer.lrr': 1.0}
    )


def test_grid_is_the_product_and_names_are_folders():
  found = sweep.grid(
    ['config.optimizer.lr=1e-4,3e-4', 'config.prompts_per_step=4,8']
  )
  assert len(found) == 4 and found[0] == (
    ('optimizer.lr', '1e-4'), ('prompts_per_step', '4'),
  )  # fmt: skip
  made = sweep.members('configs/sft.py:smoke', [], found, range(2))
  names = [m.name for m in made]
  assert len(set(names)) == 8
  assert all(re.fullmatch(r'[\w=.,+-]+/seed[01]', name) for name in names)
  assert made[3].config.seed == 1 and made[3].config.prompts_per_step == 8
  assert sweep.grid([]) == [()]
  assert sweep.grid(['config.optimizer.freeze=[(a,b),c]']) == [
    (('optimizer.freeze', '(a,b)'),), (('optimizer.freeze', 'c'),),
  ]  # fmt: skip


def test_random_draws_follow_their_law():
  axes = ['config.optimizer.lr=log(1e-5,1e-1)', 'config.seed2=a,b']
  drawn = sweep.sampled(axes, 400, seed=0)
  assert drawn == sweep.sampled(axes, 400, seed=0)
  assert drawn != sweep.sampled(axes, 400, seed=1)
  rates = np.log10([float(dict(x)['optimizer.lr']) for x in drawn])
  assert rates.min() >= -5 and rates.max() <= -1
  assert abs(np.mean(rates) + 3) < 0.2, 'even in the logarithm'
  chosen = [dict(x)['seed2'] for x in drawn]
  assert 150 < chosen.count('a') < 250


@pytest.mark.parametrize(
  'axes, told',
  [
    (['optimizer.lr=1'], 'write config.KEY'),
    (['config.optimizer.lr='], 'write config.KEY'),
    (['config.optimizer.lr=1,,2'], 'an empty value'),
    (['config.optimizer.lr=1,1'], 'a value twice'),
    (['config.optimizer.lr=log(1,2)'], '--random'),
    (['config.optimizer.lr=log(0,2)'], '0 < LOW < HIGH'),
    (['config.optimizer.lr=uniform(3,2)'], 'LOW < HIGH'),
    (['config.seed=1,2'], '--seeds'),
    (['config.a=1', 'config.a=2'], 'given twice'),
  ],
)
def test_bad_axes_are_named(axes, told):
  with pytest.raises(ValueError, match=re.escape(told)):
    sweep.grid(axes)


@pytest.mark.parametrize('fixed, told', [
  (('optimizer.lr', '3'), '--config.optimizer.lr=3 is for all runs, and a'),
  (('seed', '3'), '--config.seed=3: seeds of a sweep are --seeds'),
])  # fmt: skip
def test_what_is_fixed_and_swept(fixed, told):
  settings = [(('optimizer.lr', '1e-4'),)]
  with pytest.raises(ValueError, match=told):
    sweep.members('configs/sft.py:smoke', [fixed], settings, range(1))
  same = [settings[0][0]]
  assert sweep.members('configs/sft.py:smoke', same, settings, range(1))


def test_bad_settings_are_named(tmp_path, capsys):
  path = tmp_path / 'settings.jsonl'
  path.write_text('{"optimizer.lr": 1e-3}\n[1]\n')
  with pytest.raises(ValueError, match='settings.jsonl:2: not an object'):
    sweep.listed(path)
  path.write_text('{"optimizer.lr": 1e-3,}\n')
  with pytest.raises(ValueError, match='settings.jsonl:1'):
    sweep.listed(path)
  path.write_text('\n{"optimizer.lr": 1e-3, "task.reverse": true}\n')
  assert sweep.listed(path) == [
    (('optimizer.lr', '0.001'), ('task.reverse', 'true'))
  ]
  bad = [*SMOKE, '--workdir', str(tmp_path), '--sweep']
  assert command.main([*bad, 'config.optimiser.lr=1']) == 2
  assert 'optimizer.lr' in capsys.readouterr().err
  assert command.main([*bad, 'config.minibatch_rows=3']) == 2
  assert 'minibatch_rows=3-' in capsys.readouterr().err
  assert command.main([*SMOKE, '--seed', '3']) == 2
  assert command.main([*SMOKE, '--seeds', '0', '--dry_run']) == 2
  assert '--seeds 0 is below 1' in capsys.readouterr().err
  assert not list(tmp_path.glob('runs/*')), 'nothing was started'


def test_a_stopped_sweep_goes_on_and_ends_alike(tmp_path, capsys):
  swept = [*SMOKE, '--sweep', 'config.optimizer.lr=1e-3,1e-2']
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  assert command.main([*swept, '--workdir', str(whole)]) == 0
  rows = [json.loads(x) for x in (whole / 'results.jsonl').open()]
  assert [row['setting']['optimizer.lr'] for row in rows] == ['1e-3', '1e-2']
  assert all(row['status'] == 'finished' for row in rows)
  assert 'eval/accuracy' in rows[0]['scores']
  assert rows[0]['account']['optimizer_steps'] == 4
  assert rows[0]['account']['demonstrations'] == 32
  assert 'optimizer.lr' in capsys.readouterr().out
  # One program for both: their values are inputs.
  members, _ = command.parse([*swept, '--workdir', str(parts)])
  (group,) = runner.groups(members, parts)
  assert len(group.members) == 2 and group.names == ('optimizer.lr',)
  # Stopped half-way, then again.
  half = [*swept, '--config.num_steps=2', '--workdir', str(parts)]
  assert command.main(half) == 0
  (group,) = runner.groups(members, parts)
  assert group.step == 2
  assert command.main([*swept, '--workdir', str(parts)]) == 0
  again = [json.loads(x) for x in (parts / 'results.jsonl').open()]
  for a, b in zip(rows, again):
    assert a['name'] == b['name']
    np.testing.assert_allclose(
      a['train']['loss'], b['train']['loss'], atol=1e-5
    )
  before = (parts / 'runs' / again[0]['name'] / 'metrics.jsonl').read_text()
  assert command.main([*swept, '--workdir', str(parts)]) == 0
  after = (parts / 'runs' / again[0]['name'] / 'metrics.jsonl').read_text()
  assert before == after, 'finished runs are left alone'


def test_account_adds_up(tmp_path):
  c = load('configs/rl.py:smoke', ('updates_per_rollout', '2'))
  run, _, _ = loop.train(c, tmp_path)
  _, rows = log.read(tmp_path)
  flops = accounting.step_flops(c, run.model, run.sizes)
  found = accounting.account(c, run.sizes, flops, rows)
  answers = 3 * c.prompts_per_step * c.group_size
  assert found['optimizer_steps'] == 6
  assert found['verifier_calls'] == answers
  # Every token that was written is trained on, twice.
  assert found['tokens_trained'] == 2 * found['tokens_generated']
  lengths = sum(row['completions/mean_length'] for row in rows) / 3
  assert found['tokens_generated'] == pytest.approx(answers * lengths)
  assert found['demonstrations'] == found['preference_labels'] == 0
  assert found['flops'] == 3 * flops


def test_devices_share_the_runs():
  c = load(
    'configs/sft.py:smoke',
    ('optimizer.name', 'sgd'),
    ('model.preset', 'depth-1'),
  )
  assert sweep.seed_mesh(11) is None, 'eleven runs on eight devices'
  sizes = {n: sweep.seed_mesh(n).size for n in (2, 5, 7, 8, 12, 16)}
  assert sizes == {2: 2, 5: 5, 7: 7, 8: 8, 12: 6, 16: 8}
  keys = jnp.stack([jax.random.key(i) for i in range(8)])
  rates = [jnp.linspace(1e-3, 1e-1, 8)]
  ends = []
  for mesh in (None, sweep.seed_mesh(8)):
    program = sweep.Program(c, ('optimizer.lr',), mesh)
    states = program.start(keys, rates)
    states, curves, done = program.advance(states, keys, rates, 2)
    assert done == 2 and curves['loss'].shape == (8, 2)
    ends.append(states.params)
  leaf = jax.tree.leaves(ends[1])[0]
  assert len(leaf.sharding.device_set) == 8
  assert leaf.addressable_shards[0].data.shape[0] == 1, 'a run each'
  assert differ(*(jax.device_get(end) for end in ends)) < 1e-5


@pytest.mark.parametrize(
  'words, told',
  [
    (['--seeds', '2.0'], '--seeds 2.0: a count'),
    (['--seeds', '0,1'], '--seeds 0,1: a count'),
    (['--sweep', 'config.recipe=grpo,dapo'], 'stands behind the colon'),
    (['--sweep', 'config.optimizer.lr=1e-4,0.0001'], 'are one number'),
    (['--sweep', 'config.num_steps=8,8.0'], 'are one number'),
    (['--sweep', 'config.num_steps=8,8'], 'a value twice'),
  ],
)
def test_settings_that_mean_something_else(words, told, capsys):
  argv = ['--config', 'configs/sft.py:smoke', '--dry_run', *words]
  assert command.main(argv) == 2
  assert told in capsys.readouterr().err


def test_a_list_with_a_byte_order_mark_is_read(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_text('{"group_size": 8}\n', encoding='utf-8-sig')
  assert sweep.listed(path) == [(('group_size', '8'),)]
