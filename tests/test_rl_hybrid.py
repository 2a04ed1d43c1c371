"""What RL with rows beside a group minimises, against NumPy on three problems.

Answers, rewards and sampling probabilities are made by hand; `learn` makes the
batch from them, and an update that only looks keeps it.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe_runs
from test_tasks import quick_jit

from posttrain_jax.core.types import Batch, Rollout
from posttrain_jax.models import transformer
from posttrain_jax.run import build
from posttrain_jax.tasks import vocab
from posttrain_jax.trainers import update
from posttrain_jax.trainers.rl import guests, objective
from posttrain_jax.trainers.rl import step as rl_step
from posttrain_jax.trainers.rl.experience import Experience

PROBLEMS, GROUP, WIDTH = 3, 3, 4
PROMPT_SIZES = np.array([3, 2, 3])
TOTAL = 3 + WIDTH
OWN = np.array([[1.0, 0, 0], [1, 1, 1], [0, 0, 1]])
EXPERT = np.array([[1.0], [0.5], [1]])
EXPLORE = np.array([[1.0, 0], [1, 1], [0, 1]])


def answers(seed, count):
  """Random answers of 1 to WIDTH tokens, and what a sampler said of them."""
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, WIDTH + 1, (PROBLEMS, count, 1))
  sizes[0, 0] = WIDTH
  mask = (np.arange(WIDTH) < sizes).astype(np.float32)
  logps = -rng.uniform(2.5, 6.0, mask.shape) * mask
  return Rollout(
    completion=jnp.asarray(rng.integers(4, 60, mask.shape), jnp.int32),
    mask=jnp.asarray(mask),
    logps=jnp.asarray(logps, jnp.float32),
    finished=jnp.ones((PROBLEMS, count)),
  )


PROMPTS = jnp.asarray(
  np.random.default_rng(0).integers(4, 60, (PROBLEMS, 3)), jnp.int32
)
PROMPT_MASK = jnp.asarray(
  np.arange(3) < PROMPT_SIZES[:, None], dtype=jnp.float32
)
PREFIX_REWARDS = np.random.default_rng(5).uniform(
  0.1, 2.0, (PROBLEMS, GROUP, WIDTH)
)


def close(actual, expected, tolerance=1e-4):
  np.testing.assert_allclose(
    actual, expected, rtol=tolerance, atol=tolerance * 0.1
  )


@functools.cache
def run_of(recipe, *items):
  sizes = [
    ('model.preset', 'depth-1'),
    ('prompts_per_step', str(PROBLEMS)),
    ('group_size', str(GROUP)),
    ('max_new_tokens', str(WIDTH)),
  ]
  return build.build(recipe_runs.load('rl', recipe, *sizes, *items))


@functools.cache
def params_of(model, seed=0):
  """A model whose probabilities are far from even."""
  make = quick_jit(lambda key: transformer.init(key, model))
  made = jax.tree.map(lambda x: 2.0 * x, make(jax.random.key(seed)))
  if model.value_head:
    kernel = jax.random.normal(jax.random.key(seed + 9), (model.width,))
    made['value_head'] = {'kernel': 0.3 * kernel, 'bias': jnp.float32(0.2)}
  return made


@functools.cache
def forward(model):
  def apply(params, tokens):
    hidden, _ = transformer.hidden_states(params, model, tokens)
    return hidden, transformer.unembed(params, model, hidden)

  return quick_jit(apply)


def said(model, params, batch):
  """What a model says of counted tokens, in float64; padding is behind."""
  hidden, logits = forward(model)(params, batch.tokens)
  shifted = lambda x: np.pad(
    np.asarray(x, np.float64)[:, :-1], ((0, 0), (1, 0), (0, 0))
  )
  hidden, scores = shifted(hidden), shifted(logits)
  scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
  mask, tokens = np.asarray(batch.mask), np.asarray(batch.tokens)
  found = {
    'logps': np.take_along_axis(scores, tokens[..., None], -1)[..., 0],
    'entropy': -(np.exp(scores) * scores).sum(-1),
    'stop': scores[..., vocab.EOS],
  }
  if model.value_head:
    head = jax.tree.map(np.asarray, params['value_head'])
    found['values'] = hidden @ head['kernel'] + head['bias']
  return {name: x * mask for name, x in found.items()}


def look(state, batch, key):
  """An update that changes nothing and gives the batch away."""
  del key
  metrics = {
    'sampling/sampling_logp_difference/max': jnp.float32(0),
    'entropy': jnp.float32(0.1),
    'batch': batch,
  }
  return state.replace(step=state.step + 1), metrics


@functools.cache
def learnt(recipe, *items, coef=None):
  """(state before, state after, batch, metrics) of one call of `learn`.

  coef  the value of the KL's controller before it
  """
  run = run_of(recipe, *items)
  c = run.config
  params = params_of(run.model)
  state = run.init({'policy': params, 'ref': params})
  if 'ref' in run.models:
    state = state.replace(ref_params=params_of(run.models['ref'], 1))
  if coef is not None:
    control = {**state.control['kl'], 'value': jnp.float32(coef)}
    state = state.replace(control={**state.control, 'kl': control})
  beside, given = {}, {}
  if c.demos_per_prompt:
    beside['expert'] = answers(2, 1), jnp.asarray(EXPERT, jnp.float32)
  if c.explore.per_prompt:
    beside['explore'] = answers(3, 2), jnp.asarray(EXPLORE, jnp.float32)
  if c.loss.name.endswith('_stop'):
    given['prefix_rewards'] = jnp.asarray(PREFIX_REWARDS, jnp.float32)
  learn = rl_step.make_learn(c, run.models, look, lambda state: state)
  after, metrics = quick_jit(learn)(
    state,
    Experience(
      PROMPTS, PROMPT_MASK, answers(1, GROUP), jnp.asarray(OWN, jnp.float32),
      beside, **given,
    ),
    jax.random.key(0),
  )  # fmt: skip
  return state, after, metrics.pop('batch'), metrics


@functools.cache
def outcome(recipe, *items):
  """The batch, the terms of the objective, and what the policy says."""
  run = run_of(recipe, *items)
  state, _, batch, _ = learnt(recipe, *items)
  goal = objective.make_objective(run.config, run.models, vocab.EOS)
  sums, metrics = quick_jit(goal.evaluate)(state.params, state, batch)
  assert set(sums) == set(goal.coefs)
  return types.SimpleNamespace(
    goal=goal,
    state=state,
    batch=batch,
    mask=np.asarray(batch.mask),
    sums=sums,
    metrics=metrics,
    counts=goal.count(batch),
    coefs={name: float(goal.coef(state, name)) for name in sums},
    **said(run.model, state.params, batch),
  )


def rows(*parts):
  """[R] of numbers [PROBLEMS, k] that stand in a group in this order."""
  return np.concatenate(parts, axis=1).reshape(-1)


def kinds(experts=0, explore=0):
  """[R, 1] each: True on own rows, on demonstrations, on exploring rows."""
  counts = (GROUP, experts, explore)
  kind = rows(*[np.full((PROBLEMS, n), i) for i, n in enumerate(counts)])
  return [(kind == i)[:, None] for i in range(3)]


def normalized(rewards):
  centered = rewards - rewards.mean(axis=1, keepdims=True)
  return centered / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)


def own_ppo(x, is_own):
  """Clipped losses of own rows with advantages from own rewards, [R, T]."""
  blank = np.zeros((PROBLEMS, len(x.mask) // PROBLEMS - GROUP))
  advantage = rows(normalized(OWN), blank)[:, None]
  ratio = np.exp(x.logps - np.asarray(x.batch.old_logps))
  clipped = np.clip(ratio, 0.8, 1.2)
  best = np.minimum(ratio * advantage, clipped * advantage)
  return -best * is_own * x.mask


# ---- Objectives.


def test_luffy_by_hand():
  x = outcome('luffy')
  mixed = np.concatenate([OWN, EXPERT], axis=1)
  advantage = (mixed - mixed.mean(axis=1, keepdims=True)).reshape(-1, 1)
  close(x.batch.advantages, advantage * x.mask)
  own, expert, _ = kinds(1)
  ratio = np.exp(x.logps - np.asarray(x.batch.old_logps))
  p = np.exp(x.logps)
  assert ratio[own[:, 0]].max() > 3.0  # nothing is clipped
  token = -advantage * np.where(expert, p / (p + 0.1), ratio) * x.mask
  close(x.sums['policy'], token.sum() / TOTAL)
  # Divided by all rows; the entropy is a mean over all of their tokens.
  assert x.counts['policy'] == 12 and x.counts['entropy'] == x.mask.sum()
  close(x.sums['entropy'], (x.entropy * x.mask).sum())
  close([x.coefs['policy'], x.coefs['entropy']], [1.0, -0.001])
  values, mask = x.metrics['expert/ratio']
  close(values * mask, p * expert * x.mask)


def test_chord_by_hand():
  x = outcome('chord')
  own, expert, _ = kinds(1)
  # Demonstrations change no advantage, though theirs differ.
  spread = rows(normalized(OWN), np.zeros((PROBLEMS, 1)))[:, None]
  close(x.batch.advantages, spread * x.mask)
  close(x.sums['policy'], own_ppo(x, own).sum())
  assert x.counts['policy'] == (x.mask * own).sum()
  p = np.exp(x.logps)
  weighted = -(p * (1 - p)) * x.logps * expert * x.mask
  close(x.sums['sft'], weighted.sum())
  assert x.counts['sft'] == (x.mask * expert).sum()
  close([x.coefs['policy'], x.coefs['sft']], [0.9, 0.1])
  values, mask = x.metrics['sft/nll']
  close(values * mask, -x.logps * expert * x.mask)


def test_chord_mu_by_hand():
  x = outcome('chord_mu')
  own, expert, _ = kinds(1)
  close(x.sums['policy'], own_ppo(x, own).sum())
  close(x.sums['sft'], -(x.logps * expert * x.mask).sum())
  close([x.coefs['policy'], x.coefs['sft']], [0.1, 0.9])
  moved = x.state.replace(control={'sft': {'value': jnp.float32(0.3)}})
  shares = [x.goal.coef(moved, name) for name in ('policy', 'sft')]
  close(shares, [0.7, 0.3])


def test_srft_by_hand():
  x = outcome('srft')
  own, expert, _ = kinds(1)
  size = np.maximum(x.mask.sum(axis=1, keepdims=True), 1)
  entropy = x.entropy.sum(axis=1, keepdims=True) / size
  # Demonstrations: NLL, less where the policy is unsure.
  imitated = -0.5 * np.exp(-entropy) * x.logps * expert * x.mask
  close(x.sums['sft'], imitated.sum())
  assert x.counts['sft'] == (x.mask * expert).sum()
  # And as answers that share the group.
  mixed = np.concatenate([OWN, EXPERT], axis=1)
  theirs = EXPERT - mixed.mean(axis=1, keepdims=True)
  advantage = rows(np.zeros_like(OWN), theirs)[:, None]
  p = np.exp(x.logps)
  shaped = -advantage * p / (p + 0.1)
  # Own answers: right ones draw, wrong ones push.
  right = rows(OWN, EXPERT)[:, None] == 1
  push = np.where(right, -0.1 * np.exp(entropy) * x.logps, x.logps)
  token = np.where(own, push, shaped) * x.mask
  close(x.sums['policy'], token.sum() / TOTAL)
  assert x.counts['policy'] == 12
  assert x.coefs == pytest.approx(
    {'policy': 1.0, 'sft': 1.0, 'entropy': -0.001}
  )


def test_aepo_by_hand():
  x = outcome('aepo')
  own, _, explore = kinds(0, 2)
  close(x.sums['policy'], own_ppo(x, own).sum())
  # Right, and the second problem is right everywhere.
  kept = np.array([[1, 0], [0, 0], [0, 1]])
  real = rows(np.ones_like(OWN), kept)[:, None]
  made = np.asarray(answers(3, 2).mask) * kept[..., None]
  assert x.counts['explore'] == made.sum() > 0
  close(x.sums['explore'], -(x.logps * explore * real).sum())
  close([x.coefs['policy'], x.coefs['explore']], [1.0, 0.1])
  # Half as much while these answers are colder than the policy's own.
  cold = x.state.replace(control={'explore': {'value': jnp.float32(0.8)}})
  close(x.goal.coef(cold, 'explore'), 0.05)
  metrics = learnt('aepo')[3]
  close(metrics['explore/frac_rows_kept'], 2 / 6)
  close(metrics['rewards/explore/mean'], EXPLORE.mean())


@pytest.mark.parametrize('recipe', ['chord', 'luffy'])
def test_splits_and_order_change_nothing(recipe):
  x = outcome(recipe)
  gradient = lambda size: quick_jit(update.make_gradient(x.goal, size))
  whole = gradient(0)
  expected = whole(x.state.params, x.state, x.batch)
  # Micro-batches of three rows cut groups of four apart.
  order = np.random.default_rng(1).permutation(12)
  moved = jax.tree.map(lambda rows: rows[order], x.batch)
  for found in (
    gradient(3)(x.state.params, x.state, x.batch),
    whole(x.state.params, x.state, moved),
  ):
    jax.tree.map(close, found, expected)
  terms = [x.coefs[k] * x.sums[k] / x.counts[k] for k in x.sums]
  close(expected[1]['loss'], sum(terms))
  assert np.abs(expected[0]['embed']['tokens']).max() > 1e-3


def test_without_rows_beside_the_loss_is_that_of_grpo():
  x, plain = outcome('chord'), outcome('bnpo')
  assert plain.batch.extras == {} and set(plain.sums) == {'policy'}
  sums, _ = quick_jit(x.goal.evaluate)(x.state.params, x.state, plain.batch)
  np.testing.assert_array_equal(sums['policy'], plain.sums['policy'])
  counts = x.goal.count(plain.batch)
  assert counts['policy'] == plain.counts['policy']
  assert sums['sft'] == counts['sft'] == 0


# ---- Rows.


def small(rows, seed, **fields):
  """A batch [rows, 2] whose numbers are all different."""
  make = lambda i: jnp.arange(rows * 2).reshape(rows, 2) + 100 * seed + 10 * i
  return Batch(
    tokens=make(0),
    mask=jnp.ones((rows, 2)),
    segment_ids=make(1),
    positions=make(2),
    **fields,
  )


def test_join_puts_kinds_behind_each_group():
  own = small(
    4, 1, advantages=jnp.ones((4, 2)), ref_logps=jnp.full((4, 2), -1.0),
    extras={'correct': jnp.array([1.0, 0, 1, 1])},
  )  # fmt: skip
  expert = small(2, 2, advantages=jnp.full((2, 2), 3.0))
  explore = small(4, 3)
  batch = guests.join(own, {'expert': expert, 'explore': explore}, 2)
  first = [own.tokens[:2], expert.tokens[:1], explore.tokens[:2]]
  second = [own.tokens[2:], expert.tokens[1:], explore.tokens[2:]]
  np.testing.assert_array_equal(batch.tokens, np.concatenate([*first, *second]))
  kind = [0, 0, 1, 2, 2] * 2
  np.testing.assert_array_equal(batch.extras['kind'], kind)
  advantage = np.array([1, 1, 3, 0, 0] * 2)[:, None]
  np.testing.assert_array_equal(batch.advantages[:, :1], advantage)
  np.testing.assert_array_equal(
    batch.ref_logps[:, 1], -1.0 * (np.array(kind) == 0)
  )
  np.testing.assert_array_equal(
    batch.extras['correct'], [1, 0, 0, 0, 0, 1, 1, 0, 0, 0]
  )
  assert batch.old_logps is None and batch.returns is None
  for name, k in (('own', 0), ('expert', 1), ('explore', 2)):
    here = (np.array(kind) == k)[:, None] * np.ones((1, 2))
    np.testing.assert_array_equal(guests.mask_of(batch, name), here)


def test_rows_without_kinds_are_own():
  batch = small(2, 1)
  np.testing.assert_array_equal(guests.mask_of(batch, 'own'), 1.0)
  np.testing.assert_array_equal(guests.mask_of(batch, 'expert'), 0.0)


def test_useful_answers_are_better_than_their_group():
  own = jnp.array([[1.0, 1], [1, 1], [0, 0], [0, 0.5]])
  more = jnp.array([[1.0, 1], [1, 0], [1, 1], [0.3, 0.6]])
  kept = guests.useful(own, more)
  np.testing.assert_array_equal(kept, [[0, 0], [1, 0], [1, 1], [0, 1]])
  # (0.6 - 0.35) over a spread of 0.265
  kept = guests.useful(own, more, 0.95)
  np.testing.assert_array_equal(kept[3], [0, 0])
