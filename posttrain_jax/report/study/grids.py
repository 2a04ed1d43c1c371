"""Figures of a study in rows: bars with intervals, and heatmaps."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from posttrain_jax.report.study import frame
from posttrain_jax.report.study import labels as study_labels
from posttrain_jax.report.study.data import (
  column_name,
  number,
  numbers,
  summarize,
)
from posttrain_jax.report.study.look import contrast, inks, styles_of

_MAP = 'YlGnBu'  # told apart by colour-blind readers; low is near the paper
_BAR = 14.0
_GAP = 11.0


def bars(
  results: Mapping[str, Any], figure: Mapping[str, Any], dark: bool
) -> Figure:
  """A row an arm: its name, and under it one bar for each measure."""
  arms = {
    name: arm
    for name, arm in results['arms'].items()
    if any(summarize(arm['values'].get(m, ())) for m in figure['measures'])
  }
  look = inks(dark)
  styles = styles_of(
    {name: arm['family'] for name, arm in results['arms'].items()}, dark
  )
  columns = min(2, len(figure['measures']))
  width = (frame.WIDTH - 16 * (columns - 1)) / columns
  labels = [
    study_labels.wrap(arm['label'], frame.WIDTH, frame.FONT, bold=True)
    for arm in arms.values()
  ]
  line = study_labels.LINE * frame.FONT
  tops = np.cumsum([0.0] + [
    line * (1 + label.count('\n')) + _BAR + _GAP for label in labels
  ])  # fmt: skip
  heads = [
    study_labels.wrap(column_name(results['measures'][name]), width, frame.FONT)
    for name in figure['measures']
  ]
  head = line * max(1 + text.count('\n') for text in heads) + 8
  rows = [range(i, min(i + columns, len(heads)))
          for i in range(0, len(heads), columns)]  # fmt: skip
  panel = head + tops[-1] + 24  # with the tick labels
  title, _ = frame.heading(figure['title'], '')
  canvas = frame.new(
    frame.heading_height(title, '') + len(rows) * (panel + 12) - 12
  )
  frame.write_heading(canvas, title, '', look)
  halo = [patheffects.withStroke(linewidth=3, foreground=look.paper)]
  for number_, row in enumerate(rows):
    top = (len(rows) - number_) * (panel + 12) - 12
    for place, index in enumerate(row):
      left = place * (width + 16)
      frame.write(canvas, left, top, heads[index], color=look.muted)
      _panel(
        canvas, (left, top - head - tops[-1], width, tops[-1]), tops, labels,
        [arm['values'].get(figure['measures'][index], ())
         for arm in arms.values()],
        [styles[name] for name in arms],
        results['measures'][figure['measures'][index]], look,
      )  # fmt: skip
    for label, name, above in zip(labels, arms, tops):
      frame.write(
        canvas, 0, top - head - above, label, color=styles[name].text,
        weight='bold', path_effects=halo,
      )  # fmt: skip
  return canvas


def _panel(canvas, box, tops, labels, values, styles, measure, look) -> None:
  """The bars of one measure; y of the axes is in points from the top."""
  left, bottom, width, height = box
  found = [summarize(of_arm) for of_arm in values]
  texts = [number(f[0] if f else None, measure['digits']) for f in found]
  column = 6 + max(
    (study_labels.text_size(text, frame.FONT, True)[0] for text in texts),
    default=0.0,
  )
  full_width, full_height = canvas.get_size_inches() * 72
  axes = canvas.add_axes(
    (left / full_width, bottom / full_height, (width - column) / full_width,
     height / full_height)
  )  # fmt: skip
  for text, of_arm, mean, style, end in zip(
    texts, values, found, styles, tops[1:]
  ):
    y = end - _GAP - _BAR / 2
    axes.text(
      1.0 + column / (width - column), y, text, va='center', ha='right',
      transform=axes.get_yaxis_transform(), weight='bold', color=look.ink,
    )  # fmt: skip
    if not mean:
      continue
    axes.barh(y, mean[0], height=_BAR, color=style.color, alpha=0.8)
    seeds = numbers(of_arm)
    if np.isfinite(seeds).sum() > 1:
      axes.scatter(
        seeds, np.full(len(seeds), y), s=11, facecolor=look.paper,
        edgecolor=look.ink, linewidth=0.7, alpha=0.75, zorder=4,
      )  # fmt: skip
    axes.plot(mean[1:], [y, y], color=look.ink, linewidth=2.5, zorder=3)
    axes.plot([0, 0], [y - 9, y + 9], color=look.muted, linewidth=1, zorder=5)
  low, high = axes.get_xlim()
  if measure['unit'] == '%':
    high = min(high, 100.0)
  axes.set(ylim=(tops[-1], 0), xlim=(min(low, 0), max(high, 0)), yticks=[])
  axes.spines[['left', 'bottom']].set_visible(False)
  axes.xaxis.set_major_locator(MaxNLocator(3))
  axes.tick_params(axis='x', length=0)
  axes.set_facecolor('none')


def heatmap(
  results: Mapping[str, Any], figure: Mapping[str, Any], dark: bool
) -> Figure:
  """A number in every cell, in the ink that is readable on its colour."""
  del results
  look = inks(dark)
  values = np.array([numbers(row) for row in figure['values']])
  low, high = _range(figure, values)
  digits = 0 if high - low >= 20 else 1 if high - low >= 2 else 2
  texts = [[number(value, digits) for value in row] for row in values]
  size = lambda text: study_labels.text_size(text, frame.FONT)
  rows = [study_labels.wrap(str(x), 88, frame.FONT) for x in figure['rows']]
  columns = [str(x) for x in figure['columns']]
  side = max(size(text)[0] for text in rows) + 6
  cell = max(size(text)[0] for row in texts for text in row) + 10
  # A wide table makes a wide figure, which a phone scrolls.
  width = max(frame.WIDTH, side + cell * len(columns))
  cell = (width - side) / len(columns)
  short = [study_labels.wrap(text, cell - 4, frame.FONT) for text in columns]
  upright = any(
    '\n' in text and (text.count('\n') > 2 or text.replace('\n', ' ') != name)
    for text, name in zip(short, columns)
  )
  names = [study_labels.wrap(x, 110, frame.FONT) if upright else y
           for x, y in zip(columns, short)]  # fmt: skip
  top = max(size(text)[0 if upright else 1] for text in names) + 6
  tall = max(24.0, *(size(text)[1] + 4 for text in rows))
  unit = f'Numbers in {figure["unit"]}. ' if figure.get('unit') else ''
  ylabel = f'Rows: {figure["ylabel"]}. ' if figure.get('ylabel') else ''
  xlabel = f'Columns: {figure["xlabel"]}.' if figure.get('xlabel') else ''
  title, note = frame.heading(figure['title'], f'{unit}{ylabel}{xlabel}', width)
  used = frame.heading_height(title, note) + top
  canvas = frame.new(used + tall * len(rows) + 2, width)
  frame.write_heading(canvas, title, note, look)
  height = canvas.get_size_inches()[1] * 72
  axes = canvas.add_axes(
    (side / width, 2 / height, 1 - side / width, tall * len(rows) / height)
  )
  colors = matplotlib.colormaps[_MAP + ('_r' if dark else '')]
  colors = colors.with_extremes(bad=look.paper)
  axes.imshow(values, cmap=colors, vmin=low, vmax=high, aspect='auto')
  for (row, column), value in np.ndenumerate(values):
    ink = look.ink
    if np.isfinite(value):
      paper = matplotlib.colors.to_hex(colors((value - low) / (high - low)))
      ink = max('#ffffff', '#000000', key=lambda x, p=paper: contrast(x, p))
    axes.text(
      column, row, texts[row][column], ha='center', va='center', color=ink
    )
  axes.set_xticks(
    range(len(columns)), names, rotation=90 if upright else 0, color=look.ink
  )
  axes.set_yticks(range(len(rows)), rows, color=look.ink)
  axes.xaxis.tick_top()
  axes.tick_params(length=0, pad=4)
  axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
  axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
  axes.grid(False)
  axes.grid(which='minor', color=look.paper, linewidth=2)
  axes.tick_params(which='minor', length=0)
  axes.spines[:].set_visible(False)
  return canvas


def _range(figure: Mapping, values: np.ndarray) -> tuple[float, float]:
  """Ends of the colour map: as given, or those of the values."""
  kept = values[np.isfinite(values)]
  low, high = figure.get('low'), figure.get('high')
  low = low if low is not None else min(kept, default=0.0)
  high = high if high is not None else max(kept, default=1.0)
  return (low, high) if high > low else (low, low + 1.0)
