"""Small model folders with chat templates, and conversations for them.

The templates are our own, in the styles of families of models, and so are the
tokenizers: 'bytes' splits text as GPT-2's does, 'spaces' writes a space before
the first word and joins what stands together, as SentencePiece does.
`goldens/make_chat_goldens.py` writes down what transformers makes of them.
"""

import datetime
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers as hf_tokenizers
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent / 'goldens' / 'chat'
EXPECTED = FOLDER / 'expected.json'
LOSSES = FOLDER / 'losses.json'


class Day(datetime.datetime):
  """The `datetime` of that day, for the module of transformers that asks."""

  @classmethod
  def now(cls, tz=None):
    return cls(*DAY)


class Style(NamedTuple):
  """A folder's tokenizer, besides its template.

  base      'bytes' or 'spaces'
  special   added tokens that are special; the first is the EOS, the last the
            BOS where there is one
  bos       whether there is
  plain     added tokens that may stand in a text
  stops     what generation_config.json names
  strips    whether special tokens swallow the spaces after them
  """

  base: str
  special: tuple[str, ...]
  bos: bool = False
  plain: tuple[str, ...] = ()
  stops: tuple[str, ...] = ()
  strips: bool = False


CHATML = ('<|im_end|>', '<|im_start|>', '<|endoftext|>')
TAGS = ('<tool_call>', '</tool_call>', '<think>', '</think>')
HEADERS = ('<|eot_id|>', '<|start_header_id|>', '<|end_header_id|>')
CHANNELS = ('<|return|>', '<|start|>', '<|message|>', '<|channel|>', '<|end|>')
STYLES = {
  'qwen2_5': Style('bytes', CHATML, plain=TAGS[:2], stops=CHATML[::2]),
  'qwen3': Style('bytes', CHATML, plain=TAGS, stops=CHATML[::2]),
  'llama3': Style('bytes', (*HEADERS, '<|begin_of_text|>'), bos=True),
  'gemma2': Style(
    'spaces', ('<eos>', '<start_of_turn>', '<end_of_turn>', '<bos>'), bos=True
  ),
  'gemma3': Style(
    'spaces',
    ('<eos>', '<start_of_turn>', '<end_of_turn>', '<bos>'),
    bos=True,
    stops=('<eos>', '<end_of_turn>'),
  ),
  'mistral': Style(
    'spaces',
    ('</s>', '[INST]', '[/INST]', '[TOOL_CALLS]', '[AVAILABLE_TOOLS]',
     '[/AVAILABLE_TOOLS]', '[TOOL_RESULTS]', '[/TOOL_RESULTS]', '<s>'),
    bos=True,
  ),
  'smollm3': Style('bytes', CHATML, plain=TAGS[2:]),
  'phi3': Style(
    'spaces',
    ('<|endoftext|>', '<|system|>', '<|user|>', '<|assistant|>', '<|end|>',
     '<s>'),
    bos=True,
    strips=True,
  ),
  'gptoss': Style('bytes', (*CHANNELS, '<|call|>'), stops=('<|return|>',)),
}  # fmt: skip
# The day on which all texts were written.
DAY = (2026, 3, 7)
CORPUS = [
  'the user asks and the assistant says what is known of the weather',
  'Sum: 2 + 2 = 4, and 12 times 3 is 36. The answer is right.',
  'You are a helpful assistant. Today is a good day, is it not?',
  '{"name": "weather", "arguments": {"city": "Paris", "days": 2}}',
] * 12


def say(role: str, content, **more) -> dict:
  return {'role': role, 'content': content, **more}


CALL = {
  'id': 'call00001',
  'type': 'function',
  'function': {
    'name': 'weather',
    'arguments': {'city': 'Paris <é>', 'days': 2},
  },
}
TOOLS = [
  {
    'type': 'function',
    'function': {
      'name': 'weather',
      'description': 'The weather of a city & its "wind"',
      'parameters': {
        'type': 'object',
        'properties': {
          'city': {'type': 'string', 'enum': ['Paris <é>', 'Rome']},
          'days': {'type': 'integer'},
        },
        'required': ['city'],
      },
    },
  }
]
ASK, TELL = say('user', 'What is 2+2?'), say('assistant', 'It is 4.')
AGAIN, MORE = say('user', ' And 3+3 ? '), say('assistant', 'That is 6,\nso 6.')
SYSTEM = say('system', 'Be brief.')
CALLED = [
  say('user', 'How is Paris?'),
  say('assistant', '', tool_calls=[CALL]),
  say('tool', '{"wind": "5 m/s"}', name='weather', tool_call_id='call00001'),
  say('assistant', 'Windy.'),
]
THOUGHT = say('assistant', 'It is 4.', reasoning_content='2 and 2.\nSo 4.')
# {name: {messages, tools, variables}}
CONVERSATIONS = {
  'single': {'messages': [ASK, TELL]},
  'multi': {'messages': [ASK, TELL, AGAIN, MORE]},
  'system': {'messages': [SYSTEM, ASK, TELL]},
  'system multi': {'messages': [SYSTEM, ASK, TELL, AGAIN, MORE]},
  'prompt': {'messages': [ASK]},
  'prompt later': {'messages': [SYSTEM, ASK, TELL, AGAIN]},
  'tools': {'messages': CALLED, 'tools': TOOLS},
  'tools asked': {'messages': CALLED[:1], 'tools': TOOLS},
  'tools called': {'messages': CALLED[:2], 'tools': TOOLS},
  'tools answered': {'messages': [SYSTEM, *CALLED[:3]], 'tools': TOOLS},
  'tools, then more': {'messages': [*CALLED, ASK, TELL], 'tools': TOOLS},
  'thinking': {'messages': [ASK, THOUGHT]},
  'thinking early': {'messages': [ASK, THOUGHT, AGAIN, MORE]},
  'thinking in text': {'messages': [
    ASK, say('assistant', '<think>\nHm.\n</think>\n\nIt is 4.'), AGAIN, MORE,
  ]},
  'not thinking': {
    'messages': [ASK, TELL], 'variables': {'enable_thinking': False},
  },
  'effort': {
    'messages': [ASK, TELL], 'variables': {'reasoning_effort': 'high'},
  },
  'dated': {
    'messages': [ASK, TELL], 'variables': {'date_string': '1 May 2020'},
  },
  'developer': {'messages': [say('developer', 'Be brief.'), ASK, TELL]},
  'parts': {'messages': [
    say('user', [{'type': 'text', 'text': 'What is '},
                 {'type': 'text', 'text': '2+2?'}]),
    TELL,
  ]},
  'odd text': {'messages': [
    say('user', '  é \n\n日本\t🙂  '), say('assistant', '\n\n  two  spaces \n'),
  ]},
  'assistant first': {'messages': [say('assistant', 'Hello!'), ASK, TELL]},
  'users twice': {'messages': [ASK, AGAIN, TELL]},
}  # fmt: skip


def train(base: str) -> hf_tokenizers.Tokenizer:
  """A tokenizer of 400 tokens at most; `goldens/chat` keeps it."""
  made = hf_tokenizers.Tokenizer(
    hf_tokenizers.models.BPE(
      unk_token=None if base == 'bytes' else '<unk>',
      byte_fallback=base == 'spaces',
    )
  )
  special, alphabet = [], []
  if base == 'bytes':
    made.pre_tokenizer = hf_tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False
    )
    made.decoder = hf_tokenizers.decoders.ByteLevel()
    made.post_processor = hf_tokenizers.processors.ByteLevel(trim_offsets=True)
    alphabet = hf_tokenizers.pre_tokenizers.ByteLevel.alphabet()
  else:
    made.pre_tokenizer = hf_tokenizers.pre_tokenizers.Metaspace(
      prepend_scheme='first', split=False
    )
    made.decoder = hf_tokenizers.decoders.Sequence(
      [
        hf_tokenizers.decoders.ByteFallback(),
        hf_tokenizers.decoders.Metaspace(prepend_scheme='first', split=False),
      ]
    )
    special = ['<unk>', *(f'<0x{byte:02X}>' for byte in range(256))]
  trainer = hf_tokenizers.trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=special,
    initial_alphabet=alphabet,
    show_progress=False,
    max_token_length=8,
  )
  made.train_from_iterator(CORPUS, trainer)
  content = json.loads(made.to_str())
  # Bytes are tokens as others are: the trainer knows no third kind.
  content['added_tokens'] = content['added_tokens'][:1] if special else []
  return hf_tokenizers.Tokenizer.from_str(json.dumps(content))


def make(name: str, out: Path) -> Path:
  """Writes the folder of a style, without weights."""
  template = (FOLDER / f'{name}.jinja').read_text(encoding='utf-8')
  return write(STYLES[name], template, out)


def write(style: Style, template: str, out: Path) -> Path:
  """Writes a folder with this tokenizer and this template."""
  tokenizer = hf_tokenizers.Tokenizer.from_file(
    str(FOLDER / f'{style.base}.json')
  )
  tokenizer.add_special_tokens(
    [
      hf_tokenizers.AddedToken(
        token, special=True, normalized=False, rstrip=style.strips
      )
      for token in style.special
    ]
  )
  tokenizer.add_tokens(
    [
      hf_tokenizers.AddedToken(token, special=False, normalized=False)
      for token in style.plain
    ]
  )
  eos, bos = style.special[0], style.special[-1]
  if style.bos:
    tokenizer.post_processor = hf_tokenizers.processors.TemplateProcessing(
      single=f'{bos} $A',
      pair=f'{bos} $A {bos}:1 $B:1',
      special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
  out.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(out / 'tokenizer.json'))
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': eos,
    'pad_token': eos,
    **({'bos_token': bos} if style.bos else {}),
  }
  (out / 'tokenizer_config.json').write_text(json.dumps(config))
  (out / 'chat_template.jinja').write_text(template, encoding='utf-8')
  if style.stops:
    ids = [tokenizer.token_to_id(token) for token in style.stops]
    (out / 'generation_config.json').write_text(
      json.dumps({'eos_token_id': ids, 'top_k': 5})
    )
  return out


def add_weights(folder: Path, width: int = 32, vocab_size: int = 0) -> Path:
  """A Qwen2 of two layers with random weights, beside the tokenizer.

  vocab_size  rows of its matrices; 0: those of the tokenizer
  """
  tokenizer = hf_tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  size, inner = vocab_size or tokenizer.get_vocab_size(), 2 * width
  shapes = {
    'model.embed_tokens.weight': (size, width),
    'model.norm.weight': (width,),
    'lm_head.weight': (size, width),
  }
  for layer in range(2):
    at = f'model.layers.{layer}'
    for name, rows in (('q', width), ('k', width // 2), ('v', width // 2)):
      shapes[f'{at}.self_attn.{name}_proj.weight'] = (rows, width)
      shapes[f'{at}.self_attn.{name}_proj.bias'] = (rows,)
    shapes[f'{at}.self_attn.o_proj.weight'] = (width, width)
    shapes[f'{at}.mlp.gate_proj.weight'] = (inner, width)
    shapes[f'{at}.mlp.up_proj.weight'] = (inner, width)
    shapes[f'{at}.mlp.down_proj.weight'] = (width, inner)
    for name in ('input', 'post_attention'):
      shapes[f'{at}.{name}_layernorm.weight'] = (width,)
  rng = np.random.default_rng(0)
  tensors = {
    name: (0.1 * rng.normal(size=shape) + (len(shape) == 1)).astype(np.float32)
    for name, shape in shapes.items()
  }
  save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
  config = {
    'architectures': ['Qwen2ForCausalLM'],
    'model_type': 'qwen2',
    'vocab_size': size,
    'hidden_size': width,
    'intermediate_size': inner,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'num_key_value_heads': 1,
    'max_position_embeddings': 512,
    'rope_theta': 10000.0,
    'rms_norm_eps': 1e-6,
    'tie_word_embeddings': False,
    'torch_dtype': 'float32',
  }
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


# One batch of chat rows for each method; every step takes it whole.
ROWS = {
  'sft': [
    {
      'prompt': [say('user', f'How much is {i} and {3 * i}?')],
      'completion': [say('assistant', f'It is {4 * i}, as you see.')],
    }
    for i in range(8)
  ],
  'dpo': [
    {
      'prompt': [SYSTEM, say('user', f'How much is {i} and {3 * i}?')],
      'chosen': [say('assistant', f'It is {4 * i}.')],
      'rejected': [say('assistant', f'No idea, {i} perhaps?')],
    }
    for i in range(8)
  ],
  'grpo': [
    {
      'prompt': [SYSTEM, say('user', f'How much is {i} and {3 * i}?')],
      'right': 4 * i,
    }
    for i in range(4)
  ],
}
STEPS, RATE = 20, 1e-3
# Answers to each prompt of 'grpo', the same at every step; the last one is cut.
ANSWERS = [
  [f'It is {4 * i}.', f'{4 * i}', f'No, {i}?', f'It is {3 * i}, {i} or not']
  for i in range(4)
]
GRPO_STEPS, LONGEST = 3, 12  # of tokens, the stop token included


def worth(prompts, completions, right, **columns) -> list[float]:
  """A reward with TRL's signature: what is right, less what is long."""
  del prompts, columns
  said = [completion[0]['content'] for completion in completions]
  return [
    float(str(answer) in text) - 0.02 * len(text)
    for text, answer in zip(said, right, strict=True)
  ]


def answer_ids(encode, stop: int) -> list[list[list[int]]]:
  """Token ids of ANSWERS, at most LONGEST; `stop` ends those that fit."""
  return [
    [[*encode(text), stop][:LONGEST] for text in group] for group in ANSWERS
  ]


# Prompts and answers in plain text, some with tokens over the border.
TEXTS = [
  ('What is 2+2?', ' It is 4.'),
  ('Sum: 2 + 2 =', ' 4'),
  ('the wea', 'ther is good'),
  ('lines\n', '\n\nmore'),
  ('spaces  ', '  more'),
  (' Sum: ', '4'),
]
