"""The picture of what arms gain and keep: a line an arm, a point a rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure

from posttrain_jax.evals.statistics import t_interval
from posttrain_jax.report.study import frame
from posttrain_jax.report.study import labels as study_labels
from posttrain_jax.report.study.look import Style, inks, styles_of

__all__ = ['FAMILIES', 'draw', 'styles']

# Of the arms; others are drawn as 'other'.
FAMILIES = {'base': 'base', 'sft': 'sft', 'own': 'hybrid', 'grpo': 'rl'}
HEIGHT = 330.0


def styles(arms: Sequence[str], dark: bool) -> dict[str, Style]:
  """How each arm is drawn and written."""
  return styles_of({x: FAMILIES.get(x, 'other') for x in arms}, dark)


def draw(summary: Mapping[str, Any], dark: bool = False) -> Figure:
  """Old tasks kept against the new task, both in %.

  An arm's line goes from the base model through its rates, from the lowest up:
  means over seeds with 95% intervals, and each seed as a faint dot.
  """
  with matplotlib.rc_context(frame.settings(dark)):
    return _draw(summary, dark)


def _draw(summary: Mapping[str, Any], dark: bool) -> Figure:
  arms, look = summary['arms'], inks(dark)
  style = styles(list(arms), dark)
  title, ylabel = frame.heading(
    'What was learned, and what was kept',
    'old tasks kept, % (higher is better)',
  )
  canvas = frame.new(HEIGHT)
  frame.write_heading(canvas, title, ylabel, look)
  axes = canvas.add_subplot()
  axes.set_xlabel('new task, % right (higher is better)', color=look.muted)
  base = _point(arms['base'])
  ends, avoid = {'base': base}, []
  for name, rates in summary['frontiers'].items():
    points = [_point(rate) for rate in rates]
    x, y = zip(base[:2], *(point[:2] for point in points))
    axes.plot(x, y, color=style[name].color, linewidth=1.4, zorder=2)
    for point, rate in zip(points, rates):
      _mark(axes, point, rate, style[name], look.paper)
    # Names had better not stand on a line.
    for share in np.linspace(0.0, 1.0, 13):
      avoid += [
        (a + share * (b - a), c + share * (d - c))
        for a, b, c, d in zip(x, x[1:], y, y[1:])
      ]
    ends[name] = points[-1]
  _mark(axes, base, arms['base'], style['base'], look.paper)
  axes.margins(0.12)
  low, high = axes.get_ylim()
  axes.set_ylim(max(low, -4.0), min(high, 104.0))
  top = HEIGHT - frame.heading_height(title, ylabel)
  frame.fit(canvas, axes, 0, 0, frame.WIDTH - 4, top)
  _name(axes, {x: arms[x]['label'] for x in ends}, ends, avoid, style, look)
  return canvas


def _point(arm: Mapping[str, Any]) -> tuple:
  """(x, y, interval of x, interval of y) of an arm or a rate, in %."""
  found = [
    t_interval(100.0 * np.asarray(arm[f'{name}_seeds']))
    for name in ('accuracy', 'retention')
  ]
  return found[0].mean, found[1].mean, *((x.low, x.high) for x in found)


def _mark(axes, point, arm, style: Style, paper: str) -> None:
  x, y, across, up = point
  axes.scatter(
    100.0 * np.asarray(arm['accuracy_seeds']),
    100.0 * np.asarray(arm['retention_seeds']),
    s=12, color=style.color, alpha=0.4, linewidth=0, marker=style.mark,
    zorder=3,
  )  # fmt: skip
  axes.plot(across, [y, y], color=style.color, linewidth=1.1, alpha=0.7)
  axes.plot([x, x], up, color=style.color, linewidth=1.1, alpha=0.7)
  axes.plot(
    x, y, style.mark, color=style.color, markersize=8, markeredgecolor=paper,
    markeredgewidth=1.0, zorder=4,
  )  # fmt: skip


def _name(axes, names, ends, avoid, style, look) -> None:
  """Writes each name beside the last point of its line."""
  texts = [
    study_labels.wrap(names[x], 110.0, frame.FONT, bold=True) for x in ends
  ]
  at = axes.transData.transform
  marks = [tuple(at(point[:2])) for point in ends.values()]
  sizes = [
    np.add(study_labels.text_size(text, frame.FONT, bold=True), (4, 1))
    for text in texts
  ]
  boxes = [(x - 5, y - 5, x + 5, y + 5) for x, y in map(at, avoid)]
  bounds = tuple(axes.get_window_extent().extents)
  centers = study_labels.place(marks, sizes, bounds, avoid=boxes, cross=True)
  halo = [patheffects.withStroke(linewidth=3, foreground=look.paper)]
  for name, text, size, center in zip(ends, texts, sizes, centers or marks):
    frame.write(
      axes.figure, center[0], center[1] + size[1] / 2, text, ha='center',
      color=style[name].text, weight='bold', path_effects=halo,
    )  # fmt: skip
