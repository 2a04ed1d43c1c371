"""Fixed problems and answers that forms of recipes are evaluated on.

Plain NumPy. Answers are ragged, right and wrong, some twice; of four problems
one is answered now right now wrong, one always wrong, one always right, one
with repeats. What a model says is a table of logits, one row of it for each
row of the batch, so that an objective is a function of numbers that can be
moved one at a time.
"""

import dataclasses
import functools

import numpy as np

__all__ = [
  'Answer',
  'Answers',
  'Model',
  'Row',
  'follow',
  'make',
  'moved',
  'reward_of',
]

PROMPT, WIDTH = 3, 5  # columns of a prompt and of an answer
# Right and wrong answers of one kind of problem after the other.
PATTERNS = ('01001010', '00000000', '11111111', '11011010')
OWN = ('policy', 'ref', 'teacher')


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """An answer as a row of the batch: which one, and its tokens' places."""

  index: int
  ids: np.ndarray  # [n] tokens
  columns: np.ndarray  # [n] their columns
  prompt: np.ndarray  # tokens before them
  reward: float
  problem: int

  def __len__(self) -> int:
    return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Answer:
  """One answer to one problem; its last token ends it."""

  problem: int
  prompt: tuple[int, ...]
  tokens: tuple[int, ...]
  reward: float

  def at(self, index: int) -> Row:
    """The answer in row `index` of the batch."""
    start = len(self.prompt)
    return Row(
      index,
      np.array(self.tokens),
      np.arange(start, start + len(self.tokens)),
      np.array(self.prompt),
      self.reward,
      self.problem,
    )


class Model:
  """What a model says of the rows: logits [N, T, V] and values [N, T]."""

  def __init__(self, logits: np.ndarray, values: np.ndarray):
    self.logits, self.values = logits, values

  @functools.cached_property
  def log_probs(self) -> np.ndarray:
    shifted = self.logits - self.logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

  def logps(self, row: Row) -> np.ndarray:
    """[n] log-probabilities of the row's tokens."""
    return self.log_probs[row.index, row.columns, row.ids]

  def dist(self, row: Row) -> np.ndarray:
    """[n, V] log-probabilities of all tokens at its places."""
    return self.log_probs[row.index, row.columns]

  def raw(self, row: Row) -> np.ndarray:
    """[n, V] logits at its places."""
    return self.logits[row.index, row.columns]

  def entropy(self, row: Row) -> np.ndarray:
    """[n] entropies at its places."""
    dist = self.dist(row)
    return -(np.exp(dist) * dist).sum(-1)


@dataclasses.dataclass(eq=False)
class Answers:
  """All that a form may read beside the trained model.

  gold     [B] demonstrations
  own      {role: [B][G] answers that this model wrote}
  again    [B] second tries, after the demonstration was shown
  models   {role: Model} of frozen ones; 'policy' is the one before the update
  size     G, rows of one problem where a source makes groups
  vocab    V
  eos      the token that ends an answer
  chances  [B * G] numbers in [0, 1) that stand for the source's random ones
  uniform  [R, T, K] such numbers for a loss that samples, or None
  """

  gold: list[Answer]
  own: dict[str, list[list[Answer]]]
  again: list[Answer]
  models: dict[str, Model]
  size: int
  vocab: int
  eos: int
  chances: np.ndarray
  uniform: np.ndarray | None = None

  @property
  def rows(self) -> int:
    """Most rows that a source makes of these."""
    return len(self.gold) * self.size

  def demonstrations(self) -> list[Row]:
    """The demonstrations, one row a problem."""
    return [answer.at(b) for b, answer in enumerate(self.gold)]

  def groups(self, role: str) -> list[list[Row]]:
    """What a model wrote, `size` rows a problem, next to each other."""
    return [
      [a.at(b * self.size + g) for g, a in enumerate(group[: self.size])]
      for b, group in enumerate(self.own[role])
    ]

  def gold_first(self, role: str) -> list[list[Row]]:
    """Groups of the demonstration and `size` - 1 answers of a model."""
    return [
      [
        a.at(b * self.size + g)
        for g, a in enumerate([gold, *group[: self.size - 1]])
      ]
      for b, (gold, group) in enumerate(
        zip(self.gold, self.own[role], strict=True)
      )
    ]


def reward_of(tokens) -> float:
  """The verifier: 1 for an even sum; long wrong answers get a quarter."""
  if sum(tokens) % 2 == 0:
    return 1.0
  return 0.25 if len(tokens) > 3 else 0.0


def moved(xp, tokens, share, vocab: int):
  """[R, T, V] what is added to a table's logits where the tokens [R, T] that
  stand before are a share of what the model reads: a stand-in for one that
  reads them. `xp` is numpy or jax.numpy."""
  before = xp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
  return share * xp.sin(before[..., None] + xp.arange(vocab)[None, None])


def follow(tokens, vocab: int) -> int:
  """What greedy decoding writes after these tokens, a stand-in for a model."""
  return (3 * int(sum(tokens)) + len(tokens)) % vocab


def _write(rng, words, right, most=WIDTH) -> tuple[int, ...]:
  """A random answer of these words that is right or wrong."""
  tokens = rng.choice(words, rng.integers(1, most + 1))
  even = (tokens[:-1].sum() % 2 == 0) == right
  tokens[-1] = rng.choice(words[words % 2 == (0 if even else 1)])
  return tuple(int(x) for x in tokens)


def make(problems: int, size: int, vocab: int, eos: int, seed: int) -> Answers:
  """Random answers to `problems` problems, and random models.

  size  answers that each model writes to a problem
  """
  rng = np.random.default_rng(seed)
  words = np.setdiff1d(np.arange(vocab), [eos])
  gold, again = [], []
  own = {role: [] for role in OWN}
  for b in range(problems):
    prompt = rng.integers(0, vocab, PROMPT if b % 2 else PROMPT - 1)
    prompt = tuple(int(x) for x in prompt)

    def answer(tokens, b=b, prompt=prompt):
      return Answer(b, prompt, tokens, reward_of(tokens))

    gold.append(answer(_write(rng, words, True)))
    again.append(answer(_write(rng, words, b % 4 < 2)))
    for role in OWN:
      # Always wrong means without any credit too.
      most = 3 if b % 4 == 1 else WIDTH
      pattern = PATTERNS[(b + OWN.index(role)) % 4 if size == 1 else b % 4]
      made = [
        answer(_write(rng, words, x == '1', most)) for x in pattern[:size]
      ]
      if b % 4 == 3 and size > 4:
        made[1], made[4] = made[0], made[3]
      own[role].append(made)
  shape = (2 * problems * size, PROMPT + WIDTH, vocab)
  first = rng.normal(size=shape)
  near = lambda scale: Model(
    first + scale * rng.normal(size=shape), rng.normal(size=shape[:2])
  )
  models = {
    'live': Model(first, rng.normal(size=shape[:2])),
    'policy': near(0.3),
    **{role: near(0.5) for role in ('ref', 'base', 'teacher', 'shuffled')},
  }
  count = problems * size
  chances = (7 * np.arange(count) % 16 + 0.5) / 16
  return Answers(gold, own, again, models, size, vocab, eos, chances)
