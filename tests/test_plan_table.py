"""The committed table of plans: its cells are runs, its rows are its files."""

import json
import math

import pytest

from experiments.plan import cells, table
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import topology

METHODS = sorted({cell.method for cell in cells.CELLS})


def test_every_cell_that_was_asked_for_is_there():
  assert len(cells.CELLS) == 3 * 4 * 4 + 3
  assert len({cell.name for cell in cells.CELLS}) == len(cells.CELLS)
  large = [cell for cell in cells.CELLS if cell.model == cells.LARGE]
  assert {cell.method for cell in large} == {'SFT 8k'}


@pytest.mark.parametrize('method', METHODS)
def test_cells_are_configs_whose_rows_their_slices_divide(method):
  for cell in cells.CELLS:
    if cell.method != method:
      continue
    items = [(key, str(value)) for key, value in cell.values.items()]
    config = config_lib.load(cell.config, items)
    chips = topology.parse(cell.topology).count
    mesh = [config.mesh[axis] for axis in ('data', 'fsdp', 'tensor')]
    assert math.prod(mesh) == chips, cell.name
    rows = config.prompts_per_step
    rows *= config.group_size if method.startswith('GRPO') else 1
    rows *= 2 if method.startswith('DPO') else 1
    micro = cell.values.get('microbatch_rows', rows)
    parts = config.mesh.data * config.mesh.fsdp
    assert rows % micro == 0 and micro % parts == 0, cell.name


def test_committed_results_are_the_rows_of_the_page():
  text = table.table()
  files = sorted(table.RESULTS.glob('*.json'))
  assert {path.stem for path in files} <= {cell.name for cell in cells.CELLS}
  assert len(text.splitlines()) == 2 + len(files)
  page = (table.HERE / 'README.md').read_text()
  assert page.split(table.BEGIN)[1].split(table.END)[0].strip() == text
  for path in files:
    found = json.loads(path.read_text())
    assert found['plan']['fits'] or found['plan']['tried'], path.name


def test_what_does_not_fit_is_shown_with_what_does():
  cell = cells.CELLS[0]
  plan = {
    'fits': False, 'over_bytes': 3 * 2**30, 'topology': cell.topology,
    'fitting': [{'microbatch_rows': 4}, {'mesh.fsdp': 32, 'mesh.data': 1}],
    'hbm_bytes': {'parameters': 2**30, 'total': 19 * 2**30},
    'flops': {'recomputed': 0.25}, 'step_seconds': None,
    'sizes': {'weights': 'bfloat16', 'moments': 'bfloat16',
              'computation': 'bfloat16', 'rows': 8, 'row_tokens': 8192,
              'microbatch_rows': 8},
  }  # fmt: skip
  result = {'method': cell.method, 'model': cell.model, 'plan': plan,
            'commit': 'abc'}  # fmt: skip
  line = table.row(result)
  assert line.count('|') == len(table.HEAD) + 1
  told = '`microbatch_rows=4` or `mesh.fsdp=32, mesh.data=1`'
  assert f'3.0 GiB over; {told}' in line and '| 25% |' in line
