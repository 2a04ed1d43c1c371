"""What stays where it is on a mesh: lookups in tables that have parts, and the
rows of prompts and completions that are read as one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.losses import distillation
from posttrain_jax.models import grouped, lookup, transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import hlo

MESHES = (
  dict(data=2, fsdp=2, tensor=2),
  dict(tensor=8),
  dict(fsdp=2, tensor=2, sequence=2),
  dict(fsdp=8),
  dict(data=2, fsdp=4),
  dict(data=2, expert=2, sequence=2),
)


@pytest.mark.parametrize(
  'mesh, width',
  [
    pytest.param(
      mesh, width, marks=[pytest.mark.long] * (number > 0 or width != 16)
    )
    for number, mesh in enumerate(MESHES)
    for width in (16, 3)  # which devices divide, or do not
  ],
)
def test_a_table_in_parts_is_read_and_learned_as_a_whole_one(mesh, width):
  config = make_config('depth-2', dtype='bfloat16')
  size, rows, length = 32, 8, 64  # more tokens than the table has
  table = jax.random.normal(jax.random.key(0), (size, width))
  tokens = jax.random.randint(jax.random.key(1), (rows, length), 0, size)
  tokens = tokens.at[0, :3].set(jnp.array([size, -1, -size - 5]))
  weights = jax.random.normal(jax.random.key(2), (rows, length, width))
  weights = jnp.round(weights * 8) / 8  # sums are exact in any order

  def loss(table, tokens, weights):
    x = lookup.looked_up(table, tokens, config)
    x = sharding.constrain(x, 'rows', 'length')
    return jnp.sum(weights * x.astype(jnp.float32)), x

  step = jax.value_and_grad(loss, has_aux=True)
  (_, expected), change = jax.jit(step)(table, tokens, weights)
  over = sharding.make_mesh(mesh)
  lies = sharding.fit(lookup.TABLE, table.shape, over)
  put = lambda x, *spec: jax.device_put(
    x, NamedSharding(over, sharding.fit(P(*spec), x.shape, over))
  )
  with jax.set_mesh(over):
    given = (
      jax.device_put(table, NamedSharding(over, lies)),
      put(tokens, sharding.LOGICAL['rows'], 'sequence'),
      put(weights, sharding.LOGICAL['rows'], 'sequence'),
    )
    made = jax.jit(step).lower(*given).compile()
    (_, found), learned = made(*given)
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(learned, change)
  assert learned.sharding.is_equivalent_to(NamedSharding(over, lies), 2)
  # Rows travel, and tokens; the table does not.
  whole = size // mesh.get('tensor', 1) * width
  for one in hlo.collectives(made.as_text()):
    moved = one.kind in ('all-gather', 'reduce-scatter')
    assert not (moved and one.shape[-1:] == (width,)), one
    if one.kind == 'all-reduce' and np.prod(one.shape) == whole:
      assert {'data', 'tensor'} <= set(mesh) or lies[1] is None, one


@pytest.mark.parametrize(
  'mesh', [dict(data=2, fsdp=4), dict(fsdp=2, tensor=2, sequence=2)]
)
def test_prompts_and_completions_are_one_batch_where_they_lie(mesh):
  over = sharding.make_mesh(mesh)
  shapes = (8, 4), (16, 6)
  one, two = (
    jnp.arange(float(b * t * 4 * 3)).reshape(b, t, 4, 3) for b, t in shapes
  )
  spec = P(sharding.LOGICAL['rows'], 'sequence', 'tensor')
  place = NamedSharding(over, sharding.fit(spec, one.shape, over))

  def back(one, two):
    layout = grouped._joined(*shapes)
    parts = layout.gather(one, two)
    assert len(parts) == 1
    assert parts[0].shape[1] == (8 * 4 + 16 * 6) // sharding.size(
      *sharding.LOGICAL['rows']
    )
    return layout.spread([2 * parts[0]])

  with jax.set_mesh(over):
    given = jax.device_put((one, two), place)
    made = jax.jit(back).lower(*given).compile()
    found = made(*given)
  assert hlo.collectives(made.as_text()) == []
  np.testing.assert_array_equal(found[0], 2 * one)
  np.testing.assert_array_equal(found[1], 2 * two)
  for x in found:
    assert x.sharding.is_equivalent_to(place, 4)


@pytest.mark.parametrize(
  'prompts, joined', [((8, 4), True), ((8, 3), False), ((2, 4), False)]
)
def test_rows_that_devices_do_not_divide_stay_two_batches(prompts, joined):
  with jax.set_mesh(sharding.make_mesh(dict(fsdp=4, sequence=2))):
    assert (grouped._joined(prompts, (8, 6)) is not None) == joined
  assert grouped._joined(prompts, (8, 6)) is None  # one device


@pytest.mark.long
@pytest.mark.parametrize('name', distillation.__all__)
def test_logits_that_are_compared_stay_in_parts(name):
  size = 32
  shape = (8, 4, size)
  given = [2 * jax.random.normal(jax.random.key(i), shape) for i in (1, 2)]
  mask = jnp.ones(shape[:2]).at[0].set(0.0)
  extra = {'k': 6} if name.startswith('top_k') else {}
  function = getattr(distillation, name)

  def loss(student, teacher, mask):
    place = lambda x: sharding.constrain(x, 'rows', 'length', 'vocab')
    loss, _ = function(place(student), place(teacher), mask, **extra)
    return jnp.sum(loss)

  step = lambda: jax.jit(jax.value_and_grad(lambda *given: loss(*given)))
  expected = step()(*given, mask)
  over = sharding.make_mesh(dict(fsdp=2, tensor=2, sequence=2))
  spec = P('fsdp', 'sequence', 'tensor')
  with jax.set_mesh(over):
    put = lambda x, *spec: jax.device_put(x, NamedSharding(over, P(*spec)))
    given = [put(x, *spec) for x in given]
    given.append(put(mask, *spec[:2]))
    made = step().lower(*given).compile()
    found = made(*given)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    found, expected,
  )  # fmt: skip
  # Sums over a vocabulary are sent, and the largest of its parts.
  most = 4 * 2 * 2 * 6
  for one in hlo.collectives(made.as_text()):
    assert np.prod(one.shape) <= most, one


@pytest.mark.long
def test_the_last_product_is_gathered_and_scattered_once():
  """Not in each of the chunks that positions are scored in."""
  config = make_config('depth-1', vocab_size=64, logit_chunk=2)
  params = transformer.init(jax.random.key(0), config)
  tokens = jax.random.randint(jax.random.key(1), (8, 16), 0, 64)

  def loss(params, heat):
    signals = transformer.token_logps(
      params, config, tokens, jnp.ones(tokens.shape), heat, entropy=True
    )
    return jnp.sum(signals.logps) + jnp.sum(signals.entropy)

  heat = jnp.full((), 1.5)  # known when the program runs
  step = lambda: jax.jit(jax.value_and_grad(lambda *given: loss(*given)))
  expected = step()(params, heat)
  over = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  specs = transformer.param_specs(config)
  with jax.set_mesh(over):
    placed = jax.device_put(
      params, sharding.state_shardings(params, specs, over)
    )
    made = step().lower(placed, heat).compile()
    found = made(placed, heat)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    found, expected,
  )  # fmt: skip
  table = 64 * config.width // 2
  every = hlo.collectives(made.as_text())
  assert any(np.prod(one.shape) >= table for one in every)
  for one in every:
    assert one.times == 1 or np.prod(one.shape) < table, one
