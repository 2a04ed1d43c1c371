r"""Distillation from a teacher that shares the student's vocabulary.

  python -m posttrain_jax.train --config configs/distill.py:recipe=gkd \
      --config.others.teacher=runs/teacher --config.init_from=runs/sft \
      --workdir runs/gkd
  python -m posttrain_jax.train --config configs/sft.py:smoke --workdir runs/s
  python -m posttrain_jax.train --config configs/distill.py:smoke \
      --config.others.teacher=runs/s --workdir runs/d

Arguments: recipe (a row of recipes.DISTILL), task (an in-graph task, or
'text:NAME'), data ('task', 'jsonl' or 'tfds'), smoke. `others.teacher` has to
be given: a run's folder or a Hugging Face folder.
"""

import ml_collections

from configs import base, recipes, sft


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = base.parse_arg(
    arg, recipe='gkd', task='addition', data='task', smoke=False
  )
  c = base.get_config()
  c.paradigm = 'distill'
  c.task = sft.task_entry(arg.task)
  sft.add_rows(c, arg.data)
  c.others = ml_collections.ConfigDict()
  c.others.teacher = ''  # a run's folder or a Hugging Face folder

  c.num_steps = 200
  c.prompts_per_step = 64
  given = c.collect.copy_and_resolve_references()
  recipes.apply(c, arg.recipe)
  if arg.data != 'task':
    c.collect = given
  if arg.smoke:
    sft.shrink(c)
  return c
