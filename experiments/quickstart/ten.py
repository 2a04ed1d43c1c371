r"""The quickstart with each of ten triples of seeds: do its statements hold?

  python -m experiments.quickstart.ten --workdir runs/quickstart-ten
  python -m experiments.quickstart.ten --workdir runs/quickstart-ten --first 4

`triples.py` lists them. Every triple has a folder under the workdir, and is
read in place of trained where it is done. Writes ten.json and the table in
README.md after each, so that a run that is stopped leaves what it has. Of the
first one, which is that of `make quickstart`, it also writes summary.json, the
picture and the tables here and in the README of the repository.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.quickstart.triples import LEAST, TRIPLES
from posttrain_jax import report
from posttrain_jax.log import progress
from posttrain_jax.quickstart import command
from posttrain_jax.report.generated import filled
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import runtime

FOLDER = Path(__file__).parent
CONFIG = 'configs/quickstart.py'
KEPT = ('arms', 'statements', 'frontiers', 'problems', 'seeds', 'commit',
        'hardware', 'wall_seconds', 'cpu_seconds', 'stage_seconds')  # fmt: skip


def table(found: Sequence[dict[str, Any]]) -> str:
  """The table of README.md: a line a triple, and how many statements hold."""
  texts = [x['text'] for x in found[0]['statements']]
  arms = found[0]['arms']
  heads = [f'{arm["label"]}: new, kept' for arm in arms.values()]
  heads += [f'statement {i}' for i in range(1, len(texts) + 1)]
  lines = [
    '| seeds | ' + ' | '.join(heads) + ' |',
    '| --- |' + ' --- |' * len(heads),
  ]
  for one in found:
    cells = [
      f'{100 * arm["accuracy"]:.1f}, {100 * arm["retention"]:.1f}'
      for arm in one['arms'].values()
    ]
    cells += [
      f'{"holds" if x["holds"] else "**no**"}: {x["difference"]:+.1f} '
      f'[{x["low"]:+.1f}, {x["high"]:+.1f}]'
      for x in one['statements']
    ]
    seeds = ', '.join(map(str, one['seeds']))
    lines.append(f'| {seeds} | ' + ' | '.join(cells) + ' |')
  counts = []
  for index, text in enumerate(texts):
    held = sum(one['statements'][index]['holds'] for one in found)
    counts.append(f'{index + 1}. {text} Holds in {held} of {len(found)}.')
  commits = ', '.join(sorted({one['commit'] for one in found}))
  made = (
    f'{len(found)} of the {len(TRIPLES)} listed triples were run; a statement '
    f'has to hold for {LEAST} of {len(TRIPLES)}. Commit {commits}, '
    f'{found[0]["hardware"]}.'
  )
  return '\n'.join([made, '', *counts, '', *lines])


def took(one: dict[str, Any]) -> str:
  """How long it took; of one that read its stages, what they had taken."""
  if one['wall_seconds'] < one['stage_seconds']:
    return (
      f'{progress.clock(one["stage_seconds"])} of training and measuring, in '
      'several processes'
    )
  return (
    f'{progress.clock(one["wall_seconds"])} and {one["cpu_seconds"]:.0f} CPU '
    'seconds after installation'
  )


def single(one: dict[str, Any]) -> str:
  """The table of one triple, with all that says where it is from."""
  share = lambda arm, name: (
    f'{100 * arm[name]:.1f} [{100 * arm[f"{name}_low"]:.1f}, '
    f'{100 * arm[f"{name}_high"]:.1f}]'
  )
  lines = [
    '| model | new task, % | old tasks kept, % | new task, greedy, % | rate |',
    '| --- | --- | --- | --- | --- |',
  ]
  for arm in one['arms'].values():
    cells = [share(arm, x) for x in ('accuracy', 'retention', 'greedy')]
    rate = '' if arm['rate'] is None else f'{arm["rate"]:g}'
    lines.append(f'| {arm["label"]} | {" | ".join(cells)} | {rate} |')
  lines.append('')
  for item in one['statements']:
    lines.append(
      f'- {"Holds" if item["holds"] else "Does not hold"}: {item["text"]} '
      f'({item["difference"]:+.1f} points [{item["low"]:+.1f}, '
      f'{item["high"]:+.1f}])'
    )
  seeds = ', '.join(map(str, one['seeds']))
  lines += [
    '',
    f'`{one["command"]}`, commit {one["commit"]}, seeds {seeds}, '
    f'{one["hardware"]}: {took(one)}. Means over seeds with 95% intervals; '
    f'{one["problems"]["new"]["test"]} different held-out problems of the new '
    'task.',
  ]
  return '\n'.join(lines)


def fill(readme: Path, name: str, made: str) -> None:
  old = readme.read_text(encoding='utf-8')
  readme.write_text(filled(old, name, made, str(readme)), encoding='utf-8')


def write(found: Sequence[dict[str, Any]]) -> None:
  """ten.json and the table of all triples that are done."""
  kept = [{key: one[key] for key in KEPT} for one in found]
  text = json.dumps(kept, indent=1, ensure_ascii=False)
  (FOLDER / 'ten.json').write_text(text + '\n', encoding='utf-8')
  fill(FOLDER / 'README.md', 'ten', table(kept))


def write_first(one: dict[str, Any], workdir: Path) -> None:
  """What is shown of the triple of `make quickstart`."""
  report.write_comparison(workdir, one)
  shutil.copy(workdir / 'plots' / 'frontier.png', FOLDER)
  shutil.copy(workdir / command.SUMMARY, FOLDER)
  for readme in (FOLDER / 'README.md', FOLDER.parent.parent / 'README.md'):
    fill(readme, 'quickstart', single(one))


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.quickstart.ten',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--workdir', type=Path, required=True)
  parser.add_argument(
    '--first',
    type=int,
    default=len(TRIPLES),
    help='how many of the triples, in their order',
  )
  flags = parser.parse_args(argv)
  if not 1 <= flags.first <= len(TRIPLES):
    parser.error(f'--first {flags.first} is not in 1..{len(TRIPLES)}')
  found, both = [], None
  for triple in TRIPLES[: flags.first]:
    items = [('seed', str(triple[0])), ('seeds', str(len(triple)))]
    config = config_lib.load(CONFIG, items)
    if both is None:
      runtime.prepare(runs=config.seeds)
    print(f'Seeds {", ".join(map(str, triple))}', flush=True)
    line = (
      f'python -m posttrain_jax.quickstart --config {CONFIG} --workdir '
      'runs/quickstart'
    )
    if triple[0] != TRIPLES[0][0]:
      line += f' --config.seed={triple[0]}'
    workdir = flags.workdir / f'seed-{triple[0]}'
    try:
      summary, both = command.run(config, workdir, line, both)
    except (ValueError, OSError, FloatingPointError) as error:
      print(f'error: {error}', file=sys.stderr)
      return 2
    command.show(summary)
    found.append(summary)
    write(found)
    if len(found) == 1:
      write_first(summary, workdir)
    took = progress.clock(summary['wall_seconds'])
    print(f'took {took}, {summary["cpu_seconds"]:.0f} CPU seconds', flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
