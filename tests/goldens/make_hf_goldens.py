"""Tiny Hugging Face checkpoints and the logits transformers gives for them.

Run by hand, with the `hf` extra installed:
  python tests/goldens/make_hf_goldens.py
"""

import pathlib
import platform

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent
SHARED = dict(
  vocab_size=64,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=2,
  rms_norm_eps=1e-2,  # so large that a wrong one shows
  bos_token_id=2,
  eos_token_id=1,
  pad_token_id=0,
)
# The four pairs of channels of llama3 turn once per 6, 30, 140 and 664
# positions: one is kept (under 32 / 4), one interpolated, two slowed down (over
# 32 / 1).
LLAMA3_ROPE = dict(
  rope_type='llama3',
  rope_theta=500.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=32,
)
CONFIGS = {
  'llama3': transformers.LlamaConfig(
    **SHARED,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rope_parameters=LLAMA3_ROPE,
  ),
  'qwen2': transformers.Qwen2Config(
    **SHARED,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rope_parameters=dict(rope_type='default', rope_theta=1_000_000.0),
    tie_word_embeddings=True,
  ),
  'qwen3': transformers.Qwen3Config(
    **SHARED,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    max_position_embeddings=128,
    rope_parameters=dict(rope_type='default', rope_theta=10_000.0),
  ),
  # Below, windows that are much shorter than the 48 tokens.
  'mistral': transformers.MistralConfig(
    **SHARED,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    max_position_embeddings=128,
    rope_parameters=LLAMA3_ROPE,
    sliding_window=7,
  ),
  'qwen2_window': transformers.Qwen2Config(
    **SHARED,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rope_parameters=dict(rope_type='default', rope_theta=10_000.0),
    use_sliding_window=True,
    sliding_window=5,
    max_window_layers=1,
  ),
}


def _randomize(model, generator: torch.Generator) -> None:
  """Weights large enough that every part moves the logits."""
  for name, weight in model.named_parameters():
    noise = torch.randn(weight.shape, generator=generator)
    if name.endswith('norm.weight'):
      weight.data = 1.0 + 0.3 * noise
    elif name.endswith('bias') or 'embed' in name:
      weight.data = 0.5 * noise
    else:
      weight.data = 1.5 * noise / weight.shape[1] ** 0.5


def main() -> None:
  generator = torch.Generator().manual_seed(0)
  for name, config in CONFIGS.items():
    model = transformers.AutoModelForCausalLM.from_config(
      config, attn_implementation='eager', dtype=torch.float32
    ).eval()
    _randomize(model, generator)
    model.tie_weights()
    tokens = torch.randint(0, 64, (2, 48), generator=generator)
    with torch.no_grad():
      logits = model(tokens).logits
    folder = FOLDER / name
    model.save_pretrained(folder)
    (folder / 'model.safetensors').chmod(0o644)
    (folder / 'generation_config.json').unlink(missing_ok=True)
    np.savez_compressed(
      folder / 'expected.npz',
      tokens=tokens.numpy().astype(np.int32),
      logits=logits.numpy(),
    )
    top = torch.softmax(logits, -1).amax(-1).mean()
    print(f'{name}: mean top probability {top:.2f}, logits {logits.std():.2f}')
  (FOLDER / 'README.md').write_text(
    'Tiny random checkpoints and the logits transformers gives for them, made '
    'by\n`python tests/goldens/make_hf_goldens.py` with Python '
    f'{platform.python_version()}, torch {torch.__version__}, transformers '
    f'{transformers.__version__}.\n'
  )


if __name__ == '__main__':
  main()
