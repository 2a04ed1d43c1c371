"""Rewards of what was found: which parts count, and for how much."""

from collections.abc import Sequence

from posttrain_jax.core.types import Array
from posttrain_jax.rewards.arrays.common import Facts, Rewards, namespace

__all__ = [
  'adversary',
  'cosine_tolerance',
  'gated',
  'staged',
  'ternary',
  'tiered',
  'weighted',
]

ADVERSARIES = ('logit', 'log_d', 'minus_log_1md')


def weighted(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: Sequence[str] = (),
  weights: Sequence[float] = (),
  last: Sequence[float] = (),
  by: float = 1.0,
) -> Rewards:
  """A sum of entries whose weights move in a line as the run goes on.

  weight = weights + (last - weights) min(done / by, 1)

  An entry that does not apply to an answer is left out of its sum. With equal
  weights of one entry it only changes scale.

  Args:
    of: the entries.
    weights: theirs at the start.
    last: theirs at the end; (): they stay.
    by: share of the run after which they stand still.

  Reference: Qian et al. (2025), ToolRL, https://arxiv.org/abs/2504.13958, whose
  schedule takes the format from 2 to 1 and the correctness from 2 to 3
  """
  values = [parts[name] for name in of]
  xp = namespace(values[0])
  found = xp.stack(values)
  applies = ~xp.isnan(found)
  first = xp.asarray(weights, found.dtype)
  if last:
    end = xp.asarray(last, found.dtype)
    first = first + (end - first) * xp.clip(facts.done / by, 0.0, 1.0)
  terms = xp.where(applies, found, 0.0) * first[:, None, None]
  total = xp.sum(terms, axis=0)
  return xp.where(xp.any(applies, axis=0), total, xp.nan), {}


def gated(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: str = '',
  by: str = 'format',
  threshold: float = 0.5,
  otherwise: float = 0.0,
) -> Rewards:
  """An entry that counts only where another one is high enough.

  reward = of if by > threshold else otherwise

  Args:
    of: what counts; '': the first verdict.
    by: what opens the gate; '': the first verdict.
    threshold: what `by` has to be above.
    otherwise: where it is not.

  Reference: Wang et al. (2025), VideoRFT, https://arxiv.org/abs/2505.12434,
  where only right answers earn what their thoughts say of the frames
  """
  del facts
  counted, gate = parts[of], parts[by]
  xp = namespace(counted)
  earned = xp.where(gate > threshold, counted, otherwise)
  silent = xp.isnan(counted) | xp.isnan(gate)
  return xp.where(silent, xp.nan, earned), {}


def tiered(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: Sequence[str] = (),
  values: Sequence[float] = (),
  otherwise: float = 0.0,
) -> Rewards:
  """The value of the first of several entries that holds (is above 0.5).

  reward = values[i] of the smallest i with of[i] > 0.5, else otherwise

  It does not apply where an entry before the first that holds does not.

  Args:
    of: the entries, the best first.
    values: what each of them is worth.
    otherwise: where none holds.

  Reference: Luong et al. (2024), ReFT, https://arxiv.org/abs/2401.08967: 1 for
  the right number, 0.1 for another one, 0 where none can be read
  """
  del facts
  found = [parts[name] for name in of]
  xp = namespace(found[0])
  earned = xp.full_like(found[0], otherwise)
  for part, value in zip(reversed(found), reversed(values)):
    earned = xp.where(part > 0.5, value, earned)
    earned = xp.where(xp.isnan(part), part, earned)
  return earned, {}


def ternary(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: str = '',
  abstained: str = 'abstained',
  right: float = 1.0,
  abstains: float = 0.0,
  wrong: float = -1.0,
) -> Rewards:
  """Right, abstained or wrong: an answer that says it does not know is better
  than a false one.

  Who answers where the chance of being right is p earns p right + (1 - p)
  wrong: with the defaults that is more than abstaining where p > 1/2. With
  abstains = wrong it is the binary reward, which never pays for silence.

  Args:
    of: the entry that says what is right (above 0.5); '': the first verdict.
    abstained: the entry that says where there was no answer (above 0.5).
    right: of a right answer.
    abstains: of one that says it does not know.
    wrong: of any other.

  Reference: Wei et al. (2025), TruthRL, https://arxiv.org/abs/2509.25760
  """
  both, worth = (of, abstained), (right, abstains)
  return tiered(parts, facts, of=both, values=worth, otherwise=wrong)


def staged(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: str = '',
  low: float = 0.5,
  high: float = 0.75,
  last_low: float = 0.75,
  last_high: float = 0.9,
  turn: float = 0.5,
) -> Rewards:
  """A score that counts from a threshold on, and a higher one later in the run.

  reward = 0 below low, 1 above high, else the score itself

  Args:
    of: the score; '': the first verdict.
    low: below it the score is 0, in the first part of the run.
    high: above it the score is 1, in the first part of the run.
    last_low: `low` in the second part.
    last_high: `high` in the second part.
    turn: share of the run after which the second part begins.

  Reference: Zhan et al. (2025), Vision-R1, https://arxiv.org/abs/2503.18013,
  whose scores are the overlaps of matched boxes
  """
  score = parts[of]
  xp = namespace(score)
  late = facts.done >= turn
  least, most = xp.where(late, last_low, low), xp.where(late, last_high, high)
  counted = xp.where(score > most, 1.0, score)
  return xp.where(score < least, 0.0, counted), {}


def cosine_tolerance(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: str = 'error',
  low: float = 0.05,
  high: float = 0.2,
) -> Rewards:
  """1 for a number that is close, 0 for one that is far, half a cosine wave
  between them.

  reward = (1 + cos(pi (error - low) / (high - low))) / 2, 1 below low,
  0 above high

  Args:
    of: the entry that has the relative error, |answer - truth| / |truth|.
    low: error that is as good as none.
    high: error that earns nothing.

  Reference: Tan et al. (2025), Reason-RFT, https://arxiv.org/abs/2503.20752
  """
  del facts
  error = parts[of]
  xp = namespace(error)
  share = (xp.clip(error, low, high) - low) / (high - low)
  return 0.5 * (1.0 + xp.cos(xp.pi * share)), {}


def adversary(
  parts: dict[str, Array],
  facts: Facts,
  *,
  of: str = 'model',
  kind: str = 'logit',
) -> Rewards:
  """What a discriminator of demonstrations and own answers pays a policy.

  logit          d, which is log D - log(1 - D): reverse KL
  log_d          log D, never positive
  minus_log_1md  -log(1 - D), never negative: Jensen-Shannon

  D = sigmoid(d) is the chance that it gives an answer to be a demonstration.

  Args:
    of: the entry that is the discriminator's d.
    kind: one of the three.

  References: Yu et al. (2023), RLGAF, https://arxiv.org/abs/2305.06176; Sun
  (2024), https://arxiv.org/abs/2403.12017; Ho and Ermon (2016),
  https://arxiv.org/abs/1606.03476
  """
  del facts
  logit = parts[of]
  xp = namespace(logit)
  silent = xp.isnan(logit)
  known = xp.where(silent, 0.0, logit)
  zero = xp.zeros_like(known)
  earned = {
    'logit': lambda: known,
    'log_d': lambda: -xp.logaddexp(zero, -known),
    'minus_log_1md': lambda: xp.logaddexp(zero, known),
  }[kind]()
  return xp.where(silent, xp.nan, earned), {}
