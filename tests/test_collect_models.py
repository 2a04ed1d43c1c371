"""Sources of rows with a tiny model, marks on tokens, and what is refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from test_collect import (
  ADDITION,
  FIELDS,
  GROUP,
  MODEL,
  PLAN,
  PROBLEMS,
  WORLD,
  E,
  R,
  Scripted,
  W,
  gold,
  prompts_of,
  run,
  scripted,
  texts,
)
from test_tasks import quick_jit

from posttrain_jax import collect, trainers
from posttrain_jax.collect.labelled_rows import _departures, changed_tokens
from posttrain_jax.collect.setting import Setting
from posttrain_jax.core import arrays
from posttrain_jax.core.types import Rollout, TrainState
from posttrain_jax.models import transformer
from posttrain_jax.tasks import conditioned, split, vocab


def common_length(a, b):
  table = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, j in np.ndindex(len(a), len(b)):
    longest = max(table[i, j + 1], table[i + 1, j])
    table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else longest
  return table[-1, -1]


def test_oracle_with_wrong_by_hand():
  # Two digits, so that a wrong sample shares some tokens: the same first digit
  # or the same second one, whatever the plan changes.
  batch, metrics = run('oracle_with_wrong')
  wrong = batch.extras['wrong']
  first_wrong = [W, W, None, E]
  for i, prompt in enumerate(prompts_of(batch, 1)):
    right, kind = gold(prompt), first_wrong[i]
    assert texts(batch)[i][2] == right
    assert texts(wrong)[i][0] == prompt
    start = len(prompt)
    digits = len(right) - len('<eos>')
    span = slice(start, start + digits + 1)
    marks = {k: v[i] for k, v in batch.extras.items() if k != 'wrong'}
    if kind is None:
      assert not wrong.mask[i].any()
      assert not any(mark.any() for mark in marks.values())
      continue
    answer = scripted(prompt, kind)
    assert texts(wrong)[i][2] == answer
    # A changed first digit is a token of its own, unless the second digit is
    # the same; without an answer every digit is.
    tokens = [*right[:digits], '<eos>']
    others = [*answer.removesuffix('<eos>'), '<eos>']
    shared = common_length(tokens, others)
    assert marks['changed'].sum() == digits + 1 - shared
    assert marks['changed'][span].sum() == marks['changed'].sum()
    assert marks['wrong_changed'].sum() == len(others) - shared
    # Every wrong sample departs at the first digit.
    np.testing.assert_array_equal(np.flatnonzero(marks['keys']), [start])
  np.testing.assert_allclose(metrics['reward'], 6 / 12)


FEEDBACK = Scripted(**{**FIELDS, 'task': conditioned.Feedback(ADDITION)})


@pytest.mark.parametrize('oracle', [True, False])
def test_feedback_writes_the_true_verdict(oracle):
  batch, _ = run('feedback', world=FEEDBACK, oracle=oracle)
  assert set(batch.extras) == set(arrays.from_rows('feedback'))
  for i, (prompt, answer, counted) in enumerate(texts(batch)):
    mark, prompt = prompt.split('<sep>')
    problem, sample = divmod(i, GROUP)
    kind = ((R,) * oracle + PLAN[problem])[sample]
    assert answer == counted == scripted(prompt, kind)
    assert mark == ('+' if kind == R else '-')
    assert batch.extras['correct'][i] == (kind == R)


def test_feedback_needs_a_place_for_its_verdict():
  with pytest.raises(ValueError, match='condition.name="feedback"'):
    collect.feedback(WORLD, None, jax.random.key(0))
  lone = dataclasses.replace(FEEDBACK, group_size=1)
  with pytest.raises(ValueError, match='group_size=1'):
    collect.feedback(lone, None, jax.random.key(0))


def test_changed_tokens_leave_a_longest_common_subsequence():
  rng = np.random.default_rng(0)
  rows, width = 64, 7
  a, b = rng.integers(0, 3, (2, rows, width))
  sizes = rng.integers(0, width + 1, (2, rows))
  masks = (np.arange(width) < sizes[..., None]).astype(np.float32)
  run_ = quick_jit(changed_tokens)
  changed = np.asarray(run_(a, masks[0], b, masks[1]))
  changed_b = np.asarray(run_(b, masks[1], a, masks[0]))
  assert set(np.unique(changed)) == {0, 1}
  for i in range(rows):
    mine, other = a[i, : sizes[0, i]], b[i, : sizes[1, i]]
    longest = common_length(mine, other)
    for kept, marks, text in (
      (mine, changed[i], other),
      (other, changed_b[i], mine),
    ):
      assert not marks[len(kept) :].any()
      kept = kept[marks[: len(kept)] == 0]
      # As long as can be, and a subsequence of the other.
      assert len(kept) == longest == common_length(kept, text)


def test_keys_are_where_samples_first_depart():
  tokens = jnp.array([[5, 6, 7, 1, 0]])
  samples = jnp.array([[
    [5, 6, 7, 1, 0],  # right
    [5, 9, 7, 1, 0],
    [5, 6, 7, 8, 1],  # goes on
    [5, 6, 0, 0, 0],  # cut short
  ]])  # fmt: skip
  sizes = jnp.array([4, 4, 5, 2])
  mask = (jnp.arange(5)[None] < sizes[:, None]).astype(jnp.float32)[None]
  rolled = Rollout(samples, mask, mask, jnp.ones((1, 4)))
  own = jnp.array([[1.0, 1, 1, 1, 0]])

  def keys(*wrong):
    marks = _departures(tokens, own, rolled, jnp.array([wrong]))
    return np.flatnonzero(marks).tolist()

  assert keys(0, 1, 1, 1) == [1, 2, 3]
  assert keys(0, 0, 1, 0) == [3]
  assert keys(0, 0, 0, 1) == [2]
  assert keys(0, 0, 0, 0) == []


def given(world, name, state, **hparams):
  source = lambda key: getattr(collect, name)(world, state, key, **hparams)
  return jax.device_get(quick_jit(source)(jax.random.key(0)))


def model_state(seed=0):
  params = transformer.init(jax.random.key(seed), MODEL)
  # Far from uniform, so that greedy answers differ from problem to problem.
  params = jax.tree.map(lambda x: 3.0 * x, params)
  return TrainState(jnp.int32(0), params, (), ref_params=params)


@dataclasses.dataclass(frozen=True)
class Low:
  """A task on which half of all answers are right: the sum of ids is even."""

  prompt_length = ADDITION.prompt_length
  completion_length = 4

  def sample(self, key):
    return ADDITION.sample(key)

  def solve(self, example, key):
    del key
    return vocab.fit(vocab.special(vocab.EOS), self.completion_length)

  def verify(self, example, completion, mask):
    total = jnp.sum(jnp.where(mask > 0, completion, 0))
    total = total + example.answer['terms'].sum()
    return {'reward': (total % 3 > 0).astype(jnp.float32)}


@jax.jit
def forward(params, tokens):
  return transformer.apply(params, MODEL, tokens)[0]


def last_logits(params, tokens):
  """[V] after the tokens; padding behind them is not seen."""
  row = np.zeros((1, 12), np.int32)
  row[0, : len(tokens)] = tokens
  return np.asarray(forward(params, row))[0, len(tokens) - 1]


def greedy(params, prefix, size):
  """`size` greedy tokens after `prefix`, one forward pass each."""
  out = []
  while len(out) < size and vocab.EOS not in out:
    out.append(int(np.argmax(last_logits(params, [*prefix, *out]))))
  return out


def test_counterfactual_marks_by_a_slow_loop():
  task = Low()
  world = Setting(**{**FIELDS, 'task': task, 'max_new_tokens': 4})
  state = model_state()
  batch, metrics = given(world, 'counterfactual', state)
  examples = world.examples(jax.random.split(jax.random.key(0))[0])

  def right(i, answer):
    row = jnp.zeros(4, jnp.int32).at[: len(answer)].set(jnp.array(answer))
    mask = (jnp.arange(4) < len(answer)).astype(jnp.float32)
    example = jax.tree.map(lambda x: x[i], examples)
    return bool(task.verify(example, row, mask)['reward'])

  marks = np.zeros_like(batch.mask)
  kept = 0
  for i in range(PROBLEMS):
    size = int(examples.prompt_mask[i].sum())
    prompt = examples.prompt[i, :size].tolist()
    answer = greedy(state.params, prompt, 4)
    counts = right(i, answer)
    kept += counts
    assert batch.mask[i].sum() == counts * len(answer)
    row = batch.tokens[i, size : size + len(answer)]
    np.testing.assert_array_equal(row, answer)
    for t in range(len(answer) * counts):
      before = [*prompt, *answer[:t]]
      ranked = np.argsort(-last_logits(state.params, before))
      assert ranked[0] == answer[t]
      ends = []
      for token in ranked[1:3].tolist():
        forced = [*answer[:t], token]
        if token != vocab.EOS:
          forced += greedy(state.params, [*prompt, *forced], 3 - t)
        ends.append(right(i, forced))
      marks[i, size + t] = not any(ends)
  assert kept > 0 and 0 < marks.sum() < batch.mask.sum()
  np.testing.assert_array_equal(batch.extras['critical'], marks)
  share = marks.sum() / batch.mask.sum()
  np.testing.assert_allclose(metrics['frac_critical'], share, rtol=1e-6)
  np.testing.assert_allclose(metrics['frac_rows_kept'], kept / PROBLEMS)
  assert set(batch.extras) == set(arrays.from_rows('counterfactual'))


def test_completions_of_a_model_and_the_oracle_have_one_width():
  state = model_state()
  short = Setting(**{**FIELDS, 'max_new_tokens': 1})
  batch, _ = given(short, 'oracle_and_rollouts', state)
  lengths = batch.mask.sum(axis=1).reshape(PROBLEMS, GROUP)
  assert lengths[:, 0].min() >= 2 and lengths[:, 1:].max() == 1
  long = Setting(**{**FIELDS, 'max_new_tokens': 5})
  batch, _ = given(long, 'on_policy_mix', state)
  assert batch.mask.shape[1] == ADDITION.prompt_length + 5


def test_samplers_are_the_models_of_their_roles():
  state = model_state()
  other = jax.tree.map(lambda x: -x, state.params)
  state = state.replace(others={'teacher': other})
  world = Setting(**FIELDS)

  @quick_jit
  def tokens(state):
    rows = lambda role: (
      collect.rollouts(world, state, jax.random.key(0), sampler=role)[0].tokens
    )
    return {role: rows(role) for role in world.models}

  first, second = tokens(state), tokens(state.replace(params=other))
  np.testing.assert_array_equal(first['policy'], first['ref'])
  assert (first['policy'] != first['teacher']).any()
  np.testing.assert_array_equal(second['policy'], first['teacher'])
  np.testing.assert_array_equal(second['ref'], first['ref'])
  with pytest.raises(ValueError, match='"techer" is no.*mean "teacher"'):
    collect.rollouts(world, state, jax.random.key(0), sampler='techer')


def test_problems_are_those_of_training():
  world = Setting(**{**FIELDS, 'heldout_fraction': 0.5, 'num_prompts': 32})
  examples = jax.jit(world.examples)(jax.random.key(0))
  heldout = lambda example: split.is_heldout(ADDITION, example, 0.5)
  assert not jax.vmap(heldout)(examples).any()
  np.testing.assert_array_equal(examples.prompt_id, np.arange(32))


def wanted(
  paradigm='sft',
  group_size=1,
  prompts_per_step=4,
  loss='dpo',
  condition='feedback',
  **part,
):
  return ml_collections.ConfigDict({
    'paradigm': paradigm,
    'group_size': group_size,
    'prompts_per_step': prompts_per_step,
    'loss': {'name': loss},
    'others': {'teacher': ''},
    'condition': {'name': condition},
    'collect': part,
  })  # fmt: skip


def check(config):
  """As the config's kind of trainer asks for it."""
  kind = trainers.kind(config.paradigm)
  collect.check(config, *kind.sources(config))


@pytest.mark.parametrize(
  'config, message',
  [
    ({'name': 'orcale'}, 'mean "oracle"'),
    ({'name': 'oracle', 'nois': 1.0}, 'mean "noise"'),
    ({'name': 'best_vs_worst'}, 'no rows for paradigm "sft"'),
    (
      {'paradigm': 'preference', 'name': 'labelled', 'group_size': 2},
      'collect.name="labelled" gives no rows for loss "dpo"',
    ),
    (
      {'paradigm': 'preference', 'name': 'best_vs_worst', 'loss': 'kto'},
      'gives no rows for loss "kto". Valid: labelled',
    ),
    ({'name': 'rollouts', 'sampler': 'oracle'}, 'collect.sampler="oracle"'),
    ({'name': 'on_policy_mix', 'other': 'techer'}, 'mean "teacher"'),
    ({'name': 'on_policy_mix', 'sampler': 'oracle'}, 'collect.sampler='),
    ({'name': 'on_policy_mix', 'group_size': 2}, 'leave group_size=1'),
    ({'name': 'feedback'}, 'needs at least 2'),
    (
      {'name': 'feedback', 'condition': 'none', 'group_size': 2},
      'take condition.name="feedback", not "none"',
    ),
    ({'name': 'oracle_and_rollouts'}, 'needs at least 2'),
    (
      {'name': 'oracle', 'noise': 0.1, 'prompts_per_step': 1},
      'answers of other problems',
    ),
  ],
)
def test_what_cannot_work_is_refused(config, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    check(wanted(**config))


@pytest.mark.parametrize('name', collect.__all__)
def test_every_source_can_be_asked_for(name):
  paradigm = 'preference' if name in collect.PAIRS else 'sft'
  group_size = 1 if name in collect.LONE else 2
  condition = 'seen_answer' if name in collect.TURNS else 'feedback'
  check(wanted(paradigm, group_size, condition=condition, name=name))
  two = (*collect.PAIRS, *collect.TURNS)
  assert collect.rows_per_prompt(name, 5) == (
    2 if name in two else 5 if name in collect.GROUPS else 1
  )


def test_roles_are_models_that_write():
  assert collect.roles({'sampler': 'policy', 'other': 'oracle'}) == set()
  assert collect.roles({'sampler': 'ref', 'other': 'teacher'}) == {
    'ref', 'teacher'
  }  # fmt: skip
