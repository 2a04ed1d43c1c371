"""Every recipe that trains on files is judged by files, and packs if it can."""

import json

import jax
import numpy as np
import pytest

from configs import recipes
from posttrain_jax.run import build, inputs, state
from posttrain_jax.run import config as config_lib

DEMONSTRATIONS = [
  {'prompt': f'{i} and ', 'completion': str(i)} for i in range(20)
]
PAIRS = [
  {'prompt': f'{i}', 'chosen': 'a' * (1 + i % 3), 'rejected': 'b' * (1 + i % 5)}
  for i in range(20)
]
RECIPES = [(p, r) for p in ('sft', 'preference') for r in recipes.rows(p)]
# Why a recipe trains on no file, or packs none.
REASONS = (
  'makes its rows from a task', 'is for in-graph tasks',
  'which the rows of this source do not carry',
)  # fmt: skip
UNPACKED = (
  'judges whole rows', 'averages whole rows', 'reads a whole row of each',
)  # fmt: skip
METRICS = {'sft': 'metric/nll', 'preference': 'metric/rewards/chosen'}
CUT = 8  # parts that the recipes are tried in


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  folder, out = tmp_path_factory.mktemp('files'), {}
  for kind, records in (('sft', DEMONSTRATIONS), ('preference', PAIRS)):
    out[kind] = str(folder / kind)
    (folder / kind).write_text('\n'.join(map(json.dumps, records)))
  return out


def judged(paradigm, recipe, path, packing):
  """Names that an evaluation of a recipe has, traced; or why it has none."""
  spec = f'configs/{paradigm}.py:data=jsonl,recipe={recipe},smoke'
  c = config_lib.load(spec, [
    ('tokenizer', 'byte'), ('data.path', path), ('data.eval_path', path),
    ('data.max_length', '24'), ('eval.batch', '8'), ('data.packing', packing),
  ])  # fmt: skip
  try:
    run = build.build(c)
  except ValueError as error:
    return str(error)
  batches = run.batches() if c.data.packing else run.batches.evaluation()
  batch = inputs.to_batch(next(iter(batches)))
  if c.data.packing:
    assert np.max(batch.segment_ids) > 1
  abstract = state.abstract_state(run)
  return set(jax.eval_shape(run.on_file._judge, abstract, batch, np.uint32(0)))


@pytest.mark.long
@pytest.mark.parametrize('part', range(CUT))
def test_every_recipe_is_judged_by_a_file(part, paths):
  tried = 0
  for paradigm, recipe in RECIPES[part::CUT]:
    found = judged(paradigm, recipe, paths[paradigm], 'false')
    if isinstance(found, str):
      assert any(reason in found for reason in REASONS), (recipe, found)
      continue
    tried += 1
    assert METRICS[paradigm] in found, (recipe, found)
  assert tried >= 3


@pytest.mark.slow
@pytest.mark.parametrize('part', range(CUT))
def test_every_recipe_packs_or_says_why_not(part, paths):
  tried = 0
  for paradigm, recipe in RECIPES[part::CUT]:
    found = judged(paradigm, recipe, paths[paradigm], 'true')
    if isinstance(found, str):
      assert any(r in found for r in (*REASONS, *UNPACKED)), (recipe, found)
      continue
    tried += 1
    assert METRICS[paradigm] in found, (recipe, found)
  assert tried >= 1
