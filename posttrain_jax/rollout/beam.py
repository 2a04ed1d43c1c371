"""Beam search inside one compiled program.

`search` keeps the `beams` most likely open beginnings of a completion of each
prompt and, apart from them, the `beams` best complete ones. Nothing is drawn:
there is no key, and a prompt's result does not depend on its batch.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax.core import stops, vocabulary
from posttrain_jax.core.stops import Ends
from posttrain_jax.core.types import Array, PyTree, Rollout
from posttrain_jax.models import transformer
from posttrain_jax.models.cache import by_rows
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import layout
from posttrain_jax.rollout.guide import Guide, start_rows
from posttrain_jax.rollout.work import prefill

__all__ = ['search']


class _Open(NamedTuple):
  """Beginnings [B, N, ...], the most likely first.

  tokens, logps  [B, N, C]
  total          [B, N] sum of logps; -inf: there is none
  state          the guide's, after the tokens
  """

  tokens: Array
  logps: Array
  total: Array
  state: PyTree


class _Closed(NamedTuple):
  """Complete ones, the best first; score -inf and length 0: there is none."""

  tokens: Array
  logps: Array
  length: Array
  score: Array
  stopped: Array


@dataclasses.dataclass(frozen=True)
class _Rules:
  """What does not change during a search."""

  beams: int
  size: int
  eos_id: Ends
  length_penalty: float | Array
  early_stopping: bool | str
  guide: Guide

  @property
  def candidates(self) -> int:
    """Continuations looked at: were all ends likely, `beams` stay open."""
    return (1 + stops.count(self.eos_id)) * self.beams

  def score(self, total: Array, length: Array | int) -> Array:
    return total / jnp.asarray(length, total.dtype) ** self.length_penalty


def search(
  params: PyTree,
  config: ModelConfig,
  prompts: Array,
  prompt_mask: Array,
  *,
  beams: int,
  max_new_tokens: int,
  eos_id: Ends,
  pad_id: int = 0,
  length_penalty: float | Array = 1.0,
  early_stopping: bool | str = False,
  guide: Guide | None = None,
) -> tuple[Rollout, Array]:
  """The completions of B prompts that beam search finds, the best first.

  A completion's score is the sum of its log-probabilities over length **
  length_penalty; the length counts the end token. Stopping and what may become
  a result follow transformers 5's `generate(num_beams=...)`: 2 * beams
  candidates a step (one more for each further end token), of which the first
  `beams` may end.

  prompts         [B, P] int32, right-padded, at least one real token a row
  prompt_mask     [B, P], 1 on real tokens
  length_penalty  above 0 favours long completions, below 0 short ones
  early_stopping  when a prompt is done, given that `beams` completions are:
                  True at once; False when the best beginning scores no better
                  as it stands than the worst of them; 'never' when it could
                  not even at full length, were the rest of it certain
  guide           changes logits and ends completions (`rollout.guides`);
                  log-probabilities are those after it. What it forces is not
                  supported

  Returns a Rollout of [B, beams, C] arrays with C = max_new_tokens, and the
  scores [B, beams]. Where fewer than `beams` completions exist at all, the last
  ones are empty and score -inf.

  Raises:
    ValueError: beams or max_new_tokens below 1, an unknown early_stopping, or
      a guide that forces tokens.
  """
  guide = guide or Guide()
  _check(beams, max_new_tokens, early_stopping, guide)
  rules = _Rules(
    beams, max_new_tokens, eos_id, length_penalty, early_stopping, guide
  )
  asked = prompts.shape[0]
  there = layout.rows_of(asked, 1, config)
  prompts, prompt_mask = there.of_prompts((prompts, prompt_mask))
  reading, params = layout.weights(params, config)
  with jax.named_scope('prefill'):
    logits, prefix = prefill(reading, params, config, prompts, prompt_mask)
  with jax.named_scope('beam_search'), layout.decoding(config):
    closed = _decode(
      rules, params, config, prompts, prompt_mask, logits, prefix
    )
  if there.moved:
    closed = jax.tree.map(lambda x: x[:asked], closed)
  mask = jnp.arange(max_new_tokens)[None, None] < closed.length[..., None]
  found = Rollout(
    completion=jnp.where(mask, closed.tokens, pad_id),
    mask=mask.astype(jnp.float32),
    logps=jnp.where(mask, closed.logps, 0.0),
    finished=closed.stopped.astype(jnp.float32),
  )
  return found, closed.score


def _check(beams, max_new_tokens, early_stopping, guide) -> None:
  for name, value in (('beams', beams), ('max_new_tokens', max_new_tokens)):
    if value < 1:
      raise ValueError(f'beam search: {name}={value} is not at least 1')
  if early_stopping != 'never' and not isinstance(early_stopping, bool):
    raise ValueError(
      f'beam search: early_stopping={early_stopping!r} is not True, False or '
      "'never'"
    )
  if guide.forces:
    raise ValueError(
      f'beam search: guide {type(guide).__name__} forces tokens, which have no '
      'log-probability to compare beams by; use `rollout.generate`'
    )


def _decode(
  rules, params, config, prompts, prompt_mask, first_logits, prefix
) -> _Closed:
  b, k = prompts.shape[0], rules.beams
  starts = jnp.repeat(prompt_mask.astype(jnp.int32).sum(axis=1), k)
  shape, dtype = (b, k, rules.size), first_logits.dtype
  start = _Open(
    tokens=jnp.zeros(shape, jnp.int32),
    logps=jnp.zeros(shape, dtype),
    # All beams are the same empty beginning: one of them counts.
    total=jnp.full((b, k), -jnp.inf, dtype).at[:, 0].set(0.0),
    state=start_rows(rules.guide, prompts, prompt_mask, k),
  )
  closed = _Closed(
    tokens=start.tokens,
    logps=start.logps,
    length=jnp.zeros((b, k), jnp.int32),
    score=jnp.full((b, k), -jnp.inf, dtype),
    stopped=jnp.zeros((b, k), bool),
  )
  logits = jnp.repeat(first_logits[:, None], k, axis=1)
  active = jnp.ones((b,), bool)
  running, closed, active, _ = _step(rules, start, closed, active, logits, 0)
  cache = layout.cache(transformer.init_cache(config, b * k, rules.size))

  def advance(carry):
    t, running, closed, active, cache = carry
    last = jax.lax.dynamic_index_in_dim(running.tokens, t - 1, 2, False)
    logits, cache = transformer.apply(
      params,
      config,
      last.reshape(b * k, 1),
      positions=(starts + t - 1)[:, None],
      # The prefix stays outside the loop's carry: it is read, never written.
      cache=cache.replace(prefix=prefix),
    )
    assert cache is not None  # One was given.
    running, closed, active, parents = _step(
      rules, running, closed, active, logits.reshape(b, k, -1), t
    )
    running, closed, active = layout.rows((running, closed, active))
    later, cache = t + 1, layout.cache(_reorder(cache.own(), parents))
    return later, running, closed, active, cache

  running, closed, active = layout.rows((running, closed, active))
  carry = (jnp.int32(1), running, closed, active, cache)
  return jax.lax.while_loop(
    lambda c: (c[0] < rules.size) & jnp.any(c[3]), advance, carry
  )[2]


def _step(rules, running, closed, active, logits, t):
  """Reads token t: (running, closed, active, parents [B, beams])."""
  candidates, parents, stopped = _candidates(rules, running, logits, t)
  closed = _close(rules, closed, candidates, stopped, active, t)
  total = jnp.where(stopped, -jnp.inf, candidates.total)
  total, index = jax.lax.top_k(total, rules.beams)
  running = _pick(candidates, index)._replace(total=total)
  worst = jnp.min(closed.score, axis=1)  # -inf until all are there
  length = t + 1
  if rules.early_stopping == 'never':
    length = jnp.where(
      jnp.asarray(rules.length_penalty) > 0, rules.size, length
    )
  active &= rules.score(total[:, 0], length) > worst
  if rules.early_stopping is True:
    active &= jnp.isneginf(worst)
  return running, closed, active, _pick(parents, index)


def _candidates(rules, running, logits, t):
  """The likeliest continuations: (them, parents, stopped)."""
  guide, (b, k, v) = rules.guide, logits.shape
  if guide.adjusts:
    logits = _each(guide.adjust)(running.state, logits)
  log_probs = jax.nn.log_softmax(logits)
  totals = running.total[..., None] + log_probs
  total, flat = _likeliest(totals, rules.candidates)
  parents, token = flat // v, (flat % v).astype(jnp.int32)
  if vocabulary.parts(v) == 1:
    logp = jnp.take_along_axis(log_probs.reshape(b, k * v), flat, axis=1)
  else:
    logp = vocabulary.taken(_pick(log_probs, parents), token)
  tokens, logps, state = _pick(
    (running.tokens, running.logps, running.state), parents
  )
  column = lambda buffer, x: jax.lax.dynamic_update_slice_in_dim(
    buffer, x[..., None], t, axis=2
  )
  state = _each(guide.read)(state, token)
  stopped = stops.reached(token, rules.eos_id) & guide.eos_ends
  if jax.tree.leaves(state):
    stopped |= _each(guide.ended)(state)
  candidates = _Open(column(tokens, token), column(logps, logp), total, state)
  return candidates, parents, stopped


def _likeliest(totals: Array, count: int) -> tuple[Array, Array]:
  """The largest of totals [B, N, V], and their places in [B, N * V]."""
  b, n, v = totals.shape
  if vocabulary.parts(v) == 1:
    return jax.lax.top_k(totals.reshape(b, n * v), count)
  best, token = vocabulary.top_k(totals, min(count, v))
  places = token + v * jax.lax.broadcasted_iota(token.dtype, token.shape, 1)
  places = places.reshape(b, -1)
  best, which = jax.lax.top_k(best.reshape(b, -1), count)
  return best, jnp.take_along_axis(places, which, axis=1)


def _close(rules, closed, candidates, stopped, active, t) -> _Closed:
  """The best of the complete ones so far and those complete with token t."""
  # Candidates after the first `beams` only fill up the running ones.
  enters = jnp.arange(rules.candidates)[None] < rules.beams
  enters &= active[:, None] & (stopped | (t + 1 == rules.size))
  score = jnp.where(enters, rules.score(candidates.total, t + 1), -jnp.inf)
  exists = score > -jnp.inf
  new = _Closed(
    tokens=candidates.tokens,
    logps=candidates.logps,
    length=jnp.where(exists, t + 1, 0).astype(jnp.int32),
    score=score,
    stopped=stopped & exists,
  )
  both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], 1), closed, new)
  return _pick(both, jax.lax.top_k(both.score, rules.beams)[1])


def _each(function):
  return jax.vmap(jax.vmap(function))


def _pick(tree: PyTree, index: Array) -> PyTree:
  """Leaves [B, N, ...] -> [B, M, ...] by index [B, M]."""
  return jax.tree.map(lambda x: jax.vmap(lambda x, i: x[i])(x, index), tree)


def _reorder(cache: transformer.Cache, parents: Array) -> transformer.Cache:
  """The cache whose rows of each beam are those of its parent."""

  def move(x, axis):
    if axis:
      return jax.vmap(lambda x: move(x, axis - 1))(x)
    grouped = x.reshape(*parents.shape, *x.shape[1:])
    return _pick(grouped, parents).reshape(x.shape)

  return by_rows(move, cache)
