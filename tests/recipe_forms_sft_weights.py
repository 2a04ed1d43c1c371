"""Cross-entropy whose tokens are weighed or chosen, as the sources have it."""

import functools
import math

import numpy as np
from recipe_answers_rows import follow, reward_of
from recipe_form import Form
from recipe_forms_sft_losses import ARXIV, over_tokens


def _weighed(live, rows, weights) -> float:
  """Weighted losses over the count of all tokens."""
  pairs = zip(rows, weights, strict=True)
  return over_tokens([-w * live.logps(r) for r, w in pairs])


def _kept(live, rows, keeps) -> float:
  """The mean over the tokens that are kept, of the whole batch."""
  pairs = zip(rows, keeps, strict=True)
  return over_tokens([-live.logps(r)[keep] for r, keep in pairs])


def _highest(scores, share, whole: bool) -> list[np.ndarray]:
  """True on the ceil(share N) highest scores, of a row or of the batch."""
  if not whole:
    return [_highest([x], share, True)[0] for x in scores]
  flat = np.concatenate(scores)
  chosen = np.zeros(len(flat), bool)
  chosen[np.argsort(-flat)[: math.ceil(share * len(flat))]] = True
  return np.split(chosen, np.cumsum([len(x) for x in scores])[:-1])


def _talr(frozen, rows):
  """p^(1 / tau), tau the median of the sequences' mean losses."""
  tau = np.median([-frozen.logps(r).mean() for r in rows])
  return [np.exp(frozen.logps(r) / tau) for r in rows]


def talr(live, frozen, data):
  """Weights on the simplex of the batch: the loss is their sum, undivided."""
  rows = data.demonstrations()
  weights = _talr(frozen, rows)
  total = sum(w.sum() for w in weights)
  pairs = zip(rows, weights, strict=True)
  return sum(-(w / total * live.logps(r)).sum() for r, w in pairs)


def talr_floor(live, frozen, data):
  rows = data.demonstrations()
  weights = [np.maximum(w, 0.01) for w in _talr(frozen, rows)]
  return _weighed(live, rows, weights)


def easy_rows(live, frozen, data):
  """exp(-l / tau) of a row, by its mean loss l under the model at the start."""
  rows = data.demonstrations()
  losses = np.array([-data.models['ref'].logps(r).mean() for r in rows])
  weights = np.exp(-losses / np.median(losses))
  return _weighed(
    live, rows, [np.full(len(r), w) for r, w in zip(rows, weights)]
  )


def critical_tokens(live, frozen, data):
  """Tokens whose second and third choice both lead to a wrong answer."""
  rows, keeps = [], []
  for b, (greedy, *_) in enumerate(data.own['ref']):
    row = greedy.at(b)
    if row.reward < 1:
      continue
    ranks = np.argsort(-data.models['ref'].raw(row), -1)[:, 1:3]
    keep = np.zeros(len(row), bool)
    for t in range(len(row)):
      ends = []
      for forced in ranks[t]:
        answer = [*row.ids[:t], forced]
        while len(answer) < 5 and answer[-1] != data.eos:
          answer.append(follow([*row.prompt, *answer], data.vocab))
        ends.append(reward_of(answer))
      keep[t] = max(ends) < 1
    rows.append(row)
    keeps.append(keep)
  return _kept(live, rows, keeps)


def shad(live, frozen, data):
  """Reasoning tokens: those that a model of shuffled answers finds harder."""
  losses = []
  base, shuffled = data.models['base'], data.models['shuffled']
  for r in data.demonstrations():
    hard = -shuffled.logps(r) + base.logps(r) > 0
    if hard.all() or not hard.any():
      losses.append(-live.logps(r).mean())
      continue
    kinds = [-frozen.logps(r)[hard].mean(), -frozen.logps(r)[~hard].mean()]
    weights = np.exp(np.array(kinds) / 3.0)
    weights /= weights.sum()
    now = [-live.logps(r)[hard].mean(), -live.logps(r)[~hard].mean()]
    losses.append(weights @ np.array(now))
  return sum(losses) / len(losses)


def token_cleaning(live, frozen, data):
  rows = data.demonstrations()
  base, ref = data.models['base'], data.models['ref']
  scores = [-base.logps(r) + ref.logps(r) for r in rows]
  return _kept(live, rows, _highest(scores, 0.6, True))


def rho1(live, frozen, data):
  rows = data.demonstrations()
  ref = data.models['ref']
  excess = [-frozen.logps(r) + ref.logps(r) for r in rows]
  return _kept(live, rows, _highest(excess, 0.6, True))


def ss_token(live, frozen, data):
  rows = data.demonstrations()
  history = data.models['ref']
  excess = [-history.logps(r) + frozen.logps(r) for r in rows]
  return _kept(live, rows, _highest(excess, 0.6, False))


def _spread(x):
  return (x - x.min()) / (x.max() - x.min())


@functools.lru_cache(maxsize=4)
def _q_tuned(frozen, data):
  """A quarter of the rows; half of the tokens of confident mistakes."""
  rows = data.demonstrations()
  ppl = np.array([np.exp(-frozen.logps(r).mean()) for r in rows])
  ent = np.array([frozen.entropy(r).mean() for r in rows])
  wanted = math.ceil(0.25 * len(rows))

  def corners(a):
    q = np.quantile
    second = (ppl >= q(ppl, 1 - a)) & (ent <= q(ent, a))
    fourth = (ppl <= q(ppl, a)) & (ent >= q(ent, 1 - a))
    return second, fourth & ~second

  low, high = 0.0, 0.49
  for _ in range(10):
    a = (low + high) / 2
    second, fourth = corners(a)
    low, high = (a, high) if (second | fourth).sum() < wanted else (low, a)
  second, fourth = corners(high)
  chosen = list(np.flatnonzero(second | fourth))
  rest = np.abs(_spread(ppl) - _spread(ent))
  for b in np.argsort(-rest):
    if len(chosen) < wanted and b not in chosen:
      chosen.append(b)
  keeps = []
  for b, r in enumerate(rows):
    keep = np.full(len(r), b in chosen)
    if second[b]:
      own = np.exp(-frozen.logps(r))
      score = 0.5 * own
      score[1:] += 0.5 * own[:-1]
      score[:-1] += 0.5 * own[1:]
      keep &= _highest([-score], 0.5, True)[0]
    keeps.append(keep)
  return keeps


def q_tuning(live, frozen, data):
  return _kept(live, data.demonstrations(), _q_tuned(frozen, data))


def _unshared(a, b) -> np.ndarray:
  """True on tokens of `a` outside its longest common subsequence with `b`.

  From the left; of equally long ways the one that passes over `a` first.
  """
  size = np.zeros((len(a) + 1, len(b) + 1), int)
  for i in reversed(range(len(a))):
    for j in reversed(range(len(b))):
      same = a[i] == b[j]
      best = max(size[i + 1, j], size[i, j + 1])
      size[i, j] = size[i + 1, j + 1] + 1 if same else best
  changed, i, j = np.ones(len(a), bool), 0, 0
  while i < len(a) and j < len(b):
    if a[i] == b[j]:
      changed[i] = False
      i, j = i + 1, j + 1
    elif size[i + 1, j] >= size[i, j + 1]:
      i += 1
    else:
      j += 1
  return changed


def _first_wrong(data, role, problem):
  """A wrong answer of the model as the row beside the batch's, or None."""
  wrong = [a for a in data.own[role][problem][: data.size] if a.reward < 1]
  return wrong[0].at(len(data.gold) + problem) if wrong else None


def fait(live, frozen, data):
  rows, weights = data.demonstrations(), []
  for r in rows:
    weight = np.ones(len(r))
    wrong = _first_wrong(data, 'policy', r.problem)
    if wrong is not None:
      changed = _unshared(r.ids, wrong.ids)
      others = _unshared(wrong.ids, r.ids)
      mean = lambda x, at: x[at].mean() if at.any() else 0.0
      right_score = mean(frozen.logps(r), changed)
      wrong_score = mean(frozen.logps(wrong), others)
      prefers = 1 / (1 + math.exp(right_score - wrong_score))
      weight[changed] += 2.0 * prefers
    weights.append(weight)
  return _weighed(live, rows, weights)


def tl_training(live, frozen, data):
  """Key tokens together weigh as much as the others, at most nine times."""
  losses = []
  for r in data.demonstrations():
    key = np.zeros(len(r), bool)
    for answer in data.own['policy'][r.problem][: data.size]:
      if answer.reward >= 1:
        continue
      same = 0
      while (
        same < min(len(r), len(answer.tokens))
        and r.ids[same] == answer.tokens[same]
      ):
        same += 1
      if same < len(r):
        key[same] = True
    weight = np.ones(len(r))
    if 0 < key.sum() < (~key).sum():
      weight[key] = min((~key).sum() / key.sum(), 9)
    losses.append(-(weight * live.logps(r)).sum() / weight.sum())
  return sum(losses) / len(losses)


def high_entropy(live, frozen, data):
  """The top fifth of the batch, over the count of all tokens."""
  rows = data.demonstrations()
  keeps = _highest([frozen.entropy(r) for r in rows], 0.2, True)
  return _weighed(live, rows, [keep.astype(float) for keep in keeps])


def upft(live, frozen, data):
  """Own answers unchecked: their first eight tokens; of a tenth, all."""
  rows, keeps = [], []
  for group in data.groups('ref'):
    for r in group:
      rows.append(r)
      whole = data.chances[r.index] < 0.1
      keeps.append((np.arange(len(r)) < 8) | whole)
  return _kept(live, rows, keeps)


def chord_phi(live, frozen, data):
  rows = data.demonstrations()
  probs = [np.exp(frozen.logps(r)) for r in rows]
  return _weighed(live, rows, [p * (1 - p) for p in probs])


def srft_demonstrations(live, frozen, data):
  rows = data.demonstrations()
  weights = [0.5 * np.exp(-frozen.entropy(r).mean()) for r in rows]
  return _weighed(live, rows, weights)


NO_CODE = 'No code of the authors was found.'

FORMS = {
  'talr': Form(
    talr,
    ARXIV + '2509.20758',
    'the closed form of the weights on the simplex, tau the median sequence',
    NO_CODE + ' Whether the simplex is of the batch or of a sequence is not '
    'known: here of the batch. tau is at least 1e-3.',
  ),
  'talr_floor': Form(
    talr_floor,
    'https://github.com/shankarp8/distillation-retains-capabilities',
    'src/disc/objectives.py, talr_loss and compute_dynamic_tau',
    'Of an even number of rows the median is between the two in the middle, '
    'theirs the lower one; tau is at least 1e-3, theirs 1e-6.',
  ),
  'easy_rows': Form(
    easy_rows,
    ARXIV + '2502.02797',
    'algorithm 1: weights of samples by the loss before training, tau its '
    'median',
    "The median is of the rows of a batch, the paper's of the data set; a "
    "row's loss is its mean over tokens. The authors' code was not read.",
  ),
  'critical_tokens': Form(
    critical_tokens,
    ARXIV + '2510.10974',
    'counterfactuals of greedy right answers: choices 2 and 3 both wrong',
    NO_CODE + ' The loss is a mean over the critical tokens of the batch; '
    "the paper's normalisation was not read.",
  ),
  'shad': Form(
    shad,
    ARXIV + '2412.14780',
    'loss difference after shuffled answers; softmax of the two mean losses',
    'tau is 3, inside of the range that the paper finds robust.',
  ),
  'token_cleaning': Form(
    token_cleaning,
    'https://github.com/UCSC-REAL/TokenCleaning',
    'scripts/generate_token_label.py, get_global_top_k_indices, 0.6',
    'Ranked within the batch, theirs over all data; the share is rounded up, '
    'theirs down.',
  ),
  'rho1': Form(
    rho1,
    ARXIV + '2404.07965',
    'equations 3 to 5, ranked in a batch as section 2.2 says',
    'The share of 60% is rounded up to whole tokens.',
  ),
  'ss_token': Form(
    ss_token,
    'https://github.com/jianke0604/ssToken',
    'scripts/finetune.py, filter_tokens_with_attention_loss',
    'The attention on the prompt is left out (ratio 1, theirs 0.5), and the '
    'history model is the policy of up to 50 steps ago, theirs the base.',
  ),
  'q_tuning': Form(
    q_tuning,
    ARXIV + '2509.23873',
    'algorithm 1 and equation 7, a quarter of rows and half of their tokens',
    NO_CODE + ' After ten halvings the wider end is taken, so that enough '
    'rows are kept.',
  ),
  'fait': Form(
    fait,
    ARXIV + '2503.16913',
    'the weighted loss on tokens that differ from a wrong variant',
    NO_CODE + ' The weight of a differing token is ours; wrong variants are '
    "the policy's own answers, theirs a teacher's; no diff of lines first.",
  ),
  'tl_training': Form(
    tl_training,
    'https://github.com/Junjie-Ye/TL-Training',
    'code/pkt/utils.py, GCELoss with q 0 and max_weight 9, one row a batch',
    'Key tokens are where a wrong own answer departs from the demonstration; '
    "theirs begin a tool's name or follow a prefix that two names share.",
  ),
  'high_entropy': Form(
    high_entropy,
    ARXIV + '2506.01939',
    'the top 20% of a batch by entropy, over the count of all tokens',
    "On the cross-entropy of demonstrations; the paper's objective is DAPO's.",
  ),
  'upft': Form(
    upft,
    ARXIV + '2503.02875',
    'NLL of prefixes of 8 tokens, of a tenth of the answers as a whole',
    'A cut answer is asked for with the ordinary prompt, theirs with one that '
    'wants the first steps alone.',
  ),
  'chord_phi': Form(
    chord_phi,
    ARXIV + '2508.11408',
    'the token weight phi',
    'The supervised half alone, coefficient 1.',
  ),
  'srft_demonstrations': Form(
    srft_demonstrations,
    ARXIV + '2506.19767',
    'the supervised term: 0.5 exp(-entropy) of a row, detached',
    'The supervised half alone.',
  ),
}  # fmt: skip
