"""What a source of rows may use: problems, the oracle, the verifier, models."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.stops import Ends
from posttrain_jax.core.types import Array, Batch, Example, Rollout, TrainState
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders, environments
from posttrain_jax.rollout.guide import Guide
from posttrain_jax.rollout.scored import answer_scores
from posttrain_jax.tasks import split

FIXED = 0  # seed of completions that are the same at every step


@dataclasses.dataclass
class Spent:
  """What making the rows of a step took, added up as they are made.

  generated       tokens that models wrote
  verified        answers that the verifier judged
  demonstrations  answers of the oracle
  """

  generated: Array | float = 0.0
  verified: int = 0
  demonstrations: int = 0

  def metrics(self) -> dict[str, Array]:
    """The metrics of a step that `accounting` reads."""
    return {
      f'num_{name}': jnp.asarray(value, jnp.float32)
      for name, value in dataclasses.asdict(self).items()
    }


@dataclasses.dataclass(frozen=True)
class Setting:
  """The task and the models of a run, as a source of rows sees them.

  task              an in-graph task
  models            {role: ModelConfig}: 'policy', 'ref' and those of
                    `config.others`
  num_prompts       problems of a step
  group_size        completions of each problem, where a source samples several
  heldout_fraction  share of all problems that training never sees
  max_new_tokens    of a sampled completion
  decoder           draws tokens: (logits, keys) -> (tokens, logps)
  guide             steers sampled completions besides the task's environment;
                    what learns from them is not told of it
  eos_id            what ends a completion, as `rollout.generate` takes it
  pad_id            of the tokenizer
  draw              (key) -> problems, the part [B] of a curriculum that each
                    is of; None: the task's own
  parts             those parts, for whoever asks once the rows are made
  spent             adds up what one step's rows take
  """

  task: Any
  models: dict[str, ModelConfig]
  num_prompts: int
  group_size: int
  heldout_fraction: float
  max_new_tokens: int
  decoder: Callable
  eos_id: Ends
  pad_id: int
  guide: Guide | None = None
  draw: Callable[[Array], tuple[Example, Array]] | None = None
  parts: list[Array] = dataclasses.field(default_factory=list, compare=False)
  spent: Spent = dataclasses.field(default_factory=Spent, compare=False)

  @property
  def width(self) -> int:
    """Tokens C of every completion here, the oracle's and sampled ones."""
    return max(self.max_new_tokens, self.task.completion_length)

  def examples(self, key: Array) -> Example:
    """Training problems [B, ...]."""
    if self.draw is not None:
      examples, part = sharding.rows(self.draw(key))
      self.parts.append(part)
      return examples
    return sharding.rows(
      split.sample_batch(
        self.task,
        key,
        self.num_prompts,
        heldout=False,
        fraction=self.heldout_fraction,
      )
    )

  def solve(self, examples: Example, key: Array) -> tuple[Array, Array]:
    """The oracle's completions and their mask, [B, C] each."""
    self.spent.demonstrations += examples.prompt_id.shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, examples.prompt_id)
    solutions = jax.vmap(self.task.solve)(examples, keys)
    tokens = _widen(solutions.tokens, self.width, self.pad_id)
    return tokens, _widen(solutions.mask, self.width, 0.0)

  def given(self, examples: Example, tokens: Array) -> Array | None:
    """[B, C] 1.0 on tokens of completions that an environment wrote."""
    return environments.given(self.task, examples, tokens)

  def sample(
    self,
    state: TrainState,
    sampler: str,
    examples: Example,
    key: Array,
    group_size: int,
    *,
    greedy: bool = False,
  ) -> Rollout:
    """Completions [B, G, C] by one of the models.

    Raises:
      ValueError: no model has the role `sampler`.
    """
    if sampler not in self.models:
      raise ValueError(
        f'sampler "{sampler}" is no model of this run.'
        + nearest(sampler, self.models)
      )
    samples = rollout.generate(
      self.params(state, sampler),
      self.models[sampler],
      examples.prompt,
      examples.prompt_mask,
      key,
      group_size=group_size,
      max_new_tokens=self.max_new_tokens,
      decoder=decoders.greedy if greedy else self.decoder,
      eos_id=self.eos_id,
      pad_id=self.pad_id,
      prompt_ids=examples.prompt_id,
      **environments.steering(self.task, examples, group_size, self.guide),
    )
    self.spent.generated += samples.num_generated()
    if samples.given is not None:
      given = _widen(samples.given, self.width, 0.0)
      samples = samples.replace(given=given)
    samples = samples.replace(
      completion=_widen(samples.completion, self.width, self.pad_id),
      mask=_widen(samples.mask, self.width, 0.0),
      logps=_widen(samples.logps, self.width, 0.0),
    )
    return jax.lax.stop_gradient(sharding.rows(samples))

  def params(self, state: TrainState, role: str) -> Any:
    """The parameters of a role, as they are before the step."""
    return state.model(role)

  def verify(self, examples: Example, tokens: Array, mask: Array) -> Array:
    """Rewards [B, G] of completions [B, G, C]."""
    self.spent.verified += mask.shape[0] * mask.shape[1]
    over_group = jax.vmap(self.task.verify, (None, 0, 0))
    return jax.vmap(over_group)(examples, tokens, mask)['reward']

  def scored(
    self, state: TrainState, judge: str, examples: Example, samples: Rollout
  ) -> Array:
    """[B, G] the scores that a reward model of the run gives answers."""
    params = jax.lax.stop_gradient(self.params(state, judge))
    return answer_scores(params, self.models[judge], examples, samples)

  def fixed(self, examples: Example) -> tuple[Example, Array]:
    """The problems under identities of their own, and a key: what is drawn by
    these is the same at every step and in every run."""
    words = jax.vmap(lambda x: split.fingerprint(split.identity(self.task, x)))
    return examples.replace(prompt_id=words(examples)), jax.random.key(FIXED)

  def answered(
    self,
    state: TrainState,
    sampler: str,
    key: Array,
    group_size: int,
    *,
    fixed: bool = False,
  ) -> tuple[Example, Rollout]:
    """Problems, and completions [B, G, C] of a model that nobody judged.

    fixed  completions depend on the problem and the model alone
    """
    example_key, sample_key = jax.random.split(key)
    examples = self.examples(example_key)
    asked = examples
    if fixed:
      asked, sample_key = self.fixed(examples)
    return examples, self.sample(state, sampler, asked, sample_key, group_size)

  def attempts(
    self,
    state: TrainState,
    sampler: str,
    key: Array,
    group_size: int,
    *,
    fixed: bool = False,
  ) -> tuple[Example, Rollout, Array]:
    """`answered`, and the rewards [B, G]."""
    examples, samples = self.answered(
      state, sampler, key, group_size, fixed=fixed
    )
    rewards = self.verify(examples, samples.completion, samples.mask)
    return examples, samples, rewards


def _widen(x: Array, width: int, fill: float) -> Array:
  """[..., C] padded at the end to [..., width]."""
  pads = [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]
  return jnp.pad(x, pads, constant_values=fill)


def chances(key: Array, examples: Example, group_size: int = 1) -> Array:
  """[B * G] uniform in [0, 1), of the identities of problem and sample."""
  keys = rollout.row_keys(key, examples.prompt_id, group_size)
  return jax.vmap(jax.random.uniform)(keys)


def demonstrations(setting: Setting, examples: Example, key: Array) -> Batch:
  """Rows [B, P + C] of problems with the oracle's answers."""
  return demonstrated(setting, examples, *setting.solve(examples, key))


def demonstrated(
  setting: Setting, examples: Example, tokens: Array, mask: Array
) -> Batch:
  """Rows [B, P + C] of problems with answers [B, C] that the oracle gave: who
  needs these too asks it once, and they are counted once."""
  return rollout.assemble(
    examples.prompt,
    examples.prompt_mask,
    tokens,
    mask,
    setting.given(examples, tokens),
  )


def rows_of(examples: Example, samples: Rollout) -> Batch:
  """Rows [B * G, P + C] of problems with sampled answers."""
  batch = rollout.assemble_groups(
    examples.prompt, examples.prompt_mask, samples
  )
  # Scored again where a method asks: a decoder may have truncated.
  return batch.replace(old_logps=None)


def keep_rows(batch: Batch, keep: Array) -> Batch:
  """The batch with rows where `keep` [R] is 0 left out of the loss."""
  return batch.replace(mask=batch.mask * (keep > 0)[:, None])


def reward_metrics(rewards: Array, kept: Array | None = None) -> dict:
  """What the verifier said of self-made answers, and how many rows count."""
  metrics = {'reward': jnp.mean(rewards)}
  if kept is not None:
    metrics['frac_rows_kept'] = jnp.mean((kept > 0).astype(jnp.float32))
  return metrics
