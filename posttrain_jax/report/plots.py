"""Plots that are read on a phone: few marks, direct labels, safe colours.

Each function returns a matplotlib `Figure`, made without pyplot's global
state. Colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

INK, MUTED, RULE, PAPER = '#1c2127', '#5c6670', '#dfe3e8', '#ffffff'
_DARK = {INK: '#e8eaed', MUTED: '#a2abb4', RULE: '#343a41', PAPER: '#14171a'}

COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
REFERENCE = '#7a828e'  # the base model: what the others are measured from

# Narrow figures with large type stay readable at 360 pixels.
SIZE = (5.6, 3.5)
SMOOTH_FROM = 60  # points from which on a running mean is drawn

_STYLE = {
  'font.size': 11,
  'axes.titlesize': 12,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': MUTED,
  'axes.labelcolor': MUTED,
  'axes.titlecolor': INK,
  'axes.facecolor': PAPER,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': RULE,
  'grid.linewidth': 0.8,
  'xtick.color': MUTED,
  'ytick.color': MUTED,
  'text.color': INK,
  'figure.facecolor': PAPER,
}

Runs = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def style(dark: bool = False) -> dict:
  """matplotlib settings of this report, in the inks of one kind of screen."""
  return {
    key: _DARK.get(value, value) if dark and isinstance(value, str) else value
    for key, value in _STYLE.items()
  }


def colors_of(labels: Sequence[str]) -> dict[str, str]:
  """One colour a label, by its place; 'base' is grey."""
  others = [label for label in labels if label != 'base']
  colors = {
    label: COLORS[index % len(COLORS)] for index, label in enumerate(others)
  }
  return {label: colors.get(label, REFERENCE) for label in labels}


def curves(
  runs: Runs,
  xlabel: str,
  ylabel: str = '',
  title: str = '',
  *,
  band: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
  colors: Mapping[str, str] | None = None,
) -> Figure:
  """Lines with their names at their right ends.

  A long noisy series is drawn pale, with its running mean over it.

  Args:
    runs: {label: (x, y)}; points that are not finite are left out.
    xlabel: of the x axis.
    ylabel: of the y axis.
    title: above the plot.
    band: {label: (low, high)}, shaded, at the x of the same label.
    colors: {label: colour}; by place if None.

  Raises:
    ValueError: x and y of a run differ in length.
  """
  colors = colors or colors_of(list(runs))
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    ends = {}
    for label, (x, y) in runs.items():
      end = _line(axes, label, x, y, colors[label])
      if end is not None:
        ends[label] = end
      if band and label in band:
        axes.fill_between(
          x, *band[label], color=colors[label], alpha=0.18, linewidth=0
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    _name_ends(axes, ends, colors)
    if axes.get_xlim()[1] >= 1e4:
      axes.xaxis.set_major_formatter(EngFormatter(sep=''))
  return figure


def panels(
  runs: Runs,
  xlabel: str,
  title: str = '',
  *,
  colors: Mapping[str, str] | None = None,
) -> Figure:
  """Small plots side by side, each with its own y axis.

  For values that must not be compared across runs, such as the losses of
  different methods.
  """
  colors = colors or colors_of(list(runs))
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(SIZE[0], 2.6), layout='constrained')
    grid = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (label, (x, y)) in zip(grid, runs.items()):
      _line(axes, label, x, y, colors[label])
      axes.set_title(label, color=colors[label], fontsize=11)
      axes.tick_params(labelsize=9)
      axes.locator_params(nbins=3)
    figure.supxlabel(xlabel, fontsize=11, color=MUTED)
    if title:
      figure.suptitle(title, x=0.01, ha='left', fontsize=12, weight='bold')
  return figure


def bars_with_intervals(
  labels: Sequence[str],
  values: Sequence[float],
  lows: Sequence[float],
  highs: Sequence[float],
  xlabel: str = '',
  title: str = '',
  *,
  markers: Sequence[float | None] | None = None,
  marker_name: str = '',
  percent: bool = True,
  colors: Mapping[str, str] | None = None,
) -> Figure:
  """Horizontal bars, each with its interval and its number.

  Args:
    labels: one a bar, from the top.
    values: lengths of the bars.
    lows: lower ends of the intervals.
    highs: upper ends.
    xlabel: of the value axis.
    title: above the plot.
    markers: a second value for each bar, drawn as a diamond; None: no diamond.
    marker_name: what the diamond is.
    percent: values are fractions, shown as percentages from 0 to 100.
    colors: {label: colour}; by place if None.

  Raises:
    ValueError: the sequences differ in length.
  """
  if not len(labels) == len(values) == len(lows) == len(highs):
    raise ValueError(
      f'{len(labels)} labels, {len(values)} values, {len(lows)} lows and '
      f'{len(highs)} highs'
    )
  colors = colors or colors_of(labels)
  scale = 100.0 if percent else 1.0
  values, lows, highs = (scale * np.asarray(x) for x in (values, lows, highs))
  rows = np.arange(len(labels))
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(SIZE[0], 1.1 + 0.55 * len(labels)))
    axes = figure.add_subplot()
    axes.barh(rows, values, color=[colors[x] for x in labels], height=0.55)
    axes.errorbar(
      values, rows, xerr=[values - lows, highs - values],
      fmt='none', ecolor=INK, elinewidth=1.4, capsize=3,
    )  # fmt: skip
    for row, marker in enumerate(markers or ()):
      if marker is not None:
        axes.plot(
          scale * marker, row, 'D', markersize=7, markeredgewidth=1.5,
          markerfacecolor=PAPER, markeredgecolor=INK,
        )  # fmt: skip
    # Numbers stand in a column of their own: nothing can cover them.
    for row, value in enumerate(values):
      text = f'{value:.1f}%' if percent else f'{value:.3g}'
      axes.text(
        1.02, row, text, transform=axes.get_yaxis_transform(), va='center',
        weight='bold',
      )  # fmt: skip
    axes.set_yticks(rows, labels, color=INK)
    axes.tick_params(axis='y', length=0)
    axes.invert_yaxis()
    axes.grid(axis='y', visible=False)
    if percent:
      axes.set_xlim(0, 100)
    note = f'   ◇ {marker_name}' if markers and marker_name else ''
    axes.set(xlabel=xlabel + note, title=title)
  return figure


def scatter_frontier(
  points: Mapping[str, tuple[float, float]],
  xlabel: str,
  ylabel: str,
  title: str = '',
  *,
  x_better: str = 'high',
  colors: Mapping[str, str] | None = None,
) -> Figure:
  """Named points; a dashed line joins those that no other point beats.

  Args:
    points: {label: (x, y)}; a higher y is better.
    xlabel: of the x axis.
    ylabel: of the y axis.
    title: above the plot.
    x_better: 'high' or 'low', which end of x is the good one.
    colors: {label: colour}; by place if None.

  Raises:
    ValueError: another x_better.
  """
  if x_better not in ('high', 'low'):
    raise ValueError(f'x_better is "high" or "low", not "{x_better}"')
  colors = colors or colors_of(list(points))
  sign = 1.0 if x_better == 'high' else -1.0
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    front = sorted(
      (x, y)
      for x, y in points.values()
      if not any(
        sign * a >= sign * x and b >= y and (a, b) != (x, y)
        for a, b in points.values()
      )
    )
    axes.plot(*zip(*front), '--', color=MUTED, linewidth=1.2, zorder=1)
    for label, (x, y) in points.items():
      axes.scatter(x, y, s=75, color=colors[label], zorder=3)
    axes.margins(0.18, 0.15)
    _name_points(axes, points, colors)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
  return figure


def to_dark(figure: Figure) -> None:
  """Redraws this module's inks, in place, for a dark screen."""
  figure.set_facecolor(_DARK[PAPER])
  for artist in figure.findobj():
    for part in ('color', 'facecolor', 'edgecolor', 'markerfacecolor',
                 'markeredgecolor'):  # fmt: skip
      getter = getattr(artist, f'get_{part}', None)
      if getter is None or (part == 'color' and hasattr(artist, 'get_paths')):
        continue
      dark = _DARK.get(_hex(getter()))
      if dark:
        getattr(artist, f'set_{part}')(dark)
  for axes in figure.axes:
    axes.tick_params(colors=_DARK[MUTED], grid_color=_DARK[RULE])
    for label in axes.get_yticklabels():
      label.set_color(_DARK[MUTED])


def _hex(color) -> str:
  """'#rrggbb' of one colour; '' of none or several."""
  try:
    color = np.asarray(color) if not isinstance(color, str) else color
    if not isinstance(color, str) and color.ndim == 2:
      color = color[0] if len(color) == 1 else None
    return to_hex(color)
  except (TypeError, ValueError):
    return ''


def _line(axes: Axes, label: str, x, y, color: str):
  """Draws one series; returns its last point, or None where it has none."""
  x, y = np.asarray(x, float), np.asarray(y, float)
  if x.shape != y.shape:
    raise ValueError(f'"{label}" has {len(x)} x and {len(y)} y values')
  finite = np.isfinite(x) & np.isfinite(y)
  x, y = x[finite], y[finite]
  if not len(x):
    return None
  if len(x) >= SMOOTH_FROM:
    axes.plot(x, y, color=color, linewidth=0.7, alpha=0.3)
    width = max(2, len(x) // 20)
    total = np.cumsum(np.insert(y, 0, 0.0))
    y = (total[width:] - total[:-width]) / width
    x = x[width - 1 :]
  marker = 'o' if len(x) <= 20 else None
  axes.plot(x, y, color=color, linewidth=2, marker=marker, markersize=4)
  return x[-1], y[-1]


def _name_points(
  axes: Axes, points: Mapping, colors: Mapping[str, str]
) -> None:
  """Writes each label beside its point, where no other text or point is."""
  (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
  axes.set(xlim=(left, right), ylim=(bottom, top))
  centers = {
    label: ((x - left) / (right - left), (y - bottom) / (top - bottom))
    for label, (x, y) in points.items()
  }
  # Boxes as (x, y, half width, half height) in fractions of the axes.
  taken = [(x, y, 0.02, 0.03) for x, y in centers.values()]
  for label, (x, y) in centers.items():
    half = 0.014 * len(label)
    places = [
      (x + 0.03 + half, y), (x - 0.03 - half, y), (x, y + 0.085),
      (x, y - 0.085),
    ]  # fmt: skip

    def clashes(place, half=half):
      count = sum(
        abs(place[0] - a) < half + w and abs(place[1] - b) < 0.035 + h
        for a, b, w, h in taken
      )
      return count + (not half <= place[0] <= 1 - half)

    place = min(places, key=clashes)
    taken.append((*place, half, 0.035))
    axes.text(
      *place, label, transform=axes.transAxes, ha='center', va='center',
      color=colors[label], weight='bold',
    )  # fmt: skip


def _name_ends(axes: Axes, ends: Mapping, colors: Mapping[str, str]) -> None:
  """Writes each label right of the plot at its height, pushed apart."""
  if not ends:
    return
  low, high = axes.get_ylim()
  axes.set_ylim(low, high)
  order = sorted(ends, key=lambda label: ends[label][1])
  gap = 0.085
  heights = []
  for label in order:
    height = (ends[label][1] - low) / (high - low)
    heights.append(max(height, heights[-1] + gap) if heights else height)
  # What was pushed over the top goes down again as one block.
  limit = 1.0
  for index in reversed(range(len(heights))):
    heights[index] = min(heights[index], limit)
    limit = heights[index] - gap
  for label, height in zip(order, heights):
    axes.annotate(
      label,
      xy=ends[label],
      xytext=(1.06, height),
      textcoords='axes fraction',
      va='center',
      color=colors[label],
      weight='bold',
      annotation_clip=False,
      arrowprops={
        'arrowstyle': '-', 'color': colors[label], 'linewidth': 0.8,
        'alpha': 0.45, 'shrinkA': 2, 'shrinkB': 3,
      },
    )  # fmt: skip
