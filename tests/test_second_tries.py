"""Tasks that ask again: what they show, what they say, who is right."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import rollout, tasks
from posttrain_jax.core.types import Example
from posttrain_jax.rollout import environments
from posttrain_jax.tasks import conditioned, second_tries, split, vocab
from posttrain_jax.tasks.second_tries import Retry, Seen
from posttrain_jax.tasks.vocab import Text

ADDITION = tasks.make('addition', num_digits=2)
ROWS, SIZE = 256, 16


def text(said, size=SIZE, end=False):
  tokens = np.zeros(size, np.int32)
  ids = [*vocab.encode(said), *[vocab.EOS] * end]
  tokens[: len(ids)] = ids
  return Text(jnp.asarray(tokens), jnp.int32(len(ids)))


def problem(first, second):
  prompt = text(f'{first}+{second}=', ADDITION.prompt_length)
  answer = {'terms': jnp.array([first, second])}
  return Example(prompt.tokens, prompt.mask, jnp.uint32(0), answer)


@functools.cache
def judge(task):
  return quick_jit(task.verify)


@functools.cache
def shown(task, plain=False):
  """(example, answer) -> the problem beside it."""
  truth = lambda e: second_tries.said(ADDITION.solve(e, jax.random.key(0)))
  return quick_jit(lambda e, answer: task.level(e, answer, truth(e), plain))


@pytest.mark.parametrize('feedback, answer, expected', [
  ('verdict', '41', '12+34=41?|'), ('verdict', '46', '12+34=46%|'),
  ('none', '41', '12+34=41|'), ('truth', '41', '12+34=41?46|'),
  ('verdict', '', '12+34=?|'),
])  # fmt: skip
def test_an_answer_is_shown_with_its_mark(feedback, answer, expected):
  task = Seen(ADDITION, feedback=feedback)
  example = shown(task)(problem(12, 34), text(answer))
  said = vocab.decode(example.prompt, example.prompt_mask)
  assert said == expected and example.prompt.shape == (task.prompt_length,)
  inner = task._inner(example)
  bare = problem(12, 34)
  np.testing.assert_array_equal(inner.prompt, bare.prompt)
  np.testing.assert_array_equal(inner.prompt_mask, bare.prompt_mask)
  np.testing.assert_array_equal(task.identity(example), [12, 34])


@pytest.mark.parametrize('answer, given, expected', [
  ('41', '46', (1, 0, 1)), ('46', '46', (1, 1, 0)), ('41', '41', (0, 0, 0)),
  ('46', '41', (0, 0, 0)),
])  # fmt: skip
def test_what_is_kept_and_what_is_mended(answer, given, expected):
  task = Seen(ADDITION)
  example = shown(task)(problem(12, 34), text(answer))
  found = judge(task)(example, *_row(given, end=True))
  assert (found['reward'], found['kept'], found['mended']) == expected
  # A plain problem shows nothing that could be kept.
  plain = shown(task, True)(problem(12, 34), text(answer))
  assert vocab.decode(plain.prompt, plain.prompt_mask) == '12+34='
  found = judge(task)(plain, *_row(given, end=True))
  assert (found['kept'], found['mended']) == (0, 0)


def _row(said, end=False):
  row = text(said, end=end)
  return row.tokens, row.mask


@pytest.mark.long
def test_shares_of_what_is_shown():
  task = Seen(ADDITION, wrong=0.25, plain=0.5)

  def run(key):
    example = task.sample(key)
    return example, task.solve(example, key), split.identity(task, example)

  keys = jax.random.split(jax.random.key(0), ROWS)
  example, answer, identity = quick_jit(jax.vmap(run))(keys)
  found = example.answer
  deviation = 4 * 0.5 / ROWS**0.5
  assert abs(np.mean(found['seen']) - 0.5) < deviation
  right = np.mean(found['seen_right'][np.asarray(found['seen'])])
  assert abs(right - 0.75) < 0.25  # another problem's answer may be right
  assert 0.5 < right < 1.0
  verdicts = quick_jit(jax.vmap(task.verify))(
    example, answer.tokens, answer.mask
  )
  assert np.all(verdicts['reward'] == 1)
  assert np.all(verdicts['mended'] + verdicts['kept'] == found['seen'])
  terms = np.sort(example.answer['inner']['terms'], axis=1)
  np.testing.assert_array_equal(identity, terms)
  one = Seen(ADDITION, wrong=0.0, plain=0.0)
  example = quick_jit(jax.vmap(one.sample))(keys[:8])
  assert np.all(example.answer['seen_right'])


# What a model writes, the transcript, and (reward, first, tries).
@pytest.mark.parametrize('written, transcript, expected', [
  ('46|', '46|', (1, 1, 1)),
  ('41|46|', '41|?46|', (1, 0, 2)),
  ('41|40|', '41|?40|', (0, 0, 2)),
  ('46|41|', '46|41|', (1, 1, 1)),  # it was over
  ('|46|', '|?46|', (1, 0, 2)),
  ('41', '41', (0, 0, 0)),
  ('46', '46', (0, 0, 0)),  # a try that is not handed in
  ('4600046|46|', '4600046|?46|', (1, 0, 2)),
])  # fmt: skip
def test_tries_by_hand(written, transcript, expected):
  task = Retry(ADDITION, tries=2)
  out = played(task)(problem(12, 34), text(written))
  assert vocab.decode(out.tokens, out.mask) == transcript
  found = judge(task)(problem(12, 34), out.tokens, out.mask)
  assert tuple(float(found[k]) for k in ('reward', 'first', 'tries')) == (
    expected
  )


@functools.cache
def played(task):
  return quick_jit(
    lambda e, text: second_tries.turns.transcript(task, e, text, SIZE)
  )


def test_a_mark_that_the_model_writes_itself_is_none():
  task = Retry(ADDITION, tries=2)
  for forged in ('41|46|', '41|%46|'):
    found = judge(task)(problem(12, 34), *_row(forged))
    assert found['reward'] == 0


@pytest.mark.long
@pytest.mark.parametrize('slips, first', [(0.0, 1.0), (1.0, 0.0)])
def test_the_oracle_slips_and_mends_it(slips, first):
  task = Retry(ADDITION, tries=3, slips=slips)

  def run(key):
    example = task.sample(key)
    answer = task.solve(example, key)
    return answer, task.verify(example, answer.tokens, answer.mask)

  keys = jax.random.split(jax.random.key(1), 64)
  answer, found = quick_jit(jax.vmap(run))(keys)
  assert answer.tokens.shape[1] == task.completion_length == 3 * 4 + 2
  assert np.all(found['reward'] == 1)
  assert abs(np.mean(found['first']) - first) < 0.1
  said = vocab.decode(answer.tokens[0], answer.mask[0])
  assert said.count('|') == found['tries'][0] and said.endswith('|')
  # Nothing stands behind the end.
  assert np.all(answer.length <= task.completion_length)
  if slips == 0:
    assert np.all(found['tries'] == 1)
    assert said.count('?') == 0


@pytest.mark.long
def test_a_rollout_is_told_and_ends_with_a_right_try():
  """Tokens are drawn from digits and '|' alone: of sums of one digit some are
  right at the second try."""
  from posttrain_jax.models import transformer
  from posttrain_jax.models.config import make_config
  from posttrain_jax.rollout import decoders

  task = Retry(tasks.make('addition', num_digits=1), tries=3)
  model = make_config('pico', num_layers=1)
  params = transformer.init(jax.random.key(0), model)
  chars = jnp.asarray(vocab.encode('0123456789|||||'))

  def likely(logits, keys):
    only = jnp.full_like(logits, -jnp.inf).at[:, chars].set(0.0)
    return decoders.sample(only, keys)

  e = split.sample_batch(task, jax.random.key(1), 16, heldout=False, fraction=0)
  samples = jax.jit(
    lambda e: rollout.generate(
      params, model, e.prompt, e.prompt_mask, jax.random.key(7), group_size=4,
      max_new_tokens=task.completion_length, decoder=likely,
      eos_id=vocab.EOS, prompt_ids=e.prompt_id,
      **environments.steering(task, e, 4),
    )
  )(e)  # fmt: skip
  verdict = jax.vmap(jax.vmap(task.verify, (None, 0, 0)))(
    e, samples.completion, samples.mask
  )
  assert 0 < np.mean(verdict['reward']) < 1
  for b, g in np.ndindex(16, 4):
    said = vocab.decode(samples.completion[b, g], samples.mask[b, g])
    total = int(e.answer['terms'][b].sum())
    tries = said.split('|')[:-1]
    tries = [x.removeprefix('?') for x in tries]
    assert verdict['tries'][b, g] == len(tries) <= 3
    right = [x == str(total) for x in tries]
    assert verdict['reward'][b, g] == any(right)
    assert not any(right[:-1]), said


@pytest.mark.parametrize('condition, knobs, told', [
  ('seen_answer', {'wrong': 1.5}, 'wrong=1.5 is no share'),
  ('seen_answer', {'feedback': 'verdit'}, 'Did you mean "verdict"'),
  ('retry', {'tries': 0}, 'tries=0 is not in 1..16'),
  ('retry', {'slips': -1.0}, 'slips=-1.0 is no share'),
])  # fmt: skip
def test_knobs_that_cannot_work(condition, knobs, told):
  with pytest.raises(ValueError, match=told):
    conditioned.wrap(ADDITION, condition, **knobs)
  game = tasks.make('dictionary')
  with pytest.raises(ValueError, match=f'{condition}: the task answers in tur'):
    conditioned.wrap(game, condition)


def test_a_task_that_asks_again_is_hashable():
  task = Seen(ADDITION)
  assert hash(dataclasses.replace(task, wrong=0.1)) != hash(task)
