"""The frame of a study's figures: sizes, type, heading, axes that fit.

Figures are laid out in points at 72 dots an inch, so that what is measured is
what is drawn. `WIDTH` and `FONT` belong together: on a phone 360 CSS pixels
wide the type is still 9 points tall.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from posttrain_jax.report import plots
from posttrain_jax.report.study import labels
from posttrain_jax.report.study.look import Inks

WIDTH = 288.0
FONT = 11.0
TITLE = 12.5


def settings(dark: bool) -> dict[str, Any]:
  """matplotlib settings of all figures of a study."""
  return plots.style(dark) | {
    'font.size': FONT,
    'xtick.labelsize': FONT,
    'ytick.labelsize': FONT,
    'text.parse_math': False,  # a $ in a name is a $
    'axes.unicode_minus': True,
  }


def new(height: float, width: float = WIDTH) -> Figure:
  """An empty figure; sizes in points."""
  figure = Figure(figsize=(width / 72, height / 72), dpi=72)
  FigureCanvasAgg(figure)
  # Keeps the width when the page crops to what is drawn: every figure of a
  # study is shown at one scale.
  figure.add_artist(
    Rectangle((0, 0), 1, 1, transform=figure.transFigure, alpha=0.0)
  )
  return figure


def write(
  figure: Figure, x: float, y: float, text: str, size: float = FONT,
  **properties: Any,
) -> None:  # fmt: skip
  """Lines of text with their top at (x, y), in points from the left bottom."""
  width, height = figure.get_size_inches() * 72
  # One text a line: matplotlib spaces lines by what letters are in them.
  for index, line in enumerate(text.split('\n')):
    base = y - size * (labels.LINE * index + 0.95)
    figure.text(x / width, base / height, line, size=size, **properties)


def heading(title: str, ylabel: str, width: float = WIDTH) -> tuple[str, str]:
  """Title and name of the y axis, in lines that fit over the plot."""
  return (
    labels.wrap(title, width - 4, TITLE, bold=True),
    labels.wrap(ylabel, width - 4, FONT),
  )


def heading_height(title: str, ylabel: str) -> float:
  """Height that `write_heading` takes."""
  height = labels.text_size(title, TITLE)[1] if title else 0.0
  return height + (labels.text_size(ylabel, FONT)[1] if ylabel else 0) + 6


def write_heading(figure: Figure, title: str, ylabel: str, inks: Inks) -> None:
  """The title and, over the plot and so level, the y axis's name."""
  top = figure.get_size_inches()[1] * 72
  write(figure, 0, top, title, color=inks.ink, size=TITLE, weight='bold')
  if ylabel:
    top -= labels.text_size(title, TITLE)[1] if title else 0.0
    write(figure, 0, top, ylabel, color=inks.muted)


def fit(
  figure: Figure, axes: Axes, left: float, bottom: float, right: float,
  top: float,
) -> None:  # fmt: skip
  """Gives the axes, with tick labels and axis names, this room in points."""
  width, height = figure.get_size_inches() * 72
  box = [left, bottom, right, top]
  for _ in range(2):  # tick labels depend on the axes' size
    axes.set_position(
      (box[0] / width, box[1] / height, (box[2] - box[0]) / width,
       (box[3] - box[1]) / height)
    )  # fmt: skip
    renderer = figure.canvas.get_renderer()
    outer = axes.get_tightbbox(renderer)
    inner = axes.get_window_extent(renderer)
    # Floored: a plot is never squeezed to nothing by its labels.
    box = [
      min(left + max(inner.x0 - outer.x0, 0) + 2, right - 40),
      min(bottom + max(inner.y0 - outer.y0, 0) + 2, top - 40),
      right - max(outer.x1 - inner.x1, 0) - 1,
      top,
    ]
  axes.set_position(
    (box[0] / width, box[1] / height, (box[2] - box[0]) / width,
     (box[3] - box[1]) / height)
  )  # fmt: skip


def axis_name(measure: Mapping[str, Any]) -> str:
  """Label, unit and which end is the good one."""
  unit = f', {measure["unit"]}' if measure['unit'] else ''
  better = f' ({measure["better"]} is better)' if measure['better'] else ''
  return f'{measure["label"]}{unit}{better}'
