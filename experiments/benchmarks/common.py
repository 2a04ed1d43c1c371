"""What the benchmarks share: fair turns, statistics, the machine, JSON.

Two sides are measured in one run, in turns (A, B, A, B, ...), because a shared
machine changes from minute to minute: a ratio within a round means something,
two numbers of different hours do not.
"""

import argparse
import dataclasses
import datetime
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / 'results'
PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'torch',
  'transformers', 'trl', 'accelerate', 'datasets', 'google-tunix',
)  # fmt: skip
# Seconds between turns: idle threads of the side that just ran stop spinning.
REST = 0.1


@dataclasses.dataclass(frozen=True)
class Sample:
  """One turn: wall seconds, and units of work done in them (tokens, steps)."""

  seconds: float
  units: float

  @property
  def rate(self) -> float:
    """Units per second."""
    return self.units / self.seconds


Turns = dict[str, list[Sample]]
Side = Callable[[], Sample]


def timed(work: Callable[[], float]) -> Side:
  """A side from a function that does the work and returns its units."""

  def side() -> Sample:
    began = time.perf_counter()
    units = work()
    return Sample(time.perf_counter() - began, float(units))

  return side


def alternate(
  sides: dict[str, Side], repetitions: int, warmup: int, rest: float = REST
) -> Turns:
  """`repetitions` rounds in which every side has one turn, after the warm-up.

  Every second round goes backwards, so that no side always follows the same
  one.

  Raises:
    ValueError: fewer than one repetition.
  """
  if repetitions < 1:
    raise ValueError(f'repetitions={repetitions} must be at least 1')
  turns: Turns = {name: [] for name in sides}
  for index in range(-warmup, repetitions):
    order = list(sides) if index % 2 == 0 else list(sides)[::-1]
    for name in order:
      gc.collect()
      time.sleep(rest)
      sample = sides[name]()
      if index >= 0:
        turns[name].append(sample)
        print(f'  {name:24} {sample.rate:12.2f} /s', flush=True)
  return turns


def summary(values: list[float]) -> dict[str, float]:
  """median, min, max, q1, q3 (linear between ranks), iqr and count."""
  x = np.asarray(values, np.float64)
  q1, median, q3 = np.percentile(x, [25, 50, 75])
  return {
    'median': float(median),
    'min': float(x.min()),
    'max': float(x.max()),
    'q1': float(q1),
    'q3': float(q3),
    'iqr': float(q3 - q1),
    'count': int(x.size),
  }


def report(turns: Turns, unit: str) -> dict[str, Any]:
  """What goes into the JSON of each side: rates, seconds, every turn."""
  return {
    name: {
      f'{unit}_per_second': summary([s.rate for s in samples]),
      'seconds': summary([s.seconds for s in samples]),
      'turns': [dataclasses.asdict(s) for s in samples],
    }
    for name, samples in turns.items()
  }


def best(turns: Turns, names: list[str]) -> str:
  """The side of the highest median rate among `names`."""
  return max(names, key=lambda n: summary([s.rate for s in turns[n]])['median'])


def ratio(turns: Turns, ours: str, peer: str) -> dict[str, float]:
  """Spread of our rate over the peer's, round by round."""
  pairs = zip(turns[ours], turns[peer])
  return summary([a.rate / b.rate for a, b in pairs])


def compare(turns: Turns, unit: str) -> dict[str, Any]:
  """All sides, the best of ours against the best of the peer's.

  Sides are called 'ours...' or 'peer...'.
  """
  out = {'sides': report(turns, unit)}
  ours = [name for name in turns if name.startswith('ours')]
  peers = [name for name in turns if name.startswith('peer')]
  out['best_ours'] = best(turns, ours)
  out['best_peer'] = best(turns, peers) if peers else None
  out['ours_over_peer'] = None
  if len(peers) > 1:
    out['ours_over_each_peer'] = {
      peer: ratio(turns, out['best_ours'], peer) for peer in peers
    }
  if peers:
    out['ours_over_peer'] = ratio(turns, out['best_ours'], out['best_peer'])
  return out


def limit_threads(count: int) -> None:
  """Binds this process to `count` CPUs, before jax or torch makes threads.

  XLA's CPU client takes a thread per CPU that the process may use.
  """
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = str(count)
  if hasattr(os, 'sched_setaffinity'):
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:count])
  if importlib.util.find_spec('torch'):
    import torch

    torch.set_num_threads(count)


def keep_compiled() -> None:
  """Keeps compiled programs between runs; compiling is never measured."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    folder = ROOT / '.cache' / 'jax_benchmarks'
    jax.config.update('jax_compilation_cache_dir', str(folder))


def missing(*modules: str) -> list[str]:
  """Those of the modules that are not installed."""
  return [name for name in modules if importlib.util.find_spec(name) is None]


def note_missing(names: list[str], peer: str) -> str:
  """Says that a peer is left out, and returns what the JSON says of it."""
  note = f'{peer} not measured: {", ".join(names)} not installed'
  print(f'note: {note}', file=sys.stderr)
  return note


def versions() -> dict[str, str | None]:
  """Python and the packages that matter; None where not installed."""
  found = {'python': platform.python_version()}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found


def _git(*arguments: str) -> str | None:
  command = ['git', '-C', str(ROOT), *arguments]
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, check=True, timeout=10
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()


def _cpu_model() -> str:
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor()
  names = [x.split(':', 1)[1] for x in lines if x.startswith('model name')]
  return names[0].strip() if names else platform.machine()


def _busy_seconds() -> float | None:
  """CPU seconds that all processes of the machine have used since it started;
  None where the system does not tell."""
  try:
    fields = Path('/proc/stat').read_text().splitlines()[0].split()[1:]
  except OSError:
    return None
  ticks = os.sysconf('SC_CLK_TCK')
  user, nice, system, _idle, _wait, irq, softirq = map(int, fields[:7])
  return (user + nice + system + irq + softirq) / ticks


def _own_seconds() -> float:
  total = 0.0
  for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
    usage = resource.getrusage(who)
    total += usage.ru_utime + usage.ru_stime
  return total


class Session:
  """One run of a script: where it ran, what it found, its JSON file.

  cache  whether programs compiled by earlier runs are used
  """

  def __init__(self, name: str, flags: argparse.Namespace, cache: bool = True):
    limit_threads(flags.threads)
    if cache:
      keep_compiled()
    self._name, self._flags = name, flags
    self._began = time.monotonic()
    self._start = (_busy_seconds(), _own_seconds())
    self._load = os.getloadavg()
    self.results: dict[str, Any] = {}
    self.notes: list[str] = []

  def _others(self) -> float | None:
    """CPUs that other processes kept busy, on average over the run."""
    busy = _busy_seconds()
    if busy is None or self._start[0] is None:
      return None
    own = _own_seconds() - self._start[1]
    wall = time.monotonic() - self._began
    return max(0.0, (busy - self._start[0] - own) / wall)

  def environment(self) -> dict[str, Any]:
    """Versions, commit, hardware, load, date and command."""
    now = datetime.datetime.now(datetime.UTC)
    # Results of other runs may lie about; code that is measured may not.
    code = ('posttrain_jax', 'configs', ':(glob)experiments/**/*.py')
    status = _git('status', '--porcelain', '--', *code)
    return {
      'versions': versions(),
      'git': {'commit': _git('rev-parse', 'HEAD'), 'dirty': bool(status)},
      'hardware': {
        'cpu': _cpu_model(),
        'cores': os.cpu_count(),
        'threads_a_side': self._flags.threads,
        'system': platform.platform(),
        **machine(),
      },
      'load_average': {'start': self._load, 'end': os.getloadavg()},
      'cpus_busy_with_others': self._others(),
      'seconds': time.monotonic() - self._began,
      'date_utc': now.isoformat(timespec='seconds'),
      'command': ' '.join(['python -m', _module(), *sys.argv[1:]]),
      # Where the files lie is the machine's own affair.
      'flags': {k: str(v) for k, v in vars(self._flags).items() if k != 'out'},
    }

  def write(self) -> Path:
    """Writes RESULTS/NAME.json (or under --out) and says where."""
    folder = Path(self._flags.out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{self._name}.json'
    document = {
      'benchmark': self._name,
      'results': self.results,
      'notes': self.notes,
      'environment': self.environment(),
    }
    path.write_text(json.dumps(document, indent=1) + '\n')
    print(f'wrote {path}')
    return path


def _module() -> str:
  """Name of the module that was run with `python -m`."""
  spec = sys.modules['__main__'].__spec__
  return spec.name if spec else Path(sys.argv[0]).stem


def machine(size: int = 1024, megabytes: int = 256) -> dict[str, float]:
  """What this machine can do at best, for scale.

  float32 GFLOP/s of a square matrix product, and GB/s (read + written) of an
  in-place addition that is larger than the caches. Best of ten.
  """
  import jax
  import jax.numpy as jnp

  def fastest(call: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(12):
      began = time.perf_counter()
      jax.block_until_ready(call())
      seconds.append(time.perf_counter() - began)
    return min(seconds[2:])

  a = jnp.ones((size, size), jnp.float32)
  product = jax.jit(jnp.matmul)
  gemm = fastest(lambda: product(a, a))
  buffer = [jnp.zeros((megabytes * 2**18,), jnp.float32)]
  add = jax.jit(lambda x: x + 1.0, donate_argnums=0)

  def bump():
    buffer[0] = add(buffer[0])
    return buffer[0]

  stream = fastest(bump)
  return {
    'gemm_gflops_float32': 2 * size**3 / gemm / 1e9,
    'memory_gb_per_second': 2 * megabytes * 2**20 / stream / 1e9,
  }


def parser(description: str) -> argparse.ArgumentParser:
  """The flags that every script has."""
  out = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  out.add_argument('--repetitions', type=int, default=7, help='rounds measured')
  out.add_argument('--warmup', type=int, default=2, help='rounds before them')
  out.add_argument('--threads', type=int, default=2, help='CPUs of each side')
  out.add_argument('--out', default=str(RESULTS), help='folder of the JSON')
  out.add_argument(
    '--toy', action='store_true', help='tiny sizes, to see that it works'
  )
  return out
