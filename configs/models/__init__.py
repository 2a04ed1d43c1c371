"""Published hyperparameters of known models: `configs/PARADIGM.py:model=NAME`.

  configs/sft.py:model=Qwen2.5-0.5B         on messages, or prompt, completion
  configs/preference.py:model=Llama-3.1-8B  DPO on prompt, chosen, rejected
  configs/rl.py:model=gemma-3-1b            GRPO on prompt and answer

`data.path` is the user's own: files in the style of GSM8K, whose 7,473 training
problems the numbers of steps are for. `init_from` is the instruct model of the
hub; a folder of one's own goes in its place. Whoever trains a base model gives
it, and its tokenizer, the same way. A row says what its source says and keeps
this project's defaults for the rest; `tests/test_presets.py` plans every one.
"""

from typing import Any, NamedTuple

import ml_collections

from posttrain_jax.core.resolve import nearest, part
from posttrain_jax.losses import preference, regularizers
from posttrain_jax.params import adapters
from posttrain_jax.rollout import decoders

__all__ = ['MODELS', 'RECIPES', 'apply', 'data_of']


class Model(NamedTuple):
  """A model of the hub, and the family whose rows it is trained by."""

  hub: str
  family: str


MODELS = {
  'SmolLM2-135M': Model('HuggingFaceTB/SmolLM2-135M-Instruct', 'smollm2'),
  **{
    f'Qwen2.5-{size}': Model(f'Qwen/Qwen2.5-{size}-Instruct', 'qwen2.5')
    for size in ('0.5B', '1.5B', '7B')
  },
  **{
    f'Qwen3-{size}': Model(f'Qwen/Qwen3-{size}', 'qwen3')
    for size in ('0.6B', '1.7B', '4B', '8B')
  },
  **{
    f'Llama-3.2-{size}': Model(f'meta-llama/Llama-3.2-{size}-Instruct', 'llama')
    for size in ('1B', '3B')
  },
  'Llama-3.1-8B': Model('meta-llama/Llama-3.1-8B-Instruct', 'tulu'),
  **{
    f'gemma-3-{size}': Model(f'google/gemma-3-{size}-it', 'gemma3')
    for size in ('1b', '4b')
  },
}


def _on_file(
  lr: float, batch: int, epochs: int, length: int, schedule: str, **optimizer
) -> dict[str, Any]:
  """A row of SFT or DPO: epochs of a file. Without a word of a source,
  transformers' own: AdamW of 0.9 and 0.999, linear, no warmup."""
  usual = dict(b1=0.9, b2=0.999, warmup_updates=0)
  return {
    'num_steps': 0,
    'data.num_epochs': epochs,
    'data.max_length': length,
    'prompts_per_step': batch,
    'optimizer': {**usual, 'lr': lr, 'schedule': schedule, **optimizer},
  }


def _dpo(beta: float, *row, loss: str = 'dpo', **optimizer) -> dict[str, Any]:
  return {
    'loss': part(preference, loss, beta=beta),
    **_on_file(*row, **optimizer),
  }


def _grpo(
  lr: float, prompts: int, group: int, new: int, steps: int, kl: float, **rest
) -> dict[str, Any]:
  """A row of GRPO.

  prompts   of a step
  new       tokens of an answer
  kl        coefficient of the k3 penalty in the loss
  rest      keys of the optimizer; or of the config, in `keys`
  """
  keys = rest.pop('keys', {})
  return {
    'num_steps': steps,
    'prompts_per_step': prompts,
    'group_size': group,
    'max_new_tokens': new,
    'kl': dict(part(regularizers, 'kl_k3'), coef=kl, place='loss'),
    'rewards': ({'name': 'math_verify'},),
    'optimizer': {'b1': 0.9, 'b2': 0.999, 'lr': lr, **rest},
    **keys,
  }


# verl, trainer/config/sft_trainer.yaml, with which its examples/sft/gsm8k train
# Qwen2.5 and Gemma 3 (run_gemma3.sh).
_VERL_SFT = _on_file(
  1e-5, 256, 4, 1024, 'cosine', b2=0.95, weight_decay=0.01, warmup_ratio=0.1
)
# TRL, trl/scripts/dpo.py, with DPOConfig's beta and length.
_TRL_DPO = _dpo(0.1, 5e-7, 16, 1, 1024, 'linear')
# verl, examples/grpo_trainer/run_qwen2-7b.sh on GSM8K: 15 epochs of 7 steps,
# four updates each; weight decay is its default.
_VERL_GRPO = _grpo(
  1e-6, 1024, 5, 512, 105, 0.001, weight_decay=0.01,
  keys={'minibatch_rows': 256 * 5, 'data.max_prompt_length': 512},
)  # fmt: skip
# open-instruct, scripts/train/tulu3/dpo_8b.sh: the mean over tokens, beta 5.
_TULU_DPO = _dpo(
  5.0, 5e-7, 128, 1, 2048, 'linear', loss='sigmoid_norm', warmup_ratio=0.1
)

RECIPES: dict[tuple[str, str], dict[str, Any]] = {
  # alignment-handbook, recipes/smollm2/sft/config_smol.yaml and
  # dpo/config_smol.yaml, on eight GPUs.
  ('smollm2', 'sft'): _on_file(1e-3, 128, 2, 8192, 'cosine', warmup_ratio=0.1),
  ('smollm2', 'preference'): _dpo(
    0.5, 1e-6, 128, 2, 1024, 'cosine', warmup_ratio=0.1
  ),
  # TRL 1.16, defaults of GRPOConfig: 8 answers of up to 512 tokens, no KL; one
  # epoch at its batch of a prompt a device, on eight.
  ('smollm2', 'rl'): _grpo(1e-6, 8, 8, 512, 934, 0.0, schedule='linear'),
  ('qwen2.5', 'sft'): _VERL_SFT,
  ('qwen2.5', 'preference'): _TRL_DPO,
  ('qwen2.5', 'rl'): _VERL_GRPO,
  # verl, examples/sft/gsm8k/run_qwen3_8b_megatron.sh.
  ('qwen3', 'sft'): _on_file(
    1e-5, 32, 2, 2048, 'cosine', b2=0.95, weight_decay=0.1, warmup_ratio=0.2,
    final_fraction=0.1,
  ),
  ('qwen3', 'preference'): _TRL_DPO,
  # verl, examples/grpo_trainer/run_qwen3-8b_npu.sh, whose prompts are other
  # ones: 256 a step, four updates, 1,024 tokens; 15 epochs of 29 steps.
  ('qwen3', 'rl'): _grpo(
    1e-6, 256, 5, 1024, 435, 0.001, weight_decay=0.01,
    keys={'minibatch_rows': 64 * 5, 'data.max_prompt_length': 512},
  ),
  # torchtune, recipes/configs/dev/grpo/3B_sft.yaml and 3B_full_rl.yaml (Llama
  # 3.2 3B on GSM8K), on four GPUs; PyTorch's weight decay.
  ('llama', 'sft'): _on_file(1e-5, 8, 1, 1024, 'constant', weight_decay=0.01),
  ('llama', 'preference'): _TULU_DPO,
  ('llama', 'rl'): _grpo(
    1e-5, 4, 16, 512, 10_000, 0.04, schedule='cosine', warmup_updates=50,
    weight_decay=0.01,
  ),
  # open-instruct, scripts/train/tulu3/finetune_8b.sh (on 64 GPUs) and
  # grpo_fast_8b.sh (two million answers, two updates a step).
  ('tulu', 'sft'): _on_file(
    5e-6, 128, 2, 4096, 'linear', warmup_ratio=0.03
  ),
  ('tulu', 'preference'): _TULU_DPO,
  ('tulu', 'rl'): _grpo(
    5e-7, 48, 16, 2048, 2604, 0.01,
    keys={'minibatch_rows': 24 * 16, 'data.max_prompt_length': 2048},
  ),
  ('gemma3', 'sft'): _VERL_SFT,
  # alignment-handbook, recipes/zephyr-7b-gemma/dpo/config_full.yaml, on eight
  # GPUs.
  ('gemma3', 'preference'): _dpo(
    0.05, 5e-7, 128, 2, 1024, 'cosine', warmup_ratio=0.1
  ),
  # tunix, examples/rl/grpo/gsm8k/configs/gemma2_2b.yaml: adapters of rank 64.
  ('gemma3', 'rl'): _grpo(
    3e-6, 1, 2, 768, 3738, 0.08, schedule='cosine', warmup_ratio=0.1, b2=0.99,
    weight_decay=0.1, max_grad_norm=0.1,
    keys={
      'adapter': part(adapters, 'lora', rank=64, alpha=64.0),
      'decoder': part(decoders, 'top_k', k=50, temperature=0.9),
      'data.max_prompt_length': 256,
    },
  ),
}  # fmt: skip


# What a row says of its own method, and of no other recipe.
METHODS = {'sft': 'sft', 'preference': 'dpo', 'rl': 'grpo'}
OF_METHOD = ('loss', 'kl')


def data_of(name: str, data: str) -> str:
  """The argument `data` of a config: models of the table train on files."""
  return 'jsonl' if name and data == 'task' else data


def apply(config: ml_collections.ConfigDict, name: str, recipe: str) -> None:
  """Writes the row of a model and of the config's paradigm into the config.

  recipe  of the config; of another one than the row's, the objective stays

  Raises:
    ValueError: no such model, with the nearest one; or none for the paradigm.
  """
  if name not in MODELS:
    raise ValueError(f'unknown model "{name}".{nearest(name, MODELS)}')
  model = MODELS[name]
  row = RECIPES[model.family, config.paradigm]
  config.init_from = model.hub
  for key, value in row.items():
    if key in OF_METHOD and recipe != METHODS[config.paradigm]:
      continue
    *path, leaf = key.split('.')
    node = config
    for step in path:
      node = node[step]
    with node.ignore_type():
      if leaf == 'optimizer':
        node[leaf].update(value)
      elif isinstance(value, dict):
        node[leaf] = ml_collections.ConfigDict(value)
      else:
        node[leaf] = value
