"""Whether a chat template opens the assistant's turn after a prompt.

`add_generation_prompt` asks a template for what precedes an answer. One that
does not use it is right where it writes nothing there, as `[INST] .. [/INST]`;
where it writes a header before each answer of a conversation, a model that is
asked without it would go on with the user's turn. An empty thought is no such
header: a model writes it, as it does any other.
"""

import functools
import json
import os

from posttrain_jax.data.chat.thoughts import TAG, outside
from posttrain_jax.data.quoting import quoted
from posttrain_jax.data.stops import TOOL
from posttrain_jax.data.template import Template

__all__ = ['check_opens', 'unopened']

# Texts that stand nowhere in a template. Some write others than they are given.
ASKED, SAID = 'askedq7x', 'saidq8x'


def _after(text: str, what: str) -> str | None:
  """What stands after the last place of a text, in whatever case."""
  at = text.lower().rfind(what)
  return None if at < 0 else text[at + len(what) :]


@functools.lru_cache(64)
def unopened(found: Template, tools: bool = False) -> str:
  """What a template writes before an answer, and not after a prompt whose
  answer is asked for; '': it opens the turn, or there is nothing to write.

  tools  whether it is the template of conversations with tools
  """
  asked = {'role': 'user', 'content': ASKED}
  answer = {'role': 'assistant', 'content': SAID}
  write = functools.partial(found.render, tools=[TOOL] if tools else None)
  try:
    prompts = [write([asked], prompt=prompt).text for prompt in (False, True)]
    whole = write([asked, answer]).text
  except ValueError:  # what it can be asked with, a record shows
    return ''
  if prompts[0] != prompts[1]:
    return ''
  ends = _after(prompts[1], ASKED)
  at = whole.lower().rfind(SAID)
  between = None if at < 0 else _after(whole[:at], ASKED)
  if ends is None or between is None:
    return ''
  # What ends a prompt may end each turn, or all of a conversation.
  shared = os.path.commonprefix([ends, between])
  if shared != ends:  # up to where a token of the two ends
    shared = shared[: 1 + max(shared.rfind(last) for last in '>]\n')]
  header = between[len(shared) :]
  if not ''.join(outside(header)).strip():
    return ''
  before = TAG.split(header, 1)[0]
  return before if before.strip() else header


def check_opens(found: Template, tools: bool = False) -> None:
  """Raises ValueError where nothing opens the turn that a model is to write."""
  header = unopened(found, tools)
  if not header:
    return
  # To be pasted: it is whole, however long, and half a character an escape.
  text = json.dumps(header, ensure_ascii=False)
  text = text.encode('utf-8', 'backslashreplace').decode()
  block = '{% if add_generation_prompt %}{{ ' + text + ' }}{% endif %}'
  raise ValueError(
    f'the chat template of {found.where} does not use add_generation_prompt: a '
    f'prompt would end without {quoted(header)}, which stands before each '
    'answer of a conversation, and a model would go on with what the user '
    f'says; write {block} at its end'
  )
