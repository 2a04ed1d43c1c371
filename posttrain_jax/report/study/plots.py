"""The figures of a study, each a function of its numbers and of the screen.

  figure = draw(results, results['figures'][0], dark=False)

Here are those with two axes: frontier, curves and lines; `grids` has
bars and heatmaps. Names are written beside what they name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from posttrain_jax.log.progress import short
from posttrain_jax.report.study import frame, grids
from posttrain_jax.report.study import labels as study_labels
from posttrain_jax.report.study.data import numbers, summarize
from posttrain_jax.report.study.look import (
  Style,
  inks,
  styles_by_place,
  styles_of,
)

MAX_POINTS = 40  # of a line; longer ones are averaged in bins
_LABEL_WIDTH = 104.0

# x, mean, low and high of a line.
Line = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def draw(
  results: Mapping[str, Any], figure: Mapping[str, Any], dark: bool = False
) -> Figure:
  """One figure of a study, as an entry of its 'figures' describes it.

  Args:
    results: checked by `data.load`.
    figure: the entry.
    dark: for dark screens.
  """
  kinds = {
    'frontier': frontier,
    'bars': grids.bars,
    'curves': curves,
    'heatmap': grids.heatmap,
    'lines': lines,
  }
  with matplotlib.rc_context(frame.settings(dark)):
    return kinds[figure['kind']](results, figure, dark)


def arm_styles(results: Mapping[str, Any], dark: bool) -> dict[str, Style]:
  """The style of every arm of a study: the same in all its figures."""
  arms = results['arms']
  return styles_of({name: arm['family'] for name, arm in arms.items()}, dark)


def left_out(results: Mapping[str, Any], figure: Mapping[str, Any]) -> list:
  """Labels of the arms that a figure over arms has no value of."""
  kind, missing = figure['kind'], []
  for arm in results['arms'].values():
    values = arm['values']
    if kind == 'frontier':
      shown = all(summarize(values.get(figure[k], ())) for k in 'xy')
    elif kind == 'bars':
      shown = any(summarize(values.get(m, ())) for m in figure['measures'])
    elif kind == 'curves':
      shown = _curve(arm, figure['measure']) is not None
    else:
      shown = True
    if not shown:
      missing.append(arm['label'])
  return missing


def frontier(
  results: Mapping[str, Any], figure: Mapping[str, Any], dark: bool
) -> Figure:
  """Arms by two measures: means with intervals, seeds, who is not beaten."""
  points, seeds = {}, {}
  for name, arm in results['arms'].items():
    pair = [arm['values'].get(figure[key], ()) for key in 'xy']
    found = [summarize(values) for values in pair]
    if all(found):
      points[name] = found
      seeds[name] = [numbers(values) for values in pair]
  names = [
    study_labels.wrap(
      results['arms'][name]['label'], _LABEL_WIDTH, frame.FONT, bold=True
    )
    for name in points
  ]
  height = 240.0 + 8.0 * max(0, len(points) - 4)
  # Names that do not fit get a taller figure; where points coincide no height
  # helps, and their leader lines may cross.
  for cross in (False, False, False, False, True, True, True, True):
    canvas, fits = _frontier(
      results, figure, dark, points, seeds, names, height, cross
    )
    if fits:
      break
    height *= 1.2
  return canvas


def _frontier(results, figure, dark, points, seeds, names, height, cross):
  """One try at this height, and whether the names fit."""
  look, styles = inks(dark), arm_styles(results, dark)
  measures = [results['measures'][figure[key]] for key in 'xy']
  canvas, axes = _canvas(
    figure['title'], frame.axis_name(measures[1]),
    frame.axis_name(measures[0]), height, look,
  )  # fmt: skip
  for name, (x, y) in points.items():
    style = styles[name]
    axes.scatter(
      *seeds[name], s=16, color=style.color, alpha=0.35, linewidth=0,
      marker=style.mark, zorder=2,
    )  # fmt: skip
    axes.plot(x[1:], [y[0]] * 2, color=style.color, linewidth=1.6, zorder=3)
    axes.plot([x[0]] * 2, y[1:], color=style.color, linewidth=1.6, zorder=3)
    axes.plot(
      x[0], y[0], style.mark, color=style.color, markersize=9,
      markeredgecolor=look.paper, markeredgewidth=1.0, zorder=4,
    )  # fmt: skip
  axes.margins(0.1)
  _limit_percent(axes, measures)
  means = {name: (x[0], y[0]) for name, (x, y) in points.items()}
  front = pareto(means, [measure['better'] for measure in measures])
  if len(front) > 1:
    axes.plot(
      *zip(*(means[name] for name in front)), '--', color=look.muted,
      linewidth=1.2, zorder=1,
    )  # fmt: skip
  frame.fit(canvas, axes, 0, 0, frame.WIDTH - 4, _top(canvas, figure, measures))
  return canvas, _name_points(axes, points, seeds, names, styles, look, cross)


def pareto(
  points: Mapping[str, tuple[float, float]], better: Sequence[str]
) -> list[str]:
  """Points that no other one beats, from left to right.

  Args:
    points: {name: (x, y)}.
    better: 'higher' or 'lower' for x and for y; '' for either: no front.

  Returns:
    Names: no other point is as good in both and better in one.
  """
  if '' in better:
    return []
  sign = np.array([1.0 if end == 'higher' else -1.0 for end in better])
  goods = {name: sign * np.array(point) for name, point in points.items()}
  front = [
    name
    for name, good in goods.items()
    if not any(
      np.all(other >= good) and np.any(other > good) for other in goods.values()
    )
  ]
  return sorted(front, key=lambda name: points[name])


def _name_points(axes, points, seeds, names, styles, look, cross):
  """Writes each name at the nearest free place, with a leader if it is far."""
  at = axes.transData.transform
  marks = [tuple(at((x[0], y[0]))) for x, y in points.values()]
  avoid = []
  for x, y in points.values():
    for start, end in (((x[1], y[0]), (x[2], y[0])),
                       ((x[0], y[1]), (x[0], y[2]))):  # fmt: skip
      if np.isfinite([*start, *end]).all():
        (a, b), (c, d) = at(start), at(end)
        avoid.append((a, b - 1, c, d + 1) if b == d else (a - 1, b, c + 1, d))
  for x, y in seeds.values():
    for pair in zip(x, y):
      if np.isfinite(pair).all():
        a, b = at(pair)
        avoid.append((a - 2, b - 2, a + 2, b + 2))
  sizes = [
    np.add(study_labels.text_size(text, frame.FONT, bold=True), (4, 1))
    for text in names
  ]
  bounds = axes.get_window_extent().extents + (4, 4, 0, 0)
  centers = study_labels.place(
    marks, sizes, tuple(bounds), avoid=avoid, cross=cross
  )
  if centers is None:
    return False
  halo = [patheffects.withStroke(linewidth=3, foreground=look.paper)]
  for name, text, mark, size, center in zip(
    points, names, marks, sizes, centers
  ):
    low, high = center - size / 2, center + size / 2
    end = np.clip(mark, low, high)
    if np.hypot(*(end - mark)) > 13:
      _leader(axes, mark, end, styles[name].text)
    # Lines of unlike length begin at the side of their point.
    x, side = center[0], 'center'
    if low[0] > mark[0]:
      x, side = low[0] + 2, 'left'
    elif high[0] < mark[0]:
      x, side = high[0] - 2, 'right'
    frame.write(
      axes.figure, x, high[1], text, ha=side, color=styles[name].text,
      weight='bold', path_effects=halo,
    )  # fmt: skip
  return True


def _leader(axes: Axes, start, end, color: str) -> None:
  """A thin line between two points of the page."""
  to_axes = axes.transAxes.inverted().transform
  axes.plot(
    *zip(to_axes(start), to_axes(end)), transform=axes.transAxes, color=color,
    linewidth=0.8, alpha=0.7, zorder=1, clip_on=False,
  )  # fmt: skip


def curves(
  results: Mapping[str, Any], figure: Mapping[str, Any], dark: bool
) -> Figure:
  """A measure while the arms train: mean over seeds with its interval."""
  styles, xlabel = {}, 'step'
  runs, of_arm = {}, arm_styles(results, dark)
  for name, arm in results['arms'].items():
    line = _curve(arm, figure['measure'])
    if line is None:
      continue
    xlabel = arm['curves'][figure['measure']].get('xlabel', xlabel)
    # Two arms may have one label: the key keeps them apart.
    runs[name], styles[name] = (arm['label'], line), of_arm[name]
  measure = results['measures'][figure['measure']]
  return _lines(
    figure, runs, styles, (xlabel, frame.axis_name(measure)), dark,
    logx=False,
  )  # fmt: skip


def lines(
  results: Mapping[str, Any], figure: Mapping[str, Any], dark: bool
) -> Figure:
  """Any series over an axis; those named as an arm have its colour."""
  of_arm = arm_styles(results, dark)
  for name, arm in results['arms'].items():
    of_arm.setdefault(arm['label'], of_arm[name])
  others = [label for label in figure['series'] if label not in of_arm]
  styles = styles_by_place(others, dark) | of_arm
  runs = {}
  for label, series in figure['series'].items():
    line = _summed(series['x'], series['y'])
    if line is not None:
      runs[label] = (label, line)
  return _lines(
    figure, runs, styles, (figure['xlabel'], figure['ylabel']), dark,
    logx=bool(figure.get('logx')),
  )  # fmt: skip


def _curve(arm: Mapping, measure: str) -> Line | None:
  curve = (arm.get('curves') or {}).get(measure)
  if not curve or not curve['x'] or not curve['y']:
    return None
  x, y = numbers(curve['x']), np.stack([numbers(y) for y in curve['y']])
  parts = np.array_split(np.arange(len(x)), min(len(x), MAX_POINTS))
  with np.errstate(invalid='ignore', divide='ignore'):
    x = [x[part].mean() for part in parts]
    y = [
      np.nansum(y[:, part], axis=1) / np.isfinite(y[:, part]).sum(axis=1)
      for part in parts
    ]
  return _summed(x, y)


def _summed(x: Sequence, y: Sequence[Sequence]) -> Line | None:
  """Mean and interval at every x; None if there is no value at all."""
  kept = [
    (at, *found)
    for at, values in zip(numbers(x), y)
    if np.isfinite(at) and (found := summarize(values))
  ]
  return tuple(np.array(kept).T) if kept else None


def _lines(figure, runs, styles, names, dark, *, logx) -> Figure:
  look = inks(dark)
  labels = {
    key: study_labels.wrap(label, _LABEL_WIDTH, frame.FONT, bold=True)
    for key, (label, _) in runs.items()
  }
  sizes = {
    key: np.add(study_labels.text_size(label, frame.FONT, bold=True), (0, 4))
    for key, label in labels.items()
  }
  height = max(190.0, sum(size[1] for size in sizes.values())) + 50
  canvas, axes = _canvas(figure['title'], names[1], names[0], height, look)
  for key, (_, (x, mean, low, high)) in runs.items():
    style = styles[key]
    axes.plot(
      x, mean, color=style.color, linestyle=style.dash, linewidth=2,
      marker=style.mark if len(x) <= 12 else None, markersize=5,
    )  # fmt: skip
    axes.fill_between(x, low, high, color=style.color, alpha=0.16, linewidth=0)
  if logx:
    _log_ticks(axes, [line[0] for _, line in runs.values()])
  elif axes.get_xlim()[1] >= 1e4:
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.xaxis.set_major_locator(MaxNLocator(4))
  else:
    axes.xaxis.set_major_locator(MaxNLocator(4))
  room = max((size[0] for size in sizes.values()), default=0.0) + 20
  frame.fit(
    canvas, axes, 0, 0, frame.WIDTH - room, _top(canvas, figure, names[1])
  )
  ends = {key: (line[0][-1], line[1][-1]) for key, (_, line) in runs.items()}
  _name_ends(axes, ends, labels, sizes, styles)
  return canvas


def _log_ticks(axes: Axes, xs: Sequence[np.ndarray]) -> None:
  """A logarithmic axis with plain numbers, where it can at the data's x."""
  axes.set_xscale('log')
  ticks = np.unique(np.concatenate([[1.0], *xs][bool(xs) :]))
  ticks = ticks[ticks > 0]
  ticks = ticks[:: max(1, -(-len(ticks) // 6))]
  names = [f'{x:g}' if x < 1e4 else short(x) for x in ticks]
  if sum(map(len, names)) > 16:  # they would touch
    names = [f'{x / 1000:g}k' if x >= 1000 else f'{x:g}' for x in ticks]
  axes.set_xticks(ticks, names)
  axes.set_xticks([], minor=True)


def _name_ends(axes, ends, labels, sizes, styles) -> None:
  """Names right of the plot, each at its line's height or near it."""
  if not ends:
    return
  box = axes.get_window_extent()
  at = {key: axes.transData.transform(end) for key, end in ends.items()}
  heights = study_labels.spread(
    [at[key][1] for key in ends], [sizes[key][1] for key in ends],
    box.y0 - 30, box.y1 + 8,
  )  # fmt: skip
  for key, height in zip(ends, heights):
    _leader(axes, at[key], (box.x1 + 15, height), styles[key].text)
    frame.write(
      axes.figure, box.x1 + 18, height + sizes[key][1] / 2 - 2, labels[key],
      color=styles[key].text, weight='bold',
    )  # fmt: skip


def _canvas(title, ylabel, xlabel, height, look) -> tuple[Figure, Axes]:
  title, ylabel = frame.heading(title, ylabel)
  xlabel = study_labels.wrap(xlabel, frame.WIDTH - 50, frame.FONT)
  lines = xlabel.count('\n') + title.count('\n') + ylabel.count('\n')
  canvas = frame.new(height + 30 + 14 * lines)
  frame.write_heading(canvas, title, ylabel, look)
  axes = canvas.add_subplot()
  axes.set_xlabel(xlabel, color=look.muted)
  return canvas, axes


def _top(canvas: Figure, figure: Mapping, name: str | Sequence) -> float:
  """Height at which the plot ends and the heading begins."""
  ylabel = name if isinstance(name, str) else frame.axis_name(name[1])
  used = frame.heading_height(*frame.heading(figure['title'], ylabel))
  return canvas.get_size_inches()[1] * 72 - used


def _limit_percent(axes: Axes, measures: Sequence[Mapping]) -> None:
  """No room beyond 0 and 100%, unless a value is there."""
  for measure, get, put in (
    (measures[0], axes.get_xlim, axes.set_xlim),
    (measures[1], axes.get_ylim, axes.set_ylim),
  ):
    low, high = get()
    if measure['unit'] == '%':
      low, high = max(low, -4.0), min(high, 104.0)
    put(low, high)
