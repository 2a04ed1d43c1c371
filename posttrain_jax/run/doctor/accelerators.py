"""GPUs and TPUs: what the machine has, what jax sees, and how they work."""

import dataclasses
import os
import re
import statistics
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain_jax.core.units import shown_bytes
from posttrain_jax.run.doctor.finding import Finding, fault, ok, warning
from posttrain_jax.run.doctor.software import version_of

__all__ = ['Hardware', 'compute', 'devices', 'hardware', 'holders', 'occupied']

GOOGLE, NVIDIA = '0x1ae0', '0x10de'
# PCI devices of Google that are TPUs; the network card is Google's, too.
TPUS = {'0x0027', '0x0056', '0x005e', '0x0062', '0x0063', '0x006f', '0x0076'}
# Of the driver: what jax's wheels for CUDA 12 ask for.
LEAST_DRIVER = 525
LOCK = 'tmp/libtpu_lockfile'
# A device that takes so many times the median of all is slow.
SLOW = 2.0


@dataclasses.dataclass(frozen=True)
class Hardware:
  """Accelerators that the system knows of.

  driver  of NVIDIA; '' where there is none
  named   a variable that names a TPU; '' where none does
  """

  gpus: int = 0
  tpus: int = 0
  driver: str = ''
  named: str = ''


def hardware(
  environ: Mapping[str, str] = os.environ, root: Path = Path('/')
) -> Hardware:
  """What the files of the system tell, without any library of the vendor."""
  gpus = len(list(root.glob('dev/nvidia[0-9]*')))
  tpus = len(list(root.glob('dev/accel[0-9]*')))
  on_bus = 0
  for vendor in root.glob('sys/bus/pci/devices/*/vendor'):
    try:
      if vendor.read_text().strip() == GOOGLE:
        on_bus += (vendor.parent / 'device').read_text().strip() in TPUS
    except OSError:
      continue
  driver = ''
  try:
    text = (root / 'proc/driver/nvidia/version').read_text()
    found = re.search(r'\b(\d{3,}\.\d+[\d.]*)', text)
    driver = found[1] if found else ''
  except OSError:
    pass
  named = ''
  # Set by who compiles for a TPU that is not there.
  if not environ.get('TPU_SKIP_MDS_QUERY'):
    names = ('TPU_NAME', 'TPU_ACCELERATOR_TYPE', 'TPU_WORKER_ID')
    named = next((name for name in names if environ.get(name)), '')
  return Hardware(gpus, max(tpus, on_bus), driver, named)


def holders(root: Path = Path('/')) -> list[str]:
  """'process 12 (python)' of each other process that has a TPU open; of other
  users' processes only root is told."""
  out = []
  for folder in root.glob('proc/[0-9]*'):
    if folder.name == str(os.getpid()):
      continue
    try:
      opened = [os.readlink(x) for x in (folder / 'fd').iterdir()]
      name = (folder / 'comm').read_text().strip()
    except OSError:  # gone since, or another user's
      continue
    if any(re.match(r'/dev/(accel\d|vfio/\d)', x) for x in opened):
      out.append(f'process {folder.name} ({name})')
  return sorted(out)


def devices(
  found: Mapping[str, Any] | None,
  error: str,
  there: Hardware,
  environ: Mapping[str, str] = os.environ,
  version: Callable[[str], str | None] = version_of,
  root: Path = Path('/'),
) -> list[Finding]:
  """What jax sees, against what the machine has.

  found  of the probe: backend, kind, local, count; None: jax found none
  error  why, in that case
  """
  asked = environ.get('JAX_PLATFORMS', '')
  backend = found['backend'] if found else ''
  if found and backend != 'cpu':
    said = f'{found["local"]} x {found["kind"]}'
    if found['count'] != found['local']:
      said += f', {found["count"]} of all processes'
    return [ok('devices', said), *_driver(there)]
  if there.tpus or there.named:
    what = f'{there.tpus} TPU chips' if there.tpus else f'${there.named} is set'
    return [_no_tpu(what, found, error, asked, version, root)]
  if there.gpus:
    return [_no_gpu(there, found, error, asked, version), *_driver(there)]
  if not found:
    todo = 'unset JAX_PLATFORMS' if asked else 'read what jax says, above'
    return [fault('devices', error or 'jax found none', todo)]
  said = f'the CPU, as {found["count"]}' if found['count'] > 1 else 'the CPU'
  return [ok('devices', f'{said}: no GPU or TPU is in this machine')]


def _hidden(what: str, asked: str) -> Finding:
  return warning(
    'devices', f'{what}, but JAX_PLATFORMS={asked} hides them', 'unset it'
  )


def _no_tpu(what, found, error, asked, version, root) -> Finding:
  if version('libtpu') is None:
    said = f'{what}, but libtpu is not installed'
    return fault('devices', said, "pip install -e '.[tpu]'")
  if found and asked and 'tpu' not in asked:
    return _hidden(what, asked)
  others = holders(root)
  if others:
    pids = ' '.join(other.split()[1] for other in others)
    return fault(
      'devices',
      f'{what}, which {", ".join(others)} has open',
      f'wait for it, or stop it: kill {pids}',
    )
  lock = root / LOCK
  if lock.exists():
    return fault(
      'devices',
      f'{what}, and {lock}, which a process that ended badly left, or one of '
      'another user holds',
      f'sudo lsof -w /dev/accel* /dev/vfio/*; if none is there: sudo rm {lock}',
    )
  said = f'{what}, but jax cannot use them: {error or "it uses the CPU"}'
  return fault('devices', said, 'run this on every host of the slice at once')


def _no_gpu(there, found, error, asked, version) -> Finding:
  what = f'{there.gpus} NVIDIA GPUs'
  plugins = ('jax-cuda12-plugin', 'jax-cuda13-plugin')
  if not any(version(name) for name in plugins):
    said = f"{what}, but jax is the CPU's alone"
    return fault('devices', said, "pip install -e '.[cuda]'")
  if found and asked and not re.search('cuda|gpu', asked):
    return _hidden(what, asked)
  said = f'{what}, but jax cannot use them: {error or "it uses the CPU"}'
  return fault(
    'devices', said, 'does nvidia-smi see them? In a container: --gpus all'
  )


def _driver(there: Hardware) -> list[Finding]:
  if not there.driver:
    return []
  if int(there.driver.split('.')[0]) < LEAST_DRIVER:
    return [
      fault(
        'driver',
        f'NVIDIA {there.driver}; CUDA 12 asks for {LEAST_DRIVER} or newer',
        'update the driver of the machine',
      )
    ]
  return [ok('driver', f'NVIDIA {there.driver}')]


def occupied(seconds: float = 20) -> list[Finding]:
  """Memory of GPUs that other processes have already, as nvidia-smi says."""
  asked = ['nvidia-smi', '--query-gpu=index,memory.used,memory.total',
           '--format=csv,noheader,nounits']  # fmt: skip
  try:
    done = subprocess.run(
      asked, capture_output=True, text=True, timeout=seconds
    )
  except (OSError, subprocess.SubprocessError):
    return []  # not there: what jax sees says more
  full = []
  for line in done.stdout.splitlines():
    found = re.fullmatch(r'(\d+), (\d+), (\d+)', line.strip())
    if found and int(found[2]) > 0.1 * int(found[3]):
      used, total = (shown_bytes(int(x) * 2**20) for x in found.groups()[1:])
      full.append(f'GPU {found[1]}: {used} of {total}')
  if not full:
    return []
  return [
    warning(
      'device memory',
      f'in use already: {", ".join(full)}',
      'nvidia-smi names the processes; wait for them, or stop them',
    )
  ]


def compute(rows: list[dict[str, Any]]) -> list[Finding]:
  """What the probe measured on each device of this process.

  rows  {device, compile (s), seconds (of a product), flops (a second), right,
        limit (bytes for a program; None: the device does not tell)}
  """
  wrong = [row['device'] for row in rows if not row['right']]
  if wrong:
    return [
      fault(
        'compute',
        f'{", ".join(wrong)}: a product of matrices came out wrong',
        'take the host out of use, and tell who runs it',
      )
    ]
  slowest = max(row['seconds'] for row in rows)
  usual = statistics.median_low(row['seconds'] for row in rows)
  most = max(row['flops'] for row in rows)
  said = (
    f'a product of matrices compiled in {rows[0]["compile"]:.2f} s, '
    f'{most / 1e12:.2f} TFLOP/s'
  )
  out = []
  # Devices of a CPU share its cores with everything else.
  if rows[0]['limit'] and slowest > SLOW * usual:
    slow = max(rows, key=lambda row: row['seconds'])
    out.append(
      warning(
        'compute',
        f'{slow["device"]} takes {slowest / usual:.1f} times the others',
        'is something else running on it, or is it hot?',
      )
    )
  else:
    out.append(ok('compute', said))
  if rows[0]['limit']:
    least = min(row['limit'] for row in rows)
    out.append(
      ok('device memory', f'{shown_bytes(least)} for a program on each')
    )
  return out
