"""Whole steps of hybrids: what is drawn, told, held, read and remembered."""

import shutil

import jax
import jax.numpy as jnp
import kill_runs
import numpy as np
import pytest
import recipe_runs
from test_rl_hybrid import params_of
from test_tasks import quick_jit

from posttrain_jax.run import build, checkpoint, loop
from posttrain_jax.tasks import vocab
from posttrain_jax.trainers.rl import refined
from posttrain_jax.trainers.rl import step as rl_step

SIZES = [
  ('model.preset', 'depth-1'), ('prompts_per_step', '4'),
  ('group_size', '3'), ('optimizer.lr', '1e-2'),
]  # fmt: skip
NAMES = (
  'visurf',
  'relift',
  'sasr',
  'amft',
  'uft',
  'critique_grpo',
  'acereason',
)
MORE = {
  'relift': [('hard_buffer.rows', '3')],
  'amft': [('valid_per_step', '2')],
  'uft': [('hints.coef', '1.0')],
}


def config_of(name, *items):
  items = [*SIZES, *MORE.get(name, []), *items]
  return recipe_runs.load('rl', name, *items)


def run_of(name, *items):
  return build.build(config_of(name, *items))


def give_away(*_):
  """A `make_learn` whose step returns what it has lived through."""

  def learn(state, lived, key):
    fine = {'loss': jnp.float32(0), 'grad_norm': jnp.float32(0)}
    return state, {**fine, 'lived': lived}

  return learn


def lived_of(monkeypatch, name, *items, **control):
  """(run, what a step lived through) with controllers' values as given."""
  monkeypatch.setattr(rl_step, 'make_learn', give_away)
  run = run_of(name, *items)
  start = params_of(run.model)
  held = {'ref': start} if 'ref' in run.models else {}
  state = run.init({'policy': start, **held})
  for what, value in control.items():
    own = {**state.control[what], 'value': jnp.float32(value)}
    state = state.replace(control={**state.control, what: own})
  _, found = quick_jit(run.step)(state, jax.random.key(5))
  return run, found.pop('lived'), found


# ---- What is drawn.


def test_all_answers_of_a_problem_begin_as_they_are_told(monkeypatch):
  task = ('task.num_digits', '3')
  _, lived, seen = lived_of(monkeypatch, 'uft', task, hints=0.7)
  samples, given = lived.samples, np.asarray(lived.samples.given)
  length = given.sum(axis=-1)
  assert np.all(length == length[:, :1]) and len(set(length[:, 0])) > 1
  np.testing.assert_allclose(seen['hints/mean_length'], length[:, 0].mean())
  for b, size in enumerate(length[:, 0].astype(int)):
    prompt = vocab.decode(lived.prompts[b], lived.prompt_mask[b])
    first, second = prompt.rstrip('=').split('+')
    truth = str(int(first) + int(second))
    assert size <= len(truth)
    for g in range(3):
      row = samples.completion[b, g, :size]
      assert vocab.decode(row) == truth[:size]
      assert np.all(given[b, g, :size] == 1) and np.all(
        np.asarray(samples.logps[b, g, :size]) == 0
      )
  told = np.sum(length[:, 0] > 0)
  assert seen['num_demonstrations'] == told
  written = (np.asarray(samples.mask) * (1 - given)).sum()
  assert seen['num_generated'] == written


@pytest.mark.long
def test_without_a_chance_nothing_is_told(monkeypatch):
  _, lived, seen = lived_of(monkeypatch, 'uft', hints=0.0)
  assert not np.any(lived.samples.given)
  assert seen['num_demonstrations'] == 0


@pytest.mark.long
def test_the_controller_sets_the_temperature_of_the_group(monkeypatch):
  _, cold, _ = lived_of(monkeypatch, 'acereason', temperature=0.01)
  _, hot, _ = lived_of(monkeypatch, 'acereason', temperature=2.0)
  rows = np.asarray(cold.samples.completion)
  assert np.all(rows == rows[:, :1])
  assert np.any(np.asarray(hot.samples.completion) != rows)


@pytest.mark.long
def test_a_second_answer_stands_behind_the_plain_prompt(monkeypatch):
  _, lived, seen = lived_of(monkeypatch, 'critique_grpo')
  guest, rewards = lived.guests['expert']
  assert guest.completion.shape == (4, 1, lived.samples.mask.shape[-1])
  assert rewards.shape == (4, 1)
  # Three first answers to each problem, as many second ones, all judged.
  assert seen['num_verified'] == 24 and seen['num_demonstrations'] == 0
  assert seen['num_generated'] > lived.samples.num_generated()


@pytest.mark.long
def test_second_answers_are_to_what_was_said(monkeypatch):
  """The policy is asked with the answer and its mark behind the prompt."""
  asked = {}
  make = refined.make_refine

  def listening(config, task, generate, width, pad_id):
    def heard(params, prompts, mask, ids, key):
      asked['prompts'], asked['mask'], asked['ids'] = prompts, mask, ids
      return generate(params, prompts, mask, ids, key)

    return make(config, task, heard, width, pad_id)

  monkeypatch.setattr(refined, 'make_refine', listening)
  monkeypatch.setattr(rl_step, 'make_learn', give_away)
  run = run_of('critique_grpo', ('refine.feedback', 'truth'))
  state = run.init({'policy': params_of(run.model)})

  def step(state, key):
    _, found = run.step(state, key)
    return found['lived'], asked['prompts'], asked['mask'], asked['ids']

  lived, prompts, mask, ids = quick_jit(step)(state, jax.random.key(5))
  assert len(set(np.asarray(ids).tolist())) == 12
  samples, row = lived.samples, 0
  for b in range(4):
    plain = vocab.decode(lived.prompts[b], lived.prompt_mask[b])
    first, second = plain.rstrip('=').split('+')
    truth = str(int(first) + int(second))
    for g in range(3):
      own = vocab.decode(samples.completion[b, g], samples.mask[b, g])
      own = own.split('<eos>')[0]
      mark = '%' if lived.rewards[b, g] > 0.5 else '?'
      found = vocab.decode(prompts[row], mask[row])
      assert found == f'{plain}{own}{mark}{truth}|'
      row += 1


# ---- What is learnt and remembered.


def trained(run, seed, steps=4):
  """(state, metrics [steps]) of a run from parameters of its seed."""
  start = build.transformer.init(jax.random.key(1), run.model)
  held = {'ref': start} if 'ref' in run.models else {}
  state = run.init({'policy': start, **held})
  keys = jax.random.split(jax.random.fold_in(jax.random.key(2), seed), steps)
  return jax.lax.scan(run.step, state, keys)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_seeds_run_side_by_side(name):
  """Each as it runs alone: its coin, its buffer, its temperature."""
  run = run_of(name)
  seeds = jnp.arange(3)
  both = jax.jit(jax.vmap(lambda seed: trained(run, seed)))(seeds)
  alone = jax.jit(lambda seed: trained(run, seed))(seeds[1])
  mine = jax.tree.map(lambda x: x[1], both)
  compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
  jax.tree.map(compare, mine[0].params, alone[0].params)
  for what, x in alone[0].control.items():
    if what != 'hard':
      jax.tree.map(compare, mine[0].control[what], x)
  assert np.all(np.isfinite(jax.tree.leaves(alone[0].params)[0]))
  if name == 'sasr':  # each seed has a coin of its own
    coins = np.asarray(both[1]['control/coin'])
    np.testing.assert_array_equal(coins[:, 0], 1.0)


@pytest.mark.long
def test_what_is_held_is_learnt_once_there_is_enough_of_it():
  run = run_of('relift')
  state, seen = jax.jit(lambda: trained(run, 0, 6))()
  # A fresh policy solves nothing: four problems a step, three an update.
  np.testing.assert_array_equal(seen['hard/frac_problems'], 1.0)
  np.testing.assert_array_equal(seen['num_demonstrations'], 3.0)
  np.testing.assert_array_equal(seen['hard/held'], [1, 2, 3, 4, 4, 4])
  # It has room for seven: from the fifth step on some of them find none.
  np.testing.assert_array_equal(seen['hard/lost'], [0, 0, 0, 0, 1, 1])
  assert np.all(seen['hard/nll'] > 0) and np.all(seen['hard/tokens'] > 0)
  assert seen['hard/nll'][-1] < seen['hard/nll'][0]
  assert np.all(seen['hard/grad_norm'] > 0)
  # The second optimizer has made as many updates, of its own.
  held = state.control['hard']['opt_state']
  assert jax.tree.structure(held) == jax.tree.structure(state.opt_state)
  moments = zip(jax.tree.leaves(held), jax.tree.leaves(state.opt_state))
  assert any(np.any(a != b) for a, b in moments)
  assert state.step == 6


@pytest.mark.long
def test_the_coin_makes_a_step_one_or_the_other():
  items = ('sft_controller.warmup', '0.0'), ('num_steps', '8')
  run = run_of('sasr', *items)
  _, seen = jax.jit(lambda: trained(run, 0, 8))()
  coin, chance = seen['control/coin'], seen['control/sft']
  assert coin[0] == 1 and set(coin.tolist()) == {0.0, 1.0}
  norm = seen['grad_norm/sft']
  np.testing.assert_allclose(chance[1:], norm[:-1] / (norm[:-1] + norm[0]),
                             rtol=1e-5)  # fmt: skip
  loss = np.where(coin == 1, seen['loss/sft'],
                  seen['loss/policy'] + 0.04 * seen['loss/kl'])  # fmt: skip
  np.testing.assert_allclose(seen['loss'], loss, rtol=1e-4, atol=1e-6)
  # The gradient that is made of parts is that of the one that is chosen.
  np.testing.assert_allclose(
    seen['grad_norm'][coin == 1], norm[coin == 1], rtol=1e-4
  )
  rest = seen['grad_norm/sft'][coin == 0]
  assert np.all(np.abs(seen['grad_norm'][coin == 0] - rest) > 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_what_is_remembered_is_resumed_to_the_bit(name, tmp_path):
  """Held demonstrations, norms of gradients, moments of a second optimizer."""
  more = [('sft_controller.warmup', '0.0')] if name == 'sasr' else []
  config = config_of(
    name, *more, ('num_steps', '5'), ('steps_per_call', '1'),
    ('checkpoint.every', '2'), ('checkpoint.keep', '9'),
    ('log.tensorboard', 'false'),
  )  # fmt: skip
  _, straight, _ = loop.train(config, tmp_path)
  seen = kill_runs.numbers(tmp_path)[0]
  # As if it had been killed in the third step.
  for step in (4, 5):
    shutil.rmtree(tmp_path / checkpoint.FOLDER / str(step))
  _, resumed, _ = loop.train(config, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)
  assert kill_runs.numbers(tmp_path)[0] == seen
  assert [row['step'] for row in seen] == [1, 2, 3, 4, 5]
  if name == 'relift':  # one stood in it, beside the three that were learnt
    assert seen[1]['hard/held'] == 2
  if name == 'sasr':  # what a chance is made of came before the kill
    assert 0 < seen[2]['control/sft'] < 1
