"""Figures of the study."""

from typing import Any


def figures() -> list[dict[str, Any]]:
  return [
    {
      'kind': 'bars', 'name': 'gold', 'title': 'Right answers',
      'measures': ['gold', 'skills'],
      'caption': 'To held-out problems, and to those of the other tasks of the '
                 'base.',
    },
    {
      'kind': 'frontier', 'name': 'exploited',
      'title': 'What the fixed rubric pays, and what is wanted',
      'x': 'rubric', 'y': 'gold',
      'caption': 'Three quarters vowels, one quarter how far principles are '
                 'met; against right answers.',
    },
    {
      'kind': 'curves', 'name': 'rounds_gold', 'measure': 'gold',
      'title': 'Right answers, round by round',
      'caption': 'Of held-out problems; an audit stands between rounds.',
    },
    {
      'kind': 'curves', 'name': 'rounds_vowels', 'measure': 'vowels',
      'title': 'Vowels, round by round',
      'caption': 'Their share among the letters of these answers.',
    },
  ]  # fmt: skip
