"""Chat templates of model folders: token ids of transformers, masks by hand."""

import datetime
import functools
import json
import tempfile
from pathlib import Path

import chat_folders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain_jax.data import chat, formats, tokenizers
from posttrain_jax.data import template as templates

STYLES = sorted(chat_folders.STYLES)
EXPECTED = json.loads(chat_folders.EXPECTED.read_text())
CONVERSATIONS = chat_folders.CONVERSATIONS
ASK, TELL = chat_folders.ASK, chat_folders.TELL
HELPFUL = 'You are Small, a helpful assistant.'


@pytest.fixture(autouse=True)
def day(monkeypatch):
  now = datetime.datetime(*chat_folders.DAY)
  monkeypatch.setattr(templates, '_now', lambda: now)


@pytest.fixture(scope='module')
def load(tmp_path_factory):
  """(style, special_text='refuse') -> its tokenizer."""

  @functools.cache
  def folder(style):
    return chat_folders.make(style, tmp_path_factory.mktemp(style))

  return functools.cache(
    lambda style, *more: tokenizers.load(folder(style), *more)
  )


TOOLS = {name for name, c in CONVERSATIONS.items() if 'tools' in c}
THOUGHTS = {'thinking', 'thinking early'}
STRICT = {'developer', 'assistant first', 'users twice'}
SYSTEMS = {'system', 'system multi', 'prompt later'}
# What the templates refuse, or would drop without a word.
REFUSED = {
  'qwen2_5': THOUGHTS
  | {'not thinking', 'effort', 'dated', 'developer', 'parts'},
  # Of the last two, nothing but an earlier turn could be trained.
  'qwen3': {'effort', 'dated', 'developer', 'parts'}
  | {'prompt later', 'tools answered'},
  'llama3': THOUGHTS | {'not thinking', 'effort', 'parts'},
  'gemma2': TOOLS | THOUGHTS | STRICT | SYSTEMS
  | {'not thinking', 'effort', 'dated', 'parts'},
  'gemma3': TOOLS | THOUGHTS | STRICT | {'not thinking', 'effort', 'dated'},
  # The system prompt stands before the last question, if nothing follows it.
  'mistral': THOUGHTS | STRICT | SYSTEMS
  | {'not thinking', 'effort', 'dated', 'parts', 'tools answered'},
  'smollm3': TOOLS - {'tools asked'} | THOUGHTS
  | {'effort', 'dated', 'developer', 'parts'},
  'phi3': TOOLS | THOUGHTS
  | {'not thinking', 'effort', 'dated', 'developer', 'parts'},
  'gptoss': {'not thinking', 'dated', 'parts', 'prompt later'},
}  # fmt: skip


def record_of(name):
  """A conversation as a record of a file."""
  given = CONVERSATIONS[name]
  record = {'messages': given['messages']}
  if 'tools' in given:
    record['tools'] = given['tools']
  if 'variables' in given:
    record['chat_template_kwargs'] = given['variables']
  return record


def trained(example, tokenizer):
  """The texts that are trained, as runs of tokens by their names."""
  out, open_ = [], False
  for token, weight in zip(example['tokens'], example['loss_mask']):
    if weight and not open_:
      out.append([])
    open_ = bool(weight)
    if weight:
      out[-1].append(token)
  return [''.join(map(said, map_pieces(ids, tokenizer))) for ids in out]


def map_pieces(ids, tokenizer):
  """Plain tokens joined, special ones by themselves."""
  plain = []
  for token in ids:
    if tokenizer.name(token) in tokenizer.special_names:
      yield tokenizer, plain, tokenizer.name(token)
      plain = []
    else:
      plain.append(token)
  yield tokenizer, plain, ''


def said(piece):
  tokenizer, plain, special = piece
  return tokenizer.decode(plain) + special


def written(tokenizer, given, prompt=False):
  return tokenizer.template.render(
    given['messages'],
    tools=given.get('tools'),
    prompt=prompt,
    variables=given.get('variables'),
  )


@pytest.mark.parametrize('style', STYLES)
def test_token_ids_are_those_of_transformers(style, load):
  tokenizer, equal = load(style), 0
  for name, case in CONVERSATIONS.items():
    expected = EXPECTED['chat'][style][name]
    for key, prompt in (('ids', False), ('prompt', True)):
      if expected[key] is None:
        with pytest.raises(ValueError, match='the chat template'):
          written(tokenizer, case, prompt)
        continue
      text = written(tokenizer, case, prompt).text
      assert tokenizer.read(text)[0] == expected[key], (name, key)
      equal += 1
  assert equal > len(CONVERSATIONS)


@pytest.mark.parametrize('style', STYLES)
def test_records_have_these_ids_or_are_refused(style, load):
  """What is tokenised is what transformers makes of it."""
  tokenizer, refused = load(style), set()
  for name in CONVERSATIONS:
    record, expected = record_of(name), EXPECTED['chat'][style][name]
    asked = {**record, 'prompt': record['messages']}
    del asked['messages']
    for kind, key in (('messages', 'ids'), ('prompt', 'prompt')):
      if kind == 'prompt' and record['messages'][-1]['role'] == 'assistant':
        continue
      try:
        case = record if kind == 'messages' else asked
        example = formats.tokenize(case, tokenizer, where='f:3')
      except ValueError as error:
        assert str(error).startswith('f:3: column "')
        refused.add(name)
        continue
      assert example['tokens'] == expected[key], (name, key)
  assert refused == REFUSED[style]


def test_arguments_of_calls_as_text(load):
  """OpenAI's form of them: where a template would quote it, it is refused."""
  ask, call, *rest = chat_folders.CALLED
  inner = call['tool_calls'][0]['function']
  text = json.dumps(inner['arguments'], ensure_ascii=False)
  made = {**chat_folders.CALL, 'function': {**inner, 'arguments': text}}
  record = {
    'messages': [ask, {**call, 'tool_calls': [made]}, *rest],
    'tools': chat_folders.TOOLS,
  }
  for style in ('qwen2_5', 'llama3', 'gptoss', 'mistral'):
    with pytest.raises(ValueError, match='turn 1: the "arguments" of a tool'):
      formats.tokenize(record, load(style))
  example = formats.tokenize(record, load('qwen3'))
  assert example['tokens'] == EXPECTED['chat']['qwen3']['tools']['ids']


@pytest.mark.parametrize('style', STYLES)
def test_plain_texts_have_the_tokens_of_trl(style, load):
  tokenizer = load(style)
  merged = 0
  for (prompt, completion), expected in zip(
    chat_folders.TEXTS, EXPECTED['texts'][style]
  ):
    record = {'prompt': prompt, 'completion': completion}
    example = formats.tokenize(record, tokenizer)
    assert example['tokens'] == expected['ids']
    count = expected['prompt']
    mask = [0.0] * count + [1.0] * (len(expected['ids']) - count)
    assert example['loss_mask'] == [0.0, *mask[1:]]
    over = count < expected['asked']
    assert example['notes'] == ((chat.MERGED,) if over else ())
    merged += over
    asked = formats.tokenize({'prompt': prompt}, tokenizer)['tokens']
    assert len(asked) == expected['asked']
  assert merged  # the case is among them


CALLED = '{"city": "Paris <é>", "days": 2}'
QWEN_CALL = (
  f'<tool_call>\n{{"name": "weather", "arguments": {CALLED}}}\n</tool_call>'
)
NO_THOUGHT = '<think>\n\n</think>\n\n'
FINAL = '<|channel|>final<|message|>'
# What is trained of conversations, worked out from the templates.
TRAINED = {
  'qwen2_5': {
    'single': ['It is 4.<|im_end|>'],
    'multi': ['It is 4.<|im_end|>', 'That is 6,\nso 6.<|im_end|>'],
    'tools': [f'{QWEN_CALL}<|im_end|>', 'Windy.<|im_end|>'],
  },
  'qwen3': {
    'single': [f'{NO_THOUGHT}It is 4.<|im_end|>'],
    # Earlier turns lose their thoughts, empty ones too.
    'multi': [f'{NO_THOUGHT}That is 6,\nso 6.<|im_end|>'],
    'tools': [f'{NO_THOUGHT}Windy.<|im_end|>'],
    'thinking': ['<think>\n2 and 2.\nSo 4.\n</think>\n\nIt is 4.<|im_end|>'],
    'thinking early': [f'{NO_THOUGHT}That is 6,\nso 6.<|im_end|>'],
    'not thinking': ['It is 4.<|im_end|>'],
  },
  'llama3': {
    'system multi': ['It is 4.<|eot_id|>', 'That is 6,\nso 6.<|eot_id|>'],
    'tools': [
      f'{{"name": "weather", "parameters": {CALLED}}}<|eot_id|>',
      'Windy.<|eot_id|>',
    ],
  },
  'gemma2': {
    'multi': ['It is 4.<end_of_turn>', 'That is 6,\nso 6.<end_of_turn>'],
  },
  'gemma3': {
    'system multi': ['It is 4.<end_of_turn>', 'That is 6,\nso 6.<end_of_turn>'],
    'parts': ['It is 4.<end_of_turn>'],
  },
  'mistral': {
    'multi': ['It is 4.</s>', 'That is 6,\nso 6.</s>'],
    # The tools move to the last question.
    'tools, then more': ['It is 4.</s>'],
  },
  'smollm3': {
    'multi': [
      '<|im_start|>assistant\nIt is 4.<|im_end|>',
      '<|im_start|>assistant\nThat is 6,\nso 6.<|im_end|>',
    ],
  },
  'phi3': {'multi': ['It is 4.<|end|>', 'That is 6,\nso 6.<|end|>']},
  'gptoss': {
    'single': [f'{FINAL}It is 4.<|return|>'],
    # An answer ends otherwise once something follows it.
    'multi': [f'{FINAL}That is 6,\nso 6.<|return|>'],
    'thinking': [
      '<|channel|>analysis<|message|>2 and 2.\nSo 4.<|end|>'
      f'<|start|>assistant{FINAL}It is 4.<|return|>'
    ],
    'tools': [
      ' to=functions.weather<|channel|>commentary json<|message|>'
      f'{CALLED}<|call|>',
      f'{FINAL}Windy.<|return|>',
    ],
  },
}
LEFT_OUT = {
  ('qwen3', 'multi'), ('qwen3', 'tools'), ('qwen3', 'thinking early'),
  ('mistral', 'tools, then more'), ('gptoss', 'multi'),
}  # fmt: skip


@pytest.mark.parametrize('style', STYLES)
def test_what_is_trained(style, load):
  tokenizer = load(style)
  for name, expected in TRAINED[style].items():
    example = formats.tokenize(record_of(name), tokenizer)
    assert trained(example, tokenizer) == expected, name
    notes = (chat.REWRITTEN,) if (style, name) in LEFT_OUT else ()
    assert example['notes'] == notes, name


@pytest.mark.parametrize('style', STYLES)
def test_what_follows_a_stop_token_is_trained_where_asked_for(style, load):
  """As TRL does: all that comes after the tokens of the prompt."""
  tokenizer = load(style, 'refuse', True)
  record = {'prompt': [ASK], 'completion': [TELL]}
  example = formats.tokenize(record, tokenizer)
  row = EXPECTED['chat'][style]
  count = chat.common_start(row['prompt']['prompt'], row['single']['ids'])
  mask = [0.0] * count + [1.0] * (len(row['single']['ids']) - count)
  assert example['tokens'] == row['single']['ids']
  assert example['loss_mask'] == mask


@functools.cache
def qwen():
  with tempfile.TemporaryDirectory() as folder:
    return tokenizers.load(chat_folders.make('qwen2_5', Path(folder)))


@pytest.mark.long
@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=10), min_size=2, max_size=5))
def test_any_text_by_hand(contents):
  """Qwen2.5's turns without its template; trained is what reaches into them."""
  tokenizer = qwen()
  text = f'<|im_start|>system\n{HELPFUL}<|im_end|>\n'
  messages, answers = [], set()
  for i, content in enumerate(contents):
    role = ('user', 'assistant')[i % 2]
    text += f'<|im_start|>{role}\n'
    said = f'{content}<|im_end|>'
    if role == 'assistant':
      answers |= set(range(len(text), len(text) + len(said)))
    text += f'{said}\n'
    messages.append({'role': role, 'content': content})
  turns = chat.render(messages, tokenizer)
  tokens, places = tokenizer.read(text)
  assert turns.tokens == tokens and tokenizer.decode(tokens) == ''.join(
    part for part in text.replace('<|im_end|>', '<|im_start|>').split(
      '<|im_start|>')
  )  # fmt: skip
  assert turns.mask == [
    float(not answers.isdisjoint(range(*place))) for place in places
  ]


def test_blocks_are_those_of_transformers_up_to_the_stop_token(load):
  tokenizer = load('smollm3')
  stops = set(tokenizer.stops)
  for name, case in CONVERSATIONS.items():
    expected = EXPECTED['chat']['smollm3'][name]
    called = any('tool_calls' in message for message in case['messages'])
    dropped = called or name in ('parts', 'developer')
    if dropped or not any(expected.get('mask') or ()):
      continue
    turns = chat.render(
      case['messages'],
      tokenizer,
      tools=case.get('tools'),
      variables=case.get('variables'),
    )
    mask = list(expected['mask'])
    whole = chat.render(
      case['messages'],
      load('smollm3', 'refuse', True),
      tools=case.get('tools'),
      variables=case.get('variables'),
    )
    assert whole.mask == mask
    for i, token in enumerate(expected['ids']):
      if token in stops and mask[i]:
        assert mask[i + 1]
        assert tokenizer.decode([expected['ids'][i + 1]]) == '\n'
        mask[i + 1] = 0
    assert turns.mask == mask
