"""Two models, one of which reads the other's answer, and what they share."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe_runs
from test_lab import tiny
from test_tasks import quick_jit

from posttrain_jax import lab, tasks
from posttrain_jax.core.types import Rollout, TrainState
from posttrain_jax.run import accounting, build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.second_tries import Seen
from posttrain_jax.trainers.rl import checks, partner

ADDITION = tasks.make('addition', num_digits=1)
TASK = Seen(ADDITION, plain=1.0, feedback='none')
PROBLEMS, GROUP = 3, 2
RECIPES = {'pioneer': 'cory', 'observer': 'cory_observer'}


def written(texts, size):
  """Answers [B, G] as a Rollout; each is one character and its end."""
  grid = np.array(texts)
  tokens = np.full((*grid.shape, size), vocab.PAD, np.int32)
  tokens[..., 0] = np.vectorize(vocab.token)(grid)
  tokens[..., 1] = vocab.EOS
  mask = (tokens != vocab.PAD).astype(np.float32)
  return Rollout(
    jnp.asarray(tokens), jnp.asarray(mask), jnp.zeros(mask.shape),
    jnp.ones(grid.shape),
  )  # fmt: skip


class World:
  """A partner that answers what it is told to, and keeps what it read."""

  def __init__(self, place, says):
    self.says = np.array(says).reshape(-1, 1)
    config = recipe_runs.load('rl', RECIPES[place])
    self.partner = partner.make(config, TASK, self.make)

  def make(self, by, beside):
    assert (by, beside) == ('partner', 1)
    return self.generate

  def generate(self, params, prompts, mask, ids, key):
    del key
    assert params is THEIRS
    self.asked = prompts, mask, ids
    return written(self.says, TASK.completion_length)

  def call(self, function, *given):
    """(what a function of the partner gives, texts of the prompts that its
    model read, their identities), compiled."""
    state = TrainState(jnp.int32(0), {}, {}, others={'partner': THEIRS})
    self.asked = None

    @quick_jit
    def run(*given):
      found = function(state, *given, judge, jax.random.key(1))
      return found, self.asked

    found, asked = run(*given)
    if asked is None:
      return found, [], None
    return found, texts(*asked[:2]), np.asarray(asked[2])


THEIRS = {}


def judge(state, examples, samples):
  del state
  over = jax.vmap(TASK.verify, (None, 0, 0))
  return jax.vmap(over)(examples, samples.completion, samples.mask)


def texts(prompts, mask):
  return [vocab.decode(*row) for row in zip(prompts, mask)]


@functools.cache
def problems():
  """Sums of one digit whose answers have one digit, too: examples, texts of
  their prompts, their right answers and wrong ones."""
  keys = jax.random.split(jax.random.key(0), 64)
  examples = quick_jit(jax.vmap(TASK.sample))(keys)
  terms = np.asarray(examples.answer['inner']['terms'])
  few = np.flatnonzero(terms.sum(axis=1) < 10)[:PROBLEMS]
  examples = jax.tree.map(lambda x: x[few], examples)
  examples = examples.replace(prompt_id=jnp.arange(PROBLEMS, dtype=jnp.uint32))
  right = [str(a + b) for a, b in terms[few]]
  wrong = [str((int(x) + 1) % 10) for x in right]
  return examples, [f'{a}+{b}=' for a, b in terms[few]], right, wrong


def test_the_observer_reads_each_answer_of_the_pioneer():
  examples, bare, right, wrong = problems()
  own = written(list(zip(right, wrong)), TASK.completion_length)
  # The partner is right behind the first answers, and wrong behind the second.
  world = World('pioneer', list(zip(right, wrong)))
  (plain, judged, first), read, _ = world.call(world.partner.before, examples)
  assert first.earned is None and not read
  jax.tree.map(np.testing.assert_array_equal, judged, plain)
  assert texts(plain.prompt, plain.prompt_mask) == bare
  found, read, ids = world.call(world.partner.after, plain, own)
  answers = [x for pair in zip(right, wrong) for x in pair]
  assert read == [
    f'{prompt}{answer}|'
    for prompt, answer in zip(np.repeat(bare, GROUP), answers)
  ]
  assert len(set(ids)) == PROBLEMS * GROUP
  np.testing.assert_array_equal(found.earned, [[1, 0]] * PROBLEMS)
  assert found.spent['num_verified'] == PROBLEMS * GROUP
  assert found.spent['num_generated'] == 2 * PROBLEMS * GROUP


def test_the_observer_answers_behind_one_answer_of_the_pioneer():
  examples, bare, right, wrong = problems()
  shown = [right[0], wrong[1], right[2]]
  world = World('observer', shown)
  (seen, judged, first), read, ids = world.call(world.partner.before, examples)
  assert read == bare
  # Its answers are judged as those of the first: to the problem alone.
  assert texts(judged.prompt, judged.prompt_mask) == bare
  assert texts(seen.prompt, seen.prompt_mask) == [
    f'{prompt}{answer}|' for prompt, answer in zip(bare, shown)
  ]
  np.testing.assert_array_equal(first.earned, [[1], [0], [1]])
  # It is the same problem, told apart from others as before.
  np.testing.assert_array_equal(seen.prompt_id, ids)
  own = written([[x, x] for x in right], TASK.completion_length)
  found = quick_jit(lambda *x: judge(None, *x))(judged, own)
  np.testing.assert_array_equal(found['reward'], np.ones((PROBLEMS, GROUP)))
  both = partner.shared(found, first.earned)
  np.testing.assert_array_equal(both['reward'], [[2, 2], [1, 1], [2, 2]])
  np.testing.assert_array_equal(both['own'], found['reward'])
  np.testing.assert_array_equal(both['verified'], found['reward'])
  after, read, _ = world.call(world.partner.after, seen, own)
  assert after.earned is None and not after.spent and not read


@pytest.mark.parametrize('label', ['own', 'partner'])
def test_labels_of_the_two_shares_are_taken(label):
  rewards = str([{'name': 'verifier', 'label': label}])
  with pytest.raises(ValueError, match=f'rewards/{label} is the share'):
    build.build(recipe_runs.load('rl', 'cory', ('rewards', rewards)))


@pytest.mark.long
@pytest.mark.parametrize('place', RECIPES)
def test_a_step_rewards_the_sum(place):
  run = build.build(
    recipe_runs.load(
      'rl', RECIPES[place], ('prompts_per_step', '8'), ('group_size', '4')
    )
  )
  start = recipe_runs.start_of(run)
  state, metrics = quick_jit(run.step)(run.init(start), jax.random.key(0))
  # Without a path the partner is a copy of the start, and stays it.
  jax.tree.map(
    np.testing.assert_array_equal, state.others['partner'], start['policy']
  )
  own = metrics['rewards/own/mean']
  theirs = metrics['rewards/partner/mean']
  np.testing.assert_allclose(metrics['reward'], own + theirs, rtol=1e-5)
  assert own > 0 or theirs > 0
  answers = {'pioneer': 32 + 32, 'observer': 32 + 8}[place]
  assert metrics['num_verified'] == answers
  assert metrics['num_generated'] >= answers


def test_what_the_partner_writes_is_counted():
  def cost(*items):
    c = recipe_runs.load('rl', 'cory', ('prompts_per_step', '8'), *items)
    run = build.build(c)
    row = accounting.forward_flops(run.model, 1, run.sizes.row_tokens)
    return accounting.step_flops(c, run.model, run.sizes, run.models) / row

  alone = cost(('partner.place', 'none'))
  assert cost() - alone == pytest.approx(8 * 8)
  assert cost(('partner.place', 'observer')) - alone == pytest.approx(8)


@pytest.mark.parametrize(
  'recipe, items, message',
  [
    ('ppo', [('partner.place', 'pioneer')],
     'needs a model others.partner: give --config.others.partner='),
    ('cory', [('condition.name', 'none')],
     'take condition.name="seen_answer", not "none"'),
    ('cory', [('condition.feedback', 'truth')],
     'condition.feedback="truth" would tell the observer the answer'),
    ('cory', [('advantage.name', 'remax')], 'advantage.name="remax" judges'),
    ('cory', [('demos_per_prompt', '1'), ('sft_loss.coef', '0.1')],
     'and demos_per_prompt judges others'),
  ],
)  # fmt: skip
def test_what_cannot_work_is_refused(recipe, items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    checks.check(recipe_runs.load('rl', recipe, *items))


@pytest.mark.slow
def test_two_models_train_in_turns_and_change_places(tmp_path):
  runs = lab.Lab(tmp_path, range(2), brief=True)
  base = runs.train('base', tiny(), hparams={'optimizer.lr': 1e-2})
  config = lambda recipe: config_lib.load(
    f'configs/rl.py:recipe={recipe},smoke',
    [*recipe_runs.TINY, ('model.preset', 'depth-1')],
  )
  stages = [
    lab.Train(
      place, config(recipe), roles={'partner': other, 'ref': 'base'}
    )
    for (place, recipe), other in zip(
      RECIPES.items(), ('observer', 'pioneer')
    )
  ] + [lab.Swap('pioneer', 'observer')]  # fmt: skip
  start = lab.Carry({'pioneer': base, 'observer': base, 'base': base})
  first, second = lab.rounds(runs, stages, 2, start)
  names = lambda carry: [carry.models[x].name for x in RECIPES]
  assert names(first) == ['observer-1', 'pioneer-1']
  # The second round trained each in the other's place.
  assert names(second) == ['observer-2', 'pioneer-2']
  assert second.models['pioneer'].digest != first.models['observer'].digest
