"""What a chat template leaves out before an answer, or writes otherwise."""

import contextlib
import functools
import json
import re
import tempfile
import time
import types
from pathlib import Path

import chat_folders
import pytest
import test_vendor_templates as vendors

from posttrain_jax import show_data
from posttrain_jax.data import chat, formats, pipeline, tokenizers
from posttrain_jax.data import template as templates
from posttrain_jax.data.chat import kept, thoughts
from posttrain_jax.data.prompts_task import PromptsTask
from posttrain_jax.run import inference

STYLES = list(chat_folders.STYLES)
ALL = [*STYLES, *(f'vendors/{name}' for name in vendors.NAMES)]
# Nothing stands before an answer in Mistral's.
PLAIN = {'mistral', 'vendors/mistral_nemo', 'vendors/mistral_small_3_2'}
ASK, TELL = chat_folders.ASK, chat_folders.TELL


@pytest.fixture(autouse=True)
def day(monkeypatch):
  monkeypatch.setattr(templates, '_now', lambda: vendors.DAY)


@functools.cache
def load(name):
  """The tokenizer of one of our styles, or of a vendor."""
  if name not in STYLES:
    return vendors.load(name.removeprefix('vendors/'))
  with tempfile.TemporaryDirectory() as folder:
    return tokenizers.load(chat_folders.make(name, Path(folder)), 'control')


def with_template(name, make, monkeypatch):
  """The tokenizer, with `make(its template)` as its template."""
  tokenizer = load(name)
  monkeypatch.setattr(tokenizer, 'template', make(tokenizer.template))
  return tokenizer


def unasked(found):
  """The template as it were if it did not use add_generation_prompt."""
  sources = {
    name: source.replace('add_generation_prompt', 'no_such_variable')
    for name, source in found.sources.items()
  }
  return templates.Template(sources, found.variables, found.where)


@pytest.mark.parametrize('name', ALL)
def test_a_template_that_opens_no_turn(name, monkeypatch):
  """Refused where prompts are made, and told where it is trained on."""
  own = load(name).template
  assert chat.unopened(own) == chat.unopened(own, True) == ''
  tokenizer = with_template(name, unasked, monkeypatch)
  row = {'prompt': [ASK], 'completion': [TELL]}
  if name in PLAIN:
    assert formats.tokenize({'prompt': [ASK]}, tokenizer)['tokens']
    assert chat.UNOPENED not in formats.tokenize(row, tokenizer)['notes']
    return
  # What is missing begins as what its own block would have written.
  header = chat.unopened(tokenizer.template)
  texts = [own.render([ASK], prompt=prompt).text for prompt in (True, False)]
  assert header.strip()
  assert texts[0].count(header[:10]) == texts[1].count(header[:10]) + 1
  with pytest.raises(ValueError, match='does not use add_generation_prompt'):
    formats.tokenize({'prompt': [ASK]}, tokenizer)
  if 'phi3' in name:  # whose prompts then end as conversations do
    with pytest.raises(ValueError, match='the prompt otherwise once it is'):
      formats.tokenize(row, tokenizer)
    return
  assert chat.UNOPENED in formats.tokenize(row, tokenizer)['notes']


class Rewriting(templates.Template):
  """A template that writes what one role says otherwise."""

  role = 'assistant'

  def render(self, messages, **options):
    return super().render(
      [
        {**message, 'content': self.change(message['content'])}
        if message['role'] == self.role
        else message
        for message in messages
      ],
      **options,
    )


CHANGES = {
  'upper': str.upper,
  'spaces': lambda text: ' '.join(text.split()),
  'cut': lambda text: text.replace('first', ''),
}


@pytest.mark.parametrize('name', ALL)
def test_a_template_that_rewrites_answers(name, monkeypatch):
  tokenizer = load(name)
  said = chat_folders.say('assistant', ' the first  of\nall ')
  row = {'messages': [chat_folders.say('user', 'THE FIRST'), said]}
  try:
    assert chat.CHANGED not in formats.tokenize(row, tokenizer)['notes']
  except ValueError:
    assert (
      name == 'vendors/deepseek_r1_distill'
    )  # is not trained on without blocks
    return
  for change in CHANGES.values():
    made = lambda found: Rewriting(found.sources, found.variables)
    monkeypatch.setattr(Rewriting, 'change', staticmethod(change), False)
    changed = with_template(name, made, monkeypatch)
    assert chat.CHANGED in formats.tokenize(row, changed)['notes']
    # What is not trained is nobody's text to learn.
    weighed = {'messages': [*row['messages'][:1], {**said, 'weight': 0}]}
    with contextlib.suppress(ValueError):  # of two blocks, which is it?
      assert chat.CHANGED not in formats.tokenize(weighed, changed)['notes']
    monkeypatch.undo()


@pytest.mark.parametrize('name', ALL)
def test_a_template_that_rewrites_what_is_asked(name, monkeypatch):
  """Of a user and of the system, in prompts and in conversations."""
  tokenizer = load(name)
  told = chat_folders.say('system', 'Say THE\n\n first.')
  asked = chat_folders.say('user', ' the first  of\nall ')
  for role, said in {'user': [asked], 'system': [told, asked]}.items():
    rows = [{'prompt': said}, {'prompt': said, 'completion': [TELL]}]
    # Some have no place for a system, and some are not trained without blocks.
    rows = [row for row in rows if notes(row, tokenizer) is not None]
    assert rows or role == 'system'
    assert not any(chat.MISQUOTED in notes(row, tokenizer) for row in rows)
    monkeypatch.setattr(Rewriting, 'role', role)
    monkeypatch.setattr(Rewriting, 'change', staticmethod(str.upper), False)
    made = lambda found: Rewriting(found.sources, found.variables)
    changed = with_template(name, made, monkeypatch)
    for row in rows:
      assert chat.MISQUOTED in notes(row, changed)
    monkeypatch.undo()


ADDING = {
  'before': lambda text: 'yes ' + text,
  'behind': lambda text: text + ' so',
  'twice': lambda text: text + text,
}


@pytest.mark.parametrize('name', ALL)
def test_a_template_that_adds_to_answers(name, monkeypatch):
  """Told; what it writes of its own around an answer is not."""
  tokenizer = load(name)
  said = chat_folders.say('assistant', ' the first  of\nall ')
  row = {'messages': [ASK, said]}
  own = notes(row, tokenizer)
  if own is None:  # is not trained on without blocks
    assert name == 'vendors/deepseek_r1_distill'
    return
  # A short answer may stand in a tag or in the name of a token, too.
  for short in ('a', 'i', 'n', 'think', 'assistant', ' the first  of\nall '):
    asked = {'messages': [ASK, chat_folders.say('assistant', short)]}
    assert chat.ADDED not in notes(asked, tokenizer), short
  for change in ADDING.values():
    made = lambda found: Rewriting(found.sources, found.variables)
    monkeypatch.setattr(Rewriting, 'change', staticmethod(change), False)
    assert chat.ADDED in notes(row, with_template(name, made, monkeypatch))
    monkeypatch.undo()


@pytest.mark.parametrize('source, told', [
  ("{{ ['a', 'b']|random }}", 'draws at random'),
  ('{{ lipsum() }}', 'draws at random'),
])  # fmt: skip
def test_templates_that_draw_are_refused(source, told):
  with pytest.raises(ValueError, match=told):
    templates.Template({'default': source}, {})


@pytest.mark.parametrize(
  'product', ["'a' * 2000000000", '[1] * 10 ** 9', '10 ** 10 ** 9']
)
def test_products_without_end_are_refused(product):
  found = templates.Template({'default': '{{ ' + product + ' }}'}, {})
  with pytest.raises(ValueError, match='more than 1,000,000'):
    found.render([ASK])
  small = templates.Template({'default': "{{ '=' * 3 }}{{ 2 * 3 }}"}, {})
  assert small.render([ASK]).text == '===6'


def test_it_is_counted_and_the_first_row_named(tmp_path, monkeypatch, capsys):
  """By `show_data`, as by what a run says of its file."""
  folder = chat_folders.make('qwen2_5', tmp_path / 'model')
  file = folder / templates.FILE
  source = file.read_text()
  rows = [{'messages': [ASK, chat_folders.say('assistant', s)]} for s in 'X9x9']
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  loud = source.replace('message.content', 'message.content|upper')
  assert loud != source
  file.write_text(loud.replace('add_generation_prompt', 'nothing'))
  report = pipeline.preflight(
    pipeline.open_source(str(path)), tokenizers.load(folder), max_length=99
  )
  told = pipeline.warnings(report)
  kinds = ('changed', 'misquoted', 'unopened')
  assert tuple(report[kind] for kind in kinds) == (1, 4, 4)
  assert told[0].startswith('1 of 4 records have an answer that the chat templ')
  assert told[0].endswith(f'first: {path}:3')
  assert told[1].startswith('4 of 4 records have what a user or the system')
  assert told[2].startswith('4 of 4 records are written by a chat template')
  show_data.main(['--data', str(path), '--model', str(folder), '--num', '1'])
  assert told[0][:80] in ' '.join(capsys.readouterr().out.split())


def test_prompts_that_are_written_otherwise_are_counted(tmp_path, capsys):
  """By a run on them, and by whatever asks a model with them."""
  folder = chat_folders.make('qwen2_5', tmp_path / 'model')
  file = folder / templates.FILE
  loud = file.read_text().replace('message.content', 'message.content|upper')
  file.write_text(loud)
  rows = [
    {'prompt': [chat_folders.say('user', s)]} for s in ('4', 'why', 'how')
  ]
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  tokenizer = tokenizers.load(folder)
  source = pipeline.open_source(str(path))
  judge = inference.make_judge('repetition', 4)
  PromptsTask(source, tokenizer, judge, completion_length=4)
  judge.close()
  said = capsys.readouterr().err
  assert 'WARNING data: 2 of 3 prompts have what a user or the system' in said
  assert f'first: {path}:2, {path}:3' in said
  loaded = types.SimpleNamespace(tokenizer=tokenizer, turns=True)
  inference.read_prompts(source, loaded)
  inference.ask(loaded, 'why')
  said = capsys.readouterr().err
  assert 'note: 2 of 3 prompts have what a user or' in said
  assert 'note: 1 of 1 prompts have what a user or' in said
  inference.ask(loaded, '4')
  assert not capsys.readouterr().err


BARE = (
  "{{% for m in messages %}}{{% if m.role == 'user' %}}[INST] {{{{ m.content }}"
  "}}[/INST]{{% else %}}{{{{ {} + m.content + '<|im_end|>' }}}}{{% endif %}}"
  '{{% endfor %}}'
)


def bare(header):
  """A template that writes a header before each answer, and asks with none."""
  text = json.dumps(header, ensure_ascii=False)
  return templates.Template({'default': BARE.format(text)}, {})


def blocks():
  for name in thoughts.NAMES:
    for first, last in ('<>', '[]'):
      for tag in (name, name.upper()):
        for said in ('', '\n\n'):
          yield f'{first}{tag}{last}{said}{first}/{tag}{last}\n'


def test_an_empty_thought_is_no_header(monkeypatch):
  """A model writes it itself; a header before it is one."""
  for block in blocks():
    assert chat.unopened(bare(block)) == chat.unopened(bare(block), True) == ''
    assert chat.unopened(bare('\n<|assistant|>' + block)) == '\n<|assistant|>'
    assert chat.unopened(bare(block + '<|final|>')) == block + '<|final|>'
  tokenizer = with_template('qwen2_5', lambda _: bare(block), monkeypatch)
  assert formats.tokenize({'prompt': [ASK]}, tokenizer)['tokens']
  row = {'prompt': [ASK], 'completion': [TELL]}
  assert chat.UNOPENED not in formats.tokenize(row, tokenizer)['notes']


def mended(found):
  """The template with what its refusal tells at its end."""
  with pytest.raises(ValueError) as caught:
    chat.check_opens(found)
  block = re.search('write ({% if .*%}) at its end$', str(caught.value))[1]
  sources = {name: source + block for name, source in found.sources.items()}
  return templates.Template(sources, found.variables, found.where)


@pytest.mark.parametrize('name', [name for name in ALL if name not in PLAIN])
def test_the_remedy_may_be_pasted(name):
  without = unasked(load(name).template)
  found = mended(without)
  assert chat.unopened(found) == ''
  header = chat.unopened(without)
  asked = found.render([ASK], prompt=True).text
  assert asked == without.render([ASK]).text + header
  if 'phi3' not in name:  # whose prompts end as conversations do
    assert asked[:-1] in found.render([ASK, TELL]).text


def test_the_remedy_is_whole():
  header = '<|header|>' + ' "a" \\ \'b\' {{ }} {% é \U0001f642 \t' * 9 + '\n'
  found = mended(bare(header))
  assert found.render([ASK], prompt=True).text.endswith(header)


def quoting(call):
  """Conversations where an answer says what a tool, or a turn that is not
  trained, said before it."""
  data = '{"temp": "21"}'
  tool = chat_folders.say(
    'tool', data, name='weather', tool_call_id='call00001'
  )
  yes, no = (chat_folders.say('assistant', s) for s in ('Yes.', 'No.'))
  last = chat_folders.say('assistant', f'Yes. It was {data} then.')
  called = chat_folders.say('assistant', '', tool_calls=[call])
  yield {
    'messages': [ASK, called, tool, no, ASK, last],
    'tools': chat_folders.TOOLS,
  }
  yield {'messages': [ASK, {**yes, 'weight': 0}, ASK, no, ASK, last]}
  # Said by a user, and by none of the model: in a form of the template's own.
  said = chat_folders.say('user', ' two\n\n\n words')
  yield {'messages': [said, no, ASK, chat_folders.say('assistant', 'so')]}


def notes(row, tokenizer):
  try:
    return formats.tokenize(row, tokenizer)['notes']
  except ValueError:  # some call no tools, or want them otherwise
    return None


@pytest.mark.parametrize('name', ALL)
def test_what_is_quoted_later_is_not_changed(name, monkeypatch):
  tokenizer = load(name)
  found = [notes(row, tokenizer) for row in quoting(chat_folders.CALL)]
  assert not [said for said in found if said and chat.CHANGED in said]
  written = sum(said is not None for said in found)
  all_three = name in ('llama3', 'gptoss', 'vendors/gptoss')
  # This one is not trained on without blocks.
  assert written >= (name != 'vendors/deepseek_r1_distill') + 2 * all_three
  # A text that is written otherwise is so, whoever says the same beside it.
  said = chat_folders.say('assistant', 'the first')
  row = {'messages': [chat_folders.say('user', 'the first'), said,
                      chat_folders.say('user', 'the first'),
                      chat_folders.say('assistant', '7')]}  # fmt: skip
  told = notes(row, tokenizer)
  if told is not None and not told:
    make = lambda found: Rewriting(found.sources, found.variables)
    monkeypatch.setattr(Rewriting, 'change', staticmethod(str.upper), False)
    changed = notes(row, with_template(name, make, monkeypatch))
    assert chat.CHANGED in changed


@pytest.mark.parametrize('said, pieces', [
  ('a', ['a']), ('<think>b</think>a', ['', 'a']), ('b</think>a', ['a']),
  ('c<think>b</think>a', ['c', 'a']), ('[THINK]b[/THINK]a', ['', 'a']),
  ('<think>b', ['', 'b']), ('a<think>b<think>c</think>d', ['a', 'd']),
  ('b</think>a</think>c', ['a', 'c']), ('<think>b</p>', ['', 'b</p>']),
])  # fmt: skip
def test_what_stands_in_no_thought(said, pieces):
  assert thoughts.outside(said, inside=True) == pieces


@pytest.mark.parametrize('first', ['', 'x</think>', '</p>'])
def test_many_thoughts_that_do_not_end_are_read_in_one_pass(first):
  said = first + '<think>' * 100_000
  turn = chat_folders.say('assistant', said + 'x')
  began = time.process_time()
  assert kept.changes([turn], ['other'])
  assert time.process_time() - began < 2
