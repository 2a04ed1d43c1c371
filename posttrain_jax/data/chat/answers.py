"""What is trained of a text that a chat template wrote, as places in it.

They are those of the template's own `{% generation %}` blocks, or found by
writing the conversation again up to each answer: what a model is asked with,
and what it has said then, both have to be beginnings of the whole. A turn that
is written otherwise later on, as without its reasoning, is left out; where that
leaves nothing, the record is refused.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence

from posttrain_jax.data.chat.checks import counts
from posttrain_jax.data.chat.special import any_of
from posttrain_jax.data.template import Text

__all__ = ['ADDED', 'CHANGED', 'MERGED', 'MISQUOTED', 'REWRITTEN', 'TOLD',
           'UNOPENED', 'Answers', 'Writer', 'marked']  # fmt: skip

# What may be said of a rendered conversation (`Turns.notes`).
REWRITTEN = 'rewritten'  # assistant turns are left out
MERGED = 'merged'  # a token reaches over the border of prompt and answer
CHANGED = 'changed'  # what is trained is not the text of the record
ADDED = 'added'  # what is trained is more than the text of the record
MISQUOTED = 'misquoted'  # what is asked is not the text of the record
UNOPENED = 'unopened'  # a prompt has no opening of the assistant's turn
# What is said of them; n is 'HOW MANY of HOW MANY records'.
TOLD = {
  REWRITTEN: (
    '{n} have earlier answers that the chat template writes otherwise later '
    'on, or before which it writes no prompt: these are not trained'
  ),
  MERGED: (
    '{n} have a token that reaches from the prompt into its answer: a model is '
    'asked with other tokens there'
  ),
  CHANGED: (
    '{n} have an answer that the chat template writes otherwise than it '
    'stands there: what is trained is not the text of the record'
  ),
  ADDED: (
    '{n} have an answer to which the chat template adds words of its own: they '
    'are trained, too'
  ),
  MISQUOTED: (
    '{n} have what a user or the system says written otherwise by the chat '
    'template: a model reads another text than the record has'
  ),
  UNOPENED: (
    '{n} are written by a chat template that does not use '
    'add_generation_prompt: the header of an answer is no part of a prompt, '
    'and no answer can be asked for with it'
  ),
}
Writer = Callable[..., Text]


class Answers:
  """Finds what is trained of a text that a template wrote.

  stops       names of the tokens that end a turn
  after_stop  whether what the template writes after one is trained, too
  """

  def __init__(
    self,
    write: Writer,
    messages: Sequence[Mapping],
    whole: Text,
    stops: frozenset[str],
    after_stop: bool = False,
  ):
    self._write, self._messages = write, messages
    self._text, self._blocks = whole
    self._stops, self._rest = any_of(stops), after_stop
    self.left_out: set[int] = set()  # numbers of turns

  def _stop(self, text: str, start: int) -> int | None:
    """The end of the first stop token from `start` on."""
    found = self._stops.search(text, start) if self._stops else None
    return found.end() if found else None

  def spans(self, prompt: int, start: int) -> list[tuple[int, int]]:
    """[(start, end)] in characters.

    prompt  turns of it, and `start` where it ends
    """
    if self._blocks:
      return self._of_blocks(start)
    return self._by_beginnings(prompt)

  def _of_blocks(self, start: int) -> list[tuple[int, int]]:
    """The template's blocks, to the stop token in them or right after."""
    said = [m for m in self._messages if m['role'] == 'assistant']
    kept = [True] * len(self._blocks)
    if len(said) == len(kept):
      kept = [counts(message) for message in said]
    elif not all(counts(message) for message in said):
      raise ValueError(
        f'the chat template marks {len(kept)} places of {len(said)} assistant '
        'turns: which of them have weight 0 cannot be told'
      )
    out = []
    for (first, last), keep in zip(self._blocks, kept):
      if not keep or last <= start:
        continue
      first, end = max(first, start), None
      if self._stops and not self._rest:
        for found in self._stops.finditer(self._text, first, last):
          end = found.end()
        after = self._stops.match(self._text, last)
        end = after.end() if after and end is None else end
      out.append((first, last if end is None else end))
    return out

  def _by_beginnings(self, prompt: int) -> list[tuple[int, int]]:
    """Turns of which the text is as it is when the model has just spoken."""
    out, told = [], ''
    for i, message in enumerate(self._messages):
      if i < prompt or not counts(message):
        continue
      try:
        out.append(self._turn(i))
      except ValueError as error:
        self.left_out.add(i)
        told = str(error)
    if told and not out:
      raise ValueError(told)
    return out

  def _turn(self, i: int) -> tuple[int, int]:
    """The place of turn i, from where a model is asked to its stop token."""
    asked = self._write(self._messages[:i], prompt=True).text
    last = i + 1 == len(self._messages)
    said = self._text if last else self._write(self._messages[: i + 1]).text
    if not said.startswith(asked):
      raise ValueError(
        f'turn {i}: the chat template writes what stands before an answer '
        'otherwise once it is given: what would be trained is not what a model '
        'is asked'
      )
    end = self._stop(said, len(asked))
    if end is None:
      raise ValueError(
        f'turn {i}: the chat template ends it with no stop token: a model that '
        'is trained on it would not stop'
      )
    if not self._text.startswith(said[:end]):
      raise ValueError(
        f'turn {i}: the chat template writes it otherwise once more is said'
      )
    if self._rest and self._text.startswith(said):
      end = len(said)
    return len(asked), end


def marked(
  places: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> list[float]:
  """1.0 for each token that reaches into a span; both are in order."""
  mask = [0.0] * len(places)
  firsts, lasts = [a for a, _ in places], [b for _, b in places]
  for start, end in spans:
    low = bisect.bisect_right(lasts, start)
    high = bisect.bisect_left(firsts, end)
    mask[low:high] = [1.0] * (high - low)
  return mask
