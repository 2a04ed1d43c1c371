"""`Turns`: accuracy at each of several turns, and of as many answers apart."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example, PyTree, Rollout
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders, select
from posttrain_jax.tasks.second_tries import Seen

__all__ = ['Turns', 'again', 'apart']


@dataclasses.dataclass(frozen=True)
class Turns(in_graph.HeldOut):
  """Probe: a first answer, and after each wrong one another that is told so.

  task   shows an answer with the verifier's mark; its problems are asked bare
  turns  how many answers, in turns or apart
  part   'test' or 'validation'

  `turns` answers to each bare problem, drawn apart at `temperature`, are the
  answers of as many that vote, and of as many that a verifier chooses from.
  Each of them also begins a chain: where the last answer is wrong, the next one
  is drawn behind it and its mark, and sees no earlier one. A chain that is
  right stays right, as the verifier ends it.

  turns          [turns] share of chains that are right by each
  first, fifth   of the first and the last of them (whatever `turns` is)
  over           how far the last is above the first
  mended         share of wrong first answers that the second one mends
  repeated       share of second answers that are the wrong first one again
  majority       share of problems whose most frequent answer is right
  any            share of problems of which one of the answers is
  NAME/problems  [N] what first, fifth, over, majority and any are means of
  """

  model: ModelConfig
  task: Seen
  num_problems: int
  heldout_fraction: float
  temperature: float
  part: str
  turns: int

  def problems(self, key: Array) -> Example:
    """The problems [N, ...] that `key` stands for, without an answer."""
    return jax.vmap(self.task.bare)(super().problems(key))

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    examples = self.problems(key)
    samples, rewards = self._draw(params, examples, key, 0, self.turns)
    alone = apart(examples, self.turns)
    flat = lambda x: x.reshape(-1, 1, *x.shape[2:])
    # One chain behind each answer.
    answer = jax.tree.map(
      flat, (samples.completion, samples.mask, rewards >= 1.0)
    )

    def turn(last, number):
      tokens, mask, right = last
      asked = again(self.task, alone, tokens[:, 0], mask[:, 0], key)
      said, earned = self._draw(params, asked, key, number, 1)
      same = _same(last[0], last[1], said)
      keep = lambda old, new: jnp.where(right.reshape(-1, 1, 1), old, new)
      after = (
        keep(tokens, said.completion), keep(mask, said.mask),
        right | (earned >= 1.0),
      )  # fmt: skip
      return after, (after[2][:, 0], same)

    _, (later, same) = jax.lax.scan(turn, answer, jnp.arange(1, self.turns))
    first = answer[2][:, 0]
    by_turn = jnp.concatenate([first[None], later]).astype(jnp.float32)
    return self._measures(by_turn, same, samples, rewards)

  def _draw(self, params, examples, key, number, size):
    """(answers, rewards) of one turn."""
    return in_graph.generate_and_verify(
      params, self.model, self.task, examples,
      jax.random.fold_in(jax.random.fold_in(key, 1), number),
      group_size=size,
      decoder=functools.partial(
        decoders.sample, temperature=self.temperature
      ),
    )  # fmt: skip

  def _measures(
    self, by_turn: Array, same: Array, samples: Rollout, rewards: Array
  ) -> dict[str, Array]:
    """by_turn  [turns, N * turns] 1.0 where a chain is right by then
    same     [turns - 1, N * turns] whether an answer is the last one again
    """
    by_problem = jnp.mean(
      by_turn.reshape(self.turns, self.num_problems, self.turns), axis=2
    )
    said = in_graph.answers(self.task.task, samples)
    wrong = 1.0 - by_turn[0]
    share = lambda x: jnp.sum(wrong * x) / jnp.maximum(jnp.sum(wrong), 1.0)
    found = {
      'first': by_problem[0],
      'fifth': by_problem[-1],
      'over': by_problem[-1] - by_problem[0],
      'majority': select.majority_at_k(
        said.tokens, said.mask, rewards, self.turns
      ),
      'any': jnp.max(rewards, axis=1),
    }
    return {
      **{name: jnp.mean(x) for name, x in found.items()},
      **{f'{name}/problems': x for name, x in found.items()},
      'turns': jnp.mean(by_problem, axis=1),
      'mended': share(by_turn[1]),
      'repeated': share(same[0]),
    }


def apart(examples: Example, count: int) -> Example:
  """Each of the problems [N, ...] `count` times, as if they were different:
  what is drawn for one is not drawn for another."""
  many = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), examples)
  place = jnp.arange(many.prompt_id.shape[0], dtype=jnp.uint32)
  return many.replace(prompt_id=place)


def again(
  task: Seen, examples: Example, tokens: Array, mask: Array, key: Array
) -> Example:
  """The problems, each beside the answer [N, C] that was given to it."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, examples.prompt_id)
  return jax.vmap(task.show)(examples, tokens, mask, keys)


def _same(tokens: Array, mask: Array, said: Rollout) -> Array:
  """[N] whether two completions [N, 1, C] are one."""
  other = jnp.where(said.mask > 0, said.completion, -1)
  one = jnp.where(mask > 0, tokens, -1)
  return jnp.all(one == other, axis=(1, 2)).astype(jnp.float32)
