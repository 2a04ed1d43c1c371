"""In-graph tasks: answers against Python, thoughts and verdicts by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import SETTINGS, quick_jit, texts

from posttrain_jax import tasks
from posttrain_jax.core.types import Example
from posttrain_jax.tasks import vocab


def sort_reference(prompt):
  values = sorted(map(int, prompt[1:-1].split(',')), reverse=prompt[0] == '>')
  return ','.join(map(str, values))


LIST_REFERENCE = {
  'a': lambda x: [(v + 1) % 10 for v in x],
  'b': lambda x: [(v + 3) % 10 for v in x],
  'd': lambda x: [2 * v % 10 for v in x],
  'e': lambda x: [v for v in x if v % 2 == 0],
  'f': lambda x: x[:2],
  'n': lambda x: [9 - v for v in x],
  'o': lambda x: [v for v in x if v % 2],
  'p': lambda x: [sum(x[: i + 1]) % 10 for i in range(len(x))],
  'r': lambda x: x[::-1],
  's': sorted,
  't': lambda x: x[1:],
  'u': lambda x: list(dict.fromkeys(x)),
  'w': lambda x: x[1:] + x[:1],
}


def list_reference(prompt):
  functions, digits = prompt[1:-1].split(':')
  values = [int(digit) for digit in digits]
  for function in functions:
    values = LIST_REFERENCE[function](values)
  return ''.join(map(str, values)) or '_'


def entity_reference(prompt):
  start, rest = prompt[1:].split(';')
  moves, item = rest.split('?')
  boxes = dict(zip(start[::2], start[1::2]))
  for first, target in moves.split(','):
    if first in boxes:
      boxes[first] = target
    else:
      swap = {first: target, target: first}
      boxes = {item: swap.get(box, box) for item, box in boxes.items()}
  return boxes[item]


REFERENCES = {
  'addition': lambda prompt: str(sum(map(int, prompt[:-1].split('+')))),
  'multiplication': lambda prompt: str(
    math.prod(map(int, prompt[:-1].split('*')))
  ),
  'modular': lambda prompt: str(eval(prompt[:-1])),
  'sorting': sort_reference,
  'list_functions': list_reference,
  'entity_tracking': entity_reference,
}


@pytest.mark.parametrize('name', REFERENCES)
def test_answers_follow_from_the_prompt(name):
  for knobs in ({}, *SETTINGS[name]):
    if 'reverse' not in knobs:
      for prompt, completion in texts(tasks.make(name, **knobs)):
        assert completion.split('>')[-1] == REFERENCES[name](prompt), prompt


def by_hand(answer) -> Example:
  """A problem of which only the answer is known."""
  answer = {k: jnp.asarray(v, jnp.int32) for k, v in answer.items()}
  return Example(jnp.zeros(1), jnp.zeros(1), jnp.uint32(0), answer)


# name, knobs, answer (of '<prompt>'), the oracle's text
BY_HAND = [
  # '12*304='
  (
    'multiplication',
    {'num_digits': 3},
    {'terms': [12, 304]},
    '12*4=48,12*0=0,48+0=48,12*300=3600,48+3600=3648,>3648',
  ),
  # '(12-34)%97='
  (
    'modular',
    {},
    {'terms': [12, 34], 'operation': vocab.token('-')},
    '-22=97*-1+75>75',
  ),
  # '>7,31,7=' (descending)
  (
    'sorting',
    {'length': 3, 'order': 'descending'},
    {'values': [7, 31, 7]},
    '31:7,7;7:7;>31,7,7',
  ),
  # '@ert:3152=': even digits, reverse, drop the first
  (
    'list_functions',
    {'depth': 3, 'length': 4, 'functions': 'ert'},
    {'functions': [0, 1, 2], 'digits': [3, 1, 5, 2]},
    '2,2,_,>_',
  ),
  # '#a1b2c3;12,b3,31?b'; a move of box 1 is number 3 + 0
  (
    'entity_tracking',
    {},
    {'start': [0, 1, 2], 'moves': [[3, 1], [1, 2], [5, 0]], 'item': 1},
    'a2b1c3,a2b3c3,a2b1c1,>1',
  ),
]


@pytest.mark.parametrize('name, knobs, answer, text', BY_HAND)
def test_thoughts_by_hand(name, knobs, answer, text):
  task = tasks.make(name, chain_of_thought=True, **knobs)
  solution = quick_jit(task.solve)(by_hand(answer), jax.random.key(0))
  written = vocab.decode(solution.tokens, solution.mask)
  assert written == text + '<eos>'


def test_verdicts_by_hand():
  right = ['408', '1>408', '12*34=408>408', '7>9>408']
  wrong = ['0408', '408 ', '407', '40', '12*34=408', '408>', '-408', '4_08']
  rows = [vocab.encode(text) for text in right + wrong]
  tokens = np.stack([np.pad(row, (0, 16 - len(row))) for row in rows])
  tokens[np.arange(len(rows)), [len(row) for row in rows]] = vocab.EOS
  task, example = tasks.make('multiplication'), by_hand({'terms': [12, 34]})
  verify = lambda row: task.verify(example, row, jnp.ones(16))['reward']
  rewards = quick_jit(jax.vmap(verify))(jnp.asarray(tokens))
  expected = [1.0] * len(right) + [0.0] * len(wrong)
  np.testing.assert_array_equal(rewards, expected)


def test_facts_splits_share_one_table():
  knobs = dict(num_entities=4, num_relations=2, heldout_fraction=0.25)
  keys = jax.random.split(jax.random.key(0), 64)

  def asked(**more):
    task = tasks.make('facts', **knobs, **more)
    draw = lambda key: (e := task.sample(key), task.solve(e, key))
    example, solution = quick_jit(jax.vmap(draw))(keys)
    prompts = map(vocab.decode, example.prompt)
    return dict(zip(prompts, map(vocab.decode, solution.tokens)))

  train, heldout = asked(split='train'), asked(split='heldout')
  everything = asked(split='all')
  assert len(train) == 6 and len(heldout) == 2
  assert train | heldout == everything and len(everything) == 8
  other = asked(split='all', table_seed=1)
  assert other.keys() == everything.keys() and other != everything
  # No name is used twice: not by another entity, nor as another kind.
  pairs = [prompt.removesuffix('?').split() for prompt in everything]
  entities, relations = (set(names) for names in zip(*pairs))
  values = {value.removesuffix('<eos>') for value in everything.values()}
  assert len(entities) == 4 and len(relations) == 2
  assert not entities & relations and not (entities | relations) & values


def test_facts_may_be_abstained_from():
  knobs = dict(num_entities=4, num_relations=2, split='all')
  silent = tasks.make('facts', **knobs, abstain=0.25)
  plain = tasks.make('facts', **knobs)
  keys = jax.random.split(jax.random.key(0), 128)

  def look(key):
    example = silent.sample(key)
    said, known = silent.solve(example, key), plain.solve(example, key)
    nothing = vocab.fit(vocab.literal('>?'), said.tokens.shape[0])
    judge = lambda text: silent.verify(example, text.tokens, text.mask)
    return said.tokens, known.tokens, [judge(x) for x in (said, known, nothing)]

  said, known, verdicts = quick_jit(jax.vmap(look))(keys)
  own, right, nothing = ({k: np.asarray(x) for k, x in v.items()}
                         for v in verdicts)  # fmt: skip
  texts = [vocab.decode(row).replace('<pad>', '') for row in said]
  quiet = np.array([text == '?<eos>' for text in texts])
  # A quarter of 128, within four standard deviations.
  assert 12 <= quiet.sum() <= 52
  assert all(
    text == vocab.decode(row).replace('<pad>', '')
    for text, row, silent_ in zip(texts, known, quiet) if not silent_
  )  # fmt: skip
  np.testing.assert_array_equal(own['abstained'], quiet)
  np.testing.assert_array_equal(own['reward'], ~quiet)
  assert right['reward'].all() and not right['abstained'].any()
  assert nothing['abstained'].all() and not nothing['reward'].any()
  example = plain.sample(keys[0])
  blank = jnp.zeros(4, jnp.int32)
  assert set(plain.verify(example, blank, jnp.ones(4))) == {'reward'}


def test_countdowns_chains_may_be_verbose():
  knobs = dict(chain_of_thought=True, num_numbers=2)
  verbose = tasks.make('countdown', **knobs, filler=3)
  plain = tasks.make('countdown', **knobs)
  assert verbose.completion_length == plain.completion_length + 3

  def look(key):
    example = plain.sample(key)
    said, short = verbose.solve(example, key), plain.solve(example, key)
    verdict = verbose.verify(example, said.tokens, said.mask)
    return said.tokens, short.tokens, verdict

  keys = jax.random.split(jax.random.key(0), 48)
  said, short, verdict = quick_jit(jax.vmap(look))(keys)
  text_of = lambda row: vocab.decode(row).replace('<pad>', '')
  said, short = ([*map(text_of, x)] for x in (said, short))
  assert np.asarray(verdict['reward']).all()
  assert [text.replace('_', '') for text in said] == short
  counts = [len(text) - len(text.lstrip('_')) for text in said]
  assert set(counts) == {0, 1, 2, 3}
