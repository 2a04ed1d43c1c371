"""A step that is not finite: held back, told, recorded, taken again."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import log, sweep, train
from posttrain_jax.core.types import TrainState
from posttrain_jax.run import checkpoint, failed
from posttrain_jax.run import config as config_lib
from posttrain_jax.sweep import __main__ as sweep_command
from posttrain_jax.sweep import replay
from posttrain_jax.trainers import guard

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


# --- The guard, on a step of four numbers


def toy(state, batch):
  """Adds `batch` to the parameters; what is not finite comes in by it."""
  new = state.replace(
    step=state.step + 1,
    params=jax.tree.map(lambda x: x + batch['move'], state.params),
    opt_state=state.opt_state + 1,
  )
  return new, {'loss': batch['loss'], 'grad_norm': batch['grad_norm']}


def start():
  return TrainState(
    jnp.int32(0), {'a': jnp.arange(3.0)}, jnp.int32(5), {'a': jnp.ones(3)}
  )


def given(move=1.0, loss=0.5, grad_norm=2.0):
  numbers = {'move': move, 'loss': loss, 'grad_norm': grad_norm}
  return {k: jnp.float32(x) for k, x in numbers.items()}


BAD = {
  'loss': ({'loss': np.nan}, ['loss']),
  'infinite loss': ({'loss': -np.inf}, ['loss']),
  'gradient': ({'grad_norm': np.inf}, ['grad_norm']),
  'parameters': ({'move': np.inf}, ['parameters']),
  'all': (
    {'loss': np.nan, 'grad_norm': np.nan, 'move': np.nan},
    ['loss', 'grad_norm', 'parameters'],
  ),
}


@pytest.mark.parametrize('bad', BAD)
@pytest.mark.parametrize('mode', guard.MODES)
def test_a_state_that_is_handed_out_is_finite(mode, bad):
  step = jax.jit(guard.guarded(toy, mode))
  numbers, reasons = BAD[bad]
  good, metrics = step(start(), given())
  assert guard.reasons(metrics[guard.WHAT]) == []
  assert int(good.step) == 1 and good.params['a'].tolist() == [1.0, 2.0, 3.0]
  held, metrics = step(good, given(**numbers))
  assert guard.reasons(metrics[guard.WHAT]) == reasons
  same(held.replace(step=0), good.replace(step=0))
  assert int(held.step) == (1 if mode == 'stop' else 2)
  assert (guard.SKIPPED in metrics) == (mode == 'skip')
  after, metrics = step(held, given())
  assert after.params['a'].tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize('mode', guard.MODES)
def test_only_the_run_that_fails_stands_still(mode):
  states = jax.tree.map(lambda x: jnp.stack([x] * 3), start())
  batches = [given(), given(loss=np.nan), given(move=2.0)]
  batches = jax.tree.map(lambda *xs: jnp.stack(xs), *batches)
  step = jax.jit(jax.vmap(guard.guarded(toy, mode)))
  held, metrics = step(states, batches)
  assert metrics[guard.WHAT].tolist() == [0.0, 1.0, 0.0]
  assert held.params['a'][:, 0].tolist() == [1.0, 0.0, 2.0]
  assert held.step.tolist() == [1, 0 if mode == 'stop' else 1, 1]


def test_what_was_sent_off_behind_a_failing_step_does_nothing():
  step = jax.jit(guard.hold(guard.guarded(toy, 'stop')))
  held, _ = step(start(), 0, given(loss=np.nan))
  held, _ = step(held, 1, given())  # sent off before the loss was read
  same(held, start())
  moved, _ = step(held, 0, given())
  assert int(moved.step) == 1


def test_unknown_modes_are_named():
  with pytest.raises(ValueError, match='on_nonfinite "skpi".*"skip"'):
    guard.guarded(toy, 'skpi')


def test_watch_stops_at_the_first_or_after_too_many_in_a_row():
  what = np.array([0, 0, 1, 0], np.float32)
  assert failed.Watch('stop', 100).failing(what) == 2
  watch = failed.Watch('skip', 100)
  assert watch.failing(what) is None and watch.skipped == 1
  assert watch.failing(np.ones(9)) is None
  assert watch.failing(np.ones(3)) == 0, 'ten in a row'
  assert failed.Watch('skip', 4).failing(np.ones(4)) == 3, 'all that there are'


# --- Whole runs

QUIET = [
  '--config.eval.num_problems=0', '--config.log.tensorboard=false',
]  # fmt: skip
# Steps so large that numbers leave float32 a step or two later.
LARGE = [
  '--config.optimizer.name=sgd', '--config.optimizer.lr=1e37',
  '--config.optimizer.max_grad_norm=0', '--config.optimizer.warmup_updates=0',
  '--config.optimizer.schedule=constant',
]  # fmt: skip
LINES = {
  'file': '{"prompt": "a%d", "completion": "b"}\n',
  'preference': '{"prompt": "a%d", "chosen": "b", "rejected": "c"}\n',
}
RUNS = {
  'sft': ['configs/sft.py:smoke'],
  'rl': ['configs/rl.py:smoke', '--config.entropy_coef=1e39'],
  'preference': ['configs/preference.py:data=jsonl,smoke',
                 '--config.tokenizer=byte', '--config.data.max_length=16'],
  'file': ['configs/sft.py:data=jsonl,smoke', '--config.tokenizer=byte',
           '--config.data.max_length=16'],
  'host': ['configs/rl.py:task=text:chain_sum,smoke',
           '--config.entropy_coef=1e39', '--config.task.workers=1'],
}  # fmt: skip


def command(name, folder, *flags):
  spec, *more = RUNS[name]
  if name in LINES:
    path = folder.parent / 'data.jsonl'
    path.write_text(''.join(LINES[name] % i for i in range(64)))
    more = [*more, f'--config.data.path={path}']
  return ['--config', spec, *QUIET, *more, *flags, '--workdir', str(folder)]


def stopped(name, folder, capsys):
  """Runs until a step is not finite; its record."""
  capsys.readouterr()
  every = '--config.checkpoint.every=1'
  assert train.main(command(name, folder, *LARGE, every)) == 1
  said = capsys.readouterr().err.splitlines()
  said = [line for line in said if not line.startswith('note: ')]
  assert said[-1].startswith('error: ') and len(said) == 1
  step, path = failed.newest(folder)
  assert f'at step {step}; the run has stopped' in said[-1]
  assert said[-1].endswith(f'--replay {path}')
  return failed.read(path)


@pytest.mark.long
@pytest.mark.parametrize('name', RUNS)
def test_a_run_stops_and_the_step_can_be_taken_again(name, tmp_path, capsys):
  folder = tmp_path / 'run'
  record = stopped(name, folder, capsys)
  # The failing step is the last line, and nothing of it is stored.
  _, rows = log.read(folder)
  assert rows[-1]['step'] == record.step
  assert not all(np.isfinite([rows[-1]['loss'], rows[-1]['grad_norm']])) or (
    'parameters' in json.loads(record.path.read_text())['not_finite']
  )
  assert guard.WHAT not in rows[-1] and guard.SKIPPED not in rows[-1]
  newest = checkpoint.steps(folder)[:1]
  assert newest == ([record.step - 1] if record.step > 1 else [])
  if newest:
    kept = jax.tree.leaves(checkpoint.load_params(folder))
    before = jax.tree.leaves(checkpoint.load_params(record.path.parent))
    same(kept, before)
    assert all(np.isfinite(x).all() for x in kept)
  fields = ('tokens', 'mask', 'segment_ids', 'positions')
  assert set(record.given) == {
    'file': set(fields),
    'preference': {f'{x}/{f}' for x in ('chosen', 'rejected') for f in fields},
    'host': {'prompt', 'prompt_mask', 'rewards', 'samples/completion',
             'samples/mask', 'samples/logps', 'samples/finished'},
  }.get(name, set())  # fmt: skip
  capsys.readouterr()
  assert train.main(['--replay', str(record.path)]) == 1
  said = capsys.readouterr().out
  assert 'every metric bit for bit as recorded' in said
  assert '  params/' in said and ' of ' in said
  # Another run of the same command fails at the same step.
  if name == 'sft':
    again = stopped(name, folder, capsys)
    assert again.metrics.keys() == record.metrics.keys()
    same(again.metrics, record.metrics)
    assert not (folder / checkpoint.DAMAGED).exists()


def test_replay_refuses_what_is_no_record(tmp_path, capsys):
  def refused(*flags):
    assert train.main(flags) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and said.count('\n') == 1
    return said

  path = tmp_path / 'x.json'
  assert 'cannot be read' in refused('--replay', str(path))
  for content in ('', '[]', '{"step": 1}', '{"step": "x", "config": {}}'):
    path.write_text(content)
    assert 'is no record' in refused(f'--replay={path}')
  assert '--replay FILE stands alone' in refused('--replay', 'a', '--config=b')
  assert '--replay FILE stands alone' in refused('--replay')


@pytest.mark.long
def test_skipped_steps_are_counted_and_go_on(tmp_path, capsys):
  """Of steps that are not finite, only the counter is left."""
  folder = tmp_path / 'run'
  skip = '--config.on_nonfinite=skip'
  flags = [*LARGE, skip, '--config.num_steps=4']
  assert train.main(command('sft', folder, *flags)) == 0
  said = capsys.readouterr().out
  _, rows = log.read(folder)
  skipped = [row[guard.SKIPPED] for row in rows]
  assert len(rows) == 4 and 0 < sum(skipped) < 4
  assert f'{int(sum(skipped))} steps were not finite, and skipped' in said
  params = checkpoint.load_params(folder)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  assert checkpoint.find(folder)[1] == 4


@pytest.mark.long
def test_a_run_that_only_skips_stops(tmp_path, capsys):
  folder = tmp_path / 'run'
  flags = [x for x in LARGE if not x.startswith('--config.optimizer.lr=')]
  flags += ['--config.on_nonfinite=skip', '--config.optimizer.lr=1e39']
  assert train.main(command('sft', folder, *flags)) == 1
  assert 'as in all steps just before it' in capsys.readouterr().err
  assert 4 not in checkpoint.steps(folder)


def together(rates, **items):
  config = config_lib.load(
    'configs/sft.py:smoke',
    [('eval.num_problems', '0'), ('optimizer.name', 'sgd'),
     ('optimizer.max_grad_norm', '0'), ('optimizer.warmup_updates', '0'),
     ('optimizer.schedule', 'constant'), *items.items()],
  )  # fmt: skip
  program = sweep.Program(config, ('optimizer.lr',), None)
  keys = jnp.stack([jax.random.key(seed) for seed in range(3)])

  def run(rates):
    values = [jnp.asarray(rates, jnp.float32)]
    states, curves = program.start(keys, values), []
    for _ in range(2):
      states, found, _ = program.advance(states, keys, values, 2)
      curves.append(jax.device_get(found))
    joined = {k: np.concatenate([c[k] for c in curves], 1) for k in curves[0]}
    return jax.device_get(states), joined

  return [run(row) for row in rates]


@pytest.mark.long
def test_other_runs_of_a_program_are_untouched_bit_for_bit():
  (good, calm), (held, wild) = together(
    [[0.1, 0.1, 0.2], [0.1, 1e38, 0.2]], on_nonfinite='skip'
  )
  for index in (0, 2):
    pick = lambda x, i=index: x[i]
    same(jax.tree.map(pick, good), jax.tree.map(pick, held))
    same(jax.tree.map(pick, calm), jax.tree.map(pick, wild))
  assert calm[guard.SKIPPED].sum() == 0
  assert wild[guard.SKIPPED].sum(1)[[0, 2]].tolist() == [0, 0]
  assert wild[guard.SKIPPED][1].sum() > 0
  assert held.step.tolist() == [4, 4, 4]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(held.params))


@pytest.mark.long
def test_one_run_of_a_sweep_stops_and_can_be_taken_again(tmp_path, capsys):
  argv = [
    '--config', 'configs/sft.py:smoke', *QUIET, *LARGE, '--seeds', '2',
    '--sweep', 'config.optimizer.lr=0.1,1e37', '--workdir', str(tmp_path),
  ]  # fmt: skip
  assert sweep_command.main(argv) == 0
  said = capsys.readouterr().err
  lines = (tmp_path / 'results.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  wild = [row for row in rows if float(row['setting']['optimizer.lr']) > 1]
  assert {row['status'] for row in wild} == {'diverged'}
  assert [r['status'] for r in rows if r not in wild] == ['finished'] * 2
  for row in wild:
    folder = tmp_path / 'runs' / row['name']
    step, path = failed.newest(folder)
    assert f'{row["name"]}: ' in said and str(path) in said
    record = failed.read(path)
    assert record.together.count == 4
    assert record.config['seed'] == row['seed']
    found = replay.replay(record)
    assert found.not_finite and found.differing == [] and found.arrays
    assert step - 1 not in checkpoint.steps(folder)
  # It would fail again: the same command leaves it alone.
  assert sweep_command.main(argv) == 0
  assert 'left as it is' in capsys.readouterr().err


def test_records_that_cannot_be_written_hide_nothing(tmp_path):
  error = failed.NonFinite(3, {'loss': np.nan}, 1.0, 'stop')
  (tmp_path / failed.FOLDER).write_text('in the way')
  made = failed.save(tmp_path, None, None, error, None, {})
  assert str(made).startswith('loss is nan at step 3; the run has stopped')
  assert 'no record of it could be written' in str(made)
