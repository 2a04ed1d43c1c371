"""Second answers that were told what was wrong with the first.

Each of a group's answers is read back with a mark that says whether it is
right, and the policy answers again. One second answer a problem, the first
right one or else the first of the best, becomes a guest: a row beside the
group, trained on behind the plain prompt, as if no mark had been there.

  prompt, answer, mark [, the oracle's answer], '|'  ->  second answer

`config.refine` says what the marks are, and whether the oracle's answer is
told. A model has to have seen such rows to make anything of them: the condition
`seen_answer` has them.

Reference: Zhang et al. (2025), https://arxiv.org/abs/2506.03106 (Critique-GRPO;
the feedback of its code's "simple_gt": right or wrong, and the true answer)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, Example, Rollout, TrainState
from posttrain_jax.rollout import environments
from posttrain_jax.tasks import second_tries, vocab
from posttrain_jax.tasks.vocab import Text
from posttrain_jax.trainers.rl import guests

__all__ = [
  'END',
  'FEEDBACK',
  'Refined',
  'check',
  'check_task',
  'chosen',
  'make_refine',
  'second_prompt',
  'used',
  'width_of',
]

# What a second prompt says: whether the answer is right, or the oracle's too.
FEEDBACK = ('verdict', 'truth')
END = second_tries.END


class Refined(NamedTuple):
  """Second answers of a step.

  guests   Rollout [B, 1, C] of those that were chosen
  rewards  [B, 1]
  spent    {name: [] float32} what all of them took, for `accounting`
  seen     {metric: [] float32}
  """

  guests: Rollout
  rewards: Array
  spent: dict[str, Array]
  seen: dict[str, Array]


def used(config: Any) -> bool:
  """Whether demonstrations are the policy's own second answers."""
  return config.demos_from == 'refined'


def check(config: Any) -> None:
  """Raises ValueError for marks that are not one character each."""
  for name in ('right', 'wrong'):
    mark = config.refine[name]
    if len(mark) != 1 or mark not in vocab.CHARACTERS:
      raise ValueError(
        f'refine.{name}={mark!r} has to be one of the characters '
        f'{vocab.CHARACTERS!r}'
      )
  if config.refine.right == config.refine.wrong:
    raise ValueError(
      f'refine.right={config.refine.right!r} and refine.wrong are the same: '
      'nothing would be told'
    )


def check_task(config: Any, task: Any) -> None:
  """Raises ValueError for a task in turns."""
  if used(config) and environments.of(task) is not None:
    raise ValueError(
      f'demos_from="refined": task "{config.task.name}" answers in turns, '
      'which are not read back; take demos_from="oracle"'
    )


def width_of(config: Any, prompt: int, answer: int) -> int:
  """Tokens that a second prompt may have."""
  truth = answer if config.refine.feedback == 'truth' else 0
  return prompt + answer + 2 + truth


def second_prompt(
  config: Any, prompt: Text, answer: Text, right: Array, truth: Text, size: int
) -> Text:
  """The prompt of a second answer, unbatched.

  answer, truth  without their ends
  right          [] bool
  size           of the buffer, `width_of`
  """
  part = config.refine
  mark = vocab.where(
    right, vocab.literal(part.right), vocab.literal(part.wrong)
  )
  shown = truth if part.feedback == 'truth' else None
  return second_tries.again(prompt, answer, mark, shown, size)


def chosen(rewards: Array) -> Array:
  """[B] int32: the first right one of rewards [B, G], else the first of the
  best."""
  right = rewards > guests.RIGHT
  ranked = jnp.where(jnp.any(right, axis=1, keepdims=True), right, rewards)
  return jnp.argmax(ranked, axis=1)


def _text(tokens: Array, mask: Array) -> Text:
  """What stands before the end of an answer [C]."""
  return vocab.compact(tokens, vocab.before_eos(tokens, mask))


def make_refine(
  config: Any, task: Any, generate: Callable, width: int, pad_id: int
) -> Callable[..., Refined]:
  """(state, examples, samples, rewards, judge, key) -> `Refined`.

  generate  `rl.make_rollout` of one answer a prompt
  width     tokens of an answer
  judge     (state, examples, Rollout [B, G, C]) -> components [B, G]
  """

  def prompts_of(example, tokens, mask, reward, truth, truth_mask):
    size = width_of(config, example.prompt.shape[-1], width)
    plain = vocab.compact(example.prompt, example.prompt_mask)
    answer, known = _text(tokens, mask), _text(truth, truth_mask)
    right = reward > guests.RIGHT
    return second_prompt(config, plain, answer, right, known, size)

  def refine(
    state: TrainState,
    examples: Example,
    samples: Rollout,
    rewards: Array,
    judge: Callable,
    key: Array,
  ) -> Refined:
    b, g, c = samples.mask.shape
    shown = guests.demonstrations(task, examples, key, 1, width, pad_id)
    over_group = jax.vmap(prompts_of, (None, 0, 0, 0, None, None))
    second = jax.vmap(over_group)(
      examples, samples.completion, samples.mask, rewards,
      shown.completion[:, 0], shown.mask[:, 0],
    )  # fmt: skip
    flat = lambda x: x.reshape(b * g, *x.shape[2:])
    # A problem's answers are told apart by their place.
    place = jnp.arange(g, dtype=jnp.uint32)[None]
    ids = examples.prompt_id[:, None] * jnp.uint32(g) + place
    drawn = sharding.rows(
      generate(
        state.params, flat(second.tokens), flat(second.mask), ids.reshape(-1),
        jax.random.fold_in(key, 1),
      )
    )  # fmt: skip
    drawn = jax.tree.map(lambda x: x.reshape(b, g, *x.shape[2:]), drawn)
    earned = judge(state, examples, drawn)['reward']
    best = chosen(earned)
    take = lambda x: jax.vmap(lambda row, i: row[i][None])(x, best)
    picked = jax.tree.map(take, drawn)
    seen = {
      'refined/reward': jnp.mean(earned),
      'refined/frac_right': jnp.mean(
        jnp.any(earned > guests.RIGHT, axis=1).astype(jnp.float32)
      ),
    }
    spent = {
      'num_generated': drawn.num_generated(),
      'num_verified': jnp.float32(b * g),
    }
    # A guest that was cut stands for what it earned, too.
    picked = picked.replace(finished=jnp.ones_like(picked.finished))
    return Refined(picked, take(earned), spent, seen)

  return refine
