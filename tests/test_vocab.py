"""The task vocabulary and exact expressions, against Python's own."""

import fractions
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.parts import expressions, lists
from posttrain_jax.tasks.vocab import Text

SIZE = 24


def text(string: str, size: int = SIZE) -> Text:
  return vocab.fit(vocab.literal(string), size)


def string(value: Text) -> str:
  # What lies behind a text must be padding, or buffers would not compare.
  np.testing.assert_array_equal(value.tokens[int(value.length) :], vocab.PAD)
  return vocab.decode(value.tokens[: int(value.length)])


def batch(strings: list[str], size: int = SIZE) -> Text:
  rows = [vocab.encode(row) for row in strings]
  tokens = np.stack([np.pad(row, (0, size - len(row))) for row in rows])
  return Text(jnp.asarray(tokens), jnp.array([len(row) for row in rows]))


def test_there_are_64_distinct_tokens():
  assert vocab.VOCAB_SIZE == 64
  assert len(set(vocab.CHARACTERS)) == len(vocab.CHARACTERS) == 60
  assert vocab.decode(vocab.encode(vocab.CHARACTERS)) == vocab.CHARACTERS
  assert vocab.decode([0, 1, 2, 3]) == '<pad><eos><bos><sep>'
  assert [vocab.token(digit) for digit in '0123456789'] == list(range(4, 14))


def test_encode_names_a_character_it_does_not_know():
  with pytest.raises(ValueError, match="'A' at position 2 of 'abA'"):
    vocab.encode('abA')


def test_decode_leaves_out_what_the_mask_leaves_out():
  assert vocab.decode(vocab.encode('abcd'), [1, 0, 1, 0]) == 'ac'


def test_number():
  values = [0, 7, 10, 99, 100, 305, 9999]
  numbers = jax.jit(jax.vmap(lambda value: vocab.number(value, 4)))
  out = numbers(jnp.array(values))
  assert [string(Text(*row)) for row in zip(*out)] == list(map(str, values))
  # Ten digits are still exact in int32.
  assert string(vocab.number(2**31 - 1, 10)) == str(2**31 - 1)


def test_signed():
  values = [-305, -1, 0, 42]
  out = jax.jit(jax.vmap(lambda value: vocab.signed(value, 3)))(
    jnp.array(values)
  )
  assert [string(Text(*row)) for row in zip(*out)] == list(map(str, values))


def test_join_closes_gaps_and_cuts_at_size():
  parts = text('ab', 5), text('', 3), text('c', 1), text('de', 4)
  joined = vocab.join(*parts)
  assert string(joined) == 'abcde' and joined.tokens.shape == (13,)
  assert string(vocab.join(*parts, size=4)) == 'abcd'
  assert string(vocab.join(*parts, size=5)) == 'abcde'
  wide = vocab.join(*parts, size=20)
  assert string(wide) == 'abcde' and wide.tokens.shape == (20,)


def test_where_takes_texts_of_different_buffers():
  first, second = text('abc', 3), text('z', 5)
  assert string(vocab.where(jnp.bool_(True), first, second)) == 'abc'
  assert string(vocab.where(jnp.bool_(False), first, second)) == 'z'


def test_fit_grows_and_cuts():
  assert string(vocab.fit(text('abc', 3), 6)) == 'abc'
  assert string(vocab.fit(text('abc', 3), 2)) == 'ab'


def test_mask_of_one_text_and_of_many():
  np.testing.assert_array_equal(text('ab', 4).mask, [1, 1, 0, 0])
  many = batch(['ab', '', 'abcd'], 4)
  expected = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
  np.testing.assert_array_equal(many.mask, expected)


def test_equal_compares_texts_not_buffers():
  assert vocab.equal(text('abc', 3), text('abc', 9))
  assert not vocab.equal(text('abc'), text('abd'))
  assert not vocab.equal(text('abc'), text('ab'))
  assert vocab.equal(text('', 2), text('', 5))
  # Padding that counts is not the same as no token.
  padded = Text(jnp.array([5, 0]), jnp.int32(2))
  assert not vocab.equal(padded, Text(jnp.array([5, 0]), jnp.int32(1)))
  dirty = Text(jnp.array([5, 9]), jnp.int32(1))
  assert vocab.equal(dirty, Text(jnp.array([5, 0]), jnp.int32(1)))


def test_before_eos_after_last_and_compact():
  tokens = jnp.concatenate(
    [
      jnp.asarray(vocab.encode('1>2>34')),
      jnp.array([vocab.EOS]),
      jnp.asarray(vocab.encode('>9')),
    ]
  )
  mask = vocab.before_eos(tokens, jnp.ones(9))
  np.testing.assert_array_equal(mask, [1] * 6 + [0] * 3)
  last = vocab.after_last(tokens, mask, vocab.token('>'))
  np.testing.assert_array_equal(last, [0, 0, 0, 0, 1, 1, 0, 0, 0])
  assert string(vocab.compact(tokens, last)) == '34'
  # A masked EOS or marker does not speak; without a marker all is kept.
  unmasked = vocab.before_eos(tokens, jnp.ones(9).at[6].set(0.0))
  np.testing.assert_array_equal(unmasked, [1, 1, 1, 1, 1, 1, 0, 1, 1])
  kept = vocab.after_last(tokens, mask, vocab.token('?'))
  np.testing.assert_array_equal(kept, mask)
  assert string(vocab.compact(tokens, jnp.zeros(9))) == ''


def test_parse_number():
  strings = {
    '0': 0,
    '408': 408,
    '007': 7,
    '999999999': 999999999,
    '1234567890': None,
    '': None,
    '-1': None,
    '1 2': None,
    '12a': None,
  }
  values, oks = jax.jit(jax.vmap(vocab.parse_number))(batch(list(strings)))
  for value, ok, expected in zip(values, oks, strings.values()):
    assert bool(ok) == (expected is not None)
    assert int(value) == (expected or 0)


def test_lists():
  values, keep = jnp.array([31, 4, 0, 15]), jnp.array([True, False, True, True])
  assert string(lists.numbers(values, keep, 2)) == '31,0,15'
  assert string(lists.numbers(values, ~keep, 2)) == '4'
  assert string(lists.numbers(values, keep & False, 2)) == ''
  assert string(lists.concat(batch(['ab', '', 'cde'], 4))) == 'abcde'


@pytest.fixture(scope='module')
def evaluate():
  one = lambda row: expressions.evaluate(row, max_numbers=4)
  return jax.jit(jax.vmap(one))


def random_expression(source: random.Random, depth: int) -> str:
  if depth == 0 or source.random() < 0.2:
    return str(source.randint(0, 20))
  left = random_expression(source, depth - 1)
  right = random_expression(source, depth - 1)
  inner = left + source.choice('+-*/') + right
  return f'({inner})' if source.random() < 0.5 else inner


def test_expressions_are_exact(evaluate):
  source = random.Random(0)
  strings = [random_expression(source, 2) for _ in range(400)]
  strings = [row for row in strings if len(row) <= SIZE]
  strings += ['8/(3-8/3)', '((1+2))', '3/(2-2)', '0/7', '12/4/3', '10-2-3']
  values = jax.device_get(evaluate(batch(strings)))
  divisions_by_zero = 0
  for i, row in enumerate(strings):
    exact = re.sub(r'(\d+)', r'fractions.Fraction(\1)', row)
    numbers = [int(number) for number in re.findall(r'\d+', row)]
    assert values.count[i] == len(numbers)
    assert values.numbers[i].tolist() == (numbers + [-1] * 4)[:4]
    try:
      expected = eval(exact, {'fractions': fractions})
    except ZeroDivisionError:
      assert not values.ok[i], row
      divisions_by_zero += 1
      continue
    assert values.ok[i], row
    found = int(values.numerator[i]), int(values.denominator[i])
    assert fractions.Fraction(*found) == expected, row
  assert 0 < divisions_by_zero < len(strings) // 4


def test_malformed_expressions(evaluate):
  rows = ['', '()', '-3', '+3', '01', '1 2', '1++2', '1*-2', '(1+)2', '1+']
  rows += ['+', '1+2+', '1)', ')', '(1+2))', '(1', '(', '1+(2', '2*(3']
  rows += ['2(3)', '(2)3', '(2)(3)', '2(+3)', ')(', ')1+2(', '1)+(2']
  rows += ['1=1', '2>1', 'a', '1,2', '12345', '((((1))))']
  for row, ok in zip(rows, evaluate(batch(rows)).ok):
    assert not ok, row


def test_equals_and_uses_exactly():
  value = expressions.evaluate(text('(6/4)*2'), max_numbers=3)
  assert expressions.equals(value, jnp.int32(3))
  assert not expressions.equals(value, jnp.int32(4))
  assert expressions.uses_exactly(value, jnp.array([2, 4, 6]))
  assert not expressions.uses_exactly(value, jnp.array([2, 4, 4]))
  # One more number than allowed, though the first three agree.
  value = expressions.evaluate(text('6/4*2+0'), max_numbers=3)
  assert not expressions.uses_exactly(value, jnp.array([2, 4, 6]))
