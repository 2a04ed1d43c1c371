"""Forms of recipes with detached weights, and of REINFORCE with a KL."""

import numpy as np
from recipe_form import Form
from recipe_forms_rl_groups import (
  at_tokens,
  clipped,
  own,
  token_mean,
  z_scores,
)
from recipe_harness_rl import logps


def weighted(weigh):
  """-w A log pi over tokens, w detached: `weigh` of detached log-ratios."""

  def value(live, frozen, data):
    now, _, mask = own(live, data)
    before, old, _ = own(frozen, data)
    told = at_tokens(z_scores(data.rewards['own']), mask)
    return -token_mean(weigh(before - old) * told * now, mask)

  return value


cispo = weighted(lambda x: np.clip(np.exp(x), 0.0, 5.0))
truncated_is = weighted(lambda x: np.minimum(np.exp(x), 2.0))
sequence_truncated_is = weighted(
  lambda x: np.minimum(np.exp(x.sum(axis=1, keepdims=True)), 2.0)
)
masked_is = weighted(
  lambda x: np.exp(x) * ((np.exp(x) >= 0.5) & (np.exp(x) <= 5.0))
)


def decoupled_ppo(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  proximal, _, _ = own(data.start, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  weight = np.minimum(np.exp(proximal - old), 2.0)
  return token_mean(weight * clipped(np.exp(now - proximal), told), mask)


def topr(live, frozen, data):
  now, _, mask = own(live, data)
  before, old, _ = own(frozen, data)
  total = 0.0
  for answer, right in enumerate(data.rewards['own'].reshape(-1)):
    reward = 1.0 if right else -1.0
    ratio = np.exp((before - old)[answer].sum())
    weight = 1.0 if right else min(ratio, 1.0)
    total -= weight * reward * now[answer].sum()
  return total / (mask.sum(axis=1) > 0).sum()


def remax(live, frozen, data):
  """Each token's return is the reward less the greedy one, less its own KL."""
  del frozen
  now, _, mask = own(live, data)
  reference = logps(data.ref, data)[data.rows().reshape(-1)]
  told = at_tokens(data.rewards['own'] - data.greedy_rewards[:, None], mask)
  # k2's gradient is that of k1 in a return: d times that of log pi.
  penalty = 0.5 * (now - reference) ** 2
  return token_mean(-told * now + 0.05 * penalty, mask)


def whitened(x, mask):
  """verl's masked_whiten: of tokens, unbiased, 1e-8 on the variance."""
  counted = x[mask > 0]
  variance = counted.var(ddof=1)
  return np.where(mask > 0, (x - counted.mean()) / np.sqrt(variance + 1e-8), 0)


def reinforce_plus_plus(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  reference = logps(data.ref, data)[data.rows().reshape(-1)]
  earned = -0.01 * (old - reference) * mask
  for answer, reward in enumerate(data.rewards['own'].reshape(-1)):
    size = int(mask[answer].sum())
    if size:
      earned[answer, size - 1] += reward
  returns = np.zeros_like(earned)
  later = np.zeros(len(earned))
  for t in reversed(range(earned.shape[1])):
    later = earned[:, t] + later
    returns[:, t] = later
  told = whitened(returns, mask)
  return token_mean(clipped(np.exp(now - old), told), mask)


def reinforce_plus_plus_baseline(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  reference = logps(data.ref, data)[data.rows().reshape(-1)]
  rewards = data.rewards['own']
  centered = rewards - rewards.mean(axis=1, keepdims=True)
  told = whitened(at_tokens(centered, mask), mask)
  policy = token_mean(clipped(np.exp(now - old), told), mask)
  return policy + 0.001 * token_mean(0.5 * (now - reference) ** 2, mask)


_VERL = 'https://github.com/volcengine/verl'
_GROUPS = 'Groups in place of a critic.'

FORMS = {
  'cispo': Form(
    cispo, 'https://arxiv.org/abs/2506.13585',
    'eq. 4 and 5; TRL, loss_type "cispo" with epsilon_high 5',
  ),
  'truncated_is': Form(
    truncated_is, 'https://arxiv.org/abs/1802.01561', 'eq. 4',
    _GROUPS + ' The cap is 2, as in verl, not 1; no trace along the answer.',
  ),
  'sequence_truncated_is': Form(
    sequence_truncated_is, 'https://doi.org/10.1198/106186008X320456',
    'section 2, truncated weights, of whole answers',
    'The cap is 2, as in verl; that of the paper grows with the sample.',
  ),
  'masked_is': Form(
    masked_is, 'https://arxiv.org/abs/2510.18855', 'section 3.2, IcePop',
    'One ratio, of policy and sampler, is both the weight and what is masked; '
    'theirs masks by trainer over sampler and clips the policy over the '
    'trainer.',
  ),
  'decoupled_ppo': Form(
    decoupled_ppo, 'https://arxiv.org/abs/2110.00641', 'section 3',
    _GROUPS + ' The proximal policy is that of the start of the step, and '
    'weights are at most 2.',
  ),
  'topr': Form(
    topr, 'https://arxiv.org/abs/2503.14286',
    'section 3, the gradient of TOPR, rewards of 1 and -1',
  ),
  'remax': Form(
    remax, 'https://github.com/liziniu/ReMax',
    'step3_rlhf_finetuning/remax_trainer.py, compute_returns, actor_loss_fn',
    'The KL is a term of the loss: the same gradient as in the return, where '
    'old and new policy are one. Discount 1, there 0.99.',
  ),
  'reinforce_plus_plus': Form(
    reinforce_plus_plus, _VERL,
    'verl/trainer/ppo/core_algos.py, '
    'compute_reinforce_plus_plus_outcome_advantage; KL as in OpenRLHF',
  ),
  'reinforce_plus_plus_baseline': Form(
    reinforce_plus_plus_baseline, _VERL,
    'verl/trainer/ppo/core_algos.py, '
    'compute_reinforce_plus_plus_baseline_outcome_advantage',
  ),
}  # fmt: skip
