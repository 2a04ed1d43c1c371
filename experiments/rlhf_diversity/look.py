"""What policies write on three sets of problems: right or not, how diverse."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import lab, rollout, tasks
from posttrain_jax.core.types import Array, Example, PyTree, Rollout
from posttrain_jax.evals.measures import diversity
from posttrain_jax.evals.measures.ranking import ranked
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rewards import answers
from posttrain_jax.rollout import decoders, select
from posttrain_jax.tasks import split, vocab

# Letters and the end: what a completion is made of.
ALPHABET = 27
WHOLE = dict(name='picks', min_count=2, max_count=5)
SETS = {
  'id': {**WHOLE, 'max_count': 4, 'letters': 'abcdefghijklmnopqr'},
  'values': {**WHOLE, 'max_count': 4, 'letters': 'ijklmnopqrstuvwxyz'},
  'longer': {**WHOLE, 'min_count': 5, 'letters': 'abcdefghijklmnopqr'},
}
# Measures that outcomes by problem are kept of.
KEPT = ('id', 'values', 'longer', 'shifted')


@dataclasses.dataclass(frozen=True)
class Look:
  """Probe `look(params, reward_params, key)` of a policy and a reward model.

  model         of the policy; `scorer` of the reward model
  problems      held-out ones N of each set, a multiple of `samples`
  samples       outputs S of each
  best_of       completions that an output is chosen from by the reward model
  temperatures  of the sampling
  sets          of SETS
  part          'test' or 'validation': of the set in distribution, on which
                choices are made, halves of the held-out problems that have none
                in common

  For each temperature and set, as 'SET@T/NAME': accuracy and problems (the same
  by problem [N]), score (mean reward),
  pairs (how often the reward model ranks a right completion above a wrong one
  of the same problem), distinct and solutions (different outputs and different
  right ones of S, a share and a number), ead, of the S outputs for one problem,
  and ead_across, of outputs for S problems, one for each: alike but for where
  the outputs come from.
  """

  model: ModelConfig
  scorer: ModelConfig
  problems: int
  samples: int
  heldout_fraction: float
  best_of: int = 1
  temperatures: tuple[float, ...] = (1.0,)
  sets: tuple[str, ...] = tuple(SETS)
  part: str = 'test'

  def __call__(
    self, params: PyTree, reward_params: PyTree, key: Array
  ) -> dict[str, Array]:
    drawn = [
      (self.drawn(name, key), jnp.float32(temperature))
      for temperature in self.temperatures
      for name in self.sets
    ]
    parts = jax.tree.map(lambda *xs: jnp.stack(xs), *drawn)
    one = lambda part: self._of_set(params, reward_params, *part, key)
    # One set at a time: memory.
    found = jax.lax.map(one, parts)
    names = [f'{name}@{t:g}' for t in self.temperatures for name in self.sets]
    return {
      f'{name}/{what}': values[i]
      for what, values in found.items()
      for i, name in enumerate(names)
    }

  def drawn(self, name: str, key: Array) -> Example:
    """The problems of a set that `key` stands for."""
    place = list(SETS).index(name)
    return split.sample_batch(
      tasks.make(**SETS[name]), jax.random.fold_in(key, place), self.problems,
      heldout=True, fraction=self.heldout_fraction,
      part=self.part if name == 'id' else '',
    )  # fmt: skip

  def _of_set(
    self,
    params: PyTree,
    reward_params: PyTree,
    part: Example,
    temperature: Array,
    key: Array,
  ) -> dict[str, Array]:
    task = tasks.make(**WHOLE)
    samples = rollout.generate(
      params, self.model, part.prompt, part.prompt_mask,
      jax.random.fold_in(key, len(SETS)),
      group_size=self.samples * self.best_of,
      max_new_tokens=task.completion_length,
      decoder=functools.partial(decoders.sample, temperature=temperature),
      eos_id=vocab.EOS, pad_id=vocab.PAD, prompt_ids=part.prompt_id,
    )  # fmt: skip
    scores = answers.answer_scores(reward_params, self.scorer, part, samples)
    verify = jax.vmap(jax.vmap(task.verify, (None, 0, 0)))
    right = verify(part, samples.completion, samples.mask)['reward']
    found = {'pairs': ranked(scores, right)}
    if self.best_of > 1:
      samples, scores, right = best_of(self.best_of, samples, scores, right)
    text = samples.completion, samples.mask
    # Outputs for one problem, and for S problems, in groups of one size.
    groups = jax.tree.map(lambda x: jnp.concatenate([x, _across(x)]), text)
    ead = diversity.expectation_adjusted_distinct(*groups, ALPHABET)
    within, across = jnp.split(ead, 2)
    return found | {
      'accuracy': jnp.mean(right),
      'problems': jnp.mean(right, axis=1),
      'score': jnp.mean(scores),
      'distinct': jnp.mean(diversity.distinct(*text)),
      'solutions': jnp.mean(diversity.distinct_correct(*text, right)),
      'ead': jnp.mean(within),
      'ead_across': jnp.mean(across),
    }


def _across(x: Array) -> Array:
  """[N, S, ...] S outputs for each problem -> as many groups of S outputs for
  S neighbouring problems."""
  blocks = x.reshape(-1, x.shape[1], *x.shape[1:])
  return jnp.swapaxes(blocks, 1, 2).reshape(x.shape)


def best_of(
  count: int, samples: Rollout, scores: Array, right: Array
) -> tuple[Rollout, Array, Array]:
  """The best-scored of every `count` completions, no completion used twice.

  scores, right  [N, S * count]; returns [N, S, ...] of each
  """
  size = scores.shape[0]
  blocks = lambda x: x.reshape(-1, count, *x.shape[2:])
  back = lambda x: x.reshape(size, -1, *x.shape[2:])
  pick = lambda x: jnp.max(x, axis=1)
  own = blocks(scores)
  chosen = select.best_of_n(jax.tree.map(blocks, samples), own)
  index = jnp.argmax(own, axis=1)[:, None]
  verdict = jnp.take_along_axis(blocks(right), index, axis=1)[:, 0]
  return (
    jax.tree.map(back, chosen),
    pick(own).reshape(size, -1),
    verdict.reshape(size, -1),
  )


def lost(before: Any, after: Any) -> np.ndarray:
  """How much of a measure is gone, in % of what it was, seed by seed."""
  return 100.0 * (1.0 - np.asarray(after, float) / np.asarray(before, float))


class Judge:
  """Measures stages of a study.

  base    what all of it starts from
  start   the policy that RLHF begins from
  scorer  the reward model, for all arms
  """

  def __init__(
    self,
    runs: lab.Lab,
    look: Look,
    base: lab.Trained,
    start: lab.Trained,
    scorer: lab.Trained,
  ):
    self._lab, self._look, self._base = runs, look, base
    self._start, self._scorer = start, scorer

  def _seen(self, stage: lab.Trained, **keys) -> dict[str, np.ndarray]:
    """What `Look` says, an array of seeds each; `keys` change its fields."""
    look = dataclasses.replace(self._look, **keys)
    found = self._lab.measure(stage, look, self._scorer)
    return {name: np.asarray(values) for name, values in found.items()}

  def counts(self) -> dict[str, dict[str, int]]:
    """How many different problems each set is measured on."""
    found = {}
    for name in SETS:
      keys = self._lab.split_keys('test')
      test = [self._look.drawn(name, key) for key in keys]
      other = []
      if name == 'id':
        look = dataclasses.replace(self._look, part='validation')
        keys = self._lab.split_keys('validation')
        other = [look.drawn(name, key) for key in keys]
      found[name] = lab.counts(tasks.make(**SETS[name]), test, other)
    return found

  def values(
    self, stage: lab.Trained, **keys
  ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(the measures of an arm, shares of right answers by problem [S, N])."""
    found = self._seen(stage, **keys)
    (heat,) = keys.get('temperatures', (1.0,))
    of = lambda what, name='id': found[f'{name}@{heat:g}/{what}']
    base = self._seen(self._base)
    start = self._seen(self._start)
    outcomes = {name: of('problems', name) for name in SETS}
    outcomes['shifted'] = (outcomes['values'] + outcomes['longer']) / 2.0
    right = {name: 100.0 * outcomes[name].mean(1) for name in KEPT}
    gained = lambda before: right['id'] - 100.0 * before['id@1/accuracy']
    within = lost(start['id@1/ead'], of('ead'))
    across = lost(start['id@1/ead_across'], of('ead_across'))
    shifted = (of('pairs', 'values') + of('pairs', 'longer')) / 2.0
    values = right | {
      'gained': gained(base),
      'added': gained(start),
      'gap': right['id'] - right['shifted'],
      'ead': of('ead'),
      'ead_across': of('ead_across'),
      'within_lost': within,
      'across_lost': across,
      'narrowing': within - across,
      'distinct': 100.0 * of('distinct'),
      'solutions': of('solutions'),
      'score': of('score'),
      'ranked': 100.0 * of('pairs'),
      'ranked_shifted': 100.0 * shifted,
    }
    return values, outcomes
