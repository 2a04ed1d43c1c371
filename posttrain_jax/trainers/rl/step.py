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

from posttrain_jax import diagnostics, rollout
from posttrain_jax.core import masked, sharding
from posttrain_jax.core.types import (
  Array,
  Batch,
  Example,
  PyTree,
  Rollout,
  TrainState,
)
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rewards import answers
from posttrain_jax.rollout.guide import Guide, context, spread
from posttrain_jax.trainers import guard
from posttrain_jax.trainers.curriculum import KEY
from posttrain_jax.trainers.rl import (
  advantages,
  curriculum,
  extras,
  guest_rows,
  hints,
  imitation,
  objective,
  partner,
  steering,
)
from posttrain_jax.trainers.rl.aside import NOTHING, Aside
from posttrain_jax.trainers.rl.experience import Experience
from posttrain_jax.trainers.rl.sampling import make_rollout
from posttrain_jax.trainers.rl.scoring import make_score_rows
from posttrain_jax.trainers.shared import Shared

__all__ = ['make_learn', 'make_rollout', 'make_step']

PARTNER = 7  # folded into the key of a step's answers for a partner's


def make_learn(
  config: Any,
  models: dict[str, ModelConfig],
  update: Callable,
  refresh: Callable[[TrainState], TrainState],
  shared: Shared | None = None,
  guide: Guide | None = None,
  study: Callable | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """`learn(state, experience, key) -> (state, metrics)`.

  shared  reads each prompt once for all of its rows
  guide   what steered the rollouts: replayed where it changed logits
  study   of `hard_buffer.make_study`, after the update
  """
  score_rows = make_score_rows(config, models, shared, guide)
  toward = imitation.make_toward(models['policy'])
  token_advantages = advantages.make_token_advantages(config)
  add_extras = extras.make_extras(config, models['policy'])
  with_guests = guest_rows.make_join(config, models['policy'], shared)
  moving = objective.make_controllers(config)
  if study is not None:  # of two updates neither is made alone
    update = guard.unheld(update)
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
    if config.mask_unfinished:  # it was compared with the others, all the same
      batch = _without(batch, lived.samples.finished)
    batch = hints.told(config, batch, lived.samples)
    batch, seen = with_guests(state, batch, lived, theirs)
    state = steering.tossed(config, state, key)
    given = {}
    if lived.valid is not None:
      given['toward'] = toward(state, lived.valid)
    state, updated = update(state, batch, key, **given)
    metrics = {**updated, **metrics, **scored, **seen}
    if 'rollout/logp_gap_max' not in metrics:
      difference = 'sampling/sampling_logp_difference'
      metrics['rollout/logp_gap_max'] = updated[f'{difference}/max']
    metrics['num_tokens'] = masked.count(batch.mask)
    if study is not None:
      state, studied = study(state, lived, key)
      metrics |= studied
      metrics['num_tokens'] += studied['hard/tokens']
    control, values = steering.moved(config, moving, state, metrics)
    if follow is not None:
      control[KEY], chances = follow(control[KEY], lived, compared, state.step)
      values |= chances
    return refresh(state.replace(control=control)), metrics | values

  return learn


def _without(batch: Batch, finished: Array) -> Batch:
  """The batch where answers that were cut count no more."""
  return batch.replace(mask=batch.mask * finished.reshape(-1)[:, None])


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


def _make_answer(
  ask: Callable, judge: Callable, aside: Aside, beside: partner.Partner
) -> Callable[..., tuple[Example, Rollout, dict[str, Array], dict[str, Array]]]:
  """(state, problems, key) -> (problems as they were read, the group's answers,
  components, {name: [] float32} of what another model's answers took)."""

  def answer(state: TrainState, examples: Example, key: Array):
    own_key = jax.random.fold_in(key, PARTNER)
    examples, plain, first = beside.before(state, examples, judge, own_key)
    told = aside.before(state, examples, key)
    samples = ask(state, examples, key, **told)
    components = judge(state, plain, samples)
    other = beside.after(state, examples, samples, judge, own_key)
    for found in (first, other):
      if found.earned is not None:
        components = partner.shared(components, found.earned)
    return examples, samples, components, first.spent | other.spent

  return answer


def _make_draw_beside(
  sources: dict[str, Callable[..., Rollout]], ask: Callable, judge: Callable
) -> Callable[..., dict[str, tuple[Rollout, Array]]]:
  """(state, examples, key) -> {kind: (rows beside the group, rewards)}."""

  def draw(state: TrainState, examples: Example, key: Array):
    made, key = {}, jax.random.fold_in(key, 1)
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


def _make_given(
  stopped: Callable | None,
  reward_tokens: Callable | None,
  start_guide: Callable[[Example], PyTree] | None,
) -> Callable[..., tuple[dict[str, PyTree], dict[str, Array]]]:
  """(state, examples, samples, key) -> (fields of `Experience`, metrics)."""

  def given(state: TrainState, examples: Example, samples: Rollout, key: Array):
    made: dict[str, PyTree] = {}
    seen: dict[str, Array] = {}
    if start_guide is not None:
      made['guide_state'] = start_guide(examples)
    if stopped is not None:
      made['prefix_rewards'] = stopped(
        examples, samples.completion, samples.mask
      )
    if reward_tokens is not None:
      made['token_rewards'], dense = reward_tokens(
        state.params, examples, samples, jax.random.fold_in(key, 2)
      )
      seen = {f'token_rewards/{name}': x for name, x in dense.items()}
    return made, seen

  return given


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
  aside: Aside = NOTHING,
  beside: partner.Partner = partner.ALONE,
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
  aside               what is done for the group, and drawn aside from it
  beside              another model's answers, whose rewards are shared
  """
  stopped = _over_group(answers.stopped_everywhere(verify))
  add = _make_given(stopped if prefixes else None, reward_tokens, start_guide)
  judge = _make_judge(verify, mix)
  ask = _make_ask(start_guide)
  answer = _make_answer(functools.partial(ask, generate), judge, aside, beside)
  draw_beside = _make_draw_beside(sources or {}, ask, judge)
  problems = curriculum.make_problems(sample_examples, draw)

  def step(state: TrainState, key: Array):
    example_key, sample_key, update_key = jax.random.split(key, 3)
    examples, drawn_by = problems(state, example_key)
    examples, samples, components, theirs = answer(state, examples, sample_key)
    given, seen = add(state, examples, samples, sample_key)
    given |= drawn_by
    if 'part' in given:
      given['right'] = curriculum.right(components)
    drawn = [samples]
    if generate_greedy is not None:
      greedy = ask(generate_greedy, state, examples, sample_key)
      given['greedy_rewards'] = judge(state, examples, greedy)['reward'][:, 0]
      drawn.append(greedy)
    drawn_beside = draw_beside(state, examples, sample_key)
    also = aside.after(
      state, examples, samples, components['reward'], judge, sample_key
    )
    lived = Experience(
      prompts=examples.prompt,
      prompt_mask=examples.prompt_mask,
      samples=samples,
      rewards=components['reward'],
      guests=drawn_beside | also.guests,
      **given,
      **also.given,
    )
    state, metrics = learn(state, lived, update_key)
    read = metrics.pop('hard/demonstrations', 0.0)  # when they are trained on
    metrics |= seen | also.seen
    spent = also.spent | theirs
    metrics |= advantages.spent(drawn, drawn_beside, prefixes, spent)
    metrics['num_demonstrations'] += read
    if not verifies:  # it only looks on
      metrics['num_verified'] = jnp.zeros_like(metrics['num_verified'])
    return state, metrics | _spread(components, mix is not None)

  return step
