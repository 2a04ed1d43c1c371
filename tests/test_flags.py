"""Flags that no command has, and how each command says so."""

import argparse
import importlib
import io
from pathlib import Path

import pytest

import posttrain_jax
from posttrain_jax.core import flags

ROOT = Path(posttrain_jax.__file__).parent
# Run by the package itself.
WORKERS = {'core.pool', 'rewards.texts.inside', 'run.doctor.probe',
           'run.plan.apart'}  # fmt: skip
# They hand on what they do not know: a task's knobs, the flags of a harness.
OPEN = ('data.task_builder', 'lm_eval')


def commands():
  """Modules of the package that can be run."""
  for file in ROOT.rglob('*.py'):
    if "if __name__ == '__main__'" in file.read_text(encoding='utf-8'):
      yield '.'.join(file.relative_to(ROOT).with_suffix('').parts)


# They do their work without a flag.
ALONE = ('objectives', 'doctor')
ALL = sorted(set(commands()) - set(OPEN) - WORKERS)


def test_all_commands_are_there():
  assert {'train', 'sample', 'export', 'report.__main__'} < set(ALL)
  assert WORKERS | {*OPEN} < set(commands())


@pytest.mark.parametrize('name', ALL)
def test_an_unknown_flag_is_named(name, capsys):
  """Before anything that is missing is."""
  main = importlib.import_module(f'posttrain_jax.{name}').main
  try:
    status = main(['--no_such_flag=1'])
  except SystemExit as left:
    status = left.code
  said = f'{status}{capsys.readouterr().err}'
  assert status not in (0, None)
  assert 'no_such_flag' in said, said


@pytest.mark.parametrize('name', [name for name in ALL if name not in ALONE])
def test_what_is_missing_is_one_sentence(name, capsys, monkeypatch):
  """No page of usage."""
  monkeypatch.setattr('sys.stdin', io.StringIO(''))
  module = importlib.import_module(f'posttrain_jax.{name}')
  try:
    status = module.main([])
  except SystemExit as left:
    status = left.code
  said = f'{status}' * isinstance(status, str) + capsys.readouterr().err
  assert status not in (0, None)
  assert said.count('error: ') == 1 and 'usage:' not in said, said


def parser():
  made = argparse.ArgumentParser(allow_abbrev=False)
  for name in ('--model', '--max_new_tokens', '--num_samples'):
    made.add_argument(name)
  return made


@pytest.mark.parametrize('words, told', [
  (['--modle', 'x'], r'"--modle". Did you mean "--model"\?'),
  (['--batch_size', '4'], r'unknown flag "--batch_size". Valid'),
  (['--x', '--model', 'a'], r'unknown flag "--x". Valid'),
  (['--model', 'a', 'b'], 'unknown flag "b"'),
  (['--model', 'a', '--model=b'], '--model is given twice, as a and b'),
])  # fmt: skip
def test_what_is_said_of_them(words, told):
  with pytest.raises(ValueError, match=told):
    flags.read(parser(), words)


def test_values_may_look_like_flags():
  assert flags.read(parser(), ['--model=--x']).model == '--x'
  assert flags.read(parser(), ['--model', '--- a b']).model == '--- a b'
