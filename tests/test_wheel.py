"""The wheel: what is in it, and that its commands run without the checkout."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ('posttrain_jax', 'configs')


def shipped() -> set[str]:
  """Every file of the packages, relative to the checkout."""
  return {
    path.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }


def test_every_file_of_the_packages_is_meant_for_the_wheel():
  """Without building: folders are packages, other files match a pattern."""
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))
  patterns = settings['tool']['setuptools']['package-data']
  data = {
    path.relative_to(ROOT).as_posix()
    for package, globs in patterns.items()
    for glob in globs
    for path in (ROOT / package).glob(glob)
  }
  assert data, 'the patterns of package-data fit no file'
  for name in shipped():
    path = ROOT / name
    if path.suffix == '.py':
      assert (path.parent / '__init__.py').is_file(), f'{name}: no package'
    elif path.name != 'README.md':
      assert name in data, f'{name} is not in package-data of pyproject.toml'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
  """The wheel, built from a copy: a build leaves files beside its source."""
  folder = tmp_path_factory.mktemp('wheel')
  names = [*shipped(), 'pyproject.toml', 'requirements.txt']
  for name in [*names, 'README.md', 'LICENSE']:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes((ROOT / name).read_bytes())
  subprocess.run(
    [sys.executable, '-m', 'build', '--wheel', '--no-isolation', str(folder)],
    check=True,
    capture_output=True,
  )
  (found,) = (folder / 'dist').glob('posttrain_jax-*.whl')
  return found


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory) -> Path:
  """Python of a new venv with the wheel in it.

  Everything else is read from the packages that run this test. They are on
  its path as a folder, so that their own .pth files, the checkout's among
  them, are not.
  """
  folder = tmp_path_factory.mktemp('venv')
  venv.create(folder, with_pip=False, symlinks=True)
  found = folder / 'bin' / 'python'
  paths = sysconfig.get_paths(vars={'base': str(folder)})
  site = Path(paths['purelib'])
  install = ('install', '--quiet', '--no-deps', '--no-index', str(wheel))
  subprocess.run(
    [sys.executable, '-m', 'pip', '--python', str(found), *install],
    check=True,
    capture_output=True,
  )
  (site / 'others.pth').write_text(sysconfig.get_paths()['purelib'])
  return found


def run(python: Path, folder: Path, *command: str) -> str:
  """What `python COMMAND` prints, in `folder` and without our paths."""
  environment = {
    key: value for key, value in os.environ.items() if key != 'PYTHONPATH'
  }
  done = subprocess.run(
    [python, *command],
    cwd=folder,
    env=environment | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
  return done.stdout


@pytest.mark.long
def test_the_wheel_holds_every_file(wheel):
  with zipfile.ZipFile(wheel) as content:
    held = {x for x in content.namelist() if x.startswith(PACKAGES)}
  assert {x for x in held if '.dist-info/' not in x} == {
    name for name in shipped() if not name.endswith('README.md')
  }


@pytest.mark.long
def test_commands_run_from_the_wheel_alone(python, tmp_path):
  where = 'import posttrain_jax, configs; print(posttrain_jax.__file__)'
  assert str(python.parents[1]) in run(python, tmp_path, '-c', where)

  # The page of all methods needs its style and its script.
  run(python, tmp_path, '-m', 'posttrain_jax.objectives', '--out', 'methods')
  page = (tmp_path / 'methods' / 'index.html').read_text('utf-8')
  assert '<style>' in page and '<script>' in page and 'ppo_clip' in page

  # Configs are found among those installed.
  train = ('-m', 'posttrain_jax.train', '--config', 'configs/rl.py:smoke')
  shown = run(python, tmp_path, *train, '--workdir', 'runs/x', '--dry_run')
  assert 'prompts_per_step' in shown
  assert not (tmp_path / 'runs').exists()

  # A study's page, from its committed results, over the installed style.
  (tmp_path / 'forgetting').mkdir()
  for name in ('results.json', 'README.md'):
    kept = ROOT / 'experiments' / 'forgetting' / name
    (tmp_path / 'forgetting' / name).write_bytes(kept.read_bytes())
  run(python, tmp_path, '-m', 'posttrain_jax.report', 'forgetting')
  page = (tmp_path / 'forgetting' / 'index.html').read_text('utf-8')
  style = (ROOT / 'posttrain_jax/report/report.css').read_text('utf-8')
  assert style in page
