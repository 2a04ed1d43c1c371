"""Parts of the study of second tries, by hand."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.second_tries import design, pilot, probe, run
from posttrain_jax import lab, tasks
from posttrain_jax.core.types import Rollout
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import conditioned, vocab

FULL = design.SCALES['full']
SEEN = conditioned.wrap(
  tasks.make('addition', num_digits=1), 'seen_answer', **design.SHOWN
)


def turns(**changed):
  made = probe.Turns(
    model=None, task=SEEN, num_problems=6, heldout_fraction=0.25,
    temperature=1.0, part='test', turns=3,
  )  # fmt: skip
  return dataclasses.replace(made, **changed)


def told(examples):
  """The prompts as text."""
  return [
    vocab.decode(*row) for row in zip(examples.prompt, examples.prompt_mask)
  ]


def rollout_of(text, count, size):
  """`count` problems, each answered `size` times with `text`."""
  row = vocab.fit(vocab.join(vocab.literal(text), vocab.char(vocab.EOS)), 3)
  spread = lambda x: jnp.broadcast_to(x, (count, size, 3))
  mask = spread(row.mask)
  ones = jnp.ones((count, size))
  return Rollout(
    completion=spread(row.tokens), mask=mask, logps=0.0 * mask, finished=ones
  )


def scripted(first, later):
  """Draws `first` bare, and `later` beside an answer; 'right' stands for the
  oracle's."""
  texts = [first, later]

  def draw(params, model, task, examples, key, *, group_size, decoder):
    del params, model, key, decoder
    text, count = texts.pop(0), examples.prompt.shape[0]
    given = rollout_of(text.replace('right', ''), count, group_size)
    if text == 'right':
      solved = jax.vmap(lambda x: task.solve(x, jax.random.key(0)))(examples)
      grow = lambda x: jnp.broadcast_to(x[:, None], given.mask.shape)
      given = given.replace(
        completion=grow(solved.tokens), mask=grow(solved.mask)
      )
    verify = jax.vmap(jax.vmap(task.verify, (None, 0, 0)))
    return given, verify(examples, given.completion, given.mask)['reward']

  return draw


@pytest.mark.parametrize(
  'first, later, by_turn, mended, repeated',
  [
    ('99', 'right', [0, 1, 1], 1, 0),
    ('99', '99', [0, 0, 0], 0, 1),
    ('99', '98', [0, 0, 0], 0, 0),
    ('right', '99', [1, 1, 1], 0, 0),  # what is right stays so
  ],
)
def test_turns_of_a_model_that_says_what_it_is_told(
  monkeypatch, first, later, by_turn, mended, repeated
):
  draw = scripted(first, later)
  monkeypatch.setattr(probe.in_graph, 'generate_and_verify', draw)
  found = turns()(None, None, jax.random.key(3))
  np.testing.assert_array_equal(found['turns'], by_turn)
  assert found['first'] == by_turn[0] and found['fifth'] == by_turn[-1]
  assert found['over'] == by_turn[-1] - by_turn[0]
  assert found['mended'] == mended and found['repeated'] == repeated
  assert found['any'] == found['majority'] == by_turn[0]
  for name in ('first', 'fifth', 'over', 'majority', 'any'):
    assert found[f'{name}/problems'].shape == (6,)


def test_what_is_asked_again():
  """Each answer of a problem begins a chain of its own, which shows the
  answer and the verifier's mark."""
  bare = turns().problems(jax.random.key(0))
  assert all(text.endswith('=') for text in told(bare))
  alone = probe.apart(bare, 2)
  assert len(set(np.asarray(alone.prompt_id).tolist())) == 12
  given = rollout_of('99', 12, 1)
  asked = probe.again(
    SEEN, alone, given.completion[:, 0], given.mask[:, 0], jax.random.key(0)
  )
  expected = [f'{text}99?|' for text in told(bare) for _ in range(2)]
  assert told(asked) == expected
  np.testing.assert_array_equal(asked.prompt_id, alone.prompt_id)


def test_five_answers_by_hand():
  """Two problems of three answers; chains of the first are mended."""
  by_turn = jnp.array(
    [[0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1]], jnp.float32
  )
  same = jnp.array([[0, 0, 0, 1, 1, 0], [0] * 6], jnp.float32)
  samples = rollout_of('5', 2, 3)
  said = jnp.stack([jnp.array([[5], [6], [5]])] * 2) + vocab.ZERO
  samples = samples.replace(
    completion=samples.completion.at[:, :, :1].set(said)
  )
  rewards = jnp.array([[0.0, 1, 0], [0, 0, 0]])
  found = turns(num_problems=2)._measures(by_turn, same, samples, rewards)
  np.testing.assert_allclose(found['turns'], [1 / 6, 2 / 6, 3 / 6])
  np.testing.assert_allclose(found['over'], 2 / 6, rtol=1e-6)
  np.testing.assert_allclose(found['over/problems'], [1 / 3, 1 / 3])
  np.testing.assert_allclose(found['mended'], 1 / 5)
  np.testing.assert_allclose(found['repeated'], 2 / 5)
  np.testing.assert_array_equal(found['any/problems'], [1, 0])
  np.testing.assert_array_equal(found['majority/problems'], [0, 0])


def test_what_a_stage_lost_and_gained():
  start = {'first': np.array([0.3, 0.3]), 'fifth': np.array([0.5, 0.5])}
  found = {
    'first': np.array([0.25, 0.4]), 'fifth': np.array([0.6, 0.7]),
    **dict.fromkeys(('over', 'mended', 'repeated'), np.zeros(2)),
  }  # fmt: skip
  values = run.values_of(found, start)
  np.testing.assert_allclose(values['lost'], [5.0, 0.0], atol=1e-9)
  np.testing.assert_allclose(values['gain'], [-5.0, 10.0])
  np.testing.assert_allclose(values['gain_fifth'], [10.0, 20.0])


def drawn(program):
  """(answers of a step, rows that demonstrate)"""
  config = run.arm_config(program, FULL)
  twice = 2 if config.demos_from == 'refined' else 1
  demos = config.prompts_per_step * config.demos_per_prompt
  own = config.prompts_per_step * config.group_size * twice
  return own, demos if twice == 1 else 0


def test_groups_with_and_without_a_guest_draw_as_many_answers():
  assert drawn('grpo') == (336, 0)
  assert drawn('luffy') == (336, 48)
  assert drawn('critique') == (336, 0)


def test_groups_differ_in_their_guest():
  flat = lambda x: config_lib.flatten(run.arm_config(x, FULL).to_dict())
  own, demo, none = (flat(x) for x in ('critique', 'luffy', 'grpo'))
  differ = {key for key in own if own[key] != demo.get(key)}
  assert differ == {'demos_from', 'prompts_per_step', 'refine.feedback'}
  differ = {key for key in demo if demo[key] != none.get(key)}
  assert differ == {'demos_per_prompt', 'expert_loss.name', 'expert_loss.gamma'}


def test_a_round_of_rise_learns_from_the_model_as_it_begins(monkeypatch):
  """The second round starts from the first one's model, at its rate, and meets
  other problems."""
  asked = []

  def train(name, config, start, hparams, draw):
    asked.append((name, config.collect.sampler, start, hparams, draw))
    return name

  monkeypatch.setattr(run, 'base_of', lambda *_: 'base')
  runs = SimpleNamespace(train=train)
  run.stages_of(runs, 'rise_2', {'rise': 0.1, 'sft': 0.2}, FULL)
  rate = {design.RATE: 0.1}
  assert asked == [
    ('rise-1', 'ref', 'base', rate, 1), ('rise-2', 'ref', 'rise-1', rate, 2),
  ]  # fmt: skip


def test_the_pilot_trains_all_arms_of_claims():
  asked = {x for claim in design.CLAIMS for x in (claim.arm, claim.against)}
  arms = {design.APART.get(x, (x,))[0] for x in asked} - {'base'}
  assert set(pilot.ARMS) == arms and len(pilot.ARMS) == len(arms)


def test_every_seed_has_a_base_of_its_own(monkeypatch):
  """Which tuning and run share."""
  asked = []
  monkeypatch.setattr(
    lab, 'shared', lambda runs, made, rows: asked.append((made, rows))
  )

  def beside(seeds):
    return SimpleNamespace(seeds=seeds, train=lambda *_: seeds)

  for seeds in ((100, 101) * 4, range(8)):
    run.base_of(SimpleNamespace(seeds=seeds, beside=beside), FULL)
  (trained, tuning), (again, rows) = asked
  assert trained == again == FULL.base_seeds == (100, 101, *range(8))
  assert tuning == [0, 1] * 4 and rows == list(range(2, 10))
