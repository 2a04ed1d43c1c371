"""The probe: what it counts, and that it computes no more than is asked."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_measures import bleu_by_counting, ead_by_counting, run

from posttrain_jax import tasks
from posttrain_jax.core.types import Rollout
from posttrain_jax.evals import in_graph, scores
from posttrain_jax.evals.measures import (
  Probe,
  calibration,
  divergences,
  diversity,
  probe,
)
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import vocab

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
