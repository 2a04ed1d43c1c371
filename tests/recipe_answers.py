"""Answers, rewards and models on which whole preference objectives are held.

A model is a table: the logits of the next token are a row of it, and which row
is decided by all tokens before. `Answer.states` are those rows, so that a form
needs no model of its own: it looks up what a table says of an answer.
"""

import dataclasses

import numpy as np

STATES, VOCAB = 13, 5
PROMPT, WIDTH, GROUP = 3, 5, 8
ROLES = ('policy', 'ref')

# Rewards of each problem's eight answers: graded ones, ties for the best and
# for the worst, a problem where all are right and one where all are wrong.
REWARDS = (
  (0.0, 1.0, 0.3, 1.0, 0.0, 0.6, 0.4, 0.0),
  (0.7, 0.2, 0.2, 0.9, 1.0, 0.1, 0.1, 0.5),
  (1.0,) * GROUP,
  (0.3, 0.0, 0.0, 0.1, 0.2, 0.8, 0.0, 0.4),
  (0.0,) * GROUP,
)
DEMONSTRATED = 1.0
# Of the problems, those whose pair a rater who errs a fifth of the time turned
# round; `test_recipe_forms_preference` holds the source's own dice to it.
TURNED = (3,)


@dataclasses.dataclass(frozen=True)
class Answer:
  """What one problem was answered, and what the verifier gave it.

  tokens  [n] of the answer, 1 to WIDTH of them
  states  [n] row of a table that scores each token
  end     row of a table after the last token
  reward  of the verifier
  """

  tokens: np.ndarray
  states: np.ndarray
  end: int
  reward: float


@dataclasses.dataclass(frozen=True)
class Problem:
  """A prompt, its answers by the model that wrote them, a demonstration."""

  prompt: np.ndarray
  answers: dict[str, tuple[Answer, ...]]
  demonstration: Answer

  def read(self, answer: Answer) -> Answer:
    """An answer to another problem, behind this problem's prompt."""
    return _answer(self.prompt, answer.tokens, answer.reward)


@dataclasses.dataclass(frozen=True)
class Data:
  """What an objective is computed from, besides the trained model.

  problems  with answers of the policy and of the reference
  ref       the reference's table of logits [STATES, VOCAB]
  seen      (mean, count) of the implicit rewards of earlier steps
  """

  problems: tuple[Problem, ...]
  ref: np.ndarray
  seen: tuple[float, float]


def walk(tokens: np.ndarray) -> np.ndarray:
  """[..., n + 1] rows of a table before each token, and after the last."""
  tokens = np.asarray(tokens)
  state = np.zeros(tokens.shape[:-1], int)
  out = [state]
  for column in range(tokens.shape[-1]):
    state = (5 * state + tokens[..., column] + 1) % STATES
    out.append(state)
  return np.stack(out, axis=-1)


def _answer(prompt: np.ndarray, tokens: np.ndarray, reward: float) -> Answer:
  states = walk(np.concatenate([prompt, tokens]))[prompt.size :]
  return Answer(tokens, states[:-1], int(states[-1]), reward)


def make(seed: int = 4) -> Data:
  """Five problems with ragged prompts and answers."""
  rng = np.random.default_rng(seed)
  draw = lambda low, high: rng.integers(0, VOCAB, rng.integers(low, high + 1))
  problems = []
  for rewards in REWARDS:
    prompt = draw(2, PROMPT)
    answers = {
      role: tuple(
        _answer(prompt, draw(1, WIDTH), reward)
        for reward in np.roll(rewards, shift)
      )
      for shift, role in enumerate(ROLES)
    }
    gold = _answer(prompt, draw(2, WIDTH), DEMONSTRATED)
    problems.append(Problem(prompt, answers, gold))
  ref = rng.normal(size=(STATES, VOCAB))
  return Data(tuple(problems), ref, (0.375, 48.0))


def live(seed: int = 1) -> dict[str, np.ndarray]:
  """What is trained: 'logits' [STATES, VOCAB] and 'values' [STATES]."""
  rng = np.random.default_rng(seed)
  return {
    'logits': make().ref + 0.7 * rng.normal(size=(STATES, VOCAB)),
    'values': rng.normal(size=STATES),
  }


# ---- What forms share: scores of answers, and links.


def log_softmax(table: np.ndarray) -> np.ndarray:
  """Log-probabilities of the rows of a table."""
  top = table.max(axis=-1, keepdims=True)
  total = np.exp(table - top).sum(axis=-1, keepdims=True)
  return table - top - np.log(total)


def logps(log_probs: np.ndarray, answer: Answer) -> np.ndarray:
  """[n] log-probability of each token of an answer."""
  return log_probs[answer.states, answer.tokens]


def log_sigmoid(x: float) -> float:
  """log(1 / (1 + exp(-x)))."""
  return -np.logaddexp(0.0, -x)


def sigmoid(x: float) -> float:
  """1 / (1 + exp(-x))."""
  return float(np.exp(log_sigmoid(x)))


def extremes(problem: Problem, role: str, size: int):
  """(best, worst) of the first `size` answers, or None where all tie."""
  answers = problem.answers[role][:size]
  rewards = [answer.reward for answer in answers]
  if max(rewards) == min(rewards):
    return None
  return (
    answers[rewards.index(max(rewards))],
    answers[rewards.index(min(rewards))],
  )


@dataclasses.dataclass(frozen=True)
class Side:
  """One answer as three tables see it; arrays [n], a token each.

  p     log-probabilities under what is trained
  p0    the same, detached
  ref   under the reference
  """

  p: np.ndarray
  p0: np.ndarray
  ref: np.ndarray
  reward: float

  @property
  def rho(self) -> float:
    """log pi / ref of the whole answer."""
    return float(np.sum(self.p - self.ref))

  @property
  def mean(self) -> float:
    """Log-probability per token."""
    return float(np.mean(self.p))


def seer(live, frozen, data: Data):
  """(answer) -> Side."""
  now, before = log_softmax(live['logits']), log_softmax(frozen['logits'])
  ref = log_softmax(data.ref)

  def see(answer: Answer) -> Side:
    return Side(
      logps(now, answer),
      logps(before, answer),
      logps(ref, answer),
      answer.reward,
    )

  return see


def pairs(live, frozen, data: Data, role: str = 'ref', size: int = GROUP):
  """[(chosen Side, rejected Side)] of the problems where answers differ."""
  see = seer(live, frozen, data)
  picked = [extremes(problem, role, size) for problem in data.problems]
  return [(see(best), see(worst)) for best, worst in filter(None, picked)]


def mean_of_pairs(loss, role: str = 'ref', size: int = GROUP):
  """A form: the mean over pairs of `loss(chosen, rejected)`."""

  def value(live, frozen, data):
    found = pairs(live, frozen, data, role, size)
    return float(np.mean([loss(w, l) for w, l in found]))

  return value
