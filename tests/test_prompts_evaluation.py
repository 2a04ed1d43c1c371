"""Evaluation on prompts of a file, of answers that are known beforehand."""

import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.types import Rollout
from posttrain_jax.data.prompts_task import PromptsTask
from posttrain_jax.data.sources import ListSource
from posttrain_jax.data.tokenizers import ByteTokenizer
from posttrain_jax.evals.on_host import HostEvaluator
from posttrain_jax.rewards import entries
from posttrain_jax.rewards.judge import Judge

BYTES = ByteTokenizer()
HELD = [{'prompt': f'{i}+0=', 'answer': i} for i in range(11)]
WIDTH = 8


def said(problem, sample):
  """Sample j of problem i is right where j < i % 5; else it is 99, or empty."""
  if sample < problem % 5:
    return f'so {problem}'
  return '99' if sample % 2 else ''


def rollout_of(prompts, size):
  """What a model would write, in tokens."""
  size = size or 1
  shape = (len(prompts), size, WIDTH)
  tokens = np.zeros(shape, np.int32)
  mask = np.zeros(shape, np.float32)
  for b, row in enumerate(prompts):
    problem = int(BYTES.decode(row).partition('+')[0])
    for g in range(size):
      ids = [*BYTES.encode(said(problem, g)), BYTES.eos_id]
      tokens[b, g, : len(ids)], mask[b, g, : len(ids)] = ids, 1.0
  arrays = (tokens, mask, -mask, np.ones(shape[:2], np.float32))
  return Rollout(*map(jnp.asarray, arrays))


@pytest.fixture(scope='module')
def evaluator():
  listed = entries.read([
    {'name': 'numeric_match'}, {'name': 'length', 'weight': 0.5}
  ])  # fmt: skip
  judge = Judge(listed, workers=1, limit=WIDTH)
  source = ListSource([{'prompt': 'x', 'answer': 0}])
  task = PromptsTask(
    source, BYTES, judge, completion_length=WIDTH, heldout=ListSource(HELD)
  )
  made = HostEvaluator(
    model=None, task=task, tokenizer=BYTES, num_problems=64, samples=4,
    batch=8, max_new_tokens=WIDTH,
  )  # fmt: skip
  made.__dict__['_generate'] = lambda params, prompts, size, **_: rollout_of(
    prompts, size
  )
  yield made
  task.close()


@pytest.mark.long
def test_by_hand(evaluator):
  """11 problems in batches of 8, each counted once."""
  assert evaluator.num_problems == 11
  found = evaluator(None, jnp.zeros(2, jnp.uint32))
  texts = [[said(i, j) for j in range(4)] for i in range(11)]
  right = np.array([[t == f'so {i}' for t in row]
                    for i, row in enumerate(texts)])  # fmt: skip
  sizes = np.array([[len(t) + 1 for t in row] for row in texts])
  rewards = right - 0.5 * sizes / WIDTH
  close = lambda x: pytest.approx(x, abs=1e-5)
  assert found['eval/accuracy'] == close(right[:, 0].mean())
  assert found['eval/reward'] == close(rewards[:, 0].mean())
  assert found['eval/rewards/length'] == close(-sizes[:, 0].mean() / WIDTH)
  assert found['eval/reward_sampled'] == close(rewards.mean())
  assert found['eval/accuracy_sampled'] == close(right.mean())
  assert found['eval/pass@4'] == close(right.any(1).mean())
  assert 0 <= found['eval/ece_consistency'] <= 1 and found['eval/ece'] <= 1
  # All four vote: an empty answer gives none, and of equals the first wins.
  votes = []
  for problem in range(11):
    count = problem % 5
    wrong = sum(said(problem, j) == '99' for j in range(count, 4))
    votes.append(count > 0 and count >= wrong)
  assert found['eval/maj@4'] == close(np.mean(votes))


def test_transcripts(evaluator):
  shown = evaluator.transcripts(None, jnp.zeros(2, jnp.uint32), 3)
  assert [x['prompt'] for x in shown] == ['0+0=', '1+0=', '2+0=']
  assert shown[1] == {
    'prompt': '1+0=', 'completion': 'so 1',
    'reward': pytest.approx(1 - 0.5 * 5 / WIDTH),
  }  # fmt: skip
