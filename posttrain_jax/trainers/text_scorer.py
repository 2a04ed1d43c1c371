"""Reward models that read text: their own tokenizer, template and head.

A folder of transformers' class `...ForSequenceClassification` with one label is
read as that class reads it: the state of the last token that is not padding,
times `score.weight`. A conversation is written by the folder's own template;
a prompt that is a text, and its answer, stand one after the other, as in TRL.
A run of ours (`recipe=reward_model`) is asked with rows as it was trained on.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.data import formats
from posttrain_jax.data.host_task import padded
from posttrain_jax.data.tokenizers import Tokenizer
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig

__all__ = ['TextScorer']

# Conversations that are scored at a time, and the steps of their lengths: few
# programs are compiled.
ROWS, STEP = 16, 64


@functools.partial(jax.jit, static_argnums=1)
def _scores(
  params: PyTree, model: ModelConfig, tokens: Array, mask: Array
) -> Array:
  return heads.sequence_values(params, model, tokens, mask)


@dataclasses.dataclass(eq=False)
class TextScorer:
  """`scorer(params, prompts, completions) -> [B, G]`, NaN where it has none.

  role       of the model in a run
  name       of its folder, for messages
  model      with a value head
  tokenizer  of the folder
  as_run     rows are those of a run of ours
  pad_id     that its config.json names: such tokens are never the last one
  """

  role: str
  name: str
  model: ModelConfig
  tokenizer: Tokenizer
  as_run: bool = False
  pad_id: int | None = None

  def __post_init__(self):
    self._told: set[str] = set()

  def tokens(self, prompt: Any, answer: str) -> tuple[list[int], list[float]]:
    """(tokens, 1.0 on those of which one may be the last) of one answer.

    Raises:
      ValueError: a conversation that the template refuses, or none for it.
    """
    tokenizer = self.tokenizer
    turns = not isinstance(prompt, str)
    said = [{'role': 'assistant', 'content': answer}] if turns else answer
    if self.as_run:
      made = formats.tokenize(
        {'prompt': prompt, 'completion': said}, tokenizer, kind='completion'
      )
      assert made is not None  # Without a limit nothing is dropped.
      return made['tokens'], [float(x > 0) for x in made['loss_mask']]
    if not turns:
      text = prompt + answer
    elif tokenizer.template is None:
      raise ValueError(
        f'{self.name} has no chat template, and the prompts are conversations'
      )
    else:
      text = tokenizer.template.render([*prompt, *said]).text
    ids = tokenizer.read(text)[0]
    return ids, [float(i != self.pad_id) for i in ids]

  def _tell(self, what: str, told: str) -> None:
    if what not in self._told:
      self._told.add(what)
      print(f'WARNING rewards: {self.name}: {told}', file=sys.stderr)

  def _rows(
    self, prompts: Sequence[Any], answers: Sequence[str]
  ) -> tuple[list[list[int]], list[list[float]], list[int]]:
    """(tokens, masks, numbers of the answers that have them)."""
    rows, masks, numbers = [], [], []
    names = self.tokenizer.special_names
    for number, (prompt, answer) in enumerate(zip(prompts, answers)):
      named = next((name for name in names if name in answer), None)
      if named is not None:
        self._tell(
          'named', f'an answer that says "{named}", a special token of it, '
          'gets no score'
        )  # fmt: skip
        continue
      tokens, mask = self.tokens(prompt, answer)
      if 0 < self.model.position_limit < len(tokens):
        raise ValueError(
          f'{self.name}: a conversation of {len(tokens):,} tokens, and the '
          f'model has no more than {self.model.position_limit:,} positions'
        )
      if 0 < self.model.max_length < len(tokens):
        self._tell(
          'long', f'a conversation of {len(tokens):,} tokens, and the model '
          f'was made for {self.model.max_length:,}'
        )  # fmt: skip
      rows.append(tokens)
      masks.append(mask)
      numbers.append(number)
    return rows, masks, numbers

  def __call__(
    self,
    params: PyTree,
    prompts: Sequence[Any],
    completions: Sequence[Sequence[Any]],
  ) -> np.ndarray:
    """Scores [B, G] of G answers to each of B prompts.

    prompts      texts, or messages
    completions  texts, or lists of one message
    """
    size = len(completions[0])
    content = lambda x: x if isinstance(x, str) else x[0]['content']
    answers = [content(x) for group in completions for x in group]
    repeated = [prompt for prompt in prompts for _ in range(size)]
    rows, masks, numbers = self._rows(repeated, answers)
    scores = np.full(len(answers), np.nan, np.float32)
    # Short ones first: a batch is as wide as its longest.
    order = np.argsort([len(row) for row in rows], kind='stable')
    for start in range(0, len(order), ROWS):
      chosen = order[start : start + ROWS]
      found = self._batch(
        params, [rows[i] for i in chosen], [masks[i] for i in chosen]
      )
      scores[[numbers[i] for i in chosen]] = found
    return scores.reshape(-1, size)

  def _batch(
    self, params: PyTree, rows: list[list[int]], masks: list[list[float]]
  ) -> np.ndarray:
    width = -(-max(map(len, rows)) // STEP) * STEP
    blank: list[list[int]] = [[]] * (ROWS - len(rows))
    tokens, _ = padded([*rows, *blank], width, self.tokenizer.pad_id)
    counted = np.zeros(tokens.shape, np.float32)
    for row, mask in enumerate(masks):
      counted[row, : len(mask)] = mask
    return np.asarray(_scores(params, self.model, tokens, counted))[: len(rows)]
