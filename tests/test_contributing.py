"""CONTRIBUTING's example of a loss, taken from its text and tried."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.losses import policy_gradient

ROOT = Path(__file__).resolve().parents[1]
NAME = 'reinforce_powers'
ROOM = 'posttrain_jax/losses/policy_gradient'


def blocks() -> list[tuple[str, str]]:
  """(file, code) of each Python block that names its file, in order."""
  text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
  found = []
  for block in re.findall(r'^ *```python\n(.*?)^ *```', text, re.M | re.S):
    first, _, code = textwrap.dedent(block).partition('\n')
    if match := re.fullmatch(r'# (\S+\.py)', first):
      found.append((match[1], code))
  return found


def follow(root: Path) -> None:
  """Does in a copy of the project what CONTRIBUTING says."""
  for name, code in blocks():
    path = root / name
    if not path.exists():
      path.write_text(code, encoding='utf-8')
      continue
    before = path.read_text(encoding='utf-8')
    if name.endswith('__init__.py'):
      opening = '__all__ = ['
      assert before.count(opening) == 1
      before = before.replace(opening, f'{code}\n{opening}\n  {NAME!r},')
      path.write_text(before, encoding='utf-8')
    else:
      path.write_text(f'{before}\n\n{code}', encoding='utf-8')


def test_every_block_names_its_file_and_is_python():
  text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
  assert len(blocks()) == text.count('```python') >= 3
  for name, code in blocks():
    ast.parse(code)
    assert (ROOT / name).parent.is_dir(), name


@pytest.fixture(scope='module')
def loss(tmp_path_factory):
  """The example, in a copy of its room."""
  root = tmp_path_factory.mktemp('room')
  shutil.copytree(ROOT / ROOM, root / ROOM)
  for name, _ in blocks():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
  follow(root)
  # Under a name of its own: the project's room is loaded already.
  for path in (root / ROOM).glob('*.py'):
    text = path.read_text(encoding='utf-8')
    text = text.replace('posttrain_jax.losses.policy_gradient', 'room_copy')
    path.write_text(text, encoding='utf-8')
  (root / ROOM).rename(root / 'room_copy')
  sys.path.insert(0, str(root))
  try:
    room = importlib.import_module('room_copy')
    assert set(room.__all__) == {NAME, *policy_gradient.__all__}
    yield getattr(room, NAME)
  finally:
    sys.path.remove(str(root))
    for name in [x for x in sys.modules if x.split('.')[0] == 'room_copy']:
      del sys.modules[name]


def test_the_example_learns_nothing_from_what_is_masked(loss, key):
  mask = jnp.ones((3, 5)).at[0, 3:].set(0.0).at[2].set(0.0)
  keys = jax.random.split(key, 3)
  clean = [jax.random.normal(x, (3, 5)) for x in keys]
  total = lambda *x: loss(*x, mask, power=3.0)[0].sum()
  slopes = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
  value, expected = slopes(*clean)
  assert np.isfinite(value) and np.abs(expected[0]).sum() > 0.1
  for poison in (jnp.nan, jnp.inf, -jnp.inf, 1e30):
    spoiled = [jnp.where(mask > 0, x, poison) for x in clean]
    again, grads = slopes(*spoiled)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    for found, right in zip(grads, expected):
      np.testing.assert_allclose(found, right, rtol=1e-6)
      np.testing.assert_array_equal(found[mask == 0], 0.0)
  for fixed in expected[1:]:
    np.testing.assert_array_equal(fixed, 0.0)


@pytest.mark.long
def test_the_project_accepts_the_example(tmp_path):
  """Every step, with the linter and all tests that speak of the new loss."""
  skip = shutil.ignore_patterns('__pycache__', '*.npz', '*.safetensors')
  for name in ('posttrain_jax', 'configs', 'tests', 'experiments'):
    shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
  for name in ('pyproject.toml', 'CONTRIBUTING.md'):
    shutil.copy(ROOT / name, tmp_path / name)
  follow(tmp_path)

  def run(*command):
    done = subprocess.run(
      [sys.executable, '-m', *command],
      cwd=tmp_path,
      env={**os.environ, 'PYTHONPATH': str(tmp_path)},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout

  lint = ('--ignore', 'E402,I001,F811')  # blocks stand at the end of files
  run('ruff', 'check', *lint, *dict(blocks()))
  tests = [f'tests/test_{name}.py' for name in (
    'rooms', 'policy_gradient', 'policy_gradient_protocol', 'twins',
    'metamorphic', 'metamorphic_numerics', 'loss_numerics',
  )]  # fmt: skip
  shown = run('pytest', '-v', '-k', f'{NAME} or every', *tests)
  assert int(re.search(r'(\d+) passed', shown)[1]) > 20, shown
  spec = 'configs/rl.py:smoke'
  chosen = (f'--config.loss.name={NAME}', '--config.loss.power=3')
  train = ('posttrain_jax.train', '--config', spec, *chosen)
  shown = run(*train, '--dry_run', '--workdir', 'runs/x')
  assert NAME in shown and 'power' in shown
