"""Arrays that methods ask for, host batches, references, preference rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_collect import MODEL
from test_tasks import quick_jit

from posttrain_jax import token_weights
from posttrain_jax.core.resolve import resolve
from posttrain_jax.core.types import Batch, TrainState
from posttrain_jax.losses import supervised
from posttrain_jax.models import transformer
from posttrain_jax.run import inputs
from posttrain_jax.trainers import arrays, preference

ROWS, TOKENS = 8, 6
MODELS = dict.fromkeys(('policy', 'ref', 'base', 'teacher', 'shuffled'), MODEL)


@pytest.fixture(scope='module')
def params():
  """Five models that disagree."""
  make = quick_jit(lambda key: transformer.init(key, MODEL))
  return {
    role: jax.tree.map(lambda x: 3.0 * x, make(jax.random.key(i)))
    for i, role in enumerate(MODELS)
  }


@pytest.fixture(scope='module')
def state(params):
  others = {role: params[role] for role in ('base', 'teacher', 'shuffled')}
  return TrainState(
    jnp.int32(0), params['policy'], (), ref_params=params['ref'], others=others
  )


def batch_of(seed=0):
  """Prompts of one or two tokens; pair 2 (rows 4 and 5) has an empty side."""
  rng = np.random.default_rng(seed)
  starts = np.array([1, 1, 2, 2, 1, 1, 2, 2])
  ends = np.array([4, 6, 3, 5, 4, 1, 6, 4])
  columns = np.arange(TOKENS)[None]
  real = columns < ends[:, None]
  mask = real & (columns >= starts[:, None])
  return Batch(
    tokens=jnp.asarray(rng.integers(4, 64, (ROWS, TOKENS)) * real, jnp.int32),
    mask=jnp.asarray(mask, jnp.float32),
    segment_ids=jnp.asarray(real, jnp.int32),
    positions=jnp.broadcast_to(jnp.arange(TOKENS)[None], (ROWS, TOKENS)),
    extras={'scores': jnp.arange(8.0)},
  )


@quick_jit
def logits_of(params, tokens):
  return transformer.apply(params, MODEL, tokens)[0]


def direct(params, batch):
  """[B, T] log-probabilities, from the logits; padding is on the right."""
  scores = np.asarray(logits_of(params, batch.tokens), np.float64)
  scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
  out = np.zeros(batch.mask.shape)
  for b, t in np.argwhere(np.asarray(batch.mask)):
    out[b, t] = scores[b, t - 1, int(batch.tokens[b, t])]
  return out


# ---- What parts read, and who makes it.


@pytest.mark.parametrize(
  'room, name, fields',
  [
    (supervised, 'nll', {'logps'}),
    (supervised, 'asft', {'logps', 'logits'}),
    (supervised, 'irl_discriminator', {'values_after'}),
    (supervised, 'nft', {'logps', 'old_logps'}),
    (token_weights, 'uniform', set()),
    (token_weights, 'rho1', {'logps', 'ref_logps'}),
    (token_weights, 'token_cleaning', {'ref_logps'}),
    (token_weights, 'shad', {'logps'}),
    (token_weights, 'critical_tokens', set()),
    (token_weights, 'ss_token', {'logps'}),
  ],
)
def test_signals_that_parts_read(room, name, fields):
  assert arrays.signals_read_by(resolve(room, name)) == fields


def test_arrays_have_a_maker_or_are_refused():
  arrays.check(('ref_logps', 'key', 'correct'), ('correct',), 'x')
  with pytest.raises(ValueError, match='"nft" needs the array "correct"'):
    arrays.check(('correct', 'key'), ('scores',), 'nft')
  with pytest.raises(ValueError, match='Did you mean "correct"'):
    arrays.check(('corect',), ('scores', 'correct'), 'x')
  with pytest.raises(ValueError, match='"fait" compares with wrong answers'):
    arrays.check(('wrong_logps',), ('changed',), 'fait')
  arrays.check(('wrong_logps',), ('wrong',), 'fait')


def test_roles_are_those_that_nobody_provides():
  names = ('old_logps', 'ref_scores', 'shuffled_logps', 'scores')
  assert arrays.roles(names, ()) == {'teacher', 'shuffled'}
  assert arrays.roles(names, ('ref_scores',)) == {'shuffled'}
  assert arrays.roles(('ref_logits',), ()) == {'ref'}


def test_optional_arrays_are_those_with_a_default_of_none():
  def weigh(signals, mask, changed=None, *, keys, share=0.5):
    del signals, changed, keys, share
    return mask

  assert arrays.optional_of(weigh) == ['changed']


def test_prepared_arrays_are_direct_scores(params, state):
  wanted = ('base_logps', 'history_logps', 'old_logps', 'ref_logps',
            'ref_scores', 'shuffled_logps', 'scores', 'tokens')  # fmt: skip
  prepare = arrays.make_prepare(wanted, ('scores',), MODELS)
  batch = batch_of()
  made = quick_jit(prepare)(state, batch)
  scored = {role: direct(params[role], batch) for role in params}
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  close(made.ref_logps, scored['ref'])
  close(made.old_logps, scored['policy'])
  close(made.extras['base_logps'], scored['base'])
  close(made.extras['history_logps'], scored['ref'])
  close(made.extras['shuffled_logps'], scored['shuffled'])
  sizes = np.maximum(batch.mask.sum(axis=1), 1)
  close(made.extras['ref_scores'], scored['teacher'].sum(axis=1) / sizes)
  # What came with the rows stays, and nothing that was not asked for is made.
  assert set(made.extras) == {
    'scores', 'base_logps', 'history_logps', 'shuffled_logps', 'ref_scores'
  }  # fmt: skip
  np.testing.assert_array_equal(made.extras['scores'], np.arange(8.0))
  # The models do disagree.
  assert np.abs(scored['ref'] - scored['base']).max() > 0.1


def test_provided_arrays_are_not_scored_again(state):
  batch = batch_of()
  batch.extras['base_logps'] = jnp.full(batch.mask.shape, -7.0)
  prepare = arrays.make_prepare(('base_logps',), ('base_logps',), MODELS)
  np.testing.assert_array_equal(
    prepare(state, batch).extras['base_logps'], -7.0
  )


def test_arrays_made_inside_the_loss(params, state):
  extras = {
    'scores': jnp.arange(8.0),
    'seed': jnp.arange(ROWS, dtype=jnp.uint32) + 9,
    'wrong': batch_of(1),
    'changed': jnp.ones((ROWS, TOKENS)),
  }
  batch = batch_of().replace(extras=extras)
  trained = params['teacher']  # not those of the state
  names = ('tokens', 'key', 'ref_logits', 'wrong_logps', 'scores')

  @quick_jit
  def made(trained, state, batch):
    return arrays.inside(
      names, ('changed', 'keys'), trained, state, batch, MODELS
    )

  out = made(trained, state, batch)
  assert set(out) == {*names, 'changed'}
  np.testing.assert_array_equal(out['tokens'], batch.tokens)
  np.testing.assert_array_equal(out['scores'], batch.extras['scores'])
  words = jax.random.key_data(out['key'])
  assert words.shape[0] == ROWS
  for row in (0, 1):
    own = jax.random.key_data(jax.random.key(9 + row))
    np.testing.assert_array_equal(words[row], own)
  np.testing.assert_allclose(
    out['wrong_logps'], direct(trained, batch.extras['wrong']), atol=1e-4
  )
  expected = logits_of(params['ref'], batch.tokens)[:, :-1]
  real = np.asarray(batch.mask)[:, 1:] > 0
  np.testing.assert_allclose(
    out['ref_logits'][:, 1:][real], expected[real], atol=1e-4
  )


def test_wrong_answers_give_no_gradient(params, state):
  batch = batch_of()
  batch.extras['wrong'] = batch_of(1)

  def total(trained):
    made = arrays.inside(('wrong_logps',), (), trained, state, batch, MODELS)
    return made['wrong_logps'].sum()

  gradient = quick_jit(jax.grad(total))(params['policy'])
  assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


# ---- Batches from the host.


def host_rows(rows, starts):
  """Fields of `types.Batch` for rows of tokens, padded to the longest."""
  width = max(map(len, rows))
  columns = np.arange(width)[None]
  sizes = np.array([len(row) for row in rows])[:, None]
  real = columns < sizes
  return {
    'tokens': np.array([row + [0] * (width - len(row)) for row in rows]),
    'mask': (real & (columns >= np.array(starts)[:, None])) * 1.0,
    'segment_ids': real.astype(np.int32),
    'positions': np.broadcast_to(columns, real.shape),
  }


def test_pairs_become_rows_next_to_each_other():
  chosen = host_rows([[1, 2, 3], [4, 5]], [1, 1])
  rejected = host_rows([[1, 6], [4, 7, 8]], [1, 1])
  batch = inputs.to_batch({'chosen': chosen, 'rejected': rejected})
  np.testing.assert_array_equal(
    batch.tokens, [[1, 2, 3], [1, 6, 0], [4, 5, 0], [4, 7, 8]]
  )
  np.testing.assert_array_equal(
    batch.mask, [[0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 1, 1]]
  )
  assert batch.extras == {}
  np.testing.assert_array_equal(
    preference.side(batch, 1).tokens, rejected['tokens']
  )


def test_unpaired_rows_get_the_answer_of_the_next_row():
  raw = host_rows(
    [[11, 1, 2], [12, 13, 14, 3], [15, 4, 5, 6, 7], [0]], [1, 3, 1, 1]
  )
  raw['segment_ids'][3] = 0  # a padding row
  raw['label'] = np.array([1, 0, 1, 0])
  batch = inputs.to_batch(raw)
  np.testing.assert_array_equal(batch.extras['correct'], [1, 0, 1, 0])
  assert batch.extras['correct'].dtype == np.float32
  other = batch.extras['mismatched']
  # The third row's answer is cut at the width; the last real row, before the
  # padding, meets the first one's.
  np.testing.assert_array_equal(
    other.tokens,
    [[11, 3, 0, 0, 0], [12, 13, 14, 4, 5], [15, 1, 2, 0, 0], [0] * 5],
  )
  np.testing.assert_array_equal(
    other.mask,
    [[0, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 0, 0], [0] * 5],
  )
  np.testing.assert_array_equal(
    other.segment_ids,
    [[1, 1, 0, 0, 0], [1] * 5, [1, 1, 1, 0, 0], [0] * 5],
  )
  np.testing.assert_array_equal(other.positions, [np.arange(5)] * 4)


def test_a_full_batch_goes_round():
  raw = host_rows([[11, 1, 2], [12, 13, 3]], [1, 2])
  raw['label'] = np.array([1, 1])
  other = inputs.to_batch(raw).extras['mismatched']
  np.testing.assert_array_equal(other.tokens, [[11, 3, 0], [12, 13, 1]])
  np.testing.assert_array_equal(other.mask, [[0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize('real', [[1, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]])
def test_no_row_meets_its_own_answer(real):
  raw = host_rows([[11, 1], [12, 2], [13, 3]], [1, 1, 1])
  raw['mask'] = raw['mask'] * np.array(real, np.float32)[:, None]
  raw['label'] = np.array([1, 0, 1])
  other = inputs.to_batch(raw).extras['mismatched']
  meets = other.mask.any(axis=1)
  # A lone row meets nobody; of several each meets another one.
  np.testing.assert_array_equal(meets, np.array(real) * (sum(real) > 1))
  own = (other.tokens == raw['tokens']).all(axis=1)
  assert not own[meets].any()


def test_demonstrations_stay_as_they_are():
  raw = host_rows([[1, 2, 3], [4, 5]], [1, 1])
  batch = inputs.to_batch(raw)
  np.testing.assert_array_equal(batch.tokens, raw['tokens'])
  assert batch.extras == {}
