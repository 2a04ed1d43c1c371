"""Where labels go so that none covers another: lines of text, points, ends.

All lengths are in points (1/72 inch).
"""

import functools
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

LINE = 1.25  # height of a line of text, in font sizes

Box = tuple[float, float, float, float]  # left, bottom, right, top


@functools.lru_cache(maxsize=1)
def _renderer():
  return FigureCanvasAgg(Figure(dpi=72)).get_renderer()


@functools.lru_cache(maxsize=4096)
def _width(text: str, size: float, bold: bool) -> float:
  font = FontProperties(size=size, weight='bold' if bold else 'normal')
  return _renderer().get_text_width_height_descent(text, font, False)[0]


def text_size(
  text: str, size: float, bold: bool = False
) -> tuple[float, float]:
  """(width, height) of a text of one or more lines."""
  lines = text.split('\n')
  width = max(_width(line, size, bold) for line in lines)
  return width, LINE * size * len(lines)


def wrap(text: str, width: float, size: float, bold: bool = False) -> str:
  """The text in as few lines as fit `width`, about equally long.

  Lines break at spaces, else after -, _, / and dots, else anywhere.
  """
  lines = _lines(text, width, size, bold)
  # Balanced, but never so narrow that a token is cut which need not be.
  narrow = max((_width(x, size, bold) for x in _tokens(text)), default=0.0)
  while len(lines) > 1 and width - 3.0 >= narrow:
    width -= 3.0
    tighter = _lines(text, width, size, bold)
    if len(tighter) > len(lines):
      break
    lines = tighter
  return '\n'.join(lines)


def _tokens(text: str) -> list[str]:
  """What may stand alone on a line, and the spaces between."""
  return re.findall(r'[^ \n\-_/.]*[\-_/.]+|[^ \n\-_/.]+|[ \n]+', text.strip())


def _lines(text: str, width: float, size: float, bold: bool) -> list[str]:
  lines, line = [], ''
  for token in _tokens(text):
    if _width((line + token).rstrip(), size, bold) <= width:
      line += token
      continue
    if line.strip():
      lines.append(line.strip())
    line = ''
    for letter in token.strip():
      if line and _width(line + letter, size, bold) > width:
        lines.append(line)
        line = ''
      line += letter
  return [*lines, line.strip()] if line.strip() else lines


def spread(
  centers: Sequence[float], sizes: Sequence[float], low: float, high: float
) -> list[float]:
  """Moves intervals on a line apart, each as little as it can.

  Args:
    centers: where each would like to be.
    sizes: length of each.
    low: start of the room that they have.
    high: its end; if they do not fit, they start at `low` and pass `high`.

  Returns:
    New centres; intervals do not overlap and keep the order of `centers`.
  """
  order = sorted(range(len(centers)), key=lambda i: centers[i])
  # Blocks of touching intervals: [members, start, length].
  blocks = []
  for i in order:
    blocks.append([[i], centers[i] - sizes[i] / 2, sizes[i]])
    while True:
      block = blocks[-1]
      block[1] = max(low, min(block[1], high - block[2]))
      if len(blocks) == 1 or blocks[-2][1] + blocks[-2][2] <= block[1]:
        break
      members, _, length = blocks.pop()
      blocks[-1][0] += members
      blocks[-1][2] += length
      # Where the members want to be, on the mean.
      offset = wanted = 0.0
      for member in blocks[-1][0]:
        wanted += centers[member] - sizes[member] / 2 - offset
        offset += sizes[member]
      blocks[-1][1] = wanted / len(blocks[-1][0])
  places = [0.0] * len(centers)
  for members, start, _ in blocks:
    for member in members:
      places[member] = start + sizes[member] / 2
      start += sizes[member]
  return places


def place(
  points: Sequence[tuple[float, float]],
  sizes: Sequence[tuple[float, float]],
  bounds: Box,
  *,
  avoid: Sequence[Box] = (),
  radius: float = 5.0,
  cross: bool = False,
) -> list[tuple[float, float]] | None:
  """Puts each label at the free place nearest to its point.

  Args:
    points: one a label.
    sizes: (width, height) of the labels.
    bounds: every label lies within.
    avoid: what labels had better not cover, but may.
    radius: of the points' marks, which no label covers.
    cross: leader lines may cross labels and marks where there is no other way.

  Returns:
    Centres of the labels, in the order of `points`; None if some label found
    no place free of other labels, marks and their leader lines.
  """
  if not len(points):
    return []
  points, sizes = np.asarray(points, float), np.asarray(sizes, float)
  crowd = -np.sum(
    np.linalg.norm(points[:, None] - points[None], axis=-1) < 60.0, axis=1
  )
  best, best_cost = None, np.inf
  # A greedy choice depends on its order: the cheapest of a few is taken.
  for key in (crowd, points[:, 0], -points[:, 0], points[:, 1], -points[:, 1]):
    order = np.argsort(key, kind='stable')
    centers, cost = _place_in(
      order, points, sizes, bounds, avoid, radius, cross
    )
    if cost < best_cost:
      best, best_cost = centers, cost
  return best


def _place_in(order, points, sizes, bounds, avoid, radius, cross):
  """Places labels one after the other: centres and their summed cost."""
  marks = np.concatenate([points - radius, points + radius], axis=1)
  soft = np.asarray(avoid, float).reshape(-1, 4)
  taken = np.zeros((0, 4))
  centers, total = [None] * len(points), 0.0
  for i in order:
    options, boxes, cost, path = _free(
      *_options(points[i], sizes[i], bounds, radius), sizes[i], points[i],
      np.concatenate([marks, taken]), soft,
    )  # fmt: skip
    if not len(options):
      return None, np.inf
    dots = np.concatenate([path, path], axis=-1).reshape(-1, 4)
    # Marks that overlap the label's own one cannot be gone around.
    apart = np.abs(points - points[i]).max(axis=1) > 2 * radius
    others = np.concatenate([marks[apart], taken])
    crossed = _hits(dots, others).any(axis=1).reshape(len(boxes), -1)
    penalty = 400.0 if cross else np.inf
    cost = np.where(crossed.any(axis=1), cost + penalty, cost)
    choice = int(np.argmin(cost))
    total += cost[choice]
    if not np.isfinite(total):
      return None, np.inf
    centers[i] = tuple(float(x) for x in options[choice])
    leader = path[choice]
    taken = np.concatenate(
      [taken, boxes[choice][None], np.concatenate([leader, leader], axis=1)]
    )
  return centers, total


def _free(options, bias, size, point, hard, soft):
  """The cheapest options that cover nothing hard, with their leader lines."""
  boxes = np.concatenate([options - size / 2, options + size / 2], axis=1)
  free = ~_hits(boxes, hard).any(axis=1)
  options, boxes, bias = options[free], boxes[free], bias[free]
  # The leader goes from the mark to the nearest point of the box.
  ends = np.clip(point, boxes[:, :2], boxes[:, 2:])
  length = np.linalg.norm(ends - point, axis=1)
  cost = length + bias + 6.0 * _hits(boxes, soft).sum(axis=1)
  cheap = np.argsort(cost, kind='stable')[:200]
  steps = np.linspace(0, 1, 17)[None, 1:, None]
  path = point + steps * (ends[cheap] - point)[:, None]
  return options[cheap], boxes[cheap], cost[cheap], path


def _options(point, size, bounds, radius) -> tuple[np.ndarray, np.ndarray]:
  """Centres to try, and what is against each: best is right of the point."""
  (width, height), gap = size, radius + 3.0
  near = point + np.array(
    [
      (gap + width / 2, 0), (-gap - width / 2, 0), (0, gap + height / 2),
      (0, -gap - height / 2), (gap + width / 2, gap), (gap + width / 2, -gap),
      (-gap - width / 2, gap), (-gap - width / 2, -gap),
    ]
  )  # fmt: skip
  left, bottom = bounds[0] + width / 2, bounds[1] + height / 2
  right, top = bounds[2] - width / 2, bounds[3] - height / 2
  far = np.stack(
    np.meshgrid(np.arange(left, right, 5.0), np.arange(bottom, top, 5.0)), -1
  ).reshape(-1, 2)
  both = np.concatenate([near, far])
  bias = np.concatenate([0.5 * np.arange(len(near)), np.full(len(far), 8.0)])
  inside = ((both >= (left, bottom)) & (both <= (right, top))).all(axis=1)
  return both[inside], bias[inside]


def _hits(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
  """[N, M] bool: which boxes overlap which others."""
  a, b = boxes[:, None], others[None]
  return (
    (a[..., 0] < b[..., 2]) & (b[..., 0] < a[..., 2])
    & (a[..., 1] < b[..., 3]) & (b[..., 1] < a[..., 3])
  )  # fmt: skip
