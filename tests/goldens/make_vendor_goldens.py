"""What transformers makes of conversations by vendors' chat templates.

Run by hand, in an environment with transformers 5 and jinja2:
  python tests/goldens/make_vendor_goldens.py [FOLDER OUT.json.gz]
It writes goldens/chat/vendors/expected.json.gz:
  {template: {conversation: {text, ids, mask, asked, asked_ids}}}
  text, asked     `apply_chat_template` without and with the generation prompt;
                  null where it refuses
  ids, asked_ids  a digest of their token ids
  mask            [[first, end]] of the assistant's tokens, by the template's
                  generation blocks, where it has them
With FOLDER it does so for all templates there, as `test_vendor_templates` says.
"""

import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import chat_folders
import transformers
import vendor_conversations
import vendor_templates
from transformers.utils import chat_template_utils


def _row(tokenizer, given: dict, blocks: bool) -> dict:
  messages = vendor_conversations.as_read(given['messages'])

  def made(**more):
    try:
      return tokenizer.apply_chat_template(
        messages,
        tools=given.get('tools'),
        **given.get('variables', {}),
        **more,
      )
    except Exception:  # what the template raises, and what it runs into
      return None

  row = {}
  for key, prompt in (('text', False), ('asked', True)):
    row[key] = made(tokenize=False, add_generation_prompt=prompt)
    if row[key] is None:
      continue
    ids = 'ids' if key == 'text' else 'asked_ids'
    marks = blocks and key == 'text'
    found = made(
      add_generation_prompt=prompt,
      return_dict=True,
      return_assistant_tokens_mask=marks,
    )
    row[ids] = vendor_templates.digest(found['input_ids'])
    if marks:
      row['mask'] = vendor_templates.runs(found['assistant_masks'])
  return row


def main() -> None:
  chat_template_utils.datetime = chat_folders.Day
  folder, out = vendor_templates.FOLDER, vendor_templates.EXPECTED
  if len(sys.argv) > 1:
    folder, out = map(pathlib.Path, sys.argv[1:])
  content = {}
  for name in vendor_templates.names(folder):
    with tempfile.TemporaryDirectory() as made:
      vendor_templates.make(name, pathlib.Path(made), folder)
      try:
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(made)
        blocks = 'endgeneration' in tokenizer.chat_template
        content[name] = {
          key: _row(tokenizer, given, blocks)
          for key, given in vendor_conversations.ALL.items()
        }
      except Exception as error:
        if folder == vendor_templates.FOLDER:
          raise
        print(f'{name}: {type(error).__name__}: {error}')
  vendor_templates.write(content, out)
  print(f'{out}: {len(content)} templates')


if __name__ == '__main__':
  main()
