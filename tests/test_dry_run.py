"""`--dry_run` says of a folder what the run would say, and writes nothing."""

import dataclasses
import json

import chat_folders
import pytest
from safetensors.numpy import load_file, save_file
from test_checkpoint import state_of

from posttrain_jax import train
from posttrain_jax.lab import stages
from posttrain_jax.models import hf_read
from posttrain_jax.quickstart import command as quickstart
from posttrain_jax.run import (
  build,
  checkpoint,
  continuing,
  measured,
  on_disk,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.lease import Lease
from posttrain_jax.sweep import __main__ as sweep
from posttrain_jax.sweep import runner

SMOKE = 'configs/sft.py:smoke'


def load(**items):
  pairs = [(key.replace('__', '.'), str(x)) for key, x in items.items()]
  return config_lib.load(SMOKE, pairs)


def begun(folder, config, step=0):
  """A folder as a run of a config leaves it after a step."""
  run = build.build(config)
  saved = {'config': run.config.to_dict(), 'sizes': run.sizes.to_dict()}
  checkpoint.save_config(folder, saved)
  if step:
    with checkpoint.Checkpointer(folder, 1) as saver:
      saver.save(step, state_of(step))
      saver.wait()


def files(folder):
  return sorted((f, f.stat().st_mtime_ns) for f in folder.rglob('*'))


def dry(folder, *flags):
  argv = ['--config', SMOKE, '--workdir', str(folder), '--dry_run', *flags]
  return train.main(argv)


def test_a_run_of_another_config(tmp_path, capsys):
  begun(tmp_path, load(), 2)
  before = files(tmp_path)
  assert dry(tmp_path, '--config.seed=1') == 2
  assert 'holds a run of another config' in capsys.readouterr().err
  other = ['--config', 'configs/rl.py:smoke', '--workdir', str(tmp_path)]
  assert train.main([*other, '--dry_run']) == 2
  said = capsys.readouterr().err
  assert "undo: paradigm: 'sft' -> 'rl'; " in said and said.count('->') == 4
  assert dry(tmp_path, '--config.num_steps=2') == 0
  assert 'finished at step 2; nothing left' in capsys.readouterr().out
  assert dry(tmp_path) == 0
  assert 'goes on from step 2 to 4' in capsys.readouterr().out
  # A longer one: its cosine is drawn anew.
  assert dry(tmp_path, '--config.num_steps=40') == 0
  assert 'num_steps=4 -> 40: the cosine schedule' in capsys.readouterr().out
  assert files(tmp_path) == before


def test_a_size_that_was_kept_does_not_hide_another_config(tmp_path, capsys):
  """What 'auto' was when the run began may not fit what is asked now."""
  begun(tmp_path, load(prompts_per_step=4, microbatch_rows='auto'), 2)
  flags = '--config.prompts_per_step=6', '--config.microbatch_rows=auto'
  assert dry(tmp_path, *flags) == 2
  said = capsys.readouterr().err
  assert 'another config' in said and 'prompts_per_step: 4 -> 6' in said
  argv = ['--config', SMOKE, '--workdir', str(tmp_path), *flags]
  assert train.main(argv) == 2
  assert 'prompts_per_step: 4 -> 6' in capsys.readouterr().err


def test_a_folder_that_is_held_or_none(tmp_path, capsys):
  with Lease(tmp_path / 'held'):
    assert dry(tmp_path / 'held') == 2
    assert 'which is alive' in capsys.readouterr().err
  (tmp_path / 'file').write_text('x')
  for place in ('file', 'file/below'):
    assert dry(tmp_path / place) == 2
    assert 'is a file, not a folder' in capsys.readouterr().err
  assert dry(tmp_path / 'new') == 0
  assert 'new: a new run' in capsys.readouterr().out
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('flags', [('--dry_run',), ()])
@pytest.mark.parametrize('name, said', [
  ('link', 'is a link to'), ('link/below', 'is a link to'),
  ('loop', 'is a link to'), ('loop/below', 'Too many levels'),
  ('x' * 300, 'File name too long'), ('/proc/nope/x', 'cannot be made'),
])  # fmt: skip
def test_a_folder_that_cannot_be_made(
  tmp_path, capsys, monkeypatch, name, said, flags
):
  """Both say so before anything is built."""
  monkeypatch.setattr(build, 'build', None)
  (tmp_path / 'link').symlink_to(tmp_path / 'nowhere' / 'else')
  (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
  place = str(tmp_path / name)  # of an absolute name, that one
  assert train.main(['--config', SMOKE, '--workdir', place, *flags]) == 2
  assert said in capsys.readouterr().err
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('name, content', [
  ('config.json', json.dumps({'model_type': 'qwen3'})),
  ('model.safetensors', ''),
])  # fmt: skip
def test_a_model_folder(tmp_path, capsys, name, content):
  (tmp_path / name).write_text(content)
  assert dry(tmp_path) == 2
  told = capsys.readouterr().err
  assert 'is a model folder' in told and 'another --workdir' in told


def test_a_best_step_by_a_metric_that_is_not_measured(tmp_path):
  run = build.build(load(checkpoint__best='eval/acuracy'))
  with pytest.raises(ValueError, match='Did you mean "eval/accuracy"'):
    measured.check(run)
  run = build.build(load(checkpoint__best='eval/loss', eval__num_problems=0))
  with pytest.raises(ValueError, match='nothing is evaluated'):
    measured.check(run)


# ---- What a run would read.


@pytest.fixture
def model(tmp_path):
  """A folder with config.json and weights."""
  folder = tmp_path / 'model'
  folder.mkdir()
  chat_folders.add_weights(chat_folders.make('qwen2_5', folder), width=16)
  return folder


def from_folder(folder, *flags):
  argv = [f'--config.init_from={folder}', '--config.tokenizer=task', *flags]
  return train.main(['--config', SMOKE, *argv])


@pytest.mark.parametrize('key, more', [
  ('hidden_size', 16), ('num_hidden_layers', 1), ('num_hidden_layers', -1),
  ('intermediate_size', 8),
])  # fmt: skip
def test_weights_that_are_not_what_config_json_says(
  tmp_path, model, capsys, key, more
):
  assert from_folder(model, '--dry_run') == 0
  file = model / 'config.json'
  content = json.loads(file.read_text())
  file.write_text(json.dumps({**content, key: content[key] + more}))
  capsys.readouterr()
  assert from_folder(model, '--dry_run') == 2
  told = capsys.readouterr().err
  assert str(model) in told and 'tensor' in told
  # A run says it as early, whatever it would have compiled.
  assert from_folder(model, '--workdir', str(tmp_path / 'run')) == 2
  assert capsys.readouterr().err == told
  assert not (tmp_path / 'run').exists()


def test_a_tied_matrix_that_stands_there_twice(model, capsys, monkeypatch):
  monkeypatch.setattr(hf_read, 'ROWS', 7)
  file = model / 'config.json'
  content = json.loads(file.read_text())
  file.write_text(json.dumps({**content, 'tie_word_embeddings': True}))
  assert from_folder(model, '--dry_run') == 2
  assert '"lm_head.weight" differs from "model.embed_tokens' in (
    capsys.readouterr().err
  )
  tensors = load_file(model / 'model.safetensors')
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']
  save_file(tensors, model / 'model.safetensors', metadata={'format': 'pt'})
  assert from_folder(model, '--dry_run') == 0


def test_a_run_that_has_begun_has_weights_of_its_own(tmp_path, model):
  config = load(init_from=model, tokenizer='task')
  run = build.build(config)
  file = model / 'model.safetensors'
  file.write_bytes(b'')
  with pytest.raises(ValueError, match='no safetensors file'):
    on_disk.check(run, tmp_path / 'none')
  begun(tmp_path / 'begun', load(), 2)
  on_disk.check(run, tmp_path / 'begun')
  file.unlink()  # of that `notes` tells
  on_disk.check(run, None)


@pytest.mark.parametrize('kind', ['folder', 'run'])
def test_a_reward_model_without_a_head(tmp_path, model, capsys, kind):
  place = model
  for file in model.glob('tokenizer*'):  # its tokens are another matter
    file.unlink()
  if kind == 'run':
    place = tmp_path / 'run'
    config = load()
    begun(place, config, 2)
    saved = checkpoint.load_config(place)
    saved['resolved_model'] = dataclasses.asdict(build.build(config).model)
    checkpoint.save_config(place, saved)
  listed = json.dumps([{'name': 'model', 'path': str(place)}])
  argv = ['--config', 'configs/rl.py:smoke', '--dry_run']
  assert train.main([*argv, f'--config.rewards={listed}']) == 2
  told = capsys.readouterr().err
  assert f'rewards[0].path, which is others.reward={place} has no value' in told


def test_a_mesh_that_is_not_here(capsys):
  argv = ['--config', SMOKE, '--dry_run', '--config.mesh.fsdp=512']
  argv += ['--config.prompts_per_step=512']
  assert train.main(argv) == 0
  told = capsys.readouterr().out
  assert 'needs 512 devices; there are' in told
  assert 'posttrain_jax.plan --topology' in told


# ---- Sweeps and the quickstart.

GRID = ('--sweep', 'config.optimizer.lr=1e-3,2e-3')


def members(folder, *flags):
  argv = ['--config', SMOKE, *GRID, '--workdir', str(folder), *flags]
  return sweep.parse([*argv, '--dry_run'])[0]


def swept(folder, *flags):
  argv = ['--config', SMOKE, *GRID, '--workdir', str(folder), *flags]
  return sweep.main([*argv, '--dry_run'])


@pytest.mark.parametrize('now, same', [
  ('exact_match', True), ('["exact_match"]', True),
  ('[{"name": "exact_match", "weight": 1, "column": ""}]', True),
  ('[{"name": "exact_match", "weight": 0.5}]', False),
  ('exact_match,length', False),
])  # fmt: skip
def test_the_same_rewards_in_other_words(now, same, tmp_path):
  """A name alone is an entry, also of a run that was begun by the long form."""
  load = lambda text: config_lib.load('configs/rl.py', [('rewards', text)])
  began = load('[{"name": "exact_match"}]')
  checkpoint.save_config(tmp_path, {'config': began.to_dict(), 'sizes': {}})
  if same:
    return continuing.check_continues(load(now), tmp_path)
  with pytest.raises(ValueError, match='another config.*rewards: '):
    continuing.check_continues(load(now), tmp_path)


def test_a_sweep_beside_its_folder(tmp_path, capsys):
  assert swept(tmp_path / 'new') == 0
  assert '2 of 2 runs are new' in capsys.readouterr().out
  assert not (tmp_path / 'new').exists()
  first, second = members(tmp_path)
  begun(runner.folder(tmp_path, first), first.config, 2)
  begun(runner.folder(tmp_path, second), second.config, 4)
  before = files(tmp_path)
  assert swept(tmp_path) == 0
  told = capsys.readouterr().out
  assert '0 of 2 runs are new' in told
  assert 'goes on from step 2 to 4' in told and 'finished at step 4' in told
  # launch/sweep.sh counts the lines that end with a seed.
  names = [line for line in told.splitlines() if line.endswith('/seed0')]
  assert names == [first.name, second.name]
  # What is finished is of this config, too, or its table would lie.
  assert swept(tmp_path, '--config.prompts_per_step=4') == 2
  assert 'holds a run of another config' in capsys.readouterr().err
  assert swept(tmp_path, '--config.num_steps=3') == 2
  assert 'has 4 steps, and num_steps=3' in capsys.readouterr().err
  assert files(tmp_path) == before
  with Lease(runner.folder(tmp_path, first)):
    assert swept(tmp_path) == 2
    assert 'which is alive' in capsys.readouterr().err


@pytest.mark.parametrize('more', [(), ('--gather',)])
def test_a_sweep_is_refused_before_it_trains(tmp_path, capsys, more):
  first, second = members(tmp_path)
  begun(runner.folder(tmp_path, second), second.config, 4)
  argv = ['--config', SMOKE, *GRID, '--workdir', str(tmp_path), *more]
  assert sweep.main([*argv, '--config.prompts_per_step=4']) == 2
  assert 'holds a run of another config' in capsys.readouterr().err
  assert not runner.folder(tmp_path, first).exists()


@pytest.mark.parametrize('main, words', [
  (sweep.main, [SMOKE, *GRID]),
  (quickstart.main, ['configs/quickstart.py:smoke']),
])  # fmt: skip
def test_a_folder_that_no_sweep_or_quickstart_may_have(
  tmp_path, capsys, main, words
):
  (tmp_path / 'file').write_text('x')
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model' / 'config.json').write_text('{"model_type": "qwen2"}')
  before = files(tmp_path)
  for dry_run in ([], ['--dry_run']):
    for place, said in (('file', 'is a file'), ('model', 'is a model folder')):
      argv = ['--config', *words, '--workdir', str(tmp_path / place), *dry_run]
      assert main(argv) == 2
      assert said in capsys.readouterr().err
  assert files(tmp_path) == before


def test_a_quickstart_beside_its_folder(tmp_path, capsys):
  argv = ['--config', 'configs/quickstart.py:smoke', '--dry_run', '--workdir']
  assert quickstart.main([*argv, str(tmp_path / 'new')]) == 0
  assert 'a new quickstart' in capsys.readouterr().out
  stage = tmp_path / 'stages' / 'base-1234'
  stage.mkdir(parents=True)
  (stage / stages.FILE).write_text('{}')
  assert quickstart.main([*argv, str(tmp_path)]) == 0
  assert 'stages kept: 1' in capsys.readouterr().out
  with Lease(stage):
    assert quickstart.main([*argv, str(tmp_path)]) == 2
    assert 'which is alive' in capsys.readouterr().err
