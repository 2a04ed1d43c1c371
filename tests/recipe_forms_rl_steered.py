"""Forms of groups held near a reference, or near an entropy, and of MRT."""

import numpy as np
from recipe_form import Form
from recipe_harness_rl import (
  Setting,
  entropy,
  log_softmax,
  logps,
)

_GRPO = 'https://arxiv.org/abs/2402.03300'


def answers(data):
  """(problem, place in its group, row, tokens) of answers that have any."""
  for b, row in enumerate(data.rows()):
    for g, i in enumerate(row):
      n = int(data.mask[i].sum())
      if n:
        yield b, g, i, n


def z_score(rewards, epsilon=1e-4):
  """A group's rewards less their mean, over their spread (as TRL's)."""
  return (rewards - rewards.mean()) / (rewards.std(ddof=1) + epsilon)


def surrogate(now, data, i, n, advantage):
  """[n] PPO's clipped loss of an answer's tokens."""
  ratio = np.exp(now[i, :n] - data.old_logps[i, :n])
  bounded = np.clip(ratio, 0.8, 1.2)
  return -np.minimum(ratio * advantage, bounded * advantage)


def grpo(live, data, beta, divergence):
  """GRPO's eq. 3: clipped tokens plus beta times a divergence, by answer."""
  now, losses = logps(live, data), []
  for b, g, i, n in answers(data):
    advantage = z_score(data.rewards['own'][b])[g]
    policy = surrogate(now, data, i, n, advantage)
    losses.append((policy + beta * divergence(i, n)).mean())
  return np.mean(losses)


def unbiased(live, data):
  """(answer, tokens) -> ref / now - log(ref / now) - 1, GRPO's eq. 4."""
  now, ref = logps(live, data), logps(data.ref, data)

  def at(i, n):
    apart = ref[i, :n] - now[i, :n]
    return np.exp(apart) - apart - 1

  return at


def exact(live, data):
  """(answer, tokens) -> sum over the vocabulary of p log(p / ref)."""
  now, ref = log_softmax(live.logits), log_softmax(data.ref.logits)
  return lambda i, n: (np.exp(now) * (now - ref)).sum(axis=-1)[i, :n]


def v_shaped(data, low=0.04, high=0.1, turn=0.3):
  """GRPO-D's coefficient: s of t steps done, the turn after w of them."""
  steps, total = data.step, data.num_steps
  turning = turn * total
  middle = (low + high) / 2
  if steps <= turning:
    return middle - (middle - low) * steps / turning
  return low + (high - low) * (steps - turning) / (total - turning)


def adaptive_entropy(live, frozen, data, target=1.4):
  """GRPO by tokens, and an entropy bonus that is on below a target."""
  own = data.rows().reshape(-1)
  counted = data.mask[own] > 0
  measured = entropy(frozen, data)[own][counted].mean()
  coef, on = 0.0, True
  for _ in range(data.step):
    coef = np.clip(coef + (0.005 if measured <= target else -0.005), 0, 1)
    on = measured <= target
  now, losses = logps(live, data), []
  for b, g, i, n in answers(data):
    advantage = z_score(data.rewards['own'][b])[g]
    losses.append(surrogate(now, data, i, n, advantage))
  bonus = entropy(live, data)[own][counted].mean()
  return np.concatenate(losses).mean() - coef * on * bonus


def mrt(live, frozen, data):
  """GRPO on the outcome; progress still to come, less its mean in the group."""
  del frozen
  now, losses = logps(live, data), []
  for b, g, i, n in answers(data):
    outcome = z_score(data.rewards['own'][b])[g]
    to_come = [
      [data.token_rewards[b, other, t:].sum() for t in range(n)]
      for other in range(len(data.rows()[b]))
    ]
    progress = np.array(to_come[g]) - np.mean(to_come, axis=0)
    losses.append(surrogate(now, data, i, n, outcome + progress))
  return np.concatenate(losses).mean()


FORMS = {
  'grpo_kl': Form(
    lambda live, frozen, data: grpo(live, data, 0.04, unbiased(live, data)),
    _GRPO,
    'eq. 3 and 4, section 4.2 (coefficient 0.04)',
  ),
  'grpo_full_kl': Form(
    lambda live, frozen, data: grpo(live, data, 0.04, exact(live, data)),
    _GRPO,
    'eq. 3; the divergence that eq. 4 estimates',
    'the divergence is summed over the vocabulary, not estimated on the '
    'token that was drawn',
  ),
  'grpo_d': Form(
    lambda live, frozen, data: grpo(
      live, data, v_shaped(data), unbiased(live, data)
    ),
    'https://arxiv.org/abs/2503.16081',
    'eq. 1 to 5, section 4: 0.04 to 0.1, the turn after 0.3 of the steps',
    'of the first step no step is done, and the fraction is 0',
  ),
  'adaptive_entropy': Form(
    adaptive_entropy,
    'https://github.com/SkyworkAI/Skywork-OR1/blob/main/verl/trainer/ppo/'
    'core_algos.py',
    'EntController; verl/workers/actor/dp_actor.py update_policy',
    "steps of 0.005 up to 1 as in TRL (Skywork's scripts: 0.0001, 0.005); the "
    'entropy is exact, not that of the drawn tokens; on where it is at the '
    'target (below it in the code, at or below it in the paper); 1e-4 is '
    'added to the spread of rewards, as in TRL (1e-6)',
  ),
  'mrt': Form(
    mrt,
    'https://arxiv.org/abs/2503.07572',
    'the outcome plus alpha times the progress of each episode; '
    'https://github.com/CMU-AIRe/MRT/blob/main/train/rl/README.md',
    "the paper's continuations of one prefix are whole answers here, and a "
    'token is told of the progress of its own episode and of later ones; the '
    "progress is compared with the group's, not divided by its spread (the "
    "authors' note on RL subtracts the reward of stopping in place of the "
    "group's mean)",
  ),
}

SETTINGS = {
  'grpo_d': Setting(step=5),
  'adaptive_entropy': Setting(
    items=(('entropy_controller.target', '1.4'),), step=3
  ),
}
