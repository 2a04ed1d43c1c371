"""Preference objectives: pairs, labelled single answers, reward models.

Pairs are rows next to each other: row 2i is the chosen answer, row 2i + 1 the
rejected one. A pair with an empty side is padding.
"""

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import collect, token_weights
from posttrain_jax.core import arrays as named
from posttrain_jax.core import masked
from posttrain_jax.core.resolve import active, arrays_of, lookup
from posttrain_jax.core.types import (
  Array,
  Batch,
  SequenceSignals,
  TokenSignals,
  TrainState,
)
from posttrain_jax.losses import preference, reward_model
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers import (
  arrays,
  meta,
  pairs,
  running,
  scored_pairs,
  sft,
  step,
)
from posttrain_jax.trainers.objective import (
  Objective,
  bind,
  score,
  with_mask,
)
from posttrain_jax.trainers.pairs import sequence, side

__all__ = [
  'LABEL',
  'check',
  'check_sizes',
  'controllers',
  'counts',
  'forwards',
  'kind_of',
  'loss_room',
  'make_objective',
  'make_step',
  'memories',
  'needs',
  'records',
  'roles',
  'rows_per_prompt',
  'scorers',
  'side',
  'sources',
  'value_head',
]

LABEL = 'preference learning'

# Arrays of a pair that are made from the rows: name -> what of a row.
PAIR_ARRAYS = named.of_pair('rewards')
COLLISIONS = named.of_pair('collision')


def kind_of(name: str) -> str:
  """'pair', 'unpaired' or 'reward': what a loss of this name is called with.

  Raises:
    ValueError: unknown name, with the nearest valid one.
  """
  if name in reward_model.__all__:
    return 'reward'
  lookup(preference, name)
  return 'unpaired' if name in preference.UNPAIRED else 'pair'


def loss_room(name: str) -> ModuleType:
  """The room that a preference recipe's loss is in."""
  return reward_model if name in reward_model.__all__ else preference


def _unpaired(config: Any) -> bool:
  return config.loss.name in preference.UNPAIRED


def records(config: Any) -> tuple[str, ...]:
  """Kinds of records that it trains on."""
  return ('unpaired',) if _unpaired(config) else ('preference',)


def sources(config: Any) -> tuple[tuple[str, ...], str]:
  """(names of `collect` that make its rows, for whom)."""
  names = ('labelled',) if _unpaired(config) else collect.PAIRS
  return names, f'loss "{config.loss.name}"'


def rows_per_prompt(config: Any) -> int:
  """Rows of one problem or record: two of a pair."""
  if step.from_file(config):
    return 1 if _unpaired(config) else 2
  return collect.rows_per_prompt(config.collect.name, config.group_size)


def counts(config: Any, sizes: Any) -> dict[str, float]:
  """Labels that a step compares: pairs, or single answers."""
  labels = sizes.rows if _unpaired(config) else sizes.rows // 2
  return {'preference_labels': float(labels)}


def value_head(config: Any) -> bool:
  """Whether a reward model is trained."""
  return kind_of(config.loss.name) == 'reward'


def check(config: Any) -> None:
  """Raises ValueError for parts of a config that cannot work together."""
  if config.data.packing and kind_of(config.loss.name) != 'pair':
    raise ValueError(
      f'data.packing=true is for demonstrations and pairs: loss '
      f'"{config.loss.name}" reads a whole row of each answer'
    )
  if not step.from_file(config):
    collect.check(config, *sources(config))
  scored_pairs.check(config, kind_of(config.loss.name))
  meta.check(config, kind_of(config.loss.name))


def check_sizes(config: Any, sizes: Any) -> None:
  """Raises ValueError for rows of a problem that would be cut apart."""
  group = sizes.group_size
  for key in ('minibatch', 'microbatch'):
    size = getattr(sizes, f'{key}_rows')
    if size % group:
      raise ValueError(
        f'{key}_rows={size} would cut the {group} rows of a problem apart; '
        f'nearest valid: {max(group, size // group * group)}'
      )
  parts = [(loss_room(config.loss.name), config.loss.name)]
  if 'weights' in config:
    parts.append((token_weights, config.weights.name))
  step.refuse_split(sizes, parts)


scorers, memories = scored_pairs.judges, sft.memories


def forwards(
  config: Any, sizes: Any, models: Any
) -> list[tuple[float, str, int, int]]:
  """Passes of a step beside its updates, as of `step.forwards`."""
  # Besides: the rewards that a shift is the mean of, and other prompts' rows.
  roles = ['policy'] * (config.loss.name in preference.RUNNING)
  roles += ['policy', 'ref'] * (config.loss.name in preference.MISMATCHED)
  more = [(1.0, role, sizes.rows, sizes.row_tokens) for role in roles]
  more += meta.forwards(config, sizes)
  return step.forwards(config, sizes, models) + more


def controllers(config: Any) -> dict[str, step.Carry]:
  """The running mean of implicit rewards, for the losses that shift by it."""
  if config.loss.name not in preference.RUNNING:
    return {}
  return {'shift': running.mean_reward(config.loss.beta)}


def roles(config: Any, needs: frozenset[str], given: tuple[str, ...]) -> set:
  """Frozen models that a run holds."""
  held = step.roles(config, needs, given) | meta.roles(config)
  return held | ({'ref'} if 'mismatched' in needs else set())


def _uses_reference(loss: Any) -> bool:
  """A reference-free loss may be called without references."""
  parameters = inspect.signature(loss).parameters
  name = next(n for n in parameters if n.startswith('ref_'))
  return parameters[name].default is parameters[name].empty


def needs(config: Any, provided: Iterable[str]) -> frozenset[str]:
  """Names of the arrays that `config.loss` needs.

  Raises:
    ValueError: an array that neither a model nor the source makes.
  """
  kind = kind_of(config.loss.name)
  loss = lookup(loss_room(config.loss.name), config.loss.name)
  wanted = set(arrays_of(loss))
  if kind == 'pair':
    if wanted & set(PAIR_ARRAYS):
      wanted = wanted - set(PAIR_ARRAYS) | {'scores'}
    wanted -= set(COLLISIONS)
  wanted = scored_pairs.wanted(config, wanted)
  if kind == 'unpaired':
    wanted.add('correct')
    if config.loss.name in preference.RUNNING:
      wanted.add('old_logps')
    if config.loss.name in preference.MISMATCHED:
      wanted.add('mismatched')
  arrays.check(wanted, provided, config.loss.name)
  if kind != 'reward' and _uses_reference(loss):
    wanted.add('ref_logps')
  return frozenset(wanted)


def _extras(
  loss: Any, batch: Batch, signals: TokenSignals, lay: Callable[[Array], Array]
) -> dict[str, Array]:
  """Keyword arrays of a paired loss; `lay` gives every answer its row."""
  out = {}
  names = [*arrays_of(loss.func), *arrays.optional_of(loss.func)]
  for which, prefix in enumerate(('chosen', 'rejected')):
    if f'{prefix}_rewards' in names:
      out[f'{prefix}_rewards'] = side(batch.extras['scores'], which)
    if f'{prefix}_collision' in names:
      doubled = 2.0 * jax.nn.log_softmax(signals.need('logits'))
      collision = jax.nn.logsumexp(doubled, axis=-1)
      collision = masked.select(jax.lax.stop_gradient(collision), batch.mask)
      out[f'{prefix}_collision'] = side(lay(collision), which)
  return out


def _make_pairs(config: Any, model: ModelConfig) -> Objective:
  supplied = (*PAIR_ARRAYS, *COLLISIONS)
  loss = bind(preference, config.loss, supplied=supplied)
  optional = arrays.optional_of(loss.func)
  wants_logits = any(name in optional for name in COLLISIONS)
  referenced = _uses_reference(loss.func)
  packed = step.from_file(config) and config.data.packing
  layout = pairs.laid_out(packed)

  def evaluate(params, state: TrainState, batch: Batch):
    del state
    lay = lambda x: layout(x, batch)
    mask = lay(batch.mask)
    signals = score(params, model, batch, entropy=True, logits=wants_logits)
    policy = sequence(lay(signals.logps), mask)
    ref = None
    if referenced:
      ref = sequence(lay(batch.need('ref_logps')), mask)
    pair_loss, metrics = loss(
      side(policy, 0),
      side(policy, 1),
      side(ref, 0) if referenced else None,
      side(ref, 1) if referenced else None,
      **_extras(loss, batch, signals, lay),
    )
    metrics = {
      **metrics,
      'logps/chosen': side(policy.logps, 0),
      'logps/rejected': side(policy.logps, 1),
    }
    # 0 on padding pairs already; an entry of a sorted loss is not about a row.
    sums = {'preference': jnp.sum(pair_loss)}
    chosen = batch.mask.at[1::2].set(0.0)
    if active(config.nll_coef):
      sums['nll'] = -masked.sum(signals.logps, chosen)
    tokens = {
      'entropy': signals.need('entropy'),
      'mean_token_accuracy': signals.need('is_top'),
    }
    metrics = with_mask(metrics, pairs.live(mask))
    return sums, metrics | with_mask(tokens, batch.mask)

  def count(batch: Batch) -> dict[str, Array]:
    chosen = batch.mask.at[1::2].set(0.0)
    pair = pairs.live(layout(batch.mask, batch))
    return {'preference': jnp.sum(pair), 'nll': jnp.sum(chosen)}

  coefs = {'preference': 1.0}
  if active(config.nll_coef):
    coefs['nll'] = config.nll_coef
  return Objective(evaluate, count, coefs)


def _frozen(
  params: Any, model: ModelConfig, batch: Batch | None
) -> SequenceSignals | None:
  if batch is None:
    return None
  logps = jax.lax.stop_gradient(score(params, model, batch).logps)
  return sequence(logps, batch.mask)


def _make_unpaired(config: Any, models: dict[str, ModelConfig]) -> Objective:
  loss = bind(preference, config.loss)
  mismatches = config.loss.name in preference.MISMATCHED
  shifts = config.loss.name in preference.RUNNING
  model = models['policy']

  def evaluate(params, state: TrainState, batch: Batch):
    signals = score(params, model, batch, entropy=True)
    other = batch.extras['mismatched'] if mismatches else None
    given = {'delta': batch.extras['shift']} if shifts else {}
    row_loss, metrics = loss(
      sequence(signals.logps, batch.mask),
      sequence(batch.need('ref_logps'), batch.mask),
      _frozen(params, model, other),
      _frozen(state.model('ref'), models['ref'], other),
      batch.extras['correct'],
      **given,
    )
    live = jnp.any(batch.mask > 0, axis=1).astype(jnp.float32)
    is_chosen = live * metrics.pop('is_chosen')
    # `reward` is the verifier's; this one is what the policy implies.
    metrics['rewards/implicit'] = metrics.pop('reward')
    sides = {'chosen': is_chosen, 'rejected': live - is_chosen}
    out = with_mask({'frac_desirable': is_chosen}, live)
    for name, values in metrics.items():
      mask = sides.get(name.removeprefix('rewards/'), live)
      out |= with_mask({name: values}, mask)
    out |= with_mask({'entropy': signals.need('entropy')}, batch.mask)
    return {'preference': jnp.sum(row_loss * live)}, out

  def count(batch: Batch) -> dict[str, Array]:
    return {'preference': jnp.sum(jnp.any(batch.mask > 0, axis=1) * 1.0)}

  return Objective(evaluate, count, {'preference': 1.0})


def make_objective(config: Any, models: dict[str, ModelConfig]) -> Objective:
  """The objective of `config.loss`, and NLL on the chosen side if asked for.

  Raises:
    ValueError: unknown loss or hyperparameter, or an array that is not there.
  """
  kind = kind_of(config.loss.name)
  if kind != 'pair' and active(config.nll_coef):
    raise ValueError(
      f'nll_coef={config.nll_coef} is for losses on pairs, not '
      f'"{config.loss.name}"'
    )
  if active(config.nll_coef) and config.loss.name in preference.OWN_NLL:
    own = 'loss.nll_coef' if 'nll_coef' in config.loss else 'nll_coef=0'
    raise ValueError(
      f'nll_coef={config.nll_coef}: loss "{config.loss.name}" has '
      f'cross-entropy on the chosen side in it already; take {own}'
    )
  if kind == 'reward':
    return scored_pairs.make_objective(config, models['policy'])
  if kind == 'unpaired':
    return _make_unpaired(config, models)
  return _make_pairs(config, models['policy'])


def make_step(setup: step.Setup) -> step.Steps:
  """The steps of a run."""
  config, models = setup.config, setup.models
  beside = step.Beside(
    draw=meta.make_draw(config),
    score=scored_pairs.make_score(config, models),
    relabel=scored_pairs.make_relabel(config),
  )
  objective = make_objective(config, models)
  return step.on_rows(setup, objective, controllers(config), beside=beside)
