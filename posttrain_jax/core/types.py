"""The records that travel through a run, and the shape legend.

  B rows   T tokens of a row   P prompt tokens   C completion tokens
  G completions of one prompt  V vocabulary      L layers   D width

Every per-token array is aligned to the token it speaks of:
`logps[b, t] = log pi(tokens[b, t] | tokens[b, :t])`, 0.0 where `mask` is 0.
Masks and lengths are data: nothing is ever inferred from token ids, so `pad`
may equal `eos` or any common token.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import numpy as np
from flax import struct

Array = jax.Array
PyTree = Any


class Record:
  """Base of the records."""

  if TYPE_CHECKING:  # flax's decorator adds it

    def replace(self, **changes: Any) -> Self: ...

  def need(self, name: str) -> Array:
    """The array of that name.

    Raises:
      ValueError: it is None here.
    """
    array = getattr(self, name)
    if array is None:
      raise ValueError(f'{type(self).__name__}.{name} is None; it is needed')
    return array


class Derived(Record):
  """A frozen model that is not held, but made of the policy's parameters."""

  def of(self, params: PyTree) -> PyTree:
    """The model's parameters; `params` are the policy's."""
    raise NotImplementedError


@struct.dataclass
class Example(Record):
  """One problem. Tasks make them unbatched; `vmap` adds the leading B.

  prompt       [P] int32, right-padded
  prompt_mask  [P] float32, 1.0 on real prompt tokens
  prompt_id    []  uint32 identity of the prompt in its step: completions are
               keyed by it, never by the row it happens to sit in
  answer       what the verifier needs; a dict of arrays the task defines
  """

  prompt: Array
  prompt_mask: Array
  prompt_id: Array
  answer: dict[str, Array]


@struct.dataclass
class Rollout(Record):
  """Completions of B prompts, G each.

  completion  [B, G, C] int32; after the end: the pad id
  mask        [B, G, C] float32, 1.0 up to and including the stop token
  logps       [B, G, C] log-probability of each token under the distribution
              it was drawn from
  finished    [B, G] float32, 1.0 where a stop token ended it (0.0: truncated)
  given       [B, G, C] 1.0 on tokens that the model did not choose (a forced
              prefix, an environment's observations), or None: it chose all
  """

  completion: Array
  mask: Array
  logps: Array
  finished: Array
  given: Array | None = None

  @property
  def chosen(self) -> Array:
    """[B, G, C] float32, 1.0 on the tokens that the model wrote itself."""
    if self.given is None:
      return self.mask
    return self.mask * (1.0 - self.given)

  def num_generated(self) -> Array:
    """How many tokens the model wrote."""
    return self.chosen.sum()


@struct.dataclass
class Batch(Record):
  """Rows that the learner sees; what a method does not need is None.

  tokens       [B, T] int32, prompt then completion, contiguous from 0
  mask         [B, T] float32, 1.0 where a token counts in the loss
  segment_ids  [B, T] int32, 0 on padding; tokens attend within their segment
  positions    [B, T] int32, position inside the segment
  old_logps    [B, T] under the policy that sampled
  ref_logps    [B, T] under the frozen reference
  advantages   [B, T]
  returns      [B, T] targets of the value head
  old_values   [B, T] value head when the batch was sampled
  weights      [B, T] token weights, multiplied into the token loss
  starts       [B] int32, column of the first token after the prompt
  guide        states [B, T, ...] of the sampler's guide before each token,
               where the learner has to replay it (`rollout.guides`)
  extras       further arrays by the name that a method asks for, rows leading
               (`scores` [B], `negative` [B, T], ...), or Batches of B rows
  """

  tokens: Array
  mask: Array
  segment_ids: Array
  positions: Array
  old_logps: Array | None = None
  ref_logps: Array | None = None
  advantages: Array | None = None
  returns: Array | None = None
  old_values: Array | None = None
  weights: Array | None = None
  starts: Array | None = None
  guide: PyTree | None = None
  extras: dict[str, Any] = struct.field(default_factory=dict)


@struct.dataclass
class TokenSignals(Record):
  """What a learner's forward pass says about each token of a batch.

  logps      [B, T] log-probability of the taken token
  entropy    [B, T] entropy of the distribution it was taken from, or None
  is_top     [B, T] 1.0 where the taken token is the most likely one, or None
  logits     [B, T, V] that distribution's logits (aligned: `logits[:, t]`
             scores token t), or None where nothing asks for them
  ref_logps  [B, T] the same token under the frozen reference, or None
  old_logps  [B, T] the same token under the policy that sampled, or None
  values     [B, T] value of the state before token t, or None
  values_after  [B, T] of the state after it, where a reward model is read, or
             None where nothing asks for them
  """

  logps: Array
  entropy: Array | None = None
  is_top: Array | None = None
  logits: Array | None = None
  ref_logps: Array | None = None
  old_logps: Array | None = None
  values: Array | None = None
  values_after: Array | None = None


@struct.dataclass
class SequenceSignals(Record):
  """One side of a preference pair, scored by one model.

  logps        [B] summed log-probability of the completion
  length       [B] number of completion tokens
  token_logps  [B, T] per-token log-probabilities, 0.0 where `mask` is 0
  mask         [B, T] 1.0 on completion tokens
  """

  logps: Array
  length: Array
  token_logps: Array
  mask: Array


class Judged(NamedTuple):
  """What G answers to each of B problems earn, judged in Python.

  rewards   [B, G] float32
  correct   [B, G] float32, 1.0 where an answer is right
  unscored  [B, G] float32, 1.0 where nothing judges an answer: its reward is 0
  scores    {label: [B, G]} of single rewards; nan where one does not apply
  """

  rewards: np.ndarray
  correct: np.ndarray
  unscored: np.ndarray
  scores: dict[str, np.ndarray]


@struct.dataclass
class TrainState(Record):
  """All that a run is, besides its config; one checkpoint holds it.

  step        [] int32, optimizer-visible steps done (one per `step` call)
  params      trained parameters
  opt_state   optax state
  ref_params  frozen reference policy, or None where no method asks for it; or
              Derived from the policy. `model` is how it is read
  others      further frozen models by role ('teacher', 'base', ...)
  control     state and coefficients of controllers, by what they steer
  """

  step: Array
  params: PyTree
  opt_state: PyTree
  ref_params: PyTree | None = None
  others: dict[str, PyTree] = struct.field(default_factory=dict)
  control: dict[str, PyTree] = struct.field(default_factory=dict)

  def model(self, role: str) -> PyTree:
    """The parameters of 'policy', 'ref' or a role of `others`, as they are
    before the step."""
    if role == 'policy':
      return self.params
    held = self.ref_params if role == 'ref' else self.others[role]
    return held.of(self.params) if isinstance(held, Derived) else held
