"""Mixtures of sources: exact shares, whole epochs, exact resume."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain_jax.data import pipeline, tokenizers
from posttrain_jax.data.mixing import PERIOD, Pattern
from posttrain_jax.data.rows import Joined

BYTE = tokenizers.ByteTokenizer()


def drawn(pattern, count):
  return [pattern.place(i) for i in range(count)]


def test_pattern_by_hand():
  # Due: source 0 (3 of 4) at 1/6, 3/6, 5/6; source 1 at 1/2, after its equal.
  assert drawn(Pattern([0.75, 0.25]), 8) == [
    (0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (0, 4), (1, 1), (0, 5),
  ]  # fmt: skip
  assert Pattern([7, 7.0]).period == 2
  # Source 1 gives its second record at index 6, source 0 its fifth at 5.
  assert Pattern([3, 1]).length([5, 2]) == 7
  assert Pattern([3, 1]).length([5, 1]) == 6
  assert Pattern([3, 1]).length([5, 1], num_epochs=2) == 13


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_shares_are_exact_at_every_place(weights):
  pattern = Pattern(weights)
  total = min(pattern.period, 600)
  shares = pattern.counts / pattern.period
  wanted = np.array(weights) / sum(weights)
  assert np.all(np.abs(shares - wanted) <= len(weights) / PERIOD)
  counts = np.zeros(len(weights), int)
  for index in range(total):
    source, rank = pattern.place(index)
    assert rank == counts[source]  # each of its records once, in order
    counts[source] += 1
    off = np.abs(counts - shares * (index + 1))
    assert off.max() <= (len(weights) + 1) / 2


def test_extreme_weights_are_rounded_to_something():
  pattern = Pattern([1e-300, 1e300])
  assert pattern.counts.tolist() == [1, PERIOD]


def mixture(sizes, weights):
  parts = [
    pipeline.ListSource([{'text': f'{name}{i}'} for i in range(size)], name)
    for name, size in zip('abcd', sizes)
  ]
  return Joined(parts, weights)


def make(sizes=(5, 3), weights=(3.0, 1.0), **options):
  defaults = dict(batch_size=4, max_length=6)
  return pipeline.make_iterator(
    mixture(sizes, weights), BYTE, **{**defaults, **options}
  )


def texts(batch):
  rows = zip(batch['tokens'], batch['segment_ids'])
  return [BYTE.decode(row[real > 0]) for row, real in rows if real.any()]


def test_every_batch_holds_the_mixture():
  for batch in itertools.islice(make(), 10):
    assert collections.Counter(t[0] for t in texts(batch)) == {'a': 3, 'b': 1}


def test_an_epoch_lasts_until_every_record_has_come():
  for epochs in (1, 2):
    seen = [t for b in make(num_epochs=epochs) for t in texts(b)]
    counts = collections.Counter(seen)
    assert min(counts.values()) == epochs and len(counts) == 8
    # One record less, and one of them would be missing.
    assert collections.Counter(seen[:-1]).most_common()[-1][
      1
    ] == epochs - 1 or (len(set(seen[:-1])) == 7)


def test_each_source_is_shuffled_by_itself():
  seen = [
    t for b in itertools.islice(make((6, 6), (1, 1)), 9) for t in texts(b)
  ]
  orders = {
    name: [t[1:] for t in seen if t[0] == name] for name in 'ab'
  }  # fmt: skip
  for order in orders.values():
    assert sorted(order[:6]) == sorted(order[6:12]) == list('012345')
    assert order[:6] != order[6:12]
  assert orders['a'] != orders['b']
  assert seen == [
    t for b in itertools.islice(make((6, 6), (1, 1)), 9) for t in texts(b)
  ]
  assert seen != [
    t for b in itertools.islice(make((6, 6), (1, 1), seed=1), 9)
    for t in texts(b)
  ]  # fmt: skip


@pytest.mark.parametrize('num_epochs', [None, 3])
def test_resume_neither_replays_nor_skips(num_epochs):
  iterator = make(num_epochs=num_epochs)
  states, seen = [iterator.get_state()], []
  for batch in itertools.islice(iterator, 6):
    seen.append(texts(batch))
    states.append(iterator.get_state())
  for stop, state in list(enumerate(states))[1::3]:
    again = make(num_epochs=num_epochs)
    again.set_state(state)
    assert [texts(b) for b in itertools.islice(again, 6 - stop)] == seen[stop:]
  with pytest.raises(ValueError, match='weights: .*3.0, 1.0.* -> .*1.0, 1.0'):
    make(weights=(1.0, 1.0), num_epochs=num_epochs).set_state(states[0])


def test_processes_share_a_mixture():
  options = dict(num_epochs=2)
  whole = [sorted(texts(b)) for b in make(**options)]
  shares = [
    list(make(**options, held=lambda n, i=i: np.arange(n)[2 * i :][:2]))
    for i in (0, 1)
  ]
  assert [len(share) for share in shares] == [len(whole)] * 2
  for step, expected in enumerate(whole):
    assert sorted(t for s in shares for t in texts(s[step])) == expected


def test_several_kinds_in_one_run():
  parts = [
    pipeline.ListSource([{'text': 'tt'}]),
    pipeline.ListSource([{'prompt': 'p', 'completion': 'c'}]),
    pipeline.ListSource(
      [{'messages': [{'role': 'assistant', 'content': 'm'}]}]
    ),
  ]
  source = Joined(parts, (1, 1, 1))
  batch = next(
    pipeline.make_iterator(source, BYTE, batch_size=3, max_length=32)
  )
  rows = texts(batch)
  assert {'tt', 'pc'} <= set(rows) and any('m' in row for row in rows)
  # Of a prompt nothing is trained; of plain text all but the first token.
  trained = {row: int(m.sum()) for row, m in zip(rows, batch['mask'])}
  assert trained['tt'] == trained['pc'] == 2
  report = pipeline.preflight(source, BYTE, max_length=32)
  assert report['kind'] == 'completion+messages+text' and report['kept'] == 3
  pairs = pipeline.ListSource([{'prompt': 'p', 'chosen': 'a', 'rejected': 'b'}])
  for check in (
    lambda s: pipeline.make_iterator(s, BYTE, batch_size=1, max_length=32),
    lambda s: pipeline.preflight(s, BYTE, max_length=32),
  ):
    with pytest.raises(
      ValueError, match='kind "preference", after kind "text"'
    ):
      check(Joined([parts[0], pairs]))
