"""The batch and the reference policy that TRL and posttrain_jax both see.

NumPy only: the script that runs TRL and the tests that do not both import it.
Eight rows; row i + 4 answers the prompt of row i again (as the rejected answer
of a pair). Arrays [8, 14] are aligned as in `posttrain_jax.types`.
"""

import numpy as np

ROWS = 8
WIDTH = 14  # the longest prompt and the longest completion
COMPLETION = 9
PAD, EOS = 0, 1
VOCABULARY = 64

_PROMPTS = np.array([3, 5, 1, 4])
_COMPLETIONS = np.array([7, 4, 2, 9, 6, 9, 1, 5])
_TRUNCATED = (3, 5)  # end at the budget, without a stop token

# What makes the frozen reference: every stored matrix W, in the sorted order
# of their names, becomes W + SCALE * rms(W) * normal(0, 1) from one generator.
REFERENCE_SEED = 6
REFERENCE_SCALE = 0.05


def perturbed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The reference policy's tensors, float32, from the policy's."""
  generator = np.random.default_rng(REFERENCE_SEED)
  out = {}
  for name in sorted(tensors):
    weight = tensors[name].astype(np.float64)
    noise = generator.standard_normal(weight.shape)
    scale = REFERENCE_SCALE * np.sqrt(np.mean(np.square(weight)))
    out[name] = (weight + scale * noise).astype(np.float32)
  return out


def _rows(prompts, completions) -> np.ndarray:
  tokens = np.full((ROWS, WIDTH), PAD, np.int32)
  for row, (prompt, completion) in enumerate(zip(prompts, completions)):
    joined = np.concatenate([prompt, completion])
    tokens[row, : len(joined)] = joined
  return tokens


def make() -> dict[str, np.ndarray]:
  """Everything but the log-probabilities of the older policies."""
  generator = np.random.default_rng(0)
  draw = lambda count: generator.integers(3, VOCABULARY, count)
  prompts = [draw(count) for count in _PROMPTS] * 2
  completions = [draw(count) for count in _COMPLETIONS]
  for row, completion in enumerate(completions):
    if row not in _TRUNCATED:
      completion[-1] = EOS
  moved = completions[-1:] + completions[:-1]
  return {
    'tokens': _rows(prompts, completions),
    'prompt_length': np.tile(_PROMPTS, 2),
    'completion_length': _COMPLETIONS.copy(),
    # KTO's answers of other prompts: the completions moved on by one row.
    'moved_tokens': _rows(prompts, moved),
    'moved_length': np.roll(_COMPLETIONS, 1),
    'advantages': np.array(
      [1.3, -0.7, 0.0, 0.4, -1.1, 0.9, -0.5, -0.1], np.float32
    ),
    'desirable': np.array([1, 0, 1, 1, 0, 0, 1, 0], np.int32),
    # V* of a prompt, for A*-PO.
    'optimal_value': np.tile(np.array([0.6, 0.3, 0.9, 0.5], np.float32), 2),
    'margin': np.array([0.0, 0.5, 1.0, -0.3], np.float32),
    'score': generator.normal(0.0, 0.3, 32).astype(np.float32),
    'old_noise': generator.normal(0, 0.35, (ROWS, WIDTH)).astype(np.float32),
    'sampler_noise': generator.normal(0, 0.3, (ROWS, WIDTH)).astype(np.float32),
  }


def mask_of(prompt_length, completion_length) -> np.ndarray:
  """[8, 14] float32, 1 on completion tokens."""
  column = np.arange(WIDTH)[None]
  start = np.asarray(prompt_length)[:, None]
  end = start + np.asarray(completion_length)[:, None]
  return ((column >= start) & (column < end)).astype(np.float32)


def real_of(prompt_length, completion_length) -> np.ndarray:
  """[8, 14] int32, 1 on prompt and completion tokens."""
  end = np.asarray(prompt_length) + np.asarray(completion_length)
  return (np.arange(WIDTH)[None] < end[:, None]).astype(np.int32)


def untruncated(batch) -> np.ndarray:
  """[8] int32, 1 on completions that a stop token ended."""
  return (batch['completion_length'] < COMPLETION).astype(np.int32)


def completion_view(x, prompt_length, fill=0) -> np.ndarray:
  """[8, 9] the completion's part of an array [8, 14]."""
  padded = np.pad(x, ((0, 0), (0, COMPLETION)), constant_values=fill)
  index = np.asarray(prompt_length)[:, None] + np.arange(COMPLETION)[None]
  return np.take_along_axis(padded, index, axis=1)


def row_view(x, prompt_length) -> np.ndarray:
  """[8, 14] from [8, 9]: the inverse of `completion_view`, 0 elsewhere."""
  out = np.zeros((ROWS, WIDTH + COMPLETION), x.dtype)
  index = np.asarray(prompt_length)[:, None] + np.arange(COMPLETION)[None]
  np.put_along_axis(out, index, x, axis=1)
  return out[:, :WIDTH]


def truncated_ratio(batch, mode: str, low, high) -> np.ndarray:
  """[8, 14] TRL's correction for a sampler that is not the trainer.

  mode 'token_truncate', 'token_mask', 'sequence_truncate' or 'sequence_mask';
  low and high may be None. TRL computes it while it samples, and its loss is
  handed the result.
  """
  mask = mask_of(batch['prompt_length'], batch['completion_length'])
  gap = (batch['old_logps'] - batch['sampler_logps']) * mask
  if mode.startswith('sequence'):
    gap = np.broadcast_to(gap.sum(1, keepdims=True), gap.shape)
  low = -np.inf if low is None else low
  high = np.inf if high is None else high
  ratio = np.exp(gap)
  if mode.endswith('truncate'):
    ratio = np.clip(ratio, low, high)
  else:
    ratio = np.where((ratio < low) | (ratio > high), 0.0, ratio)
  return ratio.astype(np.float32)
