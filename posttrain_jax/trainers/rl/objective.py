"""What an RL update minimises: a policy term, and others beside it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from posttrain_jax import token_weights
from posttrain_jax.core import arrays as named
from posttrain_jax.core.resolve import active, arrays_of
from posttrain_jax.core.stops import Ends
from posttrain_jax.core.types import (
  Array,
  Batch,
  PyTree,
  TokenSignals,
  TrainState,
)
from posttrain_jax.losses import (
  flow,
  policy_gradient,
  reduce,
  regularizers,
  value,
)
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout.guide import Guide
from posttrain_jax.trainers.arrays import signals_read_by
from posttrain_jax.trainers.gradients import Parts
from posttrain_jax.trainers.objective import Objective, bind, score, with_mask
from posttrain_jax.trainers.rl import guests, hints, prefixes
from posttrain_jax.trainers.rl.steering import (
  COIN,
  coefficient,
  gradients_read,
  make_controllers,
  make_view,
  steered,
)
from posttrain_jax.trainers.rl.terms import (
  bind_kl,
  has_critic,
  loss_arrays,
  loss_room,
  make_contrast,
  make_imitation,
  make_penalty,
  make_policy_loss,
  trl_names,
)
from posttrain_jax.trainers.shared import Shared

__all__ = [
  'bind_kl',
  'coefficient',
  'loss_arrays',
  'loss_room',
  'make_controllers',
  'make_objective',
  'needs_value_head',
  'penalised',
  'steered',
]


def penalised(config: Any, place: str) -> bool:
  """Whether the KL to the reference is in the 'loss', or in the 'reward'."""
  wanted = active(config.kl.coef) or steered(config, 'kl')
  return wanted and config.kl.place == place


def needs_value_head(config: Any) -> bool:
  """Whether the model has a critic, or a head for the flow of states."""
  if config.loss.name in flow.__all__:
    estimated = config.loss.name == 'trajectory_balance_group'
    return not estimated and 'stop_logps' not in loss_arrays(config)
  return has_critic(config)


def _shares(config: Any, terms: list[str]) -> tuple[Callable, set[str]]:
  """((state) -> the share of imitation, terms that have the rest of it)."""
  mix, rest = config.sft_loss.mix, set(terms) - {'sft'}
  if mix == 'coin':
    return (lambda state: state.control[COIN]['value']), rest
  of_mix = {'add': set(), 'convex': {'policy'}, 'between': rest - {'value'}}
  return coefficient(config, 'sft', config.sft_loss.coef), of_mix[mix] & rest


def _coefs(config: Any, terms: list[str]) -> dict[str, Callable]:
  """{term: (TrainState) -> its coefficient, before any share of imitation}."""
  bonus = coefficient(config, 'entropy', config.entropy_coef)
  number = lambda x: lambda state: x
  coefs = {
    'policy': number(1.0),
    'kl': coefficient(config, 'kl', config.kl.coef),
    'entropy': lambda state: -bonus(state),
    'value': number(config.value_loss.coef),
    'sft': number(1.0),
    'explore': _exploring(config),
    'contrastive': number(config.contrastive.get('coef', 0.0)),
    'hint': number(config.hints.coef),
  }
  return {term: coefs[term] for term in terms}


def _shared_out(
  config: Any, terms: list[str]
) -> tuple[dict[str, Callable], Parts | None]:
  """(coefficients of terms; the parts whose gradients controllers read)."""
  base = _coefs(config, terms)
  if 'sft' not in terms:
    return base, None
  share, rest = _shares(config, terms)

  def weighed(term: str) -> Callable:
    own = base[term]
    if term == 'sft':
      return share
    if term in rest:
      return lambda state: (1.0 - share(state)) * own(state)
    return own

  coefs = {term: weighed(term) for term in terms}
  reads = gradients_read(config)
  if not reads:
    return coefs, None
  others = lambda state: 1.0 - share(state)
  one = lambda state: 1.0
  apart = {'value'} & set(terms) - rest
  parts = {
    'sft': (share, {'sft': one}),
    'rl': (
      one if config.sft_loss.mix == 'add' else others,
      {x: base[x] for x in terms if x != 'sft' and x not in apart},
    ),
  }
  parts |= {term: (one, {term: base[term]}) for term in apart}
  return coefs, Parts(parts, reads)


def _exploring(config: Any) -> Callable:
  """(TrainState) -> the coefficient of exploring answers.

  `cooling` of it where they are drawn colder than the policy's own.
  """
  coef, cooling = config.explore.coef, config.explore.cooling
  if not guests.exploring(config):
    return lambda state: coef
  own = config.decoder.get('temperature', 1.0)
  theirs = make_controllers(config)['explore']

  def at(state: TrainState) -> Array:
    cold = theirs.value(state.control['explore']) < own
    return coef * jnp.where(cold, cooling, 1.0)

  return at


def _make_guests(config: Any, eos_id: Ends) -> dict[str, Callable]:
  """Rows beside that are averaged together with the own ones.

  {kind: (signals, batch, mask) -> token loss [R, T], metrics}
  """
  beside = {}
  if config.expert_loss.name != 'none':
    expert_loss = bind(policy_gradient, config.expert_loss)
    beside['expert'] = lambda signals, batch, mask: expert_loss(
      signals.logps, batch.old_logps, batch.advantages, mask
    )
  if prefixes.used(config):
    policy_loss = make_policy_loss(config, eos_id)
    beside['prefix'] = prefixes.make_loss(config, policy_loss)
  return beside


def _make_masks(
  config: Any, terms: list[str], beside: dict[str, Callable]
) -> Callable:
  """(batch) -> {each kind and each term: the tokens it averages over}."""

  def masks(batch: Batch) -> dict[str, Array]:
    kinds = {kind: guests.mask_of(batch, kind) for kind in guests.KINDS}
    # What an answer was told counts in the term on hints alone.
    kinds['own'] = kinds['own'] * (1.0 - hints.mask_of(batch))
    own = kinds['own']
    found = {**dict.fromkeys(terms, own), **kinds}
    found['policy'] = own + sum(kinds[kind] for kind in beside)
    found['sft'] = kinds['expert']
    found['hint'] = hints.mask_of(batch)
    if config.entropy_over == 'all':
      found['entropy'] = found['policy']
    return found

  return masks


def _make_own_terms(
  config: Any,
  models: dict[str, ModelConfig],
  eos_id: Ends,
  terms: list[str],
  guide: Guide | None,
) -> tuple[Callable, set[str]]:
  """(terms on the policy's own rows, signals that they read).

  (signals, state, batch, mask, view) -> {term: token loss [R, T]}, metrics
  """
  policy_loss = make_policy_loss(config, eos_id)
  weigh = bind(
    token_weights, config.weights, supplied=named.of_learner('weights')
  )
  weight_arrays = arrays_of(weigh.func)
  read = set(signals_read_by(weigh))
  if 'stop_logps' in loss_arrays(config):
    read.add('logits')
  if 'kl' in terms:
    penalty = make_penalty(config, models, guide)
    if config.kl.name in regularizers.LOGITS:
      read.add('logits')
  if 'value' in terms:
    value_loss = bind(value, config.value_loss, skip=('coef',))

  def evaluate(
    signals: TokenSignals,
    state: TrainState,
    batch: Batch,
    own: Array,
    view: dict[str, Any],
  ):
    token_loss, metrics = policy_loss(signals, batch, own)
    if config.weights.name != 'uniform':
      given = {name: batch.extras[name] for name in weight_arrays}
      token_loss = token_loss * weigh(signals, own, **given)
    losses = {'policy': token_loss}
    if 'kl' in terms:
      losses['kl'], seen = penalty(signals, state, batch, own, view)
      metrics = {**metrics, **seen}
    if 'entropy' in terms:
      losses['entropy'] = signals.entropy
    if 'value' in terms:
      losses['value'], seen = value_loss(
        signals.values, batch.returns, batch.old_values, own
      )
      metrics = {**metrics, **seen}
    gap = jnp.abs(signals.logps - batch.need('old_logps'))
    metrics = {
      **trl_names(metrics),
      'entropy': signals.entropy,
      'sampling/sampling_logp_difference': gap,
    }
    return losses, metrics

  return evaluate, read


def _terms_of(config: Any) -> list[str]:
  present = {
    'policy': True,
    'kl': penalised(config, 'loss'),
    'entropy': active(config.entropy_coef) or steered(config, 'entropy'),
    'value': has_critic(config),
    'sft': guests.imitates(config),
    'explore': guests.exploring(config),
    'contrastive': guests.contrasts(config),
    'hint': hints.taught(config),
  }
  return [term for term, there in present.items() if there]


def _prefixed(prefix: str, metrics: dict[str, Array], mask: Array) -> dict:
  named = {f'{prefix}/{name}': x for name, x in metrics.items()}
  return with_mask(named, mask)


def _averages(config: Any, terms: list[str]) -> dict[str, Callable]:
  """{term: its reduction}."""
  averages: dict[str, Callable] = dict.fromkeys(
    terms, bind(reduce, config.reduce)
  )
  if config.entropy_over == 'all':
    averages['entropy'] = reduce.token_mean
  if 'hint' in terms:
    averages['hint'] = reduce.token_mean
  return averages


def _imitated(
  imitate: Callable, signals: TokenSignals, mask: Array
) -> tuple[Array, dict]:
  """The sum of `sft` over demonstrations, and its metrics."""
  loss, seen = imitate(signals, mask)
  seen = {**seen, 'nll': -signals.logps, 'entropy': signals.entropy}
  return reduce.token_mean(loss, mask)[0], _prefixed('sft', seen, mask)


def _likelihoods(
  terms: list[str], signals: TokenSignals, mask: dict[str, Array]
) -> dict[str, Array]:
  """Token losses of the terms that raise what stands there, as it is."""
  losses = {}
  if 'hint' in terms:
    losses['hint'] = -signals.logps
  if 'explore' in terms:
    one = jnp.ones_like(signals.logps)
    losses['explore'], _ = policy_gradient.reinforce(
      signals.logps, signals.logps, one, mask['explore']
    )
  return losses


def make_objective(
  config: Any,
  models: dict[str, ModelConfig],
  eos_id: Ends,
  shared: Shared | None = None,
  guide: Guide | None = None,
) -> Objective:
  """`config.loss` and, where their coefficients are not 0, the other terms.

  On the policy's own rows: `kl` to the reference, `entropy`, `value`,
  `contrastive`. On demonstrations: `expert_loss`, averaged together with the
  own rows, and `sft`, averaged by their own tokens. On exploring rows:
  `explore`, REINFORCE with advantage 1. On rows that go on from a prefix:
  `config.loss`, averaged together with the own rows. On hints: `hint`.

  With `config.entropy_over` 'all' the entropy is a mean over all tokens of all
  rows of the policy's term.

  shared, guide  prompts that rows share; what steered the rollouts
  """
  model = models['policy']
  view_of = make_view(config, guide)
  terms = _terms_of(config)
  averages = _averages(config, terms)
  beside = _make_guests(config, eos_id)
  masks = _make_masks(config, terms, beside)
  own_terms, read = _make_own_terms(config, models, eos_id, terms, guide)
  if 'sft' in terms:
    imitate, imitate_reads = make_imitation(config)
    read |= imitate_reads
  if 'contrastive' in terms:
    contrast, contrast_count = make_contrast(config, model)

  def evaluate(
    params: PyTree, state: TrainState, batch: Batch, size: int | None = None
  ):
    view: dict[str, Any] = {'shared': shared, 'size': size}
    signals = score(
      params,
      model,
      batch,
      view_of(state),
      entropy=True,
      logits='logits' in read,
      **view,
    )
    mask = masks(batch)
    own, expert = mask['own'], mask['expert']
    losses, metrics = own_terms(signals, state, batch, own, view)
    marked = with_mask(metrics, own)
    for kind, loss_of in beside.items():
      theirs, seen = loss_of(signals, batch, mask[kind])
      # Each is 0 on the others' rows.
      losses['policy'] = losses['policy'] + theirs
      marked |= _prefixed(kind, seen, mask[kind])
    losses |= _likelihoods(terms, signals, mask)
    sums = {
      name: averages[name](x, mask[name])[0] for name, x in losses.items()
    }
    if 'sft' in terms:
      sums['sft'], seen = _imitated(imitate, signals, expert)
      marked |= seen
    if 'contrastive' in terms:
      loss, seen, exists = contrast(params, batch)
      sums['contrastive'] = jnp.sum(loss)
      marked |= _prefixed('contrastive', seen, exists)
    return sums, marked

  def count(batch: Batch) -> dict[str, Array]:
    mask = masks(batch)
    blank = jnp.zeros_like(batch.mask)
    counts = {name: averages[name](blank, mask[name])[1] for name in terms}
    if 'sft' in terms:
      counts['sft'] = reduce.token_mean(blank, mask['sft'])[1]
    if 'contrastive' in terms:
      counts['contrastive'] = contrast_count(batch)
    return counts

  coefs, parts = _shared_out(config, terms)
  return Objective(evaluate, count, coefs, shared, parts)
