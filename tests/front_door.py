"""A model folder and files of a newcomer, and the commands that use them."""

import json
import shutil
from pathlib import Path

import chat_folders

from posttrain_jax import train

SUMS = [(a, b) for a in range(10) for b in range(10)]
# Pairs are about how one answers: with the number alone.
REJECTED = 'I do not know.'


def ask(a: int, b: int) -> list[dict]:
  return [{'role': 'user', 'content': f'{a}+{b}'}]


def say(text: object) -> list[dict]:
  return [{'role': 'assistant', 'content': str(text)}]


def write(path: Path, rows: list[dict]) -> None:
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def without(folder: Path, name: str, *files: str) -> Path:
  """A copy of `model` that lacks some files."""
  out = shutil.copytree(folder / 'model', folder / name)
  for file in files:
    (out / file).unlink()
  return out


def make(folder: Path) -> Path:
  """`model`, a Qwen2 with a trained tokenizer and a template in Qwen2.5's
  style, and the files chat, pairs and prompts.jsonl; blank.jsonl
  has no answers to its prompts.

  Beside it folders that lack something: `bare` a tokenizer, `plain` a template
  (and it has another EOS), `sizes` weights, `empty` all.
  """
  model = chat_folders.make('qwen2_5', folder / 'model')
  chat_folders.add_weights(model, width=64)
  parts = ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja')
  without(folder, 'bare', *parts)
  without(folder, 'sizes', 'model.safetensors')
  plain = without(folder, 'plain', parts[2], 'generation_config.json')
  named = {'tokenizer_class': 'PreTrainedTokenizerFast'}
  named |= {'eos_token': '<|endoftext|>', 'pad_token': '<|endoftext|>'}
  (plain / parts[1]).write_text(json.dumps(named))
  (folder / 'empty').mkdir()
  write(folder / 'chat.jsonl', [
    {'messages': ask(a, b) + say(a + b)} for a, b in SUMS
  ])  # fmt: skip
  write(folder / 'pairs.jsonl', [
    {'prompt': ask(a, b), 'chosen': say(a + b), 'rejected': say(REJECTED)}
    for a, b in SUMS
  ])  # fmt: skip
  write(folder / 'prompts.jsonl', [
    {'prompt': ask(a, b), 'answer': a + b} for a, b in SUMS
  ])  # fmt: skip
  write(folder / 'blank.jsonl', [
    {'prompt': ask(a, b), 'answer': None} for a, b in SUMS
  ])  # fmt: skip
  return folder


# {stage: (config, file, keys)}
# One that had no part in choosing sizes and rates.
SEED = 11
REWARDS = '[{"name": "math_verify", "weight": 1.0}]'
STAGES = {
  'sft': ('sft.py:data=jsonl', 'chat', {
    'data.max_length': 64, 'data.eval_fraction': 0.1, 'num_steps': 260,
    'prompts_per_step': 32, 'optimizer.lr': 4e-3,
  }),
  'dpo': ('preference.py:recipe=dpo,data=jsonl', 'pairs', {
    'data.max_length': 64, 'data.eval_fraction': 0.1, 'num_steps': 15,
    'prompts_per_step': 16, 'optimizer.lr': 1e-4,
  }),
  'grpo': ('rl.py:recipe=grpo,data=jsonl', 'prompts', {
    'rewards': REWARDS, 'max_new_tokens': 8, 'num_steps': 60,
    'prompts_per_step': 16, 'group_size': 8, 'eval.samples': 0,
    'optimizer.lr': 1e-3,
  }),
}  # fmt: skip


def command(stage: str, start: str, workdir: str, *more: str, **keys) -> list:
  """The words of a command that trains; `keys` are overrides."""
  config, file, own = STAGES[stage]
  given = {
    'data.path': f'{file}.jsonl', 'init_from': start, 'eval.every': 0,
    'log.tensorboard': False, 'checkpoint.every': 0, 'seed': SEED,
    **own, **keys,
  }  # fmt: skip
  words = ['--config', f'configs/{config}', '--workdir', workdir, *more]
  return words + [f'--config.{key}={value}' for key, value in given.items()]


def told(capsys, stage: str, **keys) -> str:
  """What a command that is refused says, without notes."""
  capsys.readouterr()
  assert train.main(command(stage, 'model', 'runs/no', **keys)) == 2
  said = capsys.readouterr().err.splitlines(keepends=True)
  return ''.join(line for line in said if not line.startswith('note: '))
