"""Measures: by hand, by counting one by one, and what must not matter."""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import tasks
from posttrain_jax.core.types import Rollout
from posttrain_jax.evals import in_graph, scores
from posttrain_jax.evals.measures import (
  Probe,
  calibration,
  divergences,
  diversity,
  probe,
  spectra,
  transfer,
)
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import vocab


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


# --- spectra


def pair():
  """(params, base): a layered matrix, attention's output, vectors."""
  rng = np.random.default_rng(0)
  heads = jnp.asarray(rng.uniform(1, 2, size=(2, 2, 4)), jnp.float32)
  base = {
    'embed': {'tokens': jnp.eye(8)},
    'layers': {
      'gate': jnp.asarray(rng.normal(size=(2, 8, 16)), jnp.float32),
      # Rank one with the heads' outputs as rows; not with the heads as rows.
      'output': jnp.einsum('lhk,d->lhkd', heads, 1.0 + jnp.arange(8)),
      'query_bias': jnp.ones((2, 2, 4)),
      'mlp_norm': jnp.ones((2, 8)),
    },
    'final_norm': jnp.ones((8,)),
  }
  change = jnp.zeros((2, 8, 16)).at[1].set(jnp.eye(8, 16) * 0.5)
  params = {**base, 'layers': {**base['layers']}}
  params['layers']['gate'] = base['layers']['gate'] + change
  # Rank one, in the direction of the base's only one.
  params['layers']['output'] = base['layers']['output'] * 1.5
  params['embed'] = {'tokens': jnp.eye(8).at[3, 3].add(2.0)}
  return params, base


def test_spectra_by_hand():
  params, base = pair()
  found = run(spectra.per_layer, params, base, top=1)
  assert set(found) == {'embed/tokens', 'layers/gate', 'layers/output'}
  gate, output = found['layers/gate'], found['layers/output']
  for name in spectra.MEASURES:  # the first layer did not move
    assert gate[name].shape == (2,) and gate[name][0] == 0.0, name
  assert gate['stable_rank'][1] == pytest.approx(8.0, rel=1e-5)
  assert gate['effective_rank'][1] == pytest.approx(8.0, rel=1e-5)
  assert gate['top_energy'][1] == pytest.approx(1 / 8, rel=1e-5)
  assert gate['changed'][1] == pytest.approx(8 / 128)
  size = np.linalg.norm(base['layers']['gate'][1])
  assert gate['relative_norm'][1] == pytest.approx(8**0.5 * 0.5 / size)
  for name in ('stable_rank', 'effective_rank', 'top_energy', 'changed',
               'overlap_left', 'overlap_right'):  # fmt: skip
    np.testing.assert_allclose(output[name], 1.0, rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(output['relative_norm'], 0.5, rtol=1e-5)
  assert found['embed/tokens']['stable_rank'][0] == pytest.approx(1.0)
  # One direction lies where the base's does, however many are looked at.
  more = run(spectra.per_layer, params, base, top=4)['layers/output']
  np.testing.assert_allclose(more['overlap_left'], 1.0, rtol=1e-4)


def test_spectra_of_a_whole_model():
  params, base = pair()
  params['final_norm'] = base['final_norm'].at[0].add(1.0)
  whole = run(spectra.spectra, params, base)
  moved = 8 + 2 * 64 + 1 + 1
  total = sum(x.size for x in jax.tree.leaves(base))
  assert whole['changed'] == pytest.approx(moved / total)
  output = float(jnp.sum(base['layers']['output'] ** 2))
  squares = 8 * 0.25 + output * 0.25 + 4 + 1
  size = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(base))
  assert whole['relative_norm'] == pytest.approx((squares / size) ** 0.5)
  # Five matrices: gate 0 and 8, output 1 and 1, embeddings 1.
  assert whole['stable_rank'] == pytest.approx(11 / 5, rel=1e-5)
  still = run(spectra.spectra, base, base)
  assert all(value == 0.0 for value in still.values())
  coarse = run(spectra.spectra, params, base, tolerance=1.5)
  far = 1 + int(jnp.sum(base['layers']['output'] * 0.5 > 1.5))
  assert coarse['changed'] == pytest.approx(far / total)


def test_overlap_of_disjoint_and_of_random_subspaces():
  base = {'unembed': jnp.diag(jnp.arange(8, 0, -1.0))}
  top = {'unembed': jnp.diag(jnp.array([16.0, 14, 6, 5, 4, 3, 2, 1]))}
  last = {'unembed': jnp.diag(jnp.array([8.0, 7, 6, 5, 4, 3, 18, 9]))}
  # What moves are the first two directions, or the last two.
  scale = lambda tree: run(spectra.spectra, tree, base, top=2)
  assert scale(top)['overlap_left'] == pytest.approx(1.0, abs=1e-5)
  assert scale(top)['overlap_right'] == pytest.approx(1.0, abs=1e-5)
  assert scale(last)['overlap_left'] == pytest.approx(0.0, abs=1e-5)
  noise = {'unembed': jax.random.normal(jax.random.key(0), (40, 60))}
  moved = {'unembed': jax.random.normal(jax.random.key(1), (40, 60)) * 0.1}
  other = {'unembed': noise['unembed'] + moved['unembed']}
  found = run(spectra.spectra, other, noise, top=20)
  assert found['overlap_left'] == pytest.approx(20 / 40, abs=0.1)
  assert found['overlap_right'] == pytest.approx(20 / 60, abs=0.1)


def test_spectra_against_numpy_and_in_bfloat16():
  _, base = pair()
  gate = np.asarray(base['layers']['gate'])
  rng = np.random.default_rng(3)
  change = rng.normal(size=gate.shape).astype(np.float32)
  params = {'layers': {'gate': jnp.asarray(gate + change)}}
  found = run(
    spectra.per_layer, params, {'layers': {'gate': jnp.asarray(gate)}}
  )
  for layer in range(2):
    s = np.linalg.svd((gate + change - gate)[layer], compute_uv=False)
    p = s / s.sum()
    row = {k: v[layer] for k, v in found['layers/gate'].items()}
    assert row['effective_rank'] == pytest.approx(
      np.exp(-np.sum(p * np.log(p))), rel=1e-4
    )
    assert row['stable_rank'] == pytest.approx(
      np.sum(s**2) / s[0] ** 2, rel=1e-4
    )
    assert row['top_energy'] == pytest.approx(
      s[0] ** 2 / np.sum(s**2), rel=1e-4
    )
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert np.isfinite(float(run(spectra.spectra, half, half)['changed']))


def test_spectra_of_other_trees():
  params, base = pair()
  with pytest.raises(ValueError, match='differ in: final_norm'):
    run(
      spectra.spectra,
      {k: v for k, v in params.items() if k != 'final_norm'},
      base,
    )
  with pytest.raises(ValueError, match='no matrices'):
    run(
      spectra.spectra, {'final_norm': jnp.ones(3)}, {'final_norm': jnp.ones(3)}
    )


# --- divergences


def test_divergences_by_hand():
  p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
  found = run(
    divergences.per_token,
    jnp.log(jnp.array([p, p])) + 3.0,
    jnp.log(jnp.array([q, p])),
  )
  # 0.5 log 2 + 0.25 log 1 - 0.25 log 2
  np.testing.assert_allclose(found['kl'], [0.25 * math.log(2), 0], atol=1e-6)
  np.testing.assert_allclose(found['total_variation'], [0.25, 0], atol=1e-6)
  np.testing.assert_allclose(found['entropy'], 1.5 * math.log(2), rtol=1e-5)


def test_impossible_tokens():
  sure = jnp.array([0.0, -jnp.inf, -jnp.inf])
  even = jnp.zeros(3)
  found = run(divergences.per_token, sure, even)
  assert found['kl'] == pytest.approx(math.log(3))
  assert found['entropy'] == 0.0
  assert found['total_variation'] == pytest.approx(2 / 3)
  assert run(divergences.per_token, even, sure)['kl'] == jnp.inf


# --- the probe

MODEL = make_config('depth-1')


@dataclasses.dataclass(frozen=True)
class Even:
  """Right is what begins with an even token; the answer is that token / 8."""

  inner: object = tasks.make('addition', num_digits=1)
  prompt_length: int = 4
  completion_length: int = 3

  def sample(self, key):
    return self.inner.sample(key)

  def verify(self, example, completion, mask):
    return {'reward': jnp.float32(completion[0] % 2 == 0)}

  def answer(self, completion, mask):
    return vocab.char(completion[0] // 8)


TASK = Even()
PROBE = Probe(
  model=MODEL, task=TASK, num_problems=8, samples=4, batch=4,
  heldout_fraction=0.0, measures=probe.MEASURES,
)  # fmt: skip
KEY = jax.random.key(3)


@pytest.fixture(scope='module')
def params():
  """A policy and its base, [2, ...]: peaked, so that samples repeat."""
  init = lambda seed: transformer.init(jax.random.key(seed), MODEL)
  return jax.tree.map(lambda *x: 6.0 * jnp.stack(x), init(0), init(1))


@pytest.fixture(scope='module')
def base(params):
  return jax.tree.map(lambda x: x[1], params)


@pytest.fixture(scope='module')
def found(params, base):
  """Of the policy and of the base itself, as two seeds at once."""
  return jax.jit(jax.vmap(PROBE, (0, None, None)))(params, base, KEY)


class Drawn(NamedTuple):
  """What the probe sees, drawn again."""

  texts: list
  rewards: np.ndarray
  likelihood: np.ndarray


@pytest.fixture(scope='module')
def drawn(params):
  def draw(policy):
    return in_graph.generate_and_verify(
      policy, MODEL, TASK, PROBE._evaluator.problems(KEY),
      jax.random.fold_in(KEY, 1), group_size=4, decoder=decoders.sample,
    )  # fmt: skip

  samples, rewards = run(draw, jax.tree.map(lambda x: x[0], params))
  tokens, mask = np.asarray(samples.completion), np.asarray(samples.mask)
  logps = np.sum(np.asarray(samples.logps) * mask, axis=-1)
  return Drawn(
    texts=[
      [tuple(row[keep > 0].tolist()) for row, keep in zip(*group)]
      for group in zip(tokens, mask)
    ],
    rewards=np.asarray(rewards),
    likelihood=np.exp(logps / mask.sum(-1)),
  )


def test_probe_has_every_measure_and_all_are_finite(found):
  names = set(probe.MEASURES) - {'pass@k'} | {'pass@2', 'pass@4'}
  assert set(found) == names
  for name in names:
    assert found[name].shape == (2,) and np.all(np.isfinite(found[name])), name


def test_probe_counts_what_was_drawn(found, drawn):
  texts, right = drawn.texts, drawn.rewards > 0.5
  flat = list(itertools.chain(*texts))
  expected = {
    'accuracy': np.mean(drawn.rewards),
    'length': np.mean([len(text) for text in flat]),
    'truncated': np.mean([text[-1] != vocab.EOS for text in flat]),
    'distinct': np.mean([len(set(group)) / 4 for group in texts]),
    'self_bleu': np.mean([bleu_by_counting(group) for group in texts]),
    'self_bleu_across': np.mean(
      [bleu_by_counting(group) for group in zip(*texts)]
    ),
    'ead': np.mean(
      [ead_by_counting(group, MODEL.vocab_size) for group in texts]
    ),
    'solutions': np.mean(
      [
        len({text for text, ok in zip(group, row) if ok})
        for group, row in zip(texts, right)
      ]
    ),
    'pass@4': np.mean(right.any(axis=1)),
    'distinct_solutions': np.mean(
      [
        len({text for text, ok in zip(group, row) if ok}) / row.sum()
        for group, row in zip(texts, right)
        if row.any()
      ]
    ),
  }
  sure = drawn.likelihood
  expected['brier'] = np.mean((sure - right) ** 2)
  expected['ece'] = calibration.ece(jnp.array(sure), jnp.array(right))
  for name, value in expected.items():
    assert found[name][0] == pytest.approx(float(value), rel=1e-4), name
  # The samples do differ, and do repeat.
  assert 0.3 < expected['distinct'] < 1.0
  assert 0.2 < expected['accuracy'] < expected['pass@4']


def test_what_an_environment_says_is_no_text_of_the_policy():
  samples = Rollout(
    completion=jnp.array([[[7, 1, 8, 9], [7, 2, 8, 9]]]),
    mask=jnp.array([[[1.0, 1, 1, 1], [1, 1, 1, 0]]]),
    logps=jnp.zeros((1, 2, 4)),
    finished=jnp.ones((1, 2)),
  )
  np.testing.assert_array_equal(probe._chosen(samples), samples.mask)
  given = jnp.array([[[1.0, 0, 1, 0], [1, 0, 1, 0]]])
  np.testing.assert_array_equal(
    probe._chosen(samples.replace(given=given)), [[[0, 1, 0, 1], [0, 1, 0, 0]]]
  )


def test_probe_of_the_base_itself_is_no_divergence(found):
  for name in ('kl_reverse', 'kl_forward', 'total_variation'):
    assert found[name][1] == pytest.approx(0.0, abs=1e-6), name
    assert found[name][0] > 0.01, name
  assert found['entropy'][1] > 0.0


def test_probe_agrees_with_the_evaluator(found, params, base):
  policy = jax.tree.map(lambda x: x[0], params)
  evaluator = dataclasses.replace(PROBE._evaluator, samples=0)

  def run(policy, base):
    # The roles swapped: the base's samples, and its KL to the policy.
    forward = in_graph.divergence(base, policy, evaluator, KEY)
    return evaluator(policy, KEY), forward

  scores, forward = jax.jit(run)(policy, base)
  assert found['accuracy_greedy'][0] == scores['eval/accuracy']
  np.testing.assert_allclose(found['kl_forward'][0], forward, rtol=1e-4)


def test_prompts_of_any_kind(found, params, base):
  policy = jax.tree.map(lambda x: x[0], params)

  def compare(policy, base):
    problems = PROBE._evaluator.problems(KEY)
    return divergences.on_prompts(
      policy, base, MODEL, problems.prompt, problems.prompt_mask,
      jax.random.fold_in(KEY, 1), group_size=4,
      max_new_tokens=TASK.completion_length,
    )  # fmt: skip

  again = run(compare, policy, base)
  for name in ('kl_reverse', 'total_variation', 'entropy'):
    np.testing.assert_allclose(again[name], found[name][0], rtol=1e-4)
  assert again['kl_forward'] > 0.01


def traced(*measures):
  """Names of a probe's metrics, without compiling it and without a base."""
  cheap = dataclasses.replace(PROBE, measures=measures)
  shapes = jax.eval_shape(lambda k: transformer.init(k, MODEL), KEY)
  return set(jax.eval_shape(lambda p, k: cheap(p, None, k), shapes, KEY))


def test_what_is_not_asked_for_is_not_computed(monkeypatch):
  fail = lambda *_, **__: pytest.fail('computed, but not asked for')
  for module, name in (
    (diversity, 'self_bleu'), (diversity, 'distinct'),
    (diversity, 'distinct_correct'), (calibration, 'ece'),
    (diversity, 'expectation_adjusted_distinct'),
    (divergences, 'compare'), (decoders, 'greedy'),
    (transformer, 'token_logps'), (scores, 'confidence'),
  ):  # fmt: skip
    monkeypatch.setattr(module, name, fail)
  names = traced('accuracy', 'pass@k', 'length', 'truncated')
  assert names == {'accuracy', 'pass@2', 'pass@4', 'length', 'truncated'}
  monkeypatch.undo()
  monkeypatch.setattr(decoders, 'sample', fail)
  assert traced('accuracy_greedy') == {'accuracy_greedy'}


def test_without_a_base_and_confidence_by_consistency(found, drawn, params):
  policy = jax.tree.map(lambda x: x[0], params)
  told = dataclasses.replace(
    PROBE, measures=('entropy', 'brier'), confidence='consistency'
  )
  value = run(lambda p: told(p, None, KEY), policy)
  assert set(value) == {'entropy', 'brier'}
  np.testing.assert_allclose(value['entropy'], found['entropy'][0], rtol=1e-4)
  # The task's answer is the first token, in steps of 8.
  said = [[text[0] // 8 for text in group] for group in drawn.texts]
  share = [[group.count(x) / 4 for x in group] for group in said]
  expected = np.mean((np.array(share) - (drawn.rewards > 0.5)) ** 2)
  assert value['brier'] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'measures': ('acuracy',)}, 'Did you mean "accuracy"'),
    ({'confidence': 'likely'}, 'Did you mean "likelihood"'),
    ({'samples': 1}, 'nearest valid: 2'),
    ({'temperature': 0.0}, 'accuracy_greedy'),
    ({'num_problems': 7}, 'no multiple'),
    ({'num_problems': 1, 'batch': 1}, 'self_bleu_across'),
  ],
)
def test_bad_probes(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(PROBE, **changes)


def test_a_probe_is_static_and_says_when_it_needs_a_base():
  assert hash(PROBE) == hash(dataclasses.replace(PROBE))
  with pytest.raises(ValueError, match='kl_forward, kl_reverse compare'):
    traced('accuracy', 'kl_reverse', 'kl_forward')
