"""`Report`: one HTML page with everything in it, for a phone or a desk.

No script and nothing from outside: the style sheet and the pictures are
embedded, so the file can be mailed, archived and opened without a network.
"""

import base64
import html
import io
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from posttrain_jax.core import paths
from posttrain_jax.log.progress import short
from posttrain_jax.report import plots

DPI = 180
# How every page of ours begins: by it one that may be written over is known.
START = (
  '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
  '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
)


def check_own(path: str | os.PathLike) -> None:
  """Raises ValueError for a file that is there, and is no page of ours: nobody
  else's is written over."""
  file = paths.path(path)
  if file.is_dir():
    raise ValueError(f'{file} is a folder; a page would be written there')
  if file.exists():
    told = file.read_bytes()
    start, rest = told[: len(START)], told[len(START) : len(START) + 2000]
    if start != START.encode() or b'<style>\n:root {' not in rest:
      raise ValueError(
        f'{file} is there, and is no page of this package: move it, or name '
        'another folder'
      )


class Report:
  """Parts in the order in which they are added; `write` makes the file.

  All text is escaped: prompts and completions may hold anything.

  Args:
    title: the page's heading.
    subtitle: one line under it.
    css_class: of the body, for what the style sheet says of such pages.
  """

  def __init__(self, title: str, subtitle: str = '', css_class: str = ''):
    self._title = title
    self._class = f' class="{_text(css_class)}"' if css_class else ''
    self._parts = [f'<h1>{_text(title)}</h1>']
    if subtitle:
      self._parts.append(f'<p class="subtitle">{_text(subtitle)}</p>')
    self._images: dict[str, bytes] = {}

  def heading(self, text: str) -> None:
    """Starts a section."""
    self._parts.append(f'<h2>{_text(text)}</h2>')

  def text(self, text: str, *, lede: bool = False) -> None:
    """A paragraph; `lede` sets the one that says what was found larger."""
    css_class = ' class="lede"' if lede else ''
    self._parts.append(f'<p{css_class}>{_text(text)}</p>')

  def html(self, fragment: str) -> None:
    """HTML as it is: the caller has escaped what is text in it."""
    self._parts.append(fragment)

  def bullets(self, items: Sequence[str]) -> None:
    """A list of sentences."""
    lines = ''.join(f'<li>{_text(item)}</li>' for item in items)
    self._parts.append(f'<ul>{lines}</ul>')

  def cards(self, cards: Sequence[tuple[str, str, str, str]]) -> None:
    """Key numbers, one card each.

    Args:
      cards: (label, value, note, colour); colour '' for none.
    """
    parts = []
    for label, value, note, color in cards:
      style = f' style="--tint: {_text(color)}"' if color else ''
      parts.append(
        f'<div class="card"{style}><div class="label">{_text(label)}</div>'
        f'<div class="value">{_text(value)}</div>'
        f'<div class="note">{_text(note)}</div></div>'
      )
    self._parts.append(f'<div class="cards">{"".join(parts)}</div>')

  def table(
    self,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    caption: str = '',
  ) -> None:
    """A table that scrolls sideways where the screen is narrow.

    Args:
      columns: names.
      rows: text as it is, numbers to three significant digits, None as a dash.
      caption: a sentence under it.

    Raises:
      ValueError: a row that has not one cell per column.
    """
    for number, row in enumerate(rows, start=1):
      if len(row) != len(columns):
        raise ValueError(
          f'row {number} has {len(row)} cells for {len(columns)} columns'
        )
    # The first column names the row; the others are mostly numbers.
    kinds = ['', *[' class="number"'] * (len(columns) - 1)]
    head = ''.join(
      f'<th{kind}>{_text(name)}</th>' for kind, name in zip(kinds, columns)
    )
    body = ''.join(
      '<tr>'
      + ''.join(
        f'<td{kind}>{_text("–" if cell is None else short(cell))}</td>'
        for kind, cell in zip(kinds, row)
      )
      + '</tr>'
      for row in rows
    )
    self._parts.append(
      f'<figure><div class="scroll"><table><thead><tr>{head}</tr></thead>'
      f'<tbody>{body}</tbody></table></div>{_caption(caption)}</figure>'
    )

  def figure(
    self,
    figure: Figure,
    name: str,
    caption: str = '',
    *,
    dark: Figure | None = None,
    min_width: int = 0,
  ) -> None:
    """A picture, embedded for light and dark screens.

    Args:
      figure: for light screens.
      name: `write` saves the light one as plots/<name>.png beside the page.
      caption: what it shows.
      dark: the same for dark screens; if None, `figure` with its colours from
        `report.plots` redrawn.
      min_width: in CSS pixels; narrower screens scroll it sideways, wide ones
        show it half as large again.

    Raises:
      ValueError: the name was used before.
    """
    if name in self._images:
      raise ValueError(f'two figures are called "{name}"')
    self._images[name] = light = _png(figure)
    if dark is None:
      plots.to_dark(figure)
      dark = figure
    style = (
      f' style="min-width: {min_width}px; max-width: {1.46 * min_width:.0f}px"'
      if min_width
      else ''
    )
    picture = (
      '<picture>'
      '<source media="(prefers-color-scheme: dark)" '
      f'srcset="{_data_uri(_png(dark))}">'
      f'<img src="{_data_uri(light)}" alt="{_text(caption or name)}"{style}>'
      '</picture>'
    )
    if min_width:
      picture = f'<div class="scroll">{picture}</div>'
    self._parts.append(f'<figure>{picture}{_caption(caption)}</figure>')

  def example(
    self, prompt: str, answers: Sequence[tuple[str, str, float | None]]
  ) -> None:
    """One prompt with what each arm made of it: (arm, completion, reward); no
    reward where it is None."""
    best = max((x for _, _, x in answers if x is not None), default=0.0)
    lines = ''.join(
      f'<div class="answer"><span class="tag">{_text(arm)}</span>'
      f'<pre>{_text(completion) or "(nothing)"}</pre>'
      f'{_reward(reward, best)}</div>'
      for arm, completion, reward in answers
    )
    self._parts.append(
      '<div class="example"><div class="prompt"><span class="tag">prompt</span>'
      f'<pre>{_text(prompt)}</pre></div>{lines}</div>'
    )

  def code(self, text: str) -> None:
    """A command or a listing."""
    self._parts.append(f'<pre class="code">{_text(text)}</pre>')

  def details(self, summary: str, content: str | dict) -> None:
    """A listing that is closed until somebody asks; a dict is shown as JSON."""
    if not isinstance(content, str):
      content = json.dumps(content, indent=2, ensure_ascii=False)
    self._parts.append(
      f'<details><summary>{_text(summary)}</summary>'
      f'<pre>{_text(content)}</pre></details>'
    )

  def write(self, path: str | os.PathLike) -> Path:
    """Writes the page, and its pictures as plots/<name>.png beside it.

    Raises:
      ValueError: there is another file (`check_own`).
    """
    path = paths.path(path)
    check_own(path)
    plots_dir = path.parent / 'plots'
    plots_dir.mkdir(parents=True, exist_ok=True)
    for name, image in self._images.items():
      (plots_dir / f'{name}.png').write_bytes(image)
    style = resources.files('posttrain_jax.report') / 'report.css'
    body = '\n'.join(_group_figures(self._parts))
    path.write_text(
      f'{START}<title>{_text(self._title)}</title>\n'
      f'<style>\n{style.read_text(encoding="utf-8")}</style>\n'
      f'</head>\n<body{self._class}>\n{body}\n</body>\n</html>\n',
      encoding='utf-8',
    )
    return path


def _group_figures(parts: list[str]) -> list[str]:
  """Puts pictures that follow each other side by side on wide screens."""
  grouped, run = [], []
  for part in [*parts, '']:
    if part.startswith('<figure><picture>'):
      run.append(part)
      continue
    if len(run) > 1:
      run = ['<div class="figures">', *run, '</div>']
    grouped += [*run, part]
    run = []
  return grouped


def _png(figure: Figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=DPI, bbox_inches='tight')
  # A palette takes a third of the room, and plots have few colours.
  image = Image.open(buffer).convert('RGB').quantize(256)
  small = io.BytesIO()
  image.save(small, format='png', optimize=True)
  return small.getvalue()


def _reward(reward: float | None, best: float) -> str:
  if reward is None:
    return ''
  good = ' good' if reward == best > 0 else ''
  return f'<span class="reward{good}">reward {_text(short(reward))}</span>'


def _data_uri(png: bytes) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png).decode('ascii')


def _caption(text: str) -> str:
  return f'<figcaption>{_text(text)}</figcaption>' if text else ''


def _text(value: Any) -> str:
  return html.escape(str(value), quote=True)
