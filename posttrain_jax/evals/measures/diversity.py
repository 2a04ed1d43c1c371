"""How different the samples of a model are, on tokens alone.

  f(tokens, mask, ...) -> [N], one value a problem

  tokens  [N, S, C] S samples of each of N problems: completions, or answers
  mask    [N, S, C] non-zero on the tokens that count

Per input, as Kirk et al. (2023) call it: among the samples of one prompt. Their
across-input form compares outputs of different prompts: give the same functions
`across_inputs(tokens, mask)`. Where Kirk et al. compare meanings by SBERT and
NLI models, there is nothing to compare by here: these are the forms that count
n-grams. Everything is exact (no hashing) and jit-able; n-grams are compared
place by place, one sample at a time: S C^2 booleans a problem.

An n-gram is n counted tokens next to each other, the stop token included.

Reference: Kirk et al. (2023), https://arxiv.org/abs/2310.06452, section 5.2
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked

__all__ = [
  'across_inputs',
  'distinct',
  'distinct_correct',
  'diversity',
  'expectation_adjusted_distinct',
  'self_bleu',
]

Array = jax.Array


def across_inputs(tokens: Array, mask: Array) -> tuple[Array, Array]:
  """One sample of every problem as a group: both arrays as [S, N, C]."""
  return jnp.swapaxes(tokens, 0, 1), jnp.swapaxes(mask, 0, 1)


def distinct(tokens: Array, mask: Array) -> Array:
  """Different samples as a share of all S, [N]: between 1 / S and 1."""
  return jnp.mean(_is_first(tokens, mask).astype(jnp.float32), axis=1)


def distinct_correct(tokens: Array, mask: Array, correct: Array) -> Array:
  """Number of different samples among the correct ones, [N].

  Args:
    tokens, mask: as above.
    correct: [N, S], non-zero where a sample is correct.
  """
  right = correct != 0
  # Correctness joins the text: a wrong twin does not hide a correct sample.
  tokens = jnp.concatenate([tokens, right[..., None].astype(int)], axis=-1)
  mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1)), constant_values=1)
  found = _is_first(tokens, mask) & right
  return jnp.sum(found.astype(jnp.float32), axis=1)


def self_bleu(
  tokens: Array,
  mask: Array,
  max_order: int = 4,
  epsilon: float = 0.1,
) -> Array:
  """BLEU of a sample against the S - 1 others, averaged over samples, [N].

  1 where all samples are the same, near 0 where they have nothing in common.
  An order of n-grams has the precision (matches + epsilon) / (n-grams +
  epsilon), so that one without a match does not make the product 0. Orders that
  a sample is too short for are left out. Against samples that are all longer it
  is lowered by the brevity penalty of the closest length (the shorter one of
  two). A sample without tokens scores 0.

  Reference: Zhu et al. (2018), https://arxiv.org/abs/1802.01886; Papineni et
  al. (2002), https://aclanthology.org/P02-1040

  Args:
    tokens, mask: as above.
    max_order: longest n-grams.
    epsilon: of the precisions; NLTK's method 1 adds as much to no match.

  Raises:
    ValueError: fewer than two samples.
  """
  samples = tokens.shape[1]
  if samples < 2:
    raise ValueError(
      f'{samples} samples have no others to be compared with; nearest valid: 2'
    )

  def one(tokens, mask):
    def score(i):
      logs = orders = jnp.float32(0)
      for same in _matches(tokens, mask, i, max_order):
        hits, total = _clipped(same, i)
        share = (hits + epsilon) / (total + epsilon)
        logs += jnp.where(total > 0, jnp.log(share), 0.0)
        orders += total > 0
      return jnp.exp(logs / jnp.maximum(orders, 1)) * (orders > 0)

    scores = jax.lax.map(score, jnp.arange(samples))
    return jnp.mean(scores * _brevity(jnp.sum(mask != 0, axis=1)))

  return jax.vmap(one)(tokens, mask)


def expectation_adjusted_distinct(
  tokens: Array, mask: Array, vocab_size: int, max_order: int = 5
) -> Array:
  """Different n-grams over how many uniform draws would give, [N].

  D / (V^n (1 - (1 - V^-n)^M)) for D different ones of M n-grams, averaged over
  n = 1 .. max_order (those that occur). Unlike D / M it does not fall with the
  length of a text. Kirk et al. take V in place of V^n, which of a vocabulary of
  50k tokens is about the same and of 64 characters is not.

  Reference: Liu et al. (2022), https://arxiv.org/abs/2202.13587, eq. 3

  Args:
    tokens, mask: as above.
    vocab_size: V.
    max_order: longest n-grams.
  """
  orders = min(max_order, tokens.shape[2])
  possible = float(vocab_size) ** jnp.arange(1.0, orders + 1)

  def one(tokens, mask):
    fresh = lambda i: jnp.stack(
      [_fresh(same, i) for same in _matches(tokens, mask, i, max_order)]
    )
    counts = jax.lax.map(fresh, jnp.arange(tokens.shape[0]))
    found, drawn = jnp.moveaxis(jnp.sum(counts, axis=0), 1, 0)
    # expm1: of a billion possible ones only a few are drawn.
    expected = -possible * jnp.expm1(drawn * jnp.log1p(-1.0 / possible))
    return masked.mean(found / jnp.where(drawn > 0, expected, 1.0), drawn > 0)

  return jax.vmap(one)(tokens, mask)


def diversity(
  tokens: Array, mask: Array, correct: Array, vocab_size: int
) -> dict[str, Array]:
  """All of the above, averaged over problems.

  Args:
    tokens, mask: as above, S >= 2 and N >= 2.
    correct: [N, S], non-zero where a sample is correct.
    vocab_size: number of tokens.

  Returns:
    distinct, self_bleu, ead and the last two with the suffix _across; solutions
    (different correct samples a problem) and distinct_solutions (their share of
    the correct ones, over problems with any).
  """
  across = across_inputs(tokens, mask)
  ead = expectation_adjusted_distinct
  found = distinct_correct(tokens, mask, correct)
  return {
    'distinct': jnp.mean(distinct(tokens, mask)),
    'solutions': jnp.mean(found),
    'distinct_solutions': solution_share(found, correct),
    'self_bleu': jnp.mean(self_bleu(tokens, mask)),
    'self_bleu_across': jnp.mean(self_bleu(*across)),
    'ead': jnp.mean(ead(tokens, mask, vocab_size)),
    'ead_across': jnp.mean(ead(*across, vocab_size)),
  }


def solution_share(found: Array, correct: Array) -> Array:
  """Mean share of correct samples [N, S] that are different ones, [N] `found`.

  Over problems with a correct sample; nan where there are none.
  """
  right = jnp.sum(correct != 0, axis=1)
  share = found / jnp.maximum(right, 1)
  solved = jnp.sum(right > 0)
  mean = jnp.sum(share) / jnp.maximum(solved, 1)
  return jnp.where(solved > 0, mean, jnp.nan)


def _is_first(tokens: Array, mask: Array) -> Array:
  """[N, S] whether no earlier sample of the problem is the same."""
  # Ids may be negative in no vocabulary: -1 is a token that does not count.
  text = jnp.where(mask != 0, tokens, -1)
  same = jnp.all(text[:, :, None] == text[:, None], axis=-1)
  return jnp.argmax(same, axis=-1) == jnp.arange(tokens.shape[1])[None]


def _matches(
  tokens: Array, mask: Array, i: Array, max_order: int
) -> Iterator[Array]:
  """For n = 1 .. max_order: which n-grams of a problem are those of sample i.

  tokens, mask  [S, C]

  Yields [C, S, C] bool: the n-gram at place t of sample i exists, and is the
  one at place u of sample j.
  """
  real = mask != 0
  same = (tokens[i][:, None, None] == tokens[None]) & real[None]
  same &= real[i][:, None, None]
  longer = same
  for order in range(min(max_order, tokens.shape[1])):
    if order:
      ahead = same[order:, :, order:]
      longer &= jnp.pad(ahead, ((0, order), (0, 0), (0, order)))
    yield longer


def _clipped(same: Array, i: Array) -> tuple[Array, Array]:
  """(matches, n-grams) of sample i: each as often as in the best other one."""
  counts = jnp.sum(same, axis=2, dtype=jnp.float32)
  others = jnp.where(jnp.arange(counts.shape[1])[None] == i, 0.0, counts)
  own = counts[:, i]
  # An n-gram that occurs `own` times is met at as many places.
  hits = jnp.minimum(own, jnp.max(others, axis=1)) / jnp.maximum(own, 1.0)
  return jnp.sum(hits), jnp.sum(own > 0, dtype=jnp.float32)


def _fresh(same: Array, i: Array) -> Array:
  """[2]: n-grams of sample i that no earlier place has, and all of them."""
  length, samples, _ = same.shape
  place = jnp.arange(samples * length).reshape(samples, length)
  earlier = place[None] < place[i][:, None, None]
  real = jnp.any(same[:, i], axis=1)
  first = real & ~jnp.any(same & earlier, axis=(1, 2))
  return jnp.stack([jnp.sum(first), jnp.sum(real)]).astype(jnp.float32)


def _brevity(lengths: Array) -> Array:
  """[S] brevity penalty against the closest length of the other samples."""
  own, other = lengths[:, None], lengths[None]
  # Ties go to the shorter: twice the distance, plus one for the longer.
  rank = 2 * jnp.abs(own - other) + (other > own)
  rank += jnp.eye(lengths.size, dtype=rank.dtype) * 4 * (jnp.max(lengths) + 1)
  closest = lengths[jnp.argmin(rank, axis=1)]
  short = closest / jnp.maximum(lengths, 1)
  return jnp.exp(jnp.minimum(1.0 - short, 0.0))
