"""Forms of the recipes on single answers with a label.

The rows are eight answers of the reference to each problem, good ones those
with a reward above a half.
"""

import numpy as np
from recipe_answers import log_sigmoid, seer, sigmoid
from recipe_form import Form

TRL = 'https://github.com/huggingface/trl'
BETA = 0.1
LABELS = "The verifier labels eight answers of the start's to each problem."


def _labelled(live, frozen, data):
  """[(log pi / ref, the same detached, is it good)] of every answer."""
  see = seer(live, frozen, data)
  rows = []
  for problem in data.problems:
    for answer in problem.answers['ref']:
      side = see(answer)
      detached = float(np.sum(side.p0 - side.ref))
      rows.append((side.rho, detached, answer.reward > 0.5))
  return rows


def _drift(live, frozen, data):
  """max(0, mean log pi / ref of answers behind another problem's prompt)."""
  see = seer(live, frozen, data)
  count = len(data.problems)
  rhos = []
  for index, problem in enumerate(data.problems):
    for answer in data.problems[(index + 1) % count].answers['ref']:
      side = see(problem.read(answer))
      rhos.append(np.sum(side.p0 - side.ref))
  return max(0.0, float(np.mean(rhos)))


def kto(live, frozen, data):
  """1 - v, v the value of an answer around the policy's drift."""
  point = _drift(live, frozen, data)
  losses = []
  for rho, _, good in _labelled(live, frozen, data):
    gain = rho - point if good else point - rho
    losses.append(1 - sigmoid(BETA * gain))
  return float(np.mean(losses))


def apo_zero_unpaired(live, frozen, data):
  """1 - sigmoid on good answers, sigmoid on bad ones."""
  losses = []
  for rho, _, good in _labelled(live, frozen, data):
    chance = sigmoid(BETA * rho)
    losses.append(1 - chance if good else chance)
  return float(np.mean(losses))


def bco(live, frozen, data):
  """A classifier whose threshold is the mean reward of all answers so far,
  those of this batch among them."""
  rows = _labelled(live, frozen, data)
  mean, count = data.seen
  total = mean * count + sum(BETA * detached for _, detached, _ in rows)
  delta = total / (count + len(rows))
  losses = []
  for rho, _, good in rows:
    gap = BETA * rho - delta
    losses.append(-log_sigmoid(gap if good else -gap))
  return float(np.mean(losses))


FORMS = {
  'kto': Form(
    kto,
    TRL,
    'trl/trainer/kto_trainer.py, KTOTrainer._compute_loss',
    'Answers move on by a whole problem, not by a row, so that none meets its '
    'own prompt.',
  ),
  'apo_zero_unpaired': Form(
    apo_zero_unpaired,
    TRL,
    'trl/trainer/kto_trainer.py, KTOTrainer._compute_loss, "apo_zero_unpaired"',
  ),
  'bco': Form(
    bco,
    TRL,
    'trl/experimental/bco/bco_trainer.py, BCOTrainer.bco_loss and '
    'RunningMoments',
    'The mean takes in a step at once; TRL takes in each of its micro-batches '
    'as it comes.',
  ),
}
