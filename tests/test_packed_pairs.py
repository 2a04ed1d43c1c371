"""Pairs packed into rows: the objective is that of one answer a row."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from test_collect import MODEL
from test_tasks import quick_jit

from posttrain_jax.core.resolve import part
from posttrain_jax.core.types import TrainState
from posttrain_jax.data import formats, packing, pipeline, tokenizers
from posttrain_jax.losses import preference as room
from posttrain_jax.models import transformer
from posttrain_jax.run import build, inputs
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers import arrays, pairs, preference, sft, update

TASK = tokenizers.TaskTokenizer()
LENGTH = 24
TEXTS = [
  ('1+1=', '2', '33'), ('20+3=', '23', '5'), ('7=', '7', '1111111'),
  ('3+4=', '7', '8'), ('9=', '123456', '0'), ('11+11=', '22', '2'),
  ('5+5=', '10', '101'),
]  # fmt: skip
RECORDS = [dict(zip(('prompt', 'chosen', 'rejected'), text)) for text in TEXTS]
MODELS = dict.fromkeys(('policy', 'ref'), MODEL)


def test_rows_apart_by_hand():
  # Two packed rows: pairs (1, 2 tokens), (2, 1 tokens), and no third.
  x = jnp.array([[1.0, 2, 3, 9], [4, 5, 6, 9]])
  segments = jnp.array([[1, 2, 2, 0], [1, 1, 2, 0]])
  np.testing.assert_array_equal(
    quick_jit(pairs.apart, static_argnames='most')(x, segments, most=3),
    [[1, 0, 0, 0], [4, 5, 0, 0], [2, 3, 0, 0], [6, 0, 0, 0],
     [0, 0, 0, 0], [0, 0, 0, 0]],
  )  # fmt: skip


def examples():
  return [formats.tokenize(record, TASK) for record in RECORDS]


def test_sides_of_a_pair_are_packed_alike():
  packed = packing.pack(examples(), LENGTH, TASK.pad_id)
  chosen, rejected = packed['chosen'], packed['rejected']
  assert chosen['tokens'].shape == rejected['tokens'].shape
  assert len(chosen['tokens']) < len(RECORDS)
  seen = []
  for a, b, row in zip(
    chosen['segment_ids'], rejected['segment_ids'], range(9)
  ):
    assert a.max() == b.max() > 0
    for segment in range(1, a.max() + 1):
      said = [
        TASK.decode(side['tokens'][row][ids == segment])
        for side, ids in ((chosen, a), (rejected, b))
      ]
      seen.append(tuple(said))
  assert sorted(seen) == sorted((p + c, p + r) for p, c, r in TEXTS)


def test_rows_hold_at_most_so_many_pairs():
  sizes = [2] * (2 * packing.PAIRS + 1)
  groups = packing.groups_of(sizes, 4096, paired=True)
  assert sorted(map(len, groups)) == [1, packing.PAIRS, packing.PAIRS]
  assert len(packing.groups_of(sizes, 4096, paired=False)) == 1


def batches():
  """(one answer a row, packed), with one pair of padding each."""
  found = examples()
  sides = lambda make: {side: make(side) for side in ('chosen', 'rejected')}
  plain = sides(
    lambda side: packing.pad(
      [e[side] for e in found], LENGTH, 0, len(found) + 1
    )
  )
  packed = packing.pack(found, LENGTH, 0)
  empty = packing.build_rows([], LENGTH, 0, 1)
  packed = sides(
    lambda side: {k: np.concatenate([x, empty[k]])
                  for k, x in packed[side].items()}
  )  # fmt: skip
  return inputs.to_batch(plain), inputs.to_batch(packed)


@pytest.fixture(scope='module')
def state():
  make = quick_jit(lambda key: transformer.init(key, MODEL))
  scaled = lambda seed: jax.tree.map(
    lambda x: 3 * x, make(jax.random.key(seed))
  )
  return TrainState(jnp.int32(0), scaled(0), (), ref_params=scaled(1))


def config_of(name, packed, **more):
  return ml_collections.ConfigDict({
    'loss': part(room, name), 'nll_coef': 0.0,
    'data': {'source': 'jsonl', 'packing': packed}, **more,
  })  # fmt: skip


@pytest.mark.parametrize('name, more', [
  ('dpo', {'nll_coef': 0.3}),
  *(pytest.param(name, {}, marks=pytest.mark.long)
    for name in ('simpo', 'ld_dpo', 'wpo')),
])  # fmt: skip
def test_packing_changes_no_objective(name, more, state):
  plain, packed = batches()
  assert len(packed.tokens) < len(plain.tokens)
  prepare = arrays.make_prepare({'ref_logps'}, (), MODELS)
  found = []
  for batch, is_packed in ((plain, False), (packed, True)):
    goal = preference.make_objective(config_of(name, is_packed, **more), MODELS)
    # In micro-batches, too, where it takes longer.
    gradient = update.make_gradient(goal, 2 * (is_packed and name != 'dpo'))

    def run(state, batch, gradient=gradient):
      return gradient(state.params, state, prepare(state, batch))

    found.append(quick_jit(run)(state, batch))
  (grads, metrics), (packed_grads, packed_metrics) = found
  assert metrics.keys() == packed_metrics.keys()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
    (grads, metrics), (packed_grads, packed_metrics),
  )  # fmt: skip
  assert max(np.abs(x).max() for x in jax.tree.leaves(grads)) > 1e-3


def test_every_pair_comes_once_an_epoch():
  make = lambda: pipeline.make_iterator(
    pipeline.ListSource(RECORDS), TASK, batch_size=2, max_length=LENGTH,
    packing=True, packing_window=4, num_epochs=1,
  )  # fmt: skip
  found = list(make())
  seen = 0
  for batch in found:
    assert batch['chosen']['tokens'].shape == (2, LENGTH)
    seen += sum(row.max() for row in batch['rejected']['segment_ids'])
  assert seen == len(RECORDS)
  # And from any place on.
  iterator, again = make(), make()
  next(iterator)
  again.set_state(iterator.get_state())
  for expected in found[1:]:
    jax.tree.map(np.testing.assert_array_equal, next(again), expected)


@pytest.mark.parametrize('recipe', ['kto', 'reward_model'])
def test_methods_that_read_whole_rows_refuse_it(recipe, tmp_path):
  spec = f'configs/preference.py:data=jsonl,recipe={recipe},smoke'
  c = config_lib.load(spec, [
    ('data.path', str(tmp_path / 'x')), ('data.packing', 'true'),
  ])  # fmt: skip
  with pytest.raises(ValueError, match='reads a whole row of each answer'):
    build.build(c)


@pytest.mark.long
def test_packing_changes_no_objective_of_demonstrations(state):
  found = [
    formats.tokenize({'prompt': p, 'completion': c}, TASK) for p, c, _ in TEXTS
  ]
  config = config_lib.load('configs/sft.py:data=jsonl', [
    ('data.path', 'x'), ('data.packing', 'true'),
  ])  # fmt: skip
  goal = sft.make_objective(config, {'policy': MODEL}, ())
  gradient = update.make_gradient(goal, 0)
  run = quick_jit(lambda state, batch: gradient(state.params, state, batch))
  plain = run(state, inputs.to_batch(packing.pad(found, LENGTH, 0)))
  packed = packing.pack(found, LENGTH, 0)
  assert len(packed['tokens']) < len(found)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
    plain, run(state, inputs.to_batch(packed)),
  )  # fmt: skip
  assert float(plain[1]['loss']) > 1
