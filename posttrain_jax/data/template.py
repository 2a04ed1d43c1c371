"""A model folder's own Jinja chat template, rendered as transformers does.

  template = Template(sources(folder), {'eos_token': '</s>'}, folder)
  text, spans = template.render([{'role': 'user', 'content': 'Hi'}])

What a template may use: the messages, `tools`, `add_generation_prompt`, the
special tokens by name, further variables of a record; the filter `tojson` that
escapes nothing, `raise_exception`, `strftime_now`, `{% break %}`, and blocks of
`{% generation %}`, whose places in the text are the spans. It runs in Jinja2's
sandbox, and sees plain data only: templates come from strangers.

Reference: the documentation of transformers, "Chat templates".
"""

import contextvars
import datetime
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2 import ext, meta, nodes, sandbox

from posttrain_jax.core.resolve import nearest

__all__ = ['FILE', 'FOLDER', 'NAMED', 'REASONING', 'Template', 'Text', 'plain',
           'sources']  # fmt: skip

FILE = 'chat_template.jinja'
FOLDER = 'additional_chat_templates'
# The special tokens that a template sees, as variables.
NAMED = tuple(
  f'{name}_token' for name in ('bos', 'eos', 'unk', 'sep', 'pad', 'cls', 'mask')
)
# What a message's reasoning is called; templates read the first or the second.
REASONING = ('reasoning_content', 'thinking', 'reasoning')
# Variables that the record's own may not replace.
RESERVED = ('messages', 'tools', 'add_generation_prompt')

# Characters or items that a template may make of one of them by a product.
LONGEST = 10**6

_spans: contextvars.ContextVar = contextvars.ContextVar('spans', default=None)


class Text(NamedTuple):
  """A rendered conversation.

  text   all of it
  spans  [(start, end)] in characters of what `{% generation %}` blocks wrote
  """

  text: str
  spans: list[tuple[int, int]]


class _Generation(ext.Extension):
  """`{% generation %} ... {% endgeneration %}`: notes where its text stands."""

  tags = {'generation'}

  def parse(self, parser: Any) -> nodes.Node:
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    call = nodes.CallBlock(self.call_method('_note'), [], [], body)
    return call.set_lineno(line)

  def _note(self, caller: Any) -> str:
    text = caller()
    noted = _spans.get()
    if noted is not None:
      written, spans = noted
      start = sum(map(len, written))
      spans.append((start, start + len(text), text))
    return text


def _refuse(message: Any) -> None:
  raise jinja2.TemplateError(str(message))


def _to_json(
  value: Any,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  # Jinja's own filter escapes what HTML would trip over.
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


def _now() -> datetime.datetime:
  return datetime.datetime.now()


class _Sandbox(sandbox.ImmutableSandboxedEnvironment):
  """Refuses products that make a text or a list long, which would hang."""

  intercepted_binops = frozenset(['*', '**'])

  def call_binop(
    self, context: Any, operator: str, left: Any, right: Any
  ) -> Any:
    sizes = [len(x) for x in (left, right) if isinstance(x, str | list | tuple)]
    times = [abs(x) for x in (left, right) if isinstance(x, int)]
    long = sizes and times and sizes[0] * times[0] > LONGEST
    if long or (operator == '**' and max(times, default=0) > LONGEST):
      raise jinja2.TemplateError(f'a result of more than {LONGEST:,} parts')
    return super().call_binop(context, operator, left, right)


@functools.lru_cache(1)
def _environment() -> jinja2.Environment:
  made = _Sandbox(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, ext.loopcontrols],
  )
  made.filters['tojson'] = _to_json
  made.globals['raise_exception'] = _refuse
  made.globals['strftime_now'] = lambda form: _now().strftime(form)
  return made


def plain(value: Any) -> Any:
  """A copy made of what JSON has: nothing in it has methods of its own."""
  if value is None or type(value) in (str, int, float, bool):
    return value
  if isinstance(value, Mapping):
    return {plain(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if hasattr(value, 'tolist'):  # of numpy
    return plain(value.tolist())
  for kind in (str, int, float):  # a class of somebody's own
    if isinstance(value, kind):
      return kind(value)
  raise ValueError(f'a value of type {type(value).__name__} is no JSON')


def _message(message: Mapping) -> dict[str, Any]:
  """A message as templates see it: no nulls, its reasoning by every name."""
  out = {k: plain(v) for k, v in message.items() if v is not None}
  found = next((out[name] for name in REASONING if name in out), None)
  if found is not None:
    out.setdefault('thinking', found)
    out['reasoning_content'] = found
  return out


def _mentioned(source: str) -> tuple[set[str], set[str], set[str]]:
  """(variables, those that it does not set, keys and texts) of a template."""
  tree = _environment().parse(source)
  names = {node.attr for node in tree.find_all(nodes.Getattr)}
  constants = (node.value for node in tree.find_all(nodes.Const))
  names |= {value for value in constants if isinstance(value, str)}
  variables = {node.name for node in tree.find_all(nodes.Name)}
  return variables, meta.find_undeclared_variables(tree), names


def _draws(source: str) -> bool:
  """Whether a template writes what is drawn at random."""
  tree = _environment().parse(source)
  filters = {node.name for node in tree.find_all(nodes.Filter)}
  names = {node.name for node in tree.find_all(nodes.Name)}
  return 'random' in filters or 'lipsum' in names


class Template:
  """The chat template of a model folder: one, or several by name.

  sources    {name: Jinja source}; 'default' is used, and 'tool_use' where
             tools are given
  variables  {name: text} of special tokens
  where      the folder, for errors

  Raises:
    ValueError: no source to use, or one that is no Jinja template: with its
      line.
  """

  def __init__(
    self,
    sources: Mapping[str, str],
    variables: Mapping[str, str],
    where: str = 'chat template',
  ):
    self.sources, self.variables = dict(sources), dict(variables)
    self.where = where
    if 'default' not in self.sources:
      names = ', '.join(sorted(self.sources))
      raise ValueError(
        f'{where}: chat templates {names}, and none is named "default"'
      )
    self._compiled: dict[str, jinja2.Template] = {}
    self._variables: set[str] = set()
    self._free: set[str] = set()
    self._names: set[str] = set()
    self.heard: set[str] = set()  # what is known to be written
    for name, source in self.sources.items():
      try:
        self._compiled[name] = _environment().from_string(source)
        variables, free, names = _mentioned(source)
      except jinja2.TemplateSyntaxError as error:
        raise ValueError(
          f'{where}: chat template "{name}", line {error.lineno}: '
          f'{error.message}'
        ) from None
      if _draws(source):
        raise ValueError(
          f'{where}: chat template "{name}" draws at random: no text would be '
          'written twice alike'
        )
      self._variables |= variables
      self._free |= free - set(_environment().globals)
      self._names |= names

  def _name(self, tools: Any) -> str:
    return 'tool_use' if tools and 'tool_use' in self.sources else 'default'

  def reads(self, *keys: str) -> bool:
    """Whether it ever mentions one of these keys of messages.

    A template that does not drops what stands there without a word.
    """
    return not self._names.isdisjoint(keys)

  def reads_variable(self, name: str) -> bool:
    """Whether it ever mentions a variable."""
    return name in self._variables

  @property
  def dated(self) -> bool:
    """Whether it may write the day on which it is rendered."""
    return self.reads_variable('strftime_now')

  def check_variables(self, given: Mapping[str, Any]) -> None:
    """Raises ValueError at a variable that it would not read."""
    for name, value in given.items():
      if name in RESERVED:
        raise ValueError(f'"{name}" is set by the record\'s own columns')
      if value is not None and name not in self._variables:
        others = sorted(self._free - {*RESERVED, *NAMED})
        raise ValueError(
          f'"{name}" is not read by the chat template.{nearest(name, others)}'
        )

  def render(
    self,
    messages: Sequence[Mapping],
    *,
    tools: Sequence[Mapping] | None = None,
    prompt: bool = False,
    variables: Mapping[str, Any] | None = None,
  ) -> Text:
    """The text of a conversation.

    prompt     whether what precedes an answer is written after it
    variables  more of them, as a record's `chat_template_kwargs`

    Raises:
      ValueError: what the template says of messages that it refuses, or what
        went wrong inside of it.
    """
    given = {k: plain(v) for k, v in (variables or {}).items() if v is not None}
    seen = {
      **self.variables,
      'documents': None,
      **given,
      'messages': [_message(message) for message in messages],
      'tools': plain(tools),
      'add_generation_prompt': prompt,
    }
    written: list[str] = []
    spans: list[tuple[int, int, str]] = []
    token = _spans.set((written, spans))
    try:
      for piece in self._compiled[self._name(tools)].generate(seen):
        written.append(piece)
    except jinja2.TemplateError as error:
      none = '' if messages else 'there is no turn, and '
      raise ValueError(
        f'{none}the chat template says: {error.message}'
      ) from None
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
      # What its own code ran into, as text + list.
      raise ValueError(
        f'the chat template cannot write it: {type(error).__name__}: {error}'
      ) from None
    finally:
      _spans.reset(token)
    text = ''.join(written)
    if any(text[start:end] != said for start, end, said in spans):
      raise ValueError(
        "the chat template's generation blocks stand inside of macros: where "
        'their text ends up cannot be told'
      )
    return Text(text, [(start, end) for start, end, _ in spans])


def _named(content: Any, where: str) -> Iterator[tuple[str, str]]:
  """(name, source) of the value of "chat_template" in tokenizer_config.json."""
  if isinstance(content, str):
    yield 'default', content
    return
  entries = content if isinstance(content, list) else None
  for entry in entries or ():
    if not isinstance(entry, dict) or {'name', 'template'} - set(entry):
      entries = None
      break
    yield str(entry['name']), str(entry['template'])
  if entries is None:
    raise ValueError(
      f'{where}: "chat_template" is neither a text nor a list of {{name, '
      'template}'
    )


def sources(folder: str | os.PathLike, config: Mapping) -> dict[str, str]:
  """{name: Jinja source} of a model folder; none where it has no template.

  config  of its tokenizer_config.json, whose templates files replace

  Raises:
    ValueError: "chat_template" of the config is of no kind that is known.
  """
  folder = Path(folder)
  found = {}
  if (folder / FILE).is_file():
    found['default'] = (folder / FILE).read_text(encoding='utf-8')
  for file in sorted((folder / FOLDER).glob('*.jinja')):
    found[file.stem] = file.read_text(encoding='utf-8')
  if not found and config.get('chat_template'):
    where = str(folder / 'tokenizer_config.json')
    found = dict(_named(config['chat_template'], where))
  return found
