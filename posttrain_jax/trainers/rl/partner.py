"""Two models that answer one behind the other, and share what both earn.

The pioneer answers a problem; the observer answers it with the pioneer's answer
before its eyes; each is rewarded with the sum of what both earned. A run trains
one of them, in the place that `config.partner.place` says, and the other is
frozen: `others.partner`, without a path a copy of the policy as the run starts.
`lab.rounds` trains them in turns, and `lab.Swap` has them change places.

  pioneer   problem -> answer of the policy;
            problem, that answer, '|' -> answer of the partner
  observer  problem -> answer of the partner, one for all of a group;
            problem, that answer, '|' -> answer of the policy

The condition `seen_answer` writes the second prompt, and its `plain` says what
an evaluation asks: at 1 each of the two answers alone.

Reference: Ma et al. (2024), CORY, https://arxiv.org/abs/2410.06101
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core import sharding
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example, Rollout, TrainState
from posttrain_jax.rewards import entries
from posttrain_jax.trainers.rl import hard_buffer, hints
from posttrain_jax.trainers.rl.terms import loss_arrays

__all__ = [
  'ALONE',
  'PLACES',
  'ROLE',
  'Partner',
  'Shared',
  'check',
  'forwards',
  'make',
  'shared',
  'used',
]

ROLE = 'partner'
PLACES = ('pioneer', 'observer')
SPREAD = np.uint32(0x9E3779B9)  # odd: no two places are the same times it


class Shared(NamedTuple):
  """What a partner gave to a step.

  earned  [B, G] or [B, 1]: its rewards; None: it has not answered
  spent   {name: [] float32} to add to what the step took
  """

  earned: Array | None
  spent: dict[str, Array]


class Partner(NamedTuple):
  """Two functions of a step.

  before  (state, examples, judge, key) -> (problems as the policy reads them,
          as its answers are judged, `Shared`)
  after   (state, examples, samples, judge, key) -> `Shared`
  """

  before: Callable[..., tuple[Example, Example, Shared]]
  after: Callable[..., Shared]


NOBODY = Shared(None, {})
ALONE = Partner(
  lambda state, examples, judge, key: (examples, examples, NOBODY),
  lambda *_: NOBODY,
)


def used(config: Any) -> bool:
  """Whether two models share what they earn."""
  return config.partner.place != 'none'


def check(config: Any) -> None:
  """Raises ValueError for what cannot work with a partner."""
  if not used(config):
    return
  where = f'partner.place="{config.partner.place}"'
  others = dict(config.get('others', {}))
  if ROLE not in others:
    raise ValueError(
      f'{where} needs a model others.{ROLE}: give --config.others.{ROLE}='
      'RUN_OR_FOLDER.' + (nearest(ROLE, others) if others else '')
    )
  if config.condition.name != 'seen_answer':
    raise ValueError(
      f'{where}: the second answers behind the first, in the prompt that '
      'condition "seen_answer" writes; take condition.name="seen_answer", not '
      f'"{config.condition.name}"'
    )
  labels = {entry.label for entry in entries.read(config.rewards)}
  if taken := sorted(labels & {'own', 'partner'}):
    raise ValueError(
      f'{where}: rewards/{taken[0]} is the share of one of the two; give that '
      'reward another "label"'
    )
  if config.condition.feedback == 'truth':
    raise ValueError(
      f'{where}: condition.feedback="truth" would tell the observer the '
      'answer; take "none" or "verdict"'
    )
  for key, there in (
    ('demos_per_prompt', config.demos_per_prompt),
    ('explore.per_prompt', config.explore.per_prompt),
    ('prefix.per_prompt', config.prefix.per_prompt),
    ('hard_buffer.rows', hard_buffer.used(config)),
    ('hints.chunks', hints.used(config)),
    ('valid_per_step', config.valid_per_step),
    ('token_rewards.name', config.token_rewards.name != 'none'),
    ('advantage.name="remax"', config.advantage.name == 'remax'),
    (
      f'loss.name="{config.loss.name}"',
      'state_log_rewards' in loss_arrays(config),
    ),
  ):
    if there:
      raise ValueError(
        f'{where}: what both earn is known of the answers of a group alone, '
        f'and {key} judges others, or parts of them; leave one of them out'
      )


def forwards(config: Any, sizes: Any) -> list[tuple[float, str, int, int]]:
  """Passes of a step for the partner's answers, as of `rl.forwards`."""
  if not used(config):
    return []
  answers = sizes.prompts_per_step
  if config.partner.place == 'pioneer':
    answers *= config.group_size
  return [(1.0, ROLE, answers, sizes.row_tokens)]


def shared(components: dict[str, Array], earned: Array) -> dict[str, Array]:
  """[B, G] components with the sum of both rewards as 'reward'; 'own' and
  'partner' are its parts.

  earned  [B, G] or [B, 1] of the partner
  """
  own = components['reward']
  theirs = jnp.broadcast_to(earned, own.shape)
  verified = components.get('verified', own)
  both = {'reward': own + theirs, 'own': own, 'partner': theirs}
  return {**components, 'verified': verified, **both}


def make(config: Any, task: Any, make_rollout: Callable) -> Partner:
  """What the config asks for; without a partner a step is as it was.

  make_rollout  (by=a role, beside=answers a prompt) -> `rl.make_rollout`
  """
  if not used(config):
    return ALONE
  generate = make_rollout(by=ROLE, beside=1)
  show = jax.vmap(task.show, (0, 0, 0, None))

  def answer(state: TrainState, examples: Example, key: Array) -> Rollout:
    return sharding.rows(
      generate(
        state.model(ROLE),
        examples.prompt,
        examples.prompt_mask,
        examples.prompt_id,
        key,
      )
    )

  def earn(state: TrainState, examples: Example, samples: Rollout, judge):
    spent = {
      'num_generated': samples.num_generated(),
      'num_verified': jnp.float32(
        samples.mask.shape[0] * samples.mask.shape[1]
      ),
    }
    return Shared(judge(state, examples, samples)['reward'], spent)

  def before(state: TrainState, examples: Example, judge: Callable, key: Array):
    plain = sharding.rows(jax.vmap(task.bare)(examples))
    if config.partner.place == 'pioneer':
      return plain, plain, NOBODY
    first = answer(state, plain, key)
    seen = show(plain, first.completion[:, 0], first.mask[:, 0], key)
    # Both are judged as answers to the same: not behind one another.
    return sharding.rows(seen), plain, earn(state, plain, first, judge)

  def after(
    state: TrainState,
    examples: Example,
    samples: Rollout,
    judge: Callable,
    key: Array,
  ) -> Shared:
    if config.partner.place == 'observer':
      return NOBODY
    b, g, _ = samples.mask.shape
    flat = lambda x: x.reshape(b * g, *x.shape[2:])
    each = jax.tree.map(lambda x: jnp.repeat(x, g, axis=0), examples)
    seen = show(each, flat(samples.completion), flat(samples.mask), key)
    # A problem's answers are told apart by their place, whatever g is.
    place = jnp.tile(jnp.arange(1, g + 1, dtype=jnp.uint32), b)
    ids = seen.prompt_id ^ (place * SPREAD)
    second = answer(state, sharding.rows(seen.replace(prompt_id=ids)), key)
    second = jax.tree.map(lambda x: x.reshape(b, g, *x.shape[2:]), second)
    return earn(state, examples, second, judge)

  return Partner(before, after)
