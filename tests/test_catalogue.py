"""Names by their popularity: flows of the prefix tree, by hand, in balance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import tasks
from posttrain_jax.losses import flow
from posttrain_jax.rewards import answers
from posttrain_jax.tasks import vocab

KNOBS = dict(items=6, name_length=2, letters=5, groups=2, flatten=0.5)


def made(**more):
  return tasks.make('catalogue', **KNOBS, **more)


def tokens(text, size=5):
  """(tokens [size] with their end token, mask)."""
  out = np.zeros(size, np.int32)
  out[: len(text)] = vocab.encode(text)
  out[len(text)] = vocab.EOS
  return jnp.asarray(out), jnp.asarray(
    np.arange(size) <= len(text), jnp.float32
  )


def of_text(task, group, text):
  buffer = np.zeros(5, np.int32)
  buffer[: len(text)] = vocab.encode(text)
  said = vocab.Text(jnp.asarray(buffer), jnp.int32(len(text)))
  return float(task.log_flow(jnp.int32(group), said))


def flow_of(task, group, prefix):
  """Flow of a prefix, name by name; 0.0 where no name begins so."""
  names = [vocab.decode(name) for name in task.names]
  return sum(
    w for n, w in zip(names, task.worth[group]) if n.startswith(prefix)
  )


def test_popularity_is_zipf_and_flattened():
  task = made()
  weight = 1.0 / np.arange(1, 7)
  for chance in task.popularity:
    np.testing.assert_allclose(np.sort(chance)[::-1], weight / weight.sum())
  assert not np.array_equal(task.popularity[0], task.popularity[1])
  root = np.sqrt(task.popularity)
  np.testing.assert_allclose(task.worth, root / root.sum(1, keepdims=True))
  assert len({tuple(name) for name in task.names}) == 6
  # A table is its seed's, whatever else is asked.
  np.testing.assert_array_equal(made(reward='hit').names, task.names)
  assert not np.array_equal(made(table_seed=1).names, task.names)


@pytest.mark.parametrize('group', [0, 1])
def test_a_text_is_worth_its_prefix_and_steps_off_the_tree(group):
  task = made(reward='flow')
  names = [vocab.decode(name) for name in task.names]
  for name, worth in zip(names, task.worth[group]):
    assert of_text(task, group, name) == pytest.approx(np.log(worth), abs=1e-5)
    begun = np.log(flow_of(task, group, name[0]))
    assert of_text(task, group, name[0]) == pytest.approx(begun - 15, abs=1e-4)
    more = np.log(worth) - 30  # a letter too many, and the end after it
    assert of_text(task, group, name + 'a') == pytest.approx(more, abs=1e-4)
    strange = next(x for x in 'zyx' if name[0] + x not in names)
    assert of_text(task, group, name[0] + strange) == pytest.approx(
      begun - 30, abs=1e-4
    )
  assert of_text(task, group, '') == pytest.approx(-15.0)
  assert of_text(task, group, 'zz') == pytest.approx(-45.0)
  # What goes on from a prefix is what is below it.
  for first in {name[0] for name in names}:
    below = sum(flow_of(task, group, n) for n in names if n[0] == first)
    assert flow_of(task, group, first) == pytest.approx(below)


def test_verdicts_of_names():
  task, flow_task = made(), made(reward='flow')
  example = task.of_group(jnp.int32(1), jnp.int32(2))
  name, other = (vocab.decode(task.names[i]) for i in (2, 4))
  said = {text: task.verify(example, *tokens(text)) for text in (name, other)}
  assert [float(said[x]['hit']) for x in (name, other)] == [1.0, 0.0]
  assert [float(said[x]['listed']) for x in (name, other)] == [1.0, 1.0]
  hit = made(reward='hit').verify(example, *tokens(other))
  assert float(hit['reward']) == 0.0
  worth = flow_task.verify(example, *tokens(other))['reward']
  assert float(worth) == pytest.approx(task.worth[1, 4], rel=1e-5)
  for text in ('', name[0], name + 'a', 'zz'):
    assert float(task.verify(example, *tokens(text))['reward']) == 0.0
  solved = task.solve(example, jax.random.key(0))
  assert vocab.decode(solved.tokens, solved.mask) == name + '<eos>'


def test_users_take_what_their_group_takes():
  task = made()
  drawn = jax.vmap(task.sample)(jax.random.split(jax.random.key(0), 8000))
  counts = np.zeros((2, 6))
  np.add.at(counts, (drawn.answer['group'], drawn.answer['item']), 1)
  assert counts.sum(1) == pytest.approx(4000, abs=200)
  shares = counts / counts.sum(1, keepdims=True)
  np.testing.assert_allclose(shares, task.popularity, atol=0.03)


def imbalance(path, stops, rewards, mask):
  found, _ = flow.sub_trajectory_balance_stop(
    jnp.asarray(path, jnp.float32)[None], None, None, mask[None],
    stop_logps=jnp.asarray(stops, jnp.float32)[None],
    state_log_rewards=rewards[None],
  )  # fmt: skip
  return float(found.sum())


def test_drawing_in_proportion_is_in_balance():
  """A policy that goes on by the share of what is below, and ends at names,
  has no loss; one that takes a first letter too often has."""
  task = made(reward='flow')
  verify = answers.stopped_everywhere(task.verify)
  stops = np.array([-15.0, -15.0, 0.0])
  for item, name in enumerate(vocab.decode(name) for name in task.names):
    example = task.of_group(jnp.int32(0), jnp.int32(item))
    completion, mask = tokens(name, size=3)
    rewards = jnp.log(verify(example, completion, mask))
    flows = [flow_of(task, 0, name[:i]) for i in range(3)]
    path = np.log([flows[1] / flows[0], flows[2] / flows[1], 1.0])
    assert imbalance(path, stops, rewards, mask) < 1e-6
    often = path + np.array([0.3, 0.0, 0.0])
    assert imbalance(often, stops, rewards, mask) > 0.01


@pytest.mark.parametrize(
  'knobs, message',
  [
    ({'reward': 'hits'}, 'Did you mean "hit"'),
    ({'items': 7}, 'more than a quarter of the 25 names'),
    ({'groups': 0}, r'groups=0 is not in 1\.\.26'),
    ({'zipf': -1.0}, r'zipf=-1\.0 is not in 0\.\.4'),
    ({'flatten': 1.5}, r'flatten=1\.5 is not in 0\.\.1'),
  ],
)
def test_bad_knobs_are_named(knobs, message):
  with pytest.raises(ValueError, match=message):
    tasks.make('catalogue', **{**KNOBS, **knobs})
