"""What a reviewer asks of a study first, answered from its results."""

from collections.abc import Mapping
from typing import Any

from posttrain_jax.report.study import data, html

__all__ = ['FEW', 'answers', 'taken']

FEW = 100  # different test problems; fewer are told


def answers(results: Mapping[str, Any]) -> str:
  """HTML: a line each on equality, tuning, problems, seeds, claims, origin."""
  header = results['header']
  later = len(results['claims']) - len(data.counted(results))
  lines = {
    'Held equal': html.text(results['equal']),
    'Tuned': html.text(results['tuning']),
    'Grids': _grids(results),
    'Problems': _problems(results),
    'Seeds': html.text(
      f'{len(header["seeds"])}: {", ".join(map(str, header["seeds"]))}'
    ),
    'Claims': html.text(
      f'{len(data.counted(results))} written before the run, {later} after it '
      '(in no count); one-sided paired t-tests against the margin, adjusted by '
      'Holm over all that were written before'
    ),
    'Run': html.text(f'commit {header.get("commit")}: ')
    + f'<code>{html.text(header.get("command"))}</code>',
  }
  return ''.join(
    f'<p><b>{name}.</b> {text}</p>' for name, text in lines.items() if text
  )


def _grids(results: Mapping[str, Any]) -> str:
  """Every arm's grid and what it took, arms with the same in one entry."""
  found: dict[tuple[str, str], list[str]] = {}
  for arm in results['arms'].values():
    for key, tuned in (arm.get('tuned') or {}).items():
      grid = ', '.join(map(_short, tuned['grid']))
      label = f'{arm["label"]} {taken(tuned["chosen"])}'
      found.setdefault((key, grid), []).append(label)
  return '; '.join(
    f'<code>{html.text(key)}</code> of {html.text(grid)}: '
    + html.text(', '.join(labels))
    for (key, grid), labels in found.items()
  )


def taken(chosen: Any) -> str:
  """What an arm took: a value, or several with the measures they are of."""
  if not isinstance(chosen, Mapping):
    return _short(chosen)
  found: dict[str, list[str]] = {}
  for name, value in chosen.items():
    found.setdefault(_short(value), []).append(name)
  if len(found) == 1:
    return next(iter(found))
  return ', '.join(f'{x} ({", ".join(names)})' for x, names in found.items())


def _short(value: Any) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)


def _problems(results: Mapping[str, Any]) -> str:
  parts = []
  for name, x in (results.get('problems') or {}).items():
    few = f' (fewer than {FEW}: little can be said)' if x['test'] < FEW else ''
    parts.append(
      f'{name}: {x["test"]} different ones among {x["drawn"]} test problems '
      f'of all seeds{few}, {x["validation"]} for validation, {x["shared"]} in '
      'both'
    )
  if not parts:
    return 'how many different ones there are was not counted in this run'
  return html.text('; '.join(parts))
