"""Long and short chains of thought: what is pruned, and which mode is asked."""

import functools

import jax
import numpy as np
import pytest
from test_backtracking import pieces
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.tasks import backtracking, conditioned, vocab

COUNT = 48
KEYS = jax.random.split(jax.random.key(4), COUNT)
TASK = backtracking.Task(
  puzzle='countdown', size=4, depth=1, backtracks=5.0, max_backtracks=5
)


def texts(found):
  return [
    vocab.decode(found.tokens[i], found.mask[i]).removesuffix('<eos>')
    for i in range(COUNT)
  ]


@functools.cache
def program():
  def run(key, prune, pruned_to):
    task = backtracking.Task(
      puzzle='countdown', size=4, depth=1, backtracks=5.0, max_backtracks=5,
      prune=prune, pruned_to=pruned_to,
    )  # fmt: skip
    example = task.sample(key)
    return task.solve(example, key)

  return quick_jit(jax.vmap(run, (0, None, None)))


def draw(prune, pruned_to=1.0):
  return texts(jax.device_get(program()(KEYS, prune, pruned_to)))


def test_a_short_trace_is_the_long_one_without_some_detours():
  """The steps, their order and the answer stay, and one detour of those."""
  long, one, none = draw(0.0), draw(1.0), draw(1.0, 0.0)
  shorter = 0
  for whole, short, bare in zip(long, one, none):
    path = [x for x in pieces(whole) if '#' not in x]
    assert pieces(bare) == path and bare.split('>')[1] == whole.split('>')[1]
    failed = [x for x in pieces(short) if '#' in x]
    assert len(failed) == min(1, whole.count('#'))
    # What is left stands in the order of the long one.
    rest = iter(pieces(whole))
    assert all(x in rest for x in pieces(short)), (whole, short)
    shorter += len(short) < len(whole)
  assert shorter > COUNT / 2


def test_a_share_of_them_is_pruned():
  long, mixed, one = draw(0.0), draw(0.5), draw(1.0)
  same = [(a == b, c == b) for a, b, c in zip(long, mixed, one)]
  assert all(a or b for a, b in same)
  pruned = sum(not a for a, _ in same)
  assert 0.2 < pruned / COUNT < 0.7


def shown(task, key):
  example = task.sample(key)
  text = task.solve(example, key)
  return example, text, task.verify(example, text.tokens, text.mask)


@functools.cache
def asked(asks):
  task = conditioned.wrap(TASK, 'mode', asks=asks)
  run = lambda key: shown(task, key)
  return jax.device_get(quick_jit(jax.vmap(run))(KEYS))


@pytest.mark.parametrize('asks, tokens', [
  ('drawn', 'ls'), *(
    pytest.param(*x, marks=pytest.mark.long)
    for x in (('long', 'l'), ('short', 's'), ('neutral', '='))
  )
])  # fmt: skip
def test_the_prompt_says_which_demonstration_comes(asks, tokens):
  example, text, found = asked(asks)
  heads = [vocab.decode(x[:1]) for x in example.prompt]
  assert set(heads) == set(tokens)
  assert np.all(example.prompt[:, 1] == vocab.SEP)
  assert np.all(found['reward'] == 1)
  counts = np.array([x.count('#') for x in texts(text)])
  short = np.asarray(example.answer['short'])
  assert np.all(counts[short] <= 1)
  if asks != 'short':  # as many as the problem has, up to five
    assert np.mean(counts[~short]) > 2
  if asks in ('drawn', 'neutral'):
    assert 0.2 < short.mean() < 0.8
  if asks == 'drawn':
    assert [h == 's' for h in heads] == short.tolist()


def test_sums_are_long_or_short_too():
  inner = tasks.make(
    'formats', num_digits=2, direct=0.0, reverse=0.0, program=0.0, spelled=True
  )
  task = conditioned.wrap(inner, 'mode')
  example, text, found = jax.device_get(
    quick_jit(jax.vmap(lambda key: shown(task, key)))(KEYS)
  )
  said = texts(text)
  short = np.asarray(example.answer['short'])
  assert [('=' in x) for x in said] == (~short).tolist()
  assert 0.2 < short.mean() < 0.8 and np.all(found['reward'] == 1)


def test_evaluation_asks_for_no_mode():
  task = conditioned.wrap(TASK, 'mode')
  assert conditioned.evaluated(task).asks == 'neutral'
  kept = conditioned.wrap(TASK, 'mode', asks='long')
  assert conditioned.evaluated(kept) is kept


@pytest.mark.parametrize('task, knobs, told', [
  (tasks.make('addition'), {}, 'the task has no knob "prune"'),
  (tasks.make('formats'), {}, 'long with spelled=true alone'),
  (TASK, {'share': 2.0}, 'share=2.0 is no share'),
  (TASK, {'asks': 'shor'}, 'Did you mean "short"'),
])  # fmt: skip
def test_modes_that_cannot_work(task, knobs, told):
  with pytest.raises(ValueError, match=told):
    conditioned.wrap(task, 'mode', **knobs)


def test_what_cannot_be_pruned():
  with pytest.raises(ValueError, match='prune=1.5 is not in 0..1'):
    backtracking.Task(prune=1.5)
  with pytest.raises(ValueError, match='pruned_to=-1 is not in 0..99'):
    backtracking.Task(pruned_to=-1)
