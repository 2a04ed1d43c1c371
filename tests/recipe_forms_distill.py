"""Distillation as its sources have it: a divergence at each token of a row."""

import numpy as np
from recipe_form import Form


def _kl(p, q):
  """[n] KL(p || q) of log-distributions [n, V]."""
  return (np.exp(p) * (p - q)).sum(-1)


def _jsd(student, teacher, beta):
  """TRL's generalized_jsd_loss, summed over the vocabulary."""
  if beta == 0:
    return _kl(teacher, student)
  if beta == 1:
    return _kl(student, teacher)
  mixture = np.logaddexp(np.log(1 - beta) + student, np.log(beta) + teacher)
  return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _tailed(log_probs, index):
  """The k chosen log-probabilities and one of all others together."""
  chosen = np.take_along_axis(log_probs, index, -1)
  rest = 1.0 - np.exp(chosen).sum(-1, keepdims=True)
  return np.concatenate([chosen, np.log(rest)], -1)


def _form(rows, divergence):
  """The mean over all tokens of `divergence(live, frozen, teacher)`."""

  def value(live, frozen, data):
    teacher = data.models['teacher']
    losses = [
      divergence(live.dist(r), frozen.dist(r), teacher.dist(r))
      for r in rows(data)
    ]
    return sum(x.sum() for x in losses) / sum(len(x) for x in losses)

  return value


def _given(data):
  return data.demonstrations()


def _taught(data):
  return sum(data.groups('teacher'), [])


def _own(data):
  return sum(data.groups('policy'), [])


def _mixed(data):
  """A row is the student's with chance one half."""
  own = _own(data)
  return [
    own[b] if data.chances[b] < 0.5 else gold
    for b, gold in enumerate(data.demonstrations())
  ]


def _top(of_teacher: bool, beta: float):
  """The divergence over the 16 likeliest tokens of one side, and the rest."""

  def divergence(live, frozen, teacher):
    index = np.argsort(-(teacher if of_teacher else frozen), -1)[:, :16]
    return _jsd(_tailed(live, index), _tailed(teacher, index), beta)

  return divergence


def _divergence(beta: float):
  return lambda live, frozen, teacher: _jsd(live, teacher, beta)


TRL = 'https://github.com/huggingface/trl'
WHERE = 'trl/experimental/gkd/gkd_trainer.py, generalized_jsd_loss, beta {}'
MEAN = (
  "Temperature 1, TRL's default is 0.9. As in TRL a mean over tokens; the "
  'paper (2306.13649, equation 2) takes the mean of each answer first.'
)
SDPO = 'https://github.com/lasgroup/SDPO'
SDPO_DIFFERS = (
  'The teacher is another model, theirs the policy after feedback; 16 tokens, '
  'theirs 20 or 100.'
)
HINTON = 'https://arxiv.org/abs/1503.02531'

FORMS = {
  'forward_kl': Form(
    _form(_given, _divergence(0.0)),
    HINTON,
    'section 2: cross-entropy with soft targets, less the entropy of these',
    'Temperature 1 and no second term with the hard targets.',
  ),
  'reverse_kl': Form(
    _form(_given, _divergence(1.0)),
    TRL,
    WHERE.format(1),
    'On demonstrations and token by token; MiniLLM (2306.08543) takes the '
    'reverse KL of whole answers of the student, by policy gradient.',
  ),
  'jsd': Form(
    _form(_given, _divergence(0.5)), TRL, WHERE.format(0.5), MEAN
  ),
  'teacher_forward_kl': Form(
    _form(_taught, _divergence(0.0)),
    HINTON,
    'section 2, on answers that the teacher wrote',
    'Temperature 1 and no second term with the hard targets.',
  ),
  'top_k_teacher': Form(
    _form(_taught, _top(True, 0.0)),
    SDPO,
    'verl/trainer/ppo/core_algos.py, compute_self_distillation_loss, alpha 0, '
    'add_tail',
    SDPO_DIFFERS + " On the teacher's answers and its own likeliest tokens, "
    "theirs the student's.",
  ),
  'gkd': Form(
    _form(_mixed, _divergence(0.5)),
    TRL,
    WHERE.format(0.5) + ', lmbda 0.5',
    MEAN + ' Chance decides for each row, theirs for a whole batch.',
  ),
  'on_policy': Form(
    _form(_own, _divergence(1.0)), TRL, WHERE.format(1) + ', lmbda 1', MEAN
  ),
  'top_k_student': Form(
    _form(_own, _top(False, 1.0)),
    SDPO,
    'verl/trainer/ppo/core_algos.py, compute_self_distillation_loss, alpha 1, '
    'add_tail',
    SDPO_DIFFERS,
  ),
}  # fmt: skip
