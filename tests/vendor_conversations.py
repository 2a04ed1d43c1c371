"""More conversations for chat templates, in what vendors' templates differ.

Those of `chat_folders` are among them. Reasoning is there under both of the
names that templates read, as our reader gives it to them.
"""

import chat_folders
from chat_folders import (
  AGAIN,
  ASK,
  CALL,
  CALLED,
  MORE,
  SYSTEM,
  TELL,
  TOOLS,
  say,
)

__all__ = ['ALL', 'as_read']

RICH = {
  'type': 'function',
  'function': {
    'name': 'book',
    'description': 'Books a "table" <now> & here',
    'parameters': {
      'type': 'object',
      'properties': {
        'at': {'type': 'string', 'description': 'When', 'default': 'now'},
        'how': {'type': 'string', 'enum': ['in', 'out'], 'default': 'in'},
        'who': {'type': 'array', 'items': {'type': 'string'}},
        'seats': {
          'type': 'array',
          'nullable': True,
          'items': {
            'type': 'object',
            'properties': {'row': {'type': 'integer'}},
            'required': ['row'],
          },
        },
        'price': {'type': 'number', 'nullable': True, 'default': 1.5},
        'loud': {'type': 'boolean', 'default': False},
        'any': {'anyOf': [{'type': 'string'}, {'type': 'null'}]},
        'one': {
          'oneOf': [
            {'type': 'string', 'description': 'a', 'default': 'x'},
            {'type': 'number'},
          ]
        },
        'several': {'type': ['string', 'null']},
        'inner': {
          'type': 'object',
          'properties': {
            'a': {'type': 'string'},
            'b': {'type': 'object', 'properties': {}},
          },
          'required': ['a'],
        },
        'bare': {'type': 'object'},
        'nothing': {},
      },
      'required': ['at', 'who'],
      'additionalProperties': False,
    },
    'return': {'type': 'string', 'description': 'a number'},
  },
}
NO_PARAMETERS = {
  'type': 'function',
  'function': {
    'name': 'now',
    'description': 'The time',
    'parameters': {'type': 'object', 'properties': {}},
  },
}


def _call(name: str, arguments, id_: str) -> dict:
  function = {'name': name, 'arguments': arguments}
  return {'id': id_, 'type': 'function', 'function': function}


def _answer(content, id_: str = 'call00001', name: str = 'weather') -> dict:
  return say('tool', content, name=name, tool_call_id=id_)


def _thought(content: str, thought: str = 'Hm.\nYes.', **more) -> dict:
  return say('assistant', content, thinking=thought,
             reasoning_content=thought, **more)  # fmt: skip


ODD = {
  'none': None, 'yes': True, 'x': 1.5, 'big': 10**12, 'list': [1, [2, 'é']],
  'map': {'b': 1, 'a': {}}, 'text': 'two\nlines "quoted" <b> \\ \t', '': '',
}  # fmt: skip
OTHER = _call('now', {}, 'call00002')
ASKED = CALLED[0]
PARTS = lambda *texts: [{'type': 'text', 'text': text} for text in texts]
SECOND = [
  say('assistant', '', tool_calls=[_call('weather', ODD, 'call00003')]),
  _answer('-3', 'call00003'),
]
_MORE = {
  'calls at once': {
    'messages': [
      ASKED,
      say('assistant', '', tool_calls=[CALL, OTHER]),
      _answer('{"wind": 5}'),
      _answer('12:00', 'call00002', 'now'),
      TELL,
    ],
    'tools': [*TOOLS, NO_PARAMETERS],
  },
  'text and call': {
    'messages': [
      ASKED, say('assistant', 'Let me see.', tool_calls=[CALL]), *CALLED[2:],
    ],
    'tools': TOOLS,
  },
  'call, content null': {
    'messages': [
      ASKED, say('assistant', None, tool_calls=[CALL]), *CALLED[2:]
    ],
    'tools': TOOLS,
  },
  'call, no content': {
    'messages': [
      ASKED, {'role': 'assistant', 'tool_calls': [CALL]}, *CALLED[2:]
    ],
    'tools': TOOLS,
  },
  'thought and call': {
    'messages': [
      ASKED, _thought('', tool_calls=[CALL]), CALLED[2], _thought('Windy.'),
    ],
    'tools': TOOLS,
  },
  'thought, call asked': {
    'messages': [ASKED, _thought('', tool_calls=[CALL]), CALLED[2]],
    'tools': TOOLS,
  },
  'rounds of calls': {
    'messages': [SYSTEM, *CALLED[:3], *SECOND, TELL, AGAIN, MORE],
    'tools': TOOLS,
  },
  'rounds, then asked': {
    'messages': [*CALLED[:3], *SECOND, TELL, AGAIN], 'tools': TOOLS,
  },
  'system and tools': {'messages': [SYSTEM, ASK, TELL], 'tools': TOOLS},
  'developer and tools': {
    'messages': [say('developer', 'Be brief.'), *CALLED], 'tools': TOOLS,
  },
  'rich tools': {'messages': [ASK, TELL], 'tools': [RICH, NO_PARAMETERS]},
  'tools, multi': {'messages': [ASK, TELL, AGAIN, MORE], 'tools': TOOLS},
  'no tools': {'messages': [ASK, TELL], 'tools': []},
  'call without tools': {'messages': CALLED},
  'odd arguments': {'messages': [ASKED, *SECOND, TELL], 'tools': TOOLS},
  'arguments in text': {
    'messages': [
      ASKED,
      say('assistant', '', tool_calls=[
        _call('weather', '{"city": "Paris <é>"}', 'call00001')]),
      *CALLED[2:],
    ],
    'tools': TOOLS,
  },
  'answer in parts': {
    'messages': [*CALLED[:2], _answer(PARTS('5 ', 'm/s')), CALLED[3]],
    'tools': TOOLS,
  },
  'parts of all': {
    'messages': [
      say('system', PARTS('Be ', 'brief.')), say('user', PARTS('One', ' two?')),
      say('assistant', PARTS('It is', ' 4.')),
    ]
  },
  'parts of a system': {
    'messages': [say('system', PARTS('Be brief.')), ASK, TELL]
  },
  'parts, one': {
    'messages': [
      say('user', PARTS('One?')), say('assistant', PARTS('It is 4.')),
    ]
  },
  'thoughts': {'messages': [ASK, _thought('It is 4.'), AGAIN, _thought('6.')]},
  'thoughts, asked': {'messages': [SYSTEM, ASK, _thought('It is 4.'), AGAIN]},
  'no thought': {'messages': [ASK, _thought('It is 4.', '')]},
  'thought, spaces': {'messages': [ASK, _thought('\n\n 4. \n', '\n Hm. \n\n')]},
  'thoughts in text': {'messages': [
    ASK, say('assistant', '<think>\nHm.\n</think>\n\nIt is 4.'),
    AGAIN, say('assistant', '<think>Three.</think>6.'),
  ]},
  'thought unopened': {
    'messages': [ASK, say('assistant', 'Hm.\n</think>\n\nIt is 4.')]
  },
  'thought unclosed': {
    'messages': [ASK, say('assistant', '<think>\nIt is 4.')]
  },
  'says a tag': {
    'messages': [say('user', 'What is </think> and <tool_response>?'), TELL]
  },
  'thinking on': {
    'messages': [ASK, TELL], 'variables': {'enable_thinking': True},
  },
  'thinking off, multi': {
    'messages': [SYSTEM, ASK, TELL, AGAIN],
    'variables': {'enable_thinking': False},
  },
  'thinking kept': {
    'messages': [ASK, _thought('It is 4.'), AGAIN, MORE],
    'variables': {'preserve_thinking': True},
  },
  'thinking not kept': {
    'messages': [ASK, _thought('It is 4.'), AGAIN, MORE],
    'variables': {'preserve_thinking': False},
  },
  'effort, low': {
    'messages': [SYSTEM, ASK, TELL], 'variables': {'reasoning_effort': 'low'},
  },
  'identity': {
    'messages': [ASK, TELL],
    'variables': {'model_identity': 'You are I.',
                  'builtin_tools': ['browser', 'python']},
  },
  'documents': {
    'messages': [ASK, TELL],
    'variables': {'documents': [{'doc_id': 1, 'title': 'a', 'text': 'b'}]},
  },
  'modes in a system': {
    'messages': [say('system', 'Be brief. /no_think '), ASK, TELL, AGAIN]
  },
  'empty answer': {'messages': [ASK, say('assistant', ''), AGAIN, MORE]},
  'empty system': {'messages': [say('system', ''), ASK, TELL]},
  'blank system': {'messages': [say('system', ' \n'), ASK, TELL]},
  'system later': {'messages': [ASK, TELL, SYSTEM, AGAIN, MORE]},
  'system alone': {'messages': [SYSTEM]},
  'systems': {'messages': [SYSTEM, say('system', 'And kind.'), ASK, TELL]},
  'code': {
    'messages': [
      say('user', "{{ 7 * 7 }} {% if x %} {# no #} <b> & 'q' \"q\" \\n"),
      say('assistant', '```\n{"a": {"b": [1]}}\n```\n'),
    ]
  },
  'lines': {'messages': [say('user', '\r\na\rb\x0b\u2028c'), TELL]},
  'names': {'messages': [say('user', 'Hi', name='Ann'), TELL]},
}  # fmt: skip
ALL = {**chat_folders.CONVERSATIONS, **_MORE}


def as_read(messages: list[dict]) -> list[dict]:
  """Messages with their reasoning under each name that templates read."""
  out = []
  for message in messages:
    thought = message.get('reasoning_content')
    more = {} if thought is None else {'thinking': thought}
    out.append({**message, **more})
  return out
