"""`Budgets`: accuracy where a thought is cut at a budget of tokens."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core.types import Array, Example, PyTree, Rollout
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import vocab

__all__ = ['Budgets', 'forced_prompts', 'within']

MARKER = vocab.token('>')


@dataclasses.dataclass(frozen=True)
class Budgets(in_graph.HeldOut):
  """Probe: answers to problems whose thoughts may have so many tokens at most.

  task     writes thoughts that end with '>'
  budgets  tokens of a thought; one that is longer is cut there, '>' is written
           for it, and the policy answers at once
  answer   tokens of an answer with its EOS
  part     'test' or 'validation'

  A thought that ends within its budget is followed by its own answer. One
  answer to each problem, drawn at `temperature`, as are those to cut thoughts.

  accuracy          share of the answers of uncut thoughts that are right
  length            their tokens, thought and answer
  accuracy/budgets  [budgets] share of right answers under each
  regret            1 less their mean: how far the policy is, over all budgets,
                    from one that is right at once
  accuracy/problems, regret/problems  [N] what these are means of
  """

  model: ModelConfig
  task: Any
  num_problems: int
  heldout_fraction: float
  temperature: float
  part: str
  budgets: tuple[int, ...]
  answer: int

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    examples = self.problems(key)
    draw = functools.partial(decoders.sample, temperature=self.temperature)
    drawn, rewards = in_graph.generate_and_verify(
      params, self.model, self.task, examples, jax.random.fold_in(key, 1),
      group_size=1, decoder=draw,
    )  # fmt: skip
    own = rewards[:, 0]
    forced_key = jax.random.fold_in(key, 2)

    def under(budget: Array) -> Array:
      forced = self._forced(params, examples, drawn, budget, forced_key, draw)
      return jnp.where(within(drawn, budget), own, forced)

    found = jax.lax.map(under, jnp.array(self.budgets))  # [budgets, N]
    regret = 1.0 - jnp.mean(found, axis=0)
    return {
      'accuracy': jnp.mean(own),
      'length': jnp.mean(jnp.sum(drawn.mask[:, 0], axis=1)),
      'accuracy/budgets': jnp.mean(found, axis=1),
      'regret': jnp.mean(regret),
      'accuracy/problems': own,
      'regret/problems': regret,
    }

  def _forced(
    self, params: PyTree, examples: Example, drawn: Rollout, budget: Array,
    key: Array, decoder: Any,
  ) -> Array:  # fmt: skip
    """[N] whether the answer after the first `budget` tokens is right."""
    prompts, mask = forced_prompts(examples, drawn, budget, max(self.budgets))
    said = rollout.generate(
      params, self.model, prompts, mask, key, group_size=1,
      max_new_tokens=self.answer, decoder=decoder, eos_id=vocab.EOS,
      pad_id=vocab.PAD, prompt_ids=examples.prompt_id,
    )  # fmt: skip
    verify = jax.vmap(self.task.verify)
    return verify(examples, said.completion[:, 0], said.mask[:, 0])['reward']


def within(drawn: Rollout, budget: Array) -> Array:
  """[N] whether the thought ended, by '>' or for good, within the budget."""
  tokens, mask = drawn.completion[:, 0], drawn.mask[:, 0] != 0
  ends = mask & ((tokens == MARKER) | (tokens == vocab.EOS))
  places = jnp.arange(tokens.shape[1])
  return jnp.any(ends & (places[None] <= budget), axis=1)


def forced_prompts(
  examples: Example, drawn: Rollout, budget: Array, most: int
) -> tuple[Array, Array]:
  """(prompts [N, P + most + 1], mask): the prompt, the first `budget` tokens of
  what was drawn, '>'."""
  tokens = drawn.completion[:, 0, :most]
  tokens = jnp.pad(tokens, ((0, 0), (0, most + 1 - tokens.shape[1])))
  places = jnp.arange(most + 1)[None]
  tokens = jnp.where(places == budget, MARKER, tokens)
  real = jnp.broadcast_to((places <= budget).astype(jnp.float32), tokens.shape)
  rows = rollout.assemble(examples.prompt, examples.prompt_mask, tokens, real)
  return rows.tokens, rows.segment_ids.astype(jnp.float32)
