"""An environment in Python between compiled turns is the one in the loop."""

import jax
import numpy as np
import pytest
import reference_turns as reference
from test_turns import decode

from posttrain_jax import rollout, tasks
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.rollout import decoders, environments, host_turns
from posttrain_jax.tasks import split, vocab

MODEL = make_config('pico', num_layers=1, scan_layers=False)
TASK = tasks.make('frozen_lake_game', size=2, hole_density=0.5, max_moves=5)
B, G, C = 3, 2, 12
ANY = tuple(i for i in range(vocab.VOCAB_SIZE) if i != vocab.EOS)


def likely(logits, keys):
  chars = vocab.encode('udlr')
  logits = logits.at[:, [vocab.PAD, vocab.BOS, vocab.SEP]].set(-np.inf)
  return decoders.sample(logits.at[:, chars].add(4.0), keys)


@pytest.fixture(scope='module')
def world():
  params = transformer.init(jax.random.key(0), MODEL)
  examples = split.sample_batch(
    TASK, jax.random.key(1), B, heldout=False, fraction=0.0
  )

  @jax.jit
  def generate(**kinds):
    return rollout.generate(
      params, MODEL, examples.prompt, examples.prompt_mask, jax.random.key(7),
      group_size=G, max_new_tokens=C, decoder=likely, eos_id=vocab.EOS,
      prompt_ids=examples.prompt_id, **kinds,
    )  # fmt: skip

  return jax.device_get(examples), generate


def _host(generate, ends):
  turn = host_turns.turn(ends)
  run = jax.jit(lambda state: generate.__wrapped__(
    guide=turn, guide_state=state))  # fmt: skip
  return run


def test_the_host_is_the_environment_in_the_loop(world):
  examples, generate = world
  steering = environments.steering(TASK, examples, G)
  guide = steering.pop('guide')
  inside = jax.jit(lambda state: generate.__wrapped__(
    guide=guide, guide_state=state))  # fmt: skip
  expected = jax.device_get(inside(steering['guide_state']))
  games, asked = {}, []

  def react(turns):
    asked.append(len(turns))
    out = []
    for turn in turns:
      place = turn.prompt, turn.sample
      if place not in games:
        prompt = examples.prompt[turn.prompt], examples.prompt_mask[turn.prompt]
        games[place] = reference.Lake(TASK, decode(*prompt), [0] * 5)
      answer, over = games[place].press(decode(turn.tokens[-1:], None))
      out.append(host_turns.Reaction(vocab.encode(answer).tolist(), over))
    return out

  found = host_turns.play(
    _host(generate, ANY), react, (B, G, C), eos_id=vocab.EOS
  )
  for field in ('mask', 'given', 'finished'):
    np.testing.assert_array_equal(
      getattr(found, field), getattr(expected, field)
    )
  np.testing.assert_array_equal(
    found.completion, expected.completion * (expected.mask > 0)
  )
  np.testing.assert_allclose(found.logps, expected.logps, atol=1e-5)
  assert found.given.sum() > 10 and len(asked) > 2
  assert asked[0] > asked[-1]
  batch = rollout.assemble_groups(examples.prompt, examples.prompt_mask, found)
  assert float(batch.mask.sum()) == found.mask.sum() - found.given.sum()


def test_what_the_host_says_has_its_place(world):
  _, generate = world
  said = []

  def react(turns):
    said.extend(turns)
    # The first completion is told more than there is room for.
    return [
      host_turns.Reaction([9] * (99 if t[:2] == (0, 0) else 1)) for t in turns
    ]

  found = host_turns.play(
    _host(generate, ANY), react, (B, G, C), eos_id=vocab.EOS
  )
  assert found.mask[0, 0].sum() == C and found.given[0, 0].sum() == C - 1
  assert found.finished[0, 0] == 0
  assert (found.completion[found.given > 0] == 9).all()
  first = next(turn for turn in said if turn[:2] == (0, 0))
  np.testing.assert_array_equal(first.tokens, found.completion[0, 0, :1])


def test_misuse_is_named(world):
  _, generate = world
  with pytest.raises(ValueError, match='turn_ends'):
    host_turns.turn([])
  with pytest.raises(ValueError, match='0 reactions to'):
    host_turns.play(
      _host(generate, ANY), lambda turns: [], (B, G, C), eos_id=vocab.EOS
    )
