"""The committed table of plans: its cells are runs, its rows are its files."""

import json
import math

import pytest

from experiments.plan import cell as one_cell
from experiments.plan import cells, choose, table
from posttrain_jax.core import target
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import lowering, topology

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
  files = sorted(table.RESULTS.glob('*.json'))
  assert {path.stem for path in files} <= {cell.name for cell in cells.CELLS}
  page = (table.HERE / 'README.md').read_text()
  text = page.split(table.BEGIN)[1].split(table.END)[0].strip()
  assert text == table.page()
  rows = [line for line in text.splitlines() if line.startswith('| ')]
  assert len(rows) == 2 + len(cells.CELLS)
  empty = [row for row in rows if 'not computed' in row]
  assert len(empty) == len(cells.CELLS) - len(files)
  for path in files:
    found = json.loads(path.read_text())
    if found['plan']['method'] == 'compiled':
      assert found['plan']['fits'] or found['plan']['tried'], path.name
    assert not found['commit'].endswith('+'), path.name
    assert found['plan']['mfu'] is None, path.name
    for part in found['plan']['programs'].values():
      sizes = dict(part['hbm_bytes'])
      assert sizes.pop('total') == sum(sizes.values()), path.name


def result_of(cell, **values):
  plan = {
    'fits': True, 'method': 'compiled', 'over_bytes': 0,
    'topology': cell.topology, 'fitting': [],
    'hbm_bytes': {'parameters': 2**30, 'total': 19 * 2**30, 'limit': 2**35},
    'flops': {'recomputed': 0.1}, 'step_seconds': 2.0,
    'collective_seconds': 1.0,
    'sizes': {'weights': 'bfloat16', 'moments': 'bfloat16',
              'computation': 'bfloat16', 'rows': 8, 'row_tokens': 8192,
              'microbatch_rows': 8},
    'programs': {
      'rollout': {'collective_bytes': {'all-gather': 9e9},
                  'formula_bytes': None, 'largest_collectives': []},
      'learn': {'collective_bytes': {'all-gather': 3e9, 'all-reduce': 1e9},
                'formula_bytes': {'all-gather': 4e9},
                'largest_collectives': [
                  {'kind': 'all-gather', 'array': 'bf16[8]', 'times': 28,
                   'bytes': 3 * 2**30, 'source': 'mlp/dot'}]},
    },
    **values,
  }  # fmt: skip
  return {
    'cell': cell.name, 'method': cell.method, 'model': cell.model,
    'values': {'model.remat': 'save_branches', 'slots': 16}, 'plan': plan,
    'plans': [], 'commit': 'abc', 'cpu_seconds': 60.0,
  }  # fmt: skip


def test_what_does_not_fit_is_shown_with_what_does():
  cell = cells.CELLS[0]
  refused = {'learn': {'refused': {}, 'formula_bytes': {}}}
  result = result_of(
    cell, fits=False, over_bytes=3 * 2**30, programs=refused, step_seconds=None,
    fitting=[{'microbatch_rows': 4}, {'mesh.fsdp': 32, 'mesh.data': 1}],
    flops={'recomputed': 0.25},
  )  # fmt: skip
  line = table.row(result)
  assert line.count('|') == len(table.HEAD) + 1
  told = '`microbatch_rows=4` or `mesh.fsdp=32, mesh.data=1`'
  assert f'3.0 GiB over; {told}' in line and '| 25% |' in line
  assert '| save_branches, slots 16 |' in line


def test_what_was_not_compiled_says_so():
  line = table.row(result_of(cells.CELLS[0], method='arithmetic'))
  assert 'should fit, by arithmetic; not compiled' in line
  over = {'fits': False, 'over_bytes': 2**31, 'method': 'arithmetic'}
  line = table.row(result_of(cells.CELLS[0], **over))
  assert '2.0 GiB over, by arithmetic; not compiled' in line


def test_a_cell_without_a_result_says_so():
  line = table.missing(cells.CELLS[0])
  assert line.count('|') == len(table.HEAD) + 1
  assert line.endswith('| not computed |  |  |')


def test_what_is_not_as_asked_is_told_with_why():
  cell = cells.CELLS[0]
  assert table.beyond(result_of(cell)) == []
  much = result_of(cell)
  much['plan']['programs']['learn']['collective_bytes']['all-to-all'] = 2e9
  (line,) = table.beyond(much)
  assert 'sends 1.50 of the formula' in line
  assert '3.00 GiB all-gather `bf16[8]` x28 of `mlp/dot`' in line
  twice = result_of(cell, flops={'recomputed': 0.2})
  twice['plans'] = [{'values': {'model.remat': 'none'}, 'fits': False,
                     'total': 20 * 2**30}]  # fmt: skip
  (line,) = table.beyond(twice)
  assert 'computes 20% twice under `save_branches`' in line
  assert '`none` asks for 20.0 GiB' in line


def test_cells_are_taken_in_the_order_of_the_words():
  found = table._order(['dpo_4k_Qwen3', 'sft_8k_Qwen3'])
  assert [cell.method for cell in found] == ['DPO 4k'] * 4 + ['SFT 8k'] * 4
  assert table._order(['']) == cells.CELLS


def test_what_keeps_more_is_tried_where_it_should_fit():
  every = [choice(0, 100), choice(1, 60), choice(2, 40), choice(3, 20)]
  more = lambda limit, used: choose.keeping_more(every, every[2], limit, used)
  # XLA asked for what arithmetic said, for half of it, and for twice.
  assert more(70, 40) == [every[1]] and more(40, 20) == [every[1]]
  assert more(120, 40) == every[:2] and more(70, 80) == []


def choice(again, estimate):
  return choose.Choice({}, again, estimate)


def test_the_cheapest_that_should_fit_is_compiled():
  every = [choice(0, 100), choice(1, 60), choice(2, 40), choice(3, 20)]
  first = lambda limit, last=None: choose.following(every, limit, last)[:1]
  assert first(120) == [every[0]] and first(70) == [every[1]]
  # XLA asked for twice of what arithmetic said: it is off by as much again.
  assert first(70, (60, 120)) == [every[3]]
  assert first(15) == []


@pytest.mark.parametrize('name', [
  'grpo_4k_Qwen3-0.6B_v5e-2x4', 'sft_8k_Llama-3.1-8B_v5e-16x16',
])  # fmt: skip
def test_choices_are_ordered_by_what_is_computed_twice(name, tmp_path):
  one = next(x for x in cells.CELLS if x.name == name)
  one_cell.write_records(tmp_path)
  machine = topology.parse(one.topology)
  aim = target.aimed(target.Target('tpu', machine.count))
  with aim, lowering.built(one_cell.config_of(one, tmp_path, {})) as run:
    found = choose.choices(run)
    rollouts = choose.rollouts(run, machine.chip.hbm)
  assert [x.again for x in found] == sorted(x.again for x in found)
  sizes = [x.estimate for x in found]
  assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
  assert found[0].values == {'model.remat': 'none'}
  assert found[-1].values == {'model.remat': 'full'}
  if 'grpo' in name:
    # 256 answers of 4,096 tokens take 14 GiB of a chip: a half is decoded.
    assert rollouts[0] == {'slots': 128} and rollouts[-1] == {'slots': 8}
  else:
    assert rollouts == [{}]
