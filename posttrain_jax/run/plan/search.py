"""What else of a config would fit, found by trying.

Each knob is turned alone, in a fixed order and one notch at a time; arithmetic
leaves out what cannot be enough, and XLA has the last word. Where no knob is
enough alone, they are turned together, in the same order.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from posttrain_jax.core import sharding
from posttrain_jax.run import config as config_lib

__all__ = ['SLACK', 'Try', 'Verdict', 'knobs', 'search']

# The smallest piece of logits that is worth its loop.
LOGIT_CHUNK = 512
ATTENTION_CHUNK = 512
# Arithmetic that is off by less than this leaves room for hope.
SLACK = 1.15


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What came of a config.

  total    bytes of the fullest program; 0: not compiled
  refused  why it is no run at all, in words; '' where it is
  """

  total: int
  fits: bool
  refused: str = ''


@dataclasses.dataclass(frozen=True)
class Try:
  """A change of a config, and what came of it.

  changes  {key: value}
  """

  changes: dict[str, Any]
  verdict: Verdict

  @property
  def told(self) -> str:
    """'microbatch_rows=4', as it is given to `--config`."""
    return ' with '.join(f'{key}={x}' for key, x in self.changes.items())


def _halves(value: int, least: int) -> Iterator[int]:
  while value % 2 == 0 and value // 2 >= least:
    value //= 2
    yield value


def knobs(run: Any) -> list[list[dict[str, Any]]]:
  """For each knob its notches, {key: value} each, weakest first.

  run  `build.Run` of the config that does not fit
  """
  config, sizes, model = run.config, run.sizes, run.model
  mesh = sharding.axis_sizes(config.mesh)
  parts = sharding.row_parts(mesh)
  micro = sizes.microbatch_rows or sizes.minibatch_rows
  out = [[{'microbatch_rows': rows} for rows in _halves(micro, parts)]]
  if not model.logit_chunk and sizes.row_tokens > LOGIT_CHUNK:
    out.append([{'model.logit_chunk': LOGIT_CHUNK}])
  if model.remat in (False, 'none'):
    out.append([{'model.remat': True}])
  # A kernel holds no scores.
  scores = model.attention == 'plain' and not model.attention_chunk
  if scores and sizes.row_tokens > ATTENTION_CHUNK:
    out.append([{'model.attention_chunk': ATTENTION_CHUNK}])
  if mesh['data'] > 1:
    more, copies = [], mesh['data']
    while copies % 2 == 0:
      copies //= 2
      shards = mesh['fsdp'] * mesh['data'] // copies
      more.append({'mesh.fsdp': shards, 'mesh.data': copies})
    out.append(more)
  if config.optimizer.get('moments') in ('params', 'float32'):
    narrow = ('bfloat16', 'int8')
    out.append([{'optimizer.moments': kind} for kind in narrow])
  if 'offload' in config:  # what waits in the host's memory takes none here
    apart = ('ref', 'moments') if len(run.models) > 1 else ('moments',)
    out += [[{f'offload.{what}': True}] for what in apart]
  if run.generate is not None:
    rows = sizes.prompts_per_step * config.group_size
    slots = [{'slots': n} for n in _halves(rows, parts)]
    if not model.cache_dtype and model.dtype != 'bfloat16':
      out.append([{'model.cache_dtype': 'bfloat16'}])
    out.append([{'model.cache_dtype': 'int8'}])
    out.append(slots)
  return [notches for notches in out if notches]


def search(
  run: Any,
  judge: Callable[[Any], Verdict],
  enough: Callable[[dict[str, Any]], bool],
  most: int,
  total: int = 0,
) -> tuple[list[Try], list[Try]]:
  """(what fits, all that was tried).

  judge   config -> Verdict: compiles
  enough  {key: value} -> whether arithmetic leaves room for hope
  most    how often `judge` may be asked
  total   bytes of the config as it is: what takes no less is not turned
          together with others; 0: not known
  """
  tried: list[Try] = []

  def attempt(changes: dict[str, Any]) -> Try:
    config = config_lib.with_values(run.config, changes)
    tried.append(Try(changes, judge(config)))
    return tried[-1]

  fit: list[Try] = []
  rest: dict[str, Any] = {}
  for notches in knobs(run):
    for changes in notches:
      last = changes is notches[-1]
      if len(tried) >= most:
        return fit, tried
      if not (enough(changes) or last):
        continue
      found = attempt(changes)
      if found.verdict.refused:
        continue
      if found.verdict.fits:
        fit.append(found)
        break
      if last and not 0 < total <= found.verdict.total:
        rest |= changes
        if not fit and len(rest) > len(changes) and len(tried) < most:
          both = attempt(dict(rest))
          if both.verdict.fits:
            return [both], tried
  return fit, tried
