"""Forms of the recipes on pairs without a reference, and of reward models.

The pairs are those of `recipe_forms_preference_pairs`.
"""

import numpy as np
from recipe_answers import (
  GROUP,
  TURNED,
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


def _told(live, data):
  """`_scores` of pairs that a rater may have turned round."""
  values = live['values']
  for index, problem in enumerate(data.problems):
    pair = extremes(problem, 'ref', GROUP)
    if pair is not None:
      first, second = reversed(pair) if index in TURNED else pair
      gap = first.reward - second.reward
      yield values[first.end], values[second.end], gap


def flipped(loss, fraction=0.2):
  """The mean of `loss` where the weakest of the pairs are turned round, a
  fraction of them and no more."""

  def value(live, frozen, data):
    del frozen
    found = sorted(_told(live, data), key=lambda pair: pair[2])
    weak = int(fraction * len(found) + 1e-9)
    turned = [(bad, good, -gap) for good, bad, gap in found[:weak]]
    return float(np.mean([loss(*pair) for pair in turned + found[weak:]]))

  return value


def meta_rm(rate=0.1, answers=4):
  """The pairs' loss with the head's values one step up

  J = mean over problems of 2 / k^2 sum over i < j of sigmoid(|r_i - r_j|),

  k answers of the reference to each.
  """

  def value(live, frozen, data):
    now = frozen['values']
    step = np.zeros_like(now)
    for problem in data.problems:
      ends = [a.end for a in problem.answers['ref'][:answers]]
      for i, one in enumerate(ends):
        for other in ends[i + 1 :]:
          p = sigmoid(abs(now[one] - now[other]))
          slope = p * (1 - p) * np.sign(now[one] - now[other])
          step[one] += 2 / answers**2 * slope
          step[other] -= 2 / answers**2 * slope
    ahead = live['values'] + rate * step / len(data.problems)
    pairs_of = _scores({'values': ahead}, data)
    return float(
      np.mean([-log_sigmoid(good - bad) for good, bad, _ in pairs_of])
    )

  return value


def soft_margin(good, bad, strength):
  """A doubted pair counts in both orders, by how likely each is."""
  p = sigmoid(strength) if strength < 0 else 1.0
  kept, turned = good - bad - strength, bad - good - -strength
  return -p * log_sigmoid(kept) - (1 - p) * log_sigmoid(turned)


def margin(good, bad, strength):
  """The strength is how far apart the two have to be."""
  return -log_sigmoid(good - bad - strength)


def plain(good, bad, _):
  """Bradley-Terry."""
  return -log_sigmoid(good - bad)


def soft_label(good, bad, strength):
  """Cross-entropy with the probability that the label is right."""
  p = sigmoid(strength)
  return -p * log_sigmoid(good - bad) - (1 - p) * log_sigmoid(bad - good)


_FLIPPED = (
  "The strength of a pair is the gap of the verifier's rewards, or of "
  '`config.strength`, the mean of an ensemble; the weakest fifth is that of '
  "each step's pairs, rounded down, and not of a whole data set's. A fifth of "
  'the pairs is wrong by a knob, in place of raters.'
)
_STRENGTH = (
  "The strength of a pair is the gap of the verifier's rewards, where "
  '`config.strength` names no ensemble of reward models.'
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
    _reward_model(margin),
    'https://arxiv.org/abs/2401.06080',
    'the loss with an adaptive margin',
    _STRENGTH,
  ),
  'reward_model_soft_margin': Form(
    _reward_model(soft_margin),
    'https://arxiv.org/abs/2401.06080',
    'soft labels where the strength is below 0, margins on all pairs',
    _STRENGTH,
  ),
  'reward_model_flip': Form(
    flipped(plain),
    'https://arxiv.org/abs/2401.06080',
    'labels of the weakest pairs flipped',
    _FLIPPED,
  ),
  'reward_model_flip_margin': Form(
    flipped(margin),
    'https://arxiv.org/abs/2401.06080',
    'labels of the weakest pairs flipped, and an adaptive margin',
    _FLIPPED,
  ),
  'meta_rm': Form(
    meta_rm(),
    'https://arxiv.org/abs/2405.00438',
    'the step up the difference loss, then the gradient of the pairs there',
    'The size of the step, 0.1, is ours. The answers are those of the '
    'reference where `meta.sampler` names no newer policy, and the problems '
    'are drawn for them.',
  ),
}
