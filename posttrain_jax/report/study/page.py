"""The page of one study, from its results: verdicts, figures, equal terms.

  study.write('experiments/forgetting/results.json', 'experiments/forgetting')

`data` says what the results hold and checks them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain_jax.log.progress import clock
from posttrain_jax.report.page import Report
from posttrain_jax.report.study import asked, data, html, plots
from posttrain_jax.report.study.frame import WIDTH

_PHONE = 328  # CSS pixels that a figure of width WIDTH has on a small phone


def write(
  results: Mapping[str, Any] | str | os.PathLike, folder: str | os.PathLike
) -> Path:
  """Writes `folder/index.html` and its pictures as `folder/plots/*.png`.

  Args:
    results: of the study, or the path of its results.json.
    folder: where the page goes.

  Returns:
    The page's path.

  Raises:
    FileNotFoundError: no such results file.
    ValueError: results with a key or value that is missing, unknown or wrong;
      the message names it and the nearest valid one.
  """
  results = data.load(results)
  page = Report(results['title'], _subtitle(results), css_class='study')
  page.text(results['question'], lede=True)
  if results['mode'] == 'reduced':
    page.html(
      '<p class="notice"><b>Reduced run.</b> Fewer or shorter runs than the '
      'full study: it shows that the study works, not what it finds.</p>'
    )
  if results['claims']:
    page.html(html.verdicts(results))
    if later := html.verdicts(results, 'after'):
      page.heading('Seen afterwards')
      page.text(
        'Claims that were added after a run: they count for nothing, and are '
        'here to be tested by the next one.'
      )
      page.html(later)
  if results.get('reading'):
    page.heading('What was found')
    page.bullets(results['reading'])
  if results['figures']:
    page.heading('Figures')
    for figure in results['figures']:
      _figure(page, results, figure)
  page.heading('What a reviewer asks first')
  page.html(asked.answers(results))
  page.html(html.account_table(results))
  page.heading('Results')
  page.html(html.results_table(results))
  if results.get('comparisons'):
    page.heading('Differences')
    page.html(html.comparisons_table(results))
  page.heading('Set-up')
  page.bullets(results['setup'])
  if results['paper_claims']:
    page.text('What the papers claim, in our words:')
    page.bullets(results['paper_claims'])
  page.html(_configs(results))
  if results.get('not_reproduced'):
    page.heading('What could not be reproduced')
    page.bullets(results['not_reproduced'])
  page.heading('Provenance')
  _provenance(page, results['header'])
  Path(folder).mkdir(parents=True, exist_ok=True)
  return page.write(Path(folder) / 'index.html')


def regenerate(folder: str | os.PathLike) -> Path:
  """Makes the page of a study's folder again from its results.json.

  Raises:
    FileNotFoundError: the folder has no results.json.
    ValueError: results that are not valid.
  """
  path = Path(folder) / 'results.json'
  if not path.is_file():
    raise FileNotFoundError(f'no {path}: the study writes it when it is done')
  return write(path, folder)


def counted(number: int, what: str) -> str:
  """'1 seed', '5 seeds'."""
  return f'{number} {what}' + ('' if number == 1 else 's')


def _subtitle(results: Mapping[str, Any]) -> str:
  header = results['header']
  parts = [
    counted(len(results['arms']), 'arm'),
    counted(len(header['seeds']), 'seed'),
    header.get('hardware'),
    header.get('date'),
  ]
  return ' · '.join(str(part) for part in parts if part)


def _figure(page: Report, results: Mapping, figure: Mapping) -> None:
  missing = plots.left_out(results, figure)
  if len(missing) == len(results['arms']):
    page.text(f'{figure["title"]}: no arm has a value to show.')
    return
  light, dark = (plots.draw(results, figure, dark) for dark in (False, True))
  notes = [figure.get('caption', '')]
  if missing:
    notes.append(f'Not shown, for want of a value: {", ".join(missing)}.')
  width = light.get_size_inches()[0] * 72
  page.figure(
    light, figure['name'], ' '.join(filter(None, notes)), dark=dark,
    min_width=round(_PHONE * width / WIDTH) if width > WIDTH else 0,
  )  # fmt: skip


def _configs(results: Mapping[str, Any]) -> str:
  """How each arm is run, and what was tuned for it."""
  dotted, rows = html.names(results), []
  code = lambda value: f'<code>{html.text(value)}</code>'
  for name, arm in results['arms'].items():
    tuned = [
      f'{code(key)} {html.text(asked.taken(choice["chosen"]))} of '
      f'{html.text(", ".join(map(str, choice["grid"])))}'
      for key, choice in (arm.get('tuned') or {}).items()
    ]
    rows.append(
      [
        dotted[name],
        code(arm['config']) if arm['config'] else '',
        '<br>'.join(
          code(f'{key}={value}') for key, value in arm['overrides'].items()
        ),
        '<br>'.join(tuned),
      ]
    )
  table = html.table(['', 'config', 'overrides', 'tuned'], rows)
  return (
    '<details><summary>Every arm: configuration and tuning</summary>'
    f'{table}</details>'
  )


def _provenance(page: Report, header: Mapping[str, Any]) -> None:
  if header.get('command'):
    page.code(header['command'])
  versions = header.get('versions') or {}
  facts = {
    'commit': header.get('commit'),
    'date': header.get('date'),
    'hardware': header.get('hardware'),
    'time': None
    if header.get('seconds') is None
    else f'{clock(header["seconds"])} for the whole study',
    'seeds': ', '.join(map(str, header['seeds'])),
    'versions': ', '.join(f'{k} {v}' for k, v in versions.items())
    if isinstance(versions, Mapping)
    else versions,
  }
  # What a study writes beside these is shown too.
  more = {
    key: value
    for key, value in header.items()
    if key not in (*facts, 'command', 'seconds')
  }
  page.html(html.facts(facts | more))
