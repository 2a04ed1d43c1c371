"""The index of all studies: what each asked, found, and where it stands."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from posttrain_jax.report.generated import filled
from posttrain_jax.report.page import Report
from posttrain_jax.report.study import counted, data
from posttrain_jax.report.study.html import badge, text

TEMPLATE = 'template'  # a folder to copy, no study
# What else there is to read beside the studies, where it exists.
_FURTHER = {
  'README.md': ('Log', 'everything measured, newest first'),
  'papers.md': ('Papers', 'every paper, and where its method is'),
  'objectives/index.html': ('Objectives', 'every loss and recipe, searchable'),
  'quickstart/README.md': ('Quickstart', 'the first comparison, in minutes'),
  'benchmarks/README.md': ('Benchmarks', 'speed against other libraries'),
}


def write(root: str | os.PathLike) -> Path:
  """Writes `root/index.html`: a card for each study folder.

  Where `root/README.md` has the marks of `studies`, their table goes there.

  A study is a folder with results.json, or with run.py alone: such a one is
  listed as not yet run; `template` is left out.

  Args:
    root: the folder of the studies' folders.

  Returns:
    The index's path.

  Raises:
    FileNotFoundError: no such folder.
    ValueError: results that are not valid; the message names file and key.
  """
  root = Path(root)
  if not root.is_dir():
    raise FileNotFoundError(f'no folder {root}')
  done, waiting = {}, []
  for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    if (folder / 'results.json').is_file():
      done[folder] = data.load(folder / 'results.json')
    elif (folder / 'run.py').is_file() and folder.name != TEMPLATE:
      waiting.append(folder)
  claims = [claim for study in done.values() for claim in data.counted(study)]
  page = Report(
    'Post-training studies',
    ', '.join([counted_studies(len(done)), counted(len(claims), 'claim')])
    + ' tested',
    css_class='study',
  )
  if claims:
    page.html(f'<p class="badges">{_tally(claims)}</p>')
  page.html(
    '<div class="studies">'
    + ''.join(_card(folder, study) for folder, study in done.items())
    + '</div>'
  )
  if waiting:
    page.heading('Not yet run')
    page.html(
      '<ul>' + ''.join(_waiting(folder) for folder in waiting) + '</ul>'
    )
  further = [
    f'<li><a href="{quote(path)}">{text(name)}</a>: {text(what)}</li>'
    for path, (name, what) in _FURTHER.items()
    if (root / path).is_file()
  ]
  if further:
    page.heading('Further reading')
    page.html(f'<ul>{"".join(further)}</ul>')
  readme = root / 'README.md'
  if readme.is_file() and '<!-- studies -->' in readme.read_text('utf-8'):
    old = readme.read_text(encoding='utf-8')
    made = table(done, waiting)
    readme.write_text(
      filled(old, 'studies', made, str(readme)), encoding='utf-8'
    )
  return page.write(root / 'index.html')


def table(done: dict[Path, dict[str, Any]], waiting: list[Path]) -> str:
  """The studies and what became of their claims, as Markdown."""
  lines = ['| study | question | claims |', '| --- | --- | --- |']
  for folder, study in done.items():
    outcomes = [claim['outcome'] for claim in data.counted(study)]
    counts = [f'{outcomes.count(x)} {x}' for x in data.OUTCOMES
              if x in outcomes]  # fmt: skip
    name = f'[{folder.name}]({folder.name}/README.md)'
    lines.append(f'| {name} | {study["question"]} | {", ".join(counts)} |')
  for folder in waiting:
    name = f'[{folder.name}]({folder.name}/README.md)'
    lines.append(f'| {name} | {_title(folder)} | not run yet |')
  return '\n'.join(lines)


def counted_studies(number: int) -> str:
  """'1 study', '2 studies'."""
  return f'{number} stud' + ('y' if number == 1 else 'ies')


def _tally(claims: list[dict[str, Any]]) -> str:
  counts = {
    outcome: sum(claim['outcome'] == outcome for claim in claims)
    for outcome in data.OUTCOMES
  }
  return ' '.join(
    badge(outcome, str(count)) for outcome, count in counts.items() if count
  )


def _card(folder: Path, study: dict[str, Any]) -> str:
  name = quote(folder.name)
  link = f'{name}/index.html'
  header = study['header']
  notes = [
    'reduced run' if study['mode'] == 'reduced' else '',
    counted(len(study['arms']), 'arm'),
    counted(len(header['seeds']), 'seed'),
    str(header.get('date') or ''),
  ]
  picture = ''
  for figure in study['figures'][:1]:
    if (folder / 'plots' / f'{figure["name"]}.png').is_file():
      # The link below says where it leads: this one is for the eye.
      picture = (
        f'<a class="thumb" href="{link}" tabindex="-1" aria-hidden="true">'
        f'<img src="{name}/plots/{quote(figure["name"])}.png" loading="lazy" '
        f'alt=""></a>'
      )
  claims = ''.join(
    f'<li>{badge(claim["outcome"])} {text(claim["statement"])}</li>'
    for claim in data.counted(study)
  )
  return (
    f'<article class="study-card">{picture}<div>'
    f'<h3><a href="{link}">{text(study["title"])}</a></h3>'
    f'<p>{text(study["question"])}</p>'
    + (f'<ul class="claims">{claims}</ul>' if claims else '')
    + f'<p class="note">{text(" · ".join(filter(None, notes)))}</p>'
    '</div></article>'
  )


def _waiting(folder: Path) -> str:
  """A line on a study without results: the heading of its README, if any."""
  title, link = _title(folder), ''
  if (folder / 'README.md').is_file():
    link = f'{quote(folder.name)}/README.md'
  name = f'<a href="{link}">{text(title)}</a>' if link else text(title)
  return f'<li>{name} <code>{text(folder.name)}/run.py</code></li>'


def _title(folder: Path) -> str:
  """The heading of a study's README, else the folder's name."""
  readme = folder / 'README.md'
  if not readme.is_file():
    return folder.name
  content = readme.read_text(encoding='utf-8')
  found = re.search(r'^#\s+(.+)$', content, re.MULTILINE)
  return found[1].strip() if found else folder.name
