"""Tasks in turns: transcripts by hand and against plain Python environments.

Their rollouts are in test_turns_rollout.py, knobs and wrappers in
test_turns_knobs.py.
"""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_turns as reference
from test_tasks import quick_jit

from posttrain_jax import tasks
from posttrain_jax.rollout import environments
from posttrain_jax.tasks import split, vocab
from posttrain_jax.tasks.parts import grids, turns
from posttrain_jax.tasks.vocab import Text

ROWS, TRIES, SIZE = 8, 18, 64
KEYS = jax.random.split(jax.random.key(3), ROWS)

# The problems by hand have these knobs too, so that they use the same programs.
CASES = {
  'calculator': {},
  'dictionary': {'num_words': 3, 'sentence_length': 2, 'max_calls': 2},
  'frozen_lake_game': {'size': 3, 'max_moves': 7, 'hole_density': 0.15},
  'frozen_lake_game-dark': {
    'size': 3,
    'max_moves': 7,
    'observe': 'none',
    'slippery': 0.5,
  },
  'sokoban_game': {'size': 4, 'num_boxes': 2, 'max_moves': 8},
}
# What a model writes at random, often enough something that counts.
ALPHABETS = {
  'calculator': '[[[[]]]112233999+-**>$x',
  'dictionary': '[[[[]]]]abcdefgh> $',
  'frozen_lake_game': 'uuuddddlllrrrr' * 3 + '$x>.',
  'sokoban_game': 'uuuddddlllrrrr' * 4 + '$x*',
}


def make(case):
  return tasks.make(case.split('-')[0], **CASES[case])


def encode(text):
  parts = text.split('$')
  rows = [vocab.encode(part) for part in parts]
  end = np.array([vocab.EOS], np.int32)
  return np.concatenate(
    [rows[0], *(x for row in rows[1:] for x in (end, row))]
  ).astype(np.int32)


def decode(tokens, mask):
  return vocab.decode(tokens, mask).replace('<eos>', '$')


def buffers(texts):
  """Texts of any nesting as a Text of [..., SIZE] tokens."""
  texts = np.asarray(texts, object)
  tokens = np.zeros((*texts.shape, SIZE), np.int32)
  length = np.zeros(texts.shape, np.int32)
  for index in np.ndindex(texts.shape):
    row = encode(texts[index])
    tokens[index][: len(row)] = row
    length[index] = len(row)
  return Text(tokens, length)


@functools.cache
def sampled(case):
  """(examples, oracles' transcripts, their rewards, what is forced)."""
  task = make(case)

  def run(key):
    example = task.sample(key)
    oracle = task.solve(example, key)
    verdict = task.verify(example, oracle.tokens, oracle.mask)
    one = jax.tree.map(lambda x: x[None], (example, oracle.tokens))
    return example, oracle, verdict['reward'], environments.given(task, *one)[0]

  return jax.device_get(quick_jit(jax.vmap(run))(KEYS))


@functools.cache
def program(task):
  """(transcripts of what is written [N, K], verdicts)."""

  def run(example, written):
    out = turns.transcript(task, example, written, SIZE)
    return out, task.verify(example, out.tokens, out.mask)

  return quick_jit(jax.vmap(jax.vmap(run, (None, 0))))


def carried_out(task, example, texts):
  """Transcripts and verdicts of up to TRIES texts written on one problem."""
  every = lambda x: np.broadcast_to(x, (ROWS, *np.shape(x)))
  example = jax.tree.map(every, example)
  written = jax.tree.map(every, buffers(texts + [''] * (TRIES - len(texts))))
  out, verdicts = jax.device_get(program(task)(example, written))
  found = [decode(out.tokens[0, i], out.mask[0, i]) for i in range(len(texts))]
  verdicts = {
    name: list(values[0, : len(texts)]) for name, values in verdicts.items()
  }
  return found, verdicts


def solved(task, example):
  text = quick_jit(task.solve)(example, jax.random.key(0))
  return decode(text.tokens, text.mask)


@functools.cache
def slips(task):
  """Seeds [N] -> turns [N, max_moves]: 1 is to the left, 2 to the right."""
  turn = jax.vmap(jax.vmap(task.guide.slip, (None, 0)), (0, None))
  found = quick_jit(turn)
  return lambda seeds: np.asarray(found(seeds, jnp.arange(task.max_moves)))


def game(case, i):
  """The reference's environment of problem i, before its first token."""
  task, example = make(case), jax.tree.map(lambda x: x[i], sampled(case)[0])
  prompt = decode(example.prompt, example.prompt_mask)
  answer = example.answer
  if case.startswith('calculator'):
    return reference.Calculator(task, prompt)
  if case.startswith('dictionary'):
    digits = 26 ** np.arange(task.word_length - 1, -1, -1)
    spell = lambda code: ''.join(
      chr(ord('a') + int(code) // int(d) % 26) for d in digits
    )
    words = zip(map(spell, answer['source']), map(spell, answer['target']))
    return reference.Dictionary(task, prompt, dict(words))
  if case.startswith('frozen'):
    hidden = iter(np.asarray(answer['holes'])[grids.cells(task.size)])
    lake = ''.join(
      char if char in '@\n:' else 'o' if next(hidden) else char
      for char in prompt
    )
    assert lake == prompt or task.observe == 'none'
    turn = slips(task)(sampled(case)[0].answer['seed'])[i]
    return reference.Lake(task, lake, [(0, -1, 1)[side] for side in turn])
  return reference.Sokoban(task, prompt)


@pytest.mark.parametrize('case', CASES)
def test_random_play_is_that_of_the_reference(case):
  task, rng = make(case), random.Random(case)
  example, oracle, _, forced = sampled(case)
  alphabet = ALPHABETS[case.split('-')[0]]
  chance = lambda: ''.join(rng.choices(alphabet, k=rng.randint(1, 24)))
  oracles = map(decode, oracle.tokens, oracle.mask * (forced == 0))
  written = [[own] + [chance() for _ in range(TRIES - 1)] for own in oracles]
  out, verdicts = jax.device_get(program(task)(example, buffers(written)))
  rewarded = answered = 0
  for i, j in np.ndindex(ROWS, TRIES):
    played = game(case, i)
    expected, _ = reference.play(played, written[i][j])
    assert decode(out.tokens[i, j], out.mask[i, j]) == expected
    answered += len(expected) - len(written[i][j])
    for name, value in played.verdict(expected).items():
      found = verdicts[name][i, j]
      assert found == pytest.approx(float(value)), (name, expected)
    rewarded += verdicts['reward'][i, j]
  assert answered > 50
  assert ROWS <= rewarded < ROWS * TRIES // 2


@pytest.mark.parametrize('case', CASES)
def test_oracles_are_transcripts(case):
  _, oracle, reward, forced = sampled(case)
  np.testing.assert_array_equal(reward, 1.0)
  assert forced.any()
  for i in range(ROWS):
    row, length = oracle.tokens[i], oracle.length[i]
    assert row[length - 1] == vocab.EOS and not forced[i, length - 1]
    own = decode(row[:length], forced[i, :length] == 0)
    expected, over = reference.play(game(case, i), own)
    assert decode(row[:length], None) == expected and over


def calculator_problem():
  task = make('calculator')
  return task, quick_jit(task.level)(jnp.array([12, 34, 5]), encode('*+'))


def test_calculator_by_hand():
  task, example = calculator_problem()
  assert decode(example.prompt, example.prompt_mask) == '12*34+5='
  cases = {
    '[12*34][408+5]>413$': ('[12*34]408|[408+5]413|>413$', 1, 2, 0),
    '>413$': ('>413$', 1, 0, 0),
    '[12*3x[12*34]>413': ('[12*3x?|[12*34]408|>413', 1, 2, 1),
    '[12*34+5]>413$': ('[12*34+?|5]>413$', 1, 1, 1),
    '[5-12][-7*-8][--1]>$': ('[5-12]-7|[-7*-8]56|[--?|1]>$', 0, 3, 1),
    '[99999*10001][999999999+1]': (
      '[99999*10001]?|[999999999+1]?|', 0, 2, 2),
    '[99999*10000]': ('[99999*10000]999990000|', 0, 1, 0),
    '[0-999999999]': ('[0-999999999]-999999999|', 0, 1, 0),
    '[1234567890]': ('[1234567890?|]', 0, 1, 1),
    '[007*0]>413': ('[007*0]0|>413', 1, 1, 0),
    '[1+1][1+1][1+1][1+1]>413$': (
      '[1+1]2|[1+1]2|[1+1]2|[?|1+1]>413$', 1, 3, 1),
    '[12>413$': ('[12>?|413$', 0, 1, 1),
    '>[1+1]': ('>[1+1]', 0, 0, 0),
    '>413[$': ('>413[$', 0, 0, 0),
    '[12$*34]>413$': ('[12$*34]>413$', 0, 1, 0),
    '>0413$': ('>0413$', 0, 0, 0),
    '$': ('$', 0, 0, 0),
  }  # fmt: skip
  found, verdicts = carried_out(task, example, list(cases))
  for i, expected in enumerate(cases.values()):
    values = [verdicts[name][i] for name in ('reward', 'calls', 'errors')]
    assert (found[i], *values) == expected


def test_a_forged_answer_is_not_rewarded():
  task, example = calculator_problem()
  texts = ['[12*34]408|>413$', '[12*34]409|>413$', '[12*34]>413$']
  judge = quick_jit(jax.vmap(lambda t, m: task.verify(example, t, m)))
  given = buffers(texts)
  rewards = judge(given.tokens, given.mask)['reward']
  np.testing.assert_array_equal(rewards, [1.0, 0.0, 0.0])


def test_products_are_worked_out_first():
  task = tasks.make('calculator', num_operands=4, num_digits=2)
  example = quick_jit(task.level)(jnp.array([90, 12, 10, 11]), encode('-*-'))
  assert solved(task, example) == '[12*10]120|[90-120]-30|[-30-11]-41|>-41$'


def test_dictionary_by_hand():
  task = make('dictionary')
  # ba -> cc, zz -> aa, ac -> zy
  source, target = jnp.array([26, 675, 2]), jnp.array([54, 0, 674])
  example = quick_jit(task.level)(source, target, jnp.array([1, 0]))
  assert decode(example.prompt, example.prompt_mask) == 'zz ba:'
  cases = {
    '[zz][ba]>aa cc$': ('[zz]aa|[ba]cc|>aa cc$', 1, 2, 0),
    '>aa cc$': ('>aa cc$', 1, 0, 0),
    '[aa][zzz]>aa cc$': ('[aa]?|[zzz?|]>aa cc$', 1, 2, 2),
    '[z][]>cc aa$': ('[z]?|[]?|>cc aa$', 0, 2, 2),
    '[ac][[ba][zz]>$': ('[ac]zy|[[?|ba][?|zz]>$', 0, 2, 2),
    '[z$': ('[z$', 0, 1, 0),
  }
  found, verdicts = carried_out(task, example, list(cases))
  for i, expected in enumerate(cases.values()):
    values = [verdicts[name][i] for name in ('reward', 'calls', 'errors')]
    assert (found[i], *values) == expected
  backwards = tasks.make('dictionary', num_words=3, reverse=True)
  example = quick_jit(backwards.level)(source, target, jnp.array([1, 0, 2]))
  assert decode(example.prompt, example.prompt_mask) == 'zz ba ac<'
  assert solved(backwards, example) == '[zz]aa|[ba]cc|[ac]zy|>zy cc aa$'


def test_words_of_a_list_are_different():
  task = tasks.make('dictionary', num_words=13, word_length=1)
  answer = quick_jit(jax.vmap(task.sample))(KEYS).answer
  for words in (*answer['source'], *answer['target']):
    assert len(set(words.tolist())) == 13 and 0 <= min(words) < 26
  assert len({tuple(words.tolist()) for words in answer['source']}) == ROWS


def lake_problem(case, turn=0):
  r"""'s.o\n...\n.og'; the first four moves slip `turn` ways."""
  task = make(case)
  holes = np.zeros(25, bool)
  holes[grids.cells(3)[[2, 7]]] = True
  ends = grids.cells(3)[[0, 8]]
  lake = quick_jit(task._lake.level)(holes, *ends)
  seeds = slips(task)(jnp.arange(2048, dtype=jnp.uint32))
  seed = np.flatnonzero((seeds[:, :4] == turn).all(axis=1))[0]
  return task, task.level(lake, jnp.uint32(seed))


def test_lake_by_hand():
  task, example = lake_problem('frozen_lake_game')
  assert decode(example.prompt, example.prompt_mask) == '@s.o\n...\n.og:'
  cases = {
    'drrd': ('d.r.r.d', 1, 4, 0),
    'drrdu$': ('d.r.r.du$', 1, 4, 0),
    'udrxrd$': ('u#d.r.x?r.d$', 1, 6, 0),
    'rru': ('r.ru', 0, 2, 1),
    'drd$': ('d.r.d$', 0, 3, 1),
    'dr$rd': ('d.r.$rd', 0, 2, 0),
    'lllllllrd': ('l#l#l#l#l#l#lrd', 0, 7, 0),
    '$': ('$', 0, 0, 0),
  }
  found, verdicts = carried_out(task, example, list(cases))
  for i, expected in enumerate(cases.values()):
    values = [verdicts[name][i] for name in ('reward', 'steps', 'fell')]
    assert (found[i], *values) == expected
  assert verdicts['optimal'] == [1, 1, 0, 0, 0, 0, 0, 0]


def test_a_dark_lake_warns():
  task, example = lake_problem('frozen_lake_game-dark')
  assert decode(example.prompt, example.prompt_mask) == '@s..\n...\n..g:'
  assert task.completion_length == 7 + 6 * 2 + 1
  texts = ['drrd', 'urdd', 'x$']
  found, _ = carried_out(task, example, texts)
  assert found == ['d.0r.1r.1d', 'u#0r.1d.1d', 'x?0$']


@pytest.mark.parametrize(
  'turn, written, expected',
  [
    # Facing down, the left hand is to the right of the page.
    (1, 'ddru', 'dr1dru'),
    (1, 'drl', 'dr1r#1ld1'),
    (2, 'rlu', 'rd0lu0ur1'),
    (2, 'urur', 'ur1rd1ur1r'),
  ],
)
def test_slips_go_to_a_side(turn, written, expected):
  task, example = lake_problem('frozen_lake_game-dark', turn)
  assert carried_out(task, example, [written])[0] == [expected]


def test_slips_are_as_likely_as_asked():
  task = make('frozen_lake_game-dark')
  sides = slips(task)(jnp.arange(2048, dtype=jnp.uint32))
  # 14336 draws: three standard deviations are about 0.013.
  shares = np.bincount(np.ravel(sides), minlength=3) / sides.size
  np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.015)


def test_hidden_holes_are_part_of_a_problem():
  task, example = lake_problem('frozen_lake_game-dark')
  dry = example.replace(answer=example.answer | {'holes': jnp.zeros(25, bool)})
  slipped = example.replace(answer=example.answer | {'seed': jnp.uint32(6)})
  ids = [split.identity(task, e).tolist() for e in (example, dry, slipped)]
  assert ids[0] == ids[2] != ids[1]


def test_sokoban_by_hand():
  task = make('sokoban_game')
  # #.__ / pbb_ / _.__ / ____
  cells = grids.cells(4)
  floor = np.isin(np.arange(36), cells[1:])
  level = quick_jit(task._level.level)(
    floor, cells[[1, 9]], cells[[5, 6]], cells[4],
    buffers(''),
  )  # fmt: skip
  example = task.level(level)
  assert decode(example.prompt, example.prompt_mask) == (
    '@#.__\npbb_\n_.__\n____:'
  )
  cases = {
    'ur$': ('u#r#$', 0, 2, 0.0),
    'ddruu$': ('d.d.r.u.u*$', 0, 5, 0.5),
    'dru$': ('d.r.u*$', 0, 3, 0.5),
    'drrul': ('d.r.r.ublb', 0, 5, 0.0),
    'dlrx>ldrru': ('d.l#r.x?>?l.d.rru', 0, 8, 0.0),
  }
  found, verdicts = carried_out(task, example, list(cases))
  for i, expected in enumerate(cases.values()):
    values = [verdicts[name][i] for name in ('reward', 'steps', 'on_goal')]
    assert (found[i], *values) == expected
