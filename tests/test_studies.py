"""Committed results of the studies are of the designs that are in the code."""

import dataclasses
import html
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import papers
from posttrain_jax.evals import statistics
from posttrain_jax.lab import judged, markdown

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted(
  x.parent.name
  for x in ROOT.glob('experiments/*/run.py')
  if x.parent.name != 'template'  # there to be copied
)


@pytest.fixture(params=STUDIES)
def study(request):
  """(module with STUDY and SCALES, results, folder)."""
  folder = ROOT / 'experiments' / request.param
  name = 'design' if (folder / 'design.py').exists() else 'run'
  module = importlib.import_module(f'experiments.{request.param}.{name}')
  found = json.loads((folder / 'results.json').read_text(encoding='utf-8'))
  return module, found, folder


def test_every_study_is_in_the_index_and_has_its_results():
  assert STUDIES
  text = (ROOT / 'experiments' / 'README.md').read_text(encoding='utf-8')
  table = text.split('<!-- studies -->')[1].split('<!-- /studies -->')[0]
  assert re.findall(r'^\| \[(\w+)\]\(\1/README', table, re.M) == STUDIES
  page = (ROOT / 'experiments' / 'index.html').read_text(encoding='utf-8')
  cards = re.findall(r'<h3><a href="(\w+)/index.html">', page)
  assert sorted(cards) == STUDIES
  kept = ROOT.glob('experiments/*/results.json')
  assert sorted(x.parent.name for x in kept) == STUDIES


def test_claims_are_those_of_the_code(study):
  """A claim that was changed after the run is not what the run was for."""
  module, found, _ = study
  judged = {claim['name']: claim for claim in found['claims']}
  # Fields that came after a run had no other value in it.
  usual = {x.name: x.default for x in dataclasses.fields(statistics.Claim)}
  written = {x.name: dataclasses.asdict(x) for x in module.STUDY.claims}
  for claim in written.values():
    del claim['checks'], claim['tuned']
  assert len(written) == len(module.STUDY.claims)
  assert judged.keys() == written.keys()
  for name, claim in written.items():
    kept = judged[name]
    assert {key: kept.get(key, usual.get(key)) for key in claim} == claim


def test_results_are_a_full_run_of_five_seeds_or_more(study):
  module, found, _ = study
  assert found['mode'] == 'full'
  assert len(found['header']['seeds']) >= 5
  assert len(found['header']['seeds']) == module.SCALES['full'].seeds
  assert found['measures'].keys() == module.STUDY.measures.keys()
  assert found['title'] == module.STUDY.title
  if hasattr(module, 'READING'):
    assert found['reading'] == list(module.READING)
  for arm in found['arms'].values():
    for name, values in arm['values'].items():
      assert len(values) == len(found['header']['seeds']), name


def test_rates_are_tried_in_the_program_of_the_run(study):
  """Other counts of seeds are other programs: the short mode would compile
  everything twice. `lab.tune_cells` fills the places."""
  module, _, folder = study
  scale = module.SCALES['reduced']
  tuning = getattr(scale, 'tuning_seeds', None)
  if tuning is None:
    pytest.skip('nothing is tuned with seeds of its own')
  text = ''.join(x.read_text(encoding='utf-8') for x in folder.glob('*.py'))
  filled = 'lab.tune_cells(' in text and scale.seeds % len(tuning) == 0
  assert filled or len(tuning) == scale.seeds


def test_verdicts_follow_from_the_numbers(study):
  """Judged anew from the committed numbers, every claim has the verdict that
  its page shows."""
  module, found, _ = study
  anew = judged.judged(module.STUDY.claims, found['arms'])
  for claim, kept in zip(anew, found['claims'], strict=True):
    assert claim['outcome'] == kept['outcome'], claim['name']
    assert claim['rule'] == kept['rule']
    if claim['difference'] is None:
      continue
    a, b = (
      found['arms'][claim[key]]['values'][claim['measure']]
      for key in ('arm', 'against')
    )
    gap = np.mean(a) - np.mean(b)
    np.testing.assert_allclose(kept['difference'], gap, rtol=1e-6, atol=1e-9)
    for key in ('low', 'high', 'p_value', 'p_opposite'):
      np.testing.assert_allclose(claim[key], kept[key], rtol=1e-6, atol=1e-12)


def test_pages_show_them(study):
  _, found, folder = study
  readme = (folder / 'README.md').read_text(encoding='utf-8')
  assert markdown.tables(found) in readme
  page = (folder / 'index.html').read_text(encoding='utf-8')
  for claim in found['claims']:
    assert html.escape(claim['statement']) in page
  for figure in found['figures']:
    assert (folder / 'plots' / f'{figure["name"]}.png').stat().st_size > 5000
  counts = {
    outcome: sum(
      x['outcome'] == outcome and x.get('when', 'before') == 'before'
      for x in found['claims']
    )
    for outcome in statistics.OUTCOMES
  }
  shown = ', '.join(f'{n} {outcome}' for outcome, n in counts.items() if n)
  index = (ROOT / 'experiments' / 'README.md').read_text(encoding='utf-8')
  row = next(x for x in index.splitlines() if f'[{folder.name}](' in x)
  assert row.endswith(f'| {shown} |')


def test_papers_of_claims_are_in_the_catalogue(study):
  module, _, _ = study
  known = {row.id for row in papers.read()}
  assert {claim.paper for claim in module.STUDY.claims} <= known


@pytest.mark.slow
def test_the_folder_to_copy_runs(tmp_path):
  from experiments.template import design, run
  from posttrain_jax import lab

  words = ['--reduced', '--workdir', str(tmp_path)]
  assert lab.main(run.__file__, run.run, design.SCALES, words) == 0
  found = json.loads((tmp_path / 'results' / 'results.json').read_text())
  assert found['problems']['sums']['shared'] == 0
  for arm in found['arms'].values():
    grid = arm['tuned'][design.RATE]['grid']
    assert grid == found['arms']['sft']['tuned'][design.RATE]['grid']
    answers = judged.outcomes(arm, 'accuracy')
    np.testing.assert_allclose(answers.mean(1), arm['values']['accuracy'])
