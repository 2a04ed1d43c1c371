"""Host tasks: problems, verifiers in workers, evaluation, the RL step."""

import dataclasses
import json
import os
import re
from pathlib import Path

import chat_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.pool import Pool
from posttrain_jax.core.types import Rollout, TrainState
from posttrain_jax.data import (
  chat,
  formats,
  gym,
  text_task,
)
from posttrain_jax.data.tokenizers import ByteTokenizer, load
from posttrain_jax.evals import on_host
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import drivers

ROOT = Path(__file__).parent.parent
BYTES = ByteTokenizer()
EASY = {'max_terms': 2, 'max_digits': 1}  # 200 different questions


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture
def fake(monkeypatch):
  """Makes every new TextTask score by `fake_server`."""
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

  def learn(state, lived, key):
    key_data = jax.random.key_data(key)
    state = state.replace(step=state.step + 1)
    return state, {'rewards': lived.rewards, 'key': key_data}

  step = drivers.HostStep(generate, learn)
  driver = drivers.HostRL(step, chain_sum, BYTES, seed=0, prompts_per_step=3)

  keys = []
  for number in (0, 1):
    state = TrainState(jnp.int32(number), jnp.zeros(()), ())
    _, found, done = driver.advance(state, number, 5)
    assert done == 1
    assert found['rewards'].tolist() == [[[1.0, 0.0]] * 3]
    assert found['time/verify'].shape == (1,)
    assert found['host/timeouts'].tolist() == [0.0]
    keys.append(found['key'].tolist())
  assert seen[-1] == [3, 4, 5] and keys[0] != keys[1]


def test_a_question_is_a_users_turn_where_the_folder_has_a_template(
  fake, tmp_path
):
  tokenizer = load(chat_folders.make('qwen2_5', tmp_path))
  task = text_task.TextTask(
    'chain_sum', tokenizer, knobs=EASY, prompt_length=256, completion_length=8
  )
  problem = task.problem(0)
  asked = {'role': 'user', 'content': problem['question']}
  assert problem['tokens'] == chat.prompt_tokens(tokenizer, [asked])
  batch = task.batch([0])
  size = int(batch['prompt_mask'].sum())
  assert batch['prompt'][0, :size].tolist() == problem['tokens']
  # Trained on, it is the same prompt, and the answer ends the turn.
  example = formats.tokenize(task.records()[0], tokenizer)
  assert example['tokens'][:size] == problem['tokens']
  trained = [t for t, w in zip(example['tokens'], example['loss_mask']) if w]
  said = tokenizer.encode(problem['answer'])
  assert trained == [*said, tokenizer.stops[0]]
  task.close()


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


def test_closing_ends_the_workers_of_a_judge_too(chain_sum, monkeypatch):
  closed = []

  class Judge:
    def close(self):
      closed.append(True)

  monkeypatch.setattr(chain_sum, 'judge', Judge())
  chain_sum.close()
  assert closed == [True]
