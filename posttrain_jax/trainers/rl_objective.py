"""What an RL update minimises: a policy term, and others beside it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import controllers, token_weights
from posttrain_jax.losses import (
  contrastive,
  flow,
  policy_gradient,
  reduce,
  regularizers,
  supervised,
  value,
)
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.resolve import arrays_of, resolve
from posttrain_jax.rollout import decoders
from posttrain_jax.trainers import hybrid
from posttrain_jax.trainers.arrays import signals_read_by
from posttrain_jax.trainers.objective import Objective, bind, score, with_mask
from posttrain_jax.types import Array, Batch, PyTree, TokenSignals, TrainState

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

# Arrays that the learner makes for losses and weights that ask for them.
SUPPLIED = ('proximal_logps', 'stop_logps', 'state_log_rewards')
WEIGHTS = ('correct',)

# What each controller sets.
STEERS = ('kl', 'entropy', 'sft', 'explore')


def bind_kl(part: Any) -> Callable:
  """The penalty of `config.kl`: on taken tokens, or on the whole vocabulary.

  Raises:
    ValueError: unknown name or hyperparameter, with the nearest valid one.
  """
  own = ('name', 'coef', 'place')
  hparams = {k: v for k, v in dict(part).items() if k not in own}
  return resolve(regularizers, part['name'], **hparams)


def steered(config: Any, what: str) -> bool:
  """Whether a controller sets the coefficient (or temperature) `what`."""
  return config[f'{what}_controller'].name != 'none'


def make_controllers(config: Any) -> dict[str, controllers.Controller]:
  """{what: Controller} of those that a config names."""
  return {
    what: bind(controllers, config[f'{what}_controller'])()
    for what in STEERS
    if steered(config, what)
  }


def penalised(config: Any, place: str) -> bool:
  """Whether the KL to the reference is in the 'loss', or in the 'reward'."""
  wanted = bool(config.kl.coef) or steered(config, 'kl')
  return wanted and config.kl.place == place


def loss_room(name: str) -> Any:
  """The room of a policy's loss."""
  return flow if name in flow.__all__ else policy_gradient


def _loss(config: Any) -> Callable:
  part = dict(config.loss)
  if part['name'] in flow.__all__ and 'group_size' in part:
    # Rows beside the own ones count nothing, but stand in the group.
    beside = hybrid.rows_beside(config)
    part['group_size'] = config.group_size + beside
  return bind(loss_room(part['name']), part, supplied=SUPPLIED)


def loss_arrays(config: Any) -> list[str]:
  """Arrays that the policy's loss asks for."""
  return arrays_of(_loss(config).func)


def needs_value_head(config: Any) -> bool:
  """Whether the model has a critic, or a head for the flow of states."""
  if config.loss.name in flow.__all__:
    estimated = config.loss.name == 'trajectory_balance_group'
    return not estimated and 'stop_logps' not in loss_arrays(config)
  return config.advantage.name == 'gae'


def _trl_names(metrics: dict[str, Array]) -> dict[str, Array]:
  """The rooms' clip marks under the names that TRL logs their means by."""
  out = dict(metrics)
  sides = [out.pop(f'clip_{side}', None) for side in ('low', 'high')]
  for side, clipped in zip(('low', 'high'), sides):
    if clipped is not None:
      out[f'clip_ratio/{side}_mean'] = clipped
  if all(side is not None for side in sides):
    out['clip_ratio/region_mean'] = sides[0] + sides[1]
  return out


def _make_policy_loss(config: Any, eos_id: int) -> Callable:
  """(signals, batch, mask) -> token loss [R, T], metrics."""
  loss = _loss(config)
  own = arrays_of(loss.func)

  def gradient(signals: TokenSignals, batch: Batch, mask: Array):
    given = {name: batch.extras[name] for name in own}
    return loss(signals.logps, batch.old_logps, batch.advantages, mask, **given)

  def balance(signals: TokenSignals, batch: Batch, mask: Array):
    given = {n: batch.extras[n] for n in own if n != 'stop_logps'}
    if 'stop_logps' in own:
      chances = jax.nn.log_softmax(signals.logits)
      given['stop_logps'] = chances[..., eos_id]
    return loss(
      signals.logps, signals.values, batch.extras['log_rewards'], mask, **given
    )

  return balance if config.loss.name in flow.__all__ else gradient


def _make_penalty(config: Any, models: dict[str, ModelConfig]) -> Callable:
  """(signals, state, batch, mask) -> token penalty [R, T], metrics."""
  penalty = bind_kl(config.kl)
  temperature = decoders.view(config.decoder)
  on_logits = config.kl.name in regularizers.LOGITS
  corrected = 'old_logps' in arrays_of(penalty.func)

  def apply(signals, state: TrainState, batch: Batch, mask: Array):
    if on_logits:
      ref = score(
        state.ref_params, models['ref'], batch, temperature, logits=True
      )
      return penalty(signals.logits, jax.lax.stop_gradient(ref.logits), mask)
    extra = {'old_logps': batch.old_logps} if corrected else {}
    return penalty(signals.logps, batch.ref_logps, mask, **extra)

  return apply


def _make_imitation(config: Any) -> tuple[Callable, frozenset[str]]:
  """((signals, mask) -> token loss and metrics, signals that it reads)."""
  skip = ('coef', 'mix')
  loss = bind(supervised, config.sft_loss, skip=skip)
  weigh = bind(token_weights, config.sft_weights)
  read = signals_read_by(loss) | signals_read_by(weigh)
  for name in ('ref_logps', 'old_logps', 'values'):
    if name in read:
      raise ValueError(
        f'sft_loss.name="{config.sft_loss.name}" with sft_weights.name='
        f'"{config.sft_weights.name}" reads "{name}", which demonstrations '
        'beside rollouts do not have'
      )

  def imitate(signals: TokenSignals, mask: Array):
    token_loss, metrics = loss(signals, mask)
    return token_loss * weigh(signals, mask), metrics

  return imitate, read


def _make_contrast(
  config: Any, model: ModelConfig
) -> tuple[Callable, Callable]:
  """((params, batch) -> row loss [R], row metrics, rows that exist [R];
  (batch) -> how many rows have a loss)."""
  contrast = bind(
    contrastive, config.contrastive, skip=('coef',), supplied=('correct',)
  )
  asked = arrays_of(contrast.func)

  def existing(batch: Batch) -> Array:
    mask = hybrid.mask_of(batch, 'own')
    return jnp.any(mask != 0, axis=1).astype(mask.dtype)

  def apply(params: PyTree, batch: Batch):
    positives = heads.sequence_embedding(
      params,
      model,
      batch.tokens,
      hybrid.mask_of(batch, 'own'),
      segment_ids=batch.segment_ids,
    )
    given = {name: batch.extras[name] for name in asked}
    exists = existing(batch)
    row_loss, metrics = contrast(
      batch.extras['anchors'], positives, exists, **given
    )
    return row_loss, metrics, exists

  def count(batch: Batch) -> Array:
    exists = existing(batch)
    if 'correct' in asked:
      exists = exists * (batch.extras['correct'] > 0.5)
    return jnp.sum(exists)

  return apply, count


def coefficient(config: Any, what: str, fixed: float) -> Callable:
  """(TrainState) -> the coefficient of a term, `fixed` or a controller's."""
  controller = make_controllers(config).get(what)
  if controller is None:
    return lambda state: fixed
  return lambda state: controller.value(state.control[what])


def _coefs(config: Any, terms: list[str]) -> dict[str, Callable]:
  """{term: (TrainState) -> its coefficient}."""
  bonus = coefficient(config, 'entropy', config.entropy_coef)
  share = coefficient(config, 'sft', config.sft_loss.coef)
  convex = config.sft_loss.mix == 'convex' and 'sft' in terms
  number = lambda x: lambda state: x
  coefs = {
    'policy': (lambda state: 1.0 - share(state)) if convex else number(1.0),
    'kl': coefficient(config, 'kl', config.kl.coef),
    'entropy': lambda state: -bonus(state),
    'value': number(config.value_loss.coef),
    'sft': share,
    'explore': number(config.explore.coef),
    'contrastive': number(config.contrastive.get('coef', 0.0)),
  }
  return {term: coefs[term] for term in terms}


def _make_masks(config: Any, terms: list[str]) -> Callable:
  """(batch) -> {'own', 'expert' and each term: the tokens it averages over}."""
  experts_too = config.expert_loss.name != 'none'

  def masks(batch: Batch) -> dict[str, Array]:
    own = hybrid.mask_of(batch, 'own')
    expert = hybrid.mask_of(batch, 'expert')
    found = {'own': own, 'expert': expert, **dict.fromkeys(terms, own)}
    if experts_too:
      found['policy'] = own + expert
    found['sft'] = expert
    found['explore'] = hybrid.mask_of(batch, 'explore')
    return found

  return masks


def _make_own_terms(
  config: Any, models: dict[str, ModelConfig], eos_id: int, terms: list[str]
) -> tuple[Callable, set[str]]:
  """(terms on the policy's own rows, signals that they read).

  (signals, state, batch, mask) -> {term: token loss [R, T]}, metrics
  """
  policy_loss = _make_policy_loss(config, eos_id)
  weigh = bind(token_weights, config.weights, supplied=WEIGHTS)
  weight_arrays = arrays_of(weigh.func)
  read = set(signals_read_by(weigh))
  if 'stop_logps' in loss_arrays(config):
    read.add('logits')
  if 'kl' in terms:
    penalty = _make_penalty(config, models)
    if config.kl.name in regularizers.LOGITS:
      read.add('logits')
  if 'value' in terms:
    value_loss = bind(value, config.value_loss, skip=('coef',))

  def evaluate(
    signals: TokenSignals, state: TrainState, batch: Batch, own: Array
  ):
    token_loss, metrics = policy_loss(signals, batch, own)
    if config.weights.name != 'uniform':
      given = {name: batch.extras[name] for name in weight_arrays}
      token_loss = token_loss * weigh(signals, own, **given)
    losses = {'policy': token_loss}
    if 'kl' in terms:
      losses['kl'], seen = penalty(signals, state, batch, own)
      metrics = {**metrics, **seen}
    if 'entropy' in terms:
      losses['entropy'] = signals.entropy
    if 'value' in terms:
      losses['value'], seen = value_loss(
        signals.values, batch.returns, batch.old_values, own
      )
      metrics = {**metrics, **seen}
    gap = jnp.abs(signals.logps - batch.old_logps)
    metrics = {
      **_trl_names(metrics),
      'entropy': signals.entropy,
      'sampling/sampling_logp_difference': gap,
    }
    return losses, metrics

  return evaluate, read


def _terms_of(config: Any) -> list[str]:
  present = {
    'policy': True,
    'kl': penalised(config, 'loss'),
    'entropy': bool(config.entropy_coef) or steered(config, 'entropy'),
    'value': config.advantage.name == 'gae',
    'sft': hybrid.imitates(config),
    'explore': hybrid.exploring(config),
    'contrastive': hybrid.contrasts(config),
  }
  return [term for term, there in present.items() if there]


def _prefixed(prefix: str, metrics: dict[str, Array], mask: Array) -> dict:
  named = {f'{prefix}/{name}': x for name, x in metrics.items()}
  return with_mask(named, mask)


def make_objective(
  config: Any, models: dict[str, ModelConfig], eos_id: int
) -> Objective:
  """`config.loss` and, where their coefficients are not 0, the other terms.

  On the policy's own rows: `kl` to the reference, `entropy`, `value`,
  `contrastive`. On demonstrations: `expert_loss`, averaged together with the
  own rows, and `sft`, averaged by their own tokens. On exploring rows:
  `explore`, REINFORCE with advantage 1.
  """
  model, temperature = models['policy'], decoders.view(config.decoder)
  terms, average = _terms_of(config), bind(reduce, config.reduce)
  masks = _make_masks(config, terms)
  own_terms, read = _make_own_terms(config, models, eos_id, terms)
  expert_loss = None
  if config.expert_loss.name != 'none':
    expert_loss = bind(policy_gradient, config.expert_loss)
  if 'sft' in terms:
    imitate, imitate_reads = _make_imitation(config)
    read |= imitate_reads
  if 'contrastive' in terms:
    contrast, contrast_count = _make_contrast(config, model)
  logits = 'logits' in read

  def evaluate(params: PyTree, state: TrainState, batch: Batch):
    signals = score(
      params, model, batch, temperature, entropy=True, logits=logits
    )
    mask = masks(batch)
    own, expert = mask['own'], mask['expert']
    losses, metrics = own_terms(signals, state, batch, own)
    marked = with_mask(metrics, own)
    if expert_loss is not None:
      theirs, seen = expert_loss(
        signals.logps, batch.old_logps, batch.advantages, expert
      )
      # Both are 0 on each other's rows.
      losses['policy'] = losses['policy'] + theirs
      marked |= _prefixed('expert', seen, expert)
    if 'explore' in terms:
      losses['explore'], _ = policy_gradient.reinforce(
        signals.logps, signals.logps, jnp.ones_like(own), mask['explore']
      )
    sums = {name: average(x, mask[name])[0] for name, x in losses.items()}
    if 'sft' in terms:
      loss, seen = imitate(signals, expert)
      sums['sft'] = reduce.token_mean(loss, expert)[0]
      seen = {**seen, 'nll': -signals.logps, 'entropy': signals.entropy}
      marked |= _prefixed('sft', seen, expert)
    if 'contrastive' in terms:
      loss, seen, exists = contrast(params, batch)
      sums['contrastive'] = jnp.sum(loss)
      marked |= _prefixed('contrastive', seen, exists)
    return sums, marked

  def count(batch: Batch) -> dict[str, Array]:
    mask = masks(batch)
    blank = jnp.zeros_like(batch.mask)
    counts = {name: average(blank, mask[name])[1] for name in terms}
    if 'sft' in terms:
      counts['sft'] = reduce.token_mean(blank, mask['sft'])[1]
    if 'contrastive' in terms:
      counts['contrastive'] = contrast_count(batch)
    return counts

  return Objective(evaluate, count, _coefs(config, terms))
