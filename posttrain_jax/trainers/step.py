"""The step of all trainers but RL's: rows, scores, update, refresh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax import collect
from posttrain_jax.core import arrays as named
from posttrain_jax.core import masked, sharding
from posttrain_jax.core.keys import seed_key
from posttrain_jax.core.resolve import resolve
from posttrain_jax.core.types import Array, Batch, Example, TrainState
from posttrain_jax.data.tokenizers import ends
from posttrain_jax.models.adapted import Held, trained
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders, guides
from posttrain_jax.trainers import arrays
from posttrain_jax.trainers.judge import make_judge
from posttrain_jax.trainers.objective import Objective, bind

__all__ = [
  'Beside',
  'Carry',
  'Setup',
  'Steps',
  'forwards',
  'from_file',
  'make_learn',
  'make_refresh',
  'make_step',
  'on_rows',
  'provided',
  'refuse_split',
  'roles',
]

Metrics = dict[str, Array]
BESIDE = 1  # folded into a step's key for what is drawn beside its rows


@dataclasses.dataclass(frozen=True)
class Carry:
  """What a method remembers from step to step; an entry of
  `TrainState.control`.

  init   () -> its state before the first step
  enter  (its state, prepared batch, TrainState before the step) -> (batch with
         what the objective reads of it, its state after this step, {metric:
         scalar})
  """

  init: Callable[[], dict[str, Array]]
  enter: Callable[..., tuple[Batch, dict[str, Array], Metrics]]


@dataclasses.dataclass(frozen=True)
class Beside:
  """What a kind of trainer adds to the rows of a step, where it does.

  draw     (setting, state, key) -> (extras of the rows, metrics), beside what
           the source draws
  score    (state, batch) -> batch with what frozen models say of it besides
  relabel  (batch) -> (batch, metrics); of training alone: rows that are judged
           stay as they are labelled
  """

  draw: Callable[..., tuple[dict[str, Any], Metrics]] | None = None
  score: Callable[[TrainState, Batch], Batch] | None = None
  relabel: Callable[[Batch], tuple[Batch, Metrics]] | None = None


NOTHING = Beside()


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a run hands to its kind of trainer.

  models       {role: ModelConfig}, 'policy' is trained
  task         what it trains on; None where rows come from a file
  tokenizer    its stops and pad_id
  sizes        `run.sizes.Sizes`
  needs        arrays that frozen models have to give
  provided     arrays that come with the rows
  from_host    whether rows come as batches: of a file, or of a host task
  make_update  Objective -> (state, batch, key) -> (state, metrics); `of=`
               sizes of another batch than the step's
  refresh      (state) -> state: moves the reference
  """

  config: Any
  models: dict[str, ModelConfig]
  task: Any
  tokenizer: Any
  sizes: Any
  needs: frozenset[str]
  provided: tuple[str, ...]
  from_host: bool
  make_update: Callable[..., Callable]
  refresh: Callable[[TrainState], TrainState]


class Steps(NamedTuple):
  """A step, and the halves of one that makes its own rows.

  step     (state, key) or (state, batch) -> (state, metrics)
  collect  (state, key) -> (Batch, metrics), or None
  learn    (state, batch, key) -> (state, metrics), or None
  judge    of `judge.make_judge`, or None
  generate the answers alone of an RL step, as `rl.step.make_rollout` gives it
  """

  step: Any
  collect: Callable | None = None
  learn: Callable | None = None
  judge: Callable | None = None
  generate: Callable | None = None


def from_file(config: Any) -> bool:
  """Whether a run trains on the records of a file."""
  return 'data' in config and config.data.source != 'task'


def provided(config: Any, records: tuple[str, ...]) -> tuple[str, ...]:
  """Arrays that come with the rows; `records` are those of the kind."""
  if from_file(config):
    return named.from_rows(f'data:{records[0]}')
  return named.from_rows(config.collect.name)


def roles(config: Any, needs: frozenset[str], given: tuple[str, ...]) -> set:
  """Frozen models that score rows, write them, or are named in `others`."""
  held = set(config.get('others', {})) | arrays.roles(needs, given)
  if not from_file(config):
    held |= collect.roles(config.collect)
  return held


def forwards(
  config: Any, sizes: Any, models: Any
) -> list[tuple[float, str, int, int]]:
  """Passes of a step beside its updates: (times, role, rows, tokens a row).

  Every frozen model is counted as scoring all rows once.
  """
  passes = [
    (1.0, role, sizes.rows, sizes.row_tokens)
    for role in models
    if role != 'policy'
  ]
  if not from_file(config):
    answers = collect.written_per_prompt(
      config.collect.name, config.group_size, sizes.max_new_tokens
    )
    sampler = config.collect.get('sampler', 'policy')
    written = sizes.prompts_per_step * answers
    passes.append((1.0, sampler, written, sizes.row_tokens))
  return passes


def _refuse_few(sizes: Any, parts: list[tuple[Any, str]]) -> None:
  asked = {
    'prompts_per_step': sizes.rows,
    'minibatch_rows': sizes.minibatch_rows,
    'microbatch_rows': sizes.microbatch_rows,
  }
  for room, name in parts:
    least = getattr(room, 'LEAST', {}).get(name, 1)
    for key, rows in asked.items():
      if rows < least:
        raise ValueError(
          f'{key}={getattr(sizes, key)}: "{name}" compares rows of different '
          f'prompts and needs at least {least} of them at a time'
        )


def refuse_split(sizes: Any, parts: list[tuple[Any, str]]) -> None:
  """Refuses micro-batches for functions that look at a whole minibatch, and
  batches too small for those that compare rows.

  parts  (room, name) of the functions that a run uses

  Raises:
    ValueError: one of them is in its room's WHOLE_BATCH, or needs more rows by
      its room's LEAST.
  """
  _refuse_few(sizes, parts)
  if sizes.microbatch_rows == sizes.minibatch_rows:
    return
  for room, name in parts:
    if name in room.WHOLE_BATCH:
      raise ValueError(
        f'microbatch_rows={sizes.microbatch_rows}: "{name}" compares all '
        f'{sizes.minibatch_rows} rows of a minibatch; leave microbatch_rows=0'
      )


def make_refresh(
  every: int, mixup: float
) -> Callable[[TrainState], TrainState]:
  """Moves the reference to the policy after every `every` steps.

  every  0: the reference never moves
  mixup  share of the policy in the new reference; 1 replaces it

  The reference is then the policy of an earlier iteration: SPIN's opponent,
  expert iteration's sampler, or the moving reference of Gorbatovski et al.
  (2024), https://arxiv.org/abs/2404.09656, at mixup < 1. One that is held as
  an adapter (`adapted.Held`) can only be replaced.
  """

  def refresh(state: TrainState) -> TrainState:
    if not every or state.ref_params is None:
      return state
    now = state.step % every == 0
    share = jnp.where(now, mixup, 0.0)

    def mixed(ref, policy):
      # Selected, so that a whole replacement is exact.
      new = jnp.where(share >= 1.0, policy, ref + share * (policy - ref))
      return jnp.where(now, new, ref).astype(ref.dtype)

    policy = state.params
    if isinstance(state.ref_params, Held):
      policy = Held(trained(policy))
    moved = jax.tree.map(mixed, state.ref_params, policy)
    return state.replace(ref_params=moved)

  return refresh


def make_learn(
  update: Callable,
  prepare: Callable[[TrainState, Batch], Batch],
  refresh: Callable[[TrainState], TrainState],
  carried: dict[str, Carry] | None = None,
  relabel: Callable[[Batch], tuple[Batch, Metrics]] | None = None,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
  """`learn(state, batch, key)`: everything of a step but making its rows.

  update   from `update.make_update`
  prepare  adds what frozen models say of the rows
  carried  {what: Carry} of what the method remembers of earlier steps
  relabel  of `Beside`
  """

  def learn(state: TrainState, batch: Batch, key: Array):
    update_key, seed_key = jax.random.split(key)
    seeds = jax.random.bits(seed_key, batch.mask.shape[:1])
    batch = batch.replace(extras={**batch.extras, 'seed': seeds})
    batch = sharding.rows(prepare(state, sharding.rows(batch)))
    control = dict(state.control)
    seen: Metrics = {}
    if relabel is not None:
      batch, seen = relabel(batch)
    for what, carry in (carried or {}).items():
      batch, control[what], more = carry.enter(control[what], batch, state)
      seen |= more
    state, metrics = update(state, batch, update_key)
    return refresh(state.replace(control=control)), {
      **metrics,
      **seen,
      'num_tokens': masked.count(batch.mask),
    }

  return learn


def make_step(
  learn: Callable, collect: Callable | None, seed: int
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
  """`step(state, key)` with rows from `collect`, else `step(state, batch)`.

  learn    from `make_learn`
  collect  (state, key) -> (Batch, metrics)
  seed     of the randomness of a step that is given its batch
  """

  def on_batch(state: TrainState, batch: Batch):
    key = jax.random.fold_in(seed_key(seed), state.step)
    return learn(state, batch, key)

  if collect is None:
    return on_batch

  def on_key(state: TrainState, key: Array):
    collect_key, learn_key = jax.random.split(key)
    batch, metrics = collect(state, collect_key)
    state, learnt = learn(state, batch, learn_key)
    return state, {**learnt, **metrics}

  return on_key


def _make_source(
  setup: Setup,
  draw: Callable[[TrainState, Array], tuple[Example, Array]] | None = None,
  beside: Callable[..., tuple[dict[str, Any], Metrics]] | None = None,
) -> Callable:
  """(state, key) -> rows, from `config.collect`.

  draw    of a curriculum: (state, key) -> problems, the part [B] that each is
          of; rows then have it as `extras['part']` [R]
  beside  of `Beside.draw`
  """
  config, sizes, tokenizer = setup.config, setup.sizes, setup.tokenizer
  setting = collect.Setting(
    task=setup.task,
    models=setup.models,
    num_prompts=sizes.prompts_per_step,
    group_size=config.group_size,
    heldout_fraction=config.heldout_fraction,
    max_new_tokens=sizes.max_new_tokens,
    decoder=bind(decoders, config.decoder),
    eos_id=ends(tokenizer),
    pad_id=tokenizer.pad_id,
    guide=guides.make(
      config.guides,
      eos_id=ends(tokenizer),
      vocab_size=setup.models['policy'].vocab_size,
    ),
  )
  part = dict(config.collect)
  function = resolve(collect, part.pop('name'), **part)

  def source(state: TrainState, key: Array):
    own = dataclasses.replace(setting, spent=collect.Spent(), parts=[])
    if draw is not None:
      own = dataclasses.replace(own, draw=functools.partial(draw, state))
    batch, metrics = function(own, state, key)
    if beside is not None:
      alone = dataclasses.replace(own, draw=None)
      more, seen = beside(alone, state, jax.random.fold_in(key, BESIDE))
      batch = batch.replace(extras={**batch.extras, **more})
      metrics = {**metrics, **seen}
    if own.parts:
      (part,) = own.parts  # a source draws its problems once
      part = jnp.repeat(part, batch.mask.shape[0] // part.shape[0])
      batch = batch.replace(extras={**batch.extras, 'part': part})
    return batch, {**metrics, **own.spent.metrics()}

  return source


def _counting(learn: Callable) -> Callable:
  """`learn` that also counts the examples of packed rows."""

  def counted(state: TrainState, batch: Batch, key: Array):
    state, metrics = learn(state, batch, key)
    segments = jnp.sum(jnp.max(batch.segment_ids, axis=1))
    return state, {**metrics, 'num_segments': segments * 1.0}

  return counted


def _also(first: Callable, then: Callable) -> Callable:
  """Both of them, one after the other: (state, batch) -> batch."""
  return lambda state, batch: then(state, first(state, batch))


def on_rows(
  setup: Setup,
  objective: Objective,
  carried: dict[str, Carry] | None = None,
  draw: Callable[..., tuple[Example, Array]] | None = None,
  beside: Beside = NOTHING,
) -> Steps:
  """The steps of a kind that is given its rows, or makes them by `collect`.

  carried  {what: Carry} of what the method remembers of earlier steps
  draw     of `_make_source`
  """
  source = None
  if not setup.from_host:
    source = _make_source(setup, draw, beside.draw)
  prepare = arrays.make_prepare(setup.needs, setup.provided, setup.models)
  if beside.score is not None:
    prepare = _also(prepare, beside.score)
  learn = make_learn(
    setup.make_update(objective),
    prepare,
    setup.refresh,
    carried,
    beside.relabel,
  )
  if from_file(setup.config) and setup.config.data.packing:
    learn = _counting(learn)
  judge = make_judge(objective, prepare, carried)
  step = make_step(learn, source, setup.config.seed)
  return Steps(step, source, learn, judge)
