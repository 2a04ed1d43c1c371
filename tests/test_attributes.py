"""Strings with wanted properties: prompts, verdicts and parts by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.tasks import attributes, vocab

EACH = tasks.make('attributes', segments=2)
WHOLE = tasks.make('attributes', segments=2, places='whole')
SIZE = 12


def own_shares(segment):
  pairs = list(zip(segment, segment[1:]))
  return {
    'v': sum(x in 'aeiou' for x in segment) / len(segment),
    'e': sum(x < 'n' for x in segment) / len(segment),
    'r': sum(b >= a for a, b in pairs) / len(pairs),
  }


def own_verdict(prompt, text, segments, width, each):
  """In Python, on text."""
  signs = [(prompt[i], prompt[i + 1]) for i in range(0, len(prompt) - 1, 2)]
  if len(text) != segments * width or not text.isalpha():
    return 0.0
  parts = [text[i : i + width] for i in range(0, len(text), width)]
  asked = zip(parts, signs) if each else [(p, s) for p in parts for s in signs]
  for part, (sign, letter) in asked:
    share = own_shares(part)[letter]
    if not (share > 0.5 if sign == '+' else share < 0.5):
      return 0.0
  return 1.0


@functools.cache
def programs(task):
  verify = lambda example, row, length: task.verify(
    example, row, (jnp.arange(row.shape[0]) < length).astype(jnp.float32)
  )
  return quick_jit(task.level), quick_jit(verify)


def row(text):
  tokens = np.zeros(SIZE, np.int32)
  tokens[: len(text) + 1] = [*vocab.encode(text), vocab.EOS]
  return jnp.asarray(tokens), len(text) + 1


PLUS_V, MINUS_R = (1, 0, 0), (0, 0, -1)
ALL = (1, -1, 1)


@pytest.mark.parametrize('task, wanted, prompt, text, reward, parts', [
  (EACH, (PLUS_V, MINUS_R), '+v-r:', 'aebizyxw', 1,
   {'score': (3 / 4 + 1) / 2, 'vowels': 3 / 8, 'early': 0.5,
    'rising': (2 / 3 + 0) / 2}),
  # Half of the letters are no majority.
  (EACH, (PLUS_V, MINUS_R), '+v-r:', 'aebczyxw', 0, {'score': 0.75}),
  # One of the segments is not so.
  (EACH, (PLUS_V, MINUS_R), '+v-r:', 'aebiabab', 0, {'format': 1}),
  (EACH, (PLUS_V, MINUS_R), '+v-r:', 'aebizyx', 0,
   {'format': 0, 'score': 0, 'vowels': 0}),
  (EACH, (PLUS_V, MINUS_R), '+v-r:', 'aebizyx1', 0, {'format': 0}),
  (WHOLE, (ALL, ALL), '+v-e+r:', 'oouuoouu', 1,
   {'score': 1, 'early': 0, 'rising': 1}),
  (WHOLE, (ALL, ALL), '+v-e+r:', 'oouuuooo', 1, {'rising': (1 + 2 / 3) / 2}),
  (WHOLE, (ALL, ALL), '+v-e+r:', 'oouuuouo', 0, {}),
])  # fmt: skip
def test_by_hand(task, wanted, prompt, text, reward, parts):
  level, verify = programs(task)
  example = level(jnp.array(wanted))
  assert vocab.decode(example.prompt, example.prompt_mask) == prompt
  found = verify(example, *row(text))
  assert found['reward'] == reward
  assert own_verdict(prompt, text, 2, 4, task is EACH) == reward
  for name, value in parts.items():
    assert found[name] == pytest.approx(value), name


@pytest.mark.parametrize('knobs', [
  {}, *(
    pytest.param({'places': 'whole', **x}, marks=pytest.mark.long)
    for x in ({'width': 2}, {'width': 6, 'least': 3})
  )
])  # fmt: skip
def test_every_set_of_principles_can_be_met(knobs):
  task = tasks.make('attributes', **knobs)
  keys = jax.random.split(jax.random.key(0), 128)

  def run(key):
    example = task.sample(key)
    text = task.solve(example, key)
    return example, text, task.verify(example, text.tokens, text.mask)

  example, text, found = jax.device_get(quick_jit(jax.vmap(run))(keys))
  assert np.all(found['reward'] == 1)
  prompts, said = set(), set()
  for i in range(128):
    prompt = vocab.decode(example.prompt[i], example.prompt_mask[i])
    answer = vocab.decode(text.tokens[i], text.mask[i])
    answer = answer.removesuffix('<eos>')
    assert own_verdict(
      prompt, answer, task.segments, task.width, task.places == 'each'
    ), (prompt, answer)
    prompts.add(prompt)
    said.add(answer)
  # Signs and letters of every kind; of one set of principles many strings.
  assert {x for p in prompts for x in p} == set('+-ver:')
  assert len(said) > 60 and len(prompts) >= 8
  if knobs.get('least') == 3:
    assert {len(p) for p in prompts} == {7}


@pytest.mark.parametrize('knobs, told', [
  ({'width': 3}, 'width=3 is not an even number'),
  ({'segments': 0}, 'segments=0 is not in 1..16'),
  ({'places': 'eahc'}, 'Did you mean "each"'),
  ({'least': 3, 'most': 2}, 'needs 1 <= least=3 <= most=2 <= 3'),
])  # fmt: skip
def test_knobs_that_cannot_work(knobs, told):
  with pytest.raises(ValueError, match=told):
    attributes.Task(**knobs)
