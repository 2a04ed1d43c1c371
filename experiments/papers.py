"""The catalogue of papers: what of each is in the code, and where.

  python experiments/papers.py find TEXT   papers whose row has the text
  python experiments/papers.py --write     remakes papers.md and the summary
  python experiments/papers.py --check     exit status 1 if they are stale

One row of papers.csv is one paper. Statuses:

  measured  code, a config, and a committed result beside the paper's claim
  runs      its own mechanism is in the code, and a config runs it
  parts     a block that its own idea rests on is in the code, not all of it
  planned   nothing of its own yet

Plain SFT, DPO, PPO, GRPO and a Bradley-Terry reward model alone make no 'parts'
unless the paper is about just these. What differs from a paper, or is missing
for it, is its `reading`.
"""

import argparse
import csv
import dataclasses
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from posttrain_jax.report.generated import filled

__all__ = [
  'Paper',
  'commands',
  'find',
  'main',
  'read',
  'render',
  'stages',
  'summary',
  'variants',
]

HERE = Path(__file__).resolve().parent
TABLE = HERE / 'papers.csv'
PAGE = HERE / 'papers.md'
INDEX = HERE / 'README.md'
COMMAND = 'python experiments/papers.py --write'
TRAIN = 'python -m posttrain_jax.train'

STATUSES = {
  'measured': 'code, a config, and a committed result beside its claim',
  'runs': 'its own mechanism is in the code, and a config runs it',
  'parts': 'a block that its own idea rests on is in the code, not all of it',
  'planned': 'nothing of its own yet',
}
# What papers are about, in the order of the page.
AREAS = (
  'SFT objectives',
  'SFT against RL',
  'SFT-RL hybrids',
  'RL with verifiable rewards',
  'preferences and reward models',
  'data selection and mixtures',
  'parameters and adapters',
  'decoding and test time',
  'agents and tools',
  'vision, audio and other modalities',
  'domains and languages',
  'meta-learning',
)
# Columns that a row of a status has to fill, and those it has to leave empty.
FILLED = {
  'measured': ('code', 'config', 'result'),
  'runs': ('code', 'config'),
  'parts': ('code',),
  'planned': (),
}
EMPTY = {
  'measured': (),
  'runs': ('result',),
  'parts': ('result',),
  'planned': ('code', 'config', 'result'),
}
PACKAGE = 'posttrain_jax.'
_ID = re.compile(r'\d{3}')
_NAME = re.compile(r'posttrain_jax(\.[a-z_0-9]+)+')
_FLAGS = re.compile(r'`(--config\.[^`]*)`')


@dataclasses.dataclass(frozen=True)
class Paper:
  """One row.

  id       three digits
  name     short name; a few papers share one
  family   the part of the catalogue that has its card
  area     what it is about, one of AREAS; `kind` is what it contributes
  status   one of STATUSES
  code     dotted names of modules and functions
  config   commands' specs, one for each stage of a recipe
  study    folder under experiments/, or ''
  result   path of a committed file, from the repository's root, or ''
  reading  a sentence: what lives here, what differs, or what is missing
  """

  id: str
  name: str
  title: str
  family: str
  area: str
  kind: str
  status: str
  code: tuple[str, ...]
  config: tuple[str, ...]
  study: str
  result: str
  reading: str


COLUMNS = tuple(field.name for field in dataclasses.fields(Paper))


def _wrong(row: dict[str, str]) -> tuple[str, str] | None:
  """(column, what is wrong with it) of a row's texts, or None."""
  for column in ('name', 'title', 'family', 'kind', 'reading'):
    if not row[column].strip():
      return column, 'is empty'
  if not _ID.fullmatch(row['id']):
    return 'id', f'"{row["id"]}" is not three digits'
  if row['area'] not in AREAS:
    return 'area', f'"{row["area"]}" is none of {", ".join(AREAS)}'
  status = row['status']
  if status not in STATUSES:
    return 'status', f'"{status}" is none of {", ".join(STATUSES)}'
  for name in row['code'].split():
    if not _NAME.fullmatch(name):
      return 'code', f'"{name}" is no dotted name in {PACKAGE[:-1]}'
  if not row['reading'].endswith('.'):
    return 'reading', 'does not end with a full stop'
  for column in FILLED[status]:
    if not row[column]:
      return column, f'is empty, and status "{status}" needs it'
  for column in EMPTY[status]:
    if row[column]:
      return column, f'is filled, and status "{status}" has none'
  return None


def read(path: str | Path = TABLE) -> list[Paper]:
  """The papers of a table, in its order.

  Raises:
    ValueError: a bad header, row or cell, with its line and column, or an id
      that stands twice.
  """
  papers, seen = [], {}
  with open(path, newline='', encoding='utf-8') as file:
    reader = csv.reader(file)
    header = tuple(next(reader, ()))
    if header != COLUMNS:
      raise ValueError(
        f'{path}, line 1: columns are {",".join(header)}, not '
        f'{",".join(COLUMNS)}'
      )
    for cells in reader:
      where = f'{path}, line {reader.line_num}'
      if len(cells) != len(COLUMNS):
        raise ValueError(
          f'{where}: {len(cells)} columns, not {len(COLUMNS)} (is a comma '
          'outside of quotes?)'
        )
      row = dict(zip(COLUMNS, cells))
      wrong = _wrong(row)
      if wrong:
        raise ValueError(f'{where}, column {wrong[0]}: {wrong[1]}')
      if row['id'] in seen:
        raise ValueError(
          f'{where}, column id: {row["id"]} is on line {seen[row["id"]]} too'
        )
      seen[row['id']] = reader.line_num
      code = tuple(row.pop('code').split())
      config = tuple(filter(None, row.pop('config').split('; ')))
      papers.append(Paper(**row, code=code, config=config))
  return papers


def stages(paper: Paper) -> list[tuple[str, list[str]]]:
  """[(spec, flags)] of a paper's commands, flags as '--config.KEY=VALUE'."""
  split = [command.split() for command in paper.config]
  return [(spec, flags) for spec, *flags in split]


def commands(paper: Paper, workdir: str = 'runs') -> list[list[str]]:
  """Arguments of `python -m posttrain_jax.train`, one list for each stage.

  Stage N trains in WORKDIR/N. It starts from the stage before, unless its own
  flags name the folder of one (as runs/N), as whatever model they say.
  """
  out = []
  for number, (spec, flags) in enumerate(stages(paper), 1):
    named = any('=runs/' in flag for flag in flags)
    if number > 1 and not named:
      flags = [*flags, f'--config.init_from=runs/{number - 1}']
    flags = [flag.replace('=runs/', f'={workdir}/') for flag in flags]
    out.append(['--config', spec, *flags, '--workdir', f'{workdir}/{number}'])
  return out


def variants(paper: Paper, workdir: str = 'runs') -> list[list[str]]:
  """Arguments of the commands that the reading names by flags in backticks.

  Each is the last of `commands` with these flags behind its own, or in place of
  its own for the same keys; variant K of command N trains in WORKDIR/N-K.
  """
  out = []
  for number, flags in enumerate(_FLAGS.findall(paper.reading), 1):
    *last, _, folder = commands(paper, workdir)[-1]
    flags = flags.replace('=runs/', f'={workdir}/').split()
    keys = {flag.partition('=')[0] for flag in flags}
    kept = [word for word in last if word.partition('=')[0] not in keys]
    out.append([*kept, *flags, '--workdir', f'{folder}-{number}'])
  return out


def find(papers: Iterable[Paper], text: str) -> list[Paper]:
  """Papers of which any column contains the text, whatever its case."""
  text = text.casefold()
  rows = lambda paper: ' '.join(map(str, dataclasses.astuple(paper)))
  return [paper for paper in papers if text in rows(paper).casefold()]


def _shown(command: str) -> str:
  """A command's spec and flags as a shell takes them."""
  return shlex.join(command.split())


def _areas(papers: list[Paper]) -> list[str]:
  """Those that papers are in, in the order of AREAS."""
  there = {paper.area for paper in papers}
  return [area for area in AREAS if area in there]


def _counts(papers: list[Paper]) -> list[str]:
  """Lines of a table: families by statuses, with sums."""
  head = ['area', *STATUSES, 'all']
  lines = [_line(head), _line(['---'] + ['---:'] * (len(head) - 1))]
  groups = [
    (area, [paper for paper in papers if paper.area == area])
    for area in _areas(papers)
  ]
  for name, group in [*groups, ('**all**', papers)]:
    by = Counter(paper.status for paper in group)
    lines.append(
      _line([name, *(str(by[s]) for s in STATUSES), str(len(group))])
    )
  return lines


def _line(cells: Iterable[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


def _cell(text: str) -> str:
  return text.replace('|', '\\|').replace('<', '&lt;')


def _code(names: Iterable[str]) -> str:
  """Names as code; a bar would end the cell."""
  return '<br>'.join('`' + name.replace('|', '\\|') + '`' for name in names)


def _result(paper: Paper) -> str:
  """Links to the committed result and to the study, from experiments/."""
  links = []
  if paper.result:
    links.append(f'[result]({paper.result.removeprefix("experiments/")})')
  if paper.study:
    links.append(f'[{paper.study}]({paper.study})')
  return '<br>'.join(links)


def _row(paper: Paper) -> str:
  title = paper.title.removeprefix(paper.name + ':').strip()
  name = f'**{_cell(paper.name)}**<br>{_cell(title)}'
  where = _code(entry.removeprefix(PACKAGE) for entry in paper.code)
  reading = _FLAGS.sub(lambda flags: f'`{_shown(flags[1])}`', paper.reading)
  return _line(
    [paper.id, name, paper.status, where, _code(map(_shown, paper.config)),
     _result(paper), _cell(reading)]
  )  # fmt: skip


def render(papers: list[Paper]) -> str:
  """The page: counts, what the statuses mean, one table for each area."""
  lines = [
    '# Papers',
    '',
    f'{len(papers)} papers on post-training, and what of each is in this code. '
    f'Made by `{COMMAND}` from [papers.csv](papers.csv); do not edit.',
    '',
    *(f'- **{name}**: {meaning}' for name, meaning in STATUSES.items()),
    '',
    'Plain SFT, DPO, PPO, GRPO and a Bradley-Terry reward model alone make no '
    '*parts* unless the paper is about just these. Everything here runs on '
    'procedural text tasks and small models: *runs* says that the mechanism is '
    'there, not that a number of the paper was reached.',
    '',
    'Code is named from `posttrain_jax` on. Run a spec with `python -m '
    'posttrain_jax.train --config SPEC --workdir runs/1`. Of several, the next '
    'goes to `runs/2` and so on, and each starts from the one before, with '
    '`--config.init_from=runs/1`, unless it names a folder itself. Flags in a '
    'reading are for a variant: the last command with these behind its own. A '
    'paper is found by any word with `python experiments/papers.py find WORD`, '
    'which prints whole commands.',
    '',
    *_counts(papers),
  ]
  head = ['id', 'paper', 'status', 'code', 'run', 'result', 'reading']
  for area in _areas(papers):
    lines += ['', f'## {area[0].upper()}{area[1:]}', '']
    lines += [_line(head), _line(['---'] * len(head))]
    lines += [_row(paper) for paper in papers if paper.area == area]
  return '\n'.join(lines) + '\n'


def summary(papers: list[Paper]) -> str:
  """What stands between the markers of the index."""
  text = (
    f'[papers.md](papers.md) says of each of {len(papers)} papers what of it '
    'is in the code,\nhow to run it, and what differs or is missing.\n'
  )
  return '\n'.join([text, *_counts(papers)])


def _with_summary(index: str, papers: list[Paper]) -> str:
  """The index with a new summary between its markers.

  Raises:
    ValueError: it has no markers, or several.
  """
  return filled(index, 'papers', summary(papers), str(INDEX))


def _files(papers: list[Paper]) -> dict[Path, str]:
  """{path: content} as it would be made now."""
  index = INDEX.read_text('utf-8')
  return {PAGE: render(papers), INDEX: _with_summary(index, papers)}


def _stale(papers: list[Paper]) -> list[Path]:
  return [
    path
    for path, text in _files(papers).items()
    if not path.exists() or path.read_text('utf-8') != text
  ]


def _show(paper: Paper) -> str:
  lines = [f'{paper.id} {paper.name} [{paper.status}] {paper.title}']
  lines += [f'    {paper.reading}']
  lines += [f'    code    {name}' for name in paper.code]
  lines += [f'    run     {TRAIN} {shlex.join(c)}' for c in commands(paper)]
  lines += [f'    variant {TRAIN} {shlex.join(c)}' for c in variants(paper)]
  lines += [f'    study   experiments/{paper.study}'] if paper.study else []
  lines += [f'    result  {paper.result}'] if paper.result else []
  return '\n'.join(lines)


def main(arguments: list[str] | None = None) -> int:
  """The command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('command', nargs='?', choices=['find'])
  parser.add_argument('text', nargs='*', help='what to find')
  parser.add_argument('--write', action='store_true')
  parser.add_argument('--check', action='store_true')
  given = parser.parse_args(arguments)
  papers = read()
  if given.command == 'find':
    found = find(papers, ' '.join(given.text))
    print('\n'.join(map(_show, found)) or 'no such paper')
    return 0 if found else 1
  if given.write:
    for path, text in _files(papers).items():
      path.write_text(text, 'utf-8')
      print(path)
    return 0
  if given.check:
    stale = _stale(papers)
    for path in stale:
      print(f'{path} is stale: run {COMMAND}')
    return 1 if stale else 0
  parser.error('say find TEXT, --write or --check')


if __name__ == '__main__':
  sys.exit(main())
