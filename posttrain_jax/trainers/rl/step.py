"""Reinforcement learning with verifiable rewards: one pure step.

  problems -> group rollout -> verifier -> advantages -> update

For in-graph tasks the whole step is one compiled program; host tasks run the
same two halves (the rollout, then `learn`) around a Python verifier.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import diagnostics, rollout, token_weights
from posttrain_jax.core import masked, sharding
from posttrain_jax.core.resolve import arrays_of, lookup
from posttrain_jax.core.stops import Ends
from posttrain_jax.core.types import (
  Array,
  Batch,
  Example,
  PyTree,
  Rollout,
  TrainState,
)
from posttrain_jax.losses import flow
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rewards import answers
from posttrain_jax.rollout import decoders
from posttrain_jax.rollout.guide import Guide, context, spread
from posttrain_jax.trainers.objective import bind
from posttrain_jax.trainers.rl import (
  advantages,
  curriculum,
  guest_rows,
  guests,
  objective,
)
from posttrain_jax.trainers.rl.experience import Experience
from posttrain_jax.trainers.rl.scoring import make_score_rows
from posttrain_jax.trainers.shared import Shared

__all__ = ['make_learn', 'make_rollout', 'make_step']


def make_rollout(
  config: Any,
  model: ModelConfig,
  max_new_tokens: int,
  eos_id: Ends,
  pad_id: int,
  *,
  slots: int = 0,
  cache_stages: int = 1,
  guide: Guide | None = None,
  greedy: bool = False,
  beside: int = 0,
) -> Callable[..., Rollout]:
  """`generate(params, prompts, prompt_mask, prompt_ids, key) -> Rollout`.

  slots, cache_stages  of `rollout.generate`
  guide   what steers the answers; where it cannot start from a prompt (it has a
          task's environment in it, or forces a prefix), `generate` takes its
          states `guide_state` [B, ...] too
  greedy  one greedy answer a prompt, in place of the group
  beside  answers a prompt beside the group, in place of it (0: the group)

  `generate` may be given a temperature in place of the decoder's; `logps` are
  then at that temperature.
  """
  decoder: Callable = decoders.greedy
  if not greedy:
    decoder = bind(decoders, config.decoder)
  group_size = 1 if greedy else beside or config.group_size

  def generate(
    params,
    prompts,
    prompt_mask,
    prompt_ids,
    key,
    temperature=None,
    guide_state=None,
  ):
    draw = decoder
    if temperature is not None:
      draw = functools.partial(decoder, temperature=temperature)
    return rollout.generate(
      params,
      model,
      prompts,
      prompt_mask,
      key,
      group_size=group_size,
      max_new_tokens=max_new_tokens,
      decoder=draw,
      eos_id=eos_id,
      pad_id=pad_id,
      prompt_ids=prompt_ids,
      slots=0 if greedy else slots,
      stages=cache_stages,
      guide=guide,
      guide_state=spread(guide_state, group_size),
    )

  return generate


def make_learn(
  config: Any,
  models: dict[str, ModelConfig],
  update: Callable,
  refresh: Callable[[TrainState], TrainState],
  shared: Shared | None = None,
  guide: Guide | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """`learn(state, experience, key) -> (state, metrics)`.

  shared  reads each prompt once for all of its rows
  guide   what steered the rollouts: replayed where it changed logits
  """
  score_rows = make_score_rows(config, models, shared, guide)
  token_advantages = advantages.make_token_advantages(config)
  add_extras = _make_extras(config, models['policy'])
  with_guests = guest_rows.make_join(config, models['policy'], shared)
  moving = objective.make_controllers(config)
  judges_experts = config.expert_loss.name != 'none'
  follow = curriculum.make_follow(config)

  def learn(state: TrainState, lived: Experience, key: Array):
    batch = sharding.rows(_replayed(_own_rows(lived), guide, lived))
    metrics = diagnostics.rollout_metrics(
      lived.rewards, lived.samples.mask, lived.samples.finished
    )
    batch, old_values, penalty, scored = score_rows(state, batch)
    batch, theirs = token_advantages(
      lived.rewards,
      batch,
      old_values,
      lived.expert_rewards() if judges_experts else None,
      penalty,
      lived.token_rewards,
      **_asked(lived),
    )
    compared = batch
    batch = add_extras(state, batch, lived)
    batch, seen = with_guests(state, batch, lived, theirs)
    before = state
    state, updated = update(state, batch, key)
    metrics = {**updated, **metrics, **scored, **seen}
    if 'rollout/logp_gap_max' not in metrics:
      difference = 'sampling/sampling_logp_difference'
      metrics['rollout/logp_gap_max'] = updated[f'{difference}/max']
    metrics['num_tokens'] = masked.count(batch.mask)
    control = {}
    for what, controller in moving.items():
      metrics[f'control/{what}'] = controller.value(before.control[what])
      control[what], _ = controller.update(
        before.control[what], metrics, state.step, config.num_steps
      )
    if follow is not None:
      control[curriculum.KEY], chances = follow(
        before.control[curriculum.KEY], lived, compared, state.step
      )
      metrics |= chances
    return refresh(state.replace(control=control)), metrics

  return learn


def _own_rows(lived: Experience) -> Batch:
  return rollout.assemble_groups(
    lived.prompts, lived.prompt_mask, lived.samples
  )


def _asked(lived: Experience) -> dict[str, Array]:
  """Arrays that an advantage asks for by name."""
  if lived.greedy_rewards is None:
    return {}
  return {'greedy_rewards': lived.greedy_rewards}


def _replayed(batch: Batch, guide: Guide | None, lived: Experience) -> Batch:
  """The batch with the states of what steered its rows, where that matters."""
  if guide is None or not guide.adjusts:
    return batch
  states = lived.guide_state
  if states is None:
    states = jax.vmap(guide.start)(lived.prompts, lived.prompt_mask)
  states = spread(states, lived.samples.mask.shape[1])
  total = batch.tokens.shape[1]
  return batch.replace(
    guide=context(guide, states, lived.samples, batch.need('starts'), total)
  )


def _make_extras(config: Any, model: ModelConfig) -> Callable[..., Batch]:
  """Adds what the terms of an objective ask for beside log-probabilities."""
  weights = lookup(token_weights, config.weights.name)
  contrasts = guests.contrasts(config)
  verdicts = 'correct' in arrays_of(weights) or contrasts

  def annotated(state, prompts, prompt_mask, samples):
    """[B, D] embeddings of demonstrations, one a problem."""
    batch = rollout.assemble_groups(prompts, prompt_mask, samples)
    made = heads.sequence_embedding(
      state.params, model, batch.tokens, batch.mask,
      segment_ids=batch.segment_ids,
    )  # fmt: skip
    return jax.lax.stop_gradient(made)

  def add(state: TrainState, batch: Batch, lived: Experience) -> Batch:
    extras = dict(batch.extras)
    flat, group_size = lived.rewards.reshape(-1), lived.rewards.shape[1]
    if verdicts:
      extras['correct'] = (flat > guests.RIGHT).astype(jnp.float32)
    if config.loss.name in flow.__all__:
      extras['log_rewards'] = answers.log_reward(config.log_reward, flat)
    judged = lived.prefix_rewards
    if judged is not None:
      lengths = lived.prompt_mask.astype(jnp.int32).sum(axis=1)
      extras['state_log_rewards'] = answers.prefix_log_rewards(
        config.log_reward,
        judged.reshape(-1, judged.shape[-1]),
        jnp.repeat(lengths, group_size),
        batch.mask.shape[1],
      )
    if contrasts:
      shown, _ = lived.guests['expert']
      anchors = annotated(state, lived.prompts, lived.prompt_mask, shown)
      extras['anchors'] = jnp.repeat(anchors, group_size, axis=0)
    return batch.replace(extras=extras)

  return add


def _make_ask(
  start_guide: Callable[[Example], PyTree] | None,
) -> Callable[..., Rollout]:
  """(generate, state, examples, key, **given) -> the policy's answers."""

  def ask(generate, state: TrainState, examples: Example, key: Array, **given):
    if start_guide is not None:
      given['guide_state'] = start_guide(examples)
    return sharding.rows(
      generate(
        state.params,
        examples.prompt,
        examples.prompt_mask,
        examples.prompt_id,
        key,
        **given,
      )
    )

  return ask


def _over_group(function: Callable) -> Callable:
  """Over completions of one prompt, then over prompts."""
  return jax.vmap(jax.vmap(function, (None, 0, 0)), (0, 0, 0))


def _make_judge(
  verify: Callable, mix: Callable[..., dict[str, Array]] | None
) -> Callable[..., dict[str, Array]]:
  """(state, examples, samples) -> components [B, G], 'reward' among them."""
  verify_all = _over_group(verify)

  def judge(state: TrainState, examples: Example, samples: Rollout):
    components = verify_all(examples, samples.completion, samples.mask)
    if mix is None:
      return components
    return mix(state, examples, samples, components)

  return judge


def _make_draw_beside(
  sources: dict[str, Callable[..., Rollout]], ask: Callable, judge: Callable
) -> Callable[..., dict[str, tuple[Rollout, Array]]]:
  """(state, examples, key) -> {kind: (rows beside the group, rewards)}."""

  def draw(state: TrainState, examples: Example, key: Array):
    made = {}
    for kind, source in sources.items():
      samples = sharding.rows(source(ask, state, examples, key))
      made[kind] = samples, judge(state, examples, samples)['reward']
    return made

  return draw


def _spread(components: dict[str, Array], std: bool) -> dict[str, Array]:
  """What is logged of components [B, G] beside the reward itself."""
  out = {}
  for name, component in components.items():
    if name != 'reward':
      out[f'rewards/{name}/mean'] = jnp.mean(component)
      if std:
        out[f'rewards/{name}/std'] = jnp.std(
          component, ddof=min(1, component.size - 1)
        )
  return out


def make_step(
  sample_examples: Callable[[Array], Example],
  verify: Callable[[Example, Array, Array], dict[str, Array]],
  generate: Callable[..., Rollout],
  learn: Callable,
  *,
  generate_greedy: Callable[..., Rollout] | None = None,
  sources: dict[str, Callable[..., Rollout]] | None = None,
  reward_tokens: Callable | None = None,
  prefixes: bool = False,
  start_guide: Callable[[Example], PyTree] | None = None,
  mix: Callable[..., dict[str, Array]] | None = None,
  verifies: bool = True,
  draw: Callable[..., tuple[Example, Array]] | None = None,
) -> Callable[[TrainState, Array], tuple[TrainState, dict[str, Array]]]:
  """The whole step for an in-graph task: `step(state, key)`.

  sample_examples     (key) -> Example [B, ...]
  verify              a task's, unbatched: its 'reward' trains, the other
                      components are logged
  generate_greedy     the greedy answers, where the advantage compares with them
  sources             of the rows beside the group (`rows_beside`)
  reward_tokens       (params, examples, samples, key) -> rewards [B, G, C],
                      metrics
  prefixes            also judge every completion stopped at each of its tokens
  start_guide         (examples) -> states [B, ...] of what steers the answers
  mix                 (state, examples, samples, components) -> components, the
                      weighted sum of several rewards as 'reward'
  verifies            whether the verifier's word trains, or is only logged
  draw                of a curriculum, in place of `sample_examples`
  """
  stopped = _over_group(answers.stopped_everywhere(verify))
  judge = _make_judge(verify, mix)
  ask = _make_ask(start_guide)
  draw_beside = _make_draw_beside(sources or {}, ask, judge)
  problems = curriculum.make_problems(sample_examples, draw)

  def step(state: TrainState, key: Array):
    example_key, sample_key, update_key = jax.random.split(key, 3)
    examples, given = problems(state, example_key)
    samples = ask(generate, state, examples, sample_key)
    components = judge(state, examples, samples)
    if 'part' in given:
      given['right'] = curriculum.right(components)
    drawn = [samples]
    if start_guide is not None:
      given['guide_state'] = start_guide(examples)
    if generate_greedy is not None:
      greedy = ask(generate_greedy, state, examples, sample_key)
      given['greedy_rewards'] = judge(state, examples, greedy)['reward'][:, 0]
      drawn.append(greedy)
    drawn_beside = draw_beside(
      state, examples, jax.random.fold_in(sample_key, 1)
    )
    if prefixes:
      given['prefix_rewards'] = stopped(
        examples, samples.completion, samples.mask
      )
    seen = {}
    if reward_tokens is not None:
      dense_key = jax.random.fold_in(sample_key, 2)
      given['token_rewards'], seen = reward_tokens(
        state.params, examples, samples, dense_key
      )
    lived = Experience(
      prompts=examples.prompt,
      prompt_mask=examples.prompt_mask,
      samples=samples,
      rewards=components['reward'],
      guests=drawn_beside,
      **given,
    )
    state, metrics = learn(state, lived, update_key)
    metrics |= {f'token_rewards/{name}': x for name, x in seen.items()}
    metrics |= advantages.spent(drawn, drawn_beside, 'prefix_rewards' in given)
    if not verifies:  # it only looks on
      metrics['num_verified'] = jnp.zeros_like(metrics['num_verified'])
    return state, metrics | _spread(components, mix is not None)

  return step
