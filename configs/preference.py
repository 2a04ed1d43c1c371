r"""Preference optimisation and reward models.

  python -m posttrain_jax.train --config configs/preference.py:recipe=dpo \
      --config.init_from=runs/sft --workdir runs/dpo
  python -m posttrain_jax.train --config configs/preference.py:smoke \
      --workdir runs/s
  python -m posttrain_jax.train \
      --config configs/preference.py:data=jsonl,recipe=simpo \
      --config.data.path=pairs.jsonl --workdir runs/p

Arguments: recipe (a row of recipes.PREFERENCE), task (an in-graph task), data
('task', 'jsonl' or 'tfds'), model (a name of configs.models), smoke. Files hold
TRL's columns: prompt, chosen, rejected; for the unpaired losses prompt,
completion, label.

From a task, pairs are made of the model's own answers as `config.collect` says,
and a pair counts only where the verifier tells its two sides apart: start from
a model that is sometimes right.
"""

import ml_collections

from configs import base, models, recipes, sft
from posttrain_jax import collect
from posttrain_jax.core.resolve import part
from posttrain_jax.trainers import preference


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = base.parse_arg(
    arg, recipe='dpo', task='addition', data='task', model='', smoke=False
  )
  arg.data = models.data_of(arg.model, arg.data)
  c = base.get_config()
  c.paradigm = 'preference'
  c.task = sft.task_entry(arg.task)
  sft.add_rows(c, arg.data)
  if arg.data == 'task':
    source = part(collect, 'best_vs_worst', sampler='ref')
    c.collect = ml_collections.ConfigDict(source)
  c.nll_coef = 0.0  # of cross-entropy on the chosen side
  c.others = ml_collections.ConfigDict()  # frozen models: {role: folder}
  # Reward models of `others` whose mean score says how sure a pair is; (): the
  # scores that the verifier gave its two sides.
  c.strength = ()
  c.flip_fraction = 0.0  # of a step's pairs, the least sure, are turned round
  c.meta = ml_collections.ConfigDict()
  # The gradient of a reward model is taken this far up the difference of the
  # scores of some answers to a problem; 0 = where the model is.
  c.meta.rate = 0.0
  c.meta.answers = 4
  c.meta.sampler = 'ref'  # who gives them: 'ref' (the start), or of `others`

  c.num_steps = 200
  c.prompts_per_step = 64
  c.group_size = 8  # answers of a problem that a pair is chosen from
  collected = c.collect.copy_and_resolve_references()
  recipes.apply(c, arg.recipe)
  if arg.data != 'task':
    c.collect = collected
  if preference.kind_of(c.loss.name) == 'reward':
    c.eval.num_problems = 0  # it scores answers and writes none
  if arg.model:
    models.apply(c, arg.model, arg.recipe)
  if arg.smoke:
    sft.shrink(c)
  return c
