"""What RL's learner is given beside rewards: KL, controllers, flows, anchors.

Rows and direct scores are those of `test_rl_hybrid`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_rl_hybrid import (
  GROUP,
  OWN,
  PREFIX_REWARDS,
  PROBLEMS,
  PROMPT_MASK,
  PROMPT_SIZES,
  PROMPTS,
  TOTAL,
  WIDTH,
  answers,
  close,
  forward,
  kinds,
  learnt,
  normalized,
  outcome,
  params_of,
  run_of,
  said,
)
from test_tasks import quick_jit

from posttrain_jax import rollout, tasks
from posttrain_jax.core.types import Example
from posttrain_jax.rewards import answers as answers_lib
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.vocab import Text
from posttrain_jax.trainers.rl import guests, objective
from posttrain_jax.trainers.rl import step as rl_step

# ---- Flows.


def by_row(x, function):
  """Sum over rows of function(counted columns)."""
  at = [np.flatnonzero(mask) for mask in x.mask]
  return sum(function(b, columns) for b, columns in enumerate(at))


def log_rewards(rewards, floor=1e-6, temperature=1.0):
  return np.log(np.maximum(rewards, floor)) / temperature


def test_trajectory_balance_reads_the_head_and_the_log_reward():
  floor = ('log_reward.floor', '1e-2'), ('log_reward.temperature', '2.0')
  x = outcome('trajectory_balance', *floor)
  target = log_rewards(OWN.reshape(-1), 1e-2, 2.0)
  close(x.batch.extras['log_rewards'], target)
  close(target[:2], [0.0, np.log(0.1)])

  def square(b, at):
    return (x.values[b, at[0]] + x.logps[b, at].sum() - target[b]) ** 2

  close(x.sums['policy'], by_row(x, square))
  assert x.counts['policy'] == 9


def test_var_tb_compares_within_the_group_of_the_run():
  run = run_of('gflowvlm_var_tb')
  assert run.config.loss.group_size == 1 and not run.model.value_head
  x = outcome('gflowvlm_var_tb')
  zeta = x.logps.sum(axis=1) - log_rewards(OWN.reshape(-1))
  zeta = zeta.reshape(PROBLEMS, GROUP)
  residual = zeta - zeta.mean(axis=1, keepdims=True)
  close(x.sums['policy'], np.square(residual).sum())


def flows(x):
  """[R, T] log R(state) - log P(stop | state)."""
  made = np.zeros((len(x.mask), TOTAL))
  per_row = len(x.mask) // PROBLEMS
  for i, j in np.ndindex(PROBLEMS, GROUP):
    start = PROMPT_SIZES[i]
    columns = slice(start, start + WIDTH)
    made[i * per_row + j, columns] = np.log(PREFIX_REWARDS[i, j])
  return (made - x.stop) * x.mask


def test_db_stops_with_the_end_of_sequence():
  x = outcome('gflowvlm_db')
  flow = flows(x)

  def squares(b, at):
    path = flow[b, at[:-1]] + x.logps[b, at[:-1]] - flow[b, at[1:]]
    return np.square(path).sum()

  close(x.sums['policy'], by_row(x, squares))
  assert not run_of('gflowvlm_db').model.value_head


def test_flower_by_hand():
  x = outcome('flower')
  own, expert, _ = kinds(1)
  potential = flows(x) - (np.cumsum(x.logps, axis=1) - x.logps)

  def mean(b, at):
    u = potential[b, at]
    pairs = [(i, j) for j in range(len(at)) for i in range(j)]
    squares = [(u[i] - u[j]) ** 2 for i, j in pairs]
    return np.mean(squares) if own[b] and pairs else 0.0

  close(x.sums['policy'], by_row(x, mean))
  assert x.counts['policy'] == 9
  close(x.sums['sft'], -(x.logps * expert * x.mask).sum())
  close([x.coefs['policy'], x.coefs['sft']], [0.001, 0.999])


def test_prefixes_are_judged_as_if_they_stopped_there():
  task = tasks.make('addition', num_digits=1)
  keys = jax.random.split(jax.random.key(3), 8)
  examples = jax.vmap(task.sample)(keys)
  gold = jax.vmap(task.solve)(examples, keys)
  judge = quick_jit(jax.vmap(answers_lib.stopped_everywhere(task.verify)))
  verify = quick_jit(task.verify)
  width = gold.mask.shape[1]
  expected = np.zeros((8, width))
  for i, end in np.ndindex(8, width):
    example = jax.tree.map(lambda x, i=i: x[i], examples)
    # The tokens before it, then the end of sequence.
    text = [*np.asarray(gold.tokens[i, :end]), vocab.EOS]
    text += [vocab.PAD] * (width - len(text))
    real = np.arange(width) < min(end + 1, int(gold.mask[i].sum()))
    judged = verify(example, np.array(text), real.astype(np.float32))
    expected[i, end] = judged['reward']
  np.testing.assert_array_equal(
    judge(examples, gold.tokens, gold.mask), expected
  )
  # Right once whole, before the end of sequence is taken; never at first.
  assert expected.any(axis=1).all() and not expected[:, 0].any()


def test_prefix_rewards_lie_on_the_tokens_that_follow_them():
  batch = outcome('gflowvlm_db').batch
  flat = PREFIX_REWARDS.reshape(-1, WIDTH)
  expected = np.zeros((len(flat), TOTAL))
  for row, start in enumerate(np.repeat(PROMPT_SIZES, GROUP)):
    expected[row, start : start + WIDTH] = np.log(flat[row])
  close(batch.extras['state_log_rewards'], expected)


# ---- A KL in the reward.

IN_REWARD = (('kl.place', 'reward'), ('kl.name', 'kl_k1'))


def gap(recipe, *items, **coef):
  """[R, T] log-probability of the sampler over that of the reference."""
  state, _, batch, _ = learnt(recipe, *items, **coef)
  ref = run_of(recipe, *items).models['ref']
  theirs = said(ref, state.ref_params, batch)['logps']
  assert np.abs(theirs).max() > 1
  return np.asarray(batch.old_logps) - theirs


def test_kl_in_the_reward_of_groups():
  items = *IN_REWARD, ('kl.coef', '0.25')
  d = gap('grpo', *items)
  batch, metrics = learnt('grpo', *items)[2:]
  lost = 0.25 * d.sum(axis=1).reshape(PROBLEMS, GROUP)
  assert np.abs(lost).max() > 0.1
  advantage = normalized(OWN - lost).reshape(-1, 1)
  close(batch.advantages, advantage * batch.mask, 1e-3)
  close(metrics['kl'], d.sum() / batch.mask.sum())
  # Not again in the loss, and rewards are logged as the verifier gave them.
  assert set(outcome('grpo', *items).sums) == {'policy'}
  close(metrics['reward'], OWN.mean())


@pytest.mark.parametrize('name', ['kl_k2', 'kl_k3'])
def test_other_estimates_in_the_reward(name):
  items = ('kl.place', 'reward'), ('kl.name', name), ('kl.coef', '0.25')
  d = gap('grpo', *items)
  estimate = {'kl_k2': d**2 / 2, 'kl_k3': np.exp(-d) - 1 + d}[name]
  batch = learnt('grpo', *items)[2]
  lost = 0.25 * estimate.sum(axis=1).reshape(PROBLEMS, GROUP)
  advantage = normalized(OWN - lost).reshape(-1, 1)
  close(batch.advantages, advantage * batch.mask, 1e-3)


def test_kl_in_the_reward_of_tokens_with_the_coefficient_of_a_controller():
  plain = ('advantage.whiten', 'false'), ('advantage.whiten_rewards', 'false')
  chosen = dict(coef=0.5)
  state, after, batch, metrics = learnt('ppo_adaptive_kl', *plain, **chosen)
  d = gap('ppo_adaptive_kl', *plain, **chosen)
  model = run_of('ppo_adaptive_kl', *plain).model
  values = said(model, state.params, batch)['values']
  close(batch.old_values, values)
  expected = np.zeros(values.shape)
  for row, mask in enumerate(np.asarray(batch.mask)):
    ahead, later = 0.0, 0.0
    for t in np.flatnonzero(mask)[::-1]:
      is_last = t == np.flatnonzero(mask)[-1]
      earned = OWN.reshape(-1)[row] * is_last - 0.5 * d[row, t]
      later = earned + ahead - values[row, t] + 0.95 * later
      expected[row, t], ahead = later, values[row, t]
  close(batch.advantages, expected, 1e-3)
  close(batch.returns, expected + values, 1e-3)
  assert set(outcome('ppo_adaptive_kl', *plain).sums) == {'policy', 'value'}
  # It was 0.5 in this step, and the KL moves it for the next one.
  kl = d.sum() / batch.mask.sum()
  close([metrics['control/kl'], metrics['kl']], [0.5, kl])
  factor = 1 + np.clip(kl / 0.1 - 1, -0.2, 0.2) / 40
  close(after.control['kl']['value'], 0.5 * factor, 1e-5)
  assert abs(factor - 1) > 1e-3


# ---- Controllers.


@pytest.mark.parametrize(
  'recipe, what, first, second',
  [
    ('chord_mu', 'sft', 0.9, 0.05 + 0.85 * (1 + np.cos(np.pi / 200)) / 2),
    ('grpo_d', 'kl', 0.07, 0.07 - 0.03 / 60),
    # The update that only looks measures an entropy of 0.1.
    ('adaptive_entropy', 'entropy', 0.0, 0.005),
    ('aepo', 'explore', 1.2, 1.2),
  ],
)
def test_a_step_has_the_value_from_before_it(recipe, what, first, second):
  state, after, _, metrics = learnt(recipe)
  controller = objective.make_controllers(run_of(recipe).config)[what]
  assert set(state.control) == set(after.control) == {what}
  close(controller.value(state.control[what]), first, 1e-6)
  close(metrics[f'control/{what}'], first, 1e-6)
  close(controller.value(after.control[what]), second, 1e-6)


def test_cold_answers_follow_an_entropy_above_the_target():
  after = learnt('aepo', ('explore_controller.target', '0.05'))[1]
  close(after.control['explore']['value'], 0.8)


def test_coefficients_of_terms_are_those_in_the_state():
  for recipe, what, sign in (
    ('grpo_d', 'kl', 1.0), ('adaptive_entropy', 'entropy', -1.0)
  ):  # fmt: skip
    run, state = run_of(recipe), learnt(recipe)[0]
    goal = objective.make_objective(run.config, run.models, vocab.EOS)
    assert list(goal.coefs) == ['policy', what]
    control = {what: {**state.control[what], 'value': jnp.float32(0.25)}}
    close(goal.coef(state.replace(control=control), what), sign * 0.25)
    assert goal.coef(state, 'policy') == 1.0


# ---- Exploring answers.


def give_away(*_):
  """A `make_learn` whose step returns what it is given."""

  def learn(state, lived, key):
    prompts = lived.prompts, lived.prompt_mask
    return state, {'prompts': prompts, 'own': lived.samples, **lived.guests}

  return learn


def test_the_controller_sets_the_temperature_of_exploring_answers(monkeypatch):
  monkeypatch.setattr(rl_step, 'make_learn', give_away)
  run = run_of.__wrapped__('aepo', ('decoder.temperature', '0.7'))
  params = params_of(run.model)
  state = run.init({'policy': params})
  step = quick_jit(run.step)
  drawn = {}
  for temperature in (0.01, 2.5):
    control = {'explore': {'value': jnp.float32(temperature)}}
    _, found = step(state.replace(control=control), jax.random.key(1))
    samples, rewards = found['explore']
    assert samples.completion.shape == (PROBLEMS, 2, WIDTH)
    assert rewards.shape == (PROBLEMS, 2)
    for answers_, at in ((samples, temperature), (found['own'], 0.7)):
      batch = rollout.assemble_groups(*found['prompts'], answers_)
      _, logits = forward(run.model)(params, batch.tokens)
      chances = np.asarray(jax.nn.log_softmax(logits[:, :-1] / at))
      taken = batch.tokens[:, 1:, None]
      taken = np.take_along_axis(chances, taken, -1)[..., 0]
      close(batch.old_logps[:, 1:], taken * batch.mask[:, 1:], 2e-4)
    drawn[temperature] = np.asarray(samples.completion)
  # The same key and the same problems; only cold answers are all alike.
  assert (drawn[0.01][:, 0] == drawn[0.01][:, 1]).all()
  assert (drawn[2.5][:, 0] != drawn[2.5][:, 1]).any()


# ---- Demonstrations.


@dataclasses.dataclass(frozen=True)
class Oracle:
  """Answers of as many random tokens as the problem says, in a buffer of 5."""

  def solve(self, example, key):
    tokens = jax.random.randint(key, (5,), 4, 60)
    return Text(tokens, example.answer['length'])


def problems_of(lengths, ids):
  count = len(lengths)
  return Example(
    prompt=jnp.zeros((count, 1), jnp.int32),
    prompt_mask=jnp.ones((count, 1)),
    prompt_id=jnp.array(ids, jnp.uint32),
    answer={'length': jnp.array(lengths)},
  )


def test_demonstrations_that_are_too_long_are_left_out():
  make = lambda lengths, ids, width: guests.demonstrations(
    Oracle(), problems_of(lengths, ids), jax.random.key(0), 2, width, vocab.PAD
  )
  cut = make([2, 3, 4], [0, 1, 2], 3)
  assert cut.completion.shape == (3, 2, 3)
  real = np.arange(3) < np.array([2, 3, 0])[:, None, None]
  np.testing.assert_array_equal(cut.mask, np.broadcast_to(real, (3, 2, 3)))
  np.testing.assert_array_equal(cut.finished, [[1, 1], [1, 1], [0, 0]])
  np.testing.assert_array_equal(cut.logps, 0.0)
  # A wider buffer is padded, and the tokens are the same.
  wide = make([2, 3, 4], [0, 1, 2], 7)
  assert wide.completion.shape == (3, 2, 7)
  np.testing.assert_array_equal(wide.completion[:, :, :3], cut.completion)
  np.testing.assert_array_equal(wide.completion[:, :, 5:], vocab.PAD)
  np.testing.assert_array_equal(wide.mask[2, 0], [1, 1, 1, 1, 0, 0, 0])
  # Two demonstrations of a problem differ, and belong to it, not to a row.
  assert (wide.completion[:, 0] != wide.completion[:, 1]).any()
  moved = make([4, 2, 3], [2, 0, 1], 7)
  np.testing.assert_array_equal(moved.completion[0], wide.completion[2])
  np.testing.assert_array_equal(moved.completion[1], wide.completion[0])


# ---- CARFT.


def embedding(model, params, batch):
  """[R, D] mean of states at counted tokens by the softmax of their values."""
  hidden, _ = forward(model)(params, batch.tokens)
  hidden = np.asarray(hidden, np.float64)
  head = jax.tree.map(np.asarray, params['value_head'])
  out = []
  for states, mask in zip(hidden, np.asarray(batch.mask)):
    at = states[mask > 0]
    weight = np.exp(at @ head['kernel'] + head['bias'])
    out.append(weight @ at / weight.sum())
  return np.array(out)


def test_carft_by_hand():
  run = run_of('carft')
  state, _, batch, _ = learnt('carft')
  demos = rollout.assemble_groups(PROMPTS, PROMPT_MASK, answers(2, 1))
  anchors = embedding(run.model, state.params, demos)
  anchors = np.repeat(anchors, GROUP, axis=0)
  close(batch.extras['anchors'], anchors, 1e-3)
  np.testing.assert_array_equal(batch.extras['correct'], OWN.reshape(-1))
  # The policy has moved since: rollouts are embedded by the one in training.
  trained = params_of(run.model, 4)
  positives = embedding(run.model, trained, batch)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  cosine = unit(anchors) @ unit(positives).T
  own = np.minimum(np.diag(cosine), 0.9)
  loss = np.log(np.exp(cosine / 0.2).sum(axis=1)) - own / 0.2
  goal = objective.make_objective(run.config, run.models, vocab.EOS)
  sums, _ = quick_jit(goal.evaluate)(trained, state, batch)
  close(sums['contrastive'], (loss * OWN.reshape(-1)).sum(), 1e-3)
  assert goal.count(batch)['contrastive'] == OWN.sum()
  coefs = {name: float(goal.coef(state, name)) for name in sums}
  assert coefs == {'policy': 1.0, 'value': 5.0, 'contrastive': 0.1}
  # A KL in the reward, and no rows beside the group.
  assert 'kl' not in sums and len(batch.mask) == OWN.size


def test_another_problems_annotation():
  of = lambda *keys: learnt('carft', *keys)[2].extras['anchors']
  own, other = of(), of(('contrastive.annotation', 'another'))
  by_problem = lambda x: np.asarray(x).reshape(PROBLEMS, GROUP, -1)
  close(by_problem(other), np.roll(by_problem(own), -1, axis=0))
  assert PROBLEMS > 1 and np.abs(other - own).max() > 1e-3
