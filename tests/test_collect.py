"""Sources of rows on four problems, with answers that are made by hand."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import collect, tasks
from posttrain_jax.collect.setting import Setting
from posttrain_jax.core import arrays
from posttrain_jax.core.types import Rollout, TrainState
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders, guides
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.subset import Subset

PROBLEMS, GROUP = 4, 3
ADDITION = tasks.make('addition', num_digits=1)
MODEL = ModelConfig(
  num_layers=1, width=16, num_heads=1, num_kv_heads=1, head_dim=16, mlp_dim=16
)
# What each sample of a problem is: right, wrong, otherwise wrong, empty.
R, W, X, E = range(4)
ORDER = tuple(range(PROBLEMS))
PLAN = ((R, W, R), (W, X, W), (R, R, R), (E, W, R))


@dataclasses.dataclass(frozen=True, eq=False)
class Scripted(Setting):
  """A world whose models answer as `plan` says, by problem and sample.

  A wrong answer is the right one with a first digit that is 1 or 2 higher.
  `again` is for prompts that are longer than the task's.
  """

  plan: jax.Array | None = None
  again: jax.Array | None = None
  order: jax.Array | None = None
  __hash__ = object.__hash__  # models are a dict

  def examples(self, key):
    return jax.tree.map(lambda x: x[self.order], super().examples(key))

  def kinds(self, examples):
    hinted = examples.prompt.shape[1] > self.task.prompt_length
    return (self.again if hinted else self.plan)[examples.prompt_id]

  def sample(self, state, sampler, examples, key, group_size, *, greedy=False):
    assert sampler in self.models
    kinds = self.kinds(examples)[:, :group_size]
    tokens, mask = self.solve(examples, jax.random.key(0))
    first = tokens[:, None, :1] - vocab.ZERO
    spread = lambda x: jnp.repeat(x[:, None], group_size, axis=1)
    tokens, mask = spread(tokens), spread(mask)
    changed = (first + kinds[..., None]) % 10 + vocab.ZERO
    changed = jnp.where(kinds[..., None] == E, vocab.EOS, changed)
    tokens = tokens.at[..., :1].set(changed)
    mask = jnp.where((kinds == E)[..., None], jnp.eye(1, self.width)[0], mask)
    return Rollout(tokens, mask, jnp.zeros(mask.shape), jnp.ones(kinds.shape))


FIELDS = dict(
  task=ADDITION,
  models={'policy': MODEL, 'ref': MODEL, 'teacher': MODEL},
  num_prompts=PROBLEMS,
  group_size=GROUP,
  heldout_fraction=0.0,
  max_new_tokens=ADDITION.completion_length,
  decoder=decoders.sample,
  eos_id=vocab.EOS,
  pad_id=vocab.PAD,
)
WORLD = Scripted(**FIELDS)


@functools.cache
def program(world, name, **chosen):
  """A source, compiled once for all keys, plans, orders and numbers."""

  def source(state, key, script, numbers):
    scripted = dataclasses.replace(world, **script)
    return getattr(collect, name)(scripted, state, key, **chosen, **numbers)

  return quick_jit(source)


def run(
  name, seed=0, world=WORLD, plan=PLAN, again=PLAN, order=ORDER, **hparams
):
  script = {'plan': plan, 'again': again, 'order': order}
  script = {key: jnp.array(value) for key, value in script.items()}
  numbers = {k: v for k, v in hparams.items() if isinstance(v, float)}
  chosen = {k: v for k, v in hparams.items() if k not in numbers}
  source = program(world, name, **chosen)
  return jax.device_get(source(None, jax.random.key(seed), script, numbers))


def texts(batch):
  """[(prompt, answer, counted text)] of the rows; prompts end with '='."""
  out = []
  for tokens, real, mask in zip(batch.tokens, batch.segment_ids, batch.mask):
    prompt, answer = vocab.decode(tokens, real).split('=')
    out.append((prompt + '=', answer, vocab.decode(tokens, mask)))
  return out


def gold(prompt):
  a, b = re.search(r'(\d+)\+(\d+)=', prompt).groups()
  return f'{int(a) + int(b)}<eos>'


def scripted(prompt, kind):
  """The scripted answer of one kind."""
  right = gold(prompt)
  first = str((int(right[0]) + kind) % 10)
  return '<eos>' if kind == E else first + right[1:]


def prompts_of(batch, size):
  prompts = [row[0] for row in texts(batch)]
  for i in range(0, len(prompts), size):
    assert len(set(prompts[i : i + size])) == 1
  return prompts[::size]


RIGHT = np.array(PLAN) == R  # [problem, sample]
# Those of a plain task that need no model.
OTHERS = (
  'counterfactual',
  'feedback',
  'principle_pairs',
  'question_free',
  'retries',
)
SCRIPTED = [name for name in collect.__all__ if name not in OTHERS]
HPARAMS = {'oracle': {'noise': 0.5}, 'rollouts': {'whole_fraction': 0.5}}


@pytest.mark.parametrize('name', SCRIPTED)
def test_rows_and_extras_are_those_declared(name):
  batch, metrics = run(name)
  rows = PROBLEMS * collect.rows_per_prompt(name, GROUP)
  width = ADDITION.prompt_length + ADDITION.completion_length
  assert batch.tokens.shape == batch.mask.shape == (rows, width)
  assert set(batch.extras) == set(arrays.from_rows(name))
  for leaf in jax.tree.leaves(batch.extras):
    assert leaf.shape in ((rows,), (rows, width))
  assert all(np.shape(x) == () for x in metrics.values())
  for prompt, answer, counted in texts(batch):
    # Prompts never count; an answer counts as a whole, or not at all.
    assert counted in ('', answer)
    assert re.fullmatch(r'\d\+\d=', prompt)
  # What is not real is padding.
  np.testing.assert_array_equal(batch.tokens[batch.segment_ids == 0], 0)


@pytest.mark.parametrize('name', SCRIPTED)
def test_rows_follow_their_problems(name):
  """A problem's rows are the same wherever it stands in the batch."""
  order = (2, 0, 3, 1)
  hparams = HPARAMS.get(name, {})
  batch, _ = run(name, **hparams)
  moved, _ = run(name, order=order, **hparams)
  if name == 'labelled':  # with answers of neighbours
    batch.extras.pop('mismatched')
    moved.extras.pop('mismatched')
  if name == 'oracle':
    assert 0 < batch.extras['scores'].sum() < PROBLEMS
    batch, moved = batch.extras, moved.extras
  size = collect.rows_per_prompt(name, GROUP)

  def compare(before, after):
    before = before.reshape(PROBLEMS, size, *before.shape[1:])
    after = after.reshape(before.shape)
    np.testing.assert_array_equal(before[list(order)], after)

  jax.tree.map(compare, batch, moved)


@pytest.mark.parametrize(
  'keep, kept',
  [
    ('all', np.ones((4, 3))),
    ('correct', RIGHT),
    ('mixed', [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]]),
  ],
)
def test_rollouts_keep(keep, kept):
  batch, metrics = run('rollouts', keep=keep)
  prompts = prompts_of(batch, GROUP)
  expected = [
    scripted(prompt, kind) for prompt, row in zip(prompts, PLAN) for kind in row
  ]
  assert [answer for _, answer, _ in texts(batch)] == expected
  kept = np.array(kept, float).reshape(-1)
  np.testing.assert_array_equal(batch.mask.any(axis=1), kept)
  extras = batch.extras
  right = RIGHT.reshape(-1)
  np.testing.assert_array_equal(extras['scores'], right)
  np.testing.assert_array_equal(extras['correct'], right)
  rates = np.repeat([2 / 3, 0, 1, 1 / 3], GROUP)
  np.testing.assert_allclose(extras['correct_rate'], rates, rtol=1e-6)
  # Marks are on what counts of wrong answers, and nowhere else.
  negative = batch.mask * ~right[:, None]
  np.testing.assert_array_equal(extras['negative'], negative)
  np.testing.assert_allclose(metrics['reward'], 6 / 12)
  np.testing.assert_allclose(metrics['frac_rows_kept'], kept.mean())


def test_duplicates_are_left_out():
  batch, _ = run('rollouts', dedup=True)
  first = [1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1]
  np.testing.assert_array_equal(batch.mask.any(axis=1), first)
  batch, _ = run('rollouts', dedup=True, keep='correct')
  kept = first * RIGHT.reshape(-1)
  np.testing.assert_array_equal(batch.mask.any(axis=1), kept)


def test_whole_rows_are_a_share():
  for fraction in (0.0, 1.0):
    batch, _ = run('rollouts', whole_fraction=fraction)
    np.testing.assert_array_equal(batch.extras['whole'], fraction)
  batch, _ = run('rollouts', whole_fraction=0.5)
  groups = batch.extras['whole'].reshape(PROBLEMS, GROUP)
  # Rows are drawn, not problems.
  assert 0 < groups.mean() < 1 and (groups != groups[:, :1]).any()


def test_best_of_takes_the_first_best():
  batch, metrics = run('best_of')
  picked = [row[1] for row in texts(batch)]
  prompts = prompts_of(batch, 1)
  expected = [scripted(p, kind) for p, kind in zip(prompts, (R, W, R, R))]
  assert picked == expected
  np.testing.assert_array_equal(batch.mask.any(axis=1), [1, 0, 1, 1])
  np.testing.assert_array_equal(batch.extras['scores'], [1, 0, 1, 1])
  np.testing.assert_allclose(metrics['frac_rows_kept'], 0.75)
  batch, _ = run('best_of', threshold=-1.0)
  assert batch.mask.any(axis=1).all()


def test_best_vs_worst_leaves_ties_out():
  batch, metrics = run('best_vs_worst')
  prompts = prompts_of(batch, 2)
  pairs = [(R, W), (W, W), (R, R), (R, E)]
  expected = [
    scripted(p, kind) for p, pair in zip(prompts, pairs) for kind in pair
  ]
  assert [row[1] for row in texts(batch)] == expected
  np.testing.assert_array_equal(
    batch.mask.any(axis=1), [1, 1, 0, 0, 0, 0, 1, 1]
  )
  np.testing.assert_array_equal(
    batch.extras['scores'], [1, 0, 0, 0, 1, 1, 1, 0]
  )
  np.testing.assert_allclose(metrics['frac_rows_kept'], 0.5)


@pytest.mark.parametrize('keep, kept', [('all', 1), ('wrong', [0, 1, 0, 1])])
def test_oracle_vs_rollout(keep, kept):
  batch, _ = run('oracle_vs_rollout', keep=keep)
  for i, prompt in enumerate(prompts_of(batch, 2)):
    chosen, rejected = (row[1] for row in texts(batch)[2 * i : 2 * i + 2])
    assert chosen == gold(prompt)
    assert rejected == scripted(prompt, PLAN[i][0])
  kept = np.repeat(np.broadcast_to(kept, PROBLEMS), 2)
  np.testing.assert_array_equal(batch.mask.any(axis=1), kept)
  np.testing.assert_array_equal(
    batch.extras['scores'], [1, 1, 1, 0, 1, 1, 1, 0]
  )


def test_labelled_rows_have_the_answers_of_the_next_problem():
  batch, _ = run('labelled')
  prompts = prompts_of(batch, GROUP)
  np.testing.assert_array_equal(batch.extras['correct'], RIGHT.reshape(-1))
  mismatched = texts(batch.extras['mismatched'])
  for i, prompt in enumerate(prompts):
    following = (i + 1) % PROBLEMS
    for j in range(GROUP):
      answer = scripted(prompts[following], PLAN[following][j])
      assert mismatched[GROUP * i + j] == (prompt, answer, answer)
  with pytest.raises(ValueError, match='prompts_per_step=1: collect "labelled'):
    lone = dataclasses.replace(WORLD, num_prompts=1)
    collect.labelled(lone, None, jax.random.key(0))


def test_oracle_and_rollouts_puts_the_demonstration_first():
  batch, metrics = run('oracle_and_rollouts')
  prompts = prompts_of(batch, GROUP)
  plan = [(R, *row[: GROUP - 1]) for row in PLAN]
  expected = [
    scripted(p, kind) for p, row in zip(prompts, plan) for kind in row
  ]
  assert [row[1] for row in texts(batch)] == expected
  np.testing.assert_array_equal(batch.extras['expert'], [1, 0, 0] * PROBLEMS)
  right = np.array(plan).reshape(-1) == R
  np.testing.assert_array_equal(batch.extras['correct'], right)
  # The reward is of the model's own answers alone.
  np.testing.assert_allclose(metrics['reward'], 3 / 8)


@pytest.mark.parametrize('trust', [False, True])
def test_a_trusted_demonstration_is_not_judged(trust, monkeypatch):
  wrong = lambda self, examples, tokens, mask: jnp.zeros(tokens.shape[:2])
  monkeypatch.setattr(collect.Setting, 'verify', wrong)
  batch, metrics = run('oracle_and_rollouts', trust=trust)
  scores = [float(trust), 0, 0] * PROBLEMS
  np.testing.assert_array_equal(batch.extras['scores'], scores)
  np.testing.assert_array_equal(batch.extras['correct'], scores)
  assert metrics['reward'] == 0.0


@pytest.mark.parametrize('other', ['oracle', 'teacher'])
def test_on_policy_mix(other):
  plan = ((X,) * GROUP,) * PROBLEMS

  def answers(fraction, seed=0):
    batch, metrics = run(
      'on_policy_mix', seed, plan=plan, fraction=fraction, other=other
    )
    rows = texts(batch)
    own = [answer == scripted(prompt, X) for prompt, answer, _ in rows]
    rest = [r for r, mine in zip(rows, own) if not mine]
    assert all(answer == gold(prompt) for prompt, answer, _ in rest)
    return np.mean(own), metrics['frac_own']

  if other == 'teacher':  # the scripted teacher answers as the policy does
    assert answers(0.0) == (1.0, 0.0)
    return
  assert answers(0.0) == (0.0, 0.0) and answers(1.0) == (1.0, 1.0)
  shares = [answers(0.5, seed) for seed in range(3)]
  assert all(own == metric for own, metric in shares)
  assert 0 < np.mean(shares) < 1


def test_guides_steer_what_models_answer():
  only_end = guides.allowed_tokens(tokens=(vocab.EOS,))
  model = transformer.init(jax.random.key(1), MODEL)
  state = TrainState(jnp.int32(0), model, ())

  def lengths(guide):
    world = Setting(**FIELDS, guide=guide)

    def sample(key):
      examples = world.examples(key)
      return world.sample(state, 'policy', examples, key, GROUP).mask.sum(-1)

    return jax.jit(sample)(jax.random.key(0))

  assert lengths(None).max() > 1
  assert lengths(only_end).max() == 1


def test_fixed_pairs_are_those_of_their_problem():
  """Two steps of different keys, with rows in another order."""
  world = Setting(**{**FIELDS, 'task': Subset(ADDITION, 3)}, guide=None)
  world = dataclasses.replace(world, num_prompts=6)
  model = transformer.init(jax.random.key(1), MODEL)
  state = TrainState(jnp.int32(0), {}, (), ref_params=model)

  @functools.partial(jax.jit, static_argnames='fixed')
  def pairs(key, fixed):
    own = dataclasses.replace(world, spent=collect.Spent())
    return collect.best_vs_worst(
      own, state, key, sampler='ref', margin=-1.0, noise=0.5, fixed=fixed
    )[0].tokens

  def by_problem(key, fixed):
    found = {}
    for pair in np.asarray(pairs(key, fixed)).reshape(6, 2, -1):
      prompt = pair[0, : ADDITION.prompt_length].tobytes()
      found.setdefault(prompt, set()).add(pair.tobytes())
    return found

  one, other = (by_problem(jax.random.key(i), True) for i in (0, 1))
  assert all(len(rows) == 1 for rows in one.values())
  both = one.keys() & other.keys()
  assert both and all(one[prompt] == other[prompt] for prompt in both)
  free = by_problem(jax.random.key(0), False)
  assert any(len(rows) > 1 for rows in free.values())
