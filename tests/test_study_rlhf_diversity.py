"""Digit sums, and PPO on a learned reward beside the library's own step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from configs import rl
from experiments.rlhf_diversity import learned_reward
from posttrain_jax import build, tasks
from posttrain_jax.models import transformer
from posttrain_jax.tasks import vocab
from posttrain_jax.types import Example

KNOBS = dict(name='digit_sums', min_count=2, max_count=3, max_digit=5)


def by_hand():
  """'314>8:': three digits from 1 to 4 that add up to 8."""
  answer = {'count': 3, 'low': 1, 'high': 4, 'target': 8}
  answer = jax.tree.map(jnp.int32, answer)
  answer['digits'] = jnp.array([1, 4, 3])
  prompt = jnp.asarray(vocab.encode('314>8:'))
  return Example(prompt, jnp.ones(6), jnp.uint32(0), answer)


@pytest.mark.parametrize(
  'text, reward, fair',
  [
    ('143', 1, 1),
    ('224', 1, 1),
    ('341', 1, 1),
    ('144', 0, 1),  # 9
    ('44', 0, 0),  # two digits
    ('1133', 0, 0),
    ('053', 0, 0),  # 0 and 5 are out of bounds
    ('1+3', 0, 0),
    ('', 0, 0),
  ],
)
def test_any_right_answer_counts(text, reward, fair):
  tokens = np.full(6, vocab.PAD)
  tokens[: len(text)] = vocab.encode(text) if text else []
  tokens[len(text)] = vocab.EOS
  mask = jnp.arange(6) <= len(text)
  verdict = tasks.make('digit_sums').verify(
    by_hand(), jnp.asarray(tokens), mask.astype(jnp.float32)
  )
  assert verdict['reward'] == reward and verdict['format'] == fair


def test_problems_and_oracle():
  task = tasks.make('digit_sums', min_count=2, max_count=4, min_digit=3)

  def one(key):
    example = task.sample(key)
    text = task.solve(example, key)
    verdict = task.verify(example, text.tokens, text.mask)
    return example, text, verdict['reward']

  keys = jax.random.split(jax.random.key(0), 64)
  example, text, reward = quick_jit(jax.vmap(one))(keys)
  assert (reward == 1).all()
  for i in range(64):
    prompt = vocab.decode(example.prompt[i], example.prompt_mask[i])
    count, low, high = (int(x) for x in prompt[:3])
    said = vocab.decode(text.tokens[i], text.mask[i])[:count]
    assert prompt[3:] == f'>{sum(int(x) for x in said)}:'
    assert 2 <= count <= 4 and 3 <= low < high <= 9
    assert all(low <= int(x) <= high for x in said)
  assert set(np.asarray(example.answer['count'])) == {2, 3, 4}


def test_a_slip_is_one_wrong_digit_in_bounds():
  task = tasks.make('digit_sums', max_digit=4, slips=0.5)

  def one(key):
    example = task.sample(key)
    text = task.solve(example, key)
    off = text.tokens[:5] - vocab.ZERO != example.answer['digits']
    off = jnp.sum(off & (jnp.arange(5) < example.answer['count']))
    return off, task.verify(example, text.tokens, text.mask)

  off, verdict = quick_jit(jax.vmap(one))(
    jax.random.split(jax.random.key(0), 256)
  )
  assert (verdict['format'] == 1).all()
  np.testing.assert_array_equal(off, 1 - verdict['reward'])
  assert 0.4 < off.mean() < 0.6


@pytest.mark.parametrize(
  'knobs', [{'max_count': 10}, {'min_digit': 9}, {'slips': 1.5}]
)
def test_knobs(knobs):
  with pytest.raises(ValueError, match=next(iter(knobs))):
    tasks.make('digit_sums', **knobs)


@pytest.fixture(scope='module')
def run():
  config = rl.get_config('recipe=ppo,task=digit_sums')
  config.task.update(KNOBS)
  config.update(prompts_per_step=4, group_size=2)
  config.kl.update(name='kl_k1', coef=0.1, place='reward')
  config.model.preset = 'depth-1'
  config.others = {'reward': ''}
  return build.build(config)


def started(run):
  """A state whose reward model has a head of ones."""
  params = transformer.init(jax.random.key(1), run.model)
  head = jax.tree.map(jnp.ones_like, params['value_head'])
  return run.init({'policy': params, 'reward': {**params, 'value_head': head}})


def test_step_is_the_library_s(run):
  """With the verifier as the judge it is `build`'s own step."""
  state, key = started(run), jax.random.key(2)
  own = learned_reward.make_step(run, lambda state: run.task.verify)
  # In one program, which compiles what is the same in both once.
  steps = lambda state, key: [f(state, key)[0].params for f in (own, run.step)]
  ours, theirs = quick_jit(steps)(state, key)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_reward_is_the_model_s_score(run):
  state, example = started(run), by_hand()
  head = {'kernel': jnp.zeros_like, 'bias': lambda x: x * 0 + 3.0}
  params = state.others['reward']
  flat = {k: head[k](x) for k, x in params['value_head'].items()}
  tokens = jnp.asarray(vocab.encode('143'))
  said = lambda params, mask: learned_reward.score(
    params, run.model, example, tokens, mask
  )
  three = {**params, 'value_head': flat}
  assert said(three, jnp.ones(3)) == pytest.approx(3.0)
  # What comes after the end is not read.
  cut = said(params, jnp.array([1.0, 1.0, 0.0]))
  assert cut != pytest.approx(float(said(params, jnp.ones(3))))
  _, metrics = jax.eval_shape(
    learned_reward.make_step(run), state, jax.random.key(2)
  )
  assert learned_reward.LOGGED in metrics


def test_a_stage_on_the_verifier_is_refused(run):
  @dataclasses.dataclass
  class Stage:
    name: str
    curves: dict

  stage = Stage('ppo', {'rewards/verified/mean': None})
  assert learned_reward.used(stage) is stage
  with pytest.raises(RuntimeError, match='verifier'):
    learned_reward.used(Stage('ppo', {}))
