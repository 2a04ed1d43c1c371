"""How fast a run is, and how much memory it takes: metrics of every step."""

import dataclasses
import re
import resource
import sys
from typing import Any

import jax
import numpy as np

from posttrain_jax.run import accounting

__all__ = ['PEAKS', 'Speed', 'peak_memory']

# Dense bfloat16 FLOPs a second of one device, by what jax calls its kind; from
# the vendors' data sheets.
PEAKS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'NVIDIA A100': 312e12,
  'NVIDIA H100': 989e12,
  'NVIDIA H200': 989e12,
}


def _peak(kind: str) -> float | None:
  """FLOPs a second of a device of some kind; None: not known.

  GPUs are called after their form and memory as well: 'NVIDIA H100 80GB HBM3',
  'NVIDIA A100-SXM4-40GB'.
  """
  fits = [name for name in PEAKS if re.match(rf'{name}(?![^ -])', kind)]
  # 'TPU v5' begins 'TPU v5 lite': the longest name is meant.
  return PEAKS[max(fits, key=len)] if fits else None


def peak_memory() -> float:
  """The most bytes that were in use: of the fullest device of this host, or of
  the process where devices do not tell (CPUs)."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  found = [s['peak_bytes_in_use'] for s in stats if s]
  if found:
    return float(max(found))
  unit = 1 if sys.platform == 'darwin' else 1024
  return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


@dataclasses.dataclass(frozen=True)
class Speed:
  """What is known of a step before it is timed.

  flops  of a step (`accounting.step_flops`): padding and rollouts counted,
         recomputation not
  peak   FLOPs a second of all devices together; None: not known
  """

  flops: float
  peak: float | None

  @classmethod
  def of(cls, run: Any, devices: int) -> 'Speed':
    """That of a `build.Run` on so many devices."""
    others = {k: m for k, m in run.models.items() if k != 'policy'}
    flops = accounting.step_flops(run.config, run.model, run.sizes, others)
    peak = _peak(jax.devices()[0].device_kind)
    return cls(flops, None if peak is None else peak * devices)

  def metrics(
    self, tokens: np.ndarray, seconds: float
  ) -> dict[str, np.ndarray]:
    """perf/* of steps that took `seconds` each.

    tokens  [S] that the loss counted in each

    Returns perf/tokens_per_second, perf/flops_per_second, perf/mfu (where the
    peak of the devices is known) and perf/peak_memory (bytes), [S] each.
    """
    same = lambda x: np.full(tokens.shape, x)
    out = {
      'perf/tokens_per_second': tokens / seconds,
      'perf/flops_per_second': same(self.flops / seconds),
      'perf/peak_memory': same(peak_memory()),
    }
    if self.peak is not None:
      out['perf/mfu'] = same(self.flops / seconds / self.peak)
    return out
