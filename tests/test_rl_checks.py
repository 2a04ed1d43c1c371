"""Every RL config that cannot work is refused, with the key and the way out."""

import re

import jax
import pytest
import recipe_runs

from configs import recipes
from posttrain_jax.run import build, values
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers.rl import checks, objective

GAE = [('advantage.name', 'gae')]
LUFFY = [('expert_loss.name', 'luffy_shaped'), ('demos_per_prompt', '1')]


def check(recipe, *items):
  checks.check(recipe_runs.load('rl', recipe, *items))


def refused(message, recipe, *items):
  with pytest.raises(ValueError, match=re.escape(message)):
    check(recipe, *items)


@pytest.mark.parametrize('recipe', recipes.RL)
def test_recipes_are_allowed(recipe):
  check(recipe)


# ---- Rows beside a group.


@pytest.mark.parametrize('recipe', ['luffy', 'chord', 'chord_mu', 'carft'])
def test_terms_on_demonstrations_need_some(recipe):
  refused(
    'demos_per_prompt=0: expert_loss, sft_loss and contrastive train on '
    'demonstrations; set it to at least 1',
    recipe,
    ('demos_per_prompt', '0'),
  )


def test_demonstrations_need_a_term():
  refused(
    'demos_per_prompt=2, and nothing reads the demonstrations: set '
    'expert_loss.name, sft_loss.coef or contrastive.name',
    'grpo',
    ('demos_per_prompt', '2'),
  )


def test_shares_of_the_supervised_term():
  for coef in ('1.5', '-0.5'):
    refused(
      f'sft_loss.coef={coef} is a share (sft_loss.mix="convex") and must be '
      'in 0..1',
      'chord',
      ('sft_loss.coef', coef),
    )
  check('chord', ('sft_loss.coef', '1.5'), ('sft_loss.mix', 'add'))


def test_a_share_is_no_input_of_a_program():
  """As one, nothing would refuse a value above 1."""
  config = recipe_runs.load('rl', 'chord')

  def under(share):
    checks.check(config_lib.with_values(config, {'sft_loss.coef': share}))
    return share

  with pytest.raises(ValueError, match='sft_loss.coef is a share .* no input'):
    jax.eval_shape(under, 0.5)


def test_a_contrast_takes_one_demonstration():
  refused(
    'demos_per_prompt=2: contrastive "carft" takes one demonstration a problem',
    'carft',
    ('demos_per_prompt', '2'),
  )
  refused(
    'contrastive.annotation="another" with prompts_per_step=1: a step has no '
    'other problem; nearest valid: 2',
    'carft',
    ('contrastive.annotation', 'another'),
    ('prompts_per_step', '1'),
  )


@pytest.mark.parametrize('count, coef', [('2', '0.0'), ('0', '0.5')])
def test_exploring_answers_and_their_coefficient_go_together(count, coef):
  refused(
    f'explore.per_prompt={count} and explore.coef={coef}: set both, or neither',
    'aepo',
    ('explore.per_prompt', count),
    ('explore.coef', coef),
  )


def test_exploring_answers_and_their_temperature_go_together():
  refused(
    'explore.per_prompt=2 and explore_controller.name="none": answers beside '
    'the group need a temperature; take "entropy_temperature"',
    'aepo',
    ('explore_controller.name', 'none'),
  )
  refused(
    'explore.per_prompt=0 and explore_controller.name="fixed"',
    'grpo',
    ('explore_controller.name', 'fixed'),
  )


@pytest.mark.parametrize(
  'key, name, array',
  [
    ('sft_weights', 'rho1', 'ref_logps'),
    ('sft_loss', 'psft', 'old_logps'),
  ],
)
def test_demonstrations_beside_rollouts_are_not_scored(key, name, array):
  c = recipe_runs.load('rl', 'chord', (f'{key}.name', name))
  message = f'reads "{array}", which demonstrations beside rollouts do not have'
  with pytest.raises(ValueError, match=f'{key}.name="{name}".*{message}'):
    objective.make_objective(c, {'policy': None}, 1)


# ---- Sampling, coefficients and the KL.


def test_sampling_that_the_learner_does_not_see():
  refused('decoder "greedy" draws', 'grpo', ('decoder.name', 'greedy'))


@pytest.mark.parametrize(
  'recipe, what, key, name',
  [
    ('grpo_d', 'kl', 'kl.coef', 'dynamic_kl'),
    ('adaptive_entropy', 'entropy', 'entropy_coef', 'adaptive_entropy'),
    ('chord_mu', 'sft', 'sft_loss.coef', 'warmup_cosine'),
  ],
)
def test_a_coefficient_is_fixed_or_steered(recipe, what, key, name):
  refused(
    f'{what}_controller.name="{name}" sets the coefficient of {what}: leave '
    'its fixed one, 0.5, at 0',
    recipe,
    (key, '0.5'),
  )


def test_no_answers_are_cold_where_none_explore():
  refused(
    'explore.cooling=0.5 is a share of explore.coef, and no answers explore',
    'grpo',
    ('explore.cooling', '0.5'),
  )


def test_where_a_kl_may_be():
  for name in ('full_kl_reverse', 'kl_k3_corrected'):
    refused(
      f'kl.name="{name}": a KL in the reward is an estimate on the taken '
      'tokens; take "kl_k1", "kl_k2" or "kl_k3"',
      'ppo_adaptive_kl',
      ('kl.name', name),
    )
    check('grpo_kl', ('kl.name', name))


def test_the_reference_is_kept_where_something_reads_it():
  needs = lambda *config: checks.needs_reference(
    recipe_runs.load('rl', *config)
  )
  assert needs('grpo_kl') and needs('grpo_d') and needs('carft')
  assert needs('ppo_adaptive_kl') and not needs('chord')
  assert not needs('grpo_kl', ('kl.coef', '0.0'))


# ---- Flows and groups.


def test_flows_read_no_advantage():
  refused(
    'kl.place="reward": loss "detailed_balance" reads no advantage; take '
    'kl.place="loss"',
    'detailed_balance',
    ('kl.place', 'reward'),
    ('kl.coef', '0.1'),
  )
  for items in (GAE, LUFFY):
    refused(
      'loss "detailed_balance" balances flows, not advantages: take '
      'expert_loss.name="none" and advantage.name="raw"',
      'detailed_balance',
      *items,
    )


def test_flows_read_no_rewards_of_tokens():
  refused(
    'loss "detailed_balance" reads no advantage: take token_rewards.name='
    '"none"',
    'detailed_balance',
    ('token_rewards.name', 'progress'),
  )


def test_a_flow_has_the_group_size_of_the_run():
  refused(
    'loss.group_size=5: it is the group_size of the run, 8; leave it at 1',
    'gflowvlm_var_tb',
    ('loss.group_size', '5'),
  )
  check('gflowvlm_var_tb', ('loss.group_size', '8'))


def test_answers_of_one_problem_are_compared():
  one = ('group_size', '1')
  needs = 'compares completions of one problem and needs at least 2'
  refused(f'group_size=1: advantage "group_normalized" {needs}', 'grpo', one)
  refused(
    f'group_size=1: loss "trajectory_balance_group" {needs}',
    'gflowvlm_var_tb',
    one,
  )
  refused(
    f'group_size=1: advantage "whitened_returns" {needs}',
    'reinforce_plus_plus_baseline',
    one,
  )
  for alone in ('ppo', 'topr', 'srft', 'trajectory_balance'):
    check(alone, one)
  check('reinforce_plus_plus', one)


def test_words_have_a_domain():
  for recipe, key, word in (
    ('reinforce_plus_plus', 'advantage.baseline', 'grup'),
    ('luffy', 'entropy_over', 'al'),
  ):
    config = recipe_runs.load('rl', recipe, (key, word))
    with pytest.raises(ValueError, match=f'{key}="{word}" is unknown. Did you'):
      values.check(config)


def test_advantages_of_demonstrations():
  refused(
    'expert_advantage.name="raw" is for expert_loss, which is "none"',
    'chord',
    ('expert_advantage.name', 'raw'),
  )
  refused(
    'expert_loss: a critic gives demonstrations no advantage; set '
    'expert_advantage.name, such as "group_centered"',
    'luffy',
    *GAE,
  )
  check('luffy', *GAE, ('expert_advantage.name', 'group_centered'))
  for name in ('gae', 'whitened_returns'):
    refused(
      f'expert_advantage.name="{name}" scores tokens, not demonstrations',
      'luffy',
      ('expert_advantage.name', name),
    )
  refused(
    'expert_loss: advantage "whitened_returns" gives demonstrations no',
    'luffy',
    ('advantage.name', 'whitened_returns'),
  )


# ---- What only in-graph tasks give, and what micro-batches would cut.


@pytest.mark.parametrize(
  'recipe, reason',
  [
    ('remax', 'advantage "remax" needs greedy answers'),
    ('luffy', 'demos_per_prompt=1 needs demonstrations'),
    ('aepo', 'explore.per_prompt=2 needs more answers'),
    ('mrt', 'token_rewards "progress" needs the oracle'),
    (
      'gflowvlm_db',
      'loss "detailed_balance_stop" needs rewards of unfinished answers',
    ),
  ],
)
def test_host_tasks_give_less(recipe, reason):
  c = recipe_runs.load('rl', recipe)
  c.task.name = 'text:leg_counting'
  message = (
    f'{reason}, which host tasks such as "text:leg_counting" do not make'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    checks.check(c)


@pytest.mark.parametrize(
  'recipe, name',
  [('carft', 'carft'), ('gflowvlm_var_tb', 'trajectory_balance_group')],
)
def test_losses_over_a_minibatch_are_not_cut(recipe, name):
  c = recipe_runs.load('rl', recipe, ('microbatch_rows', '8'))
  with pytest.raises(ValueError, match=f'"{name}" compares all 256 rows'):
    build.build(c)


@pytest.mark.parametrize(
  'recipe, key, name, message',
  [
    ('chord', 'sft_weights', 'chord_ph', 'Did you mean "chord_phi"'),
    ('luffy', 'expert_loss', 'luffy', 'Did you mean "luffy_shaped"'),
    ('chord', 'sft_loss', 'irl_discriminator', 'needs the array "expert"'),
    ('carft', 'contrastive', 'simcse_diff', 'needs the array "rejected_'),
    (
      'aepo',
      'explore_controller',
      'adaptive_entrop',
      'Did you mean "adaptive_entropy"',
    ),
  ],
)
def test_parts_are_known(recipe, key, name, message):
  with pytest.raises(ValueError, match=message):
    build.build(recipe_runs.load('rl', recipe, (f'{key}.name', name)))


def test_a_controller_that_reads_the_kl_needs_one():
  refused(
    'sft_controller.name="adaptive_kl" reads the KL',
    'chord_mu',
    ('sft_controller.name', 'adaptive_kl'),
  )


@pytest.mark.parametrize(
  'recipe, key, name',
  [
    ('chord', 'sft_weights.name', 'talr'),
    ('luffy', 'expert_loss.name', 'clip_cov'),
  ],
)
def test_parts_that_see_the_whole_batch_are_not_split(recipe, key, name):
  split = [(key, name), ('microbatch_rows', '8')]
  with pytest.raises(ValueError, match=f'microbatch_rows=8: "{name}"'):
    build.build(recipe_runs.load('rl', recipe, *split))


def test_flows_under_the_floor_are_refused():
  """Every prefix of a name is worth less than the floor of other rewards."""
  flower = 'configs/rl.py:recipe=flower,task=catalogue,smoke'
  flows = [('task.reward', 'flow')]
  with pytest.raises(ValueError, match=r'log_reward\.floor=1e-06.*1e-30'):
    build.build(config_lib.load(flower, flows))
  build.build(config_lib.load(flower, [*flows, ('log_reward.floor', '1e-30')]))
  build.build(config_lib.load(flower, []))
