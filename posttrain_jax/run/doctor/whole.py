"""All checks, in the order in which they are told."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain_jax.core import sharding
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.doctor import (
  accelerators,
  hosts,
  machine,
  places,
  software,
)
from posttrain_jax.run.doctor.finding import Finding, fault, ok, warning

__all__ = ['Probed', 'config', 'examine', 'probed', 'tried']

MODULE = 'posttrain_jax.run.doctor.probe'


@dataclasses.dataclass(frozen=True)
class Probed:
  """What the child said.

  found  of the devices; None: it did not come that far
  at     what it did last
  error  why it ended
  kind   'late': it was ended by the clock; 'absent': other processes did not
         come; 'failed'
  """

  found: dict[str, Any] | None
  at: str = ''
  error: str = ''
  kind: str = ''


def probed(seconds: float, environ: Mapping[str, str]) -> Probed:
  """Runs the child, for at most so long.

  environ  its variables
  """
  child = subprocess.Popen(
    [sys.executable, '-m', MODULE],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    env={
      'POSTTRAIN_START_TIMEOUT': str(int(seconds)),
      'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # others may be at work there
      **environ,
    },
  )  # fmt: skip
  late = False
  try:
    # It waits for the others so long, and then still says who is missing.
    out, told = child.communicate(timeout=seconds + 20)
  except subprocess.TimeoutExpired:
    late = True
    child.kill()
    out, told = child.communicate()
  said: dict[str, Any] = {}
  for line in out.splitlines():
    try:
      said |= json.loads(line)
    except ValueError:  # of a library
      continue
  at = said.get('at', 'starting')
  if late:
    return Probed(None, at, f'no answer in {seconds + 20:.0f} s', 'late')
  if 'found' in said:
    return Probed(said['found'], at)
  last = [line for line in told.splitlines() if line.strip()][-1:]
  error = said.get('error') or ''.join(last) or f'status {child.returncode}'
  return Probed(None, at, error, said.get('kind', 'failed'))


def tried(
  child: Probed,
  there: accelerators.Hardware,
  environ: Mapping[str, str],
) -> Iterator[Finding]:
  """What a probe means.

  there  what the machine has
  """
  if child.kind == 'late':
    todo = 'run this on every host of the run at once'
    if 'devices' in child.at or 'matrices' in child.at:
      todo = 'another process may hold the devices; ' + todo
    yield fault('devices', f'{child.error}, while {child.at}', todo)
    return
  if child.kind == 'absent':
    yield hosts.absent(child.error)
    return
  error = f'{child.error} (while {child.at})' if child.error else ''
  yield from accelerators.devices(child.found, error, there, environ)
  if child.found:
    yield from accelerators.compute(child.found['compute'])
    yield from hosts.checked_in(child.found['together'])


def config(
  spec: str, items: Sequence[str], count: int, environ: Mapping[str, str]
) -> Finding:
  """Whether a config fits so many devices, and `train --dry_run` takes it.

  items  further flags, as '--config.mesh.fsdp=8'
  """
  shown = f'{spec} on {count} device{"s" * (count > 1)}'
  try:
    given, _ = config_lib.split_flags(items)
    mesh = sharding.axis_sizes(config_lib.load(spec, given).mesh, count)
  except ValueError as error:
    return fault('config', f'{shown}: {error}', 'correct it')
  size, told = math.prod(mesh.values()), sharding.shown_as(mesh)
  if size > count:
    return fault(
      'config',
      f'{shown}: mesh {told} needs {size}',
      '--config.mesh.fsdp=-1 takes what there is',
    )
  forced = f'--xla_force_host_platform_device_count={count}'
  # A child on the CPU: the devices may be of other hosts, too.
  alone = {
    k: v for k, v in environ.items() if not k.startswith(('JAX_', 'SLURM_'))
  }
  flags = f'{environ.get("XLA_FLAGS", "")} {forced}'.strip()
  done = subprocess.run(
    [sys.executable, '-m', 'posttrain_jax.train', '--config', spec, *items,
     '--dry_run'],
    capture_output=True, text=True,
    env={**alone, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
  )  # fmt: skip
  if done.returncode:
    lines = done.stderr.strip().splitlines() or [f'status {done.returncode}']
    said = lines[-1].removeprefix('error: ')
    return fault('config', f'{shown}: {said}', 'correct it')
  if size < count:
    return warning(
      'config',
      f'{shown}: mesh {told} leaves {count - size} without work',
      '--config.mesh.fsdp=-1 shards over all, .data=-1 copies',
    )
  return ok('config', f'{shown}: train --dry_run takes it')


def examine(
  workdir: str = '.',
  spec: str = '',
  items: Sequence[str] = (),
  seconds: float = 120,
  environ: Mapping[str, str] = os.environ,
) -> Iterator[Finding]:
  """All findings, each as soon as it is known.

  Args:
    workdir: where a run would keep its files; gs://, too.
    spec: of a config, to be tried on the devices that are found.
    items: its flags.
    seconds: how long devices and other processes are waited for.
    environ: variables.
  """
  yield software.python()
  yield from software.packages()
  yield machine.cores()
  yield machine.memory()
  yield machine.open_files()
  there = accelerators.hardware(environ)
  yield from machine.shared_memory(there.gpus)
  yield machine.clock()
  yield from places.workdir(workdir)
  yield places.cache(environ)
  named = hosts.variables()
  yield from named
  if named:
    yield from hosts.proxies(environ)
  if any(x.status == 'fault' for x in named):
    return  # without them nothing else would be tried but this process
  yield from accelerators.occupied()
  child = probed(seconds, environ)
  yield from tried(child, there, environ)
  if spec and child.found:
    yield config(spec, items, child.found['count'], environ)
