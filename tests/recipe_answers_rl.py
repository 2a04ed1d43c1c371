"""Answers that are written down, and what models say of them, in float64.

Everything that an RL step knows when it comes to its loss (`Data`), the same
for every recipe, and awkward: answers of all lengths, empty and cut ones,
groups without spread, ratios on both sides of every clip.
`recipe_harness_rl` has the project read it, and forms read it too.
"""

import dataclasses
import functools

import numpy as np

__all__ = [
  'Data',
  'Tables',
  'entropy',
  'log_softmax',
  'logps',
  'prompt_rows',
  'world',
]

# B problems of G answers with C tokens of a vocabulary of V, P of a prompt.
PROBLEMS, GROUP, WIDTH, VOCAB, PROMPT = 5, 4, 6, 5, 3
EOS = 1
PROMPT_SIZES = np.array([3, 2, 1, 3, 2])
# Rows of a problem by kind, as many as the recipes have beside a group.
KINDS = {'own': GROUP, 'expert': 1, 'explore': 2, 'prefix': 1}

# A group without spread of either sort, and one, two and three right ones.
REWARDS = np.array(
  [[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], float
)
GREEDY = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
# Of another model's answers behind these, or before them (the first column).
PARTNERS = np.array(
  [[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 1]], float
)
# Tokens that all answers of a problem are told.
HINTS = np.array([1, 0, 2, 3, 1])
# Tokens of the groups' answers: an empty one, and some that are cut (the width
# without an end).
SIZES = np.array(
  [[3, 6, 1, 4], [2, 5, 6, 3], [4, 5, 0, 6], [6, 2, 3, 5], [1, 6, 4, 2]]
)
# How far the sampler's logits are from the learner's: ratios within the
# narrowest clip range and beyond the widest.
DRIFT = np.array(
  [
    [0.3, 1.5, 0.1, 2.0],
    [1.5, 1e-4, 0.3, 2.5],
    [2.5, 2.5, 0.1, 1e-3],
    [1e-4, 0.4, 1.5, 2.5],
    [0.1, 2.5, 2.0, 1e-4],
  ]
)
# A wrong answer that the learner has left: the sampler found it likely.
LEFT = (3, 1)
OTHER_REWARDS = {
  'expert': np.array([[1.0], [1], [1], [0], [1]]),
  'explore': np.array([[1.0, 1], [0, 1], [0, 0], [1, 0], [1, 1]]),
  'prefix': np.array([[1.0], [0], [1], [1], [0]]),
}


@dataclasses.dataclass(frozen=True)
class Tables:
  """A model: its states [N, C + 1, V + 1], before each token and at the end."""

  states: np.ndarray

  @property
  def logits(self) -> np.ndarray:
    """[N, C, V] that each token is drawn from."""
    return self.states[:, :-1, :-1]

  @property
  def values(self) -> np.ndarray:
    """[N, C] the value head before each token."""
    return self.states[:, :-1, -1]


@dataclasses.dataclass(frozen=True)
class Data:
  """What a step knows when it comes to its loss. B problems, G answers each.

  tokens, mask   [N, C] of all answers, of every kind; mask 1.0 on tokens that
                 count, from the first one on
  finished       [N] 1.0 where it has an end, 0.0: cut
  old_logps      [N, C] by the sampler, at sampling; 0 for demonstrations
  start          the policy at the step's start (a proximal policy, old values)
  ref            the reference, another one
  rewards        {kind: [B, k]} of whole answers, 0 or 1
  greedy_rewards [B] of each problem's greedy answer
  partner_rewards  [B, G] of another model's answer behind each own one
  stopped_rewards  [B, G, C] of own answers stopped before each token
  token_rewards  [B, G, C] beside those of answers, 0 where nothing counts
  forced         [N, C] 1.0 on the tokens of 'prefix' rows that were given
  hints          [N, C] 1.0 on the tokens of own rows that all answers of the
                 problem were told, where a method tells any
  row_width      columns of a learner's row: the longest prompt and answer
  step           steps done before this one, of `num_steps`
  """

  tokens: np.ndarray
  mask: np.ndarray
  finished: np.ndarray
  old_logps: np.ndarray
  start: Tables
  ref: Tables
  rewards: dict[str, np.ndarray]
  greedy_rewards: np.ndarray
  partner_rewards: np.ndarray
  stopped_rewards: np.ndarray
  token_rewards: np.ndarray
  forced: np.ndarray
  hints: np.ndarray
  row_width: int = PROMPT + WIDTH
  max_new_tokens: int = WIDTH
  eos: int = EOS
  step: int = 0
  num_steps: int = 10

  def rows(self, kind: str = 'own') -> np.ndarray:
    """[B, k] numbers of the rows of a kind."""
    first = np.cumsum([0, *KINDS.values()])[list(KINDS).index(kind)]
    count = PROBLEMS * KINDS[kind]
    return (PROBLEMS * first + np.arange(count)).reshape(PROBLEMS, -1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
  shifted = logits - logits.max(axis=-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def logps(table: Tables, data: Data) -> np.ndarray:
  """[N, C] log-probability of each token, 0 where it does not count."""
  all_of = log_softmax(table.logits)
  taken = np.take_along_axis(all_of, data.tokens[..., None], axis=-1)[..., 0]
  return np.where(data.mask > 0, taken, 0.0)


def entropy(table: Tables, data: Data) -> np.ndarray:
  """[N, C] entropy of what each token was drawn from, 0 likewise."""
  all_of = log_softmax(table.logits)
  return -(np.exp(all_of) * all_of).sum(axis=-1) * data.mask


@functools.cache
def prompt_rows() -> tuple[np.ndarray, np.ndarray]:
  """Tokens and mask [B, P]; the tokens of each problem are its own."""
  mask = (np.arange(PROMPT) < PROMPT_SIZES[:, None]).astype(float)
  tokens = 10 + np.arange(PROBLEMS * PROMPT).reshape(PROBLEMS, PROMPT)
  return (tokens * mask).astype(np.int32), mask


def _answers(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
  """tokens [N, C], mask [N, C], finished [N]; no two of a problem are equal."""
  sizes = {'own': SIZES}
  for kind, count in KINDS.items():
    if kind != 'own':
      sizes[kind] = rng.integers(2, WIDTH + 1, (PROBLEMS, count))
  size = np.concatenate([x.reshape(-1) for x in sizes.values()])
  mask = (np.arange(WIDTH) < size[:, None]).astype(float)
  tokens = rng.integers(2, VOCAB, mask.shape)
  rows = np.arange(len(size))
  problem = np.concatenate(
    [np.repeat(np.arange(PROBLEMS), k) for k in KINDS.values()]
  )
  kind = np.repeat(list(KINDS), [PROBLEMS * k for k in KINDS.values()])
  # A demonstration that does not fit would be left out.
  cut = (size == WIDTH) & (rows % 2 == 0) & (kind != 'expert')
  cut |= size == 0
  # One that was cut may have no end; all others have one as their last token.
  last = np.maximum(size - 1, 0)
  tokens[rows, last] = np.where(cut, tokens[rows, last], EOS)
  tokens = (tokens * mask).astype(np.int32)
  for row in rows:
    before = (problem[:row] == problem[row]) & (size[row] > 1)
    while np.any(np.all(tokens[:row][before] == tokens[row], axis=1)):
      tokens[row, 0] = 2 + (tokens[row, 0] - 1) % (VOCAB - 2)
  return tokens, mask, (~cut).astype(float)


@functools.cache
def world() -> tuple[Tables, Data]:
  """The trained policy and the data, the same for every recipe."""
  rng = np.random.default_rng(7)
  tokens, mask, finished = _answers(rng)
  count = len(tokens)
  shape = (count, WIDTH + 1, VOCAB + 1)
  states = 1.2 * rng.standard_normal(shape)
  live = Tables(states)
  near = lambda size: Tables(states + size * rng.standard_normal(shape))
  drift = np.full(count, 0.7)
  drift[: DRIFT.size] = DRIFT.reshape(-1)
  sampler = near(drift[:, None, None])
  blank = np.zeros_like(mask)
  # Given tokens: a part of each answer that goes on from a prefix.
  given = np.concatenate(
    [np.full(PROBLEMS * k, kind == 'prefix') for kind, k in KINDS.items()]
  )
  length = np.minimum(mask.sum(axis=1) - 1, 1 + np.arange(count) % 3)
  forced = (np.arange(WIDTH) < length[:, None]) * given[:, None] * mask
  own = mask[: PROBLEMS * GROUP].reshape(PROBLEMS, GROUP, WIDTH)
  told = np.zeros_like(mask)
  many = np.repeat(HINTS, GROUP)[:, None]
  told[: PROBLEMS * GROUP] = np.arange(WIDTH) < many
  data = Data(
    tokens=tokens,
    mask=mask,
    finished=finished,
    old_logps=blank,
    start=near(0.4),
    ref=near(0.6),
    rewards={'own': REWARDS, **OTHER_REWARDS},
    greedy_rewards=GREEDY,
    partner_rewards=PARTNERS,
    stopped_rewards=rng.uniform(0.1, 1.0, own.shape)
    * (rng.uniform(size=own.shape) > 0.3),
    token_rewards=0.5 * rng.standard_normal(own.shape) * own,
    forced=forced,
    hints=told * mask,
  )
  left = data.rows()[LEFT]
  likely = np.eye(VOCAB + 1)[tokens[left]]
  sampler.states[left, :-1] += 3.0 * likely
  said = logps(sampler, data)
  # A sampler says nothing of what it was given or did not write.
  expert = data.rows('expert').reshape(-1)
  said[expert] = 0.0
  return live, dataclasses.replace(data, old_logps=said * (1.0 - forced))
