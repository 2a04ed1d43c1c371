r"""Prints the README's table of what was measured, from the JSON files.

python -m experiments.benchmarks.table
"""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.benchmarks import common

# (file, what its sides count, row of the table of each work)
COMPARED = (
  ('generate_hf', 'tokens', 'generation {}, ours / transformers'),
  ('grpo_trl', 'steps', 'GRPO {}, ours / TRL'),
  ('grpo_trl_compiled', 'steps', 'GRPO {}, ours / TRL, generate compiled'),
  ('grpo_tunix', 'steps', 'GRPO {}, ours / Tunix'),
)


def spread(found: dict[str, float], digits: int = 2) -> str:
  """'median (min to max)'."""
  a, b, c = (f'{found[k]:,.{digits}f}' for k in ('median', 'min', 'max'))
  return f'{a} ({b} to {c})'


def compared(found: dict[str, Any], unit: str) -> str:
  """The ratio, and both sides' rates."""
  rate = lambda name: found['sides'][name][f'{unit}_per_second']
  digits = 0 if unit == 'tokens' else 2
  ours = found['best_ours']
  out = f'`{ours}` {spread(rate(ours), digits)} {unit}/s'
  if found['best_peer'] is None:
    return out + ', no peer'
  peer = found['best_peer']
  out = f'**{spread(found["ours_over_peer"])}**: {out}'
  out = f'{out}; `{peer}` {spread(rate(peer), digits)}'
  for other, over in found.get('ours_over_each_peer', {}).items():
    if other != peer:
      out += f'; over `{other}` {spread(over)}'
  return out


def rows(folder: Path) -> list[tuple[str, str, str]]:
  """(work, measured, file) of every result in a folder."""
  out = []
  load = lambda name: json.loads((folder / f'{name}.json').read_text())
  there = {path.stem for path in folder.glob('*.json')}
  for name, unit, title in COMPARED:
    if name in there:
      for work, found in load(name)['results'].items():
        out.append((title.format(work), compared(found, unit), name))
  if 'sft_torch' in there:
    found = load('sft_torch')['results']
    out.append(('SFT, ours / torch', compared(found, 'tokens'), 'sft_torch'))
  if 'seeds' in there:
    for work, found in load('seeds')['results'].items():
      for how in ('spread', 'vmapped'):
        text = f'**{spread(found[f"{how}_over_in_turn"])}**'
        out.append((f'seeds, {work}: {how} / in turn', text, 'seeds'))
  if 'start_torch' in there:
    found = load('start_torch')['results']
    for peer in (name for name in found if name.startswith('ours / ')):
      text = '; '.join(
        f'{key.replace("_", " ")} {spread(over)}'
        for key, over in found[peer].items()
      )
      out.append((f'start at 0.5B, {peer}', text, 'start_torch'))
  if 'scaling' in there:
    for line, found in load('scaling')['results'].items():
      text = f'**{found["worst_cost"]:.2f}** (' + ', '.join(
        f'x{factor}: {cost:.2f}' for factor, cost in found['cost'].items()
      )
      if 'worst_products_cost' in found:
        text += f'; products alone {found["worst_products_cost"]:.2f}'
      out.append((f'scaling, {line}: cost of a token', text + ')', 'scaling'))
  if 'logp_gap' in there:
    for name, found in load('logp_gap')['results'].items():
      text = ', '.join(f'{k} {found[k]:.1e}' for k in ('mean', 'p99', 'max'))
      title = f'|logp(sampler) - logp(learner)|, {name}'
      out.append((title, f'{text} ({found["tokens"]} tokens)', 'logp_gap'))
  if 'compiler' in there:
    for work, found in load('compiler')['results'].items():
      for setting, over in found['over_default'].items():
        if setting != 'default':
          title = f'{work}: YNNPACK {setting} / default'
          out.append((title, spread(over), 'compiler'))
  return out


def main(argv: list[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', default=str(common.RESULTS))
  flags = parser.parse_args(argv)
  print('| work | measured | file |\n| --- | --- | --- |')
  for work, measured, name in rows(Path(flags.out)):
    print(f'| {work} | {measured} | `results/{name}.json` |')


if __name__ == '__main__':
  main()
