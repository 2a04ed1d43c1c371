"""What `evaluate` says of rewards that fail, of flags that nothing would read,
and of runs that have no task; and what `compare` and `sample` say."""

import json
import re
import types

import jax.numpy as jnp
import numpy as np
import pytest
from test_inference import MODEL, SHORT, command, drawn

from posttrain_jax import compare, evaluate, sample
from posttrain_jax.core import hosts
from posttrain_jax.core.types import Rollout
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.data.tokenizers import ByteTokenizer
from posttrain_jax.evals import score, unjudged
from posttrain_jax.evals.on_host import HostEvaluator
from posttrain_jax.models import hf
from posttrain_jax.rewards import entries
from posttrain_jax.rewards.judge import Judge
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import inference

BYTES = ByteTokenizer()
OWN = """
def odd(completions, kind, **columns):
  if kind[0] == 'raise':
    raise KeyError('no such thing')
  return [None if kind[0] == 'none' else 1.0] * len(completions)
"""


class Kinds(HostTask):
  """Held-out problem i is of the i-th kind."""

  name, tokenizer = 'kinds', BYTES
  prompt_length = completion_length = 4

  def __init__(self, judge, kinds):
    self.judge, self.kinds, self.counts = judge, kinds, {'overlong': 2}
    self.num_heldout = len(kinds)

  def problem(self, index, heldout=False):
    kind = self.kinds[int(index)]
    return {'prompt': 'p', 'tokens': [112], 'kind': kind}

  def place(self, index, heldout=False):
    return f'p.jsonl:{int(index) + 1}'


def made(kinds, tmp_path, *listed, samples=2):
  """An evaluator whose model always says one token, and ends."""
  (tmp_path / 'odd_rewards.py').write_text(OWN)
  listed = listed or ({'name': 'odd_rewards:odd'},)
  judge = Judge(entries.read(listed), workers=1, limit=4, folder=str(tmp_path))
  evaluator = HostEvaluator(
    model=None, task=Kinds(judge, kinds), tokenizer=BYTES,
    num_problems=len(kinds), samples=samples, batch=len(kinds),
    max_new_tokens=4,
  )  # fmt: skip

  def generate(params, prompts, size, **_):
    shape = (len(prompts), size or 1, 4)
    tokens = np.zeros(shape, np.int32)
    tokens[..., :2] = [*BYTES.encode('a'), BYTES.eos_id]
    mask = np.broadcast_to(np.arange(4) < 2, shape).astype(np.float32)
    arrays = (tokens, mask, -mask, np.ones(shape[:2], np.float32))
    return Rollout(*map(jnp.asarray, arrays))

  evaluator.__dict__['_generate'] = generate
  return evaluator


def evaluated(evaluator):
  try:
    found = score.evaluate({'': evaluator}, None, 0)
    return found | unjudged.counted({'': evaluator}, found)
  finally:
    evaluator.task.close()


@pytest.mark.parametrize(
  'samples', [0, pytest.param(2, marks=pytest.mark.long)]
)
def test_what_fails_and_what_is_not_scored_is_counted(
  samples, tmp_path, capsys
):
  """4 problems, of each one greedy answer and the samples."""
  evaluator = made(['one', 'raise', 'none', 'one'], tmp_path, samples=samples)
  found = evaluated(evaluator)
  expected = {
    'eval/rewards/odd': 1.0, 'eval/rewards/odd/none': 0.5,
    'eval/rewards/unscored': 2.0 * (1 + samples),
    'eval/rewards/odd/errors': 1.0 + samples,
    'eval/rewards/odd/timeouts': 0.0,
    'eval/rewards/odd/alone': float(samples),
    'eval/host/overlong': 2.0, 'eval/accuracy': 0.5, 'eval/reward': 0.5,
  }  # fmt: skip
  assert {name: found[name] for name in expected} == expected
  counts = {x for x in found if x.endswith(('errors', 'timeouts', 'alone'))}
  counts.add('eval/host/overlong')
  assert evaluator.names() == set(found) - counts
  assert 'p.jsonl:2: KeyError' in capsys.readouterr().err


@pytest.mark.parametrize('kinds, listed, message', [
  (['raise', 'raise'], [], 'reward "odd" failed on all 2 answers; first: '
   "p.jsonl:1: KeyError: 'no such thing' (odd_rewards.py:4)"),
  (['none', 'none'], [], 'reward "odd" applies to no greedy answer'),
  (['none', 'raise'], [], 'reward "odd" applies to no greedy answer, and '
   'failed on 1 of 2; first: p.jsonl:2: KeyError'),
  # Another reward is of no help where this one says which answers are right.
  (['none', 'none'], [{'name': 'odd_rewards:odd', 'verdict': True},
                      {'name': 'length'}], 'applies to no greedy answer'),
  (['raise', 'raise'], [{'name': 'regex', 'pattern': 'a', 'verdict': True},
                        {'name': 'odd_rewards:odd'}], '"odd" failed on all 2'),
])  # fmt: skip
def test_nothing_judged_is_an_error(kinds, listed, message, tmp_path):
  with pytest.raises(ValueError, match=re.escape(message)) as raised:
    evaluated(made(kinds, tmp_path, *listed, samples=0))
  assert str(raised.value).startswith('nothing was judged: ')


def test_a_reward_that_is_only_measured_may_fail(tmp_path):
  listed = [{'name': 'regex', 'pattern': 'a', 'verdict': True},
            {'name': 'odd_rewards:odd', 'weight': 0}]  # fmt: skip
  found = evaluated(made(['raise'], tmp_path, *listed, samples=0))
  assert found['eval/rewards/odd/none'] == 1.0 == found['eval/accuracy']
  assert found['eval/rewards/odd/errors'] == 1.0


def test_a_verifier_that_always_fails(tmp_path):
  evaluator = made(['one', 'one'], tmp_path, samples=0)
  evaluator.task.judge = None
  count = lambda errors, late: unjudged.counted({'': evaluator}, {}) if (
    evaluator.task.counts.update(verifier_errors=errors, timeouts=late)
  ) is None else None  # fmt: skip
  assert count(1, 0)['eval/host/verifier_errors'] == 1.0
  with pytest.raises(ValueError, match='verifier of kinds failed on all 2'):
    count(1, 1)


@pytest.mark.parametrize('several', [False, True])
def test_counts_of_several_processes(several, monkeypatch):
  """Each of two judges its answers, and each reads the whole file and draws all
  problems."""
  mine = {'overlong': 3, 'generator_errors': 2, 'timeouts': 1,
          'verifier_errors': 0, 'rewards/odd/errors': 4}  # fmt: skip
  theirs = mine | {'verifier_errors': 5, 'rewards/odd/alone': 1}
  task = types.SimpleNamespace(all_counts=lambda: mine)
  monkeypatch.setattr(hosts, 'several', lambda: several)
  monkeypatch.setattr(hosts, 'said', lambda text: [text, json.dumps(theirs)])
  added = {'timeouts': 2, 'verifier_errors': 5, 'rewards/odd/errors': 8,
           'rewards/odd/alone': 1}  # fmt: skip
  assert unjudged._counts(task) == (mine | added if several else mine)


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  """A model folder, prompts with and without answers to train on."""
  folder = tmp_path_factory.mktemp('refused')
  hf.save(folder / 'model', MODEL, drawn(MODEL))
  rows = lambda *rows: ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'asks.jsonl').write_text(
    rows({'prompt': 'a', 'answer': 'x'}, {'prompt': 'b', 'answer': None})
  )
  (folder / 'blank.jsonl').write_text(rows({'prompt': 'a', 'answer': ''}))
  (folder / 'texts.jsonl').write_text(rows({'text': 'abc'}))
  (folder / 'page').mkdir()
  (folder / 'page' / 'index.html').write_text('mine')
  return folder


ON = '--model model --tokenizer byte --data'
# Of flags that are 1 or 1.0 by default.
OTHER = {'temperature': 0.5, 'top_p': 0.5}
FLAGS = [
  (evaluate, f'{ON} texts.jsonl --{name} {OTHER.get(name, 1)}',
   f"--{name} is of the model's own answers, which --rewards asks for")
  for name in evaluate.OF_REWARDS
] + [
  (evaluate, f'{ON} asks.jsonl --rewards length --num_samples 0 --{name} '
   f'{OTHER.get(name, 1)}',
   f'--{name} is of samples, and --num_samples=0 draws none')
  for name in evaluate.OF_SAMPLES
] + [
  (evaluate, f'{ON} asks.jsonl --rewards length --max_length 9',
   '--max_length is of records with answers'),
  (evaluate, f'{ON} asks.jsonl --rewards length --temperature 0',
   '--temperature=0 draws nothing'),
  (evaluate, f'{ON} asks.jsonl --rewards lenth', 'Did you mean "length"?'),
  (evaluate, f'{ON} asks.jsonl --rewards length,lenth', 'rewards[1]: unknown'),
  (evaluate, f'{ON} asks.jsonl --rewards ,', 'judges nothing'),
  (evaluate, f'{ON} asks.jsonl --rewards [{{"nam":"length"}}]',
   'Did you mean "name"?'),
  (evaluate, f'{ON} blank.jsonl --rewards exact_match',
   'blank.jsonl: column "answer", which reward "exact_match" reads, is null'),
  (sample, '--model model --prompt x --temperature 0 --seed 3',
   '--seed=3 at --temperature=0'),
  (compare, '--models model page --data asks.jsonl --out new --seed 3',
   '--seed=3 at --temperature=0'),
  (compare, '--models model page --data asks.jsonl --out texts.jsonl',
   '--out=texts.jsonl is a file; name a folder'),
  (compare, '--models model page --data asks.jsonl --out page',
   '--out=page has index.html already'),
  (sample, '--model model --data asks.jsonl --out texts.jsonl',
   '--out=texts.jsonl is there already'),
]  # fmt: skip


@pytest.mark.parametrize('module, line, told', FLAGS)
def test_what_nothing_would_read_or_write(
  module, line, told, places, monkeypatch, capsys
):
  monkeypatch.chdir(places)
  assert module.main(line.split()) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and told in error, error
  assert len(error.splitlines()) == 1


@pytest.mark.parametrize('name', evaluate.OF_REWARDS)
@pytest.mark.parametrize('line', ['', '--rewards length --num_samples 0'])
def test_what_is_so_by_default_may_be_said(name, line):
  value = evaluate.OF_DATA[name]
  line = f'{ON} x {line if name != "num_samples" else ""} --{name} {value}'
  flags = evaluate._parser().parse_args(line.split())
  evaluate._check_read(flags, answered=False)


def test_every_flag_of_data_is_of_one_use():
  """A new flag has to be refused where it would not be read, too."""
  of_records = {'rewards', 'tokenizer', 'max_length'}
  assert {*evaluate.OF_REWARDS, *of_records} == set(evaluate.OF_DATA)


@pytest.mark.long
def test_bare_names_on_a_file(places, monkeypatch, capsys):
  """One of two prompts has no right answer, which is told and counted."""
  monkeypatch.chdir(places)
  flags = f'{ON} asks.jsonl --rewards exact_match,length --num_samples 0'
  assert evaluate.main([*flags.split(), *SHORT]) == 0
  out, error = capsys.readouterr()
  found = json.loads(out)
  assert 'is null or empty in 1 of 2 records' in error
  assert found['eval/rewards/exact_match/none'] == 0.5
  assert found['eval/rewards/unscored'] == 0.0 == found['eval/accuracy']
  assert found['eval/rewards/exact_match/errors'] == 0
  # One of them has nothing to say, the other model may be judged.
  out = command(
    compare.main, capsys, '--models', 'model', './model', '--tokenizer', 'byte',
    '--data', 'asks.jsonl', '--rewards', 'exact_match', *SHORT, '--out', 'side',
  )  # fmt: skip
  assert 'unjudged' in out


def test_a_table_says_how_many_are_unjudged():
  said = compare.Said(['a'], np.ones(1), np.ones(1), unjudged=0)
  assert 'unjudged' not in compare.table({'one': said})[0]
  some = said._replace(unjudged=2)
  columns, rows = compare.table({'one': said, 'two': some})
  place = columns.index('unjudged')
  assert [row[place] for row in rows] == [0.0, 2.0]
  assert len(columns) == len(rows[0])


@pytest.mark.parametrize('data, told', [
  ({'source': 'jsonl', 'path': 'a.jsonl', 'eval_path': 'b.jsonl'},
   'only the records of a.jsonl; give --data FILE, as --data b.jsonl'),
  ({'source': 'jsonl', 'path': 'a.jsonl', 'eval_fraction': 0.1},
   'data.eval_fraction=0.1 of its own were held out'),
  ({'source': 'tfds', 'name': 'x:train'}, 'records of x:train; give --data'),
])  # fmt: skip
def test_a_run_without_a_task_says_what_it_can_be_judged_by(data, told):
  run = types.SimpleNamespace(task=None, config={'data': data})
  assert told in evaluate._instead(run)
  run.task = object()
  assert evaluate._instead(run).startswith('eval.num_problems=0')


def test_names_and_json_are_the_same_rewards():
  lists = [
    'exact_match,length', ' exact_match, length', '["exact_match", "length"]',
    '[{"name": "exact_match"}, {"name": "length", "weight": 1}]',
  ]  # fmt: skip
  found = [inference.make_judge(text, 4) for text in lists]
  assert all(judge.entries == found[0].entries for judge in found)
  for text in lists[0], lists[2]:
    config = config_lib.load('configs/rl.py', [('rewards', text)])
    assert entries.read(config.rewards) == found[0].entries
    weight = {'rewards.length.weight': 0.5}
    changed = config_lib.with_values(config, weight)
    assert entries.read(changed.rewards)[1].weight == 0.5
  one = inference.make_judge('{"name": "length"}', 4)
  assert [x.label for x in one.entries] == ['length']
