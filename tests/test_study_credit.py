"""Parts of the study of credit for steps, by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from test_token_rewards import padded, samples_of

from experiments.credit import design, pilot, probe, run, shown
from posttrain_jax import lab
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab

FULL = design.SCALES['full']
SAID = ['15,12,>27$', '7$', '15,12,3', '>8$']


def drawn():
  return samples_of([[text] for text in SAID], 10)


@pytest.mark.parametrize(
  'budget, within',
  [
    (0, [0, 0, 0, 1]),
    (1, [0, 1, 0, 1]),
    (5, [0, 1, 0, 1]),
    (6, [1, 1, 0, 1]),  # the mark is no token of the thought
    (9, [1, 1, 0, 1]),
  ],
)
def test_thoughts_that_end_within_a_budget(budget, within):
  found = probe.within(drawn(), jnp.int32(budget))
  np.testing.assert_array_equal(found, np.array(within, bool))


def test_what_a_cut_thought_is_answered_after():
  tokens, mask = padded(['12+15=', '3+4=', '9+9=', '4+4='], 7)
  examples = SimpleNamespace(prompt=tokens, prompt_mask=mask)

  def texts(budget):
    rows, real = probe.forced_prompts(examples, drawn(), jnp.int32(budget), 6)
    assert rows.shape == (4, 7 + 6 + 1)
    return [vocab.decode(*row) for row in zip(rows, real)]

  assert texts(0) == ['12+15=>', '3+4=>', '9+9=>', '4+4=>']
  assert texts(4)[0] == '12+15=15,1>' and texts(4)[2] == '9+9=15,1>'
  assert texts(6)[0] == '12+15=15,12,>'


def test_a_curve_is_averaged_over_the_steps_before():
  curve = np.arange(8.0)[None] ** 2
  found = shown.smooth(curve)[0]
  np.testing.assert_allclose(found[:2], [0.0, 0.5])
  np.testing.assert_allclose(found[7], np.mean(curve[0, 3:8]))


@pytest.mark.parametrize('program', design.PROGRAMS)
def test_arms_of_a_program_differ_in_numbers_that_it_has(program):
  config = run.arm_config(program, FULL)
  known = config_lib.flatten(config.to_dict())
  arms = [arm for arm, way in design.WAYS.items() if way.program == program]
  told = [design.WAYS[arm].hparams for arm in arms]
  assert told and len(set(told)) == len(told)
  assert len({frozenset(dict(x)) for x in told}) == 1
  assert dict(told[0]).keys() <= known.keys()
  # No arm's demonstrations forget or stop early; all have as many own answers.
  assert config.task.slips == config.task.cut == 0.0
  if config.paradigm == 'rl':
    assert config.prompts_per_step * config.group_size == 128


def test_the_controls_differ_in_one_key():
  flat = lambda x: config_lib.flatten(run.arm_config(x, FULL).to_dict())
  own, other, none = (flat(x) for x in ('carft', 'carft_other', 'ppo'))
  differ = {key for key in own if own[key] != other[key]}
  assert differ == {'contrastive.annotation'} and own.keys() == other.keys()
  differ = {key for key in none if none[key] != own.get(key)}
  assert differ <= {'contrastive.name', 'contrastive.coef', 'demos_per_prompt'}
  grpo, mrt, short = (flat(x) for x in ('grpo', 'mrt', 'short'))
  differ = {key for key in grpo if grpo[key] != mrt.get(key)}
  assert differ == {'token_rewards.name'}
  assert {key for key in grpo if grpo[key] != short[key]} == {'rewards'}


def test_the_pilot_trains_all_arms_of_claims():
  asked = {x for claim in design.CLAIMS for x in (claim.arm, claim.against)}
  assert len(pilot.ARMS) == len(asked) and set(pilot.ARMS) == asked


@pytest.mark.parametrize('critic', ['', 'segments'])
def test_every_seed_has_a_start_of_its_own(monkeypatch, critic):
  """One base, and one critic after it, that tuning and run share."""
  asked = []
  monkeypatch.setattr(
    lab, 'shared', lambda runs, made, rows: asked.append((made, rows))
  )

  def beside(seeds):
    train = lambda name, config, start=None, hparams=None: (name, start, seeds)
    return SimpleNamespace(seeds=seeds, train=train)

  for seeds in ((100, 101) * 4, range(8)):
    run.start_of(SimpleNamespace(seeds=seeds, beside=beside), FULL, critic)
  (trained, tuning), (again, rows) = asked
  base = ('base', None, FULL.base_seeds)
  assert trained == (('critic', base, FULL.base_seeds) if critic else base)
  assert trained == again and FULL.base_seeds == (100, 101, *range(8))
  assert tuning == [0, 1] * 4 and rows == list(range(2, 10))


def test_critics_are_those_of_the_arms_that_have_one():
  """All PPO arms have one, of the rewards that they earn, and no other does."""
  for arm, way in design.WAYS.items():
    config = run.arm_config(way.program, FULL)
    has = config.paradigm == 'rl' and config.advantage.name == 'gae'
    assert bool(way.critic) == has, arm
    if has:
      other = design.WAYS[way.critic]
      assert other.hparams == way.hparams
      learns = run.critic_config(other.program, FULL)
      assert learns.token_rewards == config.token_rewards
      assert learns.num_steps == FULL.critic_steps
