"""Rewards of texts, each a plain function with TRL's signature.

  reward(prompts, completions, completion_ids, **columns) -> list[float | None]

  prompts         texts, or lists of messages
  completions     texts; where prompts are messages, lists of one message
  completion_ids  tokens of each completion, with the stop token
  columns         the file's other columns, a list each

All lists are equally long. None: the reward does not apply to that row.
Keyword-only arguments with a default are hyperparameters, which an entry of
`config.rewards` may set; one called `column` names a column of the file.

Runs in worker processes, so nothing here may import jax.
"""

from typing import Any

from posttrain_jax.rewards.texts import common
from posttrain_jax.rewards.texts.constraints import (
  check_instructions,
  if_constraints,
)
from posttrain_jax.rewards.texts.form import (
  repetition,
  tag_format,
  think_format,
)
from posttrain_jax.rewards.texts.match import (
  GOLDS,
  choice_letter,
  exact_match,
  letter,
  math_verify,
  numeric_match,
  regex,
)
from posttrain_jax.rewards.texts.programs import check_tests, unit_tests

__all__ = [
  'choice_letter',
  'exact_match',
  'if_constraints',
  'math_verify',
  'numeric_match',
  'regex',
  'repetition',
  'tag_format',
  'think_format',
  'unit_tests',
]

# Rewards that say whether an answer is right: 1.0 is right.
VERDICTS = (
  'choice_letter',
  'exact_match',
  'if_constraints',
  'math_verify',
  'numeric_match',
  'unit_tests',
)
# (columns of a record, **hyperparameters): ValueError where none can judge it.
CHECKS = {'if_constraints': check_instructions, 'unit_tests': check_tests}


def judges_by(name: str, value: Any, params: dict) -> bool:
  """Whether the reward `name` could find an answer right by what its column
  has in a record."""
  golds = GOLDS.get(name)
  return not common.empty(value) if golds is None else bool(
    golds(value, params)
  )  # fmt: skip


def _number_said(text: str, params: dict) -> str:
  said = common.number(common.final(text))
  return '' if said is None else repr(float(said))


# (completion, hyperparameters) -> the answer that it gives, for votes, or ''.
ANSWERS = {
  'choice_letter': lambda text, params: letter(text, params['choices']),
  'numeric_match': _number_said,
}


def answer(name: str, text: str, params: dict) -> str:
  """What of a completion counts in a vote, for the verdict called `name`."""
  if name in ANSWERS:
    return ANSWERS[name](text, params)
  return common.final(text)
