"""Exact measures: every right answer, every name of the catalogue, counted out.

Nothing is sampled: answers that are right can be listed, and a policy's chance
of each is read off in one forward pass.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import rollout
from posttrain_jax.core.types import (
  Array,
  Example,
  PyTree,
  Rollout,
  TokenSignals,
)
from posttrain_jax.evals import in_graph
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.tasks import vocab

__all__ = ['Names', 'RightAnswers', 'of_chances', 'of_names']


def _signals(
  params: PyTree, model: ModelConfig, prompt: Array, mask: Array,
  answers: Array, temperature: float = 1.0, logits: bool = False,
) -> tuple[TokenSignals, Array]:  # fmt: skip
  """(signals [N * A, T] of answers [N, A, C] to prompts [N, P], the column of
  each row's first answer token [N * A])."""
  whole = jnp.ones(answers.shape, jnp.float32)
  made = Rollout(answers, whole, 0.0 * whole, whole[..., 0])
  batch = rollout.assemble_groups(prompt, mask, made)
  signals = transformer.token_logps(
    params, model, batch.tokens, batch.mask, temperature,
    segment_ids=batch.segment_ids, positions=batch.positions, logits=logits,
  )  # fmt: skip
  return signals, batch.starts


def of_chances(logps: Array, tries: int) -> dict[str, Array]:
  """What the chances of all right answers of a problem say.

  logps  [..., A] of each of them, whole

  right     share of answers that are right
  distinct  different right ones to be expected among `tries` answers
  even      entropy of an answer, given that it is right, nats
  missed    total variation from right answers alone, each as likely: the least
            mass that would have to be moved
  fit       KL of these to the policy, nats
  """
  chances = jnp.exp(logps)
  right = jnp.sum(chances, axis=-1)
  given = logps - jax.nn.logsumexp(logps, axis=-1, keepdims=True)
  count = logps.shape[-1]
  return {
    'right': right,
    'distinct': jnp.sum(1.0 - (1.0 - chances) ** tries, axis=-1),
    'even': -jnp.sum(jnp.exp(given) * given, axis=-1),
    'missed': 1.0 - jnp.sum(jnp.minimum(chances, 1.0 / count), axis=-1),
    'fit': -jnp.log(1.0 * count) - jnp.mean(logps, axis=-1),
  }


@dataclasses.dataclass(frozen=True)
class RightAnswers(in_graph.HeldOut):
  """Probe: `probe(params, base_params, key) -> {name: scalar}` of `of_chances`,
  means over `num_problems` held-out problems of `picks`; 'right/problems' and
  'distinct/problems' [N] too.

  part         'test' or 'validation': halves without a common problem
  temperature  that answers are drawn at
  """

  model: ModelConfig
  task: Any
  num_problems: int
  tries: int
  heldout_fraction: float
  part: str
  temperature: float = 1.0

  def answers(self, examples: Example) -> Array:
    """[N, A, C] tokens of all right answers, their end included."""
    task = self.task
    sets = itertools.combinations(range(task.shown), task.max_count)
    places = jnp.asarray(list(sets))
    letters = jnp.arange(examples.answer['shown'].shape[-1])
    far = letters.size
    sort = lambda shown: jnp.sort(jnp.where(shown, letters, far))
    shown = jax.vmap(sort)(examples.answer['shown'])[:, : task.shown]
    text = shown[:, places] + vocab.token('a')
    return jnp.pad(
      text, ((0, 0), (0, 0), (0, 1)), constant_values=vocab.EOS
    ).astype(jnp.int32)

  def __call__(
    self, params: PyTree, base_params: PyTree, key: Array
  ) -> dict[str, Array]:
    del base_params
    examples = self.problems(key)
    answers = self.answers(examples)
    signals, _ = _signals(
      params, self.model, examples.prompt, examples.prompt_mask, answers,
      self.temperature,
    )  # fmt: skip
    logps = signals.logps.sum(axis=1).reshape(answers.shape[:2])
    found = of_chances(logps, self.tries)
    kept = {f'{x}/problems': found[x] for x in ('right', 'distinct')}
    return {name: jnp.mean(x) for name, x in found.items()} | kept


@functools.lru_cache(maxsize=4)
def _goes_on(task: Any) -> np.ndarray:
  """[N, L + 1, V] True where a token goes on with a name's beginning, or ends
  it."""
  names = task.names
  count, length = names.shape
  allowed = np.zeros((count, length + 1, vocab.VOCAB_SIZE), bool)
  for place in range(length):
    for i in range(count):
      same = np.all(names[:, :place] == names[i, :place], axis=1)
      allowed[i, place, names[same, place]] = True
  allowed[:, length, vocab.EOS] = True
  return allowed


def of_names(
  held: Array, target: Array, popularity: Array, top: int
) -> dict[str, Array]:
  """What the chances of all names say, means over groups of users.

  held        [U, N] log-chances, which sum to 1
  target      [U, N] what is wanted
  popularity  [U, N] how often users take an item

  kl       of the policy to the target, nats; 'kl_back': of the target to it
  entropy  nats
  hit      share of users whose item is among the `top` likeliest names
  taken    share of users whose item is the one that is drawn
  """
  chances = jnp.exp(held)
  _, best = jax.lax.top_k(held, top)
  found = {
    'kl': jnp.sum(chances * (held - jnp.log(target)), axis=1),
    'kl_back': jnp.sum(target * (jnp.log(target) - held), axis=1),
    'entropy': -jnp.sum(chances * held, axis=1),
    'hit': jnp.sum(jnp.take_along_axis(popularity, best, axis=1), axis=1),
    'taken': jnp.sum(popularity * chances, axis=1),
  }
  return {name: jnp.mean(x) for name, x in found.items()}


@dataclasses.dataclass(frozen=True)
class Names:
  """Probe: `of_names` of a policy whose answers are held to the names as they
  are drawn; and `of_chances` of the names when nothing holds them.

  heat  temperatures at which names are drawn; measures of the others than 1.0
        are called 'MEASURE@HEAT'
  """

  model: ModelConfig
  task: Any
  top: int
  tries: int
  heat: tuple[float, ...] = (1.0,)

  def __call__(
    self, params: PyTree, base_params: PyTree, key: Array
  ) -> dict[str, Array]:
    del base_params, key
    task = self.task
    groups, names = task.groups, jnp.asarray(task.names)
    count, length = names.shape
    ends = jnp.pad(names, ((0, 0), (0, 1)), constant_values=vocab.EOS)
    examples = jax.vmap(lambda u: task.of_group(u, 0))(jnp.arange(groups))
    answers = jnp.broadcast_to(ends, (groups, *ends.shape))
    signals, starts = _signals(
      params, self.model, examples.prompt, examples.prompt_mask, answers,
      logits=True,
    )  # fmt: skip
    columns = starts[:, None] + jnp.arange(length + 1)[None]
    logits = jnp.take_along_axis(signals.logits, columns[..., None], axis=1)
    logits = logits.reshape(groups, count, length + 1, -1)
    allowed = jnp.asarray(_goes_on(task))[None]
    taken = lambda x: jnp.take_along_axis(x, ends[None, ..., None], axis=-1)[
      ..., 0
    ].sum(axis=-1)
    found = {}
    for heat in self.heat:
      scores = jnp.where(allowed, logits / heat, -jnp.inf)
      held = taken(jax.nn.log_softmax(scores, axis=-1))
      own = of_names(
        held, jnp.asarray(task.worth), jnp.asarray(task.popularity), self.top
      )
      tail = '' if heat == 1.0 else f'@{heat:g}'
      found |= {f'{name}{tail}': x for name, x in own.items()}
    free = of_chances(taken(jax.nn.log_softmax(logits, axis=-1)), self.tries)
    return found | {name: jnp.mean(x) for name, x in free.items()}
