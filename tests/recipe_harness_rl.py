"""A recipe of configs/rl.py on answers that are written down, in float64.

How to use it:

  real = recipe_harness_rl.run('grpo')       # the project: value, gradient
  form.value(real.live, real.live, real.data)  # a `recipe_form.Form`, NumPy
  recipe_harness_rl.compare(form, real)      # asserts both agree

A form is `value(live, frozen, data) -> float`, what is minimised. `live` and
`frozen` are `Tables` of the trained policy, equal but for small differences
that are put into `live` to take the gradient: read from `frozen` whatever the
source detaches. `data` (`Data`) has all else: rewards, answers with their
masks, what the sampler, the reference and the policy at the start of the step
say. Rows are answers, arrays [N, C] aligned to completion tokens, without
prompts: `data.rows('own')` are those of the groups, [B, G] row numbers, and
'expert', 'explore', 'prefix' those beside, of which a form may read what its
method has. `logps(table, data)` and `entropy(table, data)` are [N, C], 0 where
nothing counts. Forms live in tests/recipe_forms_rl_*.py:

  FORMS = {'grpo': Form(value=grpo, source='https://...', where='eq. 3')}
  SETTINGS = {'grpo_d': Setting(step=3)}  # optional, see `Setting`

What runs: the recipe's config, `build` with its checks, the trainer's `learn`
(old log-probabilities, reference, penalties, advantages, rows beside, extras)
and the update's own gradient of the objective. What does not: sampling,
verifying, the optimizer. `config.rewards` makes its sum of the verdicts that
are written down. Of the model, the layers below the last are replaced by a
table: the trained parameters are the states [N, C + 1, V + 1] before each token
of each answer (and after the last one). The unembedding copies the first V
numbers of a state, so they are the logits; the value head copies the last.
"""

import contextlib
import dataclasses
import functools
import importlib
import pathlib
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
from recipe_answers_rl import (
  EOS,
  GROUP,
  KINDS,
  PROBLEMS,
  PROMPT,
  PROMPT_SIZES,
  VOCAB,
  WIDTH,
  Data,
  Tables,
  entropy,
  log_softmax,
  logps,
  prompt_rows,
  world,
)
from recipe_slopes_rl import directions, slopes

from posttrain_jax import rollout
from posttrain_jax.controllers import common, measured, schedules, shares
from posttrain_jax.core.types import Rollout, TrainState
from posttrain_jax.losses import contrastive
from posttrain_jax.models import heads, scoring, transformer
from posttrain_jax.rewards import answers, entries, mixing
from posttrain_jax.run import build, config
from posttrain_jax.trainers import gradients, update
from posttrain_jax.trainers.rl import (
  checks,
  guests,
  hard_buffer,
  hints,
  objective,
  partner,
  prefixes,
)
from posttrain_jax.trainers.rl import step as rl_step
from posttrain_jax.trainers.rl.experience import Experience

__all__ = [
  'Data',
  'Setting',
  'Tables',
  'compare',
  'entropy',
  'log_softmax',
  'logps',
  'run',
  'world',
]


@dataclasses.dataclass(frozen=True)
class Setting:
  """How a recipe is run where the usual way would not show it.

  items  further config items ('loss.k', '2'), as on the command line
  step   steps done before the one that is compared: they move controllers, and
         no parameter
  """

  items: tuple[tuple[str, str], ...] = ()
  step: int = 0


@dataclasses.dataclass(frozen=True)
class Real:
  """What the project says: a loss and its gradient by the states."""

  value: float
  gradient: np.ndarray
  live: Tables
  data: Data


class _Wide:
  """A module whose float32 is float64: what is rounded there stays exact."""

  def __init__(self, module=jnp):
    self._module = module

  def __getattr__(self, name: str):
    return getattr(self._module, 'float64' if name == 'float32' else name)


WIDENED = (
  common, measured, schedules, shares,
  contrastive, gradients, hard_buffer, heads, scoring,
)  # fmt: skip


@functools.cache
def _full_rows() -> tuple[np.ndarray, np.ndarray]:
  """Tokens [N, T] of the learner's rows, and the size of each one's prompt."""
  _, data = world()
  prompts, _ = prompt_rows()
  problem = np.concatenate(
    [np.repeat(np.arange(PROBLEMS), k) for k in KINDS.values()]
  )
  out = np.zeros((len(problem), PROMPT + WIDTH), np.int32)
  for row, which in enumerate(problem):
    size, end = PROMPT_SIZES[which], PROMPT_SIZES[which] + WIDTH
    out[row, :size] = prompts[which, :size]
    out[row, size:end] = data.tokens[row]
  return out, PROMPT_SIZES[problem]


def hidden_states(params, model, tokens, *unused, **unused_keys):
  """In place of the layers: [R, T, V + 1] states of the rows, by their tokens.

  NaN in a row that is none of the table's.
  """
  del model, unused, unused_keys
  table, sizes = _full_rows()
  same = jnp.all(tokens[:, None] == table[None], axis=-1)
  row = jnp.argmax(same, axis=1)
  # A token is scored by the state of the column before it.
  starts = jnp.asarray(sizes)[row][:, None] - 1
  column = jnp.arange(tokens.shape[1])[None] - starts
  inside = (column >= 0) & (column <= WIDTH)
  found = params['states'][row[:, None], jnp.clip(column, 0, WIDTH)]
  found = jnp.where(inside[..., None], found, 0.0)
  known = jnp.any(same, axis=1)[:, None, None]
  return jnp.where(known, found, jnp.nan), None


@contextlib.contextmanager
def _replaced():
  """The table in place of the layers, float64 throughout."""
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.enable_x64(True))
    put = lambda where, name, what: stack.enter_context(
      unittest.mock.patch.object(where, name, what)
    )
    put(transformer, 'hidden_states', hidden_states)
    put(heads, 'hidden_states', hidden_states)
    for module in WIDENED:
      put(module, 'jnp', _Wide())
    put(mixing, 'np', _Wide(np))
    yield


def _params(table: Tables) -> dict:
  """What the last layer reads: it copies the states."""
  width = VOCAB + 1
  return {
    'states': jnp.asarray(table.states),
    'unembed': jnp.eye(width, VOCAB),
    'value_head': {'kernel': jnp.eye(width)[-1], 'bias': jnp.zeros(())},
  }


def _rollout(data: Data, kind: str, told: bool = False) -> Rollout:
  rows = data.rows(kind)
  which = data.hints if told else data.forced
  forced = which[rows] if told or kind == 'prefix' else None
  return Rollout(
    completion=jnp.asarray(data.tokens[rows]),
    mask=jnp.asarray(data.mask[rows]),
    logps=jnp.asarray(data.old_logps[rows]),
    finished=jnp.asarray(data.finished[rows]),
    given=None if forced is None else jnp.asarray(forced),
  )


def load(recipe: str, *items: tuple[str, str]):
  """The recipe's config, for the sizes of this file."""
  sizes = {
    'task.num_digits': 1,
    'model.preset': 'depth-1',
    'eval.num_problems': 0,
    'prompts_per_step': PROBLEMS,
    'group_size': GROUP,
    'max_new_tokens': WIDTH,
    'num_steps': Data.num_steps,
  }
  sized = [(name, str(x)) for name, x in sizes.items()]
  return config.load(f'configs/rl.py:recipe={recipe}', [*sized, *items])


def _learner(c):
  """(state, experience) -> state, loss: the run's `learn`, which keeps the
  gradient as the optimizer's state and moves no parameter."""
  made = build.build(c)
  size = dict(vocab_size=VOCAB, width=VOCAB + 1, tie_embeddings=False)
  models = {k: dataclasses.replace(m, **size) for k, m in made.models.items()}
  models.setdefault('ref', models['policy'])

  def looking(goal, of=None):
    del of
    gradient = update.make_gradient(goal, microbatch_rows=0)

    def look(state, batch, key, **given):
      del key
      grads, metrics = gradient(state.others['live'], state, batch, **given)
      state = state.replace(step=state.step + 1, opt_state=grads)
      return state, {**metrics, 'grad_norm': jnp.zeros(())}

    return look

  look = looking(objective.make_objective(c, models, EOS))
  study = None
  if hard_buffer.used(c):
    study = hard_buffer.make_study(c, models['policy'], looking, made.sizes)
  learn = rl_step.make_learn(c, models, look, lambda state: state, study=study)

  def step(state: TrainState, lived: Experience):
    state, metrics = learn(state, lived, jax.random.key(0))
    return state, metrics['loss'] + metrics.get('hard/loss', 0.0)

  return jax.jit(step)


def _rewards(c, data: Data, samples: Rollout):
  """[B, G] of the groups' answers: the verifier's, or what `config.rewards`
  makes of it; those of models are taken as the verifier's are."""
  verified = jnp.asarray(data.rewards['own'])
  if partner.used(c):
    earned = jnp.asarray(data.partner_rewards)
    if c.partner.place == 'observer':  # it answered once, before them all
      earned = earned[:, :1]
    return partner.shared({'reward': verified}, earned)['reward']
  listed = entries.read(c.rewards)
  if not listed or any(entry.kind == entries.MODEL for entry in listed):
    return verified
  mix = answers.make_mix(listed, {}, c.num_steps)
  state = TrainState(jnp.int32(data.step), {}, {})
  return mix(state, None, samples, {'reward': verified})['reward']


def _remembered(c, params) -> dict:
  """What the state keeps beside the model before the first step."""
  kept = {k: x.init() for k, x in objective.make_controllers(c).items()}
  if hard_buffer.used(c):
    held = hard_buffer.empty(c.hard_buffer.rows + PROBLEMS, PROMPT + WIDTH)
    held['opt_state'] = jax.tree.map(jnp.zeros_like, params)
    kept[hard_buffer.CONTROL] = held
  return kept


def _experience(c, data: Data) -> Experience:
  """What a step has lived through, as far as the recipe asks for it."""
  needed = {
    'expert': guests.with_experts(c),
    'explore': guests.exploring(c),
    'prefix': prefixes.used(c),
  }
  given = {}
  if checks.needs_greedy(c):
    given['greedy_rewards'] = jnp.asarray(data.greedy_rewards)
  if checks.needs_prefixes(c):
    given['prefix_rewards'] = jnp.asarray(data.stopped_rewards)
  if c.token_rewards.name != 'none':
    given['token_rewards'] = jnp.asarray(data.token_rewards)
  tokens, mask = prompt_rows()
  given['hard'] = _rollout(data, 'expert') if hard_buffer.used(c) else None
  if c.valid_per_step:
    given['valid'] = rollout.assemble_groups(
      jnp.asarray(tokens), jnp.asarray(mask), _rollout(data, 'expert')
    )
  samples = _rollout(data, 'own', hints.used(c))
  return Experience(
    prompts=jnp.asarray(tokens),
    prompt_mask=jnp.asarray(mask),
    samples=samples,
    rewards=_rewards(c, data, samples),
    guests={
      kind: (_rollout(data, kind), jnp.asarray(data.rewards[kind]))
      for kind, there in needed.items()
      if there
    },
    **given,
  )


def run(recipe: str, setting: Setting = Setting()) -> Real:
  """The recipe's loss and gradient on `world()`, as a run computes them."""
  live, data = world()
  data = dataclasses.replace(data, step=setting.step)
  c = load(recipe, *setting.items)
  with _replaced():
    learn = _learner(c)
    state = TrainState(
      step=jnp.int32(0),
      params=_params(data.start),
      opt_state=None,
      ref_params=_params(data.ref),
      others={'live': _params(live)},
      control=_remembered(c, _params(live)),
    )
    lived = _experience(c, data)
    for _ in range(setting.step + 1):
      state, loss = learn(state, lived)
    grads = np.asarray(state.opt_state['states'])
    if hard_buffer.used(c):  # of the update that comes after
      held = state.control[hard_buffer.CONTROL]
      grads = grads + np.asarray(held['opt_state']['states'])
    return Real(
      value=float(loss),
      gradient=grads,
      live=live,
      data=data,
    )


# ---- The comparison.


def collected(name: str) -> dict:
  """{recipe: what its file of forms has under `name`}: 'FORMS', 'SETTINGS'."""
  found = {}
  for path in sorted(pathlib.Path(__file__).parent.glob('recipe_forms_rl_*')):
    if path.suffix != '.py':
      continue
    made = getattr(importlib.import_module(path.stem), name, {})
    twice = found.keys() & made.keys()
    assert not twice, f'{path.name}: {sorted(twice)} of another file too'
    found |= made
  return found


def measure(recipe: str) -> dict[str, float]:
  """Relative differences {'value', 'gradient'} of a recipe and its form; the
  gradient's are of slopes, of the largest of them."""
  form = collected('FORMS')[recipe]
  real = run(recipe, collected('SETTINGS').get(recipe, Setting()))
  value = form.value(real.live, real.live, real.data)
  expected = slopes(form, real)
  found = [np.sum(x * real.gradient) for x in directions(real.gradient.shape)]
  gap = np.abs(np.array(found) - expected).max() / np.abs(expected).max()
  return {
    'value': float(abs(real.value - value) / max(abs(value), 1e-12)),
    'gradient': float(gap),
  }


def compare(form, real: Real, rtol: float = 1e-9, slope_rtol: float = 1e-6):
  """Asserts that a form and the project agree in value and gradient."""
  value = form.value(real.live, real.live, real.data)
  np.testing.assert_allclose(real.value, value, rtol=rtol, err_msg='value')
  expected = slopes(form, real)
  along = directions(real.gradient.shape)
  found = np.array([np.sum(x * real.gradient) for x in along])
  scale = np.abs(expected).max()
  assert scale > 0, 'the form does not depend on the policy'
  np.testing.assert_allclose(
    found,
    expected,
    rtol=slope_rtol,
    atol=slope_rtol * scale,
    err_msg='slopes: four directions through all rows, then one a row',
  )
