"""Forms of the GFlowNet recipes, from their papers and the authors' code.

A state is the text before a token; it has one parent, so that the backward
policy is 1. An answer's states are 0 .. n, n its tokens; state n is the whole
answer, and its flow is the reward.
"""

import numpy as np
from recipe_form import Form
from recipe_harness_rl import log_softmax, logps

FLOOR = 1e-6


def answers(data):
  """(problem, place in its group, row, tokens) of answers that have any."""
  for b, row in enumerate(data.rows()):
    for g, i in enumerate(row):
      n = int(data.mask[i].sum())
      if n:
        yield b, g, i, n


def log_reward(reward):
  return np.log(np.maximum(reward, FLOOR))


def log_flows(live, data):
  """[n + 1] log F of each answer's states, and log P_F of its n tokens."""
  now = logps(live, data)
  for b, g, i, n in answers(data):
    end = log_reward(data.rewards['own'][b, g])
    yield np.append(live.values[i, :n], end), now[i, :n]


def trajectory_balance(live, frozen, data):
  """(log Z + sum of log P_F - log R)^2, a mean over answers."""
  del frozen
  squares = [
    (flows[0] + path.sum() - flows[-1]) ** 2
    for flows, path in log_flows(live, data)
  ]
  return np.mean(squares)


def detailed_balance(live, frozen, data):
  """(log F + log P_F - log F of the next state)^2, a mean over transitions."""
  del frozen
  squares = [
    (flows[:-1] + path - flows[1:]) ** 2
    for flows, path in log_flows(live, data)
  ]
  return np.concatenate(squares).mean()


def sub_trajectory_balance(live, frozen, data, lam=0.9):
  """Every piece of an answer, weighted by lam to its length."""
  del frozen
  means = []
  for flows, path in log_flows(live, data):
    n, weights, total = len(path), 0.0, 0.0
    for i in range(n):
      for j in range(i + 1, n + 1):
        residual = flows[i] + path[i:j].sum() - flows[j]
        weights += lam ** (j - i)
        total += lam ** (j - i) * residual**2
    means.append(total / weights)
  return np.mean(means)


def variance(live, frozen, data):
  """Var-TB: (zeta - its mean over the problem's answers)^2."""
  del frozen
  now, squares = logps(live, data), []
  zetas = [[] for _ in data.rows()]
  for b, g, i, n in answers(data):
    end = log_reward(data.rewards['own'][b, g])
    zetas[b].append(now[i, :n].sum() - end)
  for zeta in zetas:
    squares.append((np.array(zeta) - np.mean(zeta)) ** 2)
  return np.concatenate(squares).mean()


def stops(live, data):
  """(log R, log P_F, log P_stop), [n] each, of states that may be the last.

  P_F of the state before the stop token is that of stopping; no piece has it.
  """
  now = logps(live, data)
  stop = log_softmax(live.logits)[..., data.eos]
  for b, g, i, n in answers(data):
    rewards = log_reward(data.stopped_rewards[b, g, :n])
    yield rewards, now[i, :n], stop[i, :n]


def detailed_balance_stop(live, frozen, data):
  """Pieces of one transition, summed over an answer; a mean over answers."""
  del frozen
  sums = []
  for reward, path, stop in stops(live, data):
    residual = reward[:-1] + path[:-1] + stop[1:] - reward[1:] - stop[:-1]
    sums.append((residual**2).sum())
  return np.mean(sums)


def pieces_stop(live, data):
  """All pieces of each answer, averaged (0 for a single state)."""
  means = []
  for reward, path, stop in stops(live, data):
    squares = [
      (reward[i] + path[i:j].sum() + stop[j] - reward[j] - stop[i]) ** 2
      for i in range(len(path))
      for j in range(i + 1, len(path))
    ]
    means.append(np.mean(squares) if squares else 0.0)
  return np.mean(means)


def flower(live, frozen, data):
  """0.999 NLL of the item that was taken, 0.001 SubTB of sampled ones."""
  del frozen
  now = logps(live, data)
  shown = data.rows('expert').reshape(-1)
  likelihood = now[shown][data.mask[shown] > 0].mean()
  return -0.999 * likelihood + 0.001 * pieces_stop(live, data)


_FLOW = 'rewards have a floor of 1e-6'
_STATES = 'states are texts before tokens, not before actions; ' + _FLOW

FORMS = {
  'trajectory_balance': Form(
    trajectory_balance,
    'https://arxiv.org/abs/2201.13259',
    'eq. 14; https://github.com/GFNOrg/torchgfn TBGFlowNet.loss',
    _FLOW,
  ),
  'detailed_balance': Form(
    detailed_balance,
    'https://github.com/GFNOrg/torchgfn/blob/master/src/gfn/gflownet/'
    'detailed_balance.py',
    'DBGFlowNet.get_scores, loss; https://arxiv.org/abs/2111.09266 section 3.2',
    _FLOW,
  ),
  'sub_trajectory_balance': Form(
    sub_trajectory_balance,
    'https://github.com/GFNOrg/torchgfn/blob/master/src/gfn/gflownet/'
    'sub_trajectory_balance.py',
    'SubTBGFlowNet, weighting "geometric_within", lamda 0.9; '
    'https://arxiv.org/abs/2209.12782 eq. 8',
    _FLOW,
  ),
  'gflowvlm_var_tb': Form(
    variance,
    'https://arxiv.org/abs/2503.06514',
    'Var-TB: zeta and its variance over N trajectories',
    _FLOW + '; no weight of 0.4 on tokens of a thought',
  ),
  'gflowvlm_db': Form(
    detailed_balance_stop,
    'https://arxiv.org/abs/2503.06514',
    'DB with R / P_T as the flow of a state',
    "an answer's transitions are added up; " + _STATES,
  ),
  'gflowvlm_sub_tb': Form(
    lambda live, frozen, data: pieces_stop(live, data),
    'https://arxiv.org/abs/2503.06514',
    'SubTB, with the R(s_j) in the denominator that its DB has',
    'a mean over the pieces of an answer, not their sum; ' + _STATES,
  ),
  'flower': Form(
    flower,
    'https://github.com/Mr-Peach0301/Flower/blob/main/with_history/code/'
    'utils_logp_div_s.py',
    'modified_subtb_loss with subtb_lambda 1; train_sft-gfn_logp_div_s.py '
    'compute_loss: train_theta 0.999',
    "the verifier's reward of a prefix, not the popularity of items; pieces "
    "are averaged within an answer (a micro-batch's together in the code); "
    + _FLOW,
  ),
}
