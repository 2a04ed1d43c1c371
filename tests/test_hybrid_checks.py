"""Every hybrid that cannot work is refused, with the key and the way out."""

import re

import pytest
import recipe_runs

from posttrain_jax.trainers.rl import checks


def check(recipe, *items):
  checks.check(recipe_runs.load('rl', recipe, *items))


ITEMS = {
  'expert_old_logps="learner" is for expert_loss': (
    'grpo', ('expert_old_logps', 'learner'),
  ),
  'set expert_old_logps="learner"': ('visurf', ('expert_old_logps', 'one')),
  'advantage.name="label_in_group" takes the last of a group': (
    'grpo', ('advantage.name', 'label_in_group'),
  ),
  'expert_advantage.name="label_in_group" takes the last': (
    'luffy', ('expert_advantage.name', 'label_in_group'),
    ('demos_per_prompt', '2'),
  ),
  'take expert_advantage.name="none"': (
    'visurf', ('expert_advantage.name', 'group_centered'),
  ),
  'demos_from="refined" with demos_per_prompt=0': (
    'grpo', ('demos_from', 'refined'),
  ),
  'set demos_from="oracle"': (
    'carft', ('demos_from', 'refined'), ('sft_loss.coef', '0.1'),
  ),
  "refine.right='ok' has to be one of": (
    'critique_grpo', ('refine.right', 'ok'),
  ),
  'hard_buffer.choose="random" are of demonstrations that are held': (
    'grpo', ('hard_buffer.choose', 'random'),
  ),
  'hard_buffer.rate=0.5': ('grpo', ('hard_buffer.rate', '0.5')),
  'hints.coef=0.1 and hints.draw="binomial" are of hints': (
    'grpo', ('hints.coef', '0.1'),
  ),
  'hints.draw="uniform" are of hints': ('grpo', ('hints.draw', 'uniform')),
  'demos_per_prompt brings others': (
    'luffy', ('hints.chunks', '5'),
  ),
  'explore.per_prompt brings others': ('aepo', ('hints.chunks', '5')),
  'prefix.per_prompt brings others': ('prefix_rft', ('hints.chunks', '5')),
  'advantage.name="remax" brings others': ('remax', ('hints.chunks', '5')),
  'loss.name="trajectory_balance" brings others': (
    'trajectory_balance', ('hints.chunks', '5'),
  ),
  'guides brings others': (
    'uft', ('guides', "[{'name': 'min_tokens', 'count': 2}]"),
  ),
  'valid_per_step=0: a controller reads the gradient of held-out': (
    'amft', ('valid_per_step', '0'),
  ),
  'valid_per_step=3: no controller reads held-out demonstrations': (
    'sasr', ('valid_per_step', '3'),
  ),
  'sft_controller.name="grad_switch" reads gradients of imitation and of all': (
    'chord', ('sft_loss.coef', '0.0'), ('sft_controller.name', 'grad_switch'),
  ),
  'entropy_controller.name="grad_switch" reads the gradient of imitation': (
    'grpo', ('entropy_controller.name', 'grad_switch'),
  ),
  'sft_loss.mix="coin" shares a step with imitation': (
    'grpo', ('sft_loss.mix', 'coin'),
  ),
  'sft_loss.coef=1.5 is a share (sft_loss.mix="between")': (
    'chord', ('sft_loss.mix', 'between'), ('sft_loss.coef', '1.5'),
  ),
  'and explore.per_prompt draws others': (
    'aepo', ('temperature_controller.name', 'entropy_at'),
  ),
  'and demos_from="refined" draws others': (
    'critique_grpo', ('temperature_controller.name', 'entropy_at'),
  ),
  'and token_rewards.name draws others': (
    'mrt', ('temperature_controller.name', 'entropy_at'),
  ),
}  # fmt: skip


@pytest.mark.parametrize('message', ITEMS)
def test_what_cannot_work_is_refused(message):
  recipe, *items = ITEMS[message]
  with pytest.raises(ValueError, match=re.escape(message)):
    check(recipe, *items)


@pytest.mark.parametrize(
  'recipe, items',
  [
    ('chord', [('sft_loss.mix', 'coin')]),
    ('chord', [('sft_loss.mix', 'between')]),
    ('sasr', [('sft_controller.name', 'grad_switch_clipped')]),
    ('sasr', [('sft_controller.name', 'linear')]),
    ('relift', [('hard_buffer.choose', 'random')]),
    ('uft', [('hints.draw', 'uniform'), ('hints.coef', '0.0')]),
    ('chord', [('demos_from', 'refined')]),
    ('luffy', [('expert_advantage.name', 'label_in_group')]),
  ],
)
def test_what_works_is_allowed(recipe, items):
  check(recipe, *items)
