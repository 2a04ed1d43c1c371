"""Records that are of two kinds."""

import json

import jax
import numpy as np
import pytest

from posttrain_jax import show_data
from posttrain_jax.data import pipeline
from posttrain_jax.data.bad_rows import BadRows
from posttrain_jax.data.narrowed import as_taken
from posttrain_jax.run import build, config

ASK = {'role': 'user', 'content': '2+2?'}
TELL, WRONG = ({'role': 'assistant', 'content': x} for x in '45')
PAIR = {'chosen': [ASK, TELL], 'rejected': [ASK, WRONG]}
BOTH = {'messages': [ASK, TELL], 'score_chosen': 8.0}
# Of {kinds that a run takes}: what is read of records with both.
CASES = [
  ({**BOTH, **PAIR}, ('preference',), {'chosen', 'rejected'}, 1),
  ({**BOTH, **PAIR, 'prompt': '2+2?'}, ('unpaired',),
   {'prompt', 'chosen', 'rejected'}, 1),
  ({**BOTH, 'prompt': [ASK], 'completion': [WRONG]},
   ('text', 'messages', 'completion'), {'messages', 'prompt', 'completion'}, 1),
  ({**BOTH, 'prompt': '2+2?'}, ('text', 'messages', 'completion'),
   {'messages', 'prompt'}, 0),
  ({**BOTH, **PAIR}, ('text', 'messages', 'completion'),
   {'messages', 'chosen', 'rejected'}, 0),
  (PAIR, ('preference',), {'chosen', 'rejected'}, 0),
]  # fmt: skip


def written(tmp_path, rows):
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


@pytest.mark.parametrize('row, takes, left, told', CASES)
def test_what_is_read_of_them(row, takes, left, told, tmp_path):
  path = written(tmp_path, [row, row])
  source = pipeline.open_source(str(path))
  found, said = as_taken(source, takes, BadRows('error'))
  assert [set(x.columns) - {'score_chosen'} for x in found] == [left] * 2
  assert [x.columns.get('messages') for x in found] == [
    row.get('messages') if 'messages' in left else None
  ] * 2
  assert len(said) == told
  assert all(x.startswith(f'{path}:1: both messages and ') for x in said)
  assert [x.where for x in found] == [x.where for x in source]
  assert found.paths() == source.paths() and found.raw(1) == source.raw(1)


@pytest.mark.parametrize('recipe', ['dpo', 'kto'])
def test_pairs_that_bring_a_conversation_are_trained_on(
  recipe, tmp_path, capsys
):
  """As sets of pairs on the hub have it: the same rows as without."""
  rows = [{**BOTH, **PAIR, 'prompt': '2+2?'}] * 8
  path = written(tmp_path, rows)
  spec = f'configs/preference.py:data=jsonl,smoke,recipe={recipe}'
  plain = tmp_path / 'plain.jsonl'
  plain.write_text(''.join(json.dumps(PAIR) + '\n' for _ in rows))
  batches = []
  for file in (path, plain):
    items = [('data.path', str(file)), ('tokenizer', 'byte')]
    run = build.build(config.load(spec, items))
    batches.append(next(run.batches()))
    said = capsys.readouterr().err
    assert ('both messages and prompt, chosen' in said) == (file == path)
  jax.tree.map(np.testing.assert_array_equal, *batches)
  show_data.main(['--data', str(path), '--config', spec, '--num', '1'])
  assert 'kind "preference"' in capsys.readouterr().out
