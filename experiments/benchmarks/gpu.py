r"""What a GPU gives: decoding, SFT and GRPO steps of the Qwen3 shapes.

  experiments/benchmarks/gpu.sh              installs, then this
  python -m experiments.benchmarks.gpu --dry_run
  python -m experiments.benchmarks.gpu --toy --parts decode_0.6b grpo

Weights are random, and no token ends an answer: every turn is as long. Each
part is a process of its own with a limit of its own; the JSON is written after
each, so that a run that is cut has all that was done. A part that fails or is
cut says so there. `--until` is the time (seconds since 1970) at which all has
to end; parts that would begin less than `LEAST` seconds before it are left out.
"""

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / 'results'
# Less is not worth a start.
LEAST = 20.0


@dataclasses.dataclass(frozen=True)
class Part:
  """A piece of the benchmark.

  limit  seconds, its start and compilation included
  what   it measures
  sizes  its own
  peer   whether it runs in the peer's interpreter
  """

  name: str
  limit: float
  what: str
  sizes: dict[str, Any]
  peer: bool = False


_GRPO = dict(shape='Qwen3-0.6B', prompts=16, group=8, new=256, micro=32)
PARTS = {
  part.name: part
  for part in (
    Part('decode_0.6b', 50, 'decoding: tokens/s, GB/s of weights and cache',
         dict(shape='Qwen3-0.6B', rows=(8, 64), prompt=64, new=512)),
    Part('decode_1.7b', 50, 'the same', dict(
         shape='Qwen3-1.7B', rows=(8, 64), prompt=64, new=512)),
    Part('sft_8k', 75, 'SFT steps: tokens/s and MFU, beside prime-rl on one '
         'H100', dict(shape='Qwen3-0.6B', tokens=8192, rows=4)),
    Part('sft_16k', 75, 'the same', dict(
         shape='Qwen3-0.6B', tokens=16384, rows=2)),
    Part('grpo', 75, 'GRPO steps, rollout and update', _GRPO),
    Part('grpo_trl', 90, "the same by TRL's GRPOTrainer", _GRPO, peer=True),
  )
}  # fmt: skip
TOY = {
  'decode_0.6b': dict(shape='toy', rows=(2,), prompt=8, new=16),
  'decode_1.7b': dict(shape='toy', rows=(2,), prompt=8, new=16),
  'sft_8k': dict(shape='toy', tokens=256, rows=2),
  'sft_16k': dict(shape='toy', tokens=256, rows=2),
  'grpo': dict(shape='toy', prompts=2, group=2, new=8, micro=4),
  'grpo_trl': dict(shape='toy', prompts=2, group=2, new=8, micro=4),
}


def sizes_of(name: str, toy: bool) -> dict[str, Any]:
  """The sizes of a part."""
  return TOY[name] if toy else PARTS[name].sizes


def command(part: Part, flags: argparse.Namespace) -> list[str]:
  """What runs a part; it prints JSON on its last line."""
  module = 'gpu_trl' if part.peer else 'gpu_parts'
  python = flags.peer_python if part.peer else sys.executable
  return [
    python, '-m', f'experiments.benchmarks.{module}', part.name,
    json.dumps(sizes_of(part.name, flags.toy)),
  ]  # fmt: skip


def run_part(part: Part, flags: argparse.Namespace) -> dict[str, Any]:
  """What a part found: 'status' is 'done', 'failed', 'cut' or 'left out'."""
  left = flags.until - time.time() if flags.until else part.limit
  limit = min(part.limit, left)
  if part.peer and not flags.peer_python:
    return {'status': 'left out', 'why': 'no --peer_python'}
  if limit < min(LEAST, part.limit):
    return {'status': 'left out', 'why': f'{left:.0f} s were left'}
  began = time.time()
  env = {**os.environ, 'HF_HUB_OFFLINE': '1', 'TOKENIZERS_PARALLELISM': 'false'}
  took = lambda: round(time.time() - began, 1)
  try:
    done = subprocess.run(
      command(part, flags), cwd=ROOT, env=env, capture_output=True,
      text=True, timeout=limit, check=False,
    )  # fmt: skip
  except subprocess.TimeoutExpired as error:
    # What it printed before is there all the same: a line for every turn.
    said = error.stdout or b''
    lines = said.decode() if isinstance(said, bytes) else said
    return {'status': 'cut', 'limit': limit, 'seconds': took(),
            **_last(lines)}  # fmt: skip
  except OSError as error:
    return {'status': 'failed', 'why': str(error)}
  if done.returncode:
    words = (done.stderr.strip() or 'no word').splitlines()[-3:]
    return {'status': 'failed', 'seconds': took(), 'why': ' | '.join(words),
            **_last(done.stdout)}  # fmt: skip
  return {'status': 'done', 'seconds': took(), **_last(done.stdout)}


def _last(text: str) -> dict[str, Any]:
  """The last whole line that is a JSON object."""
  for line in reversed(text.splitlines()):
    try:
      found = json.loads(line)
    except ValueError:
      continue
    if isinstance(found, dict):
      return found
  return {}


def _write(path: Path, found: dict[str, Any]) -> None:
  """Whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_suffix('.part')
  beside.write_text(json.dumps(found, indent=1) + '\n')
  beside.replace(path)


def _told(*words: str) -> str:
  """What a command prints; '' where there is none, or it fails."""
  try:
    done = subprocess.run(
      words, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
  except (OSError, subprocess.SubprocessError):
    return ''
  return '' if done.returncode else done.stdout.strip()


def _device() -> str:
  """Name and driver of the GPUs, as nvidia-smi says them."""
  query = '--query-gpu=name,memory.total,driver_version'
  told = _told('nvidia-smi', query, '--format=csv,noheader')
  return told or 'none that nvidia-smi names'


def _commit() -> str:
  """Of this tree; 'unknown' where nothing says it."""
  said = os.environ.get('COMMIT') or _told('git', 'rev-parse', 'HEAD')
  return said or 'unknown'


def compared(results: dict[str, Any]) -> dict[str, Any]:
  """Ours over TRL's steps a second, where both were measured."""
  rates = [
    results.get(name, {}).get('steps_per_second')
    for name in ('grpo', 'grpo_trl')
  ]
  return {'grpo_ours_over_trl': rates[0] / rates[1]} if all(rates) else {}


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
  parser.add_argument('--until', type=float, default=0.0)
  parser.add_argument('--peer_python', default='', help='with torch and TRL')
  parser.add_argument('--toy', action='store_true', help='tiny, on any device')
  parser.add_argument('--dry_run', action='store_true', help='print the parts')
  parser.add_argument('--out', default=str(RESULTS))
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; 1 where a part failed or was cut."""
  flags = _parser().parse_args(argv)
  parts = [PARTS[name] for name in flags.parts]
  if flags.dry_run:
    for part in parts:
      sizes = ', '.join(
        f'{key} {x}' for key, x in sizes_of(part.name, flags.toy).items()
      )
      print(f'{part.name:12} {part.limit:4.0f} s  {part.what}\n  {sizes}')
    print(f'{"all":12} {sum(part.limit for part in parts):4.0f} s at most')
    return 0
  path = Path(flags.out) / ('gpu_toy.json' if flags.toy else 'gpu.json')
  # Parts of an earlier call of the same run stay.
  found = json.loads(path.read_text()) if path.exists() else {'results': {}}
  for part in parts:
    print(f'{part.name} (at most {part.limit:.0f} s) ...', flush=True)
    now = datetime.datetime.now(datetime.UTC)
    result = run_part(part, flags)
    result['date_utc'] = now.isoformat(timespec='seconds')
    result['commit'] = _commit()
    found['results'][part.name] = result
    found |= {'benchmark': 'gpu', 'device': _device(),
              'compared': compared(found['results'])}  # fmt: skip
    _write(path, found)
    print(f'  {json.dumps(result)}', flush=True)
  status = [found['results'][part.name]['status'] for part in parts]
  return int(any(word in ('failed', 'cut') for word in status))


if __name__ == '__main__':
  sys.exit(main())
