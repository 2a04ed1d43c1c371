"""`--dry_run` says of a folder what the run would say, and writes nothing."""

import json

import pytest
from test_checkpoint import state_of

from posttrain_jax import train
from posttrain_jax.run import build, checkpoint, measured
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.lease import Lease

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
  assert dry(tmp_path, '--config.num_steps=2') == 0
  assert 'finished at step 2; nothing left' in capsys.readouterr().out
  assert dry(tmp_path) == 0
  assert 'goes on from step 2 to 4' in capsys.readouterr().out
  # A longer one: its cosine is drawn anew.
  assert dry(tmp_path, '--config.num_steps=40') == 0
  assert 'num_steps=4 -> 40: the cosine schedule' in capsys.readouterr().out
  assert files(tmp_path) == before


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


@pytest.mark.parametrize('name, content', [
  ('config.json', json.dumps({'model_type': 'qwen2'})),
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
