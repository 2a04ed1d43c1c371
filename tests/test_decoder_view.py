"""Truncating decoders: the learner sees what they drew from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_rollout import LENGTH, MODEL, USUAL, examples, params

from posttrain_jax import rollout
from posttrain_jax.core.resolve import part
from posttrain_jax.models import transformer
from posttrain_jax.rollout import decoders
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab
from posttrain_jax.trainers.objective import bind

__all__ = ['examples', 'params']  # fixtures

DRAWING = [name for name in decoders.__all__ if name != 'greedy']
SHARP = {
  'min_p': {'p': 0.5},
  'sample': {},
  'top_k': {'k': 5},
  'top_p': {'p': 0.3},
  'typical': {'p': 0.3},
}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(
      name, marks=pytest.mark.slow if name in ('min_p', 'top_k') else []
    )
    for name in DRAWING
  ],
)
def test_the_learner_replays_what_was_drawn(params, examples, name):
  entry = part(decoders, name, temperature=1.25, **SHARP[name])

  def both(params, e):
    samples = rollout.generate(
      params, MODEL, e.prompt, e.prompt_mask, jax.random.key(7),
      group_size=4, max_new_tokens=LENGTH, decoder=bind(decoders, entry),
      eos_id=vocab.EOS, prompt_ids=e.prompt_id,
    )  # fmt: skip
    batch = rollout.assemble_groups(e.prompt, e.prompt_mask, samples)

    def total(params):
      signals = transformer.token_logps(
        params, MODEL, batch.tokens, batch.mask, decoders.view(entry),
        positions=batch.positions, segment_ids=batch.segment_ids,
        entropy=True, logits=True,
      )  # fmt: skip
      return jnp.sum(signals.logps) + jnp.sum(signals.entropy), signals

    gradient, signals = jax.grad(total, has_aux=True)(params)
    return batch, signals, gradient

  batch, signals, gradient = jax.jit(both, **USUAL)(params, examples)
  np.testing.assert_allclose(signals.logps, batch.old_logps, atol=1e-5)
  assert np.isfinite(signals.entropy).all()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
  support = np.isfinite(signals.logits).sum(-1)[np.asarray(batch.mask) > 0]
  if name == 'sample':
    assert (support == MODEL.vocab_size).all()
  else:
    assert support.min() >= 1 and support.max() < MODEL.vocab_size


@pytest.mark.parametrize('name', [n for n in DRAWING if n != 'sample'])
def test_a_taken_token_stays_possible(name):
  logits = jnp.log(jnp.array([0.9, 0.06, 0.03, 0.01]))[None]
  see = decoders.view(part(decoders, name, **SHARP[name], temperature=1.0))
  if name == 'top_k':
    see = decoders.view(part(decoders, name, k=1))
  free = see(logits)
  assert np.isneginf(free[0, 3])
  held = see(logits, jnp.array([3]))
  np.testing.assert_allclose(held[0, 3], logits[0, 3])
  np.testing.assert_array_equal(held[0, :3], free[0, :3])


def test_greedy_cannot_be_scored():
  with pytest.raises(ValueError, match='"greedy" draws nothing'):
    decoders.view({'name': 'greedy'})


def test_a_truncated_run_has_a_first_ratio_of_one():
  c = config_lib.load(
    'configs/rl.py:smoke',
    [
      ('decoder.name', 'top_p'),
      ('decoder.p', '0.5'),
      ('kl.coef', '0.01'),
      ('eval.num_problems', '0'),
    ],
  )
  run = build.build(c)
  start = {'policy': transformer.init(jax.random.key(0), run.model)}
  step = jax.jit(run.step, **USUAL)
  _, metrics = step(run.init(start), jax.random.key(1))
  assert metrics['rollout/logp_gap_max'] < 1e-5
  assert np.isfinite(metrics['kl']) and np.isfinite(metrics['entropy'])
  # Half of the mass: far fewer tokens than the uniform start would allow.
  assert metrics['entropy'] < np.log(run.model.vocab_size) - 0.4
