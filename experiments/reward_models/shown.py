"""Figures of the study of reward models."""

from typing import Any


def figures() -> list[dict[str, Any]]:
  return [
    {
      'kind': 'bars', 'name': 'ranked', 'title': 'Reward models',
      'measures': ['ranked', 'later'],
      'caption': 'Pairs of a right and a wrong answer to one held-out problem '
                 'that are ranked right: of answers of the base, and of PPO.',
    },
    {
      'kind': 'bars', 'name': 'gold', 'title': 'Policies',
      'measures': ['gold', 'proxy', 'skills'],
      'caption': 'Right answers, the learnt reward as a share, and right '
                 'answers on the other tasks of the base.',
    },
    {
      'kind': 'frontier', 'name': 'hacked',
      'title': 'The learnt reward, and what it stands for',
      'x': 'proxy', 'y': 'gold',
      'caption': 'On the diagonal nothing is exploited.',
    },
    {
      'kind': 'curves', 'name': 'rubric_gold', 'measure': 'gold',
      'title': 'Right answers, round by round of a rubric',
      'caption': 'Of held-out problems; an audit stands between rounds.',
    },
    {
      'kind': 'curves', 'name': 'rubric_first', 'measure': 'rubric',
      'title': 'The same by the first rubric',
      'caption': 'Three quarters vowels, one quarter how far they are met.',
    },
  ]  # fmt: skip
