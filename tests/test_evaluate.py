"""The evaluator's metrics, against the same completions counted one by one."""

import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import tasks
from posttrain_jax.core.types import Rollout
from posttrain_jax.evals import in_graph, scores
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.rollout import beam, decoders, guides
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab

MODEL = make_config('depth-1')
INNER = tasks.make('addition', num_digits=2)
SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Even:
  """Right is what begins with an even token; the answer is that token / 8."""

  prompt_length: int = INNER.prompt_length
  completion_length: int = INNER.completion_length

  def sample(self, key):
    return INNER.sample(key)

  def verify(self, example, completion, mask):
    return {'reward': jnp.float32(completion[0] % 2 == 0)}

  def answer(self, completion, mask):
    return vocab.char(completion[0] // 8)


@pytest.fixture(scope='module')
def params():
  return jax.tree.map(
    lambda x: 2.0 * x, transformer.init(jax.random.key(0), MODEL)
  )


@pytest.fixture(scope='module')
def evaluator():
  return in_graph.Evaluator(
    model=MODEL, task=Even(), num_problems=12, samples=SAMPLES, batch=4,
    heldout_fraction=0.0, beams=3,
  )  # fmt: skip


@pytest.fixture(scope='module')
def found(evaluator, params):
  return jax.jit(evaluator)(params, jax.random.key(5))


def even(first):
  return float(first % 2 == 0)


def gap_by_hand(confidence, right, bins=15):
  places = np.ceil(np.round(confidence * bins, 4)).clip(1)
  gaps = [
    abs(np.mean(confidence[places == i]) - np.mean(right[places == i]))
    * np.mean(places == i)
    for i in np.unique(places)
  ]
  return sum(gaps)


def test_votes_and_confidence_by_counting(evaluator, params, found):
  key = jax.random.key(5)
  draw = lambda params, key: in_graph.generate_and_verify(
    params, MODEL, evaluator.task, evaluator.problems(key),
    jax.random.fold_in(key, 1), group_size=SAMPLES, decoder=decoders.sample,
  )[0]  # fmt: skip
  samples = jax.jit(draw)(params, key)
  first = np.asarray(samples.completion)[..., 0]
  sure = np.asarray(samples.logps.sum(-1) / samples.mask.sum(-1))

  def vote(group):
    counts = collections.Counter(group // 8)
    return even(
      next(x for x in group if counts[x // 8] == max(counts.values()))
    )

  for k in (2, 4):
    voted = [
      vote(group[start : start + k])
      for group in first
      for start in range(0, SAMPLES, k)
    ]
    assert found[f'eval/maj@{k}'] == pytest.approx(np.mean(voted))
    subsets = list(itertools.combinations(range(SAMPLES), k))
    best = [
      even(group[max(subset, key=lambda i, s=s: s[i])])
      for group, s in zip(first, sure)
      for subset in subsets
    ]
    assert found[f'eval/best_of@{k}'] == pytest.approx(np.mean(best))
    hit = [
      any(even(group[i]) for i in subset)
      for group in first
      for subset in subsets
    ]
    assert found[f'eval/pass@{k}'] == pytest.approx(np.mean(hit))
  right = np.array([even(x) for x in first.ravel()])
  assert found['eval/accuracy_sampled'] == pytest.approx(np.mean(right))
  # Sure of a token as its geometric mean, or as the share of equal answers.
  for name, confidence in (
    ('ece', np.exp(sure)),
    (
      'ece_consistency',
      [[np.mean(g // 8 == x // 8) for x in g] for g in first],
    ),
  ):
    gap = gap_by_hand(np.ravel(confidence), right)
    assert found[f'eval/{name}'] == pytest.approx(gap, abs=1e-5)
  # The three say different things of these completions.
  names = ('eval/maj@4', 'eval/best_of@4', 'eval/pass@4')
  assert len({float(found[name]) for name in names}) == 3
  assert 'eval/maj@8' not in found


@pytest.mark.long
def test_samples_are_drawn_as_asked(evaluator, params, found):
  for how, name, asked in (
    ((1.0, 1.0), 'sample', {}), ((0.0, 1.0), 'greedy', {}),
    ((0.5, 1.0), 'sample', {'temperature': 0.5}),
    ((0.5, 0.9), 'top_p', {'temperature': 0.5, 'p': 0.9}),
  ):  # fmt: skip
    drawn = scores.drawing(*how)
    assert getattr(drawn, 'keywords', {}) == asked
    assert getattr(drawn, 'func', drawn) is getattr(decoders, name)
  sharp = dataclasses.replace(evaluator, beams=0, temperature=0.01, top_p=0.5)
  said = jax.jit(sharp)(params, jax.random.key(5))
  assert said['eval/accuracy_sampled'] == said['eval/accuracy']
  assert said['eval/distinct'] == 1 / SAMPLES
  assert said['eval/accuracy'] == found['eval/accuracy']
  assert found['eval/distinct'] > 1 / SAMPLES


def test_beam_accuracy_is_of_the_best_beam(evaluator, params, found):
  def search(params, key):
    problems = evaluator.problems(key)
    return beam.search(
      params, MODEL, problems.prompt, problems.prompt_mask, beams=3,
      max_new_tokens=INNER.completion_length, eos_id=vocab.EOS,
    )[0]  # fmt: skip

  beams = jax.jit(search)(params, jax.random.key(5))
  right = [even(x) for x in beams.completion[:, 0, 0]]
  assert found['eval/accuracy_beam'] == pytest.approx(np.mean(right))
  assert 0 < np.mean(right) < 1


def test_no_beams_unless_asked_for(evaluator, params):
  plain = dataclasses.replace(evaluator, samples=0, beams=0)
  assert set(jax.eval_shape(plain, params, jax.random.key(0))) == {
    'eval/accuracy', 'eval/length', 'eval/truncated',
  }  # fmt: skip


def test_answer_is_the_text_after_the_marker():
  def buffer(text):
    ids = np.append(vocab.encode(text), vocab.EOS)
    return np.pad(ids, (0, 8 - len(ids))), np.arange(8) < len(ids)

  rows = [buffer(text) for text in ('1+2>3', '45', '>', '1>2>67')]
  samples = Rollout(
    completion=jnp.asarray([[ids for ids, _ in rows]]),
    mask=jnp.asarray([[mask for _, mask in rows]], jnp.float32),
    logps=jnp.zeros((1, 4, 8)),
    finished=jnp.ones((1, 4)),
  )
  said = in_graph.answers(INNER, samples)
  texts = [vocab.decode(said.tokens[0, g], said.mask[0, g]) for g in range(4)]
  assert texts == ['3', '45', '', '67']
  own = in_graph.answers(Even(), samples)
  assert own.length.tolist() == [[1, 1, 1, 1]]
  first = samples.completion[0, :, 0] // 8
  np.testing.assert_array_equal(own.tokens[0, :, 0], first)


def test_given_tokens_say_nothing_of_confidence():
  samples = Rollout(
    completion=jnp.zeros((1, 2, 3), jnp.int32),
    mask=jnp.array([[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]]),
    logps=jnp.array([[[-1.0, 0.0, -3.0], [-1.0, -2.0, 0.0]]]),
    finished=jnp.ones((1, 2)),
  )
  plain = scores.confidence(samples)
  np.testing.assert_allclose(plain, [[-4 / 3, -1.5]], rtol=1e-6)
  given = jnp.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
  told = scores.confidence(samples.replace(given=given))
  np.testing.assert_allclose(told, [[-2.0, -1.5]], rtol=1e-6)


def test_bad_beams(evaluator):
  with pytest.raises(ValueError, match='eval.beams=-1'):
    dataclasses.replace(evaluator, beams=-1)

  @dataclasses.dataclass(frozen=True)
  class Turns(Even):
    guide: object = 'an environment'

  with pytest.raises(ValueError, match='a task in turns'):
    dataclasses.replace(evaluator, task=Turns())


def test_guides_steer_every_answer(evaluator, params, found):
  steered = dataclasses.replace(
    evaluator,
    guide=guides.allowed_tokens(tokens=range(0, vocab.VOCAB_SIZE, 2)),
  )
  made = jax.jit(steered)(params, jax.random.key(5))
  for name in ('accuracy', 'accuracy_sampled', 'accuracy_beam', 'pass@4'):
    name = f'eval/{name}'
    assert made[name] == 1.0, name
  assert found['eval/accuracy_sampled'] < 0.9
  (first, *_) = steered.transcripts(params, jax.random.key(5), 1)
  assert first['reward'] == 1.0


@pytest.mark.parametrize(
  'spec', ['configs/sft.py:recipe=rejection_sampling', 'configs/rl.py']
)
def test_a_runs_guides_are_those_of_its_evaluation(spec):
  config = config_lib.load(spec)
  named = [{'name': 'banned_tokens', 'tokens': [vocab.EOS]}]
  config_lib.override(config, [('guides', repr(named))])
  run = build.build(config)
  assert run.evaluators[''].guide == guides.make(
    named, eos_id=vocab.EOS, vocab_size=vocab.VOCAB_SIZE
  )
  config_lib.override(config, [('guides', "[{'name': 'forced_prefix'}]")])
  with pytest.raises(ValueError, match='"forced_prefix" needs the tokens'):
    build.build(config)
