"""What an answer looks like: tags, repetition."""

import re
from collections.abc import Sequence
from typing import Any

from posttrain_jax.rewards.texts import common

__all__ = ['repetition', 'tag_format', 'think_format']


def think_format(
  prompts: list,
  completions: list,
  *,
  opened: bool = False,
  **columns: Any,
) -> list[float | None]:
  """1.0 for one <think>...</think> at the start, and an answer after it.

  Args:
    opened: the prompt ends with <think>, as some chat templates' do.
  """

  def one(text: str) -> float:
    text = '<think>' + text if opened else text.lstrip()
    once = text.count('<think>') == text.count('</think>') == 1
    if not once or not text.startswith('<think>'):
      return 0.0
    thoughts, _, rest = text.removeprefix('<think>').partition('</think>')
    return float(bool(thoughts.strip()) and bool(rest.strip()))

  return [one(common.text_of(c)) for c in completions]


def tag_format(
  prompts: list,
  completions: list,
  *,
  tags: Sequence[str] = ('think', 'answer'),
  partial: bool = False,
  **columns: Any,
) -> list[float | None]:
  """1.0 where the tags are all there is, once each and in this order.

  Nothing but white space stands between or around them, and none is empty.

  Args:
    tags: names, without brackets.
    partial: the share of opening and closing tags that stand there once,
      whatever is between them.
  """
  parts = [rf'<{re.escape(t)}>(?P<p{i}>.*?)</{re.escape(t)}>'
           for i, t in enumerate(tags)]  # fmt: skip
  whole = re.compile(r'\s*' + r'\s*'.join(parts) + r'\s*', re.DOTALL)
  marks = [mark for t in tags for mark in (f'<{t}>', f'</{t}>')]

  def one(text: str) -> float:
    single = [text.count(mark) == 1 for mark in marks]
    if partial:
      return sum(single) / len(single)
    found = whole.fullmatch(text) if all(single) else None
    return float(found is not None and all(x.strip() for x in found.groups()))

  return [one(common.text_of(c)) for c in completions]


def repetition(
  prompts: list,
  completions: list,
  completion_ids: list,
  *,
  ngram: int = 3,
  penalty: float = -1.0,
  **columns: Any,
) -> list[float | None]:
  """`penalty` times the share of n-grams of tokens that came before.

  0.0 for completions shorter than an n-gram.

  Args:
    ngram: tokens of one.
    penalty: of an answer that only repeats.

  Reference: Yeo et al. (2025), https://arxiv.org/abs/2502.03373, Appendix C.2,
  as a reward of the whole answer
  """

  def one(ids: Sequence[int]) -> float:
    count = len(ids) - ngram + 1
    if count < 1:
      return 0.0
    seen = {tuple(ids[i : i + ngram]) for i in range(count)}
    return penalty * (1.0 - len(seen) / count)

  return [one(ids) for ids in completion_ids]
