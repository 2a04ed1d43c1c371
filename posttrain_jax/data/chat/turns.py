"""A checked conversation becomes tokens and their mask.

A tokenizer that a folder brings is given the whole text at once: it may join
characters over the borders of turns. Every token that reaches into a place
that is trained is trained.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain_jax.data.chat.answers import (
  ADDED,
  CHANGED,
  MERGED,
  MISQUOTED,
  REWRITTEN,
  UNOPENED,
  Answers,
  Writer,
  marked,
)
from posttrain_jax.data.chat.asking import check_opens, unopened
from posttrain_jax.data.chat.checks import TRAINED, counts, texts_of
from posttrain_jax.data.chat.kept import adds, changes, misquotes
from posttrain_jax.data.chat.ours import (
  Turns,
  from_pieces,
  opening,
  stop_id,
  template_of,
)
from posttrain_jax.data.chat.special import check_special
from posttrain_jax.data.quoting import quoted
from posttrain_jax.data.stops import SAID
from posttrain_jax.data.template import Template
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = [
  'check_said', 'common_start', 'prompt_tokens', 'prompted', 'render',
]  # fmt: skip

# What templates take a text apart at.
_TAG = re.compile(r'</?\w+>')


def common_start(first: Sequence[int], second: Sequence[int]) -> int:
  """How many tokens two sequences share from their beginnings on."""
  size = min(len(first), len(second))
  differs = (i for i in range(size) if first[i] != second[i])
  return next(differs, size)


def _writer(
  found: Template, tools: Any, variables: Mapping[str, Any] | None
) -> Writer:
  def write(messages: Sequence[Mapping], prompt: bool = False):
    said = [
      {k: v for k, v in message.items() if k not in TRAINED}
      for message in messages
    ]
    return found.render(said, tools=tools, prompt=prompt, variables=variables)

  return write


def check_said(
  write: Writer,
  messages: Sequence[Mapping],
  text: str,
  heard: set[str] | None = None,
) -> None:
  """Raises ValueError at a turn of which nothing stands in `text`; at a tool
  call that does not; and where a part of an answer does not.

  A text that is not there as it is may have been changed by the template, or
  dropped: in the latter case, another text in its place changes nothing.

  heard  roles that the template is known to write, and kinds of calls; grows
  """
  heard = set() if heard is None else heard
  for i, message in enumerate(messages):
    for j, said in enumerate(texts_of(message)):
      # The first of a role is tried, whatever else says the same.
      known = message['role'] in heard and said.strip() in text
      if not said.strip() or known:
        continue
      if _without_effect(write, messages, i, j, text):
        raise ValueError(
          f'turn {i}: the chat template drops what role "{message["role"]}" '
          'says here'
        )
      heard.add(message['role'])
    _check_calls(write, messages, i, text, heard)
    name = message.get('name')
    if name and message['role'] != 'tool':
      others = list(messages)
      others[i] = {k: v for k, v in message.items() if k != 'name'}
      if write(others).text == text:
        raise ValueError(f'turn {i}: the chat template drops its "name"')
    if message['role'] == 'assistant' and counts(message):
      _check_whole(write, messages[: i + 1], text)


def _check_calls(
  write: Writer,
  messages: Sequence[Mapping],
  i: int,
  text: str,
  heard: set[str],
) -> None:
  """Raises ValueError at a call of turn i that the template drops: the second
  of a turn, or one that has a text beside it."""
  calls = messages[i].get('tool_calls') or ()
  spoken = bool(''.join(texts_of(messages[i])).strip())
  kind = f'calls, {min(len(calls), 2)}, {spoken}'
  for j, call in enumerate(calls):
    function = call.get('function', call)
    _check_arguments(function.get('arguments'), i, text)
    if kind in heard:
      continue
    other = {**function, 'name': function['name'] + SAID}
    changed = {**call, 'function': other} if 'function' in call else other
    others = [*calls[:j], changed, *calls[j + 1 :]]
    if _same(write, messages, i, {'tool_calls': others}, text):
      raise ValueError(
        f'turn {i}: the chat template drops its tool call {j + 1} of '
        f'{len(calls)}, of "{function["name"]}"'
      )
  if calls:
    heard.add(kind)


def _check_whole(write: Writer, messages: Sequence[Mapping], text: str) -> None:
  """Raises ValueError where a part of an answer is left out when it is given,
  as reasoning between tags is by templates that drop it of every turn.

  messages  up to the answer; `text` may hold more
  """
  last = len(messages) - 1
  for j, said in enumerate(texts_of(messages[last])):
    if said.strip() in text:
      continue
    text, at = write(messages).text, 0
    for tag in (*_TAG.finditer(said), None):
      end = tag.start() if tag else len(said)
      piece = said[at:end].strip()
      if piece and piece not in text:
        changed = said[:end] + SAID + said[end:]
        if _without_effect(write, messages, last, j, text, changed):
          raise ValueError(
            f'turn {last}: the chat template drops a part of the answer, '
            + quoted(piece)
          )
      at = tag.end() if tag else end


def _check_arguments(arguments: Any, i: int, text: str) -> None:
  """OpenAI's API has them as JSON in a text, and templates as an object."""
  if not isinstance(arguments, str) or arguments in text:
    return
  if json.dumps(arguments, ensure_ascii=False) in text:
    raise ValueError(
      f'turn {i}: the "arguments" of a tool call are a text, which the chat '
      'template writes as a quoted string; give the object that it holds'
    )


def _without_effect(
  write: Writer,
  messages: Sequence[Mapping],
  i: int,
  j: int,
  text: str,
  said: str | None = None,
) -> bool:
  """Whether part j of turn i may say anything, and the text stays the same.

  said  what it says then; None: more than it does
  """
  content = messages[i]['content']
  if isinstance(content, str):
    changed: Any = content + SAID if said is None else said
  else:
    changed = [dict(part) for part in content]
    changed[j]['text'] = changed[j]['text'] + SAID if said is None else said
  return _same(write, messages, i, {'content': changed}, text)


def _same(
  write: Writer,
  messages: Sequence[Mapping],
  i: int,
  changed: Mapping[str, Any],
  text: str,
) -> bool:
  """Whether the text stays the same if keys of turn i are changed."""
  others = [*messages[:i], {**messages[i], **changed}, *messages[i + 1 :]]
  try:
    return write(others).text == text
  except ValueError:
    return False


def _from_template(
  found: Template,
  messages: Sequence[Mapping],
  tokenizer: Tokenizer,
  prompt: int,
  tools: Any,
  variables: Mapping[str, Any] | None,
) -> Turns:
  check_special([messages, tools, dict(variables or {})], tokenizer)
  write = _writer(found, tools, variables)
  whole = write(messages)
  check_said(write, messages, whole.text, found.heard)
  asked = write(messages[:prompt], prompt=True).text if prompt else ''
  if not whole.text.startswith(asked):
    raise ValueError(
      'the chat template writes the prompt otherwise once it is answered: what '
      'would be trained is not what a model is asked'
    )
  names = (tokenizer.name(i) for i in {*tokenizer.stops, stop_id(tokenizer)})
  stops = frozenset(names) & tokenizer.special_names
  after_stop = getattr(tokenizer, 'after_stop', False)
  answers = Answers(write, messages, whole, stops, after_stop)
  spans = answers.spans(prompt, len(asked))
  tokens, places = tokenizer.read(whole.text)
  mask = marked(places, spans)
  before = tokenizer.read(asked)[0] if prompt else []
  start = common_start(before, tokens)
  notes = [REWRITTEN] * bool(answers.left_out)
  trained = [
    message
    for i, message in enumerate(messages)
    if i >= prompt and i not in answers.left_out and counts(message)
  ]
  said = [whole.text[first:last] for first, last in spans]
  notes += [CHANGED] * changes(trained, said)
  notes += [ADDED] * adds(trained, said, tokenizer.special_names)
  notes += [MISQUOTED] * misquotes(messages, whole.text)
  notes += [UNOPENED] * bool(unopened(found, bool(tools)))
  if start < len(before):
    notes.append(MERGED)
    if spans and spans[0][0] == len(asked):
      mask[start : mask.index(1.0)] = [1.0] * (mask.index(1.0) - start)
  return Turns(tokens, mask, start, tuple(notes))


def render(
  messages: Sequence[Mapping],
  tokenizer: Tokenizer,
  *,
  prompt: int = 0,
  tools: Sequence[Mapping] | None = None,
  variables: Mapping[str, Any] | None = None,
) -> Turns:
  """The tokens of checked messages, with BOS where the model expects one.

  prompt     turns at the beginning that are not trained, whatever they say
  tools      that the assistant may call, as JSON schemas
  variables  more of the template's variables

  Raises:
    ValueError: what the template refuses or would drop, a turn that cannot be
      placed exactly, or text that names a special token.
  """
  found = template_of(tokenizer)
  if found is None:
    return from_pieces(messages, tokenizer, prompt)
  return _from_template(found, messages, tokenizer, prompt, tools, variables)


def prompted(
  tokenizer: Tokenizer,
  messages: Sequence[Mapping],
  *,
  tools: Sequence[Mapping] | None = None,
  variables: Mapping[str, Any] | None = None,
) -> Turns:
  """What a model is asked with: the messages, and how an answer begins.

  Nothing of it is trained.

  Raises:
    ValueError: as `render`.
  """
  found = template_of(tokenizer)
  if found is None:
    tokens = from_pieces(messages, tokenizer, len(messages)).tokens
    tokens = tokens + opening('assistant', tokenizer)
    return Turns(tokens, [0.0] * len(tokens), len(tokens))
  check_special([messages, tools, dict(variables or {})], tokenizer)
  check_opens(found, bool(tools))
  write = functools.partial(_writer(found, tools, variables), prompt=True)
  text = write(messages).text
  check_said(write, messages, text, found.heard)
  tokens = tokenizer.read(text)[0]
  told = (MISQUOTED,) * misquotes(messages, text)
  return Turns(tokens, [0.0] * len(tokens), len(tokens), told)


def prompt_tokens(
  tokenizer: Tokenizer, messages: Sequence[Mapping], **options: Any
) -> list[int]:
  """The tokens of `prompted`."""
  return prompted(tokenizer, messages, **options).tokens
