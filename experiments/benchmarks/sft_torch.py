r"""A supervised step: tokens a second, against transformers and torch's AdamW.

  python -m experiments.benchmarks.sft_torch --repetitions 15

128 rows of 128 tokens, every token counts; forward, backward, gradient
clipping at norm 1, AdamW. Same weights on both sides. The peer is a plain loop
over Qwen2ForCausalLM, with SDPA or eager attention and torch's fused AdamW.
(The Trainer of transformers does more than this loop.) Both sides run with all
rows at once and in micro-batches of 8, whose gradients they add: less memory is
taken from the system and given back. The fastest of each side counts.
"""

import jax
import numpy as np

from experiments.benchmarks import common, generate_hf, ours, ours_steps
from posttrain_jax.models import transformer

ROWS, LENGTH = 128, 128
PEERS = ('sdpa', 'eager')
MICRO = 8


class Ours:
  """One step of our trainer on the same rows."""

  def __init__(self, size: str, params, tokens, micro: int = 0):
    steps = ours_steps.supervised_steps(size, micro=micro)
    self._run = ours_steps.Runner(steps)
    self._run.state = jax.jit(steps.init)(params)
    self._batch = ours_steps.full_rows(tokens)

  def __call__(self) -> float:
    self._run(self._batch)
    return self._batch.tokens.size

  @property
  def loss(self) -> float:
    """Of the latest step."""
    return float(self._run.metrics['loss'])


class Peer:
  """One step of a torch loop."""

  def __init__(self, size: str, params, tokens, attention: str, micro: int = 0):
    import torch

    config = ours.model_config(size)
    self._torch = torch
    self._model = generate_hf.hf_model(config, params, attention).train()
    self._rows = torch.tensor(np.asarray(tokens), dtype=torch.long)
    self._micro = micro or len(self._rows)
    self._optimizer = torch.optim.AdamW(
      self._model.parameters(),
      lr=ours.LEARNING_RATE,
      weight_decay=0.0,
      fused=True,
    )
    self.loss = 0.0

  def __call__(self) -> float:
    parts = self._rows.split(self._micro)
    total = 0.0
    for part in parts:  # of equal size, so the mean is the mean of means
      out = self._model(part, labels=part)
      (out.loss / len(parts)).backward()
      total += float(out.loss.detach())
    self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
    self._optimizer.step()
    self._optimizer.zero_grad()
    self.loss = total / len(parts)
    return self._rows.numel()


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  flags = parser.parse_args(argv)
  session = common.Session('sft_torch', flags)
  size, rows, length = ('toy', 4, 8) if flags.toy else ('1m', ROWS, LENGTH)
  config = ours.model_config(size)
  params = transformer.init(jax.random.key(0), config)
  tokens = jax.random.randint(jax.random.key(1), (rows, length), 3, ours.VOCAB)
  micro = min(MICRO, rows // 2)
  works = {'ours': Ours(size, params, tokens)}
  works['ours micro'] = Ours(size, params, tokens, micro)
  if absent := common.missing('torch', 'transformers'):
    session.notes.append(common.note_missing(absent, 'torch'))
  else:
    for kind in PEERS:
      works[f'peer {kind}'] = Peer(size, params, tokens, kind)
    works['peer sdpa micro'] = Peer(size, params, tokens, 'sdpa', micro)
  sides = {name: common.timed(work) for name, work in works.items()}
  turns = common.alternate(sides, flags.repetitions, flags.warmup)
  session.results = {
    'work': {'size': size, 'rows': rows, 'length': length, 'micro': micro},
    'parameters': transformer.param_count(config),
    # After equally many steps on equal rows from equal weights.
    'last_loss': {name: work.loss for name, work in works.items()},
    **common.compare(turns, 'tokens'),
  }
  session.write()
  return session


if __name__ == '__main__':
  main()
