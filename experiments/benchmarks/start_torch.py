r"""From the start of a process to the end of its first steps, at 0.5B.

  python -m experiments.benchmarks.start_torch \
      --peer_python .venv-trl/bin/python

A random model of Qwen2.5-0.5B's shape (24 layers, 151,936 tokens, float32) in
a Hugging Face folder, and SFT on it: rows of 256 tokens, one a step. Ours is
the command that a user types, with an empty compilation cache; the peer's is
TRL's SFTTrainer on token ids, with and without gradient checkpointing. Each
round starts every side once, one after the other. Of each: seconds from the
start of the process to the end of step 1, seconds of a later step (median), and
the most memory that it had resident, up to the end of step 1 and in all.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.benchmarks import common

ROWS, TOKENS, STEPS = 64, 256, 5
SHAPE = dict(
  architectures=['Qwen2ForCausalLM'],
  model_type='qwen2',
  vocab_size=151_936,
  hidden_size=896,
  intermediate_size=4864,
  num_hidden_layers=24,
  num_attention_heads=14,
  num_key_value_heads=2,
  max_position_embeddings=32_768,
  rms_norm_eps=1e-6,
  rope_theta=1e6,
  hidden_act='silu',
  tie_word_embeddings=True,
  torch_dtype='float32',
  bos_token_id=1,
  eos_token_id=1,
  pad_token_id=0,
)
TOY = dict(
  SHAPE, vocab_size=512, hidden_size=64, intermediate_size=128,
  num_hidden_layers=2, num_attention_heads=4,
)  # fmt: skip
SIDES = ('ours', 'trl', 'trl checkpointed')


def make_folder(folder: Path, toy: bool) -> None:
  """config.json, random weights of a trained model's scale, and text rows."""
  from posttrain_jax.models import hf, transformer
  from posttrain_jax.models.hf_config import read_config

  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(TOY if toy else SHAPE))
  config, rng = read_config(folder), np.random.default_rng(0)
  (folder / 'config.json').unlink()

  def draw(param):
    if param.ones:
      return np.ones(param.shape, np.float32)
    return param.std * rng.standard_normal(param.shape, dtype=np.float32)

  params: dict = {}
  for path, param in transformer.param_table(config).items():
    node, names = params, path.split('/')
    for name in names[:-1]:
      node = node.setdefault(name, {})
    node[names[-1]] = draw(param)
  hf.save(folder, config, params, eos_id=1, pad_id=0)
  with open(folder / 'rows.jsonl', 'w') as file:
    for row in range(ROWS):
      text = ' '.join(str(n) for n in range(row, row + TOKENS))
      file.write(json.dumps({'text': text[: TOKENS - 1]}) + '\n')


def our_command(folder: Path, workdir: Path) -> list[str]:
  """What a user types; a byte is a token."""
  keys = {
    'init_from': folder,
    'tokenizer': 'byte',
    'data.path': folder / 'rows.jsonl',
    'data.max_length': TOKENS,
    'prompts_per_step': 1,
    'num_steps': STEPS,
    'optimizer.warmup_updates': 0,
    'eval.every': 0,
    'checkpoint.every': 0,
    'log.tensorboard': 'false',
  }
  return [
    sys.executable, '-m', 'posttrain_jax.train',
    '--config', 'configs/sft.py:data=jsonl', '--workdir', str(workdir),
    *(f'--config.{key}={value}' for key, value in keys.items()),
  ]  # fmt: skip


def _peer(folder: str, out: str, checkpointed: bool) -> None:
  """TRL's side, in a process of its own; a line of JSON for every step."""
  import datasets
  import tokenizers
  import transformers
  import trl

  with open(Path(folder) / 'rows.jsonl') as file:
    texts = [json.loads(line)['text'] for line in file]
  # Our byte tokenizer's ids: the end of a sequence is 1.
  ids = [[3 + byte for byte in text.encode()] + [1] for text in texts]
  data = datasets.Dataset.from_dict({'input_ids': ids})
  words = tokenizers.models.WordLevel({'<pad>': 0, '<eos>': 1}, '<eos>')
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(words),
    pad_token='<pad>',
    eos_token='<eos>',
  )
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype='float32'
  )

  class Clock(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **given):
      used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
      row = {'time': time.time(), 'memory': used}
      with open(out, 'a') as file:
        file.write(json.dumps(row) + '\n')

  trl.SFTTrainer(
    model=model,
    args=trl.SFTConfig(
      output_dir=str(Path(out).parent / 'trl'),
      max_length=TOKENS,
      max_steps=STEPS,
      per_device_train_batch_size=1,
      gradient_checkpointing=checkpointed,
      learning_rate=2e-5,
      report_to=[],
      save_strategy='no',
      use_cpu=True,
      bf16=False,
      disable_tqdm=True,
    ),
    train_dataset=data,
    processing_class=tokenizer,
    callbacks=[Clock()],
  ).train()


def _versions(python: str) -> str:
  """'torch 2.13.0, ...' of an interpreter."""
  names = ('torch', 'transformers', 'trl', 'accelerate')
  code = 'import importlib.metadata as m, sys; print(", ".join('
  code += "f'{x} {m.version(x)}' for x in sys.argv[1:]))"
  done = subprocess.run(
    [python, '-c', code, *names], capture_output=True, text=True, check=True
  )
  return done.stdout.strip()


def _steps(side: str, folder: Path, workdir: Path, python: str) -> dict:
  """One start of a side: [(seconds since the start, bytes)] of its steps."""
  shutil.rmtree(workdir, ignore_errors=True)
  workdir.mkdir()
  env = dict(os.environ, JAX_PLATFORMS='cpu')
  env['JAX_COMPILATION_CACHE_DIR'] = str(workdir / 'cache')
  out = workdir / 'steps.jsonl'
  if side == 'ours':
    command = our_command(folder, workdir / 'run')
    out = workdir / 'run' / 'metrics.jsonl'
  else:
    command = [python, '-m', 'experiments.benchmarks.start_torch', '--worker']
    command += [str(folder), str(out), str(int(side != 'trl'))]
  began = time.time()
  done = subprocess.run(
    command, cwd=common.ROOT, env=env, capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  if done.returncode:
    raise RuntimeError(f'{side} ended with {done.returncode}: {done.stderr}')
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  if side == 'ours':
    rows = [
      {'time': row['time'], 'memory': row['perf/peak_memory']}
      for row in rows
      if row.get('split') == 'train'
    ]
  times = [row['time'] - began for row in rows]
  later = [b - a for a, b in zip(times[1:], times[2:])]
  return {
    'first_step_ends': times[0],
    'later_step': statistics.median(later),
    'memory_of_first_step': rows[0]['memory'],
    'memory_in_all': rows[-1]['memory'],
  }


def main(argv: list[str] | None = None) -> common.Session:
  """Runs the benchmark; returns what it wrote."""
  parser = common.parser(__doc__)
  parser.set_defaults(repetitions=3, warmup=0)
  parser.add_argument(
    '--peer_python', default='', help='an interpreter with torch and TRL'
  )
  flags = parser.parse_args(argv)
  session = common.Session('start_torch', flags, cache=False)
  sides = SIDES if flags.peer_python else SIDES[:1]
  if len(sides) == 1:
    session.notes.append('no --peer_python: ours alone')
  else:
    session.notes.append(f'the peer: {_versions(flags.peer_python)}')
  with tempfile.TemporaryDirectory() as name:
    folder, workdir = Path(name) / 'folder', Path(name) / 'work'
    make_folder(folder, flags.toy)
    rounds: dict[str, list[dict]] = {side: [] for side in sides}
    for turn in range(flags.repetitions):
      order = sides if turn % 2 == 0 else sides[::-1]
      for side in order:
        found = _steps(side, folder, workdir, flags.peer_python)
        rounds[side].append(found)
        print(f'  {side:18}', {k: f'{v:.4g}' for k, v in found.items()})
  session.results = {
    side: {
      key: common.summary([turn[key] for turn in turns]) for key in turns[0]
    }
    for side, turns in rounds.items()
  }
  for peer in sides[1:]:
    session.results[f'ours / {peer}'] = {
      key: common.summary(
        [a[key] / b[key] for a, b in zip(rounds['ours'], rounds[peer])]
      )
      for key in rounds['ours'][0]
    }
  session.write()
  return session


if __name__ == '__main__':
  if sys.argv[1:2] == ['--worker']:
    _peer(sys.argv[2], sys.argv[3], bool(int(sys.argv[4])))
  else:
    main()
