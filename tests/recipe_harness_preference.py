"""A preference recipe's own objective, on the answers of `recipe_answers`.

Everything is the project's: the config that its name gives, the source that
makes the rows, what frozen models say of them, the loss, its terms, their
counts and the gradient. Only three things stand in: the problems and answers
are fixed, a model is a table of logits, and all of it is float64.
"""

import contextlib
import dataclasses
import functools
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import recipe_answers
import recipe_forms_preference_free
import recipe_forms_preference_labels
import recipe_forms_preference_pairs
from recipe_answers import GROUP, PROMPT, WIDTH

from posttrain_jax import collect
from posttrain_jax.core import arrays as named
from posttrain_jax.core.resolve import resolve
from posttrain_jax.core.types import Example, Rollout, TokenSignals, TrainState
from posttrain_jax.models import heads, transformer
from posttrain_jax.run import config
from posttrain_jax.trainers import (
  arrays,
  meta,
  preference,
  scored_pairs,
  update,
)

FORMS = {
  **recipe_forms_preference_pairs.FORMS,
  **recipe_forms_preference_free.FORMS,
  **recipe_forms_preference_labels.FORMS,
}
MODELS = dict.fromkeys(('policy', 'ref'))  # tables need no config
STEP = 1e-5


def _say(params, model, tokens, mask, temperature=1.0, **_):
  """`transformer.token_logps` of a table."""
  del model, temperature
  states = recipe_answers.walk(np.asarray(tokens))[:, :-1]
  logits = params['logits'][states]
  log_probs = jax.nn.log_softmax(logits)
  taken = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
  counted = mask > 0
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return TokenSignals(
    logps=jnp.where(counted, taken, 0.0),
    entropy=jnp.where(counted, entropy, 0.0),
    is_top=jnp.where(counted, jnp.argmax(logits, -1) == tokens, False) * 1.0,
    logits=logits,
  )


def _judge(params, model, tokens, mask, **_):
  """`heads.sequence_values` of a table."""
  del model
  states = recipe_answers.walk(np.asarray(tokens))[:, 1:]
  columns = np.arange(tokens.shape[1])[None]
  last = np.where(np.asarray(mask) > 0, columns, -1).max(axis=1)
  at = np.take_along_axis(states, np.maximum(last, 0)[:, None], axis=1)[:, 0]
  return jnp.where(last >= 0, params['values'][at], 0.0)


def _padded(rows, width):
  """([R, width] tokens, mask) of token lists."""
  tokens = np.zeros((len(rows), width), np.int32)
  mask = np.zeros((len(rows), width), np.float32)
  for index, row in enumerate(rows):
    tokens[index, : len(row)] = row
    mask[index, : len(row)] = 1.0
  return tokens, mask


class Fixed(collect.Setting):
  """A world whose problems, answers and rewards are those of the data."""

  def _given(self, sampler, group_size):
    return [p.answers[sampler][:group_size] for p in self.task.problems]

  def answered(self, state, sampler, key, group_size, *, fixed=False):
    """The answers that the model called `sampler` gave."""
    del state, key, fixed
    problems, given = self.task.problems, self._given(sampler, group_size)
    tokens, mask = _padded([a.tokens for group in given for a in group], WIDTH)
    grouped = lambda x: jnp.asarray(x.reshape(len(problems), -1, WIDTH))
    samples = Rollout(
      completion=grouped(tokens),
      mask=grouped(mask),
      logps=grouped(np.zeros_like(mask)),
      finished=jnp.ones((len(problems), group_size)),
    )
    return self._examples(), samples

  def attempts(self, state, sampler, key, group_size, *, fixed=False):
    """`answered`, and what the data give for them."""
    made = self.answered(state, sampler, key, group_size)
    given = self._given(sampler, group_size)
    return *made, jnp.array([[a.reward for a in group] for group in given])

  def _examples(self):
    prompts, mask = _padded([p.prompt for p in self.task.problems], PROMPT)
    return Example(
      prompt=jnp.asarray(prompts),
      prompt_mask=jnp.asarray(mask),
      prompt_id=jnp.arange(len(prompts), dtype=jnp.uint32),
      answer={},
    )

  def solve(self, examples, key):
    """The demonstrations."""
    del examples, key
    gold = [p.demonstration.tokens for p in self.task.problems]
    tokens, mask = _padded(gold, WIDTH)
    return jnp.asarray(tokens), jnp.asarray(mask)

  def verify(self, examples, tokens, mask):
    """Of demonstrations, which are right."""
    del examples
    assert tokens.shape[1] == 1
    return jnp.full(mask.shape[:2], recipe_answers.DEMONSTRATED)

  def given(self, examples, tokens):
    """No environment wrote any token."""
    return None


@contextlib.contextmanager
def tables():
  """Models are tables, and numbers are float64."""
  with (
    jax.enable_x64(True),
    mock.patch.object(transformer, 'token_logps', _say),
    mock.patch.object(heads, 'sequence_values', _judge),
  ):
    yield


def load(recipe: str):
  """The config that a recipe's name gives."""
  return config.load(f'configs/preference.py:recipe={recipe}')


def _world(group_size: int) -> Fixed:
  assert 1 <= group_size <= GROUP
  data = recipe_answers.make()
  return Fixed(
    task=data,
    models=MODELS,
    num_prompts=len(data.problems),
    group_size=group_size,
    heldout_fraction=0.0,
    max_new_tokens=WIDTH,
    decoder=None,
    eos_id=0,
    pad_id=0,
  )


@functools.cache
def _rows(source: str, group_size: int):
  """The batch that a recipe's own source makes of the answers.

  source  `config.collect` as JSON
  """
  part, world = json.loads(source), _world(group_size)
  make = resolve(collect, part.pop('name'), **part)
  # One program compiles sooner than all of its operations.
  return jax.jit(lambda key: make(world, None, key)[0])(jax.random.key(0))


def objective_of(recipe: str, params, data: recipe_answers.Data):
  """(value, gradient) of a recipe's objective at `params`.

  data  of `recipe_answers.make`; only what it says of models may differ
  """
  c = load(recipe)
  provided = named.from_rows(c.collect.name)
  with tables():
    params = jax.tree.map(jnp.asarray, params)
    state = TrainState(
      step=jnp.int32(0),
      params=params,
      opt_state=(),
      ref_params={'logits': jnp.asarray(data.ref)},
      control=_control(c, data),
    )
    batch = _rows(c.collect.to_json(), c.group_size)
    needs = preference.needs(c, provided)
    batch = arrays.make_prepare(needs, provided, MODELS)(state, batch)
    batch = _beside(c, batch)
    for what, carry in preference.controllers(c).items():
      batch, *_ = carry.enter(state.control[what], batch, state)
    goal = preference.make_objective(c, MODELS)
    gradient, metrics = update.make_gradient(goal, 0)(params, state, batch)
    return float(metrics['loss']), jax.tree.map(np.asarray, gradient)


def _beside(c, batch):
  """The batch with what the trainer adds to the rows of a source."""
  draw, relabel = meta.make_draw(c), scored_pairs.make_relabel(c)
  if draw is not None:
    more, _ = draw(_world(c.group_size), None, jax.random.key(0))
    batch = batch.replace(extras={**batch.extras, **more})
  return batch if relabel is None else relabel(batch)[0]


def _control(c, data: recipe_answers.Data):
  """The state that a method carries from step to step, as the data has it."""
  fresh = {what: c.init() for what, c in preference.controllers(c).items()}
  if not fresh:
    return {}
  mean, count = data.seen
  ours = {'shift': {'mean': jnp.asarray(mean), 'count': jnp.asarray(count)}}
  assert jax.tree.structure(fresh) == jax.tree.structure(ours)
  return ours


def _differences(form, params, data):
  """Central differences of a form on every number of `live`."""
  out = {}
  value = form.value(params, params, data)
  for name, table in params.items():
    slope = out[name] = np.zeros_like(table)
    elsewhere = {**params, name: table + np.cos(np.arange(table.shape[-1]))}
    if form.value(elsewhere, params, data) == value:
      continue  # it does not read this table
    for place in np.ndindex(table.shape):
      values = []
      for sign in (1.0, -1.0):
        moved = table.copy()
        moved[place] += sign * STEP
        values.append(form.value({**params, name: moved}, params, data))
      slope[place] = (values[0] - values[1]) / (2 * STEP)
  return out


@dataclasses.dataclass(frozen=True)
class Held:
  """Both sides of a comparison."""

  value: float
  gradient: dict[str, np.ndarray]
  form_value: float
  form_gradient: dict[str, np.ndarray]


@functools.cache
def held(recipe: str) -> Held:
  """A recipe's objective and its form at the same tables."""
  params, data = recipe_answers.live(), recipe_answers.make()
  form = FORMS[recipe]
  value, gradient = objective_of(recipe, params, data)
  expected = form.value(params, params, data)
  return Held(value, gradient, expected, _differences(form, params, data))


def measure(recipe: str) -> dict[str, float]:
  """Relative differences {'value', 'gradient'} of a recipe and its form."""
  both = held(recipe)
  value = abs(both.value - both.form_value) / max(abs(both.form_value), 1e-12)
  scale = max(np.abs(x).max() for x in both.form_gradient.values())
  gap = max(
    np.abs(both.gradient[name] - both.form_gradient[name]).max()
    for name in both.form_gradient
  )
  return {'value': float(value), 'gradient': float(gap / scale)}
