"""Tiny random checkpoints of every family, and what transformers makes of them.

Run by hand, with transformers 5 and torch:
  python tests/goldens/families/make.py [NAME ...]

A folder has config.json, model.safetensors and expected.npz:
  tokens, lengths   a ragged batch [3, 20] and its rows' lengths; 0 is padding
  logits            [3, 20, V], those of padding 0
  prompts, starts   left-padded prompts [3, 8] and their lengths
  greedy            [3, 12], greedy continuations by `generate`
"""

import pathlib
import platform
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

FOLDER = pathlib.Path(__file__).parent
LENGTHS, STARTS, NEW = (20, 13, 7), (8, 5, 3), 12
# Below this the next token is a matter of rounding.
MARGIN = 0.01
SHARED = dict(
  vocab_size=48,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=128,
  rms_norm_eps=1e-2,  # so large that a wrong one shows
  bos_token_id=2,
  eos_token_id=1,
  pad_token_id=0,
)
PLAIN = dict(rope_type='default', rope_theta=100.0)
GEMMA = dict(
  SHARED,
  num_hidden_layers=4,
  head_dim=8,
  sliding_window=5,
  query_pre_attn_scalar=20,
)
GPT = {
  key: value
  for key, value in SHARED.items()
  if key not in ('num_key_value_heads', 'rms_norm_eps')
}
T = transformers


def gpt2():
  return T.GPT2Config(
    **{k: v for k, v in GPT.items() if not k.startswith('intermediate')},
    n_inner=24,
    layer_norm_epsilon=1e-2,
  )


def phi3(original: int):
  return T.Phi3Config(
    **{**SHARED, 'num_attention_heads': 2, 'num_key_value_heads': 1},
    original_max_position_embeddings=original,
    rope_parameters=dict(
      rope_type='longrope',
      rope_theta=100.0,
      partial_rotary_factor=0.75,
      short_factor=[1.0, 1.25, 1.5],
      long_factor=[1.0, 3.0, 7.0],
    ),
  )


CONFIGS = {
  'llama2': lambda: T.LlamaConfig(
    **SHARED,
    attention_bias=True,
    mlp_bias=True,
    rope_parameters=dict(rope_type='linear', rope_theta=100.0, factor=3.0),
  ),
  'smollm2': lambda: T.LlamaConfig(
    **SHARED, tie_word_embeddings=True, rope_parameters=PLAIN
  ),
  'llama_dynamic': lambda: T.LlamaConfig(
    **SHARED,
    rope_parameters=dict(rope_type='dynamic', rope_theta=100.0, factor=4.0),
  ),
  'qwen2_yarn': lambda: T.Qwen2Config(
    **SHARED,
    rope_parameters=dict(
      rope_type='yarn',
      rope_theta=100.0,
      factor=4.0,
      original_max_position_embeddings=32,
      beta_fast=4.0,
    ),
  ),
  'mistral': lambda: T.MistralConfig(
    **SHARED, head_dim=8, sliding_window=6, rope_parameters=PLAIN
  ),
  'qwen3': lambda: T.Qwen3Config(
    **SHARED,
    head_dim=8,
    attention_bias=True,
    use_sliding_window=True,
    sliding_window=5,
    max_window_layers=1,
    rope_parameters=PLAIN,
  ),
  'qwen3_moe': lambda: T.Qwen3MoeConfig(
    **{**SHARED, 'num_hidden_layers': 4},
    head_dim=8,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=8,
    norm_topk_prob=True,
    mlp_only_layers=[2],
    rope_parameters=PLAIN,
  ),
  'gemma2': lambda: T.Gemma2Config(
    **GEMMA,
    attn_logit_softcapping=3.0,
    final_logit_softcapping=4.0,
    rope_parameters=PLAIN,
  ),
  'gemma3': lambda: T.Gemma3TextConfig(
    **GEMMA,
    sliding_window_pattern=3,
    rope_parameters=dict(
      full_attention=dict(rope_type='linear', rope_theta=100.0, factor=3.0),
      sliding_attention=dict(rope_type='default', rope_theta=20.0),
    ),
  ),
  'olmo2': lambda: T.Olmo2Config(**SHARED, rope_parameters=PLAIN),
  'smollm3': lambda: T.SmolLM3Config(
    **{**SHARED, 'num_hidden_layers': 3},
    no_rope_layer_interval=2,
    rope_parameters=PLAIN,
  ),
  'phi3': lambda: phi3(64),
  'phi3_long': lambda: phi3(2),
  'gpt2': gpt2,
  'pythia': lambda: T.GPTNeoXConfig(
    **GPT,
    layer_norm_eps=1e-2,
    rope_parameters=dict(PLAIN, partial_rotary_factor=0.5),
  ),
  'neox_serial': lambda: T.GPTNeoXConfig(
    **GPT,
    layer_norm_eps=1e-2,
    use_parallel_residual=False,
    attention_bias=False,
    hidden_act='gelu_pytorch_tanh',
    rope_parameters=dict(PLAIN, partial_rotary_factor=1.0),
  ),
}


def randomize(model, generator: torch.Generator) -> None:
  """Weights large enough that every part moves the logits."""
  for name, module in model.named_modules():
    for own, weight in module.named_parameters(recurse=False):
      noise = torch.randn(weight.shape, generator=generator)
      kind = type(module).__name__
      if own == 'bias' or 'Embedding' in kind:
        weight.data = 0.5 * noise
      elif 'Norm' in kind:
        usual = 0.0 if 'Gemma' in kind else 1.0
        weight.data = usual + 0.3 * noise
      else:
        fan_in = weight.shape[0] if kind == 'Conv1D' else weight.shape[-1]
        weight.data = 1.5 * noise / fan_in**0.5
        assert weight.ndim > 1, name


def ragged(lengths, width, generator, left=False):
  """(tokens, mask) [rows, width]."""
  tokens = torch.randint(3, 48, (len(lengths), width), generator=generator)
  columns = torch.arange(width)[None]
  sizes = torch.tensor(lengths)[:, None]
  mask = columns >= width - sizes if left else columns < sizes
  return tokens * mask, mask.long()


def answers(model, generator) -> dict[str, np.ndarray]:
  tokens, mask = ragged(LENGTHS, max(LENGTHS), generator)
  with torch.no_grad():
    logits = model(tokens, attention_mask=mask).logits * mask[..., None]
  prompts, seen = ragged(STARTS, max(STARTS), generator, left=True)
  out = model.generate(
    prompts, attention_mask=seen, do_sample=False, max_new_tokens=NEW,
    eos_token_id=None, pad_token_id=0, output_scores=True,
    return_dict_in_generate=True,
  )  # fmt: skip
  best = torch.stack(out.scores, 1).topk(2, dim=-1).values
  margin = float((best[..., 0] - best[..., 1]).min())
  if margin < MARGIN:
    raise ValueError(f'a greedy token wins by {margin:.4f} only: other seed')
  print(
    f'  logits std {logits[mask == 1].std():.2f}, greedy margin {margin:.3f}'
  )
  return dict(
    tokens=tokens.numpy().astype(np.int32),
    lengths=np.array(LENGTHS, np.int32),
    logits=logits.numpy(),
    prompts=prompts.numpy().astype(np.int32),
    starts=np.array(STARTS, np.int32),
    greedy=out.sequences[:, max(STARTS) :].numpy().astype(np.int32),
  )


def make(name: str) -> None:
  for seed in range(100):
    generator = torch.Generator().manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
      CONFIGS[name](), attn_implementation='eager', dtype=torch.float32
    ).eval()
    randomize(model, generator)
    model.tie_weights()
    try:
      expected = answers(model, generator)
      break
    except ValueError as error:
      print(f'  seed {seed}: {error}')
  if name == 'phi3_long':  # its factors follow the longest row so far
    for key in ('prompts', 'starts', 'greedy'):
      del expected[key]
  folder = FOLDER / name
  model.save_pretrained(folder)
  (folder / 'model.safetensors').chmod(0o644)
  (folder / 'generation_config.json').unlink(missing_ok=True)
  np.savez_compressed(folder / 'expected.npz', **expected)
  stored = load_file(folder / 'model.safetensors')
  print(
    f'{name}: {len(stored)} tensors, {sum(x.numel() for x in stored.values())}'
  )


def main() -> None:
  for name in sys.argv[1:] or CONFIGS:
    make(name)
  (FOLDER / 'README.md').write_text(
    'Tiny random checkpoints of every family and what transformers makes of '
    'them,\nby `python tests/goldens/families/make.py` with Python '
    f'{platform.python_version()}, torch {torch.__version__}, transformers '
    f'{transformers.__version__}.\n'
  )


if __name__ == '__main__':
  main()
