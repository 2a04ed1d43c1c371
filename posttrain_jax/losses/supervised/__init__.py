"""Losses on demonstrations: one loss per token of a given response.

Every function here is called the same way and does no averaging:

  token_loss, metrics = loss(signals, mask, **hparams)

  signals     TokenSignals; each docstring says which of its arrays it reads
  mask        [B, T]  1.0 on the tokens that count
  token_loss  [B, T]  minimised, exactly 0 under the mask; `metrics` holds
              more [B, T] arrays

Averaging over tokens is a separate choice (`reduce.py`). So are detached token
weights (`token_weights.py`), of which many published objectives are made.
"""

from posttrain_jax.losses.supervised.likelihood import (
  dft,
  label_smoothing,
  nll,
)

__all__ = [
  'dft',
  'label_smoothing',
  'nll',
]
