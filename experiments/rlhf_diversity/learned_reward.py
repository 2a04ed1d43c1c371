"""PPO whose reward is a learned model's score, in the lab's own program.

  with learned_reward.in_place():
    stage = runs.train('ppo', config, base, rates, roles={'reward': model})

`config.others.reward` names the role, so that its parameters are in the state;
`build` makes everything but the step, whose reward is a task's verifier there.
Here the same public parts are joined with the model's score in its place. The
verifier's verdict is logged as 'rewards/verified/mean' and trains nothing.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from posttrain_jax import build, lab, optim, rollout, run_sizes, sweep
from posttrain_jax.models import heads, transformer
from posttrain_jax.tasks import split
from posttrain_jax.trainers import rl, rl_objective, step, update
from posttrain_jax.trainers.shared import Shared
from posttrain_jax.types import Array, Example, PyTree, TrainState

__all__ = ['ROLE', 'in_place', 'make_step', 'score', 'used']

ROLE = 'reward'
LOGGED = 'rewards/verified/mean'


def score(
  params: PyTree,
  model: Any,
  example: Example,
  completion: Array,
  mask: Array,
) -> Array:
  """[] a reward model's score of one completion [C] of one problem."""
  rows = rollout.assemble(
    example.prompt[None], example.prompt_mask[None], completion[None],
    mask[None],
  )  # fmt: skip
  return heads.sequence_values(
    params, model, rows.tokens, rows.mask, positions=rows.positions,
    segment_ids=rows.segment_ids,
  )[0]  # fmt: skip


def _make_update(config: Any, run: build.Run) -> Callable:
  """goal -> update, as `build` makes it, without the rate in the metrics."""
  shapes = jax.eval_shape(
    lambda: transformer.init(jax.random.key(0), run.model)
  )
  optimizer = optim.make_optimizer(
    config.optimizer, shapes, run.sizes.num_updates
  )
  return lambda goal: update.make_update(goal, optimizer, run.sizes)


def make_step(
  run: build.Run, judge: Callable[[TrainState], Callable] | None = None
) -> Callable[[TrainState, Array], tuple[TrainState, dict[str, Array]]]:
  """The step of an RL run of an in-graph task, its reward from the state.

  judge  state -> verify(example, completion, mask); default: the score of the
         role ROLE, with the task's verdict as 'verified'
  """
  config, sizes, tokenizer = run.config, run.sizes, run.tokenizer
  shared = None
  if run_sizes.shares_prompts(config, sizes):
    shared = Shared(sizes.prompt_length, sizes.group_size, config.token_buckets)
  goal = rl_objective.make_objective(
    config, run.models, tokenizer.eos_id, shared
  )
  generate = rl.make_rollout(
    config, run.model, sizes.max_new_tokens, tokenizer.eos_id, tokenizer.pad_id
  )
  learn = rl.make_learn(
    config, run.models, _make_update(config, run)(goal),
    step.make_refresh(config.ref.refresh_every, config.ref.mixup), shared,
  )  # fmt: skip

  def sample(key):
    return split.sample_batch(
      run.task, key, sizes.prompts_per_step, heldout=False,
      fraction=config.heldout_fraction,
    )  # fmt: skip

  def learned(state):
    def verify(example, completion, mask):
      verdict = run.task.verify(example, completion, mask)
      params = jax.lax.stop_gradient(state.others[ROLE])
      own = score(params, run.models[ROLE], example, completion, mask)
      return {'reward': own, 'verified': verdict['reward']}

    return verify

  def one_step(state, key):
    verify = (judge or learned)(state)
    new, metrics = rl.make_step(sample, verify, generate, learn)(state, key)
    if judge is None:  # the verifier only looks on
      metrics['num_verified'] = jnp.zeros_like(metrics['num_verified'])
    return new, metrics

  return one_step


class Program(sweep.Program):
  """`sweep.Program` with `make_step` in place of the run's own step."""

  def _built(self, values: Sequence[Array]) -> build.Run:
    run = super()._built(values)
    return dataclasses.replace(run, step=make_step(run))


@contextlib.contextmanager
def in_place() -> Iterator[None]:
  """Inside of it `Lab.train` makes a `Program` of what it compiles.

  The lab has no argument for a stage's program, and looks it up in the room
  `sweep`. `used` says whether that worked.
  """
  with mock.patch.object(sweep, 'Program', Program):
    yield


def used(stage: lab.Trained) -> lab.Trained:
  """The stage, if a learned reward trained it.

  Raises:
    RuntimeError: the verifier's reward did.
  """
  if LOGGED not in stage.curves:
    raise RuntimeError(
      f'stage "{stage.name}" has no curve "{LOGGED}": it was trained on the '
      "verifier's reward"
    )
  return stage
