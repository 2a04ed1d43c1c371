"""Spectra of updates and divergences, by hand and against NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_measures import run

from posttrain_jax.evals.measures import (
  divergences,
  spectra,
)


def pair():
  """(params, base): a layered matrix, attention's output, vectors."""
  rng = np.random.default_rng(0)
  heads = jnp.asarray(rng.uniform(1, 2, size=(2, 2, 4)), jnp.float32)
  base = {
    'embed': {'tokens': jnp.eye(8)},
    'layers': {
      'gate': jnp.asarray(rng.normal(size=(2, 8, 16)), jnp.float32),
      # Rank one with the heads' outputs as rows; not with the heads as rows.
      'output': jnp.einsum('lhk,d->lhkd', heads, 1.0 + jnp.arange(8)),
      'query_bias': jnp.ones((2, 2, 4)),
      'mlp_norm': jnp.ones((2, 8)),
    },
    'final_norm': jnp.ones((8,)),
  }
  change = jnp.zeros((2, 8, 16)).at[1].set(jnp.eye(8, 16) * 0.5)
  params = {**base, 'layers': {**base['layers']}}
  params['layers']['gate'] = base['layers']['gate'] + change
  # Rank one, in the direction of the base's only one.
  params['layers']['output'] = base['layers']['output'] * 1.5
  params['embed'] = {'tokens': jnp.eye(8).at[3, 3].add(2.0)}
  return params, base


def test_spectra_by_hand():
  params, base = pair()
  found = run(spectra.per_layer, params, base, top=1)
  assert set(found) == {'embed/tokens', 'layers/gate', 'layers/output'}
  gate, output = found['layers/gate'], found['layers/output']
  for name in spectra.MEASURES:  # the first layer did not move
    assert gate[name].shape == (2,) and gate[name][0] == 0.0, name
  assert gate['stable_rank'][1] == pytest.approx(8.0, rel=1e-5)
  assert gate['effective_rank'][1] == pytest.approx(8.0, rel=1e-5)
  assert gate['top_energy'][1] == pytest.approx(1 / 8, rel=1e-5)
  assert gate['changed'][1] == pytest.approx(8 / 128)
  size = np.linalg.norm(base['layers']['gate'][1])
  assert gate['relative_norm'][1] == pytest.approx(8**0.5 * 0.5 / size)
  for name in ('stable_rank', 'effective_rank', 'top_energy', 'changed',
               'overlap_left', 'overlap_right'):  # fmt: skip
    np.testing.assert_allclose(output[name], 1.0, rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(output['relative_norm'], 0.5, rtol=1e-5)
  assert found['embed/tokens']['stable_rank'][0] == pytest.approx(1.0)
  # One direction lies where the base's does, however many are looked at.
  more = run(spectra.per_layer, params, base, top=4)['layers/output']
  np.testing.assert_allclose(more['overlap_left'], 1.0, rtol=1e-4)


def test_spectra_of_a_whole_model():
  params, base = pair()
  params['final_norm'] = base['final_norm'].at[0].add(1.0)
  whole = run(spectra.spectra, params, base)
  moved = 8 + 2 * 64 + 1 + 1
  total = sum(x.size for x in jax.tree.leaves(base))
  assert whole['changed'] == pytest.approx(moved / total)
  output = float(jnp.sum(base['layers']['output'] ** 2))
  squares = 8 * 0.25 + output * 0.25 + 4 + 1
  size = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(base))
  assert whole['relative_norm'] == pytest.approx((squares / size) ** 0.5)
  # Five matrices: gate 0 and 8, output 1 and 1, embeddings 1.
  assert whole['stable_rank'] == pytest.approx(11 / 5, rel=1e-5)
  still = run(spectra.spectra, base, base)
  assert all(value == 0.0 for value in still.values())
  coarse = run(spectra.spectra, params, base, tolerance=1.5)
  far = 1 + int(jnp.sum(base['layers']['output'] * 0.5 > 1.5))
  assert coarse['changed'] == pytest.approx(far / total)


def test_overlap_of_disjoint_and_of_random_subspaces():
  base = {'unembed': jnp.diag(jnp.arange(8, 0, -1.0))}
  top = {'unembed': jnp.diag(jnp.array([16.0, 14, 6, 5, 4, 3, 2, 1]))}
  last = {'unembed': jnp.diag(jnp.array([8.0, 7, 6, 5, 4, 3, 18, 9]))}
  # What moves are the first two directions, or the last two.
  scale = lambda tree: run(spectra.spectra, tree, base, top=2)
  assert scale(top)['overlap_left'] == pytest.approx(1.0, abs=1e-5)
  assert scale(top)['overlap_right'] == pytest.approx(1.0, abs=1e-5)
  assert scale(last)['overlap_left'] == pytest.approx(0.0, abs=1e-5)
  noise = {'unembed': jax.random.normal(jax.random.key(0), (40, 60))}
  moved = {'unembed': jax.random.normal(jax.random.key(1), (40, 60)) * 0.1}
  other = {'unembed': noise['unembed'] + moved['unembed']}
  found = run(spectra.spectra, other, noise, top=20)
  assert found['overlap_left'] == pytest.approx(20 / 40, abs=0.1)
  assert found['overlap_right'] == pytest.approx(20 / 60, abs=0.1)


def test_spectra_against_numpy_and_in_bfloat16():
  _, base = pair()
  gate = np.asarray(base['layers']['gate'])
  rng = np.random.default_rng(3)
  change = rng.normal(size=gate.shape).astype(np.float32)
  params = {'layers': {'gate': jnp.asarray(gate + change)}}
  found = run(
    spectra.per_layer, params, {'layers': {'gate': jnp.asarray(gate)}}
  )
  for layer in range(2):
    s = np.linalg.svd((gate + change - gate)[layer], compute_uv=False)
    p = s / s.sum()
    row = {k: v[layer] for k, v in found['layers/gate'].items()}
    assert row['effective_rank'] == pytest.approx(
      np.exp(-np.sum(p * np.log(p))), rel=1e-4
    )
    assert row['stable_rank'] == pytest.approx(
      np.sum(s**2) / s[0] ** 2, rel=1e-4
    )
    assert row['top_energy'] == pytest.approx(
      s[0] ** 2 / np.sum(s**2), rel=1e-4
    )
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert np.isfinite(float(run(spectra.spectra, half, half)['changed']))


def test_spectra_of_other_trees():
  params, base = pair()
  with pytest.raises(ValueError, match='differ in: final_norm'):
    run(
      spectra.spectra,
      {k: v for k, v in params.items() if k != 'final_norm'},
      base,
    )
  with pytest.raises(ValueError, match='no matrices'):
    run(
      spectra.spectra, {'final_norm': jnp.ones(3)}, {'final_norm': jnp.ones(3)}
    )


# --- divergences


def test_divergences_by_hand():
  p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
  found = run(
    divergences.per_token,
    jnp.log(jnp.array([p, p])) + 3.0,
    jnp.log(jnp.array([q, p])),
  )
  # 0.5 log 2 + 0.25 log 1 - 0.25 log 2
  np.testing.assert_allclose(found['kl'], [0.25 * math.log(2), 0], atol=1e-6)
  np.testing.assert_allclose(found['total_variation'], [0.25, 0], atol=1e-6)
  np.testing.assert_allclose(found['entropy'], 1.5 * math.log(2), rtol=1e-5)


def test_impossible_tokens():
  sure = jnp.array([0.0, -jnp.inf, -jnp.inf])
  even = jnp.zeros(3)
  found = run(divergences.per_token, sure, even)
  assert found['kl'] == pytest.approx(math.log(3))
  assert found['entropy'] == 0.0
  assert found['total_variation'] == pytest.approx(2 / 3)
  assert run(divergences.per_token, even, sure)['kl'] == jnp.inf
