"""Rollouts of tasks in turns: the environment answers inside the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_turns as reference
from test_turns import decode

from posttrain_jax import rollout, tasks
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.rollout import decoders, environments
from posttrain_jax.tasks import split, vocab

MODEL = make_config('pico', num_layers=1)
GROUP, LENGTH = 4, 20
TASKS = {
  'frozen_lake_game': tasks.make(
    'frozen_lake_game', size=2, hole_density=0.0, max_moves=7
  ),
  'dictionary': tasks.make('dictionary', num_words=26, word_length=1),
}


@pytest.fixture(scope='module')
def params():
  # Sharper than at initialisation, so that a different draw would show.
  fresh = transformer.init(jax.random.key(0), MODEL)
  return jax.tree.map(lambda x: 2.0 * x, fresh)


def likely(logits, keys):
  """Characters or an EOS, mostly such as an environment reacts to."""
  chars = jnp.asarray(vocab.encode('udlr[]ab'))
  logits = logits.at[:, [vocab.PAD, vocab.BOS, vocab.SEP]].set(-jnp.inf)
  return decoders.sample(logits.at[:, chars].add(4.0), keys)


@functools.cache
def program(name, slots=0):
  task = TASKS[name]
  return jax.jit(
    lambda params, e: rollout.generate(
      params, MODEL, e.prompt, e.prompt_mask, jax.random.key(7),
      group_size=GROUP, max_new_tokens=LENGTH, decoder=likely,
      eos_id=vocab.EOS, prompt_ids=e.prompt_id, slots=slots,
      **environments.steering(task, e, GROUP),
    )
  )  # fmt: skip


@functools.cache
def examples(name):
  return split.sample_batch(
    TASKS[name], jax.random.key(1), 6, heldout=False, fraction=0.0
  )


def game(name, e, i):
  task, prompt = TASKS[name], decode(e.prompt[i], e.prompt_mask[i])
  if name == 'frozen_lake_game':
    return reference.Lake(task, prompt, [0] * task.max_moves)
  spell = lambda code: chr(ord('a') + int(code))
  source, target = (e.answer[side][i] for side in ('source', 'target'))
  words = dict(zip(map(spell, source), map(spell, target)))
  return reference.Dictionary(task, prompt, words)


@pytest.mark.parametrize('name', TASKS)
def test_rollouts_are_answered(params, name):
  e = jax.device_get(examples(name))
  samples = jax.device_get(program(name)(params, e))
  answered = 0
  for i, j in np.ndindex(6, GROUP):
    length = int(samples.mask[i, j].sum())
    row, given = samples.completion[i, j], samples.given[i, j]
    own = decode(row[:length], given[:length] == 0)
    expected, over = reference.play(game(name, e, i), own)
    # A completion that is cut off may lack the end of an answer.
    assert decode(row[:length], None) == expected[:length]
    assert samples.finished[i, j] == over
    assert over or length == LENGTH
    np.testing.assert_array_equal(given[length:], 0.0)
    np.testing.assert_array_equal(samples.logps[i, j] * given, 0.0)
    answered += given.sum()
  assert answered > 40
  if name == 'frozen_lake_game':
    assert samples.finished.mean() > 0.2
  task = TASKS[name]
  known = jax.vmap(lambda e, t: environments.given(
    task, jax.tree.map(lambda x: x[None], e), t[None]
  )[0], (None, 0))  # fmt: skip
  replayed = jax.jit(jax.vmap(known))(e, samples.completion)
  np.testing.assert_array_equal(replayed * samples.mask, samples.given)


def same(found, expected):
  for field in ('completion', 'mask', 'given', 'finished'):
    np.testing.assert_array_equal(
      getattr(found, field), getattr(expected, field)
    )
  np.testing.assert_allclose(found.logps, expected.logps, atol=1e-5)


def test_any_number_of_slots_gives_the_same(params):
  name = 'frozen_lake_game'
  e = examples(name)
  same(program(name, 3)(params, e), program(name)(params, e))


def test_a_completion_is_the_same_in_any_batch(params):
  name = 'frozen_lake_game'
  e = examples(name)
  whole = program(name)(params, e)
  part = lambda tree: jax.tree.map(lambda x: x[np.array([4, 1])], tree)
  same(program(name)(params, part(e)), part(whole))
