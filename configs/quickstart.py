r"""From nothing to SFT against RL, on a laptop.

  make quickstart
  python -m posttrain_jax.quickstart --config configs/quickstart.py \
      --workdir runs/quickstart --config.seed=1

A base model is trained on a mixture of small tasks; it sees a few
demonstrations of Countdown (SFT); from that checkpoint GRPO and more SFT are
run at equal compute. README.md has what this printed, with three seeds.
"""

import ml_collections

from configs import base, rl, sft
from posttrain_jax import tasks

# Numbers and a target; the solution is written with its steps.
COUNTDOWN = dict(
  num_numbers=3,
  max_number=9,
  operators='+-*',
  chain_of_thought=True,
  sorted_prompt=True,
)
BASE_TASKS = dict(
  addition=dict(num_digits=2, reverse=True),
  modular=dict(modulus=10),
  sorting=dict(length=3, max_value=9),
  list_functions=dict(depth=1, length=4),
  countdown=dict(num_numbers=2, max_number=9),
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = base.parse_arg(arg, smoke=False)
  c = ml_collections.ConfigDict()
  c.seed = 0  # of every arm
  c.eval = ml_collections.ConfigDict()
  c.eval.num_problems = 512  # held-out Countdown problems
  c.eval.samples = 8  # a problem, for pass@8
  c.eval.retention_problems = 1024  # held-out ones of the base mixture
  c.eval.batch = 256  # problems at a time

  c.base = sft.get_config()
  c.base.task = sft.mixture(BASE_TASKS)
  c.base.num_steps = 300
  c.base.prompts_per_step = 96

  countdown = ml_collections.ConfigDict(
    tasks.defaults('countdown', **COUNTDOWN)
  )
  c.sft_start = sft.get_config()
  c.sft_start.task = countdown.copy_and_resolve_references()
  c.sft_start.num_steps = 300
  c.sft_start.prompts_per_step = 128

  c.grpo = rl.get_config('recipe=grpo')
  c.grpo.task = countdown.copy_and_resolve_references()
  c.grpo.num_steps = 80
  c.grpo.prompts_per_step = 64
  c.grpo.group_size = 8
  c.grpo.minibatch_rows = 256  # two updates a rollout
  c.grpo.optimizer.lr = 2e-4
  c.grpo.optimizer.schedule = 'cosine'
  c.grpo.optimizer.b2 = 0.99  # rare rewards: a longer memory

  # Its number of steps follows from GRPO's compute.
  c.more_sft = sft.get_config()
  c.more_sft.task = countdown.copy_and_resolve_references()
  c.more_sft.prompts_per_step = 128
  c.more_sft.optimizer.lr = 5e-4

  for name in ('base', 'sft_start', 'grpo', 'more_sft'):
    c[name].model.preset = 'nano'
    c[name].steps_per_call = 10
    c[name].checkpoint.every = 0
    c[name].eval.update(dict(every=40, num_problems=256, samples=0, batch=256))
  # It is judged on its tasks at the end, as the others are.
  c.base.eval.update(dict(every=0, num_problems=0))
  if arg.smoke:
    c.eval.update(
      dict(num_problems=16, samples=8, retention_problems=8, batch=8)
    )
    for name in ('base', 'sft_start', 'grpo', 'more_sft'):
      c[name].model.preset = 'depth-1'
      c[name].num_steps = 2
      c[name].steps_per_call = 2
      c[name].prompts_per_step = 4
      c[name].minibatch_rows = 0
      c[name].optimizer.warmup_updates = 0
      c[name].eval.update(dict(every=2, batch=8))
      c[name].eval.num_problems = min(c[name].eval.num_problems, 8)
  return c
