"""Answers that begin as a demonstration does: rows, advantages, the filter."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe_runs
import test_rl_hybrid as hand
from test_tasks import quick_jit

from posttrain_jax.core.types import Batch, TokenSignals
from posttrain_jax.run import build
from posttrain_jax.tasks import vocab
from posttrain_jax.trainers import update
from posttrain_jax.trainers.rl import (
  guest_rows,
  guests,
  objective,
  prefixes,
)
from posttrain_jax.trainers.rl import step as rl_step
from posttrain_jax.trainers.rl.experience import Experience

PREFIX = ('prefix.per_prompt', '2')
# Forced tokens of two answers to each problem; the second problem has none.
FORCED = np.array([[2, 2], [0, 0], [1, 1]])
REWARDS = np.array([[1.0, 0], [1, 1], [0, 1]])
ALONE = hand.OWN.mean(axis=1, keepdims=True)
GROUP = hand.GROUP + 2


def samples():
  """Answers of 2 to 4 tokens that begin with `FORCED` given ones."""
  made = hand.answers(7, 2)
  mask = np.maximum(made.mask, np.arange(hand.WIDTH) < 2)
  given = np.arange(hand.WIDTH) < FORCED[..., None]
  logps = jnp.where(given | (mask == 0), 0.0, jnp.minimum(made.logps, -2.5))
  given = jnp.asarray(given, jnp.float32)
  return made.replace(mask=jnp.asarray(mask), logps=logps, given=given)


@functools.cache
def outcome(*items):
  """The batch of a step, the terms of the objective, what the policy says."""
  items = (PREFIX, *items)
  run = hand.run_of('prefix_rft', *items)
  params = hand.params_of(run.model)
  state = run.init({'policy': params})
  beside = {'prefix': (samples(), jnp.asarray(REWARDS, jnp.float32))}
  learn = rl_step.make_learn(
    run.config, run.models, hand.look, lambda state: state
  )
  _, metrics = quick_jit(learn)(
    state,
    Experience(
      hand.PROMPTS, hand.PROMPT_MASK, hand.answers(1, hand.GROUP),
      jnp.asarray(hand.OWN, jnp.float32), beside,
    ),
    jax.random.key(0),
  )  # fmt: skip
  batch = metrics.pop('batch')
  goal = objective.make_objective(run.config, run.models, vocab.EOS)
  sums, seen = quick_jit(goal.evaluate)(params, state, batch)
  return types.SimpleNamespace(
    goal=goal,
    state=state,
    batch=batch,
    mask=np.asarray(batch.mask),
    forced=np.asarray(batch.extras['forced']),
    sums=sums,
    seen=seen,
    counts=goal.count(batch),
    metrics=metrics,
    **hand.said(run.model, params, batch),
  )


# ---- Advantages.


@pytest.mark.parametrize(
  'baseline, after',
  [
    ('none', [[1.0, 0.0], [1.0, 1.0]]),
    ('prefix', [[0.5, -0.5], [0.0, 0.0]]),
    ('group', [[0.75, -0.25], [0.5, 0.5]]),
  ],
)
def test_advantages_by_hand(baseline, after):
  own = jnp.array([[1.0, 0, 0, 0], [1, 1, 0, 0]])
  rewards = jnp.array([[1.0, 0], [1, 1]])
  forced, found = prefixes.advantages(rewards, own, baseline)
  # Two answers of a prefix: half of what each is better than 1/4 and 1/2.
  np.testing.assert_allclose(forced, [[0.375, -0.125], [0.25, 0.25]])
  np.testing.assert_allclose(found, after)


@pytest.mark.parametrize('baseline', prefixes.BASELINES)
def test_advantages_of_rows(baseline):
  x = outcome(('prefix.baseline', baseline))
  begun = (REWARDS - ALONE) / 2
  after = {
    'none': REWARDS,
    'prefix': REWARDS - REWARDS.mean(axis=1, keepdims=True),
    'group': REWARDS - ALONE,
  }[baseline]
  spread = lambda theirs: hand.rows(hand.OWN - ALONE, theirs)[:, None]
  expected = np.where(x.forced > 0, spread(begun), spread(after)) * x.mask
  hand.close(x.batch.advantages, expected)


# ---- Rows.


def test_rows_stand_behind_the_group_and_their_beginning_counts():
  x = outcome()
  kinds = [0] * hand.GROUP + [3, 3]
  np.testing.assert_array_equal(x.batch.extras['kind'], kinds * hand.PROBLEMS)
  blank = np.zeros((hand.PROBLEMS, hand.GROUP))
  np.testing.assert_array_equal(x.forced.sum(1), hand.rows(blank, FORCED))
  assert np.all(x.mask[x.forced > 0] == 1)
  first = x.forced.argmax(1)[x.forced.any(1)]
  np.testing.assert_array_equal(first, hand.PROMPT_SIZES[[0, 0, 2, 2]])
  # The second problem had nothing to begin with, and its rows count nothing.
  sizes = x.mask.sum(1).reshape(hand.PROBLEMS, GROUP)[:, hand.GROUP :]
  made = np.asarray(samples().mask.sum(-1))
  np.testing.assert_array_equal(sizes, made * [[1], [0], [1]])
  hand.close(x.metrics['prefix/frac_rows_kept'], 4 / 6)
  hand.close(x.metrics['rewards/prefix/mean'], REWARDS.mean())
  share = FORCED.sum() / sizes.sum()
  hand.close(x.metrics['prefix/frac_forced'], share)


@pytest.mark.parametrize('old', ['sampler', 'learner'])
def test_old_probabilities_of_forced_tokens_are_the_policys(old):
  x = outcome(('old_logps', old))
  is_prefix = (np.asarray(x.batch.extras['kind']) == 3)[:, None] * x.mask > 0
  told = np.asarray(x.batch.old_logps)
  scored = is_prefix & (x.forced > 0) if old == 'sampler' else is_prefix
  hand.close(told[scored], x.logps[scored])
  after = is_prefix & (x.forced == 0)
  if old == 'sampler':
    sampled = samples()
    there = (sampled.mask > 0) & (sampled.given == 0)
    there &= jnp.asarray([True, False, True])[:, None, None]
    np.testing.assert_array_equal(told[after], sampled.logps[there])
    assert np.abs(told[after] - x.logps[after]).max() > 0.1


def test_shared_prompts_score_the_same():
  run = hand.run_of('prefix_rft', PREFIX)
  state = run.init({'policy': hand.params_of(run.model)})
  shared = objective.Shared(3, GROUP)
  rows = lambda shared: quick_jit(
    prefixes.make_rows(run.config, run.model, shared)
  )(
    state, hand.PROMPTS, hand.PROMPT_MASK, jnp.asarray(hand.OWN), samples(),
    jnp.asarray(REWARDS),
  )  # fmt: skip
  alone, _ = rows(None)
  together, _ = rows(shared)
  hand.close(alone.old_logps, together.old_logps)
  np.testing.assert_array_equal(alone.advantages, together.advantages)


def test_lengths_of_beginnings_by_hand():
  sizes = jnp.array([20, 20, 20, 2, 1, 0, 10, 10])
  fractions = jnp.array([0.95, 0.99, 0.01, 0.9, 0.9, 0.9, 1.0, 0.55])
  found = prefixes.forced_lengths(sizes, fractions)
  np.testing.assert_array_equal(found, [19, 19, 1, 1, 0, 0, 9, 5])


@functools.cache
def thinking():
  """A run whose demonstrations have thoughts, six problems, beginnings."""
  items = [('task.chain_of_thought', 'true'), ('max_new_tokens', '0')]
  run = hand.run_of('prefix_rft', PREFIX, ('task.num_digits', '2'), *items)
  examples = jax.vmap(run.task.sample)(jax.random.split(jax.random.key(1), 6))
  examples = examples.replace(prompt_id=jnp.arange(6, dtype=jnp.uint32))
  begin = prefixes.make_beginnings(
    run.config, run.task, run.sizes.max_new_tokens, vocab.PAD
  )
  return run, examples, quick_jit(begin)


def beginnings(low, key=0, order=range(6)):
  """What the problems in `order` begin with."""
  _, examples, begin = thinking()
  examples = jax.tree.map(lambda x: x[jnp.array(order)], examples)
  return begin(examples, jnp.float32(low), jax.random.key(key))


def test_beginnings_are_of_the_demonstration_and_drawn_by_identity():
  run, examples, _ = thinking()
  state = beginnings(0.1)
  solve = jax.vmap(lambda example: run.task.solve(example, jax.random.key(0)))
  shown = solve(examples)
  sizes = np.asarray(shown.mask.sum(-1))
  lengths = np.asarray(state['length'])
  for row, length in enumerate(lengths):
    np.testing.assert_array_equal(
      state['tokens'][row, :length], shown.tokens[row, :length]
    )
  assert len(set(lengths / sizes)) > 3
  assert np.all(lengths >= np.floor(0.1 * sizes))
  assert np.all(lengths <= 0.95 * sizes)
  order = [3, 0, 5, 1, 2, 4]
  moved = beginnings(0.1, order=order)
  np.testing.assert_array_equal(moved['length'], lengths[order])
  assert np.any(beginnings(0.1, key=5)['length'] != lengths)
  # A low above `high` is `high`.
  late = beginnings(1.0)['length']
  np.testing.assert_array_equal(late, np.floor(0.95 * sizes + 1e-4))


def test_a_demonstration_that_is_too_long_begins_nothing():
  run, examples, _ = thinking()
  begin = prefixes.make_beginnings(run.config, run.task, 5, vocab.PAD)
  state = quick_jit(begin)(examples, jnp.float32(0.5), jax.random.key(0))
  np.testing.assert_array_equal(state['length'], 0)


def test_answers_go_on_from_the_beginning():
  run, examples, _ = thinking()
  make = lambda **kind: rl_step.make_rollout(
    run.config, run.model, run.sizes.max_new_tokens, vocab.EOS, vocab.PAD,
    **kind,
  )  # fmt: skip
  sources = guest_rows.make_sources(
    run.config, run.task, make, run.sizes.max_new_tokens, vocab.PAD
  )
  assert list(sources) == ['prefix']
  state = run.init({'policy': hand.params_of(run.model)})
  asked = {}

  def ask(generate, state, examples, key, guide_state):
    asked.update(guide_state)
    return generate(
      state.params, examples.prompt, examples.prompt_mask,
      examples.prompt_id, key, guide_state=guide_state,
    )  # fmt: skip

  found = sources['prefix'](ask, state, examples, jax.random.key(3))
  assert found.completion.shape[:2] == (6, 2)
  np.testing.assert_array_equal(
    found.given.sum(-1), np.stack([asked['length']] * 2, 1)
  )
  for row, length in enumerate(asked['length']):
    for answer in found.completion[row]:
      np.testing.assert_array_equal(
        answer[:length], asked['tokens'][row, :length]
      )
  # Continuations of one beginning differ.
  assert np.any(found.completion[:, 0] != found.completion[:, 1])
  # The controller starts at 0.95.
  shown = guests.demonstrations(
    run.task, examples, jax.random.key(0), 1, run.sizes.max_new_tokens, 0
  )
  sizes = np.asarray(shown.mask[:, 0].sum(-1))
  np.testing.assert_array_equal(asked['length'], np.floor(0.95 * sizes + 1e-4))


def test_without_prefixes_nothing_is_drawn():
  run = hand.run_of('prefix_rft', ('prefix.per_prompt', '0'))
  assert run.sizes.rows == hand.PROBLEMS * hand.GROUP
  assert run.init({'policy': hand.params_of(run.model)}).control == {}
  sources = guest_rows.make_sources(run.config, run.task, None, 4, 0)
  assert sources == {}
  x = hand.outcome('prefix_rft', ('prefix.per_prompt', '0'))
  plain = hand.outcome('dr_grpo', ('reduce.name', 'token_mean'))
  assert x.batch.extras == {}
  jax.tree.map(np.testing.assert_array_equal, x.batch, plain.batch)


# ---- The objective.


@pytest.mark.parametrize('share', ['0.2', '0.5', '1.0'])
def test_the_objective_by_hand(share):
  x = outcome(('prefix.top_fraction', share))
  places = np.argwhere(x.forced > 0)
  order = np.argsort(-x.entropy[x.forced > 0])
  kept = int(np.ceil(float(share) * len(places) - 1e-3))
  assert len(places) == 6 and kept == {'0.2': 2, '0.5': 3, '1.0': 6}[share]
  advantage = np.array(x.batch.advantages)
  for place in places[order[kept:]]:
    advantage[tuple(place)] = 0.0
  ratio = np.exp(x.logps - np.asarray(x.batch.old_logps))
  best = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
  best = np.where(advantage < 0, np.maximum(best, 3.0 * advantage), best)
  hand.close(x.sums['policy'], -(best * x.mask).sum())
  # All tokens of all rows count, for the entropy too.
  assert x.counts['policy'] == x.counts['entropy'] == x.mask.sum()
  hand.close(x.sums['entropy'], (x.entropy * x.mask).sum())
  values, mask = x.seen['prefix/ratio']
  hand.close((values * mask)[x.forced > 0], 1.0)


def test_micro_batches_change_nothing_where_all_forced_tokens_count():
  x = outcome(('prefix.top_fraction', '1.0'))
  found = [
    quick_jit(update.make_gradient(x.goal, size))(
      x.state.params, x.state, x.batch
    )
    for size in (0, GROUP)
  ]
  jax.tree.map(hand.close, *found)
  assert np.abs(found[0][0]['embed']['tokens']).max() > 1e-3


def test_forced_tokens_that_are_not_kept_have_no_gradient():
  entropy = jnp.array([[0.1, 0.9, 0.5], [0.4, 0.2, 2.0]])
  forced = jnp.array([[1.0, 1, 0], [1, 1, 0]])
  c = types.SimpleNamespace(prefix=types.SimpleNamespace(top_fraction=0.5))
  seen = {}

  def policy_loss(signals, batch, mask):
    del signals, mask
    seen['advantages'] = batch.advantages
    return batch.advantages, {}

  ids = jnp.ones((2, 3), jnp.int32)
  batch = Batch(
    tokens=ids,
    mask=jnp.ones((2, 3)),
    segment_ids=ids,
    positions=ids,
    advantages=jnp.full((2, 3), 3.0),
    extras={'forced': forced},
  )
  signals = TokenSignals(logps=jnp.zeros((2, 3)), entropy=entropy)
  loss = prefixes.make_loss(c, policy_loss)
  loss(signals, batch, jnp.ones((2, 3)))
  # Two of four forced tokens, over both rows; what comes after keeps it.
  np.testing.assert_array_equal(seen['advantages'], [[0.0, 3, 3], [3, 0, 3]])


# ---- A run.


def trained(*items):
  """Metrics of 40 steps from random parameters."""
  items = [('optimizer.lr', '3e-3'), ('num_steps', '40'), *items]
  run = build.build(recipe_runs.load('rl', 'prefix_rft', *items))
  params = build.transformer.init(jax.random.key(1), run.model)
  keys = jax.random.split(jax.random.key(2), 40)
  train = jax.jit(lambda state: jax.lax.scan(run.step, state, keys))
  _, metrics = train(run.init({'policy': params}))
  return {name: np.asarray(x) for name, x in metrics.items()}


@pytest.mark.slow
def test_a_policy_that_is_never_right_learns_from_beginnings():
  # Its own answers are right by accident, too rarely to learn from; those that
  # begin as the demonstration does are right more often.
  alone = trained(('prefix.per_prompt', '0'), ('group_size', '8'))
  assert alone['reward'].max() < 0.02, alone['reward']
  begun = trained()
  low = begun['control/prefix']
  hand.close([low[0], low[20]], [0.95, 0.5])
  reward = begun['reward']
  assert reward[:5].mean() < 0.005 and reward[-10:].mean() > 0.02, reward
  assert np.all(begun['rewards/prefix/mean'][-10:] > reward[-10:])
