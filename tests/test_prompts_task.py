"""A file of prompts as a task: its order, its splits, what it refuses."""

import json
import re
import types

import numpy as np
import pytest

from posttrain_jax.core import hosts
from posttrain_jax.data.prompts_task import PromptsTask
from posttrain_jax.data.sources import JsonlSource, ListSource
from posttrain_jax.data.tokenizers import ByteTokenizer
from posttrain_jax.rewards import entries
from posttrain_jax.rewards.judge import Judge
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import file_notes

BYTES = ByteTokenizer()
SUMS = [{'prompt': f'{a}+{b}=', 'answer': a + b, 'level': a}
        for a in range(8) for b in range(8)]  # fmt: skip


def make(records, *listed, **keys):
  source = records if hasattr(records, 'content') or not isinstance(
    records, list
  ) else ListSource(records, 'sums')  # fmt: skip
  listed = listed or ({'name': 'length'},)
  judge = Judge(entries.read(listed), workers=1, timeout=5.0, limit=8)
  keys = {'completion_length': 8, 'name': 'sums', **keys}
  return PromptsTask(source, BYTES, judge, **keys)


def prompts(task, indices, heldout=False):
  return [task.problem(i, heldout)['prompt'] for i in indices]


def test_every_epoch_has_every_prompt_in_an_order_of_its_own():
  task = make(SUMS, seed=3)
  epochs = [prompts(task, range(64 * e, 64 * (e + 1))) for e in range(3)]
  everything = sorted(x['prompt'] for x in SUMS)
  assert all(sorted(epoch) == everything for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] != [x['prompt'] for x in SUMS]
  # A function of the index, in any order of asking.
  again = make(SUMS, seed=3)
  assert prompts(again, [130, 5, 70]) == [epochs[2][2], epochs[0][5],
                                          epochs[1][6]]  # fmt: skip
  assert prompts(make(SUMS, seed=4), range(64)) != epochs[0]
  assert prompts(make(SUMS, seed=2**64 - 1), range(64)) != epochs[0]


def test_a_share_is_held_out_by_the_prompt():
  doubled = SUMS + [{**x, 'level': -1} for x in SUMS]
  task = make(doubled, heldout_fraction=0.25)
  sizes = task.num_prompts()
  assert sizes['train'] + sizes['heldout'] == 128 and task.num_heldout > 8
  run = types.SimpleNamespace(
    task=task, config=config_lib.load('configs/rl.py', [])
  )
  told = file_notes.records(run)[0]
  assert (
    told == f'{sizes["train"]} prompts to train on, {sizes["heldout"]} held out'
  )
  held = prompts(task, range(sizes['heldout']), True)
  train = prompts(task, range(sizes['train']))
  assert set(held).isdisjoint(train)
  assert len(held) == 2 * len(set(held))  # equal prompts stay together
  # The held-out ones come in the file's order, of any seed.
  assert held == prompts(
    make(doubled, heldout_fraction=0.25, seed=9), range(len(held)), True
  )


def test_a_file_of_its_own_for_evaluation(capsys):
  held = [{'prompt': '1+1=', 'answer': 2}, {'prompt': 'new', 'answer': 0}]
  task = make(SUMS, heldout=ListSource(held, 'held'), heldout_fraction=0.5)
  assert task.num_prompts() == {'train': 63, 'heldout': 2}
  assert prompts(task, [0, 1, 2], True) == ['1+1=', 'new', '1+1=']
  assert '1+1=' not in prompts(task, range(63))
  assert '1 prompts of sums stand in data.eval_path' in capsys.readouterr().err
  # Columns that only other records have are there, and None.
  assert task.problem(1, True)['level'] is None


def test_batches():
  task = make(SUMS, prompt_length=0)
  batch = task.batch([0, 65])
  assert task.prompt_length == 8 and batch['prompt'].shape == (2, 8)
  assert batch['prompt'].dtype == np.int32
  assert batch['prompt_id'].tolist() == [0, 65]
  size = int(batch['prompt_mask'][0].sum())
  assert BYTES.decode(batch['prompt'][0, :size]) == prompts(task, [0])[0]
  assert (batch['prompt'][0, size:] == BYTES.pad_id).all()


def test_turns_are_prompted_as_the_tokenizer_writes_them():
  turns = [{'role': 'user', 'content': 'hi'}]
  task = make([{'prompt': turns, 'answer': 'x'}])
  text = BYTES.decode(task.problem(0)['tokens'])
  assert text.endswith('<|assistant|>\n') and '<|user|>\nhi' in text


def test_long_prompts(capsys):
  task = make(SUMS + [{'prompt': 'x' * 9, 'answer': 0}], prompt_length=8)
  assert task.counts == {'overlong': 1} and task.num_prompts()['train'] == 64
  told = capsys.readouterr().err
  assert '1 of 65 prompts have more than data.max_prompt_length=8' in told
  assert 'sums[64]' in told
  with pytest.raises(ValueError, match=r'sums\[0\]: the prompt has 4 tokens'):
    make(SUMS, prompt_length=3, overlong='error')
  with pytest.raises(ValueError, match='no prompt is left to train on, of 64'):
    make(SUMS, prompt_length=3)


def test_verify():
  task = make(SUMS, {'name': 'numeric_match'}, {'name': 'length'})
  row = task.problem(0)
  said = [str(row['answer']), str(row['answer'] + 1)]
  rewards = task.verify([0, 0], said)
  sizes = [len(x) + 1 for x in said]
  expected = [1 - sizes[0] / 8, -sizes[1] / 8]
  np.testing.assert_allclose(rewards, expected, rtol=1e-6)
  assert task.vote('so 12') == '12.0'
  with pytest.raises(ValueError, match='1 completions of 2 problems'):
    task.verify([0, 1], ['a'])
  task.close()


@pytest.mark.parametrize('record, listed, message', [
  ({'text': 'x'}, [], 'sums[1]: no column "prompt"'),
  ({'prompt': ''}, [], 'sums[1]: column "prompt": an empty prompt'),
  ({'prompt': 5}, [], 'expected a string or a list of messages'),
  ({'prompt': 'x', 'completions': 'y'}, [], 'has the name of an argument'),
  ({'prompt': 'x'}, [{'name': 'exact_match'}],
   'sums: no column "solution" or "answer"'),
  ({'prompt': 'x', 'answr': 1}, [{'name': 'exact_match'}],
   'Did you mean "answr"'),
  ({'prompt': 'x', 'instruction_id_list': ['a:b']},
   [{'name': 'if_constraints'}],
   'sums[1]: column "instruction_id_list": unknown instruction "a:b"'),
  ({'prompt': 'x', 'instruction_id_list': ['punctuation:no_coma']},
   [{'name': 'if_constraints'}], 'Did you mean "punctuation:no_comma"?'),
  ({'prompt': 'x', 'instruction_id_list': ['startend:end_checker'],
    'kwargs': [{'end_phrse': 'x'}]}, [{'name': 'if_constraints'}],
   'sums[1]: column "kwargs": instruction "startend:end_checker" takes no '
   '"end_phrse". Did you mean "end_phrase"?'),
  ({'prompt': 'x', 'tests': 5}, [{'name': 'unit_tests'}],
   'sums[1]: column "tests": tests'),
  ({'prompt': 'x', 'tests': {'inputs': ['1'], 'outputs': []}},
   [{'name': 'unit_tests'}], 'column "tests": 1 inputs for 0 outputs'),
  ({'prompt': 'x', 'tests': {'inputs': 1, 'outputs': []}},
   [{'name': 'unit_tests'}], 'column "tests": "inputs" and "outputs" are'),
])  # fmt: skip
def test_records_that_cannot_be_used(record, listed, message):
  good = {
    'prompt': 'a', 'instruction_id_list': ['punctuation:no_comma'],
    'tests': ['1'],
  }  # fmt: skip
  if 'answr' in record:
    good['answr'] = 1
  with pytest.raises(ValueError, match=re.escape(message)):
    make([good, record], *listed)


def test_a_file_names_its_lines(tmp_path):
  path = tmp_path / 'p.jsonl'
  rows = [{'prompt': 'a'}, {'prompt': ''}]
  path.write_text(''.join(json.dumps(x) + '\n' for x in rows))
  with pytest.raises(ValueError, match=re.escape(f'{path}:2: ')):
    make(JsonlSource(str(path)))


@pytest.mark.parametrize('first', [True, False])
def test_what_is_read_is_told_by_one_process(first, monkeypatch, capsys):
  """A file of two kinds beside one of either: each entry judges its own."""
  monkeypatch.setattr(hosts, 'first', lambda: first)
  rows = [{'prompt': 'a', 'solution': 'x', 'gold': None},
          {'prompt': 'b', 'solution': None, 'gold': 'y'},
          {'prompt': 'c' * 9, 'solution': 'x', 'gold': None}]  # fmt: skip
  task = make(
    rows, {'name': 'exact_match'},
    {'name': 'exact_match', 'column': 'gold', 'label': 'other'},
    heldout=ListSource(rows[:1], 'held'), prompt_length=8,
  )  # fmt: skip
  task.close()
  said = capsys.readouterr().err
  assert ('prompts have more than' in said) == first
  assert ('stand in data.eval_path' in said) == first
  told = 'data.eval_path: column "gold", which reward "exact_match" reads'
  assert (told in said) == first
