"""Demonstrations or own answers with marks on the tokens that matter."""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.collect.setting import (
  Setting,
  Spent,
  demonstrated,
  keep_rows,
  reward_metrics,
  rows_of,
)
from posttrain_jax.core.stops import Ends, reached
from posttrain_jax.core.types import Array, Batch, Rollout, TrainState
from posttrain_jax.models import transformer
from posttrain_jax.rollout import decoders

__all__ = ['counterfactual', 'oracle_with_wrong']

Rows = tuple[Batch, dict[str, Array]]


def _common(a: Array, b: Array, size_a: Array, size_b: Array) -> Array:
  """[C] True where a token of `a` is in its longest common subsequence with b.

  The table of longest common subsequences of suffixes, filled from the end,
  then walked from the start.
  """
  length = a.shape[0]

  def fill(below: Array, i: Array):
    # below[j] = LCS(a[i + 1:], b[j:])
    def cell(right, j):
      live = (i < size_a) & (j < size_b)
      same = (a[i] == b[j]) & live
      best = jnp.where(same, below[j + 1] + 1, jnp.maximum(below[j], right))
      return jnp.where(live, best, 0), jnp.where(live, best, 0)

    order = jnp.arange(length - 1, -1, -1)
    _, row = jax.lax.scan(cell, jnp.int32(0), order)
    row = jnp.append(row[::-1], 0)
    return row, row

  start = jnp.zeros((length + 1,), jnp.int32)
  _, table = jax.lax.scan(fill, start, jnp.arange(length - 1, -1, -1))
  table = jnp.concatenate([table[::-1], start[None]])  # [C + 1, C + 1]

  def walk(carry, _):
    i, j, marked = carry
    inside = (i < size_a) & (j < size_b)
    same = a[jnp.minimum(i, length - 1)] == b[jnp.minimum(j, length - 1)]
    same = same & inside
    at = jnp.minimum(i, length - 1)
    marked = marked.at[at].set(marked[at] | same)
    down = (
      table[jnp.minimum(i + 1, length), j]
      >= table[i, jnp.minimum(j + 1, length)]
    )
    step_i = inside & (same | down)
    step_j = inside & (same | ~down)
    return (i + step_i, j + step_j, marked), None

  blank = (jnp.int32(0), jnp.int32(0), jnp.zeros((length,), bool))
  (_, _, marked), _ = jax.lax.scan(walk, blank, None, length=2 * length)
  return marked


def changed_tokens(
  tokens: Array, mask: Array, other: Array, other_mask: Array
) -> Array:
  """[B, C] 1.0 on tokens that the other sequence does not share, in order."""
  sizes = mask.sum(axis=1).astype(jnp.int32)
  other_sizes = other_mask.sum(axis=1).astype(jnp.int32)
  shared = jax.vmap(_common)(tokens, other, sizes, other_sizes)
  return jnp.where(shared, 0.0, 1.0) * (mask > 0)


def _departures(
  tokens: Array, mask: Array, samples: Rollout, wrong: Array
) -> Array:
  """[B, C] 1.0 where a wrong sample first departs from the demonstration."""
  differ = tokens[:, None] != jnp.where(
    samples.mask > 0, samples.completion, -1
  )
  first = (jnp.cumsum(differ, axis=-1) == 1) & differ
  first = first & (wrong > 0)[:, :, None]
  return jnp.any(first, axis=1) * (mask > 0).astype(jnp.float32)


def oracle_with_wrong(
  setting: Setting,
  state: TrainState,
  key: Array,
  *,
  sampler: str = 'ref',
) -> Rows:
  """Demonstrations, each beside wrong answers of a model to the same problem.

  Extras:
    wrong          Batch [B, T], the first wrong one of `group_size` samples; a
                   problem without one has an empty mask there
    changed        [B, T] tokens of the demonstration that it does not share
    wrong_changed  [B, T] its tokens that the demonstration does not share
    keys           [B, T] tokens at which a wrong sample first departs from the
                   demonstration: where a choice was made

  Tokens are aligned by their longest common subsequence.

  References: Fan et al. (2025), FAIT, https://arxiv.org/abs/2503.16913 (the
  wrong variants are a teacher's there); Ye et al. (2024), TL-Training,
  https://arxiv.org/abs/2412.15495 (keys, there after shared prefixes of tool
  names)
  """
  attempt_key, solve_key = jax.random.split(key)
  examples, samples, rewards = setting.attempts(
    state, sampler, attempt_key, setting.group_size
  )
  wrong = (rewards < 1.0).astype(jnp.float32)
  pick = jnp.argmax(wrong, axis=1)[:, None, None]
  take = lambda x: jnp.take_along_axis(x, pick, axis=1)[:, 0]
  other = take(samples.completion)
  other_mask = take(samples.mask) * jnp.max(wrong, axis=1)[:, None]
  given = None if samples.given is None else take(samples.given)
  tokens, mask = setting.solve(examples, solve_key)
  batch = demonstrated(setting, examples, tokens, mask)
  prompts = (examples.prompt, examples.prompt_mask)
  lengths = examples.prompt_mask.astype(jnp.int32).sum(axis=1)
  place = lambda x: rollout.place(x, lengths, batch.mask.shape[1])
  changed = changed_tokens(tokens, mask, other, other_mask)
  # Without a wrong answer nothing is known to matter.
  changed = changed * jnp.max(wrong, axis=1)[:, None]
  extras = {
    'wrong': rollout.assemble(*prompts, other, other_mask, given),
    'changed': place(changed),
    'wrong_changed': place(changed_tokens(other, other_mask, tokens, mask)),
    'keys': place(_departures(tokens, mask, samples, wrong)),
  }
  return batch.replace(extras=extras), reward_metrics(rewards)


def _ranked_alternatives(
  setting: Setting, state: TrainState, sampler: str, batch: Batch
) -> Array:
  """[B, T, 2]: what the model ranks second and third at each token."""
  signals = transformer.token_logps(
    setting.params(state, sampler),
    setting.models[sampler],
    batch.tokens,
    batch.mask,
    positions=batch.positions,
    segment_ids=batch.segment_ids,
    logits=True,
  )
  return jax.lax.top_k(signals.logits, 3)[1][..., 1:]


def counterfactual(
  setting: Setting, state: TrainState, key: Array, *, sampler: str = 'ref'
) -> Rows:
  """A model's own right answers, with the tokens that decided them.

  The model answers greedily; wrong answers are left out. At each of its tokens
  its second-ranked choice, and separately the third, is forced, and the answer
  is finished greedily: where both end wrong the token is critical. This costs
  2 C further completions of a row.

  Extras: `critical` [B, T].

  Reference: Ruan et al. (2025), https://arxiv.org/abs/2510.10974
  """
  example_key, sample_key = jax.random.split(key)
  examples = setting.examples(example_key)
  own = setting.sample(state, sampler, examples, sample_key, 1, greedy=True)
  rewards = setting.verify(examples, own.completion, own.mask)
  right = rewards[:, 0] >= 1.0
  batch = keep_rows(rows_of(examples, own), right)
  other = _ranked_alternatives(setting, state, sampler, batch)
  rows, total = batch.mask.shape
  length = own.completion.shape[-1]
  lengths = examples.prompt_mask.astype(jnp.int32).sum(axis=1)

  def ends_wrong(t: Array, which: int) -> tuple[Array, Array]:
    """[B] whether forcing alternative `which` at completion token t fails, and
    how many tokens that took."""
    column = lengths + t
    at = jnp.minimum(column, total - 1)[:, None]
    forced = jnp.take_along_axis(other[..., which], at, axis=1)
    places = jnp.arange(total)[None]
    prompt = jnp.where(places == column[:, None], forced, batch.tokens)
    prompt_mask = (places <= column[:, None]).astype(jnp.float32)
    rest = rollout.generate(
      setting.params(state, sampler),
      setting.models[sampler],
      prompt,
      prompt_mask,
      sample_key,
      group_size=1,
      max_new_tokens=length,
      decoder=decoders.greedy,
      eos_id=setting.eos_id,
      pad_id=setting.pad_id,
    )
    answer, mask = _after(prompt, rest, lengths, t, setting.eos_id)
    rewards = aside.verify(examples, answer[:, None], mask[:, None])
    return rewards[:, 0] < 1.0, rest.num_generated()

  def critical_at(t: Array) -> tuple[Array, Array]:
    second, written = ends_wrong(t, 0)
    third, also = ends_wrong(t, 1)
    return second & third, written + also

  # The loop's body is traced once: what it takes is added up here.
  aside = dataclasses.replace(setting, spent=Spent())
  found, written = jax.lax.map(critical_at, jnp.arange(length))  # [C, B]
  setting.spent.generated += jnp.sum(written)
  setting.spent.verified += length * aside.spent.verified
  critical = found.T.astype(jnp.float32) * own.mask[:, 0]
  marks = rollout.place(critical, lengths, total) * batch.mask
  metrics = reward_metrics(rewards, right)
  metrics['frac_critical'] = jnp.sum(marks) / jnp.maximum(
    jnp.sum(batch.mask), 1.0
  )
  return batch.replace(extras={'critical': marks}), metrics


def _after(
  prompt: Array, rest: Rollout, lengths: Array, t: Array, eos_id: Ends
) -> tuple[Array, Array]:
  """The answer [B, C] whose first t + 1 tokens stand in `prompt`."""
  size = rest.completion.shape[-1]
  columns = jnp.arange(size)[None]
  place = jnp.minimum(lengths[:, None] + columns, prompt.shape[1] - 1)
  head = jnp.take_along_axis(prompt, place, axis=1)
  index = jnp.clip(columns - t - 1, 0, size - 1)
  index = jnp.broadcast_to(index, head.shape)
  tail = jnp.take_along_axis(rest.completion[:, 0], index, axis=1)
  tail_mask = jnp.take_along_axis(rest.mask[:, 0], index, axis=1)
  is_head = columns <= t
  # A forced end token ends the answer: nothing after it counts.
  ended = jnp.any(is_head & reached(head, eos_id), axis=1, keepdims=True)
  answer = jnp.where(is_head, head, tail)
  mask = jnp.where(is_head, 1.0, jnp.where(ended, 0.0, tail_mask))
  return answer, mask
