r"""TRL's part of `gpu`, in an interpreter that has torch and TRL.

  python -m experiments.benchmarks.gpu_trl grpo_trl SIZES_AS_JSON

A random model of the shape in bfloat16, GRPOTrainer with transformers' own
generation (SDPA attention, its growing cache), no KL, AdamW of torch (fused);
logging, saving and gradient checkpointing are off. Answers are as long as ours:
the token that ends one is forbidden. A step is counted from the end of one to
the end of the next.
"""

import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES = Path(__file__).resolve().parents[2] / 'configs' / 'models' / 'shapes'
WARMUP, TURNS = 1, 6


def _model(sizes: dict[str, Any]):
  """A fresh model, and a tokenizer of whole words with its ids."""
  import tokenizers
  import torch
  import transformers

  if sizes['shape'] == 'toy':
    config = transformers.Qwen3Config(
      vocab_size=512, hidden_size=64, intermediate_size=128,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      head_dim=16,
    )  # fmt: skip
  else:
    config = transformers.AutoConfig.from_pretrained(SHAPES / sizes['shape'])
  config.eos_token_id, config.pad_token_id, config.bos_token_id = 1, 0, None
  model = transformers.AutoModelForCausalLM.from_config(
    config, dtype=torch.bfloat16
  )
  names = ['<pad>', '<eos>', '<unk>', *'0123456789+=']
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({x: i for i, x in enumerate(names)}, '<unk>')
  )
  words.pre_tokenizer = tokenizers.pre_tokenizers.Split('', 'isolated')
  return model, transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token='<pad>', eos_token='<eos>',
    unk_token='<unk>', padding_side='left',
  )  # fmt: skip


def _reward(completion_ids, **columns) -> list[float]:
  del columns
  return [float(ids[0] % 2) for ids in completion_ids]


def main() -> None:
  import datasets
  import torch
  import transformers
  import trl

  sizes = json.loads(sys.argv[2])
  answers = sizes['prompts'] * sizes['group']
  model, tokenizer = _model(sizes)
  times = [time.perf_counter()]

  def found() -> dict[str, Any]:
    seconds = [b - a for a, b in zip(times, times[1:])][WARMUP:]
    each = statistics.median(seconds)
    names = ('torch', 'transformers', 'trl', 'accelerate')
    cuda = torch.cuda.is_available()
    return {
      'seconds': seconds,
      'steps_per_second': 1 / each,
      'tokens_per_second': answers * sizes['new'] / each,
      'sizes': sizes,
      'device_kind': torch.cuda.get_device_name() if cuda else 'cpu',
      'versions': {name: importlib.metadata.version(name) for name in names},
    }

  class Clock(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **given):
      if torch.cuda.is_available():
        torch.cuda.synchronize()
      times.append(time.perf_counter())
      if len(times) > WARMUP + 1:
        print(json.dumps(found()), flush=True)

  rows = [{'prompt': f'{n % 1000:03}+{n // 1000:03}='} for n in range(4096)]
  with tempfile.TemporaryDirectory() as folder:
    args = trl.GRPOConfig(
      output_dir=folder,
      per_device_train_batch_size=sizes['micro'],
      gradient_accumulation_steps=answers // sizes['micro'],
      num_generations=sizes['group'],
      max_completion_length=sizes['new'],
      generation_kwargs={'min_new_tokens': sizes['new']},
      loss_type='grpo',
      beta=0.0,
      temperature=1.0,
      top_k=0,
      learning_rate=1e-6,
      lr_scheduler_type='constant',
      max_steps=WARMUP + TURNS,
      logging_strategy='no',
      save_strategy='no',
      report_to=[],
      bf16=torch.cuda.is_available(),
      use_cpu=not torch.cuda.is_available(),
      gradient_checkpointing=False,
      disable_tqdm=True,
    )
    trl.GRPOTrainer(
      model,
      reward_funcs=_reward,
      args=args,
      train_dataset=datasets.Dataset.from_list(rows),
      processing_class=tokenizer,
      callbacks=[Clock()],
    ).train()
  print(json.dumps(found()), flush=True)


if __name__ == '__main__':
  main()
