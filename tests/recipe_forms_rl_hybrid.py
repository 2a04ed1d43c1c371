"""Forms of recipes that learn from demonstrations, or from other answers."""

import numpy as np
from recipe_form import Form
from recipe_harness_rl import Setting, entropy, logps


def lengths(data, kind='own'):
  """(problem, place, row, tokens) of a kind's answers that have any."""
  for b, row in enumerate(data.rows(kind)):
    for k, i in enumerate(row):
      n = int(data.mask[i].sum())
      if n:
        yield b, k, i, n


def z_score(rewards, epsilon):
  return (rewards - rewards.mean()) / (rewards.std(ddof=1) + epsilon)


def grpo_losses(live, data):
  """One array of clipped token losses an answer, z-scored rewards."""
  now, losses = logps(live, data), []
  for b, g, i, n in lengths(data):
    advantage = z_score(data.rewards['own'][b], 1e-4)[g]
    ratio = np.exp(now[i, :n] - data.old_logps[i, :n])
    bounded = np.clip(ratio, 0.8, 1.2)
    losses.append(-np.minimum(ratio * advantage, bounded * advantage))
  return losses


def mean_entropy(table, data, *kinds):
  """Over all tokens of all answers of these kinds."""
  every = entropy(table, data)
  tokens = [every[i, :n] for k in kinds for _, _, i, n in lengths(data, k)]
  return np.concatenate(tokens).mean()


# ---- AEPO.


def aepo(live, frozen, data, target=0.5):
  """GRPO, and log-likelihood of answers that beat their group."""
  hot = True
  for _ in range(data.step):
    hot = mean_entropy(frozen, data, 'own') < target
  now, imitated = logps(live, data), []
  for b, k, i, n in lengths(data, 'explore'):
    own, others = data.rewards['own'][b], data.rewards['explore'][b]
    if z_score(np.concatenate([own, others]), 1e-6)[len(own) + k] > 0.05:
      imitated.append(-now[i, :n])
  alpha = 0.1 if hot else 0.05
  policy = np.concatenate(grpo_losses(live, data)).mean()
  return policy + alpha * np.concatenate(imitated).mean()


# ---- LUFFY and SRFT.


def with_demonstration(data, b):
  """A problem's rewards, the demonstration's last; without one that is cut."""
  own = data.rewards['own'][b]
  shown = data.rewards['expert'][b, 0]
  there = data.finished[data.rows('expert')[b, 0]] > 0
  return np.append(own, shown) if there else own


def shaped(now, i, n):
  """[n] p / (p + 0.1), LUFFY's stand-in for a ratio on demonstrations."""
  p = np.exp(now[i, :n])
  return p / (p + 0.1)


def off_policy(live, data):
  """[sum of tokens] an answer: -A f(p) on demonstrations."""
  now, losses = logps(live, data), []
  for b, _, i, n in lengths(data, 'expert'):
    group = with_demonstration(data, b)
    losses.append(-((group[-1] - group.mean()) * shaped(now, i, n)).sum())
  return losses


def per_width(data, sums):
  """Sums of token losses, by a constant and by the number of answers."""
  return np.mean(sums) / data.row_width


def luffy(live, frozen, data):
  """Ratios that nothing clips, f(p) on demonstrations, an entropy bonus."""
  del frozen
  now, losses = logps(live, data), off_policy(live, data)
  for b, g, i, n in lengths(data):
    advantage = data.rewards['own'][b, g] - with_demonstration(data, b).mean()
    ratio = np.exp(now[i, :n] - data.old_logps[i, :n])
    losses.append(-(advantage * ratio).sum())
  bonus = mean_entropy(live, data, 'own', 'expert')
  return per_width(data, losses) - 0.001 * bonus


def srft(live, frozen, data):
  """NLL and f(p) of demonstrations, signed likelihood of own answers."""
  now, unsure = logps(live, data), entropy(frozen, data)
  losses = off_policy(live, data)
  for b, g, i, n in lengths(data):
    right = data.rewards['own'][b, g] == 1
    weight = 0.1 * np.exp(unsure[i, :n].mean()) if right else -1.0
    losses.append(-(weight * now[i, :n]).sum())
  imitation = [
    -0.5 * np.exp(-unsure[i, :n].mean()) * now[i, :n]
    for _, _, i, n in lengths(data, 'expert')
  ]
  bonus = mean_entropy(live, data, 'own', 'expert')
  total = np.concatenate(imitation).mean() + per_width(data, losses)
  return total - 0.001 * bonus


# ---- CHORD.


def chord(live, frozen, data, share, weigh):
  """(1 - share) GRPO + share NLL, each over its own tokens."""
  now, sure = logps(live, data), np.exp(logps(frozen, data))
  shown = [
    -weigh(sure[i, :n]) * now[i, :n] for _, _, i, n in lengths(data, 'expert')
  ]
  policy = np.concatenate(grpo_losses(live, data)).mean()
  return (1 - share) * policy + share * np.concatenate(shown).mean()


def falling(data, peak=0.9, valley=0.05):
  """CHORD-mu without warm-up: half a cosine over the run."""
  done = data.step / data.num_steps
  return valley + (peak - valley) * 0.5 * (1 + np.cos(np.pi * done))


# ---- Prefix-RFT.


def prefix_rft(live, frozen, data):
  """Dr.GRPO's advantages, the prefix's own where the policy is unsure."""
  now, unsure = logps(live, data), entropy(frozen, data)
  old = data.old_logps.copy()
  given = data.forced > 0
  # Probabilities of what was given are the policy's at the step's start.
  old[given] = logps(data.start, data)[given]
  advantage = np.zeros_like(now)
  for b, g, i, n in lengths(data):
    own = data.rewards['own'][b]
    advantage[i, :n] = own[g] - own.mean()
  for b, _, i, n in lengths(data, 'prefix'):
    reward = data.rewards['prefix'][b, 0]
    advantage[i, :n] = reward
    advantage[i, given[i]] = reward - data.rewards['own'][b].mean()
  places = np.argwhere(given)
  order = np.argsort(unsure[given], kind='stable')
  for i, t in places[order[: int(len(places) * 0.8)]]:
    advantage[i, t] = 0.0
  losses = []
  for kind in ('own', 'prefix'):
    for _, _, i, n in lengths(data, kind):
      a = advantage[i, :n]
      ratio = np.exp(now[i, :n] - old[i, :n])
      worse = np.maximum(-a * ratio, -a * np.clip(ratio, 0.8, 1.2))
      losses.append(np.where(a < 0, np.minimum(-a * 3.0, worse), worse))
  bonus = mean_entropy(live, data, 'own', 'prefix')
  return np.concatenate(losses).mean() - 0.001 * bonus


_WIDTH = (
  'the constant that sums of tokens are divided by is the width of a row, '
  'prompt and answer, and the number of answers (the code: the budget of an '
  'answer, and micro-batches add up)'
)

_EPSILON = '1e-4 is added to the spread of rewards, as in TRL (1e-6)'

FORMS = {
  'aepo': Form(
    aepo,
    'https://github.com/597358816/AEPO/blob/main/verl/trainer/ray_trainer.py',
    'fit, _select_by_advantage; https://arxiv.org/abs/2510.08141, the gradient '
    'with alpha',
    'two more answers for every problem, compared with its own ones (a group '
    'of more for a quarter of the problems); a term of its own with '
    'coefficient 0.1 (at most 60 rows of 2560 in place of own ones, clipped); '
    'the entropy that steers is exact (minus the mean log-probability); '
    + _EPSILON,
  ),
  'luffy': Form(
    luffy,
    'https://github.com/ElliottYan/LUFFY/blob/main/luffy/verl/verl/mix_src/'
    'mix_core_alg.py',
    'compute_token_on_off_policy_loss; mix_actor.py update_policy; '
    'exp_scripts/train.sh',
    _WIDTH,
  ),
  'srft': Form(
    srft,
    'https://github.com/TsinghuaC3I/Unify-Post-Training/blob/main/hpt/verl/'
    'verl/mix_src/mix_core_alg.py',
    'compute_token_on_off_policy_srft_loss with srft_type "paper"; '
    'mix_actor.py update_policy; https://arxiv.org/abs/2506.19767',
    _WIDTH + '; the code is a reimplementation that the authors of HPT made',
  ),
  'chord_mu': Form(
    lambda live, frozen, data: chord(
      live, frozen, data, falling(data), np.ones_like
    ),
    'https://github.com/modelscope/Trinity-RFT/blob/main/trinity/algorithm/'
    'policy_loss_fn/chord_policy_loss.py',
    'MIXCHORDPolicyLossFn, mu_schedule_function: 0.9 to 0.05, no warm-up',
    'the 200 steps of decay are the whole run; ' + _EPSILON,
  ),
  'chord': Form(
    lambda live, frozen, data: chord(
      live, frozen, data, 0.1, lambda p: p * (1 - p)
    ),
    'https://github.com/modelscope/Trinity-RFT/blob/main/trinity/algorithm/'
    'policy_loss_fn/chord_policy_loss.py',
    'MIXCHORDPolicyLossFn with SFTPhiLossFn, mu 0.1',
    _EPSILON,
  ),
  'prefix_rft': Form(
    prefix_rft,
    'https://github.com/ZeroYuHuang/prefix_rft/blob/main/recipe/prefix_rft/'
    'core_algos.py',
    'compute_dr_grpo_prefix_outcome_advantage, compute_policy_loss; '
    'dp_actor.py reshape_func (entropy), update_policy',
    "of the code's advantages the one without a spread and with the reward "
    'itself after a prefix (no script says which was run); forced tokens of a '
    'whole minibatch are ranked, not of a micro-batch',
  ),
}

SETTINGS = {'aepo': Setting(step=1), 'chord_mu': Setting(step=4)}
