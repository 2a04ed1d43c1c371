"""How turns are written where a folder does not say it.

A tokenizer with a vocabulary of its own gets ChatML where it has its markers,
else lines of '<|role|>' that end with the EOS. The tasks' characters and bytes
have no special tokens in text: a turn of theirs is `opening(role) + content +
EOS + newline`, encoded piece by piece.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from posttrain_jax.data.chat.checks import counts
from posttrain_jax.data.stops import CHATML
from posttrain_jax.data.template import Template
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['Turns', 'from_pieces', 'opening', 'our_stop', 'stop_id', 'template',
           'template_of']  # fmt: skip


class Turns(NamedTuple):
  """A conversation's tokens.

  mask   1.0 on what is trained
  start  index of the first token after the prompt
  notes  of the keys of `answers.TOLD`
  """

  tokens: list[int]
  mask: list[float]
  start: int = 0
  notes: tuple[str, ...] = ()


def _is_chatml(tokenizer: Tokenizer) -> bool:
  return all(tokenizer.special_id(name) is not None for name in CHATML)


def our_stop(tokenizer: Tokenizer) -> int:
  """The token that ends a turn of our own template."""
  if _is_chatml(tokenizer):
    found = tokenizer.special_id('<|im_end|>')
    assert found is not None
    return found
  return tokenizer.eos_id


def stop_id(tokenizer: Tokenizer) -> int:
  """The token that ends a turn, where generation has to stop."""
  if tokenizer.template is not None:
    return tokenizer.stops[0]
  return our_stop(tokenizer)


def template(tokenizer: Tokenizer) -> str:
  """The chat template of a folder that has none, as Jinja source.

  ChatML where the tokenizer has its markers, else lines of '<|role|>' that end
  with the EOS.
  """
  opened, stop = "'<|' + m['role'] + '|>\\n'", 'eos_token'
  prompt = "'<|assistant|>\\n'"
  if _is_chatml(tokenizer):
    opened = "'<|im_start|>' + m['role'] + '\\n'"
    prompt = "'<|im_start|>assistant\\n'"
    stop = "'<|im_end|>'"
  bos = '{{ bos_token }}' if tokenizer.add_bos else ''
  return (
    f"{bos}{{% for m in messages %}}{{{{ {opened} + m['content'] + {stop} "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}"
    f'{{{{ {prompt} }}}}{{% endif %}}'
  )


@functools.lru_cache(16)
def _ours(source: str, eos: str, bos: str) -> Template:
  return Template({'default': source}, {'eos_token': eos, 'bos_token': bos})


def template_of(tokenizer: Tokenizer) -> Template | None:
  """What writes a conversation; None: it is put together from pieces."""
  if tokenizer.template is not None or not tokenizer.special_names:
    return tokenizer.template
  names = {'eos_id': '', 'bos_id': ''}
  for key in names:
    token = getattr(tokenizer, key)
    names[key] = '' if token is None else tokenizer.name(token)
  if names['eos_id'] not in tokenizer.special_names:
    return None
  return _ours(template(tokenizer), names['eos_id'], names['bos_id'])


def opening(role: str, tokenizer: Tokenizer) -> list[int]:
  if _is_chatml(tokenizer):
    start = tokenizer.special_id('<|im_start|>')
    assert start is not None
    return [start, *tokenizer.encode(f'{role}\n')]
  return tokenizer.encode(f'<|{role}|>\n')


def _bos(tokenizer: Tokenizer) -> list[int]:
  return [tokenizer.bos_id] if tokenizer.add_bos else []  # type: ignore


def from_pieces(
  messages: Sequence[Mapping], tokenizer: Tokenizer, prompt: int
) -> Turns:
  tokens, newline = _bos(tokenizer), tokenizer.encode('\n')
  mask, start = [0.0] * len(tokens), 0
  for i, message in enumerate(messages):
    begins = opening(message['role'], tokenizer)
    said = [*tokenizer.encode(message['content']), stop_id(tokenizer)]
    weight = float(i >= prompt and counts(message))
    if i == prompt:
      start = len(tokens) + len(begins)
    tokens += begins + said + newline
    mask += [0.0] * len(begins) + [weight] * len(said) + [0.0] * len(newline)
  return Turns(tokens, mask, start if prompt else 0)
