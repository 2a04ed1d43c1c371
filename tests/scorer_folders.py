"""Reward models of transformers, a model that they judge, and prompts."""

import json
import shutil
from pathlib import Path

import chat_folders

GOLDENS = Path(__file__).parent / 'goldens' / 'scorers'
EXPECTED = json.loads((GOLDENS / 'expected.json').read_text())


def make(out: Path) -> Path:
  """`llama` and `qwen2`, reward models; `model`, which answers; prompts."""
  for name in sorted(EXPECTED):
    chat_folders.make('qwen2_5', out / name)
    for file in ('config.json', 'model.safetensors'):
      shutil.copy(GOLDENS / name / file, out / name / file)
  chat_folders.make('qwen2_5', out / 'model')
  chat_folders.add_weights(out / 'model', width=16)
  rows = [
    {'prompt': [{'role': 'user', 'content': f'{i}+1'}], 'answer': str(i + 1)}
    for i in range(12)
  ]
  (out / 'prompts.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )
  return out
