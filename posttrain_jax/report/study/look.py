"""Colours and marks of a study's arms, for light and for dark screens."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from posttrain_jax.report import plots

# Hue says the family, lightness and mark say which arm of it. The hues are
# Okabe and Ito's, told apart by colour-blind readers.
_FAMILIES = {
  'base': ('#7a828e', '#4d545e', '#a4abb5'),
  'sft': ('#0072b2', '#56b4e9', '#123f75', '#8aa6d8'),
  'rl': ('#d55e00', '#e69f00', '#94330a', '#f0a878'),
  'preference': ('#b4508f', '#dd96c0', '#74245c', '#8f6fc0'),
  'hybrid': ('#009e73', '#6cc79c', '#005c47', '#8fae2f'),
  'other': ('#8c6d31', '#c4a35c', '#5c4a24', '#6b8a94'),
}
# A study within one family takes every hue.
_ALL = ('#0072b2', '#d55e00', '#009e73', '#b4508f', '#e69f00', '#56b4e9',
        '#8c6d31', '#123f75')  # fmt: skip
_MARKS = 'os^DvPX*'
_DASHES = ('-', (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclasses.dataclass(frozen=True)
class Inks:
  """What is not an arm: ink, muted ink, rules and paper of a screen."""

  ink: str
  muted: str
  rule: str
  paper: str


@dataclasses.dataclass(frozen=True)
class Style:
  """How one arm is drawn, everywhere in its study."""

  color: str  # of bars, lines and marks
  text: str  # of its name: the colour, as far as it is readable
  mark: str
  dash: str | tuple


def inks(dark: bool) -> Inks:
  """The inks of light or dark screens."""
  style = plots.style(dark)
  return Inks(
    style['text.color'], style['xtick.color'], style['grid.color'],
    style['figure.facecolor'],
  )  # fmt: skip


def styles_of(arms: Mapping[str, str], dark: bool = False) -> dict[str, Style]:
  """One style an arm, by its family and its place in it.

  Args:
    arms: {arm: family}.
    dark: for dark screens: the same hues, where needed lighter.
  """
  one_family = len(set(arms.values()) - {'base'}) < 2
  seen: dict[str, int] = {}
  styles = {}
  for name, family in arms.items():
    place = seen.setdefault(family, 0)
    seen[family] += 1
    colors = _FAMILIES[family]
    if one_family and family != 'base':
      colors = _ALL
    styles[name] = _style(colors, place, dark)
  return styles


def styles_by_place(
  labels: Sequence[str], dark: bool = False
) -> dict[str, Style]:
  """One style a label where labels are no arms."""
  return {x: _style(_ALL, place, dark) for place, x in enumerate(labels)}


def _style(colors: Sequence[str], place: int, dark: bool) -> Style:
  paper, ink = inks(dark).paper, inks(dark).ink
  color = colors[place % len(colors)]
  return Style(
    color=readable(color, paper, ink, 3.2 if dark else 2.2),
    text=readable(color, paper, ink, 4.5),
    # Where the colours begin again, the marks are shifted by one.
    mark=_MARKS[(place + place // len(colors)) % len(_MARKS)],
    dash=_DASHES[place // len(colors) % len(_DASHES)],
  )


def contrast(color: str, other: str) -> float:
  """Contrast ratio of two colours, 1 to 21.

  Reference: W3C, https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio
  """
  light, dark = sorted((_luminance(color), _luminance(other)), reverse=True)
  return (light + 0.05) / (dark + 0.05)


def readable(color: str, paper: str, ink: str, ratio: float) -> str:
  """The colour, mixed with as little ink as gives `ratio` on the paper."""
  for share in np.linspace(0.0, 1.0, 41):
    mixed = (1 - share) * np.array(to_rgb(color)) + share * np.array(
      to_rgb(ink)
    )
    if contrast(to_hex(mixed), paper) >= ratio:
      return to_hex(mixed)
  return ink


def _luminance(color: str) -> float:
  rgb = np.array(to_rgb(color))
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return float(linear @ (0.2126, 0.7152, 0.0722))
