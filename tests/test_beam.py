"""Beam search: exhaustive, greedy and transformers' search, chains by hand."""

import dataclasses
import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import rollout
from posttrain_jax.models import hf, transformer
from posttrain_jax.models.config import ModelConfig, make_config
from posttrain_jax.rollout import beam, decoders, guides

GOLDENS = pathlib.Path(__file__).parent / 'goldens' / 'qwen2'
MODEL = make_config('depth-1', num_layers=2)
PROMPTS = jnp.array([[5, 9, 33, 12], [7, 0, 0, 0], [21, 22, 23, 0]])
PROMPT_MASK = (PROMPTS > 0).astype(jnp.float32)
EOS = 1


@pytest.fixture(scope='module')
def params():
  return jax.tree.map(
    lambda x: 2.0 * x, transformer.init(jax.random.key(0), MODEL)
  )


@functools.cache
def compiled(model, options):
  """One program for all end tokens and length penalties."""
  return jax.jit(
    lambda params, prompts, mask, eos, penalty: beam.search(
      params, model, prompts, mask, eos_id=eos, length_penalty=penalty,
      **dict(options),
    )
  )  # fmt: skip


def search(
  params, model=MODEL, prompts=PROMPTS, mask=PROMPT_MASK, eos=EOS,
  length_penalty=1.0, **options,
):  # fmt: skip
  options = {'max_new_tokens': 6} | options
  run = compiled(model, tuple(sorted(options.items())))
  return run(params, prompts, mask, eos, length_penalty)


def chain(table):
  """A model whose next token depends on the last one alone, by `table`."""
  table = np.asarray(table, np.float32)
  size = len(table)
  model = ModelConfig(
    vocab_size=size, num_layers=1, width=size, num_heads=1, num_kv_heads=1,
    head_dim=2, mlp_dim=2, tie_embeddings=False,
  )  # fmt: skip
  params = transformer.init(jax.random.key(0), model)
  for branch in ('output', 'down'):
    params['layers'][branch] *= 0.0
  params['embed']['tokens'] = jnp.eye(size)
  # RMSNorm makes a unit vector one of length sqrt(size).
  params['unembed'] = jnp.log(jnp.asarray(table)) / size**0.5
  return params, model


def words(found):
  """Completions as lists [B][beams], without their padding."""
  return [
    [row[: int(m.sum())].tolist() for row, m in zip(group, mask)]
    for group, mask in zip(np.asarray(found.completion), np.asarray(found.mask))
  ]


def test_one_beam_is_greedy(params):
  generate = jax.jit(
    lambda params, eos: rollout.generate(
      params, MODEL, PROMPTS, PROMPT_MASK, jax.random.key(0), group_size=1,
      max_new_tokens=6, decoder=decoders.greedy, eos_id=eos,
    )
  )  # fmt: skip
  ended = 0
  for eos in (-1, EOS, an_end(params)):
    found, _ = search(params, beams=1, eos=eos)
    greedy = generate(params, eos)
    for name in ('completion', 'mask', 'finished'):
      np.testing.assert_array_equal(
        getattr(found, name), getattr(greedy, name), err_msg=name
      )
    ended += greedy.finished.sum()
  assert ended >= 1


@pytest.mark.long
def test_one_beam_is_greedy_with_several_ends(params):
  ends = (EOS, an_end(params))
  found, _ = search(params, beams=1, eos=ends)
  greedy = jax.jit(
    lambda params: rollout.generate(
      params, MODEL, PROMPTS, PROMPT_MASK, jax.random.key(0), group_size=1,
      max_new_tokens=6, decoder=decoders.greedy, eos_id=ends,
    )
  )(params)  # fmt: skip
  for name in ('completion', 'mask', 'finished'):
    np.testing.assert_array_equal(getattr(found, name), getattr(greedy, name))
  assert greedy.finished.sum() >= 1


def an_end(params):
  """A token that greedy search writes third after the second prompt."""
  return words(search(params, beams=1, eos=-1)[0])[1][0][2]


def every_completion(params, model, prompt, size, penalty):
  """{completion: score} of all, from the logits of whole rows."""
  texts = [
    list(row[: row.index(EOS) + 1] if EOS in row else row)
    for row in itertools.product(range(model.vocab_size), repeat=size)
  ]
  texts = sorted({tuple(row) for row in texts})
  rows = np.array([[*prompt, *row] + [0] * (size - len(row)) for row in texts])
  run = jax.jit(lambda params, rows: transformer.apply(params, model, rows)[0])
  logits = run(params, jnp.asarray(rows))
  logps = np.asarray(jax.nn.log_softmax(logits), np.float64)
  scores = []
  for i, row in enumerate(texts):
    taken = [logps[i, len(prompt) - 1 + t, word] for t, word in enumerate(row)]
    scores.append(sum(taken) / len(row) ** penalty)
  return {tuple(row): score for row, score in zip(texts, scores)}


@pytest.mark.parametrize('penalty', [0.0, 1.0, 2.0])
def test_enough_beams_find_everything(penalty):
  model = ModelConfig(
    vocab_size=4, num_layers=2, width=8, num_heads=2, num_kv_heads=1,
    head_dim=4, mlp_dim=8,
  )  # fmt: skip
  params = jax.tree.map(
    lambda x: 3.0 * x, transformer.init(jax.random.key(3), model)
  )
  prompts = jnp.array([[2, 3], [3, 0]])
  mask = jnp.array([[1.0, 1.0], [1.0, 0.0]])
  found, scores = search(
    params, model, prompts, mask, beams=64, max_new_tokens=3,
    length_penalty=penalty,
  )  # fmt: skip
  for row, prompt in enumerate(([2, 3], [3])):
    expected = every_completion(params, model, prompt, 3, penalty)
    count = len(expected)
    assert count == 1 + 3 + 9 + 27
    texts = [tuple(word) for word in words(found)[row][:count]]
    assert set(texts) == set(expected)
    values = np.array([expected[text] for text in texts])
    np.testing.assert_allclose(scores[row, :count], values, rtol=1e-4)
    assert np.all(np.diff(values) < 1e-4)  # in order, but for rounding
  # No 41st completion exists.
  assert np.all(np.isneginf(scores[:, count:]))
  assert found.mask[:, count:].sum() == found.finished[:, count:].sum() == 0


@pytest.mark.parametrize(
  'cache, tolerance',
  [
    ({}, 1e-5),
    # Rings that turn during the search, in one layer of two; coarse numbers.
    ({'sliding_window': 3, 'full_layers': (1,)}, 1e-5),
    ({'cache_dtype': 'int8'}, 0.1),
  ],
)
def test_scores_are_the_learners(params, cache, tolerance):
  penalty, model = 0.5, dataclasses.replace(MODEL, **cache)
  found, scores = search(
    params, model, beams=4, eos=an_end(params), length_penalty=penalty,
    early_stopping=True,
  )  # fmt: skip
  assert 0 < found.finished.sum() < 12
  batch = rollout.assemble_groups(PROMPTS, PROMPT_MASK, found)
  score = lambda params, batch: transformer.token_logps(
    params, model, batch.tokens, batch.mask, positions=batch.positions,
    segment_ids=batch.segment_ids,
  ).logps  # fmt: skip
  logps = jax.jit(score)(params, batch)
  np.testing.assert_allclose(logps, batch.old_logps, atol=tolerance)
  expected = logps.sum(-1) / batch.mask.sum(-1) ** penalty
  np.testing.assert_allclose(scores.ravel(), expected, rtol=tolerance)
  assert np.all(np.diff(scores, axis=1) <= 0)
  assert all(len({tuple(w) for w in group}) == 4 for group in words(found))


def test_length_penalty_by_hand():
  # From 2: the end (0.4) or 3 (0.6); from 3: the end (0.55) or 3 again.
  tiny = 1e-12
  params, model = chain([
    [0.25, 0.25, 0.25, 0.25],
    [0.25, 0.25, 0.25, 0.25],
    [tiny, 0.4, tiny, 0.6],
    [tiny, 0.55, tiny, 0.45],
  ])  # fmt: skip
  run = lambda penalty: search(
    params, model, jnp.array([[2]]), jnp.ones((1, 1)), beams=2,
    max_new_tokens=3, length_penalty=penalty, early_stopping='never',
  )  # fmt: skip
  log = np.log
  # 0.4 beats 0.6 * 0.55 = 0.33.
  found, scores = run(0.0)
  assert words(found) == [[[1], [3, 1]]]
  np.testing.assert_allclose(scores, [[log(0.4), log(0.33)]], rtol=1e-4)
  # log 0.4 = -0.92 loses to log 0.33 / 2 = -0.55 and log 0.1485 / 3 = -0.64.
  found, scores = run(1.0)
  assert words(found) == [[[3, 1], [3, 3, 1]]]
  expected = [[log(0.33) / 2, log(0.1485) / 3]]
  np.testing.assert_allclose(scores, expected, rtol=1e-4)
  # -0.28 loses to log 0.1485 / 9 = -0.21 and log 0.1215 / 9 = -0.23.
  found, scores = run(2.0)
  assert words(found) == [[[3, 3, 1], [3, 3, 3]]]
  assert found.finished.tolist() == [[1.0, 0.0]]
  assert found.completion.shape == found.logps.shape == (1, 2, 3)


def test_when_it_stops_by_hand():
  """One beam ends with probability 0.6; the beginning left has 0.4, is certain
  of all that follows and would win by length: 'never' alone waits for it."""
  tiny = 1e-12
  params, model = chain([
    [0.25, 0.25, 0.25, 0.25],
    [0.25, 0.25, 0.25, 0.25],
    [tiny, 0.6, tiny, 0.4],
    [tiny, tiny, tiny, 1.0],
  ])  # fmt: skip
  run = lambda early: words(search(
    params, model, jnp.array([[2]]), jnp.ones((1, 1)), beams=1,
    max_new_tokens=4, early_stopping=early,
  )[0])  # fmt: skip
  assert run(True) == run(False) == [[[1]]]
  assert run('never') == [[[3, 3, 3, 3]]]


def test_a_prompt_does_not_depend_on_its_batch(params):
  eos = an_end(params)
  options = dict(beams=3, eos=eos, early_stopping=True)
  whole, scores = search(params, **options)
  for row in range(3):
    one, score = search(
      params, prompts=PROMPTS[row : row + 1], mask=PROMPT_MASK[row : row + 1],
      **options,
    )  # fmt: skip
    assert words(one)[0] == words(whole)[row]
    np.testing.assert_allclose(score[0], scores[row], rtol=1e-5)


def test_guides_steer_every_beam(params):
  # Neighbours differ modulo 3; the state is the last one's residue (or 3), so
  # that beams side by side are in different states.
  guide = guides.automaton(
    table=[[-1 if v % 3 == s else v % 3 for v in range(64)] for s in range(4)],
    begin=3,
  )
  same = lambda word: any(x % 3 == y % 3 for x, y in itertools.pairwise(word))
  plain, _ = search(params, beams=4, eos=-1)
  found, scores = search(params, beams=4, eos=-1, guide=guide)
  assert any(same(word) for group in words(plain) for word in group)
  texts = [word for group in words(found) for word in group]
  assert not any(same(word) for word in texts)
  assert len({word[2] % 3 for word in texts}) > 1
  expected = found.logps.sum(-1) / found.mask.sum(-1)
  np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_stop_sequence_ends_a_beam(params):
  plain, _ = search(params, beams=3, eos=-1)
  stop = words(plain)[0][0][1:3]
  guide = guides.stop_sequences(sequences=[stop])
  found, _ = search(params, beams=3, eos=-1, guide=guide, length_penalty=0.0)
  texts = [word for group in words(found) for word in group]
  ended = np.array([word[-2:] == stop for word in texts])
  np.testing.assert_array_equal(found.finished.ravel() > 0, ended)
  assert ended.any()
  assert all(word[i : i + 2] != stop for word in texts for i in range(
    len(word) - 2))  # fmt: skip


CONTENT = json.loads((GOLDENS / 'beam.json').read_text())


@functools.cache
def checkpoint():
  return hf.load(GOLDENS)


@pytest.mark.parametrize('run', CONTENT['runs'], ids=lambda run: '-'.join(
  str(run[name])
  for name in ('num_beams', 'length_penalty', 'early_stopping', 'eos')
))  # fmt: skip
def test_results_are_those_of_transformers(run):
  model, params = checkpoint()
  width = max(map(len, CONTENT['prompts']))
  pad = lambda row: row + [0] * (width - len(row))
  found, scores = search(
    params,
    model,
    jnp.array([pad(row) for row in CONTENT['prompts']]),
    jnp.array([pad([1] * len(row)) for row in CONTENT['prompts']]),
    eos=run['eos'],
    beams=run['num_beams'],
    max_new_tokens=CONTENT['max_new_tokens'],
    length_penalty=run['length_penalty'],
    early_stopping=run['early_stopping'],
  )
  assert words(found) == run['completions']
  np.testing.assert_allclose(scores, run['scores'], rtol=1e-4, atol=1e-5)


def test_goldens_end_in_all_ways():
  sizes = {
    (len(word), word[-1] == run['eos'])
    for run in CONTENT['runs']
    for group in run['completions']
    for word in group
  }
  assert len({size for size, ended in sizes if ended}) > 4
  assert (CONTENT['max_new_tokens'], False) in sizes


@pytest.mark.parametrize(
  'options, message',
  [
    ({'beams': 0}, 'beams=0'),
    ({'beams': 2, 'max_new_tokens': 0}, 'max_new_tokens=0'),
    ({'beams': 2, 'early_stopping': 'maybe'}, "early_stopping='maybe'"),
    ({'beams': 2, 'guide': guides.forced_prefix()}, 'forces tokens'),
  ],
)
def test_bad_options(params, options, message):
  with pytest.raises(ValueError, match=message):
    search(params, **options)
