"""A recipe's own objective on fixed answers, its model being a table.

`build` wires the run as ever: source of rows, frozen models' opinions, loss,
weights, reduction, coefficients. Exchanged are: problems, answers and verdicts
(`recipe_answers_rows`); a model's scores, looked up in a table of logits; an
update, which leaves the state as it is. Everything is in float64.
"""

import contextlib
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import recipe_answers_rows as rows_of
import recipe_tables
from recipe_answers_rows import PROMPT, WIDTH, Answers, Model
from recipe_slopes_rows import compare

from configs import recipes
from posttrain_jax import collect, rollout
from posttrain_jax.collect import groups, second_tries, single
from posttrain_jax.core.types import Example, Rollout, TokenSignals, TrainState
from posttrain_jax.models import transformer
from posttrain_jax.run import build, config, model_folder, roles
from posttrain_jax.tasks import conditioned
from posttrain_jax.trainers import update

__all__ = ['PARADIGMS', 'compare', 'evaluate', 'measure', 'names']

PARADIGMS = ('sft', 'distill')
EOS = 1  # of the tasks' tokenizer
SEED = 0
# Recipes whose reference is not the policy as it starts.
OTHER_REFERENCE = ('forgetting', 'rho1', 'token_cleaning')


def names() -> list[tuple[str, str]]:
  """(paradigm, recipe) of every recipe that learns from single rows."""
  return [(p, name) for p in PARADIGMS for name in recipes.rows(p)]


# The model as a table


def _look_up(rows):
  """A `transformer.token_logps` that reads the table's row of each row.

  rows  (positions [R, T]) -> [R] index
  """

  def token_logps(params, _, tokens, mask, temperature=1.0, **wanted):
    index = rows(wanted['positions'])
    logits = params['logits'][index] / temperature
    if 'mixed' in wanted:
      logits = logits + rows_of.moved(jnp, *wanted['mixed'], logits.shape[-1])
    log_probs = jax.nn.log_softmax(logits)
    taken = jnp.take_along_axis(log_probs, tokens[..., None], -1, mode='clip')
    scored = mask > 0
    keep = lambda x: jnp.where(scored, x, 0.0)
    return TokenSignals(
      logps=keep(taken[..., 0]),
      entropy=keep(-jnp.sum(jnp.exp(log_probs) * log_probs, -1)),
      is_top=keep(1.0 * (taken[..., 0] >= jnp.max(log_probs, -1))),
      logits=logits if wanted.get('logits') else None,
      values=keep(params['values'][index]),
      values_after=keep(params['values'][index]),
    )

  return token_logps


_IN_ORDER = _look_up(lambda positions: jnp.arange(positions.shape[0]))
# Rows of a batch carry their place in the table instead of positions.
_BY_NUMBER = _look_up(lambda positions: positions[:, 0])


def _params(model: Model) -> dict:
  return {
    'logits': jnp.asarray(model.logits),
    'values': jnp.asarray(model.values),
  }


# Problems, answers and verdicts


def _padded(answers) -> tuple:
  """Tokens and mask [..., WIDTH] of nested lists of answers."""
  if isinstance(answers, rows_of.Answer):
    free = WIDTH - len(answers.tokens)
    tokens = np.array([*answers.tokens, *[0] * free], np.int32)
    return tokens, np.arange(WIDTH) < len(answers.tokens)
  tokens, masks = zip(*map(_padded, answers), strict=True)
  return np.stack(tokens), np.stack(masks)


def _setting(answers: Answers) -> type:
  """A `collect.Setting` with these problems, answers and verdicts."""
  prompts = np.zeros((len(answers.gold), PROMPT), np.int32)
  prompt_mask = np.zeros(prompts.shape, np.float32)
  for b, gold in enumerate(answers.gold):
    prompts[b, : len(gold.prompt)] = gold.prompt
    prompt_mask[b, : len(gold.prompt)] = 1.0

  def as_rollout(own):
    tokens, mask = (jnp.asarray(x) for x in _padded(own))
    mask = mask.astype(jnp.float32)
    return Rollout(tokens, mask, 0.0 * mask, jnp.ones(mask.shape[:-1]))

  class Fixed(collect.Setting):
    def examples(self, key):
      identity = jnp.arange(len(prompts), dtype=jnp.uint32)
      return Example(*map(jnp.asarray, (prompts, prompt_mask)), identity, {})

    def solve(self, examples, key):
      tokens, mask = _padded(answers.gold)
      return jnp.asarray(tokens), jnp.asarray(mask, jnp.float32)

    def given(self, examples, tokens):
      return None

    def sample(self, state, sampler, examples, key, group_size, greedy=False):
      if 'again' in examples.answer:  # a first answer is shown
        return as_rollout([g[:group_size] for g in answers.own['teacher']])
      if examples.prompt.shape[1] > PROMPT:  # the demonstration is shown
        return as_rollout([[again] for again in answers.again])
      own = answers.own[sampler]
      assert len(own[0]) >= group_size, (sampler, group_size)
      return as_rollout([group[:group_size] for group in own])

    def verify(self, examples, tokens, mask):
      total = jnp.sum(tokens * mask, -1).astype(jnp.int32)
      partial = jnp.where(jnp.sum(mask, -1) > 3, 0.25, 0.0)
      return jnp.where(total % 2 == 0, 1.0, partial)

  return Fixed


def _generate(vocab: int):
  """A `rollout.generate` that writes what `recipe_answers_rows.follow` says."""

  def generate(params, _, prompts, mask, key, **sizes):
    total = jnp.sum(prompts * (mask > 0), 1)
    length = jnp.sum(mask > 0, 1)
    going = jnp.ones(total.shape, bool)
    tokens, masks = [], []
    for _ in range(sizes['max_new_tokens']):
      token = jnp.where(going, (3 * total + length) % vocab, 0)
      tokens.append(token.astype(jnp.int32))
      masks.append(going)
      going = going & (token != sizes['eos_id'])
      total, length = total + token, length + 1
    pack = lambda xs: jnp.stack(xs, 1)[:, None]
    mask = pack(masks).astype(jnp.float32)
    finished = 1.0 - going[:, None]
    return Rollout(pack(tokens), mask, jnp.zeros(mask.shape), finished)

  return generate


# Of a table, the row alone says that a prompt shows an answer.
_AGAIN = lambda _, e, *given: e.replace(answer={'again': e.prompt_id})
_NO_TOKENIZER = model_folder, 'check_tokens', lambda *given: None


@contextlib.contextmanager
def _replaced(*changes):
  """Attributes (object, name, value) for the time of a block."""
  before = [(where, name, getattr(where, name)) for where, name, _ in changes]
  try:
    for where, name, value in changes:
      setattr(where, name, value)
    yield
  finally:
    for where, name, value in before:
      setattr(where, name, value)


def _numbered(batch):
  """The batch with its rows' places in the table.

  Rows whose prompt says that the answer is bad take the second half of it,
  as do the wrong answers beside a batch: another prefix, other scores.
  """
  count = batch.mask.shape[0]
  own = jnp.arange(count)
  if 'verdict' in batch.extras:
    own = own + count * (1 - batch.extras['verdict'])
  spread = lambda index, like: jnp.broadcast_to(index[:, None], like.shape)
  extras = {k: v for k, v in batch.extras.items() if k != 'verdict'}
  if 'wrong' in extras:
    wrong = extras['wrong']
    index = spread(count + jnp.arange(count), wrong.positions)
    extras['wrong'] = wrong.replace(positions=index)
  return batch.replace(positions=spread(own, batch.positions), extras=extras)


def _as_float64(tree):
  wide = lambda x: x.astype(float) if x.dtype == jnp.float32 else x
  return jax.tree.map(wide, tree)


def _config(paradigm: str, name: str, *changes: tuple[str, str]):
  """The recipe's config, with few problems and one update a batch.

  Models beside the policy have a place to be read from, which is never opened.
  """
  spec = f'configs/{paradigm}.py:recipe={name}'
  c = config.load(spec)
  items = [
    ('prompts_per_step', '4' if c.group_size > 2 else '8'),
    ('minibatch_rows', '0'),
    ('microbatch_rows', '0'),
    *((f'others.{role}', 'a_table') for role in c.get('others', {})),
    *((('ref.path', 'a_table'),) if name in OTHER_REFERENCE else ()),
  ]
  return config.load(spec, [*items, *changes])


def _same_shape(c, policy, wanted):
  """A `roles.make_models` that reads nothing: all models are tables."""
  return dict.fromkeys({'policy', 'ref', *wanted}, policy)


def _verdicts(c, batch):
  """What the prompts say of their answers, as `extras['verdict']`."""
  if c.condition.name != 'feedback':
    return batch
  heads = batch.tokens[:, 0]
  verdict = (heads == conditioned.GOOD).astype(jnp.int32)
  return batch.replace(extras={**batch.extras, 'verdict': verdict})


# A batch and the random answers behind it, one for each source of rows.
_BATCHES: dict[str, tuple] = {}


def _rows(c, vocab: int):
  """(Answers, batch with numbered rows) of a config's source of rows."""
  parts = [dict(c.collect), c.condition.name, c.group_size, vocab]
  key = json.dumps([c.prompts_per_step, *parts], sort_keys=True)
  if key in _BATCHES:
    return _BATCHES[key]
  data = rows_of.make(c.prompts_per_step, c.group_size, vocab, EOS, SEED)

  def chances(key, examples, group_size=1):
    return jnp.asarray(data.chances[: c.prompts_per_step * group_size])

  exchanged = [
    (roles, 'make_models', _same_shape),
    (collect, 'Setting', _setting(data)),
    (rollout, 'generate', _generate(vocab)),
    (single, 'chances', chances),
    (second_tries, 'bare', lambda _, examples: examples),
    (second_tries, 'beside', _AGAIN),
    (groups, 'chances', chances),
    (transformer, 'token_logps', _IN_ORDER),
    _NO_TOKENIZER,
  ]
  with _replaced(*exchanged):
    run = build.build(c)
    assert run.tokenizer.eos_id == EOS

    def source(state):
      batch, _ = run.collect(state, jax.random.key(0))
      return _as_float64(_numbered(_verdicts(c, batch)))

    _BATCHES[key] = data, jax.jit(source)(_state(run, data))
  return _BATCHES[key]


def _state(run, data: Answers) -> TrainState:
  """The state before the update: a table for each model of the run."""
  params = {role: _params(model) for role, model in data.models.items()}
  others = run.models.keys() - {'policy', 'ref'}
  return TrainState(
    step=jnp.int32(1),
    params=params['policy'],
    opt_state=optax.ScaleByScheduleState(jnp.int32(0)),
    ref_params=params['ref'] if 'ref' in run.models else None,
    others={role: params[role] for role in others},
  )


def _learn(c, data: Answers, batch):
  """(value, gradient) of a config's objective at the table `data.models.live`.

  The update before it has moved the policy: its old self is in the state.
  """
  seen = {}

  def make_update(objective, optimizer, sizes, specs=None):
    gradient = update.make_gradient(objective, sizes.microbatch_rows)

    def change(state, batch, key):
      grads, metrics = gradient(seen['live'], state, batch)
      seen.update(out=(metrics['loss'], grads, batch.extras['seed']))
      return state, metrics

    return change

  exchanged = [
    (roles, 'make_models', _same_shape),
    (update, 'make_update', make_update),
    (transformer, 'token_logps', _BY_NUMBER),
    _NO_TOKENIZER,
  ]
  with _replaced(*exchanged):
    run = build.build(c)

    def learn(state, live, batch):
      seen['live'] = live
      run.learn(state, batch, jax.random.key(1))
      return seen['out']

    live = _params(data.models['live'])
    value, gradient, seeds = jax.jit(learn)(_state(run, data), live, batch)
  if c.loss.get('num_samples'):  # each row from its own key
    size = (batch.mask.shape[1], c.loss.num_samples)
    draw = lambda seed: jax.random.uniform(jax.random.key(seed), size, float)
    draws = jax.vmap(draw)(seeds)
    data = dataclasses.replace(data, uniform=np.asarray(draws))
  return float(value), jax.tree.map(np.asarray, gradient), data


def evaluate(paradigm: str, name: str, *changes: tuple[str, str]) -> dict:
  """The recipe's value and gradient, and what its form is to be given.

  changes  overrides of its config, as ('loss.beta', '0.2')

  Returns {'value', 'gradient': {'logits' [N, T, V], 'values' [N, T]}, 'data':
  Answers, 'mask': [N, T] of the table's places that a loss may read}.
  """
  c = _config(paradigm, name, *changes)
  with jax.enable_x64(True):
    data, batch = _rows(c, max(6, c.loss.get('k', 0) + 2))
    value, gradient, data = _learn(c, data, batch)
  mask = np.zeros(data.models['live'].values.shape)
  mask[np.asarray(batch.positions[:, 0])] = np.asarray(batch.mask)
  return dict(value=value, gradient=gradient, data=data, mask=mask)


@functools.cache
def _paradigm_of(name: str) -> str:
  (paradigm,) = [p for p in PARADIGMS if name in recipes.rows(p)]
  return paradigm


def measure(name: str) -> dict[str, float]:
  """{'value', 'gradient'}: how far a recipe is from its form."""
  paradigm = _paradigm_of(name)
  form = recipe_tables.forms(paradigm)[name]
  return compare(evaluate(paradigm, name), form)
