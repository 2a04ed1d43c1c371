"""Recipes with verifiable rewards: `configs/rl.py:recipe=NAME`.

TRL's `loss_type` strings are rows of that name.
"""

from configs.recipes.rl_hybrids import HYBRIDS
from configs.recipes.rl_parts import (
  GRPO,
  NORMALIZED,
  cory,
  flow_row,
  imitate,
  kl,
  ppo,
  returns,
  row,
)
from posttrain_jax import controllers, token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.losses import contrastive
from posttrain_jax.rewards import tokens as token_rewards

RL = {
  'reinforce': row(
    'https://doi.org/10.1007/BF00992696',
    'reinforce', 'group_centered', 'sequence_sum',
  ),
  'rloo': row(
    'https://arxiv.org/abs/2402.14740',
    'reinforce', 'leave_one_out', 'sequence_sum',
  ),
  # The greedy answer's reward is the baseline; a token's return loses the KL of
  # that token, which k2 in the loss does with the same gradient.
  'remax': row(
    'https://arxiv.org/abs/2310.10505', 'reinforce', 'remax', 'token_mean',
    kl=kl('kl_k2', 0.05),
  ),
  # Groups, clipped ratios of tokens.
  'grpo': row(GRPO, 'ppo_clip', NORMALIZED, 'sequence_mean'),
  'dr_grpo': row(
    'https://arxiv.org/abs/2503.20783',
    'ppo_clip', 'group_centered', 'fixed_length',
  ),
  # Clip-higher and the token mean (its dynamic sampling is a selector, not
  # part of the loss).
  'dapo': row(
    'https://arxiv.org/abs/2503.14476', 'ppo_clip', NORMALIZED, 'token_mean',
    loss_hparams=dict(clip_high=0.28),
  ),
  # TRL's name for GRPO with the token mean.
  'bnpo': row(GRPO, 'ppo_clip', NORMALIZED, 'token_mean'),
  'two_sided': row(
    'https://arxiv.org/abs/2505.07291', 'ppo_clip', NORMALIZED,
    'token_mean', loss_hparams=dict(delta=4.0),
  ),
  'dual_clip': row(
    'https://arxiv.org/abs/1912.09729', 'ppo_clip', NORMALIZED,
    'token_mean', loss_hparams=dict(dual_clip=3.0),
  ),
  'sequence_masked': row(
    'https://arxiv.org/abs/2512.02556', 'ppo_clip_sequence_mask',
    'group_centered', 'sequence_mean',
  ),
  # Clipped weights in place of clipped ratios, soft gates.
  'cispo': row(
    'https://arxiv.org/abs/2506.13585', 'cispo', NORMALIZED, 'token_mean'
  ),
  'sapo': row(
    'https://arxiv.org/abs/2511.20347', 'sapo', NORMALIZED, 'sequence_mean'
  ),
  # Ratios of sequences.
  'gspo': row(
    'https://arxiv.org/abs/2507.18071', 'gspo', NORMALIZED, 'sequence_mean'
  ),
  'gspo_token': row(
    'https://arxiv.org/abs/2507.18071',
    'gspo_token', NORMALIZED, 'sequence_mean',
  ),
  'gmpo': row(
    'https://arxiv.org/abs/2507.20673', 'gmpo', NORMALIZED, 'sequence_mean'
  ),
  'luspo': row(
    'https://arxiv.org/abs/2602.05261', 'luspo', NORMALIZED, 'sequence_mean'
  ),
  'vespo': row(
    'https://arxiv.org/abs/2602.10693', 'vespo', NORMALIZED, 'token_mean'
  ),
  # Tokens that drive the entropy down are held back, in place of PPO's clip,
  # which is opened wide. The share with a KL is that of the 7B runs; the 32B
  # runs have a tenth of it.
  'clip_cov': row(
    'https://arxiv.org/abs/2505.22617', 'clip_cov', NORMALIZED, 'token_mean',
    loss_hparams=dict(clip_low=1.0, clip_high=1.0),
  ),
  'kl_cov': row(
    'https://arxiv.org/abs/2505.22617', 'kl_cov', NORMALIZED, 'token_mean',
    loss_hparams=dict(cov_ratio=2e-3),
  ),
  # The fifth of the tokens with the highest entropy.
  'high_entropy_tokens': row(
    'https://arxiv.org/abs/2506.01939', 'ppo_clip', NORMALIZED, 'token_mean',
    loss_hparams=dict(clip_high=0.28),
    weights=part(token_weights, 'high_entropy'),
  ),
  # A sampler that is not the learner.
  'truncated_is': row(
    'https://arxiv.org/abs/1802.01561', 'truncated_is', NORMALIZED,
    'token_mean',
  ),
  'sequence_truncated_is': row(
    'https://doi.org/10.1198/106186008X320456', 'sequence_truncated_is',
    NORMALIZED, 'token_mean',
  ),
  'masked_is': row(
    'https://arxiv.org/abs/2510.18855', 'masked_is', NORMALIZED, 'token_mean'
  ),
  'decoupled_ppo': row(
    'https://arxiv.org/abs/2110.00641', 'decoupled_ppo_clip', NORMALIZED,
    'token_mean',
  ),
  # Wrong answers have reward -1: with 0 they would not be let go of.
  'topr': row(
    'https://arxiv.org/abs/2503.14286', 'topr', 'signed', 'sequence_sum'
  ),
  # One baseline for all tokens of the batch, with a KL in their returns; and
  # its form with groups, with the KL in the loss.
  'reinforce_plus_plus': returns(
    'https://arxiv.org/abs/2501.03262', kl=kl('kl_k1', 0.01, 'reward')
  ),
  'reinforce_plus_plus_baseline': returns(
    'https://arxiv.org/abs/2501.03262', 'group', kl=kl('kl_k2', 0.001)
  ),
  'lite_ppo': row(
    'https://arxiv.org/abs/2508.08221', 'ppo_clip',
    'group_centered_batch_scaled', 'token_mean',
  ),
  'pass_at_k': row(
    'https://arxiv.org/abs/2508.10751', 'ppo_clip', 'pass_at_k', 'token_mean'
  ),
  # A critic.
  'ppo': ppo(
    'https://arxiv.org/abs/1707.06347',
  ),
  # Held near the start: by an estimator, or over the whole vocabulary.
  'grpo_kl': row(
    GRPO, 'ppo_clip', NORMALIZED, 'sequence_mean',
    kl=kl('kl_k3', 0.04),
  ),
  'grpo_full_kl': row(
    GRPO, 'ppo_clip', NORMALIZED, 'sequence_mean',
    kl=kl('full_kl_reverse', 0.04),
  ),
  # Coefficients that change: a V over the run, a target for the KL (6 nats a
  # sequence in the paper; here a mean over tokens), one for the entropy (its
  # steps are TRL's; Skywork's scripts have 0.0001, and at most 0.005).
  'grpo_d': row(
    'https://arxiv.org/abs/2503.16081', 'ppo_clip', NORMALIZED,
    'sequence_mean', kl=kl('kl_k3', 0.0),
    kl_controller=part(controllers, 'dynamic_kl'),
  ),
  'ppo_adaptive_kl': ppo(
    'https://arxiv.org/abs/1909.08593',
    kl=kl('kl_k1', 0.0, 'reward'),
    kl_controller=part(controllers, 'adaptive_kl', target=0.1),
    whiten_rewards=True,
  ),
  # A reward model's score in place of the verifier, held near the start.
  'rlhf': ppo(
    'https://arxiv.org/abs/2203.02155',
    kl=kl('kl_k1', 0.02, 'reward'),
    others=dict(reward=''),
    rewards=(dict(name='model', weight=1.0, role='reward'),),
  ),
  # Two models, one of which reads the other's answer; both earn the sum. A run
  # trains one of them; they change places between runs (`lab.Swap`).
  'cory': ppo('https://arxiv.org/abs/2410.06101', **cory('pioneer')),
  'cory_observer': ppo('https://arxiv.org/abs/2410.06101', **cory('observer')),
  # GRPO that shortens what SFT has made right: by length alone, and beside the
  # other answers of the group. The paper adds 1 for the format, which tasks
  # have as another part of their verdict.
  'length_shaped': row(
    'https://arxiv.org/abs/2507.08267', 'ppo_clip', NORMALIZED, 'token_mean',
    kl=kl('kl_k3', 0.04),
    rewards=(
      dict(name='verifier', weight=0.0),
      dict(
        name='cosine_length', right_long=0.1, wrong_long=-0.1, exceeded=-0.1
      ),
      dict(name='relative_length'),
    ),
  ),
  'adaptive_entropy': row(
    'https://arxiv.org/abs/2505.22312', 'ppo_clip', NORMALIZED, 'token_mean',
    entropy_controller=part(controllers, 'adaptive_entropy'),
  ),
  # A quarter more answers, hot or cold; those better than their group are
  # imitated, half as much when cold. Two for every problem here; in the code a
  # whole group for each of a quarter of the problems. The coefficient is not
  # printed: of the code's 2560 rows a step at most 60 are such answers, all in
  # the first of four updates, a tenth of its rows.
  'aepo': row(
    'https://arxiv.org/abs/2510.08141', 'ppo_clip', NORMALIZED, 'token_mean',
    explore=dict(per_prompt=2, coef=0.1, cooling=0.5),
    explore_controller=part(controllers, 'entropy_temperature'),
  ),
  **HYBRIDS,
  # Rewards of tokens beside that of the answer: its segments, or how much each
  # step of a thought raised the chance of the answer.
  'fine_grained': ppo(
    'https://arxiv.org/abs/2306.01693',
    value_coef=1.0,
    whiten_rewards=True,
    kl=kl('kl_k1', 0.3, 'reward'),
    token_rewards=part(token_rewards, 'fine_grained'),
    group_size=4,
    updates_per_rollout=4,
  ),
  'mrt': row(
    'https://arxiv.org/abs/2503.07572', 'ppo_clip', NORMALIZED, 'token_mean',
    token_rewards=part(token_rewards, 'progress'),
    task=dict(chain_of_thought=True),
  ),
  # PPO and a contrastive term that draws right answers to the annotation.
  'carft': ppo(
    'https://arxiv.org/abs/2508.15868',
    value_coef=5.0,
    average='sequence_mean',
    kl=kl('kl_k1', 0.05, 'reward'),
    updates_per_rollout=2,
    demos_per_prompt=1,
    contrastive=dict(
      part(contrastive, 'carft'), coef=0.1, annotation='own'
    ),
  ),
  # Answers in proportion to their reward. The flow of a state is a value head,
  # the group's estimate, or R(state) / P(stop | state). A state is the text
  # before a token; GFlowVLM's is that before an action, and its SubTB is a sum
  # over the pieces of an answer, not a mean.
  'trajectory_balance': flow_row(
    'https://arxiv.org/abs/2201.13259', 'trajectory_balance'
  ),
  'detailed_balance': flow_row(
    'https://arxiv.org/abs/2111.09266', 'detailed_balance', 'token_mean'
  ),
  'sub_trajectory_balance': flow_row(
    'https://arxiv.org/abs/2209.12782', 'sub_trajectory_balance'
  ),
  'gflowvlm_var_tb': flow_row(
    'https://arxiv.org/abs/2503.06514', 'trajectory_balance_group'
  ),
  'gflowvlm_db': flow_row(
    'https://arxiv.org/abs/2503.06514', 'detailed_balance_stop'
  ),
  'gflowvlm_sub_tb': flow_row(
    'https://arxiv.org/abs/2503.06514', 'sub_trajectory_balance_stop'
  ),
  # Mostly SFT. A prefix's reward is the verifier's; with reward=flow of the
  # task `catalogue`, and a floor of 1e-30, it is the paper's, the popularity of
  # what begins so. Its code averages the pieces of a micro-batch together; here
  # each answer's, then answers.
  'flower': flow_row(
    'https://arxiv.org/abs/2503.07377', 'sub_trajectory_balance_stop',
    demos_per_prompt=1, sft_loss=imitate(0.999, 'convex'),
  ),
}  # fmt: skip
