"""How the processes of a run find each other, and how one leaves the others.

On a TPU pod and under SLURM or Open MPI jax finds out by itself how many there
are. Elsewhere three variables say it, and one process is started on each host:

  JAX_COORDINATOR_ADDRESS=HOST:PORT   of process 0, that all can reach
  JAX_NUM_PROCESSES=4  JAX_PROCESS_ID=0 .. 3

Two more say how long a process waits: POSTTRAIN_START_TIMEOUT for the others to
start (300 s), POSTTRAIN_HEARTBEAT_TIMEOUT for a sign of life of one that has
started (100 s). Without any of this nothing changes: a run is one process.
"""

import contextlib
import glob
import importlib.util
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence

import jax
from jax._src import clusters

from posttrain_jax.core import hosts
from posttrain_jax.run import roll_call

__all__ = ['VARIABLES', 'given', 'in_cluster', 'join', 'leave', 'leaving']

VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
START, BEAT = 'POSTTRAIN_START_TIMEOUT', 'POSTTRAIN_HEARTBEAT_TIMEOUT'
SECONDS = {START: 300, BEAT: 100}
# What jax needs of these to know where it is, and how many processes there are.
SLURM = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS',
         'SLURM_PROCID', 'SLURM_LOCALID')  # fmt: skip
OPEN_MPI = ('OMPI_MCA_orte_hnp_uri', 'OMPI_COMM_WORLD_SIZE',
            'OMPI_COMM_WORLD_RANK')  # fmt: skip


def _whole(name: str, least: int) -> int:
  """The whole number that a variable holds.

  Raises:
    ValueError: it holds something else.
  """
  text = os.environ[name]
  if not text.isdecimal() or int(text) < least:
    raise ValueError(
      f'{name}="{text}" is not a whole number from {least}; nearest valid: '
      f'{least}'
    )
  return int(text)


def _seconds(name: str) -> int:
  return _whole(name, 1) if name in os.environ else SECONDS[name]


def given() -> tuple[str, int, int] | None:
  """(address of the coordinator, processes, number of this one), as the three
  variables say; None: none of them is set.

  Raises:
    ValueError: some are set, or one is no such value; names it.
  """
  there = [name for name in VARIABLES if os.environ.get(name)]
  if not there:
    return None
  lacking = [name for name in VARIABLES if name not in there]
  if (
    lacking
    and there != ['JAX_COORDINATOR_ADDRESS']
    or (lacking and not in_cluster())
  ):
    raise ValueError(
      f'{", ".join(there)} without {", ".join(lacking)}: several processes '
      'need all three (HOST:PORT of process 0, how many there are, the number '
      'of this one); one process needs none'
    )
  if lacking:
    return None  # an address for what the cluster says itself
  address = os.environ[VARIABLES[0]]
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal():
    raise ValueError(
      f'{VARIABLES[0]}="{address}" is not HOST:PORT; nearest valid: '
      f'"{address.rstrip(":")}:8476"'
    )
  count, number = _whole(VARIABLES[1], 1), _whole(VARIABLES[2], 0)
  if number >= count:
    raise ValueError(
      f'{VARIABLES[2]}={number} is not one of the {count} of {VARIABLES[1]}; '
      f'nearest valid: {count - 1}'
    )
  return address, count, number


def _on_tpu() -> bool:
  """Whether this is a machine with TPU chips, and they are to be used."""
  asked = os.environ.get('JAX_PLATFORMS', '') or jax.config.jax_platforms or ''
  if asked and 'tpu' not in asked.split(','):
    return False
  if importlib.util.find_spec('libtpu') is None:
    return False
  return bool(glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*'))


def in_cluster() -> str:
  """What here starts several processes, as far as jax knows it; '': nothing."""
  for name, needs, size in (
    ('SLURM', SLURM, 'SLURM_NTASKS'),
    ('Open MPI', OPEN_MPI, 'OMPI_COMM_WORLD_SIZE'),
  ):
    if all(os.environ.get(x) for x in needs) and os.environ[size] != '1':
      return name
  return 'TPU' if _on_tpu() else ''


def _nodes(listed: str) -> list[str]:
  """'a[01-02,7],b' as SLURM writes hosts: a01, a02, a7, b."""
  found = []
  for name, ranges in re.findall(r'([^,\[]+)(?:\[([^\]]*)\])?', listed):
    for part in ranges.split(',') if ranges else ('',):
      first, _, last = part.partition('-')
      numbers = range(int(first), int(last) + 1) if last else (part,)
      found += [f'{name}{n:0{len(first)}}' if last else f'{name}{n}'
                for n in numbers]  # fmt: skip
  return found


def _names(count: int) -> list[str]:
  """Hosts of the processes, where the environment lists them."""
  found = _nodes(os.environ.get('SLURM_STEP_NODELIST', ''))
  for name in ('TPU_PROCESS_ADDRESSES', 'TPU_WORKER_HOSTNAMES'):
    found = found or [x for x in os.environ.get(name, '').split(',') if x]
  if not found or count % len(found):
    return []
  # As many on each, one host after the other.
  return [host for host in found for _ in range(count // len(found))]


def join() -> None:
  """Joins the other processes of this run, if there are any; only once.

  Raises:
    ValueError: some of the variables are set and not all; the others did not
      come in time, naming them; or jax is in use already.
  """
  # A signal is agreed on by the loop itself, Ctrl-C too.
  jax.config.update('jax_enable_preemption_service', False)
  if jax.distributed.is_initialized():
    return
  asked = given()
  where = '' if asked else in_cluster()
  if not where and (asked is None or asked[1] == 1):
    return
  if _platform() == 'cpu':
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  found = asked and (*asked, None) or _detected(where)
  if found is None or found[1] == 1:
    return
  address, count, number, devices = found
  wait = _seconds(START)
  roll_call.call(address, count, number, wait, _names(count))
  jax.distributed.initialize(
    address,
    count,
    number,
    devices,
    cluster_detection_method='deactivate',
    initialization_timeout=wait,
    heartbeat_timeout_seconds=_seconds(BEAT),
  )


def _detected(
  where: str,
) -> tuple[str, int, int, Sequence[int] | None] | None:
  """(address, processes, number of this one, its devices; None: all), as jax
  finds them in a cluster; None: it is none.

  Raises:
    ValueError: jax cannot say; why.
  """
  # What `jax.distributed.initialize()` calls, which would go on at once.
  find = clusters.ClusterEnv.auto_detect_unset_distributed_params
  try:
    found = find(
      os.environ.get('JAX_COORDINATOR_ADDRESS'), None, None, None, None,
      _seconds(START),
    )  # fmt: skip
  except (RuntimeError, ValueError, OSError, ImportError) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if where == 'TPU':  # outside Google Cloud nothing says it
      print(
        f'note: this TPU host is taken for the only one ({lines[0][:200]}); if '
        f'there are others, set {", ".join(VARIABLES)}',
        file=sys.stderr,
      )
      return None
    raise ValueError(
      f'{where}: jax cannot find the other processes: {lines[0]}; set '
      f'{", ".join(VARIABLES)} yourself'
    ) from error
  if None in found[:3]:  # chips of one machine, without a pod around them
    return None
  return found


def _platform() -> str:
  asked = os.environ.get('JAX_PLATFORMS', '') or jax.config.jax_platforms or ''
  return asked.split(',')[0]


@contextlib.contextmanager
def leaving() -> Iterator[None]:
  """`leave`, also where something was raised that nobody foresaw."""
  try:
    yield
  except (Exception, KeyboardInterrupt) as error:
    if not _joined():
      raise
    traceback.print_exc()
    leave(1 if isinstance(error, Exception) else 130, failed=True)


def _joined() -> bool:
  return jax.distributed.is_initialized() and hosts.several()


def leave(status: int, failed: bool = False) -> int:
  """The exit status; of several processes one that has failed ends here.

  Python's own end would wait for all the others, which may wait for this one.
  They end when its heartbeat is missed, or when they see its connection close.

  failed  this process alone, whatever the status; without it, status 2 says so
  """
  if not (failed or status == 2) or not _joined():
    return status  # all processes are through
  sys.stdout.flush()
  sys.stderr.flush()
  if hosts.first():
    time.sleep(1.0)  # it holds the service: the others say their own first
  os._exit(status)
