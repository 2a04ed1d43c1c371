"""Runs that are killed (SIGKILL) again and again, and one that is not.

Children are forked by a server that has imported everything and touched no
device, so that a start costs what tracing costs.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from posttrain_jax import log, train
from posttrain_jax.run import checkpoint, failed

ROOT = Path(__file__).parent.parent
# Rewards that say when they judge: a moment to kill at.
REWARDS = """
import os, time

def early(completions, **columns):
  mark = os.path.join(os.path.dirname(__file__), 'judging')
  open(mark, 'w').close()
  time.sleep(0.02)
  os.unlink(mark) if os.path.exists(mark) else None
  return [sum(b < 128 for b in t.encode()) / 16 for t in completions]
"""
TINY = {
  'eval.num_problems': 0, 'log.tensorboard': False, 'checkpoint.every': 3,
  'model.preset': 'depth-1', 'steps_per_call': 1,
  'prompts_per_step': 4,
}  # fmt: skip
BYTES = {'tokenizer': 'byte', 'data.max_length': 24}
# {kind: (config, keys)}
KINDS = {
  'sft': ('sft.py:data=jsonl,smoke', {**BYTES, 'data.packing': True}),
  'sft in graph': ('sft.py:smoke', {}),
  'dpo': ('preference.py:recipe=dpo,data=jsonl,smoke', BYTES),
  'distill': ('distill.py:recipe=gkd,smoke', {'others.teacher': 'teacher'}),
  'grpo': ('rl.py:recipe=grpo,smoke', {'steps_per_call': 2}),
  'ppo': ('rl.py:recipe=ppo,smoke', {}),
  'lora': ('sft.py:smoke', {'adapter.name': 'lora', 'adapter.rank': 2}),
  'luffy': ('rl.py:recipe=luffy,smoke', {'group_size': 3}),
  'relift': ('rl.py:recipe=relift,smoke', {'hard_buffer.rows': 3}),
  'sasr': ('rl.py:recipe=sasr,smoke', {'group_size': 3}),
  'host': ('rl.py:data=jsonl,smoke', {
    'tokenizer': 'byte', 'reward_pool.workers': 1, 'max_new_tokens': 8,
    'rewards': '[{"name": "own_rewards:early"}]',
  }),
  'host ahead': ('rl.py:data=jsonl,smoke', {
    'tokenizer': 'byte', 'reward_pool.workers': 1, 'max_new_tokens': 8,
    'rewards': '[{"name": "own_rewards:early"}]', 'rollout_overlap': True,
  }),
}  # fmt: skip
LINES = {
  'sft': {'prompt': '{} and ', 'completion': '{}'},
  'dpo': {'prompt': '{} and ', 'chosen': '{}', 'rejected': 'no'},
  'host': {'prompt': '{}+1=', 'answer': '{}'},
}


def prepare(folder: Path, kind: str, steps: int) -> list[str]:
  """The words of a command without --workdir; makes files that it reads."""
  spec, own = KINDS[kind]
  keys = {**TINY, **own, 'num_steps': steps}
  line = LINES.get(kind.split()[0]) if 'jsonl' in spec else None
  if line:
    rows = [{k: v.format(i) for k, v in line.items()} for i in range(50)]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / 'data.jsonl').write_text(text)
    keys['data.path'] = str(folder / 'data.jsonl')
  (folder / 'own_rewards.py').write_text(REWARDS)
  if 'others.teacher' in keys:
    keys['others.teacher'] = teacher = str(folder / 'teacher')
    teach = ['--config', 'configs/sft.py:smoke', '--workdir', teacher]
    teach += _flags({**TINY, 'num_steps': 1})
    assert finished(start(teach, folder)) == 0
  return ['--config', f'configs/{spec}', *_flags(keys)]


def _flags(keys: dict) -> list[str]:
  return [f'--config.{k}={v}' for k, v in keys.items()]


def child(argv: list[str], folder: str) -> None:
  """A process that trains; what it prints goes to FOLDER/said."""
  os.setsid()
  out = os.open(os.path.join(folder, 'said'), os.O_CREAT | os.O_WRONLY, 0o644)
  os.lseek(out, 0, os.SEEK_END)
  os.dup2(out, 1)
  os.dup2(out, 2)
  os.chdir(folder)  # where rewards are found; configs come with the package
  import jax

  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_num_cpu_devices', 1)
  sys.exit(train.main(argv))


def start(argv: list[str], folder: Path) -> multiprocessing.Process:
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['kill_runs'])
  process = context.Process(target=child, args=(argv, str(folder)))
  process.start()
  return process


def finished(process: multiprocessing.Process, seconds: float = 300) -> int:
  process.join(seconds)
  assert process.exitcode is not None, 'still running'
  return process.exitcode


# Moments to kill at: each says whether it has come.


def _rows(workdir: Path) -> int:
  try:
    return (workdir / 'metrics.jsonl').stat().st_size
  except OSError:
    return 0


def moment(name: str, folder: Path, workdir: Path):
  """() -> whether a process may be killed now."""
  if name == 'save':
    return lambda: any(workdir.glob('checkpoints/*orbax-checkpoint-tmp*'))
  if name == 'judge':
    return (folder / 'judging').exists
  if name == 'start':
    return (workdir / 'lease.json').exists
  before = _rows(workdir)
  return lambda: _rows(workdir) != before


WAITS = {'save': 0.1, 'judge': 0.02, 'start': 2.0, 'step': 0.5}


def kill_once(argv, folder, workdir, name, rng) -> int | None:
  """None where the process was killed, else its exit status."""
  (folder / 'judging').unlink(missing_ok=True)
  process = start([*argv, '--workdir', str(workdir)], folder)
  come, wait = moment(name, folder, workdir), rng.uniform(0, WAITS[name])
  end = time.monotonic() + 300
  while process.is_alive() and not come():
    assert time.monotonic() < end, f'no moment "{name}"'
    time.sleep(0.002)
  process.join(wait)
  if process.exitcode is None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()
  return None if process.exitcode == -signal.SIGKILL else process.exitcode


def numbers(workdir: Path) -> tuple[list[dict], dict]:
  """(rows of metrics without times, parameters) of a run that is through."""
  timed = ('time', *failed.TIMED)
  rows = [
    {k: v for k, v in row.items() if not k.startswith(timed)}
    for row in log.read(workdir)[1]
  ]
  import jax

  params = checkpoint.read_params(workdir)[2]
  return rows, jax.tree.map(np.asarray, params)
