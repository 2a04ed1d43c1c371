"""Records that a run does not train on: the column that is missing, or what
trains on them; labels that are all the same."""

import itertools
import json
import re

import pytest

from posttrain_jax.data import kinds, tokenizers
from posttrain_jax.losses import preference
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import feed

BYTE = tokenizers.ByteTokenizer()
WHOLE = {
  'messages': {'messages': [{'role': 'user', 'content': 'q'},
                            {'role': 'assistant', 'content': 'a'}]},
  'preference': {'prompt': 'q', 'chosen': 'a', 'rejected': 'b'},
  'unpaired': {'prompt': 'q', 'completion': 'a', 'label': True},
  'completion': {'prompt': 'q', 'completion': 'a'},
  'text': {'text': 'a'},
  'prompt': {'prompt': 'q'},
}  # fmt: skip
TAKES = {
  'sft.py:data=jsonl': ('messages', 'completion', 'text'),
  'preference.py:data=jsonl,recipe=dpo': ('preference',),
  **{f'preference.py:data=jsonl,recipe={name}': ('unpaired', 'preference')
     for name in preference.UNPAIRED},
}  # fmt: skip


def opened(tmp_path, spec, *records):
  path = tmp_path / 'x.jsonl'
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  config = config_lib.load(
    f'configs/{spec},smoke', [('tokenizer', 'byte'), ('data.path', str(path))]
  )
  return feed.open_feed(config, BYTE)


def test_every_kind_is_here():
  assert WHOLE.keys() == kinds.KINDS.keys() == feed.TRAINED_BY.keys()


@pytest.mark.parametrize('spec', list(TAKES)[:3])
def test_what_trains_on_a_kind_is_named(tmp_path, spec):
  for kind, record in WHOLE.items():
    if kind in TAKES[spec]:
      assert len(opened(tmp_path, spec, record).source) >= 1
      continue
    with pytest.raises(ValueError, match=r'x\.jsonl:1: ') as caught:
      opened(tmp_path, spec, record)
    told = str(caught.value)
    assert ('no column' in told) == (
      (kind, 'completion' in TAKES[spec]) == ('prompt', True)
      or (kind, 'unpaired' in TAKES[spec]) == ('completion', True)
    )
    if 'no column' in told:  # one more, and it would be of a kind it trains on
      name = re.search('no column "(.*?)"', told)[1]
      assert any(
        {*record, name} >= {*kinds.KINDS[wanted]} for wanted in TAKES[spec]
      )
      continue
    assert f'does not train on kind "{kind}", which configs/' in told
    # What is named does.
    file, *recipes = re.findall(r'configs/(\w+\.py)|recipe=(\w+)', told)
    for _, recipe in recipes:
      config = config_lib.load(f'configs/{file[0]}:recipe={recipe}', [])
      trainer = feed.trainers.kind(config.paradigm)
      assert kind in trainer.records(config)
    assert recipes or file[0] in ('sft.py', 'rl.py')


@pytest.mark.parametrize('spec, kind, name', [
  (spec, kind, name)
  for spec, takes in list(TAKES.items())[:3]
  for kind in takes[:2]
  for name in kinds.KINDS[kind]
  if len(kinds.KINDS[kind]) > 1 and (kind, name) != ('preference', 'prompt')
  and not (kind == 'preference' and 'unpaired' in takes)
])  # fmt: skip
@pytest.mark.parametrize('null', [False, True])
def test_a_column_that_is_missing_is_named(tmp_path, spec, kind, name, null):
  record = {**WHOLE[kind], name: None}
  if not null:
    del record[name]
  with pytest.raises(ValueError, match=r'x\.jsonl:1: ') as caught:
    opened(tmp_path, spec, record)
  said = f'column "{name}" is null' if null else f'no column "{name}"'
  layouts = 'fit no known layout'  # without a prompt nothing else is known
  assert said in str(caught.value) or (
    name == 'prompt' and layouts in str(caught.value)
  )


@pytest.mark.parametrize('labels', itertools.product([True, False], repeat=2))
def test_labels_that_are_all_the_same_are_told(tmp_path, labels):
  records = [{**WHOLE['unpaired'], 'label': label} for label in labels]
  found = opened(tmp_path, 'preference.py:data=jsonl,recipe=kto', *records)
  told = [line for line in found.told if 'label=' in line]
  if len(set(labels)) == 2:
    assert not told
  else:
    one, other = ('true', 'false') if labels[0] else ('false', 'true')
    assert f'2 of 2 records have label={one}, and none has {other}' in told[0]
    assert len(told) == 1 and 'x.jsonl:1' in told[0]
  # Pairs have both.
  pairs = opened(
    tmp_path, 'preference.py:data=jsonl,recipe=kto', WHOLE['preference']
  )
  assert not any('label=' in line for line in pairs.told)
