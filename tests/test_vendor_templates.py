"""Vendors' own chat templates: texts, ids and masks of transformers.

Other folders of templates are tried by
  python tests/goldens/make_vendor_goldens.py FOLDER OUT.json.gz
  python tests/test_vendor_templates.py FOLDER OUT.json.gz
the first where transformers is.
"""

import datetime
import functools
import sys
import tempfile
from pathlib import Path

import chat_folders
import pytest
import vendor_conversations
import vendor_templates

from posttrain_jax.data import chat, formats, tokenizers
from posttrain_jax.data import template as templates

NAMES = vendor_templates.names()
CONVERSATIONS = vendor_conversations.ALL
# Templates to which TRL has added generation blocks: what they train is known.
TWINS = [name for name in NAMES if f'{name}_training' in NAMES]
DAY = datetime.datetime(*chat_folders.DAY)


@pytest.fixture(autouse=True)
def day(monkeypatch):
  monkeypatch.setattr(templates, '_now', lambda: DAY)


@functools.cache
def expected(path=vendor_templates.EXPECTED):
  return vendor_templates.read(path)


@functools.cache
def load(name, after_stop=False, folder=vendor_templates.FOLDER):
  with tempfile.TemporaryDirectory() as out:
    made = vendor_templates.make(name, Path(out), folder)
    return tokenizers.load(made, 'control', after_stop)


def record_of(name, key='messages'):
  given = CONVERSATIONS[name]
  record = {key: given['messages']}
  if 'tools' in given:
    record['tools'] = given['tools']
  if 'variables' in given:
    record['chat_template_kwargs'] = given['variables']
  return record


def written(tokenizer, name, prompt=False):
  """The text, or None where the template refuses."""
  given = CONVERSATIONS[name]
  try:
    return tokenizer.template.render(
      given['messages'],
      tools=given.get('tools'),
      prompt=prompt,
      variables=given.get('variables'),
    ).text
  except ValueError as error:
    assert str(error).startswith('the chat template')
    return None


def tokenized(tokenizer, name, key='messages'):
  """The row of a record, or what it is refused with."""
  try:
    example = formats.tokenize(record_of(name, key), tokenizer, where='f:3')
  except ValueError as error:
    assert str(error).startswith('f:3: column "') and len(str(error)) < 500
    return str(error)
  # All of them open a turn, and write what is said as it is.
  assert not {chat.CHANGED, chat.UNOPENED} & {*example['notes']}, name
  return example


def differences(tokenizer, there):
  """[(conversation, what)] in which we differ from transformers' `there`, and
  how many rows are the same and how many are refused."""
  found, same, refused = [], 0, 0
  for name, row in there.items():
    for key, prompt in (('text', False), ('asked', True)):
      if written(tokenizer, name, prompt) != row[key]:
        found.append((name, key))
    for key, ids in (('messages', 'ids'), ('prompt', 'asked_ids')):
      turns = CONVERSATIONS[name]['messages']
      if key == 'prompt' and turns[-1]['role'] == 'assistant':
        continue
      example = tokenized(tokenizer, name, key)
      # A record with an empty list has no tools; Mistral's would open the list.
      wanted = there['single' if name == 'no tools' else name].get(ids)
      if isinstance(example, str):
        refused += 1
      elif vendor_templates.digest(example['tokens']) != wanted:
        found.append((name, ids))
      else:
        same += 1
  return found, same, refused


@pytest.mark.parametrize('name', NAMES)
def test_texts_and_ids_are_those_of_transformers(name):
  found, same, _ = differences(load(name), expected()[name])
  assert found == []
  # R1 is asked with an open tag that its template closes for no answer.
  assert same > (5 if name == 'deepseek_r1_distill' else 20)


@pytest.mark.parametrize('name', [x for x in NAMES if x.endswith('_training')])
def test_blocks_are_those_of_transformers(name):
  checked = 0
  for conversation, row in expected()[name].items():
    example = tokenized(load(name, after_stop=True), conversation)
    if isinstance(example, str):
      continue
    assert vendor_templates.runs(example['loss_mask']) == row['mask']
    checked += 1
  assert checked > 20


@pytest.mark.parametrize('name', TWINS)
def test_masks_by_beginnings_are_those_of_blocks(name):
  """Without blocks the places are found by writing again: each begins where a
  model is asked, and ends where a block does."""
  same, tokenizer = 0, load(name)
  for conversation in CONVERSATIONS:
    plain = tokenized(tokenizer, conversation)
    twin = tokenized(load(f'{name}_training'), conversation)
    if isinstance(plain, str) or isinstance(twin, str):
      continue
    if plain['tokens'] != twin['tokens']:
      continue
    ours = vendor_templates.runs(plain['loss_mask'])
    blocks = vendor_templates.runs(twin['loss_mask'])
    turns = CONVERSATIONS[conversation]['messages']
    if all(turn['role'] != 'assistant' for turn in turns):
      assert ours == blocks == []
      continue
    ends = {end: first for first, end in blocks}
    assert ours and all(first >= ends[end] for first, end in ours), conversation
    # Blocks may have the opening of a turn, too, and what follows its end.
    said = lambda run, ids=plain['tokens']: any(
      token not in tokenizer.stops for token in ids[slice(*run)]
    )
    if chat.REWRITTEN not in plain['notes']:
      assert sum(map(said, blocks)) <= len(ours) <= len(blocks), conversation
      same += 1
  assert same > (0 if name == 'deepseek_r1_distill' else 10)


def main(folder, out):
  """Prints in what we differ from transformers, template by template."""
  templates._now = lambda: DAY
  total = 0
  for name, there in vendor_templates.read(Path(out)).items():
    try:
      tokenizer = load(name, folder=Path(folder))
      found, same, refused = differences(tokenizer, there)
    except Exception as error:
      print(f'{name}: {type(error).__name__}: {error}')
      continue
    total += len(found)
    print(f'{name}: {same} rows the same, {refused} refused, differ: {found}')
  print(f'{total} differences')


if __name__ == '__main__':
  main(*sys.argv[1:])
