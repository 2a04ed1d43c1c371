"""What a run writes down, and how to read it back.

`workdir/metrics.jsonl` holds one JSON object a line: first the header (config,
versions, devices, commit), then one row per step:

  {"header": {...}}
  {"step": 10, "split": "train", "time": 1767225600.0, "loss": 0.71, ...}

`Writer` never makes the training loop wait: arrays go to a thread that fetches
them from the device in order. TensorBoard events stand beside the file, and
wandb gets the same rows where it is asked for.

  with log.Writer(workdir, log.make_header(config)) as writer:
    writer.write(step, {'loss': loss})
  header, rows = log.read(workdir)
"""

from posttrain_jax.log.files import read, strict
from posttrain_jax.log.header import make_header
from posttrain_jax.log.writer import Writer

__all__ = ['Writer', 'make_header', 'read', 'strict']
