"""Measures: by hand, by counting one by one, and what must not matter."""

import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.evals.measures import (
  calibration,
  diversity,
  transfer,
)


def run(function, *arrays, **static):
  """One program in place of one for each operation."""
  return jax.jit(functools.partial(function, **static))(*arrays)


# --- transfer: one base task, three learnt one after the other

TABLE = jnp.array(
  [
    [0.8, 0.1, 0.0, 0.2],
    [0.9, 0.7, 0.1, 0.3],
    [0.5, 0.6, 0.0, 0.5],
    [0.6, 0.8, 0.2, 0.9],
  ]
)
LEARNED = (0, 1, 2, 3)
NAN = math.nan


def test_transfer_by_hand():
  same = lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6)
  same(
    run(transfer.forgetting, TABLE, learned_at=LEARNED), [0.3, -0.1, -0.1, NAN]
  )
  same(
    run(transfer.backward_transfer, TABLE, learned_at=LEARNED),
    [-0.2, 0.1, 0.2, NAN],
  )
  same(
    run(transfer.forward_transfer, TABLE, learned_at=LEARNED),
    [NAN, NAN, 0.1, 0.3],
  )
  # The third was 0 after its own stage: there is nothing to keep.
  same(
    run(transfer.retention, TABLE, learned_at=LEARNED),
    [0.75, 0.8 / 0.7, NAN, NAN],
  )
  means = run(transfer.transfer, TABLE, learned_at=LEARNED)
  expected = {
    'average_accuracy': 2.5 / 4,
    'forgetting': 0.1 / 3,
    'backward_transfer': 0.1 / 3,
    'forward_transfer': 0.2,
    'retention': (0.75 + 0.8 / 0.7) / 2,
  }
  assert means.keys() == expected.keys()
  for name, value in expected.items():
    assert means[name] == pytest.approx(value, abs=1e-6), name


def test_transfer_of_seeds_and_of_a_single_stage():
  both = jax.vmap(lambda t: transfer.transfer(t, LEARNED))(
    jnp.stack([TABLE, TABLE[:, ::-1]])
  )
  np.testing.assert_allclose(both['forgetting'][0], 0.1 / 3, atol=1e-6)
  first = run(transfer.transfer, TABLE[:2], learned_at=(0, 1, 0, 0))
  assert first['backward_transfer'] == pytest.approx(0.3 / 3)
  assert first['forgetting'] == pytest.approx(-0.3 / 3)
  assert jnp.isnan(first['forward_transfer'])


@pytest.mark.parametrize(
  'table, learned, message',
  [
    (TABLE[:1], LEARNED, 'at least one stage'),
    (TABLE, (0, 1), '2 tasks; the table has 4'),
    (TABLE, (0, 1, 2, 4), r'learned_at\[3\]=4 .* nearest valid: 3'),
  ],
)
def test_transfer_of_a_table_that_does_not_fit(table, learned, message):
  with pytest.raises(ValueError, match=message):
    run(transfer.transfer, table, learned_at=learned)


# --- calibration


def test_ece_by_hand():
  confidence = jnp.array([0.9, 0.8, 0.3, 0.2])
  correct = jnp.array([1, 0, 1, 0])
  # Two bins: |0.25 - 0.5| / 2 + |0.85 - 0.5| / 2.
  assert run(calibration.ece, confidence, correct, bins=2) == pytest.approx(0.3)
  assert run(
    calibration.adaptive_ece, confidence, correct, bins=2
  ) == pytest.approx(0.3)
  # One: the mean confidence is 0.55. Four: every completion of its own.
  assert run(calibration.ece, confidence, correct, bins=1) == pytest.approx(
    0.05
  )
  alone = run(calibration.adaptive_ece, confidence, correct, bins=4)
  assert alone == pytest.approx((0.1 + 0.8 + 0.7 + 0.2) / 4)
  squares = 0.01 + 0.64 + 0.49 + 0.04
  assert run(calibration.brier, confidence, correct) == pytest.approx(
    squares / 4
  )


def test_perfectly_calibrated():
  levels = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
  confidence = jnp.repeat(levels, 4).reshape(5, 4)
  correct = jnp.arange(4)[None] < (4 * levels)[:, None]
  for measure in (calibration.ece, calibration.adaptive_ece):
    for bins in (4, 10, 15):
      value = run(measure, confidence[:, ::-1], correct, bins=bins)
      # Equally full bins may join neighbours, but these agree on average.
      assert value == pytest.approx(0.0, abs=1e-6)
  # Bernoulli noise remains: 4 of 20 at 3/16, twice 3/16 and 1/4.
  noise = (0 + 3 / 16 + 1 / 4 + 3 / 16 + 0) / 5
  assert run(calibration.brier, confidence, correct) == pytest.approx(noise)


def test_edges_belong_to_the_bin_below():
  table = run(
    calibration.reliability,
    jnp.array([0.0, 0.2, 0.4, 1.0]),
    jnp.array([0, 1, 1, 0]),
    bins=5,
  )
  np.testing.assert_allclose(table['share'], [0.5, 0.25, 0, 0, 0.25])
  np.testing.assert_allclose(table['accuracy'], [0.5, 1, 0, 0, 0])
  np.testing.assert_allclose(table['confidence'], [0.1, 0.4, 0, 0, 1])
  # Multiples of 1/15 in float32: each in the bin it ends.
  edges = jnp.arange(1, 16) / 15
  share = run(calibration.reliability, edges, edges > 0)['share']
  np.testing.assert_allclose(share, np.full(15, 1 / 15), rtol=1e-6)


def test_order_of_completions_does_not_matter_for_calibration():
  rng = np.random.default_rng(0)
  confidence = rng.integers(0, 4, 30) / 4  # many ties
  correct = rng.integers(0, 2, 30)
  order = rng.permutation(30)
  for measure in (calibration.ece, calibration.adaptive_ece):
    a = run(measure, jnp.array(confidence), jnp.array(correct), bins=7)
    b = run(
      measure, jnp.array(confidence[order]), jnp.array(correct[order]), bins=7
    )
    assert a == pytest.approx(float(b), abs=1e-6)


def test_confidences_by_hand():
  logps = jnp.log(jnp.array([[0.5, 0.125, 1e-9]]))
  mask = jnp.array([[1.0, 1.0, 0.0]])
  np.testing.assert_allclose(run(calibration.likelihood, logps, mask), [0.25])
  answers = jnp.array([[[5, 9], [5, 7], [5, 7], [5, 9]]])
  counts = jnp.array([[[1, 0], [1, 1], [1, 1], [1, 1]]])
  # '5', '57', '57', '59'
  np.testing.assert_allclose(
    run(calibration.consistency, answers, counts), [[0.25, 0.5, 0.5, 0.25]]
  )
  with pytest.raises(ValueError, match='bins=0'):
    run(calibration.ece, logps, mask, bins=0)


# --- diversity


def buffer(texts, width=8):
  """tokens and mask [1, S, width]; what is masked is noise."""
  rows = np.full((len(texts), width), 3)
  mask = np.zeros((len(texts), width))
  for row, text in enumerate(texts):
    rows[row, : len(text)] = text
    mask[row, : len(text)] = 1
  return jnp.array(rows)[None], jnp.array(mask)[None]


def grams(text, n):
  return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def bleu_by_counting(texts, max_order=4, epsilon=0.1):
  scores = []
  for i, text in enumerate(texts):
    others = [x for j, x in enumerate(texts) if j != i]
    logs = []
    for n in range(1, max_order + 1):
      own = grams(text, n)
      if not own:
        continue
      seen = [grams(x, n) for x in others]
      hits = sum(min(c, max(s[g] for s in seen)) for g, c in own.items())
      logs.append(math.log((hits + epsilon) / (own.total() + epsilon)))
    if not logs:
      scores.append(0.0)
      continue
    own = len(text)
    closest = min((abs(len(x) - own), len(x)) for x in others)[1]
    brevity = 1.0 if own >= closest else math.exp(1 - closest / own)
    scores.append(brevity * math.exp(np.mean(logs)))
  return np.mean(scores)


def ead_by_counting(texts, vocab_size, max_order=5):
  values = []
  for n in range(1, max_order + 1):
    found = sum((grams(x, n) for x in texts), Counter())
    if found:
      v = vocab_size**n
      expected = v * (1 - ((v - 1) / v) ** found.total())
      values.append(len(found) / expected)
  return np.mean(values)


def random_texts(seed, count=5):
  rng = np.random.default_rng(seed)
  return [
    rng.integers(0, 3, size).tolist() for size in rng.integers(0, 8, count)
  ]


MANY = [random_texts(seed) for seed in range(6)]


def stacked(groups, width=8):
  parts = [buffer(texts, width) for texts in groups]
  return tuple(jnp.concatenate(x) for x in zip(*parts))


def test_diversity_against_counting_one_by_one():
  tokens, mask = stacked(MANY)
  np.testing.assert_allclose(
    run(diversity.self_bleu, tokens, mask),
    [bleu_by_counting(texts) for texts in MANY],
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    run(diversity.expectation_adjusted_distinct, tokens, mask, vocab_size=3),
    [ead_by_counting(texts, 3) for texts in MANY],
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    run(diversity.distinct, tokens, mask),
    [len(set(map(tuple, texts))) / 5 for texts in MANY],
  )
  correct = np.random.default_rng(9).integers(0, 2, (6, 5))
  np.testing.assert_allclose(
    run(diversity.distinct_correct, tokens, mask, jnp.array(correct)),
    [
      len({tuple(x) for x, right in zip(texts, row) if right})
      for texts, row in zip(MANY, correct)
    ],
  )


def test_self_bleu_by_hand():
  # '1 2' against '1 3': one of two tokens, no pair of one; orders 3 and 4 do
  # not exist.
  tokens, mask = buffer([[1, 2], [1, 3]])
  expected = math.sqrt((1.1 / 2.1) * (0.1 / 1.1))
  assert run(diversity.self_bleu, tokens, mask)[0] == pytest.approx(expected)
  # '1' against '1 1 1': all it has is there, at a third of the length; the
  # other one's three tokens meet one.
  tokens, mask = buffer([[1], [1, 1, 1]])
  long = math.exp(np.mean(np.log([1.1 / 3.1, 0.1 / 2.1, 0.1 / 1.1])))
  expected = (math.exp(1 - 3) + long) / 2
  assert run(diversity.self_bleu, tokens, mask)[0] == pytest.approx(expected)


def test_identical_and_disjoint_samples():
  same, mask = buffer([[1, 2, 1, 4, 5]] * 4)
  assert run(diversity.self_bleu, same, mask)[0] == pytest.approx(1.0)
  assert run(diversity.distinct, same, mask)[0] == 0.25
  apart, mask = buffer([list(range(10 * i, 10 * i + 8)) for i in range(4)])
  assert run(diversity.self_bleu, apart, mask)[0] < 0.03
  assert run(diversity.distinct, apart, mask)[0] == 1.0
  # Empty samples are all the same, and are like nothing.
  none = jnp.zeros((1, 3, 4), jnp.int32), jnp.zeros((1, 3, 4))
  assert run(diversity.self_bleu, *none)[0] == 0.0
  assert (
    run(diversity.expectation_adjusted_distinct, *none, vocab_size=10)[0] == 0.0
  )
  assert run(diversity.distinct, *none)[0] == pytest.approx(1 / 3)


def test_every_possible_token_once_is_more_than_chance():
  # 4 of 4 tokens in 4 draws; by chance 4 (1 - (3/4)^4) differ.
  tokens, mask = buffer([[0, 1], [2, 3]])
  value = run(
    diversity.expectation_adjusted_distinct,
    tokens,
    mask,
    vocab_size=4,
    max_order=1,
  )
  assert value[0] == pytest.approx(1 / (1 - 0.75**4))


def test_padding_and_order_do_not_matter():
  plain, wide = stacked(MANY), stacked(MANY, 12)
  order = np.random.default_rng(1).permutation(5)
  mixed = tuple(x[::-1, order] for x in plain)
  measures = (
    diversity.distinct,
    diversity.self_bleu,
    functools.partial(diversity.expectation_adjusted_distinct, vocab_size=3),
  )
  for measure in measures:
    value = run(measure, *plain)
    np.testing.assert_allclose(run(measure, *wide), value, rtol=1e-5)
    np.testing.assert_allclose(run(measure, *mixed)[::-1], value, rtol=1e-5)


def test_across_inputs_compares_problems():
  # Within a problem all the same, between problems all different.
  groups = [[[10 * i + j for j in range(5)]] * 3 for i in range(4)]
  tokens, mask = stacked(groups)
  found = run(
    diversity.diversity, tokens, mask, jnp.ones((4, 3)), vocab_size=64
  )
  assert found['self_bleu'] == pytest.approx(1.0)
  assert found['self_bleu_across'] < 0.05
  assert found['ead'] < found['ead_across']
  assert found['distinct'] == pytest.approx(1 / 3)
  assert found['solutions'] == 1.0
  assert found['distinct_solutions'] == pytest.approx(1 / 3)


def test_share_of_solutions_counts_solved_problems_only():
  found = jnp.array([1.0, 0.0, 2.0])
  correct = jnp.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]])
  value = run(diversity.solution_share, found, correct)
  assert value == pytest.approx((0.25 + 1.0) / 2)
  assert jnp.isnan(run(diversity.solution_share, found[1:2], correct[1:2]))


def test_a_single_sample_has_no_self_bleu():
  with pytest.raises(ValueError, match='nearest valid: 2'):
    run(diversity.self_bleu, *buffer([[1, 2]]))
