"""Rows of RL recipes that learn from demonstrations, or from answers that were
told something."""

from configs.recipes.rl_parts import (
  HARD_BUFFER,
  HINTS,
  HINTS_CONTROLLER,
  NORMALIZED,
  PREFIX,
  PREFIX_CONTROLLER,
  REFINE,
  UNCLIPPED,
  imitate,
  kl,
  ppo,
  row,
)
from posttrain_jax import advantages, controllers, token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.losses import policy_gradient

__all__ = ['HYBRIDS']

HYBRIDS = {
  # Demonstrations in the group: one in eight answers. Entropy is a mean over
  # all tokens, of demonstrations too.
  'luffy': row(
    'https://arxiv.org/abs/2504.14945', 'ppo_clip', 'group_centered',
    'fixed_length', loss_hparams=UNCLIPPED, group_size=7, demos_per_prompt=1,
    expert_loss=part(policy_gradient, 'luffy_shaped'), entropy_coef=0.001,
    entropy_over='all',
  ),
  # Demonstrations beside the group, with a share of the loss: one that falls
  # (the paper's 200 steps are the whole run here), or a small one with phi.
  'chord_mu': row(
    'https://arxiv.org/abs/2508.11408', 'ppo_clip', NORMALIZED, 'token_mean',
    demos_per_prompt=1, sft_loss=imitate(0.0, 'convex'),
    sft_controller=part(controllers, 'warmup_cosine'),
  ),
  'chord': row(
    'https://arxiv.org/abs/2508.11408', 'ppo_clip', NORMALIZED, 'token_mean',
    demos_per_prompt=1, sft_loss=imitate(0.1, 'convex'),
    sft_weights=part(token_weights, 'chord_phi'),
  ),
  # Both, weighted by entropy: less imitation and more exploitation of right
  # answers where the policy is unsure.
  'srft': row(
    'https://arxiv.org/abs/2506.19767', 'reinforce', 'signed', 'fixed_length',
    weights=part(token_weights, 'srft_rollouts'), demos_per_prompt=1,
    expert_loss=part(policy_gradient, 'luffy_shaped'),
    expert_advantage=part(advantages, 'group_centered'),
    sft_loss=imitate(1.0, 'add'),
    sft_weights=part(token_weights, 'srft_entropy'), entropy_coef=0.001,
    entropy_over='all',
  ),
  # The beginning of a demonstration, which the policy goes on from: one in
  # eight answers, and less of it as the run goes on.
  'prefix_rft': row(
    'https://arxiv.org/abs/2507.01679', 'ppo_clip', 'group_centered',
    'token_mean', loss_hparams=dict(dual_clip=3.0), group_size=7,
    prefix=dict(PREFIX, per_prompt=1), prefix_controller=PREFIX_CONTROLLER,
    entropy_coef=0.001, entropy_over='all',
  ),
  # The demonstration is a member of the group like any other, ratio and all,
  # and gives way once an own answer is as good.
  'visurf': row(
    'https://arxiv.org/abs/2510.10606', 'ppo_clip', 'label_in_group',
    'sequence_mean', demos_per_prompt=1, expert_old_logps='learner',
    expert_loss=part(policy_gradient, 'ppo_clip'),
  ),
  # Demonstrations of problems that no answer solves, in updates of their own:
  # half as many as a step has problems.
  'relift': row(
    'https://arxiv.org/abs/2506.07527', 'ppo_clip', 'group_centered',
    'token_mean', loss_hparams=dict(clip_high=0.28, dual_clip=3.0),
    hard_buffer=dict(HARD_BUFFER, rows=16),
  ),
  # A step is SFT or GRPO: a coin whose chance is the gradient's norm of SFT
  # against that of the warm-up.
  'sasr': row(
    'https://arxiv.org/abs/2505.13026', 'ppo_clip', NORMALIZED,
    'sequence_mean', kl=kl('kl_k3', 0.04), demos_per_prompt=1,
    sft_loss=imitate(0.0, 'coin'),
    sft_controller=part(controllers, 'grad_switch'),
  ),
  # PPO and SFT with a share that lowers the loss of held-out demonstrations.
  'amft': ppo(
    'https://arxiv.org/abs/2508.06944', entropy_coef=0.01, demos_per_prompt=1,
    sft_loss=imitate(0.0, 'between'), valid_per_step=8,
    sft_controller=part(controllers, 'meta_share'),
  ),
  # Hints that become shorter until there are none, and their likelihood.
  'uft': row(
    'https://arxiv.org/abs/2505.16984', 'ppo_clip', NORMALIZED, 'token_mean',
    kl=kl('kl_k3', 0.001), group_size=4,
    hints=dict(HINTS, chunks=5, coef=0.001), hints_controller=HINTS_CONTROLLER,
  ),
  # As LUFFY, with a second answer in place of the demonstration.
  'critique_grpo': row(
    'https://arxiv.org/abs/2506.03106', 'ppo_clip', 'group_centered',
    'fixed_length', loss_hparams=UNCLIPPED, group_size=7, demos_per_prompt=1,
    demos_from='refined', refine=dict(REFINE, feedback='truth'),
    expert_loss=part(policy_gradient, 'luffy_shaped'), entropy_coef=0.001,
    entropy_over='all',
  ),
  # On-policy GRPO at the temperature that keeps the entropy; answers that were
  # cut are compared, but not learnt from.
  'acereason': row(
    'https://arxiv.org/abs/2506.13284', 'ppo_clip', NORMALIZED, 'token_mean',
    temperature_controller=part(controllers, 'entropy_at'),
    mask_unfinished=True,
  ),
}  # fmt: skip
