"""The quickstart's page: what arms gain on a new task, and what they keep."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain_jax import log
from posttrain_jax.core import paths
from posttrain_jax.log.progress import clock, short
from posttrain_jax.report import frontiers
from posttrain_jax.report.page import Report

__all__ = ['regenerate', 'write_comparison']

_REQUIRED = {
  'summary': ('arms', 'statements', 'frontiers', 'task', 'old_tasks',
              'problems', 'seeds', 'command', 'commit', 'hardware'),
  'arm': ('label', *(f'{name}{part}'
                     for name in ('accuracy', 'greedy', 'retention')
                     for part in ('', '_low', '_high', '_seeds'))),
  'statement': ('text', 'holds', 'difference', 'low', 'high'),
  'sample': ('arm', 'prompt', 'completion', 'reward'),
}  # fmt: skip

HOW_TO_READ = (
  'New task: the chance that one sampled answer (temperature 1) to a held-out '
  'problem is right; greedy: that the most likely one is. Old tasks kept: the '
  'share of held-out problems of the tasks that the base model was trained on '
  'to which the most likely answer is right. What falls there was forgotten.',
  'A line in the picture goes from the base model through the learning rates, '
  'the lowest first. Higher and further right is better: of two models that '
  'are equally right on the new task, the higher one forgot less.',
  'Every arm spends the same floating-point operations, counted, and tries the '
  'same learning rates. SFT sees worked solutions; GRPO and SFT on own right '
  "answers see only whether the model's own answers are right.",
  'The table takes, for each arm, the rate with the best accuracy on problems '
  'that are in no other number here. At equal accuracy: on the front of an '
  "arm's points, between two of them on the line that joins them.",
  "Intervals are Student's t over the seeds. A seed has its own training "
  'problems, its own samples and its own test problems; the base model is the '
  'same for all, so an interval says nothing about other base models. Clearly: '
  'a mean difference of 5 points or more whose 95% interval lies above 0.',
)
WHERE_IT_ENDS = (
  'RL learns from its own right answers, so there have to be some. In pilots '
  '(commit 1f25f6c, Countdown with two numbers up to 24, four seeds) with a '
  'base model that was right on 9% of the new task in place of a third, 60 '
  'steps of GRPO gained 9 points at best and lost 7 of the old tasks, and at a '
  'higher rate lost both; SFT gained 44 and lost 54.',
  'And demonstrations lead further for those who need the new task alone: in a '
  'pilot of this page (numbers up to 40, 256 rows a step, constant rates up to '
  '1.2e-3) SFT went from 33% to 56% and kept 6% of the old tasks, from 60%; '
  'GRPO ended at 46% and kept 58%.',
)


def write_comparison(
  workdir: str | os.PathLike, summary: Mapping[str, Any]
) -> Path:
  """Writes `workdir/report.html` and its picture under `workdir/plots`.

  Args:
    workdir: of the quickstart.
    summary: {'arms': {'base' and others: {label, accuracy, accuracy_low,
      accuracy_high, accuracy_seeds, retention and so on, rate, steps, flops}},
      'statements': [{text, holds, difference, low, high}], 'frontiers': {arm:
      [{rate, accuracy_seeds, retention_seeds}]}, 'task', 'old_tasks',
      'problems', 'seeds', 'command', 'commit', 'hardware', 'samples': [{arm,
      prompt, completion, reward}]}. Shares are 0 to 1, differences points.

  Returns:
    The page's path.

  Raises:
    ValueError: the summary lacks a key; the message names it.
  """
  workdir = paths.path(workdir)
  _check(summary, workdir / 'summary.json')
  page = Report(
    'A new task, and what is kept of the old ones', _subtitle(summary)
  )
  page.figure(
    frontiers.draw(summary),
    'frontier',
    'Each line is one way to train, from the base model through rising '
    'learning rates. Means over seeds with 95% intervals; faint: single seeds.',
    dark=frontiers.draw(summary, dark=True),
    min_width=288,
  )
  for item in summary['statements']:
    page.text(_statement(item), lede=True)
  page.heading('The arms')
  _arms(page, summary)
  page.heading('Every learning rate')
  _rates(page, summary)
  if summary.get('samples'):
    page.heading('What the models write')
    page.text('The first held-out problems, and the answers of one seed.')
    _examples(page, summary['samples'])
  page.heading('Where the advantage of RL ends')
  for text in WHERE_IT_ENDS:
    page.text(text)
  page.heading('How to read this')
  page.bullets(HOW_TO_READ)
  page.heading('How it was made')
  page.code(summary['command'])
  page.text(_made(summary))
  page.details('Every number (summary)', log.strict(dict(summary)))
  return page.write(workdir / 'report.html')


def regenerate(workdir: str | os.PathLike) -> Path:
  """Makes the page again from `workdir/summary.json`.

  Raises:
    FileNotFoundError: no summary.json.
    ValueError: it is not JSON, or lacks a key.
  """
  path = paths.path(workdir) / 'summary.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'no {path}: the quickstart writes it when all its arms are done'
    )
  try:
    summary = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: not JSON: {error}') from None
  return write_comparison(workdir, summary)


def _check(summary: Mapping[str, Any], path: Path) -> None:
  def check(kind: str, name: str, found: Mapping[str, Any]) -> None:
    for key in _REQUIRED[kind]:
      if key not in found:
        raise ValueError(f'{path}: no "{key}" in {name}')

  check('summary', 'the summary', summary)
  if 'base' not in summary['arms']:
    raise ValueError(f'{path}: no arm "base" in "arms"')
  for name, arm in summary['arms'].items():
    check('arm', f'arm "{name}"', arm)
  for name in summary['frontiers']:
    if name not in summary['arms']:
      raise ValueError(f'{path}: "frontiers" has "{name}", which is no arm')
  for kind in ('statement', 'sample'):
    for number, item in enumerate(summary.get(f'{kind}s', ()), start=1):
      check(kind, f'{kind} {number}', item)


def _subtitle(summary: Mapping[str, Any]) -> str:
  arms = [x['label'] for name, x in summary['arms'].items() if name != 'base']
  new = summary['problems']['new']['test']
  return (
    f'{", ".join(arms)} from one base model, at equal compute; '
    f'{len(summary["seeds"])} seeds, {new:,} different held-out problems of '
    f'the new task ({summary["task"]})'
  )


def _points(value: float | None) -> str:
  if value is None or not math.isfinite(value):
    return '–'
  return f'{value:+.1f}'


def _statement(item: Mapping[str, Any]) -> str:
  verdict = '✓ ' if item['holds'] else '✗ Not in this run: '
  return (
    f'{verdict}{item["text"]} ({_points(item["difference"])} points, 95% '
    f'interval {_points(item["low"])} to {_points(item["high"])})'
  )


def _share(arm: Mapping[str, Any], name: str) -> str:
  return (
    f'{100 * arm[name]:.1f} [{100 * arm[f"{name}_low"]:.1f}, '
    f'{100 * arm[f"{name}_high"]:.1f}]'
  )


def _arms(page: Report, summary: Mapping[str, Any]) -> None:
  page.table(
    ['model', 'new task, %', 'old tasks kept, %', 'new task, greedy, %',
     'rate', 'steps', 'FLOPs'],
    [
      [
        arm['label'],
        _share(arm, 'accuracy'),
        _share(arm, 'retention'),
        _share(arm, 'greedy'),
        None if arm.get('rate') is None else f'{arm["rate"]:g}',
        None if not arm.get('steps') else f'{arm["steps"]}',
        None if not arm.get('flops') else short(arm['flops']),
      ]
      for arm in summary['arms'].values()
    ],
    'Means over seeds with 95% intervals; FLOPs of one seed at one rate, '
    'counted.',
  )  # fmt: skip


def _rates(page: Report, summary: Mapping[str, Any]) -> None:
  seeds = lambda shares: ' / '.join(f'{100 * x:.1f}' for x in shares)
  page.table(
    ['model', 'rate', 'new task, % by seed', 'old tasks kept, % by seed'],
    [
      [
        summary['arms'][name]['label'],
        f'{rate["rate"]:g}',
        seeds(rate['accuracy_seeds']),
        seeds(rate['retention_seeds']),
      ]
      for name, rates in summary['frontiers'].items()
      for rate in rates
    ],
  )


def _examples(page: Report, samples: list[dict]) -> None:
  prompts = dict.fromkeys(sample['prompt'] for sample in samples)
  for prompt in prompts:
    page.example(
      prompt,
      [
        (sample['arm'], sample['completion'], float(sample['reward']))
        for sample in samples
        if sample['prompt'] == prompt
      ],
    )


def _made(summary: Mapping[str, Any]) -> str:
  seeds = ', '.join(map(str, summary['seeds']))
  new, old = summary['problems']['new'], summary['problems']['old']
  took = summary.get('wall_seconds')
  return (
    f'Seeds {seeds}; commit {summary["commit"]}; {summary["hardware"]}'
    + (f'; {clock(took)}' if took else '')
    + f'. Different held-out problems: {new["test"]:,} of the new task, '
    f'{new["validation"]:,} more to choose rates by, {old["test"]:,} of the '
    f'old tasks ({", ".join(summary["old_tasks"])}).'
  )
