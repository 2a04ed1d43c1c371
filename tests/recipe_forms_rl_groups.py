"""Forms of recipes that compare answers and clip ratios.

Sources are papers, and code of their authors, of TRL or of verl, as each form
says. Where a paper says 'divided by the standard deviation', TRL's form is
meant: of a sample, and 1e-4 is added to it.
"""

import numpy as np
from recipe_form import Form
from recipe_harness_rl import Setting, entropy, logps

TRL = 'https://github.com/huggingface/trl'
VERL = 'https://github.com/volcengine/verl'
TRL_LOSS = 'trl/trainer/grpo_trainer.py, _compute_loss'


def own(live, data):
  """(live log-probabilities, the sampler's, mask) of the groups' answers."""
  rows = data.rows().reshape(-1)
  return logps(live, data)[rows], data.old_logps[rows], data.mask[rows]


def at_tokens(advantages, mask):
  """[B, G] an answer's number on each of its tokens."""
  return advantages.reshape(-1, 1) * mask


def z_scores(rewards, added=1e-4):
  """GRPO's advantages: eq. in section 4.1.2 of its paper, TRL's constants."""
  out = np.zeros_like(rewards)
  for group, found in zip(out, rewards, strict=True):
    group[:] = (found - found.mean()) / (found.std(ddof=1) + added)
  return out


def token_mean(x, mask):
  return (x * mask).sum() / mask.sum()


def sequence_mean(x, mask):
  """Over answers that have tokens, of the mean over each one's tokens."""
  size = mask.sum(axis=1)
  means = (x * mask).sum(axis=1)[size > 0] / size[size > 0]
  return means.mean()


def sequence_sum(x, mask):
  """Over answers that have tokens, of the sum over each one's tokens."""
  return (x * mask).sum() / (mask.sum(axis=1) > 0).sum()


def clipped(ratio, advantages, low=0.2, high=0.2):
  """PPO's eq. 7, to be minimised."""
  bounded = np.minimum(np.maximum(ratio, 1 - low), 1 + high)
  return np.maximum(-ratio * advantages, -bounded * advantages)


def surrogate(average, low=0.2, high=0.2, advantages=z_scores):
  """A value of groups' advantages and clipped ratios of tokens."""

  def value(live, frozen, data):
    del frozen
    now, old, mask = own(live, data)
    told = at_tokens(advantages(data.rewards['own']), mask)
    return average(clipped(np.exp(now - old), told, low, high), mask)

  return value


# ---- No ratios.


def reinforce(live, frozen, data):
  del frozen
  now, _, mask = own(live, data)
  rewards = data.rewards['own']
  told = at_tokens(rewards - rewards.mean(axis=1, keepdims=True), mask)
  return -sequence_sum(told * now, mask)


def rloo(live, frozen, data):
  del frozen
  now, _, mask = own(live, data)
  rewards = data.rewards['own']
  others = (rewards.sum(axis=1, keepdims=True) - rewards) / 3
  total = 0.0
  for answer, told in enumerate((rewards - others).reshape(-1)):
    total -= told * now[answer].sum()
  return total / (mask.sum(axis=1) > 0).sum()


# ---- Ratios of tokens.


def dr_grpo(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  rewards = data.rewards['own']
  told = at_tokens(rewards - rewards.mean(axis=1, keepdims=True), mask)
  losses = clipped(np.exp(now - old), told) * mask
  answers = (mask.sum(axis=1) > 0).sum()
  return losses.sum() / answers / data.row_width


def two_sided(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  ratio = np.exp(now - old)
  gains = np.minimum(
    np.minimum(ratio, 4.0) * told, np.clip(ratio, 0.8, 1.2) * told
  )
  return -token_mean(gains, mask)


def dual_clip(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  gains = -clipped(np.exp(now - old), told)
  gains = np.where(told < 0, np.maximum(gains, 3.0 * told), gains)
  return -token_mean(gains, mask)


def sequence_masked(live, frozen, data):
  now, old, mask = own(live, data)
  before, _, _ = own(frozen, data)
  rewards = data.rewards['own']
  told = at_tokens(rewards - rewards.mean(axis=1, keepdims=True), mask)
  losses = clipped(np.exp(now - old), told)
  for answer in range(len(mask)):
    size = mask[answer].sum()
    away = (old - before)[answer].sum() / max(size, 1)
    if away > 0.5 and told[answer].min() < 0:
      losses[answer] = 0.0
  return sequence_mean(losses, mask)


def sapo(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  temperature = np.where(told > 0, 1.0, 1.05)
  gate = 4 / temperature / (1 + np.exp(-temperature * (np.exp(now - old) - 1)))
  return -sequence_mean(gate * told, mask)


def high_entropy_tokens(live, frozen, data):
  now, old, mask = own(live, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  losses = clipped(np.exp(now - old), told, 0.2, 0.28)
  spread = entropy(frozen, data)[data.rows().reshape(-1)]
  counted = np.sort(spread[mask > 0])[::-1]
  least = counted[int(np.ceil(0.2 * len(counted) - 1e-9)) - 1]
  return token_mean(losses * (spread >= least), mask)


def lite_ppo_advantages(rewards):
  return (rewards - rewards.mean(axis=1, keepdims=True)) / (
    rewards.std(ddof=1) + 1e-4
  )


def pass_at_2_advantages(rewards):
  """All pairs of a group by hand: a pair earns 1 if one of it is right."""
  out = np.zeros_like(rewards)
  for group, found in zip(out, rewards, strict=True):
    pairs = [(i, j) for i in range(4) for j in range(i)]
    earned = np.array([max(found[i], found[j]) for i, j in pairs])
    if earned.std() == 0:
      continue
    scores = (earned - earned.mean()) / earned.std()
    for i in range(4):
      group[i] = np.mean([x for x, p in zip(scores, pairs) if i in p])
  return out


# ---- Tokens that cost the most entropy.


def covariance(frozen, told, data):
  now, _, mask = own(frozen, data)
  center = lambda x: x - (x * mask).sum() / mask.sum()
  return np.where(mask > 0, center(told) * center(now), -np.inf)


def clip_cov(live, frozen, data):
  now, old, mask = own(live, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  ratio = np.exp(now - old)
  losses = clipped(ratio, told, 1.0, 1.0)
  by_ppo = losses > -ratio * told
  found = covariance(frozen, told, data)
  may = (found > 1) & (found < 5) & ~by_ppo
  # A share of the tokens is drawn of those that may be: here as many as may.
  assert 1 < may.sum() <= int(0.03 * mask.sum())
  return token_mean(np.where(may, 0.0, losses), mask)


def kl_cov(live, frozen, data):
  now, old, mask = own(live, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  found = covariance(frozen, told, data).reshape(-1)
  count = max(1, int(mask.sum() * 0.2 / 100))
  chosen = np.zeros(found.shape)
  chosen[np.argsort(-found)[:count]] = 1
  away = np.abs(now - old) * chosen.reshape(mask.shape)
  return token_mean(-told * np.exp(now - old) + away, mask)


# ---- Ratios of answers.


def mean_ratio(now, old, mask):
  """[R, 1] exp of the mean log-ratio of an answer's tokens."""
  size = np.maximum(mask.sum(axis=1, keepdims=True), 1)
  return np.exp((now - old).sum(axis=1, keepdims=True) / size)


def gspo(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  told = z_scores(data.rewards['own']).reshape(-1, 1)
  there = mask.sum(axis=1) > 0
  losses = clipped(mean_ratio(now, old, mask), told, 3e-4, 4e-4)
  return losses[there].mean()


def gspo_token(live, frozen, data):
  now, old, mask = own(live, data)
  before, _, _ = own(frozen, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  ratio = mean_ratio(before, old, mask) * np.exp(now - before)
  return sequence_mean(clipped(ratio, told, 3e-4, 4e-4), mask)


def luspo(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  told = z_scores(data.rewards['own']).reshape(-1, 1)
  size = mask.sum(axis=1)
  losses = clipped(mean_ratio(now, old, mask), told, 2e-3, 2.5e-3)[:, 0]
  return (losses * size).sum() / (size > 0).sum()


def gmpo(live, frozen, data):
  del frozen
  now, old, mask = own(live, data)
  told = z_scores(data.rewards['own']).reshape(-1)
  total = 0.0
  for answer in range(len(mask)):
    size = int(mask[answer].sum())
    if not size:
      continue
    product = 1.0
    for t in range(size):
      ratio = np.exp(now[answer, t] - old[answer, t])
      bounded = np.clip(ratio, np.exp(-0.4), np.exp(0.4))
      worse = min if told[answer] > 0 else max
      product *= worse(ratio, bounded)
    total -= told[answer] * product ** (1 / size)
  return total / (mask.sum(axis=1) > 0).sum()


def vespo(live, frozen, data):
  now, _, mask = own(live, data)
  before, old, _ = own(frozen, data)
  told = at_tokens(z_scores(data.rewards['own']), mask)
  whole = np.exp((before - old).sum(axis=1))
  weight = np.zeros(len(mask))
  for answer, w in enumerate(whole):
    good = told[answer].sum() >= 0
    power, decay = (2.0, 3.0) if good else (3.0, 2.0)
    weight[answer] = w**power * np.exp(decay * (1 - w))
  return -token_mean(weight[:, None] * told * now, mask)


_GRPO = 'https://arxiv.org/abs/2402.03300'
_NO_KL = 'No KL to a reference: recipe grpo_kl has it.'
_ADDED = '1e-4 is added to the spread, as in TRL; verl adds 1e-6.'

FORMS = {
  'reinforce': Form(
    reinforce, 'https://doi.org/10.1007/BF00992696',
    'theorem 1, the group mean as the baseline',
  ),
  'rloo': Form(
    rloo, 'https://arxiv.org/abs/2402.14740', 'eq. 6 and 8',
    'No KL in the reward: a verifier, not a reward model, judges. '
    '--config.kl.place=reward --config.kl.coef=0.03 adds it.',
  ),
  'grpo': Form(
    surrogate(sequence_mean), _GRPO, 'eq. 3; TRL, loss_type "grpo"', _NO_KL
  ),
  'dr_grpo': Form(
    dr_grpo, 'https://arxiv.org/abs/2503.20783',
    'section 3.2; TRL, loss_type "dr_grpo"',
    'The constant is the width of a row, prompt included, not the budget of '
    'new tokens.',
  ),
  'dapo': Form(
    surrogate(token_mean, 0.2, 0.28), 'https://arxiv.org/abs/2503.14476',
    'eq. 8 and 12', 'No dynamic sampling and no penalty for overlong answers.',
  ),
  'bnpo': Form(
    surrogate(token_mean), TRL, TRL_LOSS + ', loss_type "bnpo"'
  ),
  'two_sided': Form(
    two_sided, 'https://arxiv.org/abs/2505.07291', 'section 4.1',
    'No KL (0.001) and no entropy bonus (1e-4).',
  ),
  'dual_clip': Form(
    dual_clip, 'https://arxiv.org/abs/1912.09729',
    'the dual clip, c = 3; verl, compute_policy_loss, clip_ratio_c',
    'Groups in place of a critic, as in verl.',
  ),
  'sequence_masked': Form(
    sequence_masked, 'https://arxiv.org/abs/2512.02556',
    'section 3.1, eq. 9; TRL, get_off_policy_mask',
    'No KL; that of theirs is kl_k3_corrected.',
  ),
  'sapo': Form(
    sapo, 'https://arxiv.org/abs/2511.20347', TRL_LOSS + ', loss_type "sapo"'
  ),
  'high_entropy_tokens': Form(
    high_entropy_tokens, 'https://arxiv.org/abs/2506.01939',
    'the objective of the fifth of a batch with the highest entropy',
    'No dynamic sampling and no penalty for overlong answers.',
  ),
  'lite_ppo': Form(
    surrogate(token_mean, advantages=lite_ppo_advantages),
    'https://arxiv.org/abs/2508.08221',
    TRL_LOSS + ', loss_type "bnpo", scale_rewards "batch"',
  ),
  'pass_at_k': Form(
    surrogate(token_mean, advantages=pass_at_2_advantages),
    'https://arxiv.org/abs/2508.10751',
    'eq. 14 and 15, by going through all sets of a group',
  ),
  'clip_cov': Form(
    clip_cov, 'https://github.com/PRIME-RL/Entropy-Mechanism-of-RL',
    'verl/trainer/ppo/core_algos.py, compute_policy_loss_clip_cov', _ADDED,
  ),
  'kl_cov': Form(
    kl_cov, 'https://github.com/PRIME-RL/Entropy-Mechanism-of-RL',
    'verl/trainer/ppo/core_algos.py, compute_policy_loss_kl_cov', _ADDED,
  ),
  'gspo': Form(gspo, 'https://arxiv.org/abs/2507.18071', 'eq. 5 and 7'),
  'gspo_token': Form(
    gspo_token, 'https://arxiv.org/abs/2507.18071', 'section 4.3'
  ),
  'luspo': Form(
    luspo, 'https://arxiv.org/abs/2602.05261', TRL_LOSS + ', loss_type "luspo"'
  ),
  'gmpo': Form(gmpo, 'https://arxiv.org/abs/2507.20673', 'eq. 4, a product'),
  'vespo': Form(
    vespo, 'https://arxiv.org/abs/2602.10693',
    'section 3.4; TRL, get_gamma_weights',
  ),
}  # fmt: skip

SETTINGS = {
  # Of a group of four, all sets of the usual four are one.
  'pass_at_k': Setting(items=(('advantage.k', '2'),)),
  # One in 5000 tokens, as is usual, would be drawn at random.
  'clip_cov': Setting(items=(('loss.cov_ratio', '0.03'),)),
}
