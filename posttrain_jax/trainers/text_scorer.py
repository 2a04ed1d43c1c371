"""Reward models that read text: their own tokenizer, template and head.

A folder of transformers' class `...ForSequenceClassification` with one label is
read as that class reads it: the state of the last token that is not padding,
times `score.weight`. A conversation is written by the folder's own template;
a prompt that is a text, and its answer, stand one after the other, as in TRL.
A run of ours (`recipe=reward_model`) is asked with rows as it was trained on.
"""

import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from posttrain_jax.core import hosts, sharding
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.data import formats
from posttrain_jax.data.host_task import padded
from posttrain_jax.data.quoting import quoted
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
  tokens, mask = sharding.rows((tokens, mask))
  return hosts.by_rows(heads.sequence_values(params, model, tokens, mask))


@dataclasses.dataclass(eq=False)
class TextScorer:
  """`scorer(params, prompts, completions) -> [B, G]`, NaN where it has none.

  Of several processes each reads the answers that its devices hold, and a batch
  is some answers of each.

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
    mesh: Mesh | None = None,
  ) -> np.ndarray:
    """Scores [B, G] of G answers to each of B prompts.

    prompts      texts, or messages
    completions  texts, or lists of one message
    mesh         that the parameters lie on. All processes of a run have to
                 call this, each with the prompts whose rows it holds
                 (`hosts.held`). None: this process asks alone

    Raises:
      ValueError: as `tokens`; a conversation is longer than the model knows;
        a score that is no number, which would pass for none. Of several
        processes, on all.
    """
    size = len(completions[0]) if completions else 0
    content = lambda x: x if isinstance(x, str) else x[0]['content']
    answers = [content(x) for group in completions for x in group]
    repeated = [prompt for prompt in prompts for _ in range(size)]
    read = lambda: self._rows(repeated, answers)
    rows, masks, numbers = read() if mesh is None else hosts.together(read)
    scores = np.full(len(answers), np.nan, np.float32)
    # Short ones first: a batch is as wide as its longest.
    order = np.argsort([len(row) for row in rows], kind='stable')
    total, mine = _batch_rows(mesh)
    parts = [
      order[start : start + len(mine)]
      for start in range(0, len(order), len(mine))
    ]
    longest = [max(len(rows[i]) for i in part) for part in parts]
    for number, most in enumerate(_agreed(longest, mesh)):
      part = parts[number] if number < len(parts) else ()
      tokens, counted = self._padded(
        [rows[i] for i in part], [masks[i] for i in part], len(mine), most
      )
      place = lambda x: (
        hosts.place_rows(x, mesh, mine, total)
        if mesh is not None and hosts.several()
        else x
      )
      found = _scores(params, self.model, place(tokens), place(counted))
      found = hosts.own_of(found, mine)[: len(part)]
      scores[[numbers[i] for i in part]] = found
    check = lambda: self._check(scores[numbers], answers, numbers)
    check() if mesh is None else hosts.together(check)
    return scores.reshape(len(completions), size)

  def _check(
    self, scores: np.ndarray, answers: Sequence[str], numbers: Sequence[int]
  ) -> None:
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
      said = quoted(answers[numbers[bad[0]]])
      raise ValueError(
        f'reward model {self.name}: {bad.size:,} of {scores.size:,} scores are '
        f'not finite (the first, {scores[bad[0]]}, is of the answer {said}); '
        'are its weights?'
      )

  def _padded(
    self,
    rows: list[list[int]],
    masks: list[list[float]],
    count: int,
    longest: int,
  ) -> tuple[np.ndarray, np.ndarray]:
    """[count, T] tokens and what counts of them; rows that lack are blank."""
    width = -(-longest // STEP) * STEP
    blank: list[list[int]] = [[]] * (count - len(rows))
    tokens, _ = padded([*rows, *blank], width, self.tokenizer.pad_id)
    counted = np.zeros(tokens.shape, np.float32)
    for row, mask in enumerate(masks):
      counted[row, : len(mask)] = mask
    return tokens, counted


def _batch_rows(mesh: Mesh | None) -> tuple[int, np.ndarray]:
  """(rows of a batch, those that this process holds)."""
  if mesh is None:
    return ROWS, np.arange(ROWS)
  parts = sharding.row_parts(mesh.shape)
  total = -(-ROWS // parts) * parts
  return total, hosts.held(total, mesh)


def _agreed(longest: list[int], mesh: Mesh | None) -> list[int]:
  """The longest row of each batch, of all processes that have such a batch."""
  if mesh is None:
    return longest
  told = [json.loads(text) for text in hosts.said(json.dumps(longest))]
  return [max(x) for x in itertools.zip_longest(*told, fillvalue=0)]
