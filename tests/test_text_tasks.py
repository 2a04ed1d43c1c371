"""Host tasks: problems, verifiers in workers, the RL loop around them, SFT."""

import dataclasses
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import log
from posttrain_jax.core.types import Rollout
from posttrain_jax.data import (
  gym,
  task_builder,
  task_problems,
  text_task,
  train_tokenizer,
)
from posttrain_jax.data.pool import Pool
from posttrain_jax.data.tokenizers import ByteTokenizer, load
from posttrain_jax.evals import on_host
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import build, drivers, loop
from posttrain_jax.run import config as config_lib

ROOT = Path(__file__).parent.parent
BYTES = ByteTokenizer()
EASY = {'max_terms': 2, 'max_digits': 1}  # 200 different questions

# A server whose verifier does what the answer says, in a module of its own.
FAKE = """
import os, sys, time
from posttrain_jax.data import gym

class Server(gym.Server):
  def score(self, number, text):
    if text == 'hang': time.sleep(60)
    if text == 'die': os._exit(3)
    if text == 'raise': raise KeyError('no')
    if text == 'nan': return float('nan')
    if text == 'jax?': return float('jax' in sys.modules)
    print('to nowhere')
    return sum(c.isascii() for c in text) / max(len(text), 1)

class Broken:
  def __init__(self): raise OSError('no file')
"""


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """Makes every new TextTask score by FAKE."""
  (tmp_path / 'fake_server.py').write_text(FAKE)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setattr(text_task, 'SERVER', 'fake_server:Server')


@pytest.fixture(scope='module')
def chain_sum():
  task = text_task.TextTask(
    'chain_sum', BYTES, knobs=EASY, heldout_fraction=0.25, workers=2
  )
  yield task
  task.close()


@pytest.fixture(scope='module')
def gsm():
  task = text_task.TextTask(
    'gsm_symbolic', BYTES, prompt_length=400, completion_length=8
  )
  yield task
  task.close()


# --- Problems


def test_a_problem_is_its_index(chain_sum):
  twin = text_task.TextTask(
    'chain_sum', BYTES, knobs=EASY, heldout_fraction=0.25, workers=1
  )
  backwards = [twin.problem(i) for i in reversed(range(8))][::-1]
  assert backwards == [chain_sum.problem(i) for i in range(8)]
  assert len({p['question'] for p in backwards}) > 4
  twin.close()
  # The same numbers of another seed, without a worker.
  other = gym.Server('chain_sum', 1, EASY)
  numbers = [p['number'] for p in backwards]
  assert [other.generate(n)['question'] for n in numbers] != [
    p['question'] for p in backwards
  ]


def test_problems_do_not_depend_on_the_hash_seed():
  """This task walks a set of words, whose order differs between processes."""
  made = []
  for _ in range(2):
    pool = Pool(text_task.SERVER, dict(name='word_ladder', seed=0, knobs={}), 1)
    made.append([pool.call('generate', i, timeout=60) for i in range(4)])
    pool.close()
  assert made[0] == made[1] and made[0][0].status == 'ok'


def test_splits_share_no_question(chain_sum):
  training = {chain_sum.problem(i)['question'] for i in range(300)}
  held_out = {chain_sum.problem(i, True)['question'] for i in range(100)}
  assert training.isdisjoint(held_out)
  # About 1/4 of 200 questions: both splits are nearly all seen.
  assert len(training) > 100 and 25 < len(held_out) < 80


def test_batch(chain_sum):
  batch = chain_sum.batch([3, 0])
  question = chain_sum.problem(3)['question']
  assert question.startswith('State the final answer')
  size = int(batch['prompt_mask'][0].sum())
  assert BYTES.decode(batch['prompt'][0, :size]) == question + '\n'
  assert (batch['prompt'][0, size:] == BYTES.pad_id).all()
  assert batch['prompt'].shape == (2, chain_sum.prompt_length)
  assert batch['prompt'].dtype == np.int32
  assert batch['prompt_id'].tolist() == [3, 0]
  # 75 bytes at most, and at most '-9' and the EOS; both in eights.
  assert (chain_sum.prompt_length, chain_sum.completion_length) == (72, 8)
  answer = eval(question.removesuffix(' =').split(': ')[1])
  assert chain_sum.solve(3) == str(answer)


def test_too_long_problems_are_passed_over_and_counted():
  task = text_task.TextTask(
    'chain_sum', BYTES, prompt_length=74, completion_length=4, workers=1
  )
  sizes = [len(task.problem(i)['tokens']) for i in range(20)]
  assert max(sizes) <= 74 and task.counts['overlong'] > 0
  assert all(len(task.solve(i)) <= 3 for i in range(20))
  task.prompt_length = 9
  with pytest.raises(ValueError, match='in 256 tries; the last prompt has'):
    task.problem(20)


def test_every_task_has_a_config_entry():
  names = gym.names()
  assert len(names) > 100
  for name in names:
    entry = text_task.entry(f'text:{name}')
    json.dumps(entry)  # what a run's config.json holds
    if name != 'composite':  # it has no default: it is made of other tasks
      gym.make_config(name, entry['knobs'])


@pytest.mark.parametrize('name, knobs, message', [
  ('chain_smu', {}, 'Did you mean "chain_sum"?'),
  ('chain_sum', {'max_term': 3}, 'Did you mean "max_terms"?'),
  ('chain_sum', {'max_terms': 1}, 'max_terms must be >= min_terms'),
])  # fmt: skip
def test_bad_names_and_knobs(name, knobs, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    text_task.TextTask(name, BYTES, knobs=knobs)


def test_no_reasoning_gym(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'reasoning_gym', None)
  with pytest.raises(ValueError, match=r'pip install "posttrain_jax\[envs\]"'):
    text_task.TextTask('chain_sum', BYTES)


# --- Verifiers


def test_verify_right_and_wrong(chain_sum, gsm):
  indices = np.repeat(np.arange(20), 3)
  right = [chain_sum.solve(i) for i in range(20)]
  said = [
    t
    for answer in right
    for t in (
      answer,
      str(int(answer) + 1),
      f'so 3... <answer> {answer}</answer>.',
    )
  ]
  rewards = chain_sum.verify(indices, said).reshape(20, 3)
  assert rewards.dtype == np.float32
  assert rewards.tolist() == [[1.0, 0.0, 1.0]] * 20
  # A number that is wrong gets this task's own 0.01, no number gets nothing.
  wrong = str(int(float(gsm.solve(0))) + 1)
  scores = gsm.verify([0, 0, 0, 0], [gsm.solve(0), wrong, 'none', ''])
  assert scores.tolist() == pytest.approx([1.0, 0.01, 0.0, 0.0])
  held_out = chain_sum.solve(0, heldout=True)
  assert chain_sum.verify([0], [held_out], heldout=True).tolist() == [1.0]
  with pytest.raises(ValueError, match='1 completions of 2 problems'):
    chain_sum.verify([0, 1], ['a'])


def test_one_bad_verification_costs_one_reward(fake):
  task = text_task.TextTask(
    'chain_sum', BYTES, prompt_length=80, completion_length=8, knobs=EASY,
    workers=1, timeout=1.0,
  )  # fmt: skip
  said = ['ab', 'hang', 'aé', 'die', 'raise', 'é', 'nan', 'jax?', 'ok']
  rewards = task.verify([0] * 9, said)
  assert rewards.tolist() == [1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
  assert task.counts == {
    'overlong': 0, 'generator_errors': 0, 'timeouts': 1, 'verifier_errors': 3,
  }  # fmt: skip
  assert task.verify([0], ['ok']).tolist() == [1.0]


def test_a_worker_that_cannot_start_says_why(fake):
  pool = Pool('fake_server:Broken', {}, 1)
  for _ in range(2):  # its place in the pool is not lost
    with pytest.raises(RuntimeError, match='OSError: no file'):
      pool.call('score', timeout=1.0)


def test_closing_ends_the_processes(fake):
  pool = Pool('os:getpid', {}, 1)
  # `os.getpid()` is the server here: an int, with int's methods.
  pid = pool.call('__int__', timeout=10.0).value
  os.kill(pid, 0)
  pool.close()
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)


# --- Evaluation and the RL loop, with a made-up model


def write(rows):
  """Rollout [B, G, 8] of given texts, each ended by an EOS."""
  shape = (len(rows), len(rows[0]), 8)
  tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
  for b, row in enumerate(rows):
    for g, said in enumerate(row):
      ids = [*BYTES.encode(said), BYTES.eos_id]
      tokens[b, g, : len(ids)], mask[b, g, : len(ids)] = ids, 1.0
  ended = np.ones(shape[:2], np.float32)
  return Rollout(tokens, mask, np.zeros_like(mask), ended)


def test_host_step_feeds_rewards_in_place(chain_sum):
  seen = []

  def generate(params, prompts, prompt_mask, prompt_ids, key):
    def answers(ids, _):
      seen.append(ids.tolist())
      return write([[chain_sum.solve(i), 'no'] for i in ids])

    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), write([['', '']] * 3)
    )
    return jax.pure_callback(answers, shapes, prompt_ids, prompts)

  def learn(state, prompts, prompt_mask, samples, rewards, key):
    return state + 1, {'rewards': rewards, 'key': jax.random.key_data(key)}

  step = drivers.HostStep(generate, learn)
  driver = drivers.HostRL(step, chain_sum, BYTES, seed=0, prompts_per_step=3)

  class State:  # all that the driver itself looks at
    params = jnp.zeros(())

  jax.tree_util.register_pytree_node(
    State, lambda s: ((), None), lambda *_: State()
  )
  State.__add__ = lambda self, other: self
  keys = []
  for number in (0, 1):
    _, found, done = driver.advance(State(), number, 5)
    assert done == 1
    assert found['rewards'].tolist() == [[[1.0, 0.0]] * 3]
    assert found['time/verify'].shape == (1,)
    assert found['host/timeouts'].tolist() == [0.0]
    keys.append(found['key'].tolist())
  assert seen[-1] == [3, 4, 5] and keys[0] != keys[1]


def test_evaluator_by_hand(chain_sum):
  evaluator = on_host.HostEvaluator(
    model=None, task=chain_sum, tokenizer=BYTES, num_problems=4, samples=2,
    batch=2, max_new_tokens=8,
  )  # fmt: skip

  def generate(params, prompts, prompt_mask, prompt_ids, key, size):
    right = [chain_sum.solve(i, heldout=True) for i in prompt_ids]
    if not size:  # greedy is right on problems 0 and 1 alone
      return write([[r if i < 2 else 'x'] for i, r in zip(prompt_ids, right)])
    # Sampled: 0 once of two, 1 and 2 never and always the same, 3 twice.
    rows = {0: lambda r: [r, 'x'], 3: lambda r: [r, r]}
    wrong = lambda r: ['x', 'x']
    samples = write(
      [rows.get(int(i), wrong)(r) for i, r in zip(prompt_ids, right)]
    )  # the second sample is always the likelier one
    likely = np.array([-1.0, -0.5])[None, :, None]
    return samples.replace(logps=samples.mask * likely)

  evaluator._generate = generate
  found = evaluator(None, jax.random.key(0))
  assert found['eval/accuracy'] == found['eval/reward'] == 0.5
  assert found['eval/truncated'] == 0.0
  assert found['eval/accuracy_sampled'] == pytest.approx(3 / 8)
  assert found['eval/pass@2'] == pytest.approx(2 / 4)
  # Of two answers the first one wins; problem 0's is the right one.
  assert found['eval/maj@2'] == 0.5 and found['eval/best_of@2'] == 0.25
  assert found['eval/distinct'] == pytest.approx((1 + 0.5 * 3) / 4)
  # Means of the problems 0.5, 0, 0, 1: variance 11/48, over 4 problems.
  stderr = found['eval/accuracy_sampled_stderr']
  assert stderr == pytest.approx((11 / 48 / 4) ** 0.5)
  lines = evaluator.transcripts(None, jax.random.key(0), 1)
  assert lines == [{
    'prompt': chain_sum.problem(0, True)['prompt'],
    'completion': chain_sum.solve(0, True),
    'reward': 1.0,
  }]  # fmt: skip


def test_beams_by_hand(chain_sum):
  evaluator = on_host.HostEvaluator(
    model=make_config('depth-1', vocab_size=BYTES.vocab_size), task=chain_sum,
    tokenizer=BYTES, num_problems=4, samples=0, batch=2, max_new_tokens=8,
    beams=3,
  )  # fmt: skip
  params = jax.eval_shape(
    lambda key: transformer.init(key, evaluator.model), jax.random.key(0)
  )
  prompts = chain_sum.batch([0, 1], heldout=True)
  best = jax.eval_shape(
    evaluator._search, params, prompts['prompt'], prompts['prompt_mask']
  )
  assert best.completion.shape == (2, 1, 8)
  right = [chain_sum.solve(i, heldout=True) for i in range(4)]
  evaluator._generate = lambda *_, **__: write([['x'], ['x']])
  said = iter([[[right[0]], ['x']], [[right[2]], [right[3]]]])
  evaluator._search = lambda *_: write(next(said))
  found = evaluator(None, jax.random.key(0))
  assert found['eval/accuracy_beam'] == 0.75 and found['eval/accuracy'] == 0.0
  with pytest.raises(ValueError, match='eval.beams=-2'):
    dataclasses.replace(evaluator, beams=-2)


# --- Whole runs

FAST = [
  ('eval.every', '0'), ('eval.samples', '0'), ('eval.num_problems', '4'),
  ('log.tensorboard', 'false'), ('task.workers', '1'),
]  # fmt: skip


def rows_of(workdir):
  _, rows = log.read(workdir / 'metrics.jsonl')
  timing = ('time', 'time/step', 'time/verify', 'perf/tokens_per_second')
  return [
    {k: v for k, v in row.items() if k not in timing}
    for row in rows
    if row['split'] == 'train'
  ]


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_rl_two_steps_and_two_more_are_four(fake, tmp_path):
  """The fake verifier rewards ASCII, so that a new model's rewards differ."""

  def load_run(**items):
    return config_lib.load(
      'configs/rl.py:task=text:chain_sum,smoke',
      [*FAST, ('task.knobs.max_terms', '2'), ('task.knobs.max_digits', '1'),
       *items.items()],
    )  # fmt: skip

  _, straight, scores = loop.train(load_run(), tmp_path / 'straight')
  loop.train(load_run(num_steps='2'), tmp_path / 'halves')
  run, resumed, again = loop.train(load_run(), tmp_path / 'halves')
  same(straight.params, resumed.params)
  same(straight.opt_state, resumed.opt_state)
  assert scores == again and 'eval/reward' in scores
  expected = rows_of(tmp_path / 'straight')
  assert rows_of(tmp_path / 'halves') == expected
  assert [row['step'] for row in expected] == [1, 2, 3, 4]
  assert all(row['reward_std'] > 0 and row['grad_norm'] > 0 for row in expected)
  assert all(row['rollout/logp_gap_max'] <= 1e-5 for row in expected)
  assert run.sizes.row_tokens == 72 + 8


def losses(c, steps):
  """Losses of `steps` SFT steps, without the rest of a run."""
  run = build.build(c)
  mesh = loop.sharding.make_mesh(c.mesh)
  with jax.set_mesh(mesh):
    state = loop.initial_state(run, mesh, c)
    driver = loop.make_driver(run, c)
    out = []
    for step in range(steps):
      state, found, _ = driver.advance(state, step, 1)
      out.append(float(found['loss'][0]))
  run.task.close()
  return run, out


@pytest.mark.parametrize(
  'tokenizer', [pytest.param('byte', marks=pytest.mark.slow), 'bpe']
)
def test_sft_on_answers_learns(tokenizer, tmp_path, capsys):
  items = [
    *FAST, ('optimizer.lr', '3e-3'), ('optimizer.schedule', 'constant'),
    ('task.prompt_length', '256'),
  ]  # fmt: skip
  if tokenizer == 'bpe':
    train_tokenizer.main([
      '--task', 'text:gsm_symbolic', '--num_problems', '100',
      '--vocab_size', '320', '--out', str(tmp_path / 'bpe'),
    ])  # fmt: skip
    assert '320 tokens' in capsys.readouterr().out
    items.append(('tokenizer', str(tmp_path / 'bpe')))
  c = config_lib.load('configs/sft.py:task=text:gsm_symbolic,smoke', items)
  run, found = losses(c, 8)
  assert np.mean(found[-2:]) < 0.8 * found[0]
  assert run.model.vocab_size == load(c.tokenizer).vocab_size
  # The rows are the records: the first batch holds problem 0.
  batch = next(run.batches())
  record = run.task.records()[0]
  row = batch['tokens'][0][batch['segment_ids'][0] > 0]
  assert run.tokenizer.decode(row) == record['prompt'] + record['completion']
  trained = batch['tokens'][0][batch['mask'][0] > 0]
  assert run.tokenizer.decode(trained) == record['completion']
  assert trained[-1] == run.tokenizer.eos_id


@pytest.fixture
def jsonl(tmp_path):
  path = tmp_path / 'examples.jsonl'
  records = [{'prompt': f'{i} and one is ', 'completion': str(i + 1)}
             for i in range(24)]  # fmt: skip
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return path


def on_file(path, *items):
  return config_lib.load('configs/sft.py:data=jsonl,smoke', [
    *FAST[:-1], ('tokenizer', 'byte'), ('data.path', str(path)),
    ('data.max_length', '32'), *items,
  ])  # fmt: skip


def test_sft_on_a_file_resumes(jsonl, tmp_path):
  run, straight, scores = loop.train(on_file(jsonl), tmp_path / 'straight')
  loop.train(on_file(jsonl, ('num_steps', '2')), tmp_path / 'halves')
  _, resumed, _ = loop.train(on_file(jsonl), tmp_path / 'halves')
  rows = rows_of(tmp_path / 'straight')
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  assert rows[-1]['loss'] < rows[0]['loss']
  assert scores == {} and run.task is None  # nothing to evaluate it by
  # The learning rate depends on the whole length, so only the rows compare.
  halves = rows_of(tmp_path / 'halves')
  assert [r['num_tokens'] for r in halves] == [r['num_tokens'] for r in rows]
  assert halves[:1] == rows[:1] and int(resumed.step) == 4


def test_packed_file(jsonl):
  run = build.build(on_file(jsonl, ('data.packing', 'true')))
  batch = next(run.batches())
  assert batch['tokens'].shape == (8, 32)
  assert batch['segment_ids'].max() == 2


def test_tfds_in_the_tasks_vocabulary_is_evaluated_in_graph(tmp_path):
  task_builder.build(
    task_problems.Problems(task='addition', num_train=16, num_test=1),
    str(tmp_path),
  )
  c = config_lib.load('configs/sft.py:data=tfds,smoke', [
    ('data.path', str(tmp_path)), ('data.name', 'task_problems:train'),
    ('data.max_length', '16'),
  ])  # fmt: skip
  run = build.build(c)
  batch = next(run.batches())
  row = run.tokenizer.decode(batch['tokens'][0])
  first, second, total = map(int, re.split('[+=]', row))
  assert first + second == total
  assert list(run.evaluators) == [''] and run.sizes.row_tokens == 16
  c.data.name = 'task_problems:trian'
  with pytest.raises(ValueError, match='Did you mean "train"'):
    build.build(c)


@pytest.mark.parametrize('spec, items, message', [
  ('sft.py:data=jsonl', {}, 'needs data.path'),
  ('sft.py:data=jsno', {}, 'Did you mean "jsonl"'),
  ('sft.py:data=jsonl', {'data.path': 'nothing.jsonl'}, 'no file matches'),
  ('sft.py:data=tfds', {'data.name': 'addition'}, 'BUILDER:SPLIT'),
  ('sft.py', {'data.packing': 'true'}, 'are for data.source'),
  ('sft.py', {'tokenizer': 'byte'}, 'in-graph tasks speak'),
  ('rl.py:task=text:chain_sum', {'tokenizer': 'task'}, 'use "byte"'),
  ('rl.py:task=text:chain_sum', {'tokenizer': 'bite'}, 'Did you mean "byte"'),
  ('rl.py:task=text:chain_sum', {'task.knobs.max_terms': '1'}, 'max_terms'),
  ('rl.py:task=text:chain_sum', {'task.workers': '0'}, 'workers=0'),
  ('rl.py:task=text:chain_sum', {'task.timeout': '0'}, 'task.timeout=0.0'),
  ('sft.py:task=text:rush_hour', {'task.completion_length': '8'},
   'no oracle answers'),
])  # fmt: skip
def test_impossible_runs_fail_before_compiling(spec, items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(config_lib.load(f'configs/{spec}', list(items.items())))


@pytest.mark.parametrize('record, items, message', [
  ({'prompt': 'p', 'chosen': 'a', 'rejected': 'b'}, [], 'kind "preference"'),
  ({'prompt': 'p' * 40, 'completion': 'c'}, [], 'too long'),
  ({'prompt': 'p' * 40, 'completion': 'c'}, [('data.overlong', 'truncate')],
   'no token is trained'),
  ({'prompt': 'é', 'completion': 'c'}, [('tokenizer', 'task')], 'jsonl:1'),
])  # fmt: skip
def test_bad_files_fail_before_compiling(record, items, message, tmp_path):
  path = tmp_path / 'bad.jsonl'
  path.write_text(json.dumps(record) + '\n')
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(on_file(path, *items))
