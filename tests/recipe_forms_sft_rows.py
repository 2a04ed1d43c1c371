"""Cross-entropy on rows that a loop makes, which answers and how often; and on
rows that a model has a part in reading."""

import dataclasses

import numpy as np
from recipe_answers_rows import moved
from recipe_form import Form
from recipe_forms_sft_losses import ARXIV, over_rows, over_tokens, sft


def _of(rows):
  """Plain NLL over the tokens of these rows."""
  return lambda live, frozen, data: over_tokens(
    [-live.logps(r) for r in rows(data)]
  )


def _accepted(data):
  """Right answers of the frozen sampler, each once."""
  rows = []
  for group in data.groups('ref'):
    seen = set()
    for r in group:
      if r.reward > 0.5 and tuple(r.ids) not in seen:
        rows.append(r)
      seen.add(tuple(r.ids))
  return rows


def _best(least: float):
  """The best answer of each group, the first of several, above `least`."""

  def rows(data):
    chosen = []
    for b, group in enumerate(data.own['policy']):
      best = max(group[: data.size], key=lambda a: a.reward)
      if best.reward > least:
        chosen.append(best.at(b))
    return chosen

  return rows


def _rehearsed(hint: bool):
  """The start's own answer where it is right, else the demonstration."""

  def rows(data):
    chosen = []
    for b, gold in enumerate(data.gold):
      own, again = data.own['ref'][b][0], data.again[b]
      if own.reward >= 1:
        chosen.append(own.at(b))
      elif hint and again.reward >= 1:
        chosen.append(again.at(b))
      else:
        chosen.append(gold.at(b))
    return chosen

  return rows


def _judged(oracle: bool):
  """All answers, each behind its verdict.

  What is said of bad ones is in the second half of the table.
  """

  def rows(data):
    groups = data.gold_first('policy') if oracle else data.groups('policy')
    bad = lambda r: dataclasses.replace(r, index=data.rows + r.index)
    return [r if r.reward > 0.5 else bad(r) for group in groups for r in group]

  return rows


def _without_question(live, frozen, data):
  """Answers from column 0 on, all tokens but the first."""
  del frozen
  late = lambda r: dataclasses.replace(
    r, ids=r.ids[1:], columns=np.arange(1, len(r))
  )
  return over_tokens([-live.logps(late(r)) for r in data.demonstrations()])


def _second_tries(live, frozen, data):
  """exp(reward) times the token mean of each turn, averaged over turns."""
  del frozen
  turns = []
  for b, group in enumerate(data.own['policy']):
    turns.append(group[0].at(2 * b))
    if group[0].reward < 1:
      tries = data.own['teacher'][b][: data.size]
      turns.append(max(tries, key=lambda a: a.reward).at(2 * b + 1))
  losses = [np.exp(r.reward) * -live.logps(r).mean() for r in turns]
  return sum(losses) / len(losses)


def ift(live, frozen, data):
  """Weights carry a gradient: nothing of them is read from `frozen`; what the
  model would have said is, and moves its logits."""
  losses = []
  for r in data.demonstrations():
    said = np.argmax(frozen.raw(r), -1)
    whole = np.concatenate([r.prompt, said])[None]
    vocab = live.logits.shape[-1]
    logits = live.raw(r) + moved(np, whole, 0.2, vocab)[0, r.columns]
    loss = np.logaddexp.reduce(logits, -1) - logits[np.arange(len(r)), r.ids]
    item, steps = loss / len(r), range(len(r))
    future = [sum(0.95 ** (i - t) * item[i] for i in steps[t:]) for t in steps]
    losses.append(loss * np.array(future) * len(r) / sum(future))
  return over_rows(losses)


FORMS = {
  'ift': Form(
    ift,
    'https://github.com/TsinghuaC3I/Intuitive-Fine-Tuning',
    'src/trainers.py, get_cumsum_weight (left, loss, L1) and get_batch_metrics',
    'Where embeddings are tied, the table that is mixed is the present one; '
    'theirs is the first. Without ties it gets no gradient and stays.',
  ),
  'qfft': Form(
    _without_question,
    ARXIV + '2506.12860',
    'NLL of the answer alone; the template has no question',
    'The first token of an answer is not predicted: nothing stands before it, '
    'as with their tokenizer, which begins no text.',
  ),
  'rise': Form(
    _second_tries,
    'https://github.com/cmu-mind/RISE',
    'train.py, compute_loss; workflow_convert.py, criteria "all"',
    'Two turns, drawn anew in every step; theirs are collected once an '
    'iteration. The temperature is 1, where their script has 0.4, the best is '
    'of 8, theirs of 16, and what is told of an answer is its mark.',
  ),
  'l2_to_start': Form(
    sft,
    ARXIV + '1802.01483',
    'equation 2, beside the likelihood',
    'The pull to the start is added by the optimizer, to the gradient, and is '
    'not in the loss that a run logs; its strength of 0.01 is ours.',
  ),
  'rejection_sampling': Form(
    _of(_accepted),
    ARXIV + '2308.01825',
    'rejection sampling: right answers, different ones only',
    'Two answers are the same if all tokens are; theirs if their equations '
    'are. Demonstrations are not added.',
  ),
  'expert_iteration': Form(
    _of(_accepted),
    ARXIV + '2312.06585',
    'E-step and M-step with a binary reward: the last iteration samples',
    'Every iteration goes on from the last one, theirs from the base; answers '
    'are taken once each, theirs at most ten of a problem.',
  ),
  'raft': Form(
    _of(_best(0.0)),
    ARXIV + '2304.06767',
    'algorithm 1: the best of the samples of each prompt',
    'Problems whose best answer earns nothing are left out, there the best '
    'is taken whatever it earns.',
  ),
  's3ft': Form(
    _of(_rehearsed(True)),
    ARXIV + '2502.08130',
    'own answer if right, else its paraphrase of the gold one, else gold',
    'The verifier is the judge, and answers are drawn anew in every step; '
    'theirs once, before training.',
  ),
  'ssr': Form(
    _of(_rehearsed(False)),
    ARXIV + '2409.04787',
    'own answer if the judge accepts it, else gold',
    'The verifier is the judge, and answers are drawn anew in every step.',
  ),
  'faft': Form(
    _of(_judged(True)),
    ARXIV + '2408.06318',
    'NLL of good and bad plans behind their feedback',
    'One verdict, theirs one of each of eight constraints; prompts do not '
    'count in the loss.',
  ),
  'leti': Form(
    _of(_judged(False)),
    'https://github.com/xingyaoww/LeTI',
    'feedback-conditioned fine-tuning: a reward token, then the program',
    "Without the interpreter's messages and the mixture with pretraining "
    'text; prompts do not count in the loss.',
  ),
  'dpa': Form(
    _of(_best(-1.0)),
    ARXIV + '2402.18571',
    'the best of the samples along the direction of the prompt',
    'One answer of eight is kept; rewards are the verifier and brevity, '
    'theirs a reward model with ten outputs.',
  ),
  'teacher_samples': Form(
    _of(lambda data: [r for group in data.groups('teacher') for r in group]),
    ARXIV + '1606.07947',
    'section 3.2: NLL of what the teacher writes',
    "The teacher's answer is sampled; theirs is the best that a beam finds.",
  ),
}  # fmt: skip
