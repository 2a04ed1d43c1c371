"""The table of every objective against its references."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from posttrain_jax.losses import value

FOLDER = Path(__file__).parent.parent / 'experiments' / 'objectives'


@pytest.fixture(scope='module')
def agreement():
  sys.path.insert(0, str(FOLDER))
  try:
    return importlib.import_module('agreement')
  finally:
    sys.path.remove(str(FOLDER))


def test_committed_table_is_that_of_the_committed_numbers(agreement):
  content = json.loads((FOLDER / 'agreement.json').read_text('utf-8'))
  assert agreement.markdown(content) == (FOLDER / 'agreement.md').read_text(
    'utf-8'
  ), f'run {agreement.COMMAND}'
  assert content['commit'] and content['date'] and content['versions']['jax']
  limits = {'hand': 1e-9, 'finite differences': 1e-6, 'zero': 0.0, 'none': 0.0}
  for row in content['numpy']:
    if row['gradient_by'] == '':
      continue
    rounding = 1e-6 if row['float32'] else 0.0
    assert row['value'] <= max(1e-10, rounding), row
    limit = max(limits[row['gradient_by']], rounding)
    assert (row['gradient'] or 0.0) <= limit, row


def test_committed_table_has_every_case(agreement):
  import objective_cases  # beside the tests, as agreement.py finds it

  content = json.loads((FOLDER / 'agreement.json').read_text('utf-8'))
  cases = [
    (f'{case.room}.{case.name}', case.id, case.twin is not None)
    for case in objective_cases.all_cases()
  ]
  rows = [
    (row['objective'], row['case'], row['value'] is not None)
    for row in content['numpy']
  ]
  assert rows == cases, f'run {agreement.COMMAND}'


def test_a_part_of_the_cases_replaces_no_table(agreement, capsys):
  """Not even where the folder of the whole is named in another way."""
  for more in ([], ['--out', str(FOLDER / '..' / FOLDER.name)]):
    with pytest.raises(SystemExit):
      agreement.main(['--seeds', '1', '--only', 'value.', *more])
    assert '--only "value." is a part of the table' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    agreement.main(['--only', 'vlaue.', '--out', 'somewhere'])
  assert 'no case has "vlaue." in its id' in capsys.readouterr().err


def test_table_measures_a_case(agreement, tmp_path):
  agreement.main(['--seeds', '1', '--only', 'value.', '--out', str(tmp_path)])
  content = json.loads((tmp_path / 'agreement.json').read_text('utf-8'))
  assert {row['objective'] for row in content['numpy']} == {
    f'losses.value.{name}' for name in value.__all__
  }
  assert content['seeds'] == 1


def test_table_says_when_trl_is_absent(agreement, tmp_path):
  assert agreement.trl_entries(tmp_path) is None
  content = json.loads((FOLDER / 'agreement.json').read_text('utf-8'))
  text = agreement.markdown({**content, 'trl': None})
  assert 'comparison with TRL is absent' in text
  assert 'DPOTrainer' not in text
