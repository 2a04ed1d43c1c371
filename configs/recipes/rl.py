"""Recipes with verifiable rewards: `configs/rl.py:recipe=NAME`.

TRL's `loss_type` strings are rows of that name.
"""

from posttrain_jax import advantages, controllers, token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.losses import (
  contrastive,
  flow,
  policy_gradient,
  reduce,
  regularizers,
  supervised,
  value,
)
from posttrain_jax.rewards import tokens as token_rewards


def _kl(name: str, coef: float, place: str = 'loss') -> dict:
  """A penalty for leaving the reference, in the loss or in the reward."""
  return dict(part(regularizers, name), coef=coef, place=place)


# What a row that names no critic, reference or further rows has.
KL = _kl('kl_k3', 0.0)
VALUE_LOSS = dict(part(value, 'clipped_value'), coef=0.1)
# A coefficient of 0 leaves the term out; mix 'convex' makes it a share, and
# the policy's term has the rest.
SFT_LOSS = dict(part(supervised, 'nll'), coef=0.0, mix='add')
# `cooling` of `coef` counts where these answers are colder than the own ones.
EXPLORE = dict(per_prompt=0, coef=0.0, cooling=1.0)
# Answers that begin with a part of a demonstration: between what the controller
# says and `high` of it. `top_fraction` of these tokens learn; `baseline` is
# that of the tokens after them.
PREFIX = dict(per_prompt=0, high=0.95, top_fraction=0.2, baseline='none')
PREFIX_CONTROLLER = part(controllers, 'warmup_cosine', peak=0.95, valley=0.05)
# log(max(reward, floor)) / temperature. The floor times the number of possible
# wrong answers is the mass that they end with.
LOG_REWARD = dict(floor=1e-6, temperature=1.0)


def _row(
  reference: str, loss: str, advantage: str, average: str, **keys
) -> dict:
  """Names of the three parts; `keys` may hold hyperparameters of `loss`."""
  hparams = keys.pop('loss_hparams', {})
  advantage_hparams = keys.pop('advantage_hparams', {})
  return dict(
    reference=reference,
    advantage=part(advantages, advantage, **advantage_hparams),
    loss=part(policy_gradient, loss, **hparams),
    reduce=part(reduce, average),
    **keys,
  )


def _ppo(
  reference: str,
  value_coef: float = VALUE_LOSS['coef'],
  whiten_rewards: bool = False,
  average: str = 'token_mean',
  **keys,
) -> dict:
  """A critic and GAE."""
  return dict(
    reference=reference,
    advantage=dict(
      name='gae',
      gamma=1.0,
      lam=0.95,
      whiten=True,
      whiten_rewards=whiten_rewards,
    ),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, average),
    value_loss=dict(VALUE_LOSS, coef=value_coef),
    **keys,
  )


def _returns(reference: str, baseline: str = 'none', **keys) -> dict:
  """Returns of tokens, whitened, in place of a critic."""
  return dict(
    reference=reference,
    advantage=dict(name='whitened_returns', gamma=1.0, baseline=baseline),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, 'token_mean'),
    **keys,
  )


def _flow(
  reference: str, loss: str, average: str = 'sequence_sum', **keys
) -> dict:
  """A GFlowNet loss: whole answers, no advantage."""
  hparams = keys.pop('loss_hparams', {})
  return dict(
    reference=reference,
    advantage=part(advantages, 'raw'),
    loss=part(flow, loss, **hparams),
    reduce=part(reduce, average),
    **keys,
  )


_GRPO = 'https://arxiv.org/abs/2402.03300'
_NORMALIZED = 'group_normalized'

# No ratio is clipped.
_UNCLIPPED = dict(clip_low=1e9, clip_high=1e9)

# Terms on demonstrations, as `SFT_LOSS`.
_IMITATE = lambda coef, mix: dict(part(supervised, 'nll'), coef=coef, mix=mix)

RL = {
  'reinforce': _row(
    'https://doi.org/10.1007/BF00992696',
    'reinforce', 'group_centered', 'sequence_sum',
  ),
  'rloo': _row(
    'https://arxiv.org/abs/2402.14740',
    'reinforce', 'leave_one_out', 'sequence_sum',
  ),
  # The greedy answer's reward is the baseline; a token's return loses the KL of
  # that token, which k2 in the loss does with the same gradient.
  'remax': _row(
    'https://arxiv.org/abs/2310.10505', 'reinforce', 'remax', 'token_mean',
    kl=_kl('kl_k2', 0.05),
  ),
  # Groups, clipped ratios of tokens.
  'grpo': _row(_GRPO, 'ppo_clip', _NORMALIZED, 'sequence_mean'),
  'dr_grpo': _row(
    'https://arxiv.org/abs/2503.20783',
    'ppo_clip', 'group_centered', 'fixed_length',
  ),
  # Clip-higher and the token mean (its dynamic sampling is a selector, not
  # part of the loss).
  'dapo': _row(
    'https://arxiv.org/abs/2503.14476', 'ppo_clip', _NORMALIZED, 'token_mean',
    loss_hparams=dict(clip_high=0.28),
  ),
  # TRL's name for GRPO with the token mean.
  'bnpo': _row(_GRPO, 'ppo_clip', _NORMALIZED, 'token_mean'),
  'two_sided': _row(
    'https://arxiv.org/abs/2505.07291', 'ppo_clip', _NORMALIZED,
    'token_mean', loss_hparams=dict(delta=4.0),
  ),
  'dual_clip': _row(
    'https://arxiv.org/abs/1912.09729', 'ppo_clip', _NORMALIZED,
    'token_mean', loss_hparams=dict(dual_clip=3.0),
  ),
  'sequence_masked': _row(
    'https://arxiv.org/abs/2512.02556', 'ppo_clip_sequence_mask',
    'group_centered', 'sequence_mean',
  ),
  # Clipped weights in place of clipped ratios, soft gates.
  'cispo': _row(
    'https://arxiv.org/abs/2506.13585', 'cispo', _NORMALIZED, 'token_mean'
  ),
  'sapo': _row(
    'https://arxiv.org/abs/2511.20347', 'sapo', _NORMALIZED, 'sequence_mean'
  ),
  # Ratios of sequences.
  'gspo': _row(
    'https://arxiv.org/abs/2507.18071', 'gspo', _NORMALIZED, 'sequence_mean'
  ),
  'gspo_token': _row(
    'https://arxiv.org/abs/2507.18071',
    'gspo_token', _NORMALIZED, 'sequence_mean',
  ),
  'gmpo': _row(
    'https://arxiv.org/abs/2507.20673', 'gmpo', _NORMALIZED, 'sequence_mean'
  ),
  'luspo': _row(
    'https://arxiv.org/abs/2602.05261', 'luspo', _NORMALIZED, 'sequence_mean'
  ),
  'vespo': _row(
    'https://arxiv.org/abs/2602.10693', 'vespo', _NORMALIZED, 'token_mean'
  ),
  # Tokens that drive the entropy down are held back, in place of PPO's clip,
  # which is opened wide. The share with a KL is that of the 7B runs; the 32B
  # runs have a tenth of it.
  'clip_cov': _row(
    'https://arxiv.org/abs/2505.22617', 'clip_cov', _NORMALIZED, 'token_mean',
    loss_hparams=dict(clip_low=1.0, clip_high=1.0),
  ),
  'kl_cov': _row(
    'https://arxiv.org/abs/2505.22617', 'kl_cov', _NORMALIZED, 'token_mean',
    loss_hparams=dict(cov_ratio=2e-3),
  ),
  # The fifth of the tokens with the highest entropy.
  'high_entropy_tokens': _row(
    'https://arxiv.org/abs/2506.01939', 'ppo_clip', _NORMALIZED, 'token_mean',
    loss_hparams=dict(clip_high=0.28),
    weights=part(token_weights, 'high_entropy'),
  ),
  # A sampler that is not the learner.
  'truncated_is': _row(
    'https://arxiv.org/abs/1802.01561', 'truncated_is', _NORMALIZED,
    'token_mean',
  ),
  'sequence_truncated_is': _row(
    'https://doi.org/10.1198/106186008X320456', 'sequence_truncated_is',
    _NORMALIZED, 'token_mean',
  ),
  'masked_is': _row(
    'https://arxiv.org/abs/2510.18855', 'masked_is', _NORMALIZED, 'token_mean'
  ),
  'decoupled_ppo': _row(
    'https://arxiv.org/abs/2110.00641', 'decoupled_ppo_clip', _NORMALIZED,
    'token_mean',
  ),
  # Wrong answers have reward -1: with 0 they would not be let go of.
  'topr': _row(
    'https://arxiv.org/abs/2503.14286', 'topr', 'signed', 'sequence_sum'
  ),
  # One baseline for all tokens of the batch, with a KL in their returns; and
  # its form with groups, with the KL in the loss.
  'reinforce_plus_plus': _returns(
    'https://arxiv.org/abs/2501.03262', kl=_kl('kl_k1', 0.01, 'reward')
  ),
  'reinforce_plus_plus_baseline': _returns(
    'https://arxiv.org/abs/2501.03262', 'group', kl=_kl('kl_k2', 0.001)
  ),
  'lite_ppo': _row(
    'https://arxiv.org/abs/2508.08221', 'ppo_clip',
    'group_centered_batch_scaled', 'token_mean',
  ),
  'pass_at_k': _row(
    'https://arxiv.org/abs/2508.10751', 'ppo_clip', 'pass_at_k', 'token_mean'
  ),
  # A critic.
  'ppo': _ppo(
    'https://arxiv.org/abs/1707.06347',
  ),
  # Held near the start: by an estimator, or over the whole vocabulary.
  'grpo_kl': _row(
    _GRPO, 'ppo_clip', _NORMALIZED, 'sequence_mean',
    kl=_kl('kl_k3', 0.04),
  ),
  'grpo_full_kl': _row(
    _GRPO, 'ppo_clip', _NORMALIZED, 'sequence_mean',
    kl=_kl('full_kl_reverse', 0.04),
  ),
  # Coefficients that change: a V over the run, a target for the KL (6 nats a
  # sequence in the paper; here a mean over tokens), one for the entropy (its
  # steps are TRL's; Skywork's scripts have 0.0001, and at most 0.005).
  'grpo_d': _row(
    'https://arxiv.org/abs/2503.16081', 'ppo_clip', _NORMALIZED,
    'sequence_mean', kl=_kl('kl_k3', 0.0),
    kl_controller=part(controllers, 'dynamic_kl'),
  ),
  'ppo_adaptive_kl': _ppo(
    'https://arxiv.org/abs/1909.08593',
    kl=_kl('kl_k1', 0.0, 'reward'),
    kl_controller=part(controllers, 'adaptive_kl', target=0.1),
    whiten_rewards=True,
  ),
  # A reward model's score in place of the verifier, held near the start.
  'rlhf': _ppo(
    'https://arxiv.org/abs/2203.02155',
    kl=_kl('kl_k1', 0.02, 'reward'),
    others=dict(reward=''),
    rewards=(dict(name='model', weight=1.0, role='reward'),),
  ),
  # GRPO that shortens what SFT has made right: by length alone, and beside the
  # other answers of the group. The paper adds 1 for the format, which tasks
  # have as another part of their verdict.
  'length_shaped': _row(
    'https://arxiv.org/abs/2507.08267', 'ppo_clip', _NORMALIZED, 'token_mean',
    kl=_kl('kl_k3', 0.04),
    rewards=(
      dict(name='verifier', weight=0.0),
      dict(
        name='cosine_length', right_long=0.1, wrong_long=-0.1, exceeded=-0.1
      ),
      dict(name='relative_length'),
    ),
  ),
  'adaptive_entropy': _row(
    'https://arxiv.org/abs/2505.22312', 'ppo_clip', _NORMALIZED, 'token_mean',
    entropy_controller=part(controllers, 'adaptive_entropy'),
  ),
  # A quarter more answers, hot or cold; those better than their group are
  # imitated, half as much when cold. Two for every problem here; in the code a
  # whole group for each of a quarter of the problems. The coefficient is not
  # printed: of the code's 2560 rows a step at most 60 are such answers, all in
  # the first of four updates, a tenth of its rows.
  'aepo': _row(
    'https://arxiv.org/abs/2510.08141', 'ppo_clip', _NORMALIZED, 'token_mean',
    explore=dict(per_prompt=2, coef=0.1, cooling=0.5),
    explore_controller=part(controllers, 'entropy_temperature'),
  ),
  # Demonstrations in the group: one in eight answers. Entropy is a mean over
  # all tokens, of demonstrations too.
  'luffy': _row(
    'https://arxiv.org/abs/2504.14945', 'ppo_clip', 'group_centered',
    'fixed_length', loss_hparams=_UNCLIPPED, group_size=7, demos_per_prompt=1,
    expert_loss=part(policy_gradient, 'luffy_shaped'), entropy_coef=0.001,
    entropy_over='all',
  ),
  # Demonstrations beside the group, with a share of the loss: one that falls
  # (the paper's 200 steps are the whole run here), or a small one with phi.
  'chord_mu': _row(
    'https://arxiv.org/abs/2508.11408', 'ppo_clip', _NORMALIZED, 'token_mean',
    demos_per_prompt=1, sft_loss=_IMITATE(0.0, 'convex'),
    sft_controller=part(controllers, 'warmup_cosine'),
  ),
  'chord': _row(
    'https://arxiv.org/abs/2508.11408', 'ppo_clip', _NORMALIZED, 'token_mean',
    demos_per_prompt=1, sft_loss=_IMITATE(0.1, 'convex'),
    sft_weights=part(token_weights, 'chord_phi'),
  ),
  # Both, weighted by entropy: less imitation and more exploitation of right
  # answers where the policy is unsure.
  'srft': _row(
    'https://arxiv.org/abs/2506.19767', 'reinforce', 'signed', 'fixed_length',
    weights=part(token_weights, 'srft_rollouts'), demos_per_prompt=1,
    expert_loss=part(policy_gradient, 'luffy_shaped'),
    expert_advantage=part(advantages, 'group_centered'),
    sft_loss=_IMITATE(1.0, 'add'),
    sft_weights=part(token_weights, 'srft_entropy'), entropy_coef=0.001,
    entropy_over='all',
  ),
  # The beginning of a demonstration, which the policy goes on from: one in
  # eight answers, and less of it as the run goes on.
  'prefix_rft': _row(
    'https://arxiv.org/abs/2507.01679', 'ppo_clip', 'group_centered',
    'token_mean', loss_hparams=dict(dual_clip=3.0), group_size=7,
    prefix=dict(PREFIX, per_prompt=1), prefix_controller=PREFIX_CONTROLLER,
    entropy_coef=0.001, entropy_over='all',
  ),
  # Rewards of tokens beside that of the answer: its segments, or how much each
  # step of a thought raised the chance of the answer.
  'fine_grained': _ppo(
    'https://arxiv.org/abs/2306.01693',
    value_coef=1.0,
    whiten_rewards=True,
    kl=_kl('kl_k1', 0.3, 'reward'),
    token_rewards=part(token_rewards, 'fine_grained'),
    group_size=4,
    updates_per_rollout=4,
  ),
  'mrt': _row(
    'https://arxiv.org/abs/2503.07572', 'ppo_clip', _NORMALIZED, 'token_mean',
    token_rewards=part(token_rewards, 'progress'),
    task=dict(chain_of_thought=True),
  ),
  # PPO and a contrastive term that draws right answers to the annotation.
  'carft': _ppo(
    'https://arxiv.org/abs/2508.15868',
    value_coef=5.0,
    average='sequence_mean',
    kl=_kl('kl_k1', 0.05, 'reward'),
    updates_per_rollout=2,
    demos_per_prompt=1,
    contrastive=dict(part(contrastive, 'carft'), coef=0.1),
  ),
  # Answers in proportion to their reward. The flow of a state is a value head,
  # the group's estimate, or R(state) / P(stop | state). A state is the text
  # before a token; GFlowVLM's is that before an action, and its SubTB is a sum
  # over the pieces of an answer, not a mean.
  'trajectory_balance': _flow(
    'https://arxiv.org/abs/2201.13259', 'trajectory_balance'
  ),
  'detailed_balance': _flow(
    'https://arxiv.org/abs/2111.09266', 'detailed_balance', 'token_mean'
  ),
  'sub_trajectory_balance': _flow(
    'https://arxiv.org/abs/2209.12782', 'sub_trajectory_balance'
  ),
  'gflowvlm_var_tb': _flow(
    'https://arxiv.org/abs/2503.06514', 'trajectory_balance_group'
  ),
  'gflowvlm_db': _flow(
    'https://arxiv.org/abs/2503.06514', 'detailed_balance_stop'
  ),
  'gflowvlm_sub_tb': _flow(
    'https://arxiv.org/abs/2503.06514', 'sub_trajectory_balance_stop'
  ),
  # Mostly SFT. A prefix's reward is the verifier's here; the paper's is the
  # popularity of the items that begin so. Its code averages the pieces of a
  # micro-batch together; here each answer's, then answers.
  'flower': _flow(
    'https://arxiv.org/abs/2503.07377', 'sub_trajectory_balance_stop',
    demos_per_prompt=1, sft_loss=_IMITATE(0.999, 'convex'),
  ),
}  # fmt: skip
