"""Forms of the recipes on pairs without a reference, and of reward models.

The pairs are those of `recipe_forms_preference_pairs`.
"""

import numpy as np
from recipe_answers import (
  GROUP,
  extremes,
  log_sigmoid,
  mean_of_pairs,
  pairs,
  sigmoid,
)
from recipe_form import Form

TRL = 'https://github.com/huggingface/trl'


def _odds(mean: float) -> float:
  """log(P / (1 - P)) of the geometric mean P of the token probabilities."""
  return mean - np.log(1 - np.exp(mean))


def orpo(w, l):
  """One NLL of the chosen answer, and 0.1 of the odds ratio's log-sigmoid."""
  ratio = _odds(w.mean) - _odds(l.mean)
  return -w.mean - 0.1 * log_sigmoid(ratio)


def cpo(w, l):
  """DPO with a uniform reference, and NLL per token."""
  return -log_sigmoid(0.1 * (w.p.sum() - l.p.sum())) - w.mean


def simpo(w, l):
  """Per-token log-probabilities, with a margin of gamma = 0.5 beta."""
  beta, gamma = 2.0, 1.0
  return -log_sigmoid(beta * w.mean - beta * l.mean - gamma)


def alphapo(w, l):
  """SimPO on (1 - P^-alpha) / alpha."""
  alpha, beta, gamma = 0.25, 2.0, 1.0
  reward = lambda side: (1 - np.exp(side.mean) ** -alpha) / alpha
  return -log_sigmoid(beta * (reward(w) - reward(l)) - gamma)


def aligned_sft(w, l):
  """NLL per token, and each side's odds through a log-sigmoid."""
  align = -log_sigmoid(_odds(w.mean)) - log_sigmoid(-_odds(l.mean))
  return -w.mean + align


def slic(w, l):
  """max(0, 1 - S_w + S_l) - 0.1 S_w."""
  good, bad = w.p.sum(), l.p.sum()
  return max(0.0, 1.0 - good + bad) - 0.1 * good


def rrhf(w, l):
  """max(0, per-token gap) and NLL of the better answer."""
  return max(0.0, l.mean - w.mean) - w.mean


def sft(live, frozen, data):
  """Cross-entropy over all tokens of the chosen answers."""
  chosen = [w.p for w, _ in pairs(live, frozen, data)]
  return float(-np.mean(np.concatenate(chosen)))


def _scores(live, data):
  """[(score of the better, of the worse, how much better)] of each pair."""
  values = live['values']
  for problem in data.problems:
    pair = extremes(problem, 'ref', GROUP)
    if pair is not None:
      best, worst = pair
      gap = best.reward - worst.reward
      yield values[best.end], values[worst.end], gap


def _reward_model(loss):
  def value(live, frozen, data):
    del frozen
    return float(np.mean([loss(*pair) for pair in _scores(live, data)]))

  return value


def soft_label(good, bad, strength):
  """Cross-entropy with the probability that the label is right."""
  p = sigmoid(strength)
  return -p * log_sigmoid(good - bad) - (1 - p) * log_sigmoid(bad - good)


_STRENGTH = (
  "The strength of a pair is the gap of the verifier's rewards, in place of "
  'the mean gap of an ensemble of reward models.'
)

FORMS = {
  'orpo': Form(
    mean_of_pairs(orpo),
    'https://arxiv.org/abs/2403.07691',
    "eqs. 6 and 7, lambda 0.1 of the authors' Mistral models",
    "The authors' code and TRL take the NLL over the prompt too.",
  ),
  'cpo': Form(
    mean_of_pairs(cpo),
    'https://arxiv.org/abs/2401.08417',
    'eq. 3',
    "The NLL is a mean over each answer's tokens; eq. 3 has their sum, TRL a "
    'mean over the tokens of the batch.',
  ),
  'simpo': Form(
    mean_of_pairs(simpo),
    'https://github.com/princeton-nlp/SimPO',
    'scripts/simpo_trainer.py, SimPOTrainer.simpo_loss',
  ),
  'alphapo': Form(
    mean_of_pairs(alphapo),
    'https://arxiv.org/abs/2501.03884',
    'the alpha-reward with length normalisation, in the SimPO loss',
  ),
  'aligned_sft': Form(
    mean_of_pairs(aligned_sft),
    'https://github.com/turbo-llm/turbo-alignment',
    'turbo_alignment/trainers/dpo.py, ASFTLoss, with its class defaults',
  ),
  'slic': Form(
    mean_of_pairs(slic),
    'https://arxiv.org/abs/2305.10425',
    'eq. 4: calibration loss and regularisation, delta 1, lambda 0.1',
    "The chosen answer stands for the regularisation's SFT target.",
  ),
  'rrhf': Form(
    mean_of_pairs(rrhf),
    'https://arxiv.org/abs/2304.05302',
    'eqs. 2 to 4, length penalty 1',
    'One pair of eight candidates, the best and the worst, in place of the '
    'sum over all pairs.',
  ),
  'sft': Form(
    sft, TRL, 'trl/trainer/dpo_trainer.py, DPOTrainer._compute_loss, "sft"'
  ),
  'reward_model': Form(
    _reward_model(lambda good, bad, _: -log_sigmoid(good - bad)),
    TRL,
    'trl/trainer/reward_trainer.py, RewardTrainer.compute_loss',
  ),
  'reward_model_centered': Form(
    _reward_model(
      lambda good, bad, _: -log_sigmoid(good - bad) + 0.01 * (good + bad) ** 2
    ),
    TRL,
    'trl/trainer/reward_trainer.py, RewardTrainer.compute_loss, '
    'center_rewards_coefficient',
  ),
  'reward_model_smoothed': Form(
    _reward_model(
      lambda good, bad, _: (
        -0.9 * log_sigmoid(good - bad) - 0.1 * log_sigmoid(bad - good)
      )
    ),
    'https://arxiv.org/abs/2401.06080',
    'the loss with label smoothing, alpha 0.1',
  ),
  'reward_model_soft_label': Form(
    _reward_model(soft_label),
    'https://arxiv.org/abs/2401.06080',
    'the loss with soft labels',
    _STRENGTH,
  ),
  'reward_model_adaptive_margin': Form(
    _reward_model(lambda good, bad, gap: -log_sigmoid(good - bad - gap)),
    'https://arxiv.org/abs/2401.06080',
    'the loss with an adaptive margin',
    _STRENGTH,
  ),
}
