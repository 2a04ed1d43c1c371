"""The cells of the table: methods x models x slices, and their settings.

Every setting is an override of a config that anyone can give. Rows are one a
chip at least. What a layer keeps and how many answers are decoded at a time is
chosen by `choose`; where nothing that it knows fits, the planner says what
does.
"""

import dataclasses
from typing import Any

__all__ = ['CELLS', 'Cell', 'TWICE']

# Of an update's FLOPs, what may be computed twice where what keeps more fits.
TWICE = 0.15

SLICES = {'v5e:2x4': 8, 'v5e:16x16': 256, 'v5p:4x4x4': 64, 'v6e:16x16': 256}
MODELS = ('Qwen3-0.6B', 'Qwen2.5-7B', 'Llama-3.1-8B')
LARGE = 'Llama-3.1-70B'
GROUP = 16  # answers to each prompt of GRPO
PROMPT = 1024  # tokens of a prompt


@dataclasses.dataclass(frozen=True)
class Cell:
  """One row of the table.

  name      its file's
  method    'SFT 8k', ...
  config    of --config; values, of --config.KEY
  """

  name: str
  method: str
  model: str
  topology: str
  config: str
  values: dict[str, Any]


# Weights in bfloat16 where steps are large enough for it to move; RL's, and
# DPO's at 1e-6, are too small: their weights stay float32.
_COMMON = {
  'tokenizer': 'byte',
  'model.dtype': 'bfloat16',
  'model.logit_chunk': 512,
  'eval.num_problems': 0,
}

# Chips that share the weights of a model; further ones have copies. Parts of
# few of the model's columns are thinner than a tile: XLA then sends the whole,
# as a sum over all chips.
SHARDS = {'Qwen3-0.6B': 16, 'Qwen2.5-7B': 32, 'Llama-3.1-8B': 32}


def _mesh(model: str, chips: int) -> dict[str, int]:
  if model == LARGE:
    return {'mesh.fsdp': chips // 4, 'mesh.tensor': 4}
  shards = min(chips, SHARDS[model])
  return {'mesh.data': chips // shards, 'mesh.fsdp': shards}


def _sft(chips: int) -> tuple[str, dict[str, Any]]:
  return 'configs/sft.py:data=jsonl', {
    'data.path': 'rows.jsonl',
    'data.max_length': 8192,
    'prompts_per_step': chips,
    'model.param_dtype': 'bfloat16',
  }


def _dpo(chips: int) -> tuple[str, dict[str, Any]]:
  return 'configs/preference.py:recipe=dpo,data=jsonl', {
    'data.path': 'pairs.jsonl',
    'data.max_length': 4096,
    'prompts_per_step': chips,
    'microbatch_rows': chips,
    'model.param_dtype': 'float32',
  }


def _grpo(chips: int, new: int) -> tuple[str, dict[str, Any]]:
  prompts = max(chips, 64) // 4
  return 'configs/rl.py:recipe=grpo,data=jsonl', {
    'data.path': 'prompts.jsonl',
    'data.max_prompt_length': PROMPT,
    'rewards': '[{"name": "exact_match"}]',
    'max_new_tokens': new,
    'group_size': GROUP,
    'prompts_per_step': prompts,
    'microbatch_rows': max(chips, GROUP),
    # A micro-batch has fewer prompts than there are chips: read once for its
    # group, a prompt would lie on all of them.
    'share_prompts': False,
    'model.param_dtype': 'float32',
  }


_METHODS = {
  'SFT 8k': ('sft_8k', _sft),
  'DPO 4k': ('dpo_4k', _dpo),
  'GRPO 4k': ('grpo_4k', lambda chips: _grpo(chips, 4096)),
  'GRPO 16k': ('grpo_16k', lambda chips: _grpo(chips, 16384)),
}


def _cells() -> list[Cell]:
  made = []
  for model in (*MODELS, LARGE):
    for method, (word, settings) in _METHODS.items():
      for topology, chips in SLICES.items():
        if model == LARGE and (method != 'SFT 8k' or chips < 64):
          continue
        config, values = settings(chips)
        slug = topology.replace(':', '-')
        folder = {'init_from': f'configs/models/shapes/{model}'}
        made.append(
          Cell(
            f'{word}_{model}_{slug}',
            method,
            model,
            topology,
            config,
            {**_COMMON, **folder, **_mesh(model, chips), **values},
          )
        )
  return made


CELLS = _cells()
