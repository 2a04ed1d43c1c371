"""Forms of recipes with a critic, from their papers and the authors' code."""

import dataclasses

import numpy as np
from recipe_form import Form
from recipe_harness_rl import logps

BESSEL = 'spreads are Bessel-corrected, as in TRL and verl'


def spread(tokens: list[np.ndarray]) -> tuple[float, float]:
  """Mean and standard deviation of all tokens of all answers."""
  every = np.concatenate(tokens)
  return every.mean(), np.sqrt(every.var(ddof=1) + 1e-8)


def ppo(
  live,
  data,
  *,
  kl=0.0,
  extra=None,
  scale_rewards=False,
  critic=0.1,
  by_answer=False,
  gamma=1.0,
  lam=0.95,
  clip=0.2,
):
  """Surrogate and critic of PPO on language, one answer after the other.

  kl            nats off the reward of each token
  extra         [B, G, C] rewards of tokens, beside that of the answer
  scale_rewards all rewards over their standard deviation, their mean left
  critic        coefficient of half the critic's squared error
  by_answer     mean over answers of the mean over tokens; else over all tokens
  """
  now, ref = logps(live, data), logps(data.ref, data)
  answers = []
  for b, row in enumerate(data.rows()):
    for g, i in enumerate(row):
      n = int(data.mask[i].sum())
      if not n:
        continue
      reward = -kl * (data.old_logps[i, :n] - ref[i, :n])
      if extra is not None:
        reward = reward + extra[b, g, :n]
      reward[-1] += data.rewards['own'][b, g]
      answers.append((i, n, reward))
  if scale_rewards:
    mean, std = spread([reward for _, _, reward in answers])
    answers = [(i, n, (r - mean) / std + mean) for i, n, r in answers]
  estimates = []
  for i, n, reward in answers:
    before = np.append(data.start.values[i, :n], 0.0)
    advantage = np.zeros(n)
    following = 0.0
    for t in reversed(range(n)):
      delta = reward[t] + gamma * before[t + 1] - before[t]
      following = delta + gamma * lam * following
      advantage[t] = following
    estimates.append((advantage, advantage + before[:n]))
  mean, std = spread([advantage for advantage, _ in estimates])
  losses = []
  for (i, n, _), (advantage, returns) in zip(answers, estimates):
    advantage = (advantage - mean) / std
    ratio = np.exp(now[i, :n] - data.old_logps[i, :n])
    bounded = np.clip(ratio, 1 - clip, 1 + clip)
    policy = np.maximum(-advantage * ratio, -advantage * bounded)
    old, value = data.start.values[i, :n], live.values[i, :n]
    near = np.clip(value, old - clip, old + clip)
    error = np.maximum((value - returns) ** 2, (near - returns) ** 2)
    losses.append(policy + critic * 0.5 * error)
  if by_answer:
    return np.mean([loss.mean() for loss in losses])
  return np.concatenate(losses).mean()


def adaptive_coefficient(data, start=0.2, target=0.1, horizon=40.0):
  """Ziegler's controller after the steps done, all with the same answers."""
  ref = logps(data.ref, data)
  own = data.rows().reshape(-1)
  counted = data.mask[own] > 0
  kl = (data.old_logps[own] - ref[own])[counted].mean()
  coef = start
  for _ in range(data.step):
    coef *= 1 + np.clip(kl / target - 1, -0.2, 0.2) / horizon
  return coef


def cory(live, data, theirs):
  """PPO on the sum of what two models earned, with an adaptive penalty.

  theirs  [B, G] of the other model
  """
  both = {**data.rewards, 'own': data.rewards['own'] + theirs}
  shared = dataclasses.replace(data, rewards=both)
  coef = adaptive_coefficient(data, start=0.4)
  return ppo(live, shared, kl=coef, scale_rewards=True)


def first_answer(data):
  """[B, G] of the answer that all of a group have read."""
  return np.repeat(data.partner_rewards[:, :1], 4, axis=1)


CORY = (
  'the two are trained in turns, each in a run of its own, where the authors '
  'update both on the same answers; they change places between runs; their '
  'scores are normalised by a running mean and spread; the target is 0.1 nats '
  'a token, where theirs is a sum over an answer; '
)


def carft(live, frozen, data):
  """ReFT's PPO and an InfoNCE of right answers with their annotation."""
  del frozen

  def embedded(table, i):
    # A token's state is the one after it was read; the value's softmax over
    # the answer says how much it counts.
    n = int(data.mask[i].sum())
    states = table.states[i, 1 : n + 1]
    weight = np.exp(states[:, -1] - states[:, -1].max())
    return (weight / weight.sum()) @ states

  cosine = lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y)
  pairs = []
  for b, row in enumerate(data.rows()):
    annotated = embedded(data.start, data.rows('expert')[b, 0])
    for g, i in enumerate(row):
      if data.mask[i].any():
        right = data.rewards['own'][b, g] > 0.5
        pairs.append((annotated, embedded(live, i), right))
  every = [answer for _, answer, _ in pairs]
  total = 0.0
  for annotated, answer, right in pairs:
    if right:
      near = np.exp(min(cosine(annotated, answer), 0.9) / 0.2)
      far = sum(np.exp(cosine(annotated, x) / 0.2) for x in every)
      total -= np.log(near / far)
  contrast = total / sum(right for _, _, right in pairs)
  reft = ppo(live, data, kl=0.05, critic=5.0, by_answer=True)
  return reft + 0.1 * contrast


FORMS = {
  'ppo': Form(
    lambda live, frozen, data: ppo(live, data),
    'https://github.com/huggingface/trl/blob/main/trl/experimental/ppo/'
    'ppo_trainer.py',
    'PPOTrainer.train: GAE, whitened; pg_loss + 0.1 vf_loss; also '
    'https://arxiv.org/abs/1707.06347 eq. 7, 9',
    'no KL in the reward (TRL: 0.05)',
  ),
  'ppo_adaptive_kl': Form(
    lambda live, frozen, data: ppo(
      live, data, kl=adaptive_coefficient(data), scale_rewards=True
    ),
    'https://github.com/openai/lm-human-preferences/blob/master/'
    'lm_human_preferences/train_policy.py',
    'PPOTrainer.loss, compute_rewards; AdaptiveKLController',
    'the target is 0.1 nats a token, where theirs is a sum over an answer; '
    'the horizon counts updates (40 of 256 answers), not answers; ' + BESSEL,
  ),
  'rlhf': Form(
    lambda live, frozen, data: ppo(live, data, kl=0.02),
    'https://arxiv.org/abs/2203.02155',
    'eq. 2 with gamma 0, appendix C.4: KL coefficient 0.02, no discount; the '
    'PPO is that of the recipe ppo',
    'no pretraining mix (PPO, not PPO-ptx)',
  ),
  'fine_grained': Form(
    lambda live, frozen, data: ppo(
      live,
      data,
      kl=0.3,
      extra=data.token_rewards,
      scale_rewards=True,
      critic=1.0,
    ),
    'https://github.com/allenai/FineGrainedRLHF/blob/main/fgrlhf/ppo.py',
    'PPOTrainer.compute_advantages, loss; reward.py kl_penalize_reward; '
    'tasks/qa_feedback/training/fine_grained_config.yml',
    "the verifier's reward of the whole answer takes the place of the learned "
    'reward for completeness; ' + BESSEL,
  ),
  'cory': Form(
    lambda live, frozen, data: cory(live, data, data.partner_rewards),
    'https://github.com/Harry67Hu/CORY',
    'imdb_train/cory.py: the pioneer, whose answer the other model reads',
    CORY + BESSEL,
  ),
  'cory_observer': Form(
    lambda live, frozen, data: cory(live, data, first_answer(data)),
    'https://github.com/Harry67Hu/CORY',
    'imdb_train/cory.py: the observer, behind one answer for all of a group',
    CORY + BESSEL,
  ),
  'carft': Form(
    carft,
    'https://github.com/WNQzhu/CARFT/blob/main/code/vae/scripts/'
    'my_cl_trainer_v4.py',
    'train: pg_loss, vf_loss, cl_loss; my_cl_config.py',
    'states are embedded as they are, without the projection to 64 numbers '
    'and its dropout',
  ),
}
