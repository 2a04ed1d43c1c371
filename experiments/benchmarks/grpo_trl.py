r"""A whole GRPO step: steps a second, against TRL's GRPOTrainer.

  python -m experiments.benchmarks.grpo_trl --repetitions 11

a: 16 prompts of 8 tokens x 8 completions, at most 96 new tokens, the stop token
   with chance 1/64 at every step, 1.06M parameters.
b: 64 prompts of 10 tokens x 8 completions of 6 new tokens, 0.44M parameters.

Both sides: fresh prompts 'ddd+ddd=', sampling at temperature 1, reward 1 for a
'3' among the first four tokens, group-normalised advantages, clipped loss, no
KL, one AdamW update over all rows, gradient norm clipped at 1.

TRL runs its own `train()`; between two of its steps its callback gives us our
turn. A TRL step is counted from the end of one to the end of the next, so that
all that it does for a step is in it; logging, saving, tqdm and gradient
checkpointing are off. `--compiled_peer` has its generate compile itself on a
static cache.
"""

import argparse
import gc
import logging
import os
import tempfile
import time

import jax
import numpy as np

from experiments.benchmarks import common, generate_hf, ours, ours_steps
from posttrain_jax.models import transformer
from posttrain_jax.tasks import vocab

WORKS = {
  'a': ours.Work('1m', 16, 8, 8, 96, 1 / 64),
  'b': ours.Work('0.4m', 64, 10, 8, 6, 0.0),
}
TOY = {
  'a': ours.Work('toy', 2, 4, 4, 6, 1 / 4),
  'b': ours.Work('toy', 2, 6, 4, 3, 0.0),
}
# Settings of our side, by work: all rows at a time on padded rectangles, and
# fewer rows at a time on streams of tokens; in micro-batches.
VARIANTS = {
  'a': (
    {},
    {'stages': 3, 'token_buckets': 4},
    {'slots': 64, 'token_buckets': 4},
    {'slots': 32, 'token_buckets': 4},
    {'slots': 32, 'token_buckets': 4, 'micro': 16},
  ),
  'b': ({}, {'micro': 64}),
}


def our_works(key: str, work: ours.Work) -> dict[str, ours.Work]:
  """{name of a side: its work} of work `key`."""
  found = {}
  for variant in VARIANTS[key]:
    if variant.get('slots', 0) < work.prompts * work.group_size:
      shown = ''.join(f' {name}={value}' for name, value in variant.items())
      found['ours' + shown] = work._replace(**variant)
  return found


def _tokenizer():
  """The characters of `tasks.vocab` with their ids."""
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  names = [*vocab.SPECIAL, *vocab.CHARACTERS]
  words = models.WordLevel(
    {name: i for i, name in enumerate(names)}, unk_token=vocab.SPECIAL[3]
  )
  tokenizer = Tokenizer(words)
  tokenizer.pre_tokenizer = pre_tokenizers.Split('', 'isolated')
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token=names[ours.PAD],
    eos_token=names[ours.EOS],
    unk_token=vocab.SPECIAL[3],
    padding_side='left',
  )


def _stopping_model(work: ours.Work):
  """The Qwen2 whose generate stops by the rule of `work`."""
  config = ours.model_config(work.size)
  params = transformer.init(jax.random.key(0), config)
  model = generate_hf.hf_model(config, params)
  processor = generate_hf.stop_processor(work.stop_chance)
  plain = model.generate
  model.generate = lambda *args, **kwargs: plain(
    *args, logits_processor=[processor], **kwargs
  )
  return model


def _reward(completions, completion_ids, **columns) -> list[float]:
  del completions, columns
  return [float(ours.WANTED in ids[: ours.EARLY]) for ids in completion_ids]


def _generation_options(compiled: bool) -> dict:
  if not compiled:
    return {}
  from transformers import CompileConfig

  config = CompileConfig(fullgraph=False, mode='default')
  # By default generate compiles on accelerators only.
  config._compile_all_devices = True
  return {'cache_implementation': 'static', 'compile_config': config}


def trl_trainer(work: ours.Work, steps: int, compiled: bool, folder: str):
  """A GRPOTrainer of `steps` steps."""
  from datasets import Dataset
  from trl import GRPOConfig, GRPOTrainer

  count = work.prompts * (steps + 2)
  many = work._replace(prompts=count)
  prompts = np.asarray(ours.sum_prompts(jax.random.key(2), many))
  dataset = Dataset.from_list([{'prompt': vocab.decode(p)} for p in prompts])
  args = GRPOConfig(
    output_dir=folder,
    per_device_train_batch_size=work.prompts * work.group_size,
    num_generations=work.group_size,
    max_completion_length=work.max_new_tokens,
    generation_kwargs=_generation_options(compiled),
    loss_type='grpo',
    beta=0.0,
    temperature=1.0,
    top_k=0,
    learning_rate=ours.LEARNING_RATE,
    lr_scheduler_type='constant',
    max_grad_norm=1.0,
    max_steps=steps,
    logging_strategy='no',
    save_strategy='no',
    report_to=[],
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
    disable_tqdm=True,
    dataloader_num_workers=0,
  )
  return GRPOTrainer(
    _stopping_model(work),
    reward_funcs=_reward,
    args=args,
    train_dataset=dataset,
    processing_class=_tokenizer(),
  )


def alternate_with_trl(
  sides: dict[str, common.Side], work: ours.Work, flags: argparse.Namespace
) -> common.Turns:
  """As `common.alternate`, with TRL's loop in charge of the turns."""
  from transformers import TrainerCallback

  peer = 'peer compiled' if flags.compiled_peer else 'peer'
  turns: common.Turns = {name: [] for name in (*sides, peer)}

  class Turns(TrainerCallback):
    def __init__(self):
      self.done, self.mark = -flags.warmup, time.perf_counter()

    def _add(self, name: str, sample: common.Sample) -> None:
      if self.done >= 0:
        turns[name].append(sample)
        print(f'  {name:24} {sample.rate:12.2f} /s', flush=True)

    def on_step_end(self, args, state, control, **others):
      self._add(peer, common.Sample(time.perf_counter() - self.mark, 1.0))
      for name, side in sides.items():
        gc.collect()
        time.sleep(common.REST)
        self._add(name, side())
      self.done += 1
      gc.collect()
      time.sleep(common.REST)
      self.mark = time.perf_counter()

  with tempfile.TemporaryDirectory() as folder:
    steps = flags.repetitions + flags.warmup
    trainer = trl_trainer(work, steps, flags.compiled_peer, folder)
    trainer.add_callback(Turns())
    trainer.train()
  return turns


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument('--works', nargs='+', default=['a', 'b'], choices=WORKS)
  parser.add_argument('--compiled_peer', action='store_true')
  flags = parser.parse_args(argv)
  os.environ.setdefault('HF_HUB_OFFLINE', '1')
  logging.getLogger('transformers').setLevel(logging.ERROR)
  name = 'grpo_trl_compiled' if flags.compiled_peer else 'grpo_trl'
  session = common.Session(name, flags)
  absent = common.missing('torch', 'transformers', 'trl', 'datasets')
  if absent:
    session.notes.append(common.note_missing(absent, 'TRL'))
  for key in flags.works:
    work = (TOY if flags.toy else WORKS)[key]
    print(f'{key}: {work}')
    sides = {
      side: common.timed(ours_steps.Runner(ours_steps.grpo(variant)))
      for side, variant in our_works(key, work).items()
    }
    if absent:
      turns = common.alternate(sides, flags.repetitions, flags.warmup)
    else:
      turns = alternate_with_trl(sides, work, flags)
    model = ours.model_config(work.size)
    session.results[key] = {
      'work': work._asdict(),
      'parameters': transformer.param_count(model),
      **common.compare(turns, 'steps'),
    }
  session.write()
  return session


if __name__ == '__main__':
  main()
