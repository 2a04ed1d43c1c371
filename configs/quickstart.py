r"""What SFT and RL gain on a new task, and what of the old ones they keep.

  make quickstart
  python -m posttrain_jax.quickstart --config configs/quickstart.py \
      --workdir runs/quickstart --config.seed=3

A base model learns several tasks, and a new one a little. From it SFT, SFT on
own right answers and GRPO learn the new task: equal counted FLOPs, the same
learning rates, three seeds each. experiments/quickstart has what this printed.
"""

import ml_collections

from configs import base, rl, sft
from posttrain_jax import tasks

# What the base model knows.
OLD = dict(
  addition=dict(num_digits=2, reverse=True),
  sorting=dict(length=3, max_value=9),
  list_functions=dict(depth=1, length=4),
)
# What it is to learn: two numbers and a target.
NEW = dict(num_numbers=2, max_number=32)
# Shares of the base model's rows: old tasks by how hard they are, the new one
# so that it is right about a third of the time.
WEIGHTS = dict(addition=1.5, sorting=0.4, list_functions=1.0, countdown=0.7)


def new_task() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(tasks.defaults('countdown', **NEW))


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = base.parse_arg(arg, smoke=False)
  c = ml_collections.ConfigDict()
  c.seed = 0  # of the base; the arms have this one and those that follow it
  c.seeds = 3  # of each arm, in one program
  c.rates = (2e-4, 4e-4, 8e-4)  # that every arm tries
  c.eval = ml_collections.ConfigDict()
  # Of problems that are never trained on, for each seed; a hash says which half
  # rates are chosen by, and which half is reported.
  c.eval.new_problems = 512
  c.eval.samples = 4  # a problem of the new task, at temperature 1
  c.eval.old_problems = 256  # of the old tasks together, all reported
  c.eval.batch = 256  # problems at a time
  c.eval.shown = 4  # problems whose answers are shown side by side

  c.base = sft.get_config()
  c.base.task = sft.mixture({**OLD, 'countdown': NEW})
  for name, weight in WEIGHTS.items():
    c.base.task.parts[name].weight = weight
  c.base.num_steps = 1000
  c.base.prompts_per_step = 64
  c.base.optimizer.lr = 3e-3

  # Its number of steps follows from GRPO's compute, as that of `own` does.
  c.sft = sft.get_config()
  c.sft.prompts_per_step = 128

  c.own = sft.get_config('recipe=rejection_sampling')
  c.own.collect.sampler = 'policy'

  c.grpo = rl.get_config('recipe=grpo')
  c.grpo.num_steps = 60
  for name in ('own', 'grpo'):
    c[name].prompts_per_step = 16
    c[name].group_size = 8
  for name in ('sft', 'own', 'grpo'):
    c[name].task = new_task()
    c[name].optimizer.schedule = 'linear'  # to 0
    c[name].optimizer.warmup_updates = 0
    c[name].optimizer.lr = c.rates[0]  # `rates` says which
  for name in ('base', 'sft', 'own', 'grpo'):
    c[name].model.preset = 'pico'
    c[name].heldout_fraction = 0.25
    c[name].steps_per_call = 100
    c[name].eval.num_problems = 0
  if arg.smoke:
    shrink(c)
  return c


def shrink(c: ml_collections.ConfigDict) -> None:
  """A few tiny steps, to see that everything works."""
  c.rates = c.rates[:2]
  c.eval.update(dict(new_problems=16, old_problems=8, batch=8, shown=2))
  for name in ('base', 'sft', 'own', 'grpo'):
    c[name].model.preset = 'depth-1'
    c[name].num_steps = 2
    c[name].steps_per_call = 2
    c[name].prompts_per_step = 8
  for name in ('own', 'grpo'):
    c[name].prompts_per_step = 2
    c[name].group_size = 4
  c.base.optimizer.warmup_updates = 0
