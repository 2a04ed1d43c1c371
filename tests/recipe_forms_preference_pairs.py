"""Forms of the recipes on pairs that have a reference.

The offline rows stand for a data set of the reference's answers: of eight
answers to a problem the best is chosen, the worst rejected, and a problem whose
answers all tie gives no pair. S is the sum of an answer's log-probabilities,
rho = S - S_ref, D = rho_w - rho_l.
"""

import numpy as np
from recipe_answers import (
  log_sigmoid,
  mean_of_pairs,
  pairs,
  seer,
  sigmoid,
)
from recipe_form import Form

TRL = 'https://github.com/huggingface/trl'
DPO_TRAINER = 'trl/trainer/dpo_trainer.py, DPOTrainer._compute_loss'
DATA = "The pairs are the best and the worst of eight answers of the start's."


def _gap(w, l):
  return w.rho - l.rho


def _trl(loss, name: str, differs: str = '') -> Form:
  """A form read in TRL's DPO trainer, under its name there."""
  return Form(mean_of_pairs(loss), TRL, f'{DPO_TRAINER}, "{name}"', differs)


def dpo(w, l):
  """-log sigmoid(0.1 D)."""
  return -log_sigmoid(0.1 * _gap(w, l))


def cdpo(w, l):
  """The label is wrong in a tenth of the pairs."""
  x = 0.1 * _gap(w, l)
  return -0.9 * log_sigmoid(x) - 0.1 * log_sigmoid(-x)


def robust(w, l):
  """The unbiased estimate of the loss on clean labels."""
  x = 0.1 * _gap(w, l)
  return (-0.9 * log_sigmoid(x) + 0.1 * log_sigmoid(-x)) / 0.8


def hinge(w, l):
  """max(0, 1 - 0.1 D)."""
  return max(0.0, 1 - 0.1 * _gap(w, l))


def ipo(w, l):
  """Log-ratios per token, drawn to 1 / (2 beta) apart."""
  return (w.rho / w.p.size - l.rho / l.p.size - 5.0) ** 2


def exo_pair(w, l):
  """KL of the policy's preference to the smoothed label, 0.999 and 0.001."""
  q = sigmoid(0.1 * _gap(w, l))
  label = 1 - 1e-3
  return q * np.log(q / label) + (1 - q) * np.log((1 - q) / (1 - label))


def nca_pair(w, l):
  """The chosen answer as data, both as noise."""
  good, bad = 0.1 * w.rho, 0.1 * l.rho
  noise = 0.5 * log_sigmoid(-good) + 0.5 * log_sigmoid(-bad)
  return -log_sigmoid(good) - noise


def bco_pair(w, l):
  """Each side classified by itself."""
  return -log_sigmoid(0.1 * w.rho) - log_sigmoid(-0.1 * l.rho)


def sppo(w, l):
  """Both log-ratios drawn to +-(1 - 1/2) / beta, beta 0.001; summed."""
  return (w.rho - 500.0) ** 2 + (l.rho + 500.0) ** 2


def apo_zero(w, l):
  """Chosen up, rejected down."""
  return 1 - sigmoid(0.1 * w.rho) + sigmoid(0.1 * l.rho)


def apo_down(w, l):
  """Chosen down, rejected further down."""
  return sigmoid(0.1 * w.rho) + 1 - sigmoid(0.1 * _gap(w, l))


def discopop(w, l):
  """Logistic and exponential losses, mixed by sigmoid(x / 0.05)."""
  x = 0.05 * _gap(w, l)
  share = 1 / (1 + np.exp(-x / 0.05))
  return (1 - share) * -log_sigmoid(x) + share * np.exp(-x)


def sigmoid_norm(w, l):
  """DPO on log-ratios per token."""
  gap = np.mean(w.p - w.ref) - np.mean(l.p - l.ref)
  return -log_sigmoid(0.1 * gap)


def _f_dpo(slope):
  """-log sigmoid(0.1 (f'(u_w) - f'(u_l))), u = pi / ref."""

  def loss(w, l):
    gap = slope(np.exp(w.rho)) - slope(np.exp(l.rho))
    return -log_sigmoid(0.1 * gap)

  return loss


SLOPES = {
  'reverse_kl': lambda u: np.log(u) + 1,
  'forward_kl': lambda u: -1 / u,
  'js': lambda u: np.log(2 * u / (1 + u)),
  'alpha': lambda u: (1 - u**-0.5) / 0.5,
}


def ld_dpo(w, l):
  """Tokens beyond the shorter answer count half, under both models."""
  shared = min(w.p.size, l.p.size)

  def score(p):
    return p[:shared].sum() + 0.5 * p[shared:].sum()

  gap = score(w.p) - score(w.ref) - score(l.p) + score(l.ref)
  return -log_sigmoid(0.1 * gap)


def copg(w, l):
  """Minus the paper's pair objective, in its contrastive form.

  l(y, y') = (R(y) - R(y')) rho(y) + (R(y') - R(y)) rho(y'), where
  R = reward - beta / 2 rho carries a gradient too.
  """
  beta = 0.06
  here = w.reward - beta / 2 * w.rho
  there = l.reward - beta / 2 * l.rho
  objective = (here - there) * w.rho + (there - here) * l.rho
  constant = (w.reward - l.reward) ** 2 / (2 * beta)
  return constant - objective


def _sorted(high, low):
  """Mean of -log sigmoid of 0.1 times the gaps of two sorted samples."""
  gaps = np.sort(high) - np.sort(low)
  return float(np.mean([-log_sigmoid(0.1 * gap) for gap in gaps]))


def aot(live, frozen, data):
  """Margins under the policy over those under the reference, quantile by
  quantile."""
  found = pairs(live, frozen, data)
  return _sorted(
    [w.p.sum() - l.p.sum() for w, l in found],
    [w.ref.sum() - l.ref.sum() for w, l in found],
  )


def aot_unpaired(live, frozen, data):
  """Log-ratios of chosen answers over those of rejected ones."""
  found = pairs(live, frozen, data)
  return _sorted([w.rho for w, _ in found], [l.rho for _, l in found])


def rpo(live, frozen, data):
  """DPO, and cross-entropy over all tokens of the chosen answers."""
  found = pairs(live, frozen, data)
  chosen = np.concatenate([w.p for w, _ in found])
  return float(np.mean([dpo(w, l) for w, l in found]) - np.mean(chosen))


def wpo(live, frozen, data):
  """DPO on own pairs, weighted by how likely the policy would write them."""
  table = np.exp(_log_probs(frozen['logits']))
  collision = np.log((table**2).sum(axis=1))
  see = seer(live, frozen, data)
  losses = []
  for problem in data.problems:
    answers = problem.answers['policy']
    rewards = [answer.reward for answer in answers]
    best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
    if rewards[best] == rewards[worst]:
      continue
    both = answers[best], answers[worst]
    w, l = map(see, both)
    weight = np.prod(
      [
        np.exp(np.mean(side.p0 - collision[answer.states]))
        for side, answer in zip((w, l), both)
      ]
    )
    losses.append(weight * dpo(w, l))
  return float(np.mean(losses))


def _log_probs(table):
  return table - np.log(np.exp(table).sum(axis=1, keepdims=True))


def spin(live, frozen, data):
  """The demonstration against the previous iterate's own answer, whatever the
  verifier says of it."""
  see = seer(live, frozen, data)
  losses = []
  for problem in data.problems:
    own = see(problem.answers['ref'][0])
    gap = see(problem.demonstration).rho - own.rho
    losses.append(np.log1p(np.exp(-0.1 * gap)))
  return float(np.mean(losses))


_DPO = Form(
  mean_of_pairs(dpo),
  'https://arxiv.org/abs/2305.18290',
  "eq. 7, with the authors' beta of 0.1",
)
_OFFLINE_BETA = "beta is this project's 0.1 where the paper takes {}."

FORMS = {
  'dpo': _DPO,
  'sigmoid': _DPO,
  'cdpo': Form(
    mean_of_pairs(cdpo), 'https://ericmitchell.ai/cdpo.pdf', 'eq. 3'
  ),
  'robust': _trl(robust, 'robust'),
  'hinge': _trl(hinge, 'hinge', _OFFLINE_BETA.format('0.05')),
  'ipo': _trl(ipo, 'ipo'),
  'exo_pair': _trl(exo_pair, 'exo_pair'),
  'nca_pair': _trl(nca_pair, 'nca_pair', _OFFLINE_BETA.format('0.01')),
  'bco_pair': _trl(
    bco_pair,
    'bco_pair',
    _OFFLINE_BETA.format('0.01')
    + " The paper's reward shift is left out, as in TRL's paired form; "
    'recipe "bco" has it.',
  ),
  'sppo_hard': Form(
    mean_of_pairs(sppo),
    'https://github.com/uclaml/SPPO',
    'sppo/trainer.py, SPPOTrainer.sppo_loss, "sppo"; beta of '
    'scripts/pipeline.sh',
    "Twice the authors' loss: a pair's two squares are summed, as in TRL, "
    'where they are averaged. The winning probabilities are 1 and 0 in place '
    "of a preference model's, and the pair is the best and the worst of eight.",
  ),
  'aot': Form(aot, TRL, f'{DPO_TRAINER}, "aot"', _OFFLINE_BETA.format('0.01')),
  'aot_unpaired': Form(
    aot_unpaired,
    TRL,
    f'{DPO_TRAINER}, "aot_unpaired"',
    _OFFLINE_BETA.format('0.01'),
  ),
  'apo_zero': _trl(apo_zero, 'apo_zero'),
  'apo_down': _trl(apo_down, 'apo_down'),
  'discopop': _trl(discopop, 'discopop'),
  'sigmoid_norm': _trl(sigmoid_norm, 'sigmoid_norm', _OFFLINE_BETA.format('5')),
  **{
    f'f_dpo_{name}': Form(
      mean_of_pairs(_f_dpo(slope)),
      'https://arxiv.org/abs/2309.16240',
      "table 1: f' of the divergence",
    )
    for name, slope in SLOPES.items()
  },
  'wpo': Form(
    wpo,
    TRL,
    'trl/trainer/dpo_trainer.py, DPOTrainer._compute_loss, use_weighting',
    _OFFLINE_BETA.format('0.01'),
  ),
  'ld_dpo': Form(
    mean_of_pairs(ld_dpo),
    TRL,
    'trl/trainer/dpo_trainer.py, DPOTrainer._compute_loss, ld_alpha',
  ),
  'rpo': Form(
    rpo,
    TRL,
    f'{DPO_TRAINER}, loss_type ["sigmoid", "sft"]; docs/source/paper_index.md',
    "The NLL is a mean over the batch's chosen tokens, as in TRL; the paper's "
    "is a mean over each answer's own.",
  ),
  'tr_dpo': Form(
    mean_of_pairs(dpo),
    'https://arxiv.org/abs/2404.09656',
    'the DPO loss against a reference that moves, replaced every 512 steps',
    _OFFLINE_BETA.format('0.05'),
  ),
  'tr_dpo_soft': Form(
    mean_of_pairs(dpo),
    'https://arxiv.org/abs/2404.09656',
    'the DPO loss against a reference that moves by a share of 0.6 a step',
    _OFFLINE_BETA.format('0.05'),
  ),
  'copg': Form(
    mean_of_pairs(copg),
    'https://arxiv.org/abs/2406.19185',
    'the sample loss of a pair, with rewards regularised at half of beta; '
    'read in summaries of the paper and of Command A, which has the square',
    "The square is completed: (R(y) - R(y'))^2 / (2 beta), which no parameter "
    "moves, is added. The rewards are the verifier's.",
  ),
  'online_dpo': Form(
    mean_of_pairs(dpo, role='policy', size=2),
    'https://arxiv.org/abs/2402.04792',
    'algorithm 1 with the DPO loss: two own answers a prompt',
    'The verifier annotates, and pairs that tie are left out.',
  ),
  'online_ipo': Form(
    mean_of_pairs(ipo, role='policy', size=2),
    'https://arxiv.org/abs/2402.04792',
    'algorithm 1 with the IPO loss: two own answers a prompt',
    'The verifier annotates, pairs that tie are left out, and log-ratios are '
    'per token as in TRL.',
  ),
  'spin': Form(
    spin,
    'https://arxiv.org/abs/2401.01335',
    'eq. 4.7 with the logistic loss and lambda 0.1',
  ),
}
