"""The page that compares arms: one table, the pictures, how to read them."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from posttrain_jax import log
from posttrain_jax.core import paths
from posttrain_jax.diagnostics import difference_interval
from posttrain_jax.log.progress import clock, short
from posttrain_jax.report import plots
from posttrain_jax.report.page import Report
from posttrain_jax.report.wording import how_to_read, verdict

# Panel: which rows, and the metric's name in them.
_PANELS = {
  'accuracy': ('eval', 'eval/accuracy'),
  'reward': ('train', 'reward'),
  'loss': ('train', 'loss'),
}
_REQUIRED = ('accuracy', 'accuracy_low', 'accuracy_high')

Curves = dict[str, dict[str, dict[str, list[float]]]]


def read_curves(workdir: str | os.PathLike, arms: list[str]) -> Curves:
  """Learning curves of every arm whose folder has a metrics file.

  Returns:
    {panel: {arm: {'step': [...], 'tokens': [...], 'value': [...]}}} for the
    panels accuracy, reward and loss. Steps and tokens count from the arm's own
    start; `tokens` is empty where the file has no `num_tokens`.

  Raises:
    ValueError: a metrics file that is not valid, with file and line.
  """
  panels: Curves = {name: {} for name in _PANELS}
  for arm in arms:
    path = paths.path(workdir) / arm / 'metrics.jsonl'
    if not path.is_file():
      continue
    _, rows = log.read(path)
    train = sorted(
      (row['step'], row.get('num_tokens', 0))
      for row in rows
      if row['split'] == 'train'
    )
    steps = [step for step, _ in train]
    totals = np.cumsum([0.0] + [tokens for _, tokens in train])
    for panel, (split, name) in _PANELS.items():
      kept = [row for row in rows if row['split'] == split and name in row]
      if not kept:
        continue
      at = [row['step'] for row in kept]
      panels[panel][arm] = {
        'step': at,
        'tokens': list(totals[np.searchsorted(steps, at, side='right')])
        if totals[-1]
        else [],
        'value': [row[name] for row in kept],
      }
  return panels


def write_comparison(
  workdir: str | os.PathLike,
  summary: Mapping[str, Any],
  curves: Curves | None = None,
  header: Mapping[str, Any] | None = None,
) -> Path:
  """Writes `workdir/report.html` and its pictures under `workdir/plots`.

  Args:
    workdir: of the comparison; `workdir/<arm>/metrics.jsonl` may exist.
    summary: {'arms': {name: {accuracy, accuracy_low, accuracy_high, and where
      known accuracy_greedy, pass_at_<k>, retention, kl_to_base, tokens,
      seconds}}, 'task', 'problems', 'seed', 'command', 'samples': [{'arm',
      'prompt', 'completion', 'reward'}]}. Arms keep their order.
    curves: as `read_curves` returns them; read from the metrics files if None.
    header: config and environment; of the arms' metrics files if None.

  Returns:
    The page's path.

  Raises:
    ValueError: the summary lacks a key; the message names it.
  """
  workdir = paths.path(workdir)
  arms = _checked(summary, workdir / 'summary.json')
  if curves is None:
    curves = read_curves(workdir, list(arms))
  colors = plots.colors_of(list(arms))
  page = Report(
    f'Post-training compared: {summary["task"]}',
    f'{len(arms)} models, {summary["problems"]:,} held-out problems, '
    f'seed {summary["seed"]}',
  )
  for sentence in verdict(arms):
    page.text(sentence, lede=True)
  page.cards(_cards(arms, colors))
  page.heading('Results')
  _results(page, arms, colors)
  page.heading('Learning curves')
  _curves(page, curves, colors)
  page.heading('What it cost')
  _trade_offs(page, arms, colors)
  if summary.get('samples'):
    page.heading('What the models write')
    _examples(page, summary['samples'])
  page.heading('How to read this')
  page.bullets(how_to_read(arms))
  page.heading('How it was made')
  if summary.get('command'):
    page.code(summary['command'])
  headers = {'': header} if header else _headers(workdir, list(arms))
  for name, content in headers.items():
    page.details(f'Configuration and environment {name}'.strip(), content)
  page.details('Every number (summary)', log.strict(dict(summary)))
  return page.write(workdir / 'report.html')


def regenerate(workdir: str | os.PathLike) -> Path:
  """Makes the page again from `workdir/summary.json` and the metrics files.

  Raises:
    FileNotFoundError: no summary.json.
    ValueError: it is not JSON, or lacks a key.
  """
  path = paths.path(workdir) / 'summary.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'no {path}: a comparison writes it when all its arms are done'
    )
  try:
    summary = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: not JSON: {error}') from None
  return write_comparison(workdir, summary)


def _checked(summary: Mapping[str, Any], path: Path) -> dict[str, dict]:
  for key in ('arms', 'task', 'problems', 'seed'):
    if key not in summary:
      raise ValueError(f'{path}: no "{key}" in the summary')
  if not summary['arms']:
    raise ValueError(f'{path}: "arms" is empty')
  for name, arm in summary['arms'].items():
    for key in _REQUIRED:
      if key not in arm:
        raise ValueError(f'{path}: no "{key}" in arm "{name}"')
  for number, sample in enumerate(summary.get('samples', ()), start=1):
    for key in ('arm', 'prompt', 'completion', 'reward'):
      if key not in sample:
        raise ValueError(f'{path}: no "{key}" in sample {number}')
  return dict(summary['arms'])


def _cards(arms: dict[str, dict], colors: dict[str, str]) -> list[tuple]:
  cards = [
    (
      name,
      f'{100 * arm["accuracy"]:.1f}%',
      f'95%: {100 * arm["accuracy_low"]:.1f} to '
      f'{100 * arm["accuracy_high"]:.1f}',
      colors[name],
    )
    for name, arm in arms.items()
  ]
  if 'grpo' in arms and 'sft_start' in arms:
    grpo, start = (
      tuple(arms[name][key] for key in _REQUIRED)
      for name in ('grpo', 'sft_start')
    )
    low, high = difference_interval(grpo, start)
    cards.append(
      (
        'GRPO over its start',
        f'{100 * (grpo[0] - start[0]):+.1f}',
        f'points; 95%: {100 * low:+.1f} to {100 * high:+.1f}',
        '',
      )
    )
  return cards


def _results(page: Report, arms: dict, colors: dict[str, str]) -> None:
  passes = {
    key: int(found[1])
    for arm in arms.values()
    for key in arm
    if (found := re.fullmatch(r'pass_at_(\d+)', key))
  }
  pass_key = max(passes, key=passes.get, default='')
  pass_name = f'pass@{passes[pass_key]}' if pass_key else 'pass@k'
  percent = lambda x: None if x is None else f'{100 * x:.1f}%'
  column = lambda key: [arm.get(key) for arm in arms.values()]
  page.figure(
    plots.bars_with_intervals(
      list(arms),
      *(column(key) for key in _REQUIRED),
      xlabel='problems solved, %',
      title='Accuracy on held-out problems',
      markers=column(pass_key),
      marker_name=pass_name if pass_key else '',
      colors=colors,
    ),
    'accuracy',
    'Bars: one sampled answer to each problem; the thin line is the 95% '
    f'interval. Diamonds: {pass_name}, at least one of several sampled answers '
    'is right.',
  )
  page.table(
    ['model', 'accuracy', '95% interval', 'greedy', pass_name, 'retention',
     'KL to base', 'tokens', 'time'],
    [
      [
        name,
        percent(arm['accuracy']),
        f'{100 * arm["accuracy_low"]:.1f}–{100 * arm["accuracy_high"]:.1f}%',
        percent(arm.get('accuracy_greedy')),
        percent(arm.get(pass_key)),
        percent(arm.get('retention')),
        None if arm.get('kl_to_base') is None
        else f'{arm["kl_to_base"]:.3f}',
        None if arm.get('tokens') is None else short(arm['tokens']),
        None if arm.get('seconds') is None else clock(arm['seconds']),
      ]
      for name, arm in arms.items()
    ],
    "Tokens and time (minutes:seconds) are those of the model's own training, "
    'without the models it started from. KL is in nats per token.',
  )  # fmt: skip


def _curves(page: Report, curves: Curves, colors: dict[str, str]) -> None:
  titles = {
    'accuracy': ('Greedy accuracy during training', 'on held-out problems'),
    'reward': ('Reward of sampled answers', 'on training problems'),
  }
  drawn = False
  for panel, (title, where) in titles.items():
    for axis in ('step', 'tokens'):
      runs = {
        arm: (series[axis], series['value'])
        for arm, series in curves.get(panel, {}).items()
        # A base model is evaluated on tasks of its own while it trains.
        if series[axis] and (panel, arm) != ('accuracy', 'base')
      }
      # One point is no curve; tokens only say more than steps across models.
      if not any(len(x) > 1 for x, _ in runs.values()) or (
        axis == 'tokens' and len(runs) < 2
      ):
        continue
      drawn = True
      xlabel = 'training tokens' if axis == 'tokens' else 'step'
      page.figure(
        plots.curves(runs, xlabel, title=title, colors=colors),
        f'{panel}_by_{axis}',
        f'{title} {where}, against '
        + ('tokens seen.' if axis == 'tokens' else "each model's own steps."),
      )
  losses = {
    arm: (series['step'], series['value'])
    for arm, series in curves.get('loss', {}).items()
    if len(series['step']) > 1
  }
  if losses:
    drawn = True
    page.figure(
      plots.panels(losses, 'step', 'Training loss', colors=colors),
      'loss',
      'Training loss. Each has its own scale: the loss of a policy-gradient '
      'method is another quantity than that of SFT and need not fall.',
    )
  if not drawn:
    page.text('No metrics files with curves were found beside this page.')


def _trade_offs(page: Report, arms: dict, colors: dict[str, str]) -> None:
  pictures = (
    ('retention', 'accuracy on earlier tasks, %', 100.0, 'high',
     'New skill against old ones',
     'Further right is less forgotten, higher is more learned; the dashed line '
     'joins models that no other one beats in both.'),
    ('kl_to_base', 'KL to the base model, nats per token', 1.0, 'low',
     'New skill against distance',
     'Further left is closer to the base model, higher is more learned.'),
  )  # fmt: skip
  drawn = False
  for key, xlabel, scale, better, title, caption in pictures:
    points = {
      name: (scale * arm[key], 100 * arm['accuracy'])
      for name, arm in arms.items()
      if arm.get(key) is not None and np.isfinite(float(arm[key]))
    }
    if len(points) < 2:
      continue
    drawn = True
    page.figure(
      plots.scatter_frontier(
        points, xlabel, 'accuracy, %', title, x_better=better, colors=colors
      ),
      f'accuracy_by_{key}',
      caption,
    )
  if not drawn:
    page.text('Neither retention nor distance to the base was measured.')


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


def _headers(workdir: Path, arms: list[str]) -> dict[str, dict]:
  paths = {arm: workdir / arm / 'metrics.jsonl' for arm in arms}
  return {
    f'of {arm}': log.read(path)[0]
    for arm, path in paths.items()
    if path.is_file()
  }
