"""READMEs: links lead somewhere, commands are understood, examples run."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from posttrain_jax.run import command
from posttrain_jax.sweep import __main__ as sweep_command

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('posttrain_jax', 'configs', 'tests', 'launch')
PAGES = [
  *sorted(ROOT.glob('*.md')),
  *sorted(page for x in FOLDERS for page in (ROOT / x).rglob('README.md')),
]
PAGES = {str(page.relative_to(ROOT)): page.read_text('utf-8') for page in PAGES}


def blocks(text: str, language: str) -> list[str]:
  found = re.findall(r'^ *```(\w*)\n(.*?)^ *```$', text, re.M | re.S)
  return [block for name, block in found if name == language]


def commands() -> list[tuple[str, str]]:
  """(page, command) of every line that a block without a language shows."""
  found = []
  for page, text in PAGES.items():
    for block in blocks(text, ''):
      for line in block.replace('\\\n', ' ').splitlines():
        line = line.split('   # ')[0].strip()
        if line.startswith(('python ', 'make ', '.venv/', 'launch/')) or (
          '/bin/' in line or 'launch/' in line
        ):
          found.append((page, line))
  return found


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
  folder = (ROOT / page).parent
  for address in re.findall(r'\]\(([^)#\s]+)', PAGES[page]):
    if not address.startswith('https://'):
      assert (folder / address).exists(), f'{page}: {address}'
  for name in re.findall(r'`((?:posttrain_jax|configs|tests)/[\w/]+\.py)`',
                         PAGES[page]):  # fmt: skip
    assert (ROOT / name).exists() or page == 'CONTRIBUTING.md', name


def test_there_are_commands():
  programs = {line.split()[0] for _, line in commands()}
  assert {'python', 'make'} <= programs
  assert len(commands()) > 20


def launch(words: list[str]) -> None:
  """A script of launch/ prints what it would run, and the run is understood."""
  at = next(i for i, word in enumerate(words) if word.startswith('configs/'))
  given = ['--config', words[at], '--workdir', *words[at + 1 :]]
  if words[0] == 'launch/sweep.sh':
    words[2:2] = ['--points', '1', '--dry_run']
    if '--list' not in given:  # a file of the reader's
      sweep_command.parse([*given, '--dry_run'])
  else:
    words[1:1] = ['--dry_run']
    command.parse(given, '')
  shown = subprocess.run(
    ['bash', *words], capture_output=True, text=True, timeout=60
  )
  assert shown.returncode == 0, shown.stderr
  assert words[-1] in shown.stdout


@pytest.mark.parametrize('page, line', commands())
def test_commands_are_understood(page, line, monkeypatch):
  monkeypatch.chdir(ROOT)
  words = shlex.split(line)
  while '=' in words[0]:  # variables before the command
    words.pop(0)
  if words[0] == 'make':
    targets = [word for word in words[1:] if '=' not in word]
    made = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M)
    assert set(targets) <= set(made), line
    return
  if words[0].startswith('launch/'):
    launch(words)
    return
  if words[1:2] != ['-m'] or not words[2].startswith('posttrain_jax'):
    assert words[0].startswith(('python', '.venv/bin/')), line
    return
  module = words[2].partition('[')[0]
  spec = importlib.util.find_spec(module)
  assert spec, line
  if module == 'posttrain_jax.train':
    command.parse(words[3:], '')
  elif module == 'posttrain_jax.sweep':
    sweep_command.parse(words[3:])
  else:
    source = Path(spec.origin).read_text('utf-8')
    for word in words[3:]:
      if word.startswith('--') and not word.startswith('--config'):
        assert f"'{word.partition('=')[0]}'" in source, line


def test_the_example_of_a_loss_prints_what_it_says(capsys):
  (example,) = blocks(PAGES['README.md'], 'python')
  exec(example, {})
  said = re.search(r'print\(.*\)  # (\S+)', example)[1]
  assert capsys.readouterr().out.strip() == said


@pytest.mark.long
def test_the_example_of_a_sweep_runs(capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  (example,) = blocks(PAGES['posttrain_jax/sweep/README.md'], 'python')
  exec(example, {})
  assert re.fullmatch(r'\(4, \d+\)', capsys.readouterr().out.strip())


def test_the_tree_names_what_there_is():
  """Every entry of the package stands in its map, and nothing else does."""
  tree = blocks(PAGES['posttrain_jax/README.md'], '')[0]
  named = set(re.findall(r'(?<!\S)(\w+)/(?=\s)', tree.split('; parts/')[0]))
  there = {
    path.name
    for path in (ROOT / 'posttrain_jax').iterdir()
    if path.is_dir() and (path / '__init__.py').exists()
  }
  for name in there:
    assert re.search(rf'(?<!\S){name}/', tree), f'{name}/ is not in the tree'
  assert named <= there, named - there
  for path in (ROOT / 'posttrain_jax').glob('[!_]*.py'):
    assert re.search(rf'(?<![\w.]){path.stem}\b', tree), path.name


def test_paths_of_the_changelog_moved_as_it_says():
  table = PAGES['CHANGELOG.md'].split('| old import | new import |')[1]
  rows = re.findall(r'^\| (.*?) \| (.*?) \|$', table, re.M)
  exists = lambda name: importlib.util.find_spec(f'posttrain_jax.{name}')
  module = re.compile(r'`([a-z_]+(?:\.[a-z_]+)*)(?:\.\*)?`')
  for old, new in rows[1:]:
    for name in module.findall(new):
      assert exists(name), f'{name} is not there'
    if ':' not in old:  # whole modules
      for name in re.findall(r'`([a-z_]+)`', old):
        assert not exists(name), f'{name} is still there'
