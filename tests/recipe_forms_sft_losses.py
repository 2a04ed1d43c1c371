"""Objectives on demonstrations and own answers, as their sources have them.

Each is a number of (live, frozen, data), see `recipe_answers_rows`; `rows` are
the rows that learn, and what is averaged over what is said where it is done.
"""

import math

import numpy as np
from recipe_form import Form

ARXIV = 'https://arxiv.org/abs/'


def over_tokens(losses) -> float:
  """One mean over all tokens of all rows."""
  return sum(x.sum() for x in losses) / sum(len(x) for x in losses)


def over_rows(losses) -> float:
  """Each row's token mean, then the mean over rows."""
  return sum(x.mean() for x in losses) / len(losses)


def log_sigmoid(x):
  return -np.logaddexp(0.0, -x)


def kl(log_p, log_q):
  """[n] divergences of [n, V] log-distributions."""
  return (np.exp(log_p) * (log_p - log_q)).sum(-1)


# Likelihood


def sft(live, frozen, data):
  return over_tokens([-live.logps(r) for r in data.demonstrations()])


def label_smoothing(live, frozen, data):
  """Targets 0.9 on the token and 0.1 spread over the whole vocabulary."""
  losses = []
  for r in data.demonstrations():
    target = np.full(live.dist(r).shape, 0.1 / data.vocab)
    target[np.arange(len(r)), r.ids] += 0.9
    losses.append(-(target * live.dist(r)).sum(-1))
  return over_tokens(losses)


def dft(live, frozen, data):
  rows = data.demonstrations()
  return over_tokens([-np.exp(frozen.logps(r)) * live.logps(r) for r in rows])


def prob_alpha(live, frozen, data):
  """Their `GeneralFamily-1`: 1 - p."""
  rows = data.demonstrations()
  return over_tokens([1.0 - np.exp(live.logps(r)) for r in rows])


def prob_threshold(live, frozen, data):
  """-log p where p >= 0.2, over the tokens that are left."""
  kept = [
    -live.logps(r)[np.exp(frozen.logps(r)) >= 0.2]
    for r in data.demonstrations()
  ]
  return over_tokens(kept)


def _anchored(weighted: bool, forward: bool):
  def value(live, frozen, data):
    losses = []
    for r in data.demonstrations():
      weight = np.exp(frozen.logps(r)) if weighted else 1.0
      own, base = live.dist(r), data.models['ref'].dist(r)
      anchor = kl(base, own) if forward else kl(own, base)
      losses.append(-weight * live.logps(r) + 0.05 * anchor)
    return over_tokens(losses)

  return value


def psft(live, frozen, data):
  """The clipped surrogate with advantage 1, both clips written out."""
  losses = []
  for r in data.demonstrations():
    ratio = np.exp(live.logps(r) - data.models['policy'].logps(r))
    losses.append(-np.minimum(ratio, np.clip(ratio, 0.8, 1.28)))
  return over_tokens(losses)


def _importance(per_sequence: bool):
  def value(live, frozen, data):
    losses = []
    for r in data.demonstrations():
      gap = frozen.logps(r) - data.models['ref'].logps(r)
      if per_sequence:
        weight = np.clip(np.exp(1.0 * gap.mean()), 0.0, 16.0)
      else:
        weight = np.clip(np.exp(gap), 1 - 0.8, 1 + 0.8)
      losses.append(-weight * live.logps(r))
    return over_tokens(losses)

  return value


# One token rollouts


def otr(live, frozen, data):
  """256 draws at temperature 1.3; 1 for the demonstrated token, else -0.1."""
  losses = []
  for r in data.demonstrations():
    heat = np.exp(frozen.raw(r) / 1.3)
    edges = np.cumsum(heat, -1)
    dist, loss = live.dist(r), np.zeros(len(r))
    for t, token in enumerate(r.ids):
      draws = data.uniform[r.index, r.columns[t]] * edges[t, -1]
      drawn = np.searchsorted(edges[t], draws, side='right')
      reward = np.where(drawn == token, 1.0, -0.1)
      loss[t] = -(reward * dist[t, drawn]).mean()
    losses.append(loss)
  return over_rows(losses)


def otr_exact(live, frozen, data):
  losses = []
  for r in data.demonstrations():
    q = np.exp(frozen.raw(r) / 1.3)
    q /= q.sum(-1, keepdims=True)
    reward = np.full(q.shape, -0.1)
    reward[np.arange(len(r)), r.ids] = 1.0
    losses.append(-(q * reward * live.dist(r)).sum(-1))
  return over_rows(losses)


# Through the implicit reward


PHI = {
  'chi2': (lambda x: x - x**2 / 4, lambda x: 1 - x / 2),
  'total_variation': (lambda x: x, lambda x: 1.0),
  'hellinger': (lambda x: x / (1 + x), lambda x: 1 / (1 + x) ** 2),
  'js': (
    lambda x: math.log(2 - math.exp(-x)),
    lambda x: math.exp(-x) / (2 - math.exp(-x)),
  ),
  'reverse_kl': (lambda x: -math.exp(-x - 1), lambda x: math.exp(-x - 1)),
}


def _f_sft(name: str):
  phi, slope = PHI[name]

  def value(live, frozen, data):
    total, beta, edge = 0.0, 0.1, -0.5
    rows = data.demonstrations()
    for r in rows:
      u = beta * (live.logps(r) - data.models['ref'].logps(r)).sum()
      line = phi(edge) + slope(edge) * (u - edge)
      total -= (phi(u) if u > edge else line) / beta
    return total / len(rows)

  return value


def poft(live, frozen, data):
  rows = data.demonstrations()
  teacher = data.models['teacher']
  gaps = [live.logps(r).mean() - teacher.logps(r).mean() for r in rows]
  return -np.mean([log_sigmoid(x) for x in gaps])


def _regressed(live, data, rows, scores):
  """(sigmoid of the implicit reward - score)^2, a mean over rows."""
  total = 0.0
  for r, score in zip(rows, scores, strict=True):
    reward = 0.03 * (live.logps(r) - data.models['ref'].logps(r)).sum()
    total += (1 / (1 + math.exp(-reward)) - score) ** 2
  return total / len(rows)


def uft(live, frozen, data):
  rows = data.demonstrations()
  return _regressed(live, data, rows, [1.0] * len(rows))


def una(live, frozen, data):
  rows = sum(data.gold_first('policy'), [])
  return _regressed(live, data, rows, [r.reward for r in rows])


def irl_discriminator(live, frozen, data):
  """Binary cross-entropy of each token: an expert's or the policy's own."""
  losses = []
  for gold, *own in data.gold_first('policy'):
    for r, target in [(gold, 0.9), *((o, 0.1) for o in own)]:
      x = live.values[r.index, r.columns]
      loss = -target * log_sigmoid(x) - (1 - target) * log_sigmoid(-x)
      losses.append(loss)
  return over_tokens(losses)


# Pushing down


def unlikelihood(live, frozen, data):
  """Candidates of a token: all tokens before it, each once, but itself."""
  losses = []
  for r in data.demonstrations():
    loss, dist = -live.logps(r), live.dist(r)
    text = [*r.prompt, *r.ids]
    for t, token in enumerate(r.ids):
      for c in set(text[: len(r.prompt) + t]) - {token}:
        loss[t] -= math.log1p(-math.exp(dist[t, c]))
    losses.append(loss)
  return over_tokens(losses)


def unlikelihood_negative(live, frozen, data):
  losses = []
  for r in sum(data.gold_first('policy'), []):
    logps = live.logps(r)
    losses.append(-logps if r.reward > 0.5 else -np.log1p(-np.exp(logps)))
  return over_tokens(losses)


def forgetting(live, frozen, data):
  """Tokens ranked by how much the clean subset made them likelier."""
  rows = data.demonstrations()
  base, ref = data.models['base'], data.models['ref']
  influence = np.concatenate([ref.logps(r) - base.logps(r) for r in rows])
  loss = np.concatenate([-live.logps(r) for r in rows])
  order = np.argsort(-influence)
  split = math.ceil(0.7 * len(loss))
  return loss[order[:split]].mean() - 0.1 * loss[order[split:]].mean()


def nft(live, frozen, data):
  """dp_actor.py: neg_weight 1, token ratios, normalize 1, clamp_negative 1."""
  old, losses = data.models['policy'], []
  for group in data.groups('policy'):
    right = [r.reward > 0.5 for r in group]
    rate = np.mean(right)
    if rate in (0.0, 1.0):
      continue
    rate = np.clip(rate, 0.02, 0.98)
    for r, good in zip(group, right, strict=True):
      gap = np.minimum(live.logps(r) - old.logps(r), 10.0)
      if good:
        loss = -gap
      else:
        ratio = np.exp(np.minimum(frozen.logps(r) - old.logps(r), 10.0))
        argument = (1 - rate * np.exp(gap)) / (1 - rate)
        # Clamped from below, with the gradient of what it was.
        at = (1 - rate * ratio) / (1 - rate)
        loss = -np.log(argument + np.maximum(at, 1.0) - at)
      losses.append((1 - rate) * loss)
  return over_tokens(losses)


PROB = 'https://github.com/GaotangLi/Beyond-Log-Likelihood'
ASFT = 'https://github.com/zhuchichi56/ASFT'
F_SFT = 'https://github.com/Div99/IQ-Learn'
F_SFT_DIFFERS = (
  'The value of the prompt is 0, phi goes on as a line below -0.5, and the '
  "loss is divided by beta: ours. phi is IQ-Learn's; the paper's own equation "
  'was not read.'
)

FORMS = {
  'sft': Form(sft, ARXIV + '2203.02155', 'section 3.5: one mean over tokens'),
  'label_smoothing': Form(label_smoothing, ARXIV + '1512.00567', 'section 7'),
  'dft': Form(
    dft,
    'https://github.com/yongliang-wu/DFT',
    'verl/trainer/fsdp_dft_trainer.py, _compute_loss_and_backward',
  ),
  'prob_alpha': Form(
    prob_alpha, PROB, 'main_verl/trainer/fsdp_sft_trainer.py, GeneralFamily-1'
  ),
  'prob_threshold': Form(
    prob_threshold,
    PROB,
    'main_verl/trainer/fsdp_sft_trainer.py, OnlyTopP-0.2 with -log p for 1 - p',
    'Kept tokens are counted over the minibatch, theirs over each micro-batch.',
  ),
  'asft': Form(_anchored(True, True), ASFT, 'train_v2.py, mode asft'),
  'asft_reverse': Form(
    _anchored(True, False),
    ARXIV + '2509.23753',
    'the ablation of the direction of the KL',
  ),
  'sft_kl': Form(_anchored(False, True), ASFT, 'train_v2.py, mode sft+kl'),
  'psft': Form(
    psft, 'https://github.com/zwhong714/PSFT', 'recipe/psft/run_psft.sh'
  ),
  **{
    f'iw_sft{ending}': Form(
      _importance(not ending),
      'https://github.com/emmyqin/iw_sft',
      f'bounding_trainers.py, IwSFTLoss, sum_over_time {not ending}, temp 1',
    )
    for ending in ('', '_step')
  },
  'otr': Form(
    otr,
    ARXIV + '2509.26313',
    'section 3: 1 / T over a sequence, 1 / K over samples, reward 1 or beta',
    'beta -0.1 and temperature 1.3 are from a summary; no code was found.',
  ),
  'otr_exact': Form(
    otr_exact,
    ARXIV + '2509.26313',
    'the expectation of the objective of section 3 over its samples',
    'The paper samples 256 tokens; the expectation is ours.',
  ),
  **{
    'f_sft' if name == 'chi2' else f'f_sft_{name}': Form(
      _f_sft(name), F_SFT, f'iq_learn/iq.py, iq_loss, {where}', F_SFT_DIFFERS
    )
    for name, where in (
      ('chi2', 'div chi'),
      ('total_variation', 'phi_grad 1'),
      ('hellinger', 'div hellinger'),
      ('js', 'div js'),
      ('reverse_kl', 'div kl'),
    )
  },
  'irl_discriminator': Form(
    irl_discriminator,
    ARXIV + '1606.03476',
    'section 5, the discriminator',
    'The adversary alone, with labels smoothed by 0.1: the policy that answers '
    'it is another run. SFT as inverse RL (2403.12017) has no code.',
  ),
  'poft': Form(
    poft,
    ARXIV + '2412.12865',
    'section 3.2, L_PoFT with length-normalised log-likelihoods',
    'One model, others.teacher, stands for the three aligned ones.',
  ),
  'uft': Form(
    uft, ARXIV + '2410.21438', 'the MSE of the implicit reward, score 1'
  ),
  'una': Form(
    una,
    ARXIV + '2408.15339',
    'the MSE of the implicit reward against a score in [0, 1]',
    'The verifier gives the scores, of demonstrations and of own answers.',
  ),
  'unlikelihood': Form(
    unlikelihood,
    'https://github.com/facebookresearch/unlikelihood_training',
    'custom/candidate_penalty_ce_loss.py, prev_context',
    'Candidates come from the row and its prompt; theirs from all tokens of '
    'the flattened batch before it. They bound 1 - p at 1e-5.',
  ),
  'unlikelihood_negative': Form(
    unlikelihood_negative,
    'https://github.com/facebookresearch/unlikelihood_training',
    'custom/sequence_penalty_loss.py, C_t = {y_t}',
    'What is pushed down are wrong answers; theirs are repeated n-grams. '
    'Right answers of the model go up with the demonstrations.',
  ),
  'forgetting': Form(
    forgetting,
    'https://github.com/AliTaheri2002/Forgetting-A-New-Mechanism-Towards-'
    'Better-Large-Language-Model-Fine-tuning',
    'source_codes/token_partitioning.py and finetune.py, rho 0.7',
    'The ascent is 0.1 throughout, theirs grows from 0 to 0.25; tokens are '
    'ranked within the batch, theirs over all data.',
  ),
  'nft': Form(
    nft,
    'https://github.com/NVlabs/NFT',
    'dp_actor.py, update_policy, with the settings of train_7B.sh',
    'A mean over tokens; their script divides the sum over the minibatch by '
    '1000. One positive factor a minibatch.',
  ),
}  # fmt: skip
