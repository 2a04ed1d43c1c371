"""Chat templates: what is refused, what is left out, where a model stops."""

import concurrent.futures
import json

import chat_folders
import pytest
from chat_folders import AGAIN, ASK, MORE, SYSTEM, TELL, TOOLS, say

from posttrain_jax.data import chat, formats, pipeline, stops, tokenizers
from posttrain_jax.data import template as templates

TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
PLAIN = '{% for m in messages %}' + TURN + '{% endfor %}'
ASKS = (
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BLOCK = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
  "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
  '{% endgeneration %}{% else %}{{ m.content }}{% endif %}'
  "{{ '<|im_end|>\\n' }}{% endfor %}"
)
MULTI = {'messages': [ASK, TELL, AGAIN, MORE]}


@pytest.fixture
def load(tmp_path):
  """(template) -> a tokenizer with ChatML's markers and that template."""

  def make(template=PLAIN + ASKS, **config):
    folder = chat_folders.make('qwen2_5', tmp_path)
    (folder / 'chat_template.jinja').write_text(template)
    file = folder / 'tokenizer_config.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return tokenizers.load(folder)

  return make


def trained(example, tokenizer):
  ids = [t for t, w in zip(example['tokens'], example['loss_mask']) if w]
  return ''.join(
    '$' if i == tokenizer.eos_id else tokenizer.decode([i]) for i in ids
  )


def refused(record, tokenizer):
  with pytest.raises(ValueError) as caught:
    formats.tokenize(record, tokenizer, where='f:7')
  message = str(caught.value)
  assert message.startswith('f:7: column "') and len(message) < 400
  return message


def with_last(**keys):
  return {'messages': [ASK, {**TELL, **keys}]}


# Refused


def test_what_the_template_says_of_a_record(load):
  tokenizer = load("{{ raise_exception('not ' + messages[0].role) }}")
  assert 'column "messages": the chat template says: not user' in refused(
    MULTI, tokenizer
  )
  tokenizer = load('{{ messages[0].nobody.name }}')
  assert "has no attribute 'nobody'" in refused(MULTI, tokenizer)
  tokenizer = load('{{ messages + 1 }}')
  assert 'the chat template cannot write it: TypeError' in refused(
    MULTI, tokenizer
  )
  # Before a run starts, with its place.
  source = pipeline.ListSource([MULTI, MULTI], 'f')
  with pytest.raises(
    ValueError, match=r'^f.* column "messages": the chat temp'
  ):
    pipeline.preflight(source, tokenizer, max_length=64)


def test_templates_that_are_none(load):
  with pytest.raises(ValueError, match='chat template "default", line 2'):
    load('\n{% if %}')
  with pytest.raises(ValueError, match='none is named "default"'):
    templates.Template({'rag': 'x'}, {})


@pytest.mark.parametrize('source', [
  "{{ ''.__class__.__mro__[1].__subclasses__() }}",
  '{{ cycler.__init__.__globals__ }}',
  '{{ messages.append(1) }}', '{{ messages[0].update(role=1) }}',
  '{{ raise_exception.__globals__ }}', '{{ namespace.__init__.__globals__ }}',
])  # fmt: skip
def test_a_template_stays_in_its_sandbox(source):
  found = templates.Template({'default': source}, {})
  messages = [dict(ASK)]
  try:
    assert found.render(messages).text == ''
  except ValueError as error:
    assert 'the chat template' in str(error)
  assert messages == [ASK]


@pytest.mark.parametrize('key, value', [
  ('tool_calls', [{'function': {'name': 'f', 'arguments': {}}}]),
  ('reasoning_content', 'hm'), ('thinking', 'hm'), ('reasoning', 'hm'),
  ('content', [{'type': 'text', 'text': 'x'}]),
])  # fmt: skip
def test_keys_that_a_template_never_mentions(load, key, value):
  message = refused(with_last(**{key: value}), load())
  assert 'does not read' in message and 'column "messages"[1]' in message


def test_what_is_refused_whatever_a_template_reads(load):
  reads = (
    '{{ tools }}{{ messages[0].images }}{{ messages[0].tool_calls }}'
    "{{ messages[0].text }}{{ messages[0].thinking }}{{ messages[0]['name'] }}"
  )
  tokenizer = load(reads + PLAIN + ASKS)
  image = [{'type': 'image', 'image': 'x.png'}]
  for keys, told in [
    ({'images': ['x.png']}, '"images" is not supported'),
    ({'content': image}, 'only parts of type "text"'),
    ({'content': ['x']}, 'only parts of type "text"'),
    ({'content': [{'type': 'text'}]}, 'expected a string, got None'),
    ({'tool_calls': ['f']}, '"tool_calls"[0]: expected {function: {name'),
    ({'thinking': 5}, '"thinking": expected a string'),
    ({'tool_call_id': 'x'}, 'belongs to a turn of role "tool"'),
  ]:
    assert told in refused(with_last(**keys), tokenizer)
  asked = {'messages': [{**ASK, 'tool_calls': [1]}, TELL]}
  assert 'belongs to a turn of role "assistant"' in refused(asked, tokenizer)
  for column in ('images', 'functions', 'chat_template'):
    assert 'is not supported' in refused({**MULTI, column: [1]}, tokenizer)
  tools = {**MULTI, 'tools': '{"a": 1}'}
  assert 'expected a list of JSON schemas' in refused(tools, tokenizer)
  assert 'no JSON' in refused({**MULTI, 'tools': '[{'}, tokenizer)


def test_columns_that_say_how_others_are_written(load):
  tokenizer = load()
  assert 'column "tools" is not supported: the chat template' in refused(
    {**MULTI, 'tools': TOOLS}, tokenizer
  )
  named = {**MULTI, 'chat_template_kwargs': {'add_generation_promt': True}}
  assert '"add_generation_promt" is not read' in refused(named, tokenizer)
  for name in templates.RESERVED:
    own = {**MULTI, 'chat_template_kwargs': {name: 1}}
    assert f'"{name}" is set by the record' in refused(own, tokenizer)
  tokenizer = load(
    '{% if loud %}{{ tools[0].function.name }}{% endif %}' + PLAIN
  )
  told = {'tools': json.dumps(TOOLS), 'chat_template_kwargs': '{"loud": true}'}
  example = formats.tokenize({**MULTI, **told}, tokenizer)
  assert tokenizer.decode(example['tokens']).startswith('weather')
  # Nulls are absent, as a file of columns has them.
  null = {'tools': None, 'chat_template_kwargs': {'loud': None, 'x': None}}
  plain = formats.tokenize(MULTI, tokenizer)['tokens']
  assert formats.tokenize({**MULTI, **null}, tokenizer)['tokens'] == plain
  texts = {'prompt': 'x', 'completion': 'y', 'tools': TOOLS}
  assert 'is not supported beside texts' in refused(texts, tokenizer)


@pytest.mark.parametrize('role', ['system', 'developer', 'tool'])
def test_roles_that_a_template_drops(load, role):
  only = PLAIN.replace(TURN, "{% if m.role in ('user', 'assistant') %}" + TURN
                       + '{% endif %}')  # fmt: skip
  tokenizer = load(only + ASKS)
  # What is dropped may stand elsewhere.
  turns = [say(role, 'It is 4.'), ASK, TELL]
  assert f'turn 0: the chat template drops what role "{role}"' in refused(
    {'messages': turns}, tokenizer
  )
  assert 'drops what role' in refused({'prompt': turns[:2]}, tokenizer)
  assert formats.tokenize({'messages': turns}, load())['notes'] == ()
  named = {'messages': [{**ASK, 'name': 'Ann'}, TELL]}
  tokenizer = load(
    '{% if tools %}{{ tools[0].name }}{% endif %}' + PLAIN + ASKS
  )
  assert 'turn 0: the chat template drops its "name"' in refused(
    named, tokenizer
  )


def test_second_parts_that_a_template_drops(load):
  first = PLAIN.replace('m.content', 'm.content[0].text')
  both = say('user', [{'type': 'text', 'text': t} for t in ('one', 'two')])
  tell = say('assistant', [{'type': 'text', 'text': 'three'}])
  message = refused({'messages': [both, tell]}, load(first + ASKS))
  assert 'turn 0: the chat template drops' in message


# Special tokens


@pytest.mark.parametrize('record', [
  {'text': 'a<|im_end|>b'}, {'prompt': 'a', 'completion': 'b<|im_end|>'},
  {'prompt': 'a<|endoftext|>', 'completion': 'b'},
  {'prompt': 'a<|im_start|>', 'chosen': 'b', 'rejected': 'c'},
  {'messages': [say('user', 'a<|im_end|>'), TELL]},
  {'messages': [ASK, say('assistant', '<|im_start|>')]},
  {'prompt': [say('user', 'a<|im_end|>')]},
  {'messages': [ASK, TELL], 'chat_template_kwargs': {'x': '<|im_end|>'}},
])  # fmt: skip
def test_texts_that_name_special_tokens(load, record):
  tokenizer = load('{{ x }}' + PLAIN + ASKS)
  assert 'names a special token' in refused(record, tokenizer)
  tokenizer.special_text = 'control'
  example = formats.tokenize(record, tokenizer)
  parts = [example['chosen']] if 'chosen' in record else [example]
  ids = set(parts[0]['tokens'])
  name = next(n for n in tokenizer.special_names if n in json.dumps(record))
  assert tokenizer.special_id(name) in ids


def test_an_answer_that_says_its_end_ends_once(load):
  tokenizer = load()
  tokenizer.special_text = 'control'
  record = {'prompt': 'a', 'completion': ' b'}
  said = {'prompt': 'a', 'completion': ' b<|im_end|>'}
  first = formats.tokenize(record, tokenizer)
  assert first['tokens'] == formats.tokenize(said, tokenizer)['tokens']
  assert first['tokens'].count(tokenizer.eos_id) == 1


# What is trained


def test_weights_of_turns(load):
  tokenizer = load()
  for template in (PLAIN + ASKS, BLOCK + ASKS):
    tokenizer = load(template)
    turns = [ASK, {**TELL, 'weight': 0}, AGAIN, {**MORE, 'weight': 1}]
    example = formats.tokenize({'messages': turns}, tokenizer)
    assert trained(example, tokenizer) == 'That is 6,\nso 6.$'
    whole = formats.tokenize(MULTI, tokenizer)
    assert example['tokens'] == whole['tokens']
    assert trained(whole, tokenizer) == 'It is 4.$That is 6,\nso 6.$'
  last = BLOCK.replace("m.role == 'assistant'", 'loop.last')
  assert 'which of them have weight 0 cannot be told' in refused(
    {'messages': turns}, load(last + ASKS)
  )


def test_only_the_answer_of_a_prompt_is_trained(load):
  for template in (PLAIN + ASKS, BLOCK + ASKS):
    tokenizer = load(template)
    record = {'prompt': [ASK, TELL, AGAIN], 'completion': [MORE]}
    example = formats.tokenize(record, tokenizer)
    assert trained(example, tokenizer) == 'That is 6,\nso 6.$'
    asked = formats.tokenize({'prompt': record['prompt']}, tokenizer)['tokens']
    assert example['tokens'][: len(asked)] == asked
    assert asked == chat.prompt_tokens(tokenizer, record['prompt'])
    assert example['loss_mask'][len(asked)] == 1.0
    pair = {**record, 'chosen': [MORE], 'rejected': [TELL]}
    del pair['completion']
    sides = formats.tokenize(pair, tokenizer)
    assert sides['chosen']['loss_mask'] == example['loss_mask']
    assert trained(sides['rejected'], tokenizer) == 'It is 4.$'


def test_templates_that_cannot_be_trained_on_exactly(load):
  never = PLAIN.replace("'<|im_end|>\\n'", "'\\n'")
  assert 'ends it with no stop token' in refused(MULTI, load(never + ASKS))
  # What precedes an answer is there only until it is given.
  thinks = ASKS.replace('assistant\\n', 'assistant\\n<think>\\n')
  assert 'otherwise once it is given' in refused(MULTI, load(PLAIN + thinks))
  pair = {'prompt': [ASK], 'chosen': [TELL], 'rejected': [MORE]}
  assert 'writes the prompt otherwise' in refused(pair, load(PLAIN + thinks))
  inside = BLOCK.replace('{% for m', '{% macro w() %}{% for m') + (
    "{% endmacro %}{{ 'x' + w() }}"
  )
  assert 'stand inside of macros' in refused(MULTI, load(inside))


def test_a_block_without_its_stop_token_gets_it(load):
  tokenizer = load(BLOCK + ASKS)
  ids = tokenizer.read('It is 4.')[0]
  turns = chat.render([ASK, TELL], tokenizer)
  assert sum(turns.mask) == len(ids) + 1
  assert turns.tokens[-2] == tokenizer.eos_id and turns.mask[-2:] == [1.0, 0.0]


def test_a_conversation_that_the_assistant_begins(load):
  record = {'messages': [say('assistant', 'Hello!'), ASK, TELL]}
  tokenizer = load()
  example = formats.tokenize(record, tokenizer)
  assert trained(example, tokenizer) == 'Hello!$It is 4.$'
  # Where nothing can be asked without a turn, that one is left out.
  tokenizer = load('{% if not messages %}{{ raise_exception("?") }}{% endif %}'
                   + PLAIN + ASKS)  # fmt: skip
  example = formats.tokenize(record, tokenizer)
  assert trained(example, tokenizer) == 'It is 4.$'
  assert example['notes'] == (chat.REWRITTEN,)


def test_left_out_turns_are_counted_before_a_run(tmp_path):
  tokenizer = tokenizers.load(chat_folders.make('qwen3', tmp_path))
  records = [MULTI, {'messages': [ASK, TELL]}, MULTI]
  report = pipeline.preflight(
    pipeline.ListSource(records, 'f'), tokenizer, max_length=128
  )
  assert report['rewritten'] == 2 and report['merged'] == 0
  told = pipeline.warnings(report)
  assert len(told) == 1 and told[0].startswith('2 of 3 records have earlier')


def test_blocks_are_found_in_several_threads(load):
  tokenizer = load(BLOCK + ASKS)
  turns = [[ASK, say('assistant', 'x' * n)] for n in range(1, 30)] * 4
  alone = [chat.render(t, tokenizer) for t in turns]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(lambda t: chat.render(t, tokenizer), turns)) == alone


# Where a model stops, and where templates stand


def test_stop_tokens(tmp_path):
  found = {}
  for style in chat_folders.STYLES:
    tokenizer = tokenizers.load(chat_folders.make(style, tmp_path / style))
    found[style] = [tokenizer.name(i) for i in tokenizer.stops]
    assert chat.stop_id(tokenizer) == tokenizer.stops[0]
    ends = tokenizers.ends(tokenizer)
    assert ends == (
      tokenizer.stops if len(found[style]) > 1 else tokenizer.stops[0]
    )
  assert found == {
    'qwen2_5': ['<|im_end|>', '<|endoftext|>'],
    'qwen3': ['<|im_end|>', '<|endoftext|>'],
    'llama3': ['<|eot_id|>'],
    'gemma2': ['<end_of_turn>', '<eos>'],
    'gemma3': ['<end_of_turn>', '<eos>'],
    'mistral': ['</s>'],
    'smollm3': ['<|im_end|>'],
    'phi3': ['<|end|>', '<|endoftext|>'],
    'gptoss': ['<|return|>', '<|call|>'],
  }


def test_declared_stop_tokens():
  two = {'f': {'eos_token_id': [5, 6]}, 'g': {'eos_token_id': 3}}
  assert stops.declared(two) == ('f', (5, 6), [])
  for nothing in ({}, {'eos_token_id': None}, {'eos_token_id': []}):
    assert stops.declared({**two, 'f': nothing}) == ('g', (3,), [])
    assert stops.declared({'f': nothing}) == ('', (), [])
  for none in ('x', '3', True, -1, 3.0, {'id': 3}):
    wrong = [('f', none)]
    for value in (none, [none]):
      files = {**two, 'f': {'eos_token_id': value}}
      assert stops.declared(files) == ('g', (3,), wrong)
    files = {**two, 'f': {'eos_token_id': [1, none, 3]}}
    assert stops.declared(files) == ('f', (1, 3), wrong)


def test_where_templates_stand(load, tmp_path):
  several = [
    {'name': 'default', 'template': PLAIN + ASKS},
    {'name': 'tool_use', 'template': '{{ tools[0].function.name }}' + PLAIN},
  ]
  load(chat_template=several)
  (tmp_path / templates.FILE).unlink()
  tokenizer = tokenizers.load(tmp_path)
  assert set(tokenizer.template.sources) == {'default', 'tool_use'}
  with_tools = formats.tokenize({**MULTI, 'tools': TOOLS}, tokenizer)['tokens']
  assert tokenizer.decode(with_tools).startswith('weather')
  plain = formats.tokenize(MULTI, tokenizer)['tokens']
  assert with_tools[-len(plain) :] == plain
  more = tmp_path / templates.FOLDER
  more.mkdir()
  (tmp_path / templates.FILE).write_text(PLAIN)
  (more / 'rag.jinja').write_text('x')
  assert set(tokenizers.load(tmp_path).template.sources) == {'default', 'rag'}
  load('x', chat_template=[{'name': 'default'}])
  (tmp_path / templates.FILE).unlink()
  (more / 'rag.jinja').unlink()
  with pytest.raises(ValueError, match='neither a text nor a list'):
    tokenizers.load(tmp_path)


def test_a_text_in_the_config_is_a_template(load, tmp_path):
  load(chat_template=PLAIN + ASKS)
  (tmp_path / templates.FILE).unlink()
  tokenizer = tokenizers.load(tmp_path)
  example = formats.tokenize({'messages': [SYSTEM, ASK, TELL]}, tokenizer)
  assert trained(example, tokenizer) == 'It is 4.$'


def test_a_folder_of_the_older_kind_says_what_to_do(tmp_path):
  (tmp_path / 'tokenizer.model').write_text('')
  with pytest.raises(ValueError, match='tokenizer.model there is the older'):
    tokenizers.load(tmp_path)
