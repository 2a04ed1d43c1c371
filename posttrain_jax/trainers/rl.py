"""Reinforcement learning with verifiable rewards: one pure step.

  problems -> group rollout -> verifier -> advantages -> update

For in-graph tasks the whole step is one compiled program; host tasks run the
same two halves (`collect`'s rollout, then `learn`) around a Python verifier.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import advantages as advantages_room
from posttrain_jax import diagnostics, masked, rollout, sharding, token_weights
from posttrain_jax.losses import policy_gradient, reduce, regularizers, value
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.resolve import arrays_of, lookup, resolve
from posttrain_jax.rollout import decoders
from posttrain_jax.trainers.arrays import signals_read_by
from posttrain_jax.trainers.objective import (
  Objective,
  bind,
  count_with,
  score,
  with_mask,
)
from posttrain_jax.types import (
  Array,
  Batch,
  Example,
  PyTree,
  Rollout,
  TokenSignals,
  TrainState,
)

__all__ = [
  'bind_kl',
  'make_learn',
  'make_objective',
  'make_rollout',
  'make_step',
  'needs_greedy',
  'needs_reference',
]

# Arrays that the learner makes for policy-gradient losses that ask for them.
SUPPLIED = ('proximal_logps',)


def bind_kl(part: Any) -> Callable:
  """The penalty of `config.kl`: on taken tokens, or on the whole vocabulary.

  Raises:
    ValueError: unknown name or hyperparameter, with the nearest valid one.
  """
  hparams = {k: v for k, v in dict(part).items() if k not in ('name', 'coef')}
  return resolve(regularizers, part['name'], **hparams)


def needs_reference(config: Any) -> bool:
  """Whether a run keeps the policy that it started from."""
  return bool(config.kl.coef)


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


def _loss_arrays(config: Any) -> list[str]:
  return arrays_of(lookup(policy_gradient, config.loss.name))


def needs_greedy(config: Any) -> bool:
  """Whether the advantage compares with the greedy answer (ReMax)."""
  if config.advantage.name == 'gae':
    return False
  named = lookup(advantages_room, config.advantage.name)
  return 'greedy_rewards' in arrays_of(named)


def _make_penalty(config: Any, models: dict[str, ModelConfig]) -> Callable:
  """(signals, state, batch) -> token penalty [B, T], metrics."""
  penalty = bind_kl(config.kl)
  temperature = config.decoder.temperature
  on_logits = config.kl.name in regularizers.LOGITS
  corrected = 'old_logps' in arrays_of(penalty.func)

  def apply(signals: TokenSignals, state: TrainState, batch: Batch):
    if on_logits:
      ref = score(
        state.ref_params, models['ref'], batch, temperature, logits=True
      )
      return penalty(
        signals.logits, jax.lax.stop_gradient(ref.logits), batch.mask
      )
    extra = {'old_logps': batch.old_logps} if corrected else {}
    return penalty(signals.logps, batch.ref_logps, batch.mask, **extra)

  return apply


def make_objective(config: Any, models: dict[str, ModelConfig]) -> Objective:
  """`config.loss` and, where their coefficients are not 0, a KL term to the
  reference, an entropy bonus and a value loss."""
  model = models['policy']
  loss = bind(policy_gradient, config.loss, supplied=SUPPLIED)
  own = arrays_of(loss.func)
  weigh = bind(token_weights, config.weights)
  average = bind(reduce, config.reduce)
  coefs: dict[str, float] = {'policy': 1.0}
  if config.kl.coef:
    coefs['kl'] = config.kl.coef
    penalty = _make_penalty(config, models)
  if config.entropy_coef:
    coefs['entropy'] = -config.entropy_coef
  if model.value_head:
    coefs['value'] = config.value_loss.coef
    value_loss = bind(value, config.value_loss, skip=('coef',))
  temperature = config.decoder.temperature
  logits = 'kl' in coefs and config.kl.name in regularizers.LOGITS
  logits = logits or 'logits' in signals_read_by(weigh)

  def evaluate(params: PyTree, state: TrainState, batch: Batch):
    signals = score(
      params, model, batch, temperature, entropy=True, logits=logits
    )
    token_loss, metrics = loss(
      signals.logps,
      batch.old_logps,
      batch.advantages,
      batch.mask,
      **{name: batch.extras[name] for name in own},
    )
    if config.weights.name != 'uniform':
      token_loss = token_loss * weigh(signals, batch.mask)
    terms = {'policy': token_loss}
    if 'kl' in coefs:
      terms['kl'], kl_metrics = penalty(signals, state, batch)
      metrics = {**metrics, **kl_metrics}
    if 'entropy' in coefs:
      terms['entropy'] = signals.entropy
    if 'value' in coefs:
      terms['value'], value_metrics = value_loss(
        signals.values, batch.returns, batch.old_values, batch.mask
      )
      metrics = {**metrics, **value_metrics}
    gap = jnp.abs(signals.logps - batch.old_logps)
    metrics = {
      **_trl_names(metrics),
      'entropy': signals.entropy,
      'sampling/sampling_logp_difference': gap,
    }
    sums = {name: average(x, batch.mask)[0] for name, x in terms.items()}
    return sums, with_mask(metrics, batch.mask)

  return Objective(evaluate, count_with(average, *coefs), coefs)


def make_rollout(
  config: Any,
  model: ModelConfig,
  max_new_tokens: int,
  eos_id: int,
  pad_id: int,
  *,
  greedy: bool = False,
) -> Callable[..., Rollout]:
  """`generate(params, prompts, prompt_mask, prompt_ids, key) -> Rollout`.

  greedy  one greedy answer a prompt, in place of the group
  """
  decoder = decoders.greedy if greedy else bind(decoders, config.decoder)

  def generate(params, prompts, prompt_mask, prompt_ids, key):
    return rollout.generate(
      params,
      model,
      prompts,
      prompt_mask,
      key,
      group_size=1 if greedy else config.group_size,
      max_new_tokens=max_new_tokens,
      decoder=decoder,
      eos_id=eos_id,
      pad_id=pad_id,
      prompt_ids=prompt_ids,
    )

  return generate


def _make_token_advantages(config: Any) -> Callable[..., Batch]:
  """(rewards [B, G], batch, old_values, **arrays) -> the batch with advantages
  [R, T], and with returns where there is a critic."""
  if config.advantage.name != 'gae':
    advantage_fn = bind(
      advantages_room, config.advantage, supplied=('greedy_rewards',)
    )

    def of_completion(rewards, batch, old_values, **given):
      del old_values
      advantage = advantage_fn(rewards, **given)
      spread = advantage.reshape(-1)[:, None] * batch.mask
      return batch.replace(advantages=spread)

    return of_completion

  gamma, lam = config.advantage.gamma, config.advantage.lam
  whiten = config.advantage.whiten

  def of_token(rewards, batch, old_values):
    # The verifier's reward comes with the last token of the completion.
    columns = jnp.arange(batch.mask.shape[1])[None]
    last = jnp.max(jnp.where(batch.mask > 0, columns, -1), axis=1)[:, None]
    rewards = rewards.reshape(-1)[:, None]
    advantage, returns = advantages_room.gae(
      jnp.where(columns == last, rewards, 0.0),
      old_values,
      batch.mask,
      gamma=gamma,
      lam=lam,
    )
    if whiten:
      advantage = masked.whiten(advantage, batch.mask)
    return batch.replace(
      advantages=advantage, returns=returns, old_values=old_values
    )

  return of_token


def make_learn(
  config: Any,
  models: dict[str, ModelConfig],
  update: Callable,
  refresh: Callable[[TrainState], TrainState],
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """`learn(state, prompts, prompt_mask, rollout, rewards [B, G], key,
  **arrays)`; `arrays` are those that the advantage asks for."""
  token_advantages = _make_token_advantages(config)
  model, temperature = models['policy'], config.decoder.temperature
  proximal = 'proximal_logps' in _loss_arrays(config)
  rescored = config.old_logps == 'learner' or model.value_head or proximal
  on_logits = config.kl.name in regularizers.LOGITS

  def learn(state, prompts, prompt_mask, samples, rewards, key, **given):
    batch = rollout.assemble_groups(prompts, prompt_mask, samples)
    batch = sharding.rows(batch)
    metrics = diagnostics.rollout_metrics(
      rewards, samples.mask, samples.finished
    )
    old_values = None
    if rescored:
      # The scoring program's own numbers: the first ratio is exactly 1.
      signals = score(state.params, model, batch, temperature)
      signals = jax.lax.stop_gradient(signals)
      metrics |= diagnostics.logp_gap(
        batch.old_logps, signals.logps, batch.mask
      )
      old_values = signals.values
      if config.old_logps == 'learner':
        batch = batch.replace(old_logps=signals.logps)
      if proximal:
        batch = batch.replace(extras={'proximal_logps': signals.logps})
    if config.kl.coef and not on_logits:
      ref = score(state.ref_params, models['ref'], batch, temperature)
      batch = batch.replace(ref_logps=ref.logps)
    batch = token_advantages(rewards, batch, old_values, **given)
    state, update_metrics = update(state, batch, key)
    if 'rollout/logp_gap_max' not in metrics:
      difference = 'sampling/sampling_logp_difference'
      metrics['rollout/logp_gap_max'] = update_metrics[f'{difference}/max']
    metrics['num_tokens'] = masked.count(samples.mask)
    return refresh(state), {**update_metrics, **metrics}

  return learn


def make_step(
  sample_examples: Callable[[Array], Example],
  verify: Callable[[Example, Array, Array], dict[str, Array]],
  generate: Callable[..., Rollout],
  learn: Callable,
  generate_greedy: Callable[..., Rollout] | None = None,
) -> Callable[[TrainState, Array], tuple[TrainState, dict[str, Array]]]:
  """The whole step for an in-graph task: `step(state, key)`.

  sample_examples  (key) -> Example [B, ...]
  verify           a task's, unbatched: its 'reward' trains, the other
                   components are logged
  generate_greedy  the greedy answers, where the advantage compares with them
  """
  # Over completions of one prompt, then over prompts.
  verify_all = jax.vmap(jax.vmap(verify, (None, 0, 0)), (0, 0, 0))

  def answer(how, state: TrainState, examples: Example, key: Array):
    samples = sharding.rows(
      how(
        state.params,
        examples.prompt,
        examples.prompt_mask,
        examples.prompt_id,
        key,
      )
    )
    return samples, verify_all(examples, samples.completion, samples.mask)

  def step(state: TrainState, key: Array):
    example_key, sample_key, update_key = jax.random.split(key, 3)
    examples = sharding.rows(sample_examples(example_key))
    samples, components = answer(generate, state, examples, sample_key)
    given = {}
    if generate_greedy is not None:
      _, greedy = answer(generate_greedy, state, examples, sample_key)
      given['greedy_rewards'] = greedy['reward'][:, 0]
    state, metrics = learn(
      state,
      examples.prompt,
      examples.prompt_mask,
      samples,
      components['reward'],
      update_key,
      **given,
    )
    for name, component in components.items():
      if name != 'reward':
        metrics[f'rewards/{name}/mean'] = jnp.mean(component)
    return state, metrics

  return step
