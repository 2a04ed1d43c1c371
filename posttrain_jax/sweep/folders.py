"""What a sweep finds in the folders of its runs, before any of them trains."""

from collections.abc import Sequence
from pathlib import Path

from posttrain_jax.run import (
  checkpoint,
  continuing,
  failed,
  hub_keys,
  model_folder,
)
from posttrain_jax.run.lease import Lease
from posttrain_jax.sweep import runner
from posttrain_jax.sweep.settings import Member

__all__ = ['check', 'foreseen']


def check(members: Sequence[Member], workdir: Path) -> None:
  """Refuses folders that are not of these runs: the table would be of others.

  Raises:
    ValueError: one is no folder of a run, or holds a run of another config or
      one that has more steps; it is named.
  """
  continuing.check_folder(workdir)
  for member in members:
    place = runner.folder(workdir, member)
    continuing.check_folder(place)
    if not place.exists():
      continue
    continuing.check_continues(hub_keys.as_begun(member.config, place), place)
    steps = checkpoint.steps(place)
    if steps and max(steps) > member.config.num_steps:
      raise ValueError(
        f'{place} has {max(steps):,} steps, and num_steps='
        f'{member.config.num_steps}: use another --workdir'
      )


def foreseen(members: Sequence[Member], workdir: Path) -> list[str]:
  """What a sweep would go on from; nothing is written.

  Raises:
    ValueError: what the sweep would raise before it begins.
  """
  check(members, workdir)
  told, new = [], 0
  for member in members:
    place = runner.folder(workdir, member)
    if not checkpoint.steps(place):
      told += [x for x in (Lease(place).foreseen(),) if x]
      new += 1
      continue
    config = model_folder.settled(hub_keys.as_begun(member.config, place))
    run = continuing.built(config, place)
    bad = failed.newest(place)
    if bad and runner.has_failed(member, workdir):
      told.append(f'{place}: step {bad[0]} was not finite; left as it is')
    else:
      told += continuing.foreseen(config, run, place)
  return [f'{new} of {len(members)} runs are new', *told]
