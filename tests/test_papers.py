"""The catalogue of papers: what it names is there, and its page is current."""

import csv
import functools
import importlib
import json
from collections import Counter
from pathlib import Path

import pytest

from posttrain_jax.run import config as config_lib

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def papers():
  """experiments/papers.py, which is no part of the package."""
  spec = importlib.util.spec_from_file_location(
    'papers', ROOT / 'experiments' / 'papers.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def rows(papers):
  return papers.read()


def exists(name: str) -> bool:
  """Whether a dotted name is a module, or what a module calls so."""
  try:
    importlib.import_module(name)
    return True
  except ModuleNotFoundError:
    home, _, leaf = name.rpartition('.')
    return hasattr(importlib.import_module(home), leaf)


def test_the_catalogue_is_whole(rows):
  """A row that is lost or doubled in an edit would go unseen."""
  assert [row.id for row in rows] == [f'{i:03d}' for i in range(209)]
  assert len({row.title for row in rows}) == 209
  assert len({row.family for row in rows}) == 5


def test_code_exists(rows):
  names = {name for row in rows for name in row.code}
  assert [name for name in sorted(names) if not exists(name)] == []
  assert not exists('posttrain_jax.advantages.grop')


def test_configs_load(papers, rows):
  """Each base spec once; the flags of a row are applied to a copy."""
  base = functools.cache(config_lib.load)
  for row in rows:
    for spec, flags in papers.stages(row):
      items, rest = config_lib.split_flags(flags)
      assert not rest, f'{row.id}: {rest} are no overrides'
      try:
        config_lib.override(base(spec).copy_and_resolve_references(), items)
      except ValueError as error:
        pytest.fail(f'{row.id}: {spec} {" ".join(flags)}: {error}')


def test_flags_of_readings_make_variants(papers, rows):
  """Of the last command; a row without one has none to change."""
  named = [row for row in rows if '`--' in row.reading]
  assert {'037', '135'} <= {row.id for row in named}
  for row in named:
    assert row.config, f'{row.id}: flags, and no command that has them'
    found = papers.variants(row)
    assert len(found) == row.reading.count('`--'), row.id
    for _, spec, *flags, _, folder in found:
      assert spec == papers.stages(row)[-1][0]
      assert folder.startswith(f'runs/{len(row.config)}-')
      items, rest = config_lib.split_flags(flags)
      assert not rest, f'{row.id}: {rest} are no overrides'
      changed = config_lib.load(spec, items)
      own, _ = config_lib.split_flags(papers.commands(row)[-1][2:-2])
      assert changed.to_dict() != config_lib.load(spec, own).to_dict(), row.id


def test_a_config_uses_the_code_of_its_row(papers, rows):
  """What a row runs has a part that is one of its functions."""
  for row in rows:
    if row.status not in ('runs', 'measured'):
      continue
    used = set()
    for spec, flags in papers.stages(row):
      items, _ = config_lib.split_flags(flags)
      config = config_lib.load(spec, items)
      leaves = config_lib.flatten(config.to_dict()).values()
      used |= {leaf for leaf in leaves if isinstance(leaf, str)}
      used |= {entry['name'] for entry in config.get('rewards', ())}
    leaves = {name.rpartition('.')[2] for name in row.code}
    assert leaves & used, f'{row.id}: {leaves} are in none of {row.config}'


def test_files_exist(rows):
  for row in rows:
    if row.study:
      assert (ROOT / 'experiments' / row.study).is_dir(), row
    if row.result:
      assert (ROOT / row.result).is_file(), row


def test_what_is_measured_could_be_judged(rows):
  """A paper of which no claim could be judged was tried, and not measured."""
  for row in rows:
    if row.status != 'measured':
      continue
    found = json.loads((ROOT / row.result).read_text(encoding='utf-8'))
    verdicts = {
      claim['outcome'] for claim in found['claims'] if row.id in claim['paper']
    }
    assert verdicts - {'not testable here'}, f'{row.id}: {verdicts}'


def test_the_page_and_the_summary_are_current(papers, capsys):
  status = papers.main(['--check'])
  assert status == 0, capsys.readouterr().out


def test_stale_files_are_named(papers, rows, tmp_path, monkeypatch, capsys):
  page, index = tmp_path / 'papers.md', tmp_path / 'README.md'
  monkeypatch.setattr(papers, 'PAGE', page)
  monkeypatch.setattr(papers, 'INDEX', index)
  index.write_text('before\n<!-- papers -->\nold\n<!-- /papers -->\nafter\n')
  assert papers.main(['--check']) == 1
  out = capsys.readouterr().out
  assert str(page) in out and str(index) in out
  assert papers.main(['--write']) == 0
  assert papers.main(['--check']) == 0
  text = index.read_text()
  assert text.startswith('before\n<!-- papers -->\n')
  assert text.endswith('<!-- /papers -->\nafter\n') and 'old' not in text
  index.write_text('no markers')
  with pytest.raises(ValueError, match='needs one <!-- papers -->'):
    papers.main(['--check'])


def test_counts_of_the_page(papers, rows):
  lines = papers.render(rows).splitlines()
  total = next(line for line in lines if line.startswith('| **all** |'))
  by = Counter(row.status for row in rows)
  numbers = [str(by[status]) for status in papers.STATUSES]
  assert total == f'| **all** | {" | ".join(numbers)} | 209 |'
  tables = [line for line in lines if line[2:5].isdigit()]
  assert len(tables) == 209
  for line in tables:  # a bar in a cell would make an eighth one
    assert line.replace('\\|', '').count('|') == 8, line


def test_find(papers, rows, capsys):
  found = papers.find(rows, 'ANCHORED supervised')
  assert [row.id for row in found] == ['022']
  assert '016' in {row.id for row in papers.find(rows, 'chord_phi')}
  assert papers.main(['find', 'Self-Play', 'Fine-Tuning']) == 0
  out = capsys.readouterr().out
  assert '042 SPIN [measured]' in out
  assert 'configs/preference.py:recipe=spin' in out
  assert papers.main(['find', 'no such words at all']) == 1
  assert papers.main(['find', 'RIF-RFT']) == 0
  variant = next(x for x in capsys.readouterr().out.splitlines() if '1-1' in x)
  assert variant.split()[0] == 'variant'
  assert variant.endswith('--config.curriculum.name=informative '
                          '--workdir runs/1-1')  # fmt: skip


GOOD = {
  'id': '007',
  'name': 'A',
  'title': 'A: b',
  'family': 'f',
  'area': 'SFT objectives',
  'kind': 'k',
  'status': 'runs',
  'code': 'posttrain_jax.advantages.grpo',
  'config': 'configs/sft.py:recipe=dft',
  'study': '',
  'result': '',
  'reading': 'It is here.',
}


def write(path, *rows):
  with open(path, 'w', newline='') as file:
    writer = csv.DictWriter(file, GOOD)
    writer.writeheader()
    writer.writerows(rows)
  return path


def test_a_good_row_is_read(papers, tmp_path):
  stage = 'configs/rl.py:recipe=ppo --config.kl.coef=0.1'
  row = GOOD | {'config': f'configs/sft.py:recipe=sft; {stage}'}
  (paper,) = papers.read(write(tmp_path / 'p.csv', row))
  assert paper.config == ('configs/sft.py:recipe=sft', stage)
  assert papers.stages(paper)[1] == (
    'configs/rl.py:recipe=ppo',
    ['--config.kl.coef=0.1'],
  )


@pytest.mark.parametrize(
  'change, message',
  [
    ({'id': '7'}, 'line 2, column id: "7" is not three digits'),
    ({'title': ' '}, 'line 2, column title: is empty'),
    ({'area': 'SFT'}, 'line 2, column area: "SFT" is none of SFT obj'),
    ({'status': 'run'}, 'line 2, column status: "run" is none of measured'),
    ({'code': ''}, 'column code: is empty, and status "runs" needs it'),
    ({'config': ''}, 'column config: is empty, and status "runs" needs it'),
    ({'status': 'measured'}, 'column result: is empty, and status "measured"'),
    ({'status': 'planned'}, 'column code: is filled, and status "planned"'),
    ({'code': 'advantages.grpo'}, 'column code: "advantages.grpo" is no dott'),
    ({'reading': 'here'}, 'column reading: does not end with a full stop'),
  ],
)
def test_a_bad_cell_is_named(papers, tmp_path, change, message):
  with pytest.raises(ValueError) as error:
    papers.read(write(tmp_path / 'p.csv', GOOD | change))
  assert message in str(error.value)


def test_bad_rows_are_named(papers, tmp_path):
  path = write(tmp_path / 'p.csv', GOOD, GOOD)
  with pytest.raises(ValueError, match='line 3, column id: 007 is on line 2'):
    papers.read(path)
  path.write_text(path.read_text() + '008,A\n')
  path.write_text(path.read_text().replace('007', '006', 1))
  with pytest.raises(ValueError, match='line 4: 2 columns, not 12'):
    papers.read(path)
  path.write_text('id,name\n')
  with pytest.raises(ValueError, match='line 1: columns are id,name, not id,'):
    papers.read(path)
